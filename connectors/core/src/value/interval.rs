//! Intervals as ISO 8601 durations, in PostgreSQL's spelling: `P1Y2M-3DT4H5M6.789S`.

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, StructArray};

use super::output::Output;
use super::{bug, downcast, primitive};
use crate::{ColumnType, Result};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;

/// Months, days and microseconds, which do not convert into each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) months: i32,
    pub(super) days: i32,
    pub(super) micros: i64,
}

impl Interval {
    const INFINITY: Self = Self { months: i32::MAX, days: i32::MAX, micros: i64::MAX };
    const MINUS_INFINITY: Self = Self { months: i32::MIN, days: i32::MIN, micros: i64::MIN };

    pub(super) fn read(array: &dyn Array, row: usize, kind: &ColumnType) -> Result<Self> {
        let [months, days, micros] = downcast::<StructArray>(array, kind)?.columns() else {
            return Err(bug(kind));
        };
        Ok(Self {
            months: primitive::<Int32Type>(months.as_ref(), row, kind)?,
            days: primitive::<Int32Type>(days.as_ref(), row, kind)?,
            micros: primitive::<Int64Type>(micros.as_ref(), row, kind)?,
        })
    }

    /// Every part has its own sign; the extremes are PostgreSQL's infinities.
    pub(super) fn push(self, out: &mut impl Output) {
        match self {
            Self::INFINITY => return out.push_str("infinity"),
            Self::MINUS_INFINITY => return out.push_str("-infinity"),
            Self { months: 0, days: 0, micros: 0 } => return out.push_str("PT0S"),
            _ => {}
        }
        out.push_str("P");
        part(out, (self.months / 12).into(), "Y");
        part(out, (self.months % 12).into(), "M");
        part(out, self.days.into(), "D");
        if self.micros == 0 {
            return;
        }
        out.push_str("T");
        part(out, self.micros / MICROS_PER_HOUR, "H");
        part(out, self.micros % MICROS_PER_HOUR / MICROS_PER_MINUTE, "M");
        seconds(out, self.micros % MICROS_PER_MINUTE);
    }
}

fn part(out: &mut impl Output, count: i64, unit: &str) {
    if count != 0 {
        out.push_str(itoa::Buffer::new().format(count));
        out.push_str(unit);
    }
}

/// Without zeros at the end of the fraction.
fn seconds(out: &mut impl Output, micros: i64) {
    if micros == 0 {
        return;
    }
    if micros < 0 {
        out.push_str("-");
    }
    let micros = micros.unsigned_abs();
    let second = MICROS_PER_SECOND.unsigned_abs();
    out.push_str(itoa::Buffer::new().format(micros / second));
    let fraction = micros % second;
    if fraction != 0 {
        // A second on top keeps the zeros in front.
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(second + fraction).trim_end_matches('0');
        out.push_str(".");
        out.push_str(digits.strip_prefix('1').unwrap_or(digits));
    }
    out.push_str("S");
}
