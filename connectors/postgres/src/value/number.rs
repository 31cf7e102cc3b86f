//! Integers, floats and decimals.

use std::str::FromStr;

use anabranch_core::avro::write;
use anabranch_core::{NARROW_PRECISION_MAX, i256};

use super::context::Context;
use super::misfit::Misfit;
use super::{ValueError, codec::MONEY};
use crate::fields::Fields;

const MALFORMED: ValueError = ValueError::Malformed("numeric");
/// Digits that any `i64` has room for.
const SMALL_DIGITS_MAX: usize = 18;
/// The same, as a precision.
const SMALL_PRECISION_MAX: u8 = 18;
/// The sign words of a binary `numeric`.
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// Reads a number that Rust writes as PostgreSQL does.
pub(super) fn parse<T: FromStr>(text: &[u8], name: &'static str) -> Result<T, ValueError> {
    let text = std::str::from_utf8(text).map_err(|_| ValueError::Malformed(name))?;
    text.parse().map_err(|_| ValueError::Malformed(name))
}

/// A `numeric` in either format.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numeric<'a> {
    NaN,
    Infinite {
        negative: bool,
    },
    /// Digits before and after the point.
    Text {
        negative: bool,
        whole: &'a [u8],
        fraction: &'a [u8],
    },
    Binary {
        negative: bool,
        groups: Groups<'a>,
    },
}

/// Digits in groups of four, two bytes each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups<'a> {
    groups: &'a [[u8; 2]],
    /// The power of 10,000 that the first group counts.
    weight: i16,
    /// Digits that are shown after the point.
    scale: u16,
}

impl<'a> Numeric<'a> {
    pub(super) fn of_text(text: &'a [u8]) -> Result<Self, ValueError> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        match digits {
            b"NaN" => return Ok(Self::NaN),
            b"Infinity" => return Ok(Self::Infinite { negative }),
            _ => {}
        }
        let mut parts = digits.splitn(2, |byte| *byte == b'.');
        let whole = parts.next().unwrap_or_default();
        let fraction = parts.next().unwrap_or_default();
        let is_number = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if digits.is_empty() || digits == b"." || !is_number(whole) || !is_number(fraction) {
            return Err(MALFORMED);
        }
        Ok(Self::Text { negative, whole, fraction })
    }

    pub(super) fn of_binary(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut fields = Fields::new(bytes);
        let mut header = || {
            let (count, weight) = (fields.u16()?, fields.u16()?.cast_signed());
            Some((count, weight, fields.u16()?, fields.u16()?))
        };
        let (count, weight, sign, scale) = header().ok_or(MALFORMED)?;
        let (groups, rest) = fields.rest().as_chunks::<2>();
        if groups.len() != usize::from(count) || !rest.is_empty() {
            return Err(MALFORMED);
        }
        match sign {
            NAN => Ok(Self::NaN),
            INFINITY => Ok(Self::Infinite { negative: false }),
            MINUS_INFINITY => Ok(Self::Infinite { negative: true }),
            0 | NEGATIVE => {
                let groups = Groups { groups, weight, scale };
                Ok(Self::Binary { negative: sign == NEGATIVE, groups })
            }
            _ => Err(MALFORMED),
        }
    }

    /// Appends it as a decimal.
    pub(super) fn write(
        self,
        context: &mut Context,
        out: &mut Vec<u8>,
        (precision, scale): (u8, u8),
    ) -> Result<(), ValueError> {
        // In no more bits than any value of the type needs: one that has too many digits for them has
        // too many for the type.
        let fits = if precision <= SMALL_PRECISION_MAX {
            self.unscaled::<i64>(precision, scale).map(|value| write::decimal(out, value.into()))
        } else if precision <= NARROW_PRECISION_MAX {
            self.unscaled::<i128>(precision, scale).map(|value| write::decimal(out, value))
        } else {
            self.unscaled::<i256>(precision, scale).map(|value| write::wide_decimal(out, value))
        };
        if fits.is_some() {
            return Ok(());
        }
        let negative = match self {
            Self::NaN => return Err(ValueError::Misfit(Misfit::Number)),
            Self::Infinite { negative }
            | Self::Text { negative, .. }
            | Self::Binary { negative, .. } => negative,
        };
        if !context.clamps(Misfit::Number) {
            return Err(ValueError::Misfit(Misfit::Number));
        }
        let most = i256::from_i128(10).wrapping_pow(precision.into()).wrapping_sub(i256::ONE);
        write::wide_decimal(out, if negative { most.wrapping_neg() } else { most });
        Ok(())
    }

    /// The value × 10^scale, if that is whole and has no more digits than `precision`.
    fn unscaled<T: Unscaled>(self, precision: u8, scale: u8) -> Option<T> {
        let (negative, value) = match self {
            Self::NaN | Self::Infinite { .. } => return None,
            Self::Text { negative, whole, fraction } => {
                (negative, text_digits(whole, fraction, scale)?)
            }
            Self::Binary { negative, groups } => (negative, groups.unscaled(scale)?),
        };
        let value: T = value;
        let fits = value.is_below_power(precision);
        fits.then(|| if negative { value.negate() } else { value })
    }

    /// Appends it as PostgreSQL prints it.
    pub(super) fn spell(self, out: &mut String) {
        match self {
            Self::NaN => out.push_str("NaN"),
            Self::Infinite { negative: false } => out.push_str("Infinity"),
            Self::Infinite { negative: true } => out.push_str("-Infinity"),
            Self::Text { negative, whole, fraction } => {
                out.push_str(if negative { "-" } else { "" });
                out.extend(whole.iter().map(|digit| char::from(*digit)));
                if !fraction.is_empty() {
                    out.push('.');
                    out.extend(fraction.iter().map(|digit| char::from(*digit)));
                }
            }
            Self::Binary { negative, groups } => {
                out.push_str(if negative { "-" } else { "" });
                groups.spell(out);
            }
        }
    }
}

fn text_digits<T: Unscaled>(whole: &[u8], fraction: &[u8], scale: u8) -> Option<T> {
    let scale = usize::from(scale);
    let (kept, beyond) = fraction.split_at_checked(scale).unwrap_or((fraction, &[]));
    if beyond.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let padding = std::iter::repeat_n(&b'0', scale - kept.len());
    let mut digits =
        whole.iter().chain(kept).chain(padding).map(|digit| u16::from(digit.wrapping_sub(b'0')));
    if whole.len() + scale <= SMALL_DIGITS_MAX {
        let small = digits.fold(0, |value, digit| value * 10 + i64::from(digit));
        return Some(T::from(small));
    }
    digits.try_fold(T::ZERO, |value, digit| value.shift(10, digit))
}

impl Groups<'_> {
    fn digits(&self) -> impl Iterator<Item = u16> {
        self.groups.iter().map(|group| u16::from_be_bytes(*group))
    }

    fn unscaled<T: Unscaled>(&self, scale: u8) -> Option<T> {
        let mut value = T::ZERO;
        // The power of ten that the next group counts in the result.
        let mut power = i32::from(self.weight) * 4 + i32::from(scale);
        let mut left = 0;
        for group in self.digits() {
            if group > 9999 {
                return None;
            }
            value = match power {
                0.. => value.shift(10_000, group)?,
                -3..=-1 => {
                    let cut = 10_u16.pow(power.unsigned_abs());
                    if group % cut != 0 {
                        return None;
                    }
                    value.shift(10_000 / cut, group / cut)?
                }
                _ if group == 0 => value,
                _ => return None,
            };
            left = power.max(0);
            power -= 4;
        }
        (0..left).try_fold(value, |value, _| value.shift(10, 0))
    }

    /// Every digit of the whole part, then as many as are shown after the point.
    fn spell(&self, out: &mut String) {
        let start = out.len();
        let weight = i32::from(self.weight);
        let group = |power: i32| {
            let place = usize::try_from(weight - power).ok()?;
            self.groups.get(place).map(|group| u16::from_be_bytes(*group))
        };
        for power in (0..=weight.max(0)).rev() {
            push_group(out, group(power).unwrap_or(0));
        }
        let zeros = out.get(start..).map_or(0, |whole| {
            (whole.len() - 1).min(whole.bytes().take_while(|digit| *digit == b'0').count())
        });
        out.drain(start..start + zeros);
        if self.scale > 0 {
            out.push('.');
            let end = out.len() + usize::from(self.scale);
            let mut power = -1;
            while out.len() < end {
                push_group(out, group(power).unwrap_or(0));
                power -= 1;
            }
            out.truncate(end);
        }
    }
}

/// Four digits.
fn push_group(out: &mut String, group: u16) {
    for power in [1000, 100, 10, 1] {
        let digit = group / power % 10;
        out.push(char::from_digit(digit.into(), 10).unwrap_or('0'));
    }
}

/// A whole number while its digits are read.
trait Unscaled: Copy + From<i64> {
    const ZERO: Self;
    /// Times `by`, plus `more`.
    fn shift(self, by: u16, more: u16) -> Option<Self>;
    fn is_below_power(self, precision: u8) -> bool;
    fn negate(self) -> Self;
}

impl Unscaled for i64 {
    const ZERO: Self = 0;

    fn shift(self, by: u16, more: u16) -> Option<Self> {
        self.checked_mul(by.into())?.checked_add(more.into())
    }

    fn is_below_power(self, precision: u8) -> bool {
        10_i64.checked_pow(precision.into()).is_some_and(|bound| self < bound)
    }

    fn negate(self) -> Self {
        -self
    }
}

impl Unscaled for i128 {
    const ZERO: Self = 0;

    fn shift(self, by: u16, more: u16) -> Option<Self> {
        self.checked_mul(by.into())?.checked_add(more.into())
    }

    fn is_below_power(self, precision: u8) -> bool {
        10_i128.checked_pow(precision.into()).is_some_and(|bound| self < bound)
    }

    fn negate(self) -> Self {
        -self
    }
}

impl Unscaled for i256 {
    const ZERO: Self = Self::ZERO;

    fn shift(self, by: u16, more: u16) -> Option<Self> {
        self.checked_mul(Self::from_i128(by.into()))?.checked_add(Self::from_i128(more.into()))
    }

    fn is_below_power(self, precision: u8) -> bool {
        let bound = Self::from_i128(10).checked_pow(precision.into());
        bound.is_some_and(|bound| self < bound)
    }

    fn negate(self) -> Self {
        self.wrapping_neg()
    }
}

/// `-$1,234.56`, as under `lc_monetary = C`.
pub(super) fn money(
    context: &mut Context,
    out: &mut Vec<u8>,
    text: &[u8],
) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("money");
    let anabranch_core::ColumnType::Decimal { precision, scale } = MONEY else {
        return Err(malformed);
    };
    let plain = |byte: &&u8| !matches!(byte, b'$' | b',');
    let digits: Vec<u8> = text.iter().filter(plain).copied().collect();
    let number = Numeric::of_text(&digits).map_err(|_| malformed)?;
    number.write(context, out, (precision, scale))
}

/// Floats that are not a number have many forms and one text.
pub(super) fn float4(bits: [u8; 4]) -> f32 {
    let value = f32::from_be_bytes(bits);
    if value.is_nan() { f32::NAN } else { value }
}

/// The same in twice the width.
pub(super) fn float8(bits: [u8; 8]) -> f64 {
    let value = f64::from_be_bytes(bits);
    if value.is_nan() { f64::NAN } else { value }
}
