//! How far a sink is behind the log, readable at any time and from any thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No time is known.
const NEVER: i64 = i64::MIN;

/// How far a sink is in the partitions that it owns.
#[derive(Debug, Default)]
pub struct GroupStats {
    units: Mutex<BTreeMap<(String, i32), Arc<UnitStats>>>,
    /// When Kafka last said where the partitions end.
    answered: Mutex<Option<Instant>>,
}

/// The figures of one partition, as they change.
#[derive(Debug)]
pub(crate) struct UnitStats {
    next: AtomicI64,
    end: AtomicI64,
    /// Records read and not applied yet.
    pending: AtomicI64,
    /// Everything in the partition has been read.
    at_end: AtomicBool,
    applied_us: AtomicI64,
    waiting_us: AtomicI64,
}

/// How far a sink is in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset to apply.
    pub next: i64,
    /// The offset after the last committed record.
    pub end: i64,
    /// Records that are not applied yet. Exact near the end; further behind, the markers of
    /// transactions are counted too.
    pub events: i64,
    /// Whether everything has been read and applied.
    pub caught_up: bool,
    /// Commit time of the newest event applied by this process, microseconds since 1970 UTC.
    pub applied_us: Option<i64>,
    /// Commit time of the oldest event read and not applied yet, likewise.
    pub waiting_us: Option<i64>,
}

impl UnitLag {
    /// Seconds from the commit of the oldest change that is not applied until `now_us`, in
    /// microseconds since 1970 UTC; 0 if there is none.
    #[must_use]
    pub fn seconds(&self, now_us: i64) -> f64 {
        if self.caught_up {
            return 0.0;
        }
        let Some(since) = self.waiting_us.or(self.applied_us) else { return 0.0 };
        let behind = Duration::from_micros(u64::try_from(now_us - since).unwrap_or(0));
        behind.as_secs_f64()
    }
}

impl GroupStats {
    /// Every partition that the sink owns now.
    #[must_use]
    pub fn units(&self) -> Vec<UnitLag> {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.iter().map(|((topic, partition), unit)| unit.lag(topic, *partition)).collect()
    }

    /// How long ago Kafka last said where the partitions end; `None` if it never did.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.map(|at| at.elapsed())
    }

    pub(crate) fn unit(&self, topic: &str, partition: i32) -> Arc<UnitStats> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = units.entry((topic.to_owned(), partition)).or_default();
        Arc::clone(unit)
    }

    pub(crate) fn forget(&self, topic: &str, partition: i32) {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.remove(&(topic.to_owned(), partition));
    }

    /// Takes note of where Kafka says that the partitions end.
    pub(crate) fn ends(&self, ends: impl Iterator<Item = (String, i32, i64)>) {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, partition, end) in ends {
            if let Some(unit) = units.get(&(topic, partition)) {
                unit.end.fetch_max(end, Ordering::Relaxed);
            }
        }
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Default for UnitStats {
    fn default() -> Self {
        Self {
            next: AtomicI64::new(0),
            end: AtomicI64::new(0),
            pending: AtomicI64::new(0),
            at_end: AtomicBool::new(false),
            applied_us: AtomicI64::new(NEVER),
            waiting_us: AtomicI64::new(NEVER),
        }
    }
}

impl UnitStats {
    /// A run begins at `next`, in a partition that ends at `end`.
    pub(crate) fn begin(&self, next: i64, end: i64) {
        self.next.store(next, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.pending.store(0, Ordering::Relaxed);
        self.at_end.store(false, Ordering::Relaxed);
        self.waiting_us.store(NEVER, Ordering::Relaxed);
    }

    /// How many records are read and not applied, whether they are all there is, and when the
    /// oldest of them was committed.
    pub(crate) fn read(&self, pending: usize, at_end: bool, waiting_us: Option<i64>) {
        self.pending.store(i64::try_from(pending).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.at_end.store(at_end, Ordering::Relaxed);
        self.waiting_us.store(waiting_us.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Everything before `next` is applied; the newest event of it was committed at `newest_us`.
    pub(crate) fn applied(&self, next: i64, newest_us: Option<i64>) {
        self.next.store(next, Ordering::Relaxed);
        self.end.fetch_max(next, Ordering::Relaxed);
        if let Some(newest_us) = newest_us {
            self.applied_us.store(newest_us, Ordering::Relaxed);
        }
    }

    fn lag(&self, topic: &str, partition: i32) -> UnitLag {
        let next = self.next.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let pending = self.pending.load(Ordering::Relaxed);
        let at_end = self.at_end.load(Ordering::Relaxed);
        let time = |us: &AtomicI64| Some(us.load(Ordering::Relaxed)).filter(|us| *us != NEVER);
        UnitLag {
            topic: topic.to_owned(),
            partition,
            next,
            end,
            events: if at_end { pending } else { pending.max(end - next) },
            caught_up: at_end && pending == 0,
            applied_us: time(&self.applied_us),
            waiting_us: time(&self.waiting_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_count_only_where_the_end_is_not_in_sight() {
        let stats = GroupStats::default();
        let unit = stats.unit("t", 0);
        unit.begin(10, 100);
        assert_eq!(stats.units()[0].events, 90);
        unit.read(5, true, Some(7_000_000));
        let lag = &stats.units()[0];
        assert_eq!((lag.events, lag.caught_up, lag.seconds(9_000_000)), (5, false, 2.0));
        unit.applied(99, Some(7_000_000));
        unit.read(0, true, None);
        let lag = &stats.units()[0];
        assert_eq!((lag.events, lag.caught_up, lag.seconds(9_000_000)), (0, true, 0.0));
        // The end moves while nothing is read.
        unit.read(0, false, None);
        stats.ends([("t".to_owned(), 0, 200)].into_iter());
        assert_eq!((stats.units()[0].events, stats.units()[0].caught_up), (101, false));
    }
}
