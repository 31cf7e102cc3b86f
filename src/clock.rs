//! The one place that reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970 UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "everything else takes the time from here")]
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
