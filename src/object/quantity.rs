//! Pure: Kubernetes' quantities (`100m`, `0.5Gi`, `1e3`), exact to a billionth.
//!
//! Semantics are those of apimachinery's `resource.Quantity`: the grammar, rounding up to nano, and
//! the canonical form (`0.5Gi` becomes `512Mi`, `1.5` becomes `1500m`).
//! Known limit: magnitudes above 2^63 are clamped as the reference server clamps them.

use std::cmp::Ordering;
use std::fmt;

/// The sentence the reference server answers to what it cannot read.
pub const GRAMMAR: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// How a quantity was written, and so how it is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `n u m "" k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// An amount, as an integer number of billionths.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const LIMIT: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// An amount that prints as `512Mi`.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// # Errors
    /// [`GRAMMAR`], for anything the reference server does not read either.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let split =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(GRAMMAR);
        }
        let (factor, format) = scale(suffix).ok_or(GRAMMAR)?;
        let nanos = scaled(whole, fraction, factor).min(LIMIT);
        Ok(Self { nanos: if text.starts_with('-') { -nanos } else { nanos }, format })
    }

    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        clamp(div_ceil(self.nanos, NANO))
    }

    /// Thousandths, rounded up: millicores.
    pub fn millis(self) -> i64 {
        clamp(div_ceil(self.nanos, NANO / 1000))
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// No fraction of a unit: what counts of pods, bytes and hugepages must be.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos + other.nanos,
            format: if self.nanos == 0 { other.format } else { self.format },
        }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Self) -> Self {
        Self { nanos: self.nanos - other.nanos, format: self.format }
    }
}

/// By amount: `1` equals `1000m`.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical form: no fraction, the largest suffix that leaves none.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi
            && self.nanos % NANO == 0
            && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let (mut amount, mut power) = (self.nanos / NANO, 0);
            while power < 6 && amount % 1024 == 0 {
                (amount, power) = (amount / 1024, power + 1);
            }
            return write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut amount, mut power) = (self.nanos, -3_i32);
        while power < 6 && amount % 1000 == 0 {
            (amount, power) = (amount / 1000, power + 1);
        }
        if self.format == Format::DecimalExponent && power != 0 {
            return write!(f, "{amount}e{}", power * 3);
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"]
            [usize::try_from(power + 3).expect("power is -3 to 6")];
        write!(f, "{amount}{suffix}")
    }
}

/// The factor of a suffix as (base, exponent), and the format it belongs to.
fn scale(suffix: &str) -> Option<((u32, i32), Format)> {
    let decimal = |exponent| Some(((10, exponent), Format::DecimalSi));
    let binary = |exponent| Some(((2, exponent), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            // So that a number's length can be added to it; either end is far beyond every limit.
            Some(((10, exponent.clamp(-(1 << 30), 1 << 30)), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction × base^exponent` in nanos, rounded up, saturating at the limit.
fn scaled(whole: &str, fraction: &str, (base, exponent): (u32, i32)) -> i128 {
    // Digits beyond the 40th cannot change a number that is clamped at 2^63 and rounded at a nano.
    let digits: String =
        whole.trim_start_matches('0').chars().chain(fraction.chars()).take(37).collect();
    let taken_fraction = digits.len() as i32 - whole.trim_start_matches('0').len().min(37) as i32;
    let cut_whole = whole.trim_start_matches('0').len() as i32
        - whole.trim_start_matches('0').len().min(37) as i32;
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(LIMIT) };
    if mantissa == 0 {
        return 0;
    }
    let ten_power = 9 - taken_fraction + cut_whole + if base == 10 { exponent } else { 0 };
    let mut nanos = mantissa;
    if base == 2 {
        nanos = nanos.saturating_mul(1_i128 << exponent);
    }
    if ten_power >= 0 {
        for _ in 0..ten_power.min(60) {
            nanos = nanos.saturating_mul(10);
        }
        return nanos;
    }
    for step in 0..(-ten_power).min(60) {
        let last = step + 1 == (-ten_power).min(60);
        // Rounding up at every step would round twice: keep a sticky remainder instead.
        nanos = if last {
            div_ceil(nanos, 10)
        } else {
            nanos / 10 + i128::from(nanos % 10 != 0 && nanos < 10)
        };
    }
    nanos
}

fn div_ceil(amount: i128, unit: i128) -> i128 {
    amount.div_euclid(unit) + i128::from(amount.rem_euclid(unit) != 0)
}

fn clamp(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_the_reference_servers() {
        for (input, canonical) in [
            ("1.5", "1500m"),
            ("0.5Gi", "512Mi"),
            ("100m", "100m"),
            ("64Mi", "64Mi"),
            ("1000m", "1"),
            ("0", "0"),
            ("1024Ki", "1Mi"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("0.1", "100m"),
            ("1.1Gi", "1181116006400m"),
            ("-1", "-1"),
            ("128974848", "128974848"),
            ("1Ei", "1Ei"),
            ("1e-9", "1e-9"),
        ] {
            assert_eq!(
                Quantity::parse(input).map(|q| q.to_string()),
                Ok(canonical.to_owned()),
                "{input}"
            );
        }
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        for input in ["", "1x", "1.2.3", "m", "1 Gi", "--1", "1eX", "Gi", "."] {
            assert_eq!(Quantity::parse(input), Err(GRAMMAR), "{input}");
        }
    }

    #[test]
    fn amounts_compare_and_round_up() {
        assert_eq!(Quantity::parse("1").unwrap(), Quantity::parse("1000m").unwrap());
        assert_eq!(Quantity::parse("1m").unwrap().units(), 1);
        assert_eq!(Quantity::parse("1500m").unwrap().millis(), 1500);
        assert_eq!(Quantity::parse("9E99").map(|q| q.units()), Ok(i64::MAX));
        assert_eq!(Quantity::parse("1e2147483647").map(|q| q.units()), Ok(i64::MAX));
        assert_eq!(Quantity::parse("1.5e-2147483648").map(|q| q.to_string()), Ok("1e-9".into()));
    }
}
