//! Intervals: months, days and microseconds, which do not convert into each other.

use anabranch_core::avro::write;

use super::ValueError;

const MALFORMED: ValueError = ValueError::Malformed("interval");

/// As PostgreSQL stores it; an infinite one has every part at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) months: i32,
    pub(super) days: i32,
    pub(super) micros: i64,
}

impl Interval {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        write::int(out, self.months);
        write::int(out, self.days);
        write::long(out, self.micros);
    }
}

/// Reads `P1Y2M-3DT4H5M6.789S`, in which every part has its own sign.
pub(super) fn parse(text: &str) -> Result<Interval, ValueError> {
    match text {
        "infinity" => {
            return Ok(Interval { months: i32::MAX, days: i32::MAX, micros: i64::MAX });
        }
        "-infinity" => {
            return Ok(Interval { months: i32::MIN, days: i32::MIN, micros: i64::MIN });
        }
        _ => {}
    }
    let parts = text.strip_prefix('P').ok_or(MALFORMED)?;
    let (date, time) = parts.split_once('T').unwrap_or((parts, ""));
    let mut interval = Interval::default();
    each(date, |count, unit| {
        let count = i32::try_from(whole(count)?).ok()?;
        match unit {
            'Y' => interval.months = interval.months.checked_add(count.checked_mul(12)?)?,
            'M' => interval.months = interval.months.checked_add(count)?,
            'D' => interval.days = interval.days.checked_add(count)?,
            _ => return None,
        }
        Some(())
    })?;
    each(time, |count, unit| {
        let micros = match unit {
            'H' => whole(count)?.checked_mul(3_600_000_000)?,
            'M' => whole(count)?.checked_mul(60_000_000)?,
            'S' => seconds(count)?,
            _ => return None,
        };
        interval.micros = interval.micros.checked_add(micros)?;
        Some(())
    })?;
    Ok(interval)
}

/// Calls `take` for each number and its unit.
fn each(mut rest: &str, mut take: impl FnMut(&str, char) -> Option<()>) -> Result<(), ValueError> {
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or(MALFORMED)?;
        let (count, after) = rest.split_at_checked(end).ok_or(MALFORMED)?;
        let mut chars = after.chars();
        let unit = chars.next().ok_or(MALFORMED)?;
        take(count, unit).ok_or(MALFORMED)?;
        rest = chars.as_str();
    }
    Ok(())
}

fn whole(count: &str) -> Option<i64> {
    count.parse().ok()
}

/// Microseconds of `-6.789`.
fn seconds(count: &str) -> Option<i64> {
    let (sign, digits) = match count.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, count),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let missing = 6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let fraction: i64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let micros = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?;
    micros.checked_add(fraction.checked_mul(10_i64.pow(missing))?)?.checked_mul(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_sign() {
        let of = |months, days, micros| Interval { months, days, micros };
        let cases = [
            ("PT0S", of(0, 0, 0)),
            ("P1Y2M-3DT4H5M6.789S", of(14, -3, 14_706_789_000)),
            ("P-178000000Y", of(-2_136_000_000, 0, 0)),
            ("PT-1H-0.000001S", of(0, 0, -3_600_000_001)),
            ("P-1M", of(-1, 0, 0)),
            ("infinity", of(i32::MAX, i32::MAX, i64::MAX)),
            ("-infinity", of(i32::MIN, i32::MIN, i64::MIN)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in ["", "1 day", "P1", "PD", "P1X", "PT1.1234567S", "P99999999999Y", "PT1D"] {
            assert_eq!(parse(text), Err(MALFORMED), "{text}");
        }
    }
}
