//! How fast a figure grows, whatever single steps it takes.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples that count: two and a half minutes at the default interval. A slot lets go of WAL in
/// steps, at each record of the running transactions (every 15 s), so several must fit.
const SAMPLES_MAX: usize = 30;
/// Fewer say nothing of a trend.
const SAMPLES_MIN: usize = 4;

/// The latest samples.
#[derive(Debug, Default)]
pub(super) struct Growth(VecDeque<(Duration, u64)>);

impl Growth {
    pub(super) fn push(&mut self, at: Duration, bytes: u64) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at, bytes));
    }

    /// The median of the slopes between any two samples (Theil and Sen): up to 29 % of them may
    /// be anything without moving it far.
    pub(super) fn bytes_per_second(&self) -> Option<i64> {
        if self.0.len() < SAMPLES_MIN {
            return None;
        }
        let pairs = self.0.iter().enumerate();
        let mut slopes: Vec<i64> = pairs
            .flat_map(|(place, first)| {
                self.0.iter().skip(place + 1).filter_map(|second| slope(*first, *second))
            })
            .collect();
        slopes.sort_unstable();
        slopes.get(slopes.len() / 2).copied()
    }
}

fn slope((then, before): (Duration, u64), (now, after): (Duration, u64)) -> Option<i64> {
    let elapsed_us = i128::try_from(now.checked_sub(then)?.as_micros()).ok()?;
    let grown = i128::from(after) - i128::from(before);
    i64::try_from((grown * 1_000_000).checked_div(elapsed_us)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(samples: impl IntoIterator<Item = u64>) -> Option<i64> {
        let mut growth = Growth::default();
        for (at, bytes) in (0..).zip(samples) {
            growth.push(Duration::from_secs(at), bytes);
        }
        growth.bytes_per_second()
    }

    #[test]
    fn a_trend_shows_through_steps_and_outliers() {
        assert_eq!(growth([1, 2, 3]), None);
        assert_eq!(growth((0..40).map(|n| n * 10)), Some(10));
        assert_eq!(growth((0..40).rev().map(|n| n * 10)), Some(-10));
        assert_eq!(growth([5; 30]), Some(0));
        let outliers = (0..30).map(|n| if n % 7 == 0 { 1 << 40 } else { n * 10 });
        let seen = growth(outliers).unwrap();
        assert!((8..=12).contains(&seen), "{seen}");
        // A slot that keeps up lets go of everything every few samples.
        let saw = growth((0..30).map(|n| (n % 3) * 1_000)).unwrap();
        assert!(saw.abs() < 100, "{saw}");
    }

    #[test]
    fn samples_at_one_moment_have_no_slope() {
        let mut growth = Growth::default();
        (0..10).for_each(|bytes| growth.push(Duration::ZERO, bytes));
        assert_eq!(growth.bytes_per_second(), None);
    }
}
