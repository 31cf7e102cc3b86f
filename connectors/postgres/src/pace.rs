//! A bound on how many rows are looked up, or read beside the stream, in a second.
//!
//! A token bucket, kept as the one moment from which on the next rows may be asked for. What it
//! makes wait is whoever needs the rows; the task that answers the server goes on.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// What may be asked for at once after a rest: as much as in this time.
const BURST: Duration = Duration::from_secs(1);
/// Slices of a second, so that the load is even.
const SLICES_PER_SECOND: u32 = 4;

/// The bound, and how much of it is used up.
#[derive(Debug)]
pub(crate) struct Pace {
    rows_per_second: Option<NonZeroU32>,
    next_at: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(rows_per_second: Option<NonZeroU32>) -> Self {
        Self { rows_per_second, next_at: None }
    }

    /// How many rows to ask for at once.
    pub(crate) fn slice_rows(&self) -> usize {
        let slice = self.rows_per_second.map(|rows| (rows.get() / SLICES_PER_SECOND).max(1));
        slice.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// Takes `rows`; returns how long to wait before they may be asked for.
    pub(crate) fn take(&mut self, rows: usize, now: Instant) -> Duration {
        let Some(rows_per_second) = self.rows_per_second else { return Duration::ZERO };
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let cost = Duration::from_secs(u64::from(rows)) / rows_per_second.get();
        let rested = now.checked_sub(BURST).unwrap_or(now);
        let at = self.next_at.map_or(rested, |next| next.max(rested));
        self.next_at = Some(at + cost);
        at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rows_per_second: u32) -> Pace {
        Pace::new(NonZeroU32::new(rows_per_second))
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_run_keeps_the_rate_and_a_rest_allows_one_burst() {
        let mut pace = pace(100);
        let began = Instant::now();
        for _ in 0..40 {
            tokio::time::sleep(pace.take(25, Instant::now())).await;
        }
        // 1000 rows at 100 a second are 10 s; a burst of a second, and the last slice, come free.
        assert_eq!(began.elapsed(), Duration::from_millis(8_750));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let at_once = (0..40).take_while(|_| pace.take(25, Instant::now()).is_zero()).count();
        assert_eq!(at_once, 5, "not an hour's worth");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nothing_waits_and_nothing_is_cut() {
        let mut free = Pace::new(None);
        assert_eq!(free.slice_rows(), usize::MAX);
        assert_eq!(free.take(1_000_000, Instant::now()), Duration::ZERO);
        assert_eq!((pace(100).slice_rows(), pace(1).slice_rows()), (25, 1));
    }
}
