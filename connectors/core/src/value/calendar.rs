//! Dates and times as ISO 8601, in the proleptic Gregorian calendar.
//!
//! Years outside 0000 to 9999 have a sign and at least four digits, counted as astronomers do:
//! 44 BC is `-0043`. Every number of the log has a text: PostgreSQL's range is not assumed.

use super::output::Output;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// 400 years.
const DAYS_PER_ERA: i64 = 146_097;

/// Appends the date `days` after 1970-01-01; the extremes are PostgreSQL's infinities.
pub(super) fn date(out: &mut impl Output, days: i32) {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        days => civil_date(out, i64::from(days)),
    }
}

/// Appends a time of day; `24:00:00.000000` is one.
pub(super) fn time(out: &mut impl Output, micros: i64) {
    if micros < 0 {
        out.push_str("-");
    }
    let micros = micros.unsigned_abs();
    let seconds = micros / MICROS_PER_SECOND.unsigned_abs();
    padded(out, seconds / 3600, 2);
    out.push_str(":");
    padded(out, seconds / 60 % 60, 2);
    out.push_str(":");
    padded(out, seconds % 60, 2);
    out.push_str(".");
    padded(out, micros % MICROS_PER_SECOND.unsigned_abs(), 6);
}

/// Appends the time `micros` after 1970-01-01, with a `Z` if it `is_utc`; the extremes are
/// PostgreSQL's infinities.
pub(super) fn timestamp(out: &mut impl Output, micros: i64, is_utc: bool) {
    match micros {
        i64::MAX => return out.push_str("infinity"),
        i64::MIN => return out.push_str("-infinity"),
        _ => {}
    }
    civil_date(out, micros.div_euclid(MICROS_PER_DAY));
    out.push_str("T");
    time(out, micros.rem_euclid(MICROS_PER_DAY));
    if is_utc {
        out.push_str("Z");
    }
}

/// Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day comes last.
fn civil_date(out: &mut impl Output, days: i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    year(out, year_of_era + era * 400 + i64::from(month <= 2));
    out.push_str("-");
    padded(out, month.unsigned_abs(), 2);
    out.push_str("-");
    padded(out, day.unsigned_abs(), 2);
}

fn year(out: &mut impl Output, year: i64) {
    match year {
        ..0 => out.push_str("-"),
        0..=9999 => {}
        10_000.. => out.push_str("+"),
    }
    padded(out, year.unsigned_abs(), 4);
}

fn padded(out: &mut impl Output, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    (digits.len()..width).for_each(|_| out.push_str("0"));
    out.push_str(digits);
}
