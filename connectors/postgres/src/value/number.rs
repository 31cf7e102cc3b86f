//! Integers, floats and decimals.

use std::str::FromStr;

use super::ValueError;

/// Reads a number that Rust writes as PostgreSQL does.
pub(super) fn parse<T: FromStr>(text: &[u8], name: &'static str) -> Result<T, ValueError> {
    let text = std::str::from_utf8(text).map_err(|_| ValueError::Malformed(name))?;
    text.parse().map_err(|_| ValueError::Malformed(name))
}

/// Reads a `numeric(precision, scale)` as its value × 10^scale.
pub(super) fn decimal(text: &[u8], precision: u8, scale: u8) -> Result<i128, ValueError> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits == b"NaN" || digits == b"Infinity" {
        return Err(ValueError::NotFinite);
    }
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    if whole.is_empty() && fraction.is_empty() {
        return Err(ValueError::Malformed("numeric"));
    }
    let scale = usize::from(scale);
    let beyond = fraction.get(scale..).unwrap_or_default();
    if beyond.iter().any(|digit| *digit != b'0') {
        return Err(ValueError::TooManyDigits);
    }
    let padding = std::iter::repeat_n(&b'0', scale.saturating_sub(fraction.len()));
    let mut value: i128 = 0;
    for digit in whole.iter().chain(fraction.iter().take(scale)).chain(padding) {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9);
        let digit = digit.ok_or(ValueError::Malformed("numeric"))?;
        let shifted = value.checked_mul(10).and_then(|value| value.checked_add(i128::from(digit)));
        value = shifted.ok_or(ValueError::TooManyDigits)?;
    }
    if value >= 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX) {
        return Err(ValueError::TooManyDigits);
    }
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_scaled() {
        let most = "9".repeat(38);
        let cases = [
            ("1.10", 10, 2, 110),
            ("-1.5", 10, 2, -150),
            ("0", 10, 2, 0),
            ("12345678.90", 10, 2, 1_234_567_890),
            ("0.00000000000000000001", 38, 20, 1),
            ("7", 1, 0, 7),
            ("1.500", 10, 2, 150),
            (&most, 38, 0, 99_999_999_999_999_999_999_999_999_999_999_999_999),
        ];
        for (text, precision, scale, expected) in cases {
            assert_eq!(decimal(text.as_bytes(), precision, scale), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_a_decimal_cannot_hold_is_refused() {
        let cases = [
            ("NaN", ValueError::NotFinite),
            ("-Infinity", ValueError::NotFinite),
            ("1.234", ValueError::TooManyDigits),
            ("123456789", ValueError::TooManyDigits),
            ("", ValueError::Malformed("numeric")),
            ("1e5", ValueError::Malformed("numeric")),
        ];
        for (text, expected) in cases {
            assert_eq!(decimal(text.as_bytes(), 10, 2), Err(expected), "{text}");
        }
        assert_eq!(decimal("9".repeat(39).as_bytes(), 38, 0), Err(ValueError::TooManyDigits));
    }
}
