//! Numbers that must not lose a digit.

use super::output::Output;

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
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(unscaled.unsigned_abs());
    if unscaled < 0 {
        out.push_str("-");
    }
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
