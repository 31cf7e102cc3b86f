//! Dates and times in ISO form, with `BC` years and infinities.
//!
//! `infinity` travels as the largest value of its width and `-infinity` as the smallest.

use super::ValueError;
use crate::pgoutput::POSTGRES_EPOCH_US;

pub(super) const DAY_US: i64 = 86_400_000_000;
/// Days from 1970 to 2000, where PostgreSQL's binary times begin.
pub(super) const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// A timestamp, before it is asked whether it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Microseconds since 1970.
    At(i64),
    Infinity,
    MinusInfinity,
    /// Later than 64 bits can count to.
    Beyond,
}

/// A `date` as days since 1970.
pub(super) fn date(text: &str) -> Result<i32, ValueError> {
    match text {
        "infinity" => Ok(i32::MAX),
        "-infinity" => Ok(i32::MIN),
        _ => {
            let (date, bc) = strip_bc(text);
            let days = days(date, bc).ok_or(ValueError::Malformed("date"))?;
            i32::try_from(days).map_err(|_| ValueError::Malformed("date"))
        }
    }
}

/// A `time` as microseconds since midnight; `24:00:00` is a whole day of them.
pub(super) fn time(text: &str) -> Result<i64, ValueError> {
    time_us(text).ok_or(ValueError::Malformed("time"))
}

/// A `timestamp` as microseconds since 1970.
pub(super) fn timestamp(text: &str) -> Result<Moment, ValueError> {
    moment(text, |rest| Some(rest), "timestamp")
}

/// A `timestamptz`, which the session prints in UTC, as microseconds since 1970.
pub(super) fn timestamptz(text: &str) -> Result<Moment, ValueError> {
    moment(text, |rest| rest.strip_suffix("+00"), "timestamptz")
}

fn moment(
    text: &str,
    strip_zone: impl Fn(&str) -> Option<&str>,
    name: &'static str,
) -> Result<Moment, ValueError> {
    match text {
        "infinity" => return Ok(Moment::Infinity),
        "-infinity" => return Ok(Moment::MinusInfinity),
        _ => {}
    }
    let (text, bc) = strip_bc(text);
    let parts = || {
        let (date, time) = strip_zone(text)?.split_once(' ')?;
        Some((days(date, bc)?, time_us(time)?))
    };
    let (days, us) = parts().ok_or(ValueError::Malformed(name))?;
    Ok(moment_at(days.checked_mul(DAY_US).and_then(|day_us| day_us.checked_add(us))))
}

/// A binary timestamp, which counts microseconds since 2000.
pub(super) fn of_binary(micros: i64) -> Moment {
    match micros {
        i64::MAX => Moment::Infinity,
        i64::MIN => Moment::MinusInfinity,
        micros => moment_at(micros.checked_add(POSTGRES_EPOCH_US)),
    }
}

/// The two ends of the range mean infinity.
fn moment_at(micros: Option<i64>) -> Moment {
    match micros {
        None | Some(i64::MAX | i64::MIN) => Moment::Beyond,
        Some(micros) => Moment::At(micros),
    }
}

/// `0044-03-15 BC`, the date `days` after 1970.
pub(super) fn date_text(days: i64) -> String {
    // Years that begin in March, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    match year {
        1.. => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{:04}-{month:02}-{day:02} BC", 1 - year),
    }
}

/// `04:05:06.789000`.
pub(super) fn time_text(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, micros % 1_000_000)
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
    const DIGITS_MAX: usize = 18;
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let fits = (1..=DIGITS_MAX).contains(&text.len());
    fits.then(|| text.bytes().try_fold(0, |number, byte| Some(number * 10 + digit(byte)?)))?
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
            if !text.ends_with("infinity") {
                assert_eq!(date_text(expected.into()), text);
            }
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
        ];
        for (text, expected) in cases {
            assert_eq!(timestamp(text), Ok(Moment::At(expected)), "{text}");
            assert_eq!(of_binary(expected - POSTGRES_EPOCH_US), Moment::At(expected), "{text}");
        }
        assert_eq!(timestamp("infinity"), Ok(Moment::Infinity));
        assert_eq!(timestamp("-infinity"), Ok(Moment::MinusInfinity));
        assert_eq!(timestamptz("10000-01-01 00:00:00+00"), Ok(Moment::At(253_402_300_800_000_000)));
        let ides = Ok(Moment::At(-63_517_780_800_000_000));
        assert_eq!(timestamptz("0044-03-15 12:00:00+00 BC"), ides);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807"] {
            assert_eq!(timestamp(text), Ok(Moment::Beyond), "{text}");
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
