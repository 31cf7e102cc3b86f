//! Numbers that must not lose a digit.

use super::output::Output;
use crate::i256;

/// A float of either width: the shortest digits that give it back depend on the width.
#[derive(Clone, Copy, Debug)]
pub(super) enum Float {
    Single(f32),
    Double(f64),
}

impl Float {
    pub(super) fn is_finite(self) -> bool {
        match self {
            Self::Single(value) => value.is_finite(),
            Self::Double(value) => value.is_finite(),
        }
    }

    /// Appends the shortest decimal that reads back as the same float, or its name.
    pub(super) fn push(self, out: &mut impl Output) {
        let mut buffer = ryu::Buffer::new();
        let wide = match self {
            Self::Single(value) => f64::from(value),
            Self::Double(value) => value,
        };
        out.push_str(match self {
            _ if wide.is_nan() => "NaN",
            _ if wide == f64::INFINITY => "Infinity",
            _ if wide == f64::NEG_INFINITY => "-Infinity",
            Self::Single(value) => buffer.format_finite(value),
            Self::Double(value) => buffer.format_finite(value),
        });
    }
}

/// Appends `unscaled` ÷ 10^`scale` with all of its `scale` digits after the point.
pub(super) fn decimal(out: &mut impl Output, unscaled: i128, scale: u8) {
    if unscaled < 0 {
        out.push_str("-");
    }
    scaled(out, itoa::Buffer::new().format(unscaled.unsigned_abs()), scale);
}

/// The same in twice the width.
pub(super) fn wide_decimal(out: &mut impl Output, unscaled: i256, scale: u8) {
    let text = unscaled.to_string();
    let digits = text.strip_prefix('-');
    if digits.is_some() {
        out.push_str("-");
    }
    scaled(out, digits.unwrap_or(&text), scale);
}

fn scaled(out: &mut impl Output, digits: &str, scale: u8) {
    let scale = usize::from(scale);
    if scale == 0 {
        out.push_str(digits);
        return;
    }
    match digits.len().checked_sub(scale).and_then(|point| digits.split_at_checked(point)) {
        Some((whole, fraction)) => {
            out.push_str(if whole.is_empty() { "0" } else { whole });
            out.push_str(".");
            out.push_str(fraction);
        }
        None => {
            out.push_str("0.");
            (digits.len()..scale).for_each(|_| out.push_str("0"));
            out.push_str(digits);
        }
    }
}
