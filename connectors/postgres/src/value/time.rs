//! Dates and times in ISO form, with `BC` years and infinities.
//!
//! `infinity` travels as the largest value of its width and `-infinity` as the smallest.

use super::ValueError;

const DAY_US: i64 = 86_400_000_000;

/// A `date` as days since 1970.
pub(super) fn date(text: &str) -> Result<i32, ValueError> {
    match text {
        "infinity" => Ok(i32::MAX),
        "-infinity" => Ok(i32::MIN),
        _ => {
            let (date, bc) = strip_bc(text);
            let days = days(date, bc).ok_or(ValueError::Malformed("date"))?;
            i32::try_from(days).map_err(|_| ValueError::TimeOutOfRange)
        }
    }
}

/// A `time` as microseconds since midnight; `24:00:00` is a whole day of them.
pub(super) fn time(text: &str) -> Result<i64, ValueError> {
    time_us(text).ok_or(ValueError::Malformed("time"))
}

/// A `timestamp` as microseconds since 1970.
pub(super) fn timestamp(text: &str) -> Result<i64, ValueError> {
    moment(text, |rest| Some(rest), "timestamp")
}

/// A `timestamptz`, which the session prints in UTC, as microseconds since 1970.
pub(super) fn timestamptz(text: &str) -> Result<i64, ValueError> {
    moment(text, |rest| rest.strip_suffix("+00"), "timestamptz")
}

fn moment(
    text: &str,
    strip_zone: impl Fn(&str) -> Option<&str>,
    name: &'static str,
) -> Result<i64, ValueError> {
    match text {
        "infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let (text, bc) = strip_bc(text);
    let parts = || {
        let (date, time) = strip_zone(text)?.split_once(' ')?;
        Some((days(date, bc)?, time_us(time)?))
    };
    let (days, us) = parts().ok_or(ValueError::Malformed(name))?;
    let total = days.checked_mul(DAY_US).and_then(|day_us| day_us.checked_add(us));
    // The two ends of the range mean infinity.
    total.filter(|us| *us != i64::MAX && *us != i64::MIN).ok_or(ValueError::TimeOutOfRange)
}

fn strip_bc(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970 in the proleptic Gregorian calendar; year 1 BC is year 0.
fn days(date: &str, bc: bool) -> Option<i64> {
    let mut parts = date.splitn(3, '-');
    let year: i64 = digits(parts.next()?)?;
    let (month, day) = (digits(parts.next()?)?, digits(parts.next()?)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 10_000_000 {
        return None;
    }
    let year = if bc { 1 - year } else { year };
    // Years that begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn time_us(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let seconds = digits(parts.next()?)?;
    if hours > 24 || minutes > 59 || seconds > 60 || fraction.len() > 6 {
        return None;
    }
    let fraction_us = match fraction {
        "" => 0,
        fraction => {
            let missing = 6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?;
            digits(fraction)? * 10_i64.pow(missing)
        }
    };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction_us)
}

fn digits(text: &str) -> Option<i64> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_reach_from_4713_bc_to_5874897() {
        let cases = [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("2026-07-01", 20_635),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("0001-01-01 BC", -719_528),
            ("4713-01-01 BC", -2_440_550),
            ("5874897-12-31", 2_145_042_905),
            ("infinity", i32::MAX),
            ("-infinity", i32::MIN),
        ];
        for (text, expected) in cases {
            assert_eq!(date(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn times_have_a_24th_hour() {
        let cases = [
            ("00:00:00", 0),
            ("04:05:06.789", 14_706_789_000),
            ("23:59:59.999999", DAY_US - 1),
            ("24:00:00", DAY_US),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn timestamps_count_from_1970() {
        let cases = [
            ("1970-01-01 00:00:00", 0),
            ("1969-12-31 23:59:59.5", -500_000),
            ("4713-01-01 00:00:00 BC", -2_440_550 * DAY_US),
            ("294247-01-10 04:00:54.775806", i64::MAX - 1),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ];
        for (text, expected) in cases {
            assert_eq!(timestamp(text), Ok(expected), "{text}");
        }
        assert_eq!(timestamptz("10000-01-01 00:00:00+00"), Ok(253_402_300_800_000_000));
        assert_eq!(timestamptz("0044-03-15 12:00:00+00 BC"), Ok(-63_517_780_800_000_000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807"] {
            assert_eq!(timestamp(text), Err(ValueError::TimeOutOfRange), "{text}");
        }
        for text in ["", "2026-07-01", "2026-13-01 00:00:00", "2026-07-01 25:00:00", "x"] {
            assert_eq!(timestamp(text), Err(ValueError::Malformed("timestamp")), "{text}");
        }
        assert!(timestamptz("2026-07-01 00:00:00+02").is_err());
        for text in ["", "2026-7", "--", "-1-01-01", "2026-07-01 AD", "99999999999-01-01"] {
            assert!(date(text).is_err(), "{text}");
        }
    }
}
