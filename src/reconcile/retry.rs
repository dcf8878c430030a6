//! Pure: when an object whose reconcile failed is looked at again.

use std::time::Duration;

/// client-go's default: 5 ms, doubling.
pub const FIRST_DELAY: Duration = Duration::from_millis(5);
/// client-go's default: 1000 s.
pub const LONGEST_DELAY: Duration = Duration::from_secs(1000);
/// A panic will most likely repeat: begin where a person can read the message.
pub const FIRST_QUARANTINE: Duration = Duration::from_secs(60);

/// The delay after so many failures in a row (the first is 1).
pub fn after_failures(failures: u32) -> Duration {
    doubled(FIRST_DELAY, failures)
}

/// The delay after so many panics in a row (the first is 1).
pub fn after_panics(panics: u32) -> Duration {
    doubled(FIRST_QUARANTINE, panics)
}

fn doubled(first: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    first.checked_mul(factor).unwrap_or(LONGEST_DELAY).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_5_ms_to_1000_s() {
        let first: Vec<u128> = (1..=4).map(|n| after_failures(n).as_millis()).collect();
        assert_eq!(first, [5, 10, 20, 40]);
        assert_eq!(after_failures(18), Duration::from_millis(655_360));
        for failures in [19, 31, 32, 33, u32::MAX] {
            assert_eq!(after_failures(failures), LONGEST_DELAY);
        }
        assert_eq!(after_panics(1), Duration::from_secs(60));
        assert_eq!(after_panics(9), LONGEST_DELAY);
    }
}
