//! Pure: `maxSurge: 25%` or `maxSurge: 3`, resolved against a replica count.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage of a count is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Surge: one more pod than asked is safe.
    Up,
    /// Unavailable: one fewer is safe.
    Down,
}

/// The percentage of a `25%`; `None` for an integer or anything else.
pub fn percent(value: &IntOrString) -> Option<i32> {
    match value {
        IntOrString::Int(_) => None,
        IntOrString::String(text) => text
            .strip_suffix('%')
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok()),
    }
}

/// `25%` of `total`, or the integer itself; `None` for text that is no percentage (admission refuses it).
pub fn resolve(value: &IntOrString, total: i32, rounding: Rounding) -> Option<i32> {
    if let IntOrString::Int(count) = value {
        return Some(*count);
    }
    let scaled = i64::from(percent(value)?) * i64::from(total);
    let rounded = match rounding {
        Rounding::Up => scaled.div_euclid(100) + i64::from(scaled.rem_euclid(100) != 0),
        Rounding::Down => scaled.div_euclid(100),
    };
    i32::try_from(rounded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(resolve(&quarter, 10, Rounding::Up), Some(3));
        assert_eq!(resolve(&quarter, 10, Rounding::Down), Some(2));
        assert_eq!(resolve(&IntOrString::Int(7), 10, Rounding::Down), Some(7));
        assert_eq!(resolve(&IntOrString::String("x".into()), 10, Rounding::Down), None);
        assert_eq!(resolve(&IntOrString::String("-5%".into()), 10, Rounding::Down), None);
    }
}
