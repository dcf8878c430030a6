//! Pure: when long work says how far it is. Short work says nothing; long work says so soon, and
//! then every few seconds, so that a log stays readable and a person is never left to guess.

use std::time::Duration;

/// Work below this is not worth a line.
const FIRST: Duration = Duration::from_secs(2);
/// Between two lines.
const EVERY: Duration = Duration::from_secs(5);

/// The lines of one piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    next: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pace {
    /// Whether a line is due, `elapsed` after the work began. Lines that nobody asked for in time
    /// are not made up for.
    pub fn is_due(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.next {
            return false;
        }
        self.next = elapsed + EVERY;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_is_silent_and_long_work_is_heard_now_and_then() {
        let mut pace = Pace::default();
        let lines = (0..=300).map(|tenths| Duration::from_millis(tenths * 100));
        let due: Vec<f32> =
            lines.filter(|at| pace.is_due(*at)).map(|at| at.as_secs_f32()).collect();
        assert_eq!(due, [2.0, 7.0, 12.0, 17.0, 22.0, 27.0]);
        assert!(Pace::default().is_due(Duration::from_secs(60)));
    }
}
