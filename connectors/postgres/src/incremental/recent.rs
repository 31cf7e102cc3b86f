//! Transactions that were delivered lately: a chunk must see each that came before it.
//!
//! PostgreSQL sends a transaction once its commit is in the WAL, and shows it to others only after
//! that; seconds later where a synchronous standby lets it wait. A chunk that is read in between has
//! the row as it was, and would put it above the change that the log has already.

use std::collections::VecDeque;

use crate::visibility::{Snapshot, widen};

/// Transactions that are kept. Those before are only known to be older than the last of them.
const KEPT_MAX: usize = 1 << 14;

/// The transactions of this stream, the oldest of them by a bound.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Every delivered transaction that is not kept has a lower id, in 64 bits; 0 before that is
    /// known of those that were delivered before this stream.
    floor: u64,
    kept: VecDeque<u32>,
    /// How many were delivered, ever.
    count: usize,
}

impl Recent {
    /// Transactions that were delivered before this stream have ids below `next`, which the server
    /// drew after its start. (The end of a snapshot is no such bound: what runs may be beyond it.) So
    /// have those that wrote to a table before it was published, of which the stream has nothing.
    pub(crate) fn begin(&mut self, next: u64) {
        if self.floor == 0 {
            self.floor = next;
        }
    }

    /// The next transaction is delivered.
    pub(crate) fn push(&mut self, xid: u32) {
        if self.kept.len() == KEPT_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            // Before the floor is known, it will be above this.
            if self.floor > 0 {
                self.floor = self.floor.max(widen(self.floor, oldest) + 1);
            }
        }
        self.kept.push_back(xid);
        self.count += 1;
    }

    /// How many were delivered so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether `snapshot` sees the first `count` of them.
    pub(crate) fn are_seen(&self, snapshot: &Snapshot, count: usize) -> bool {
        let forgotten = self.count - self.kept.len();
        let kept = count.saturating_sub(forgotten);
        let is_past = self.floor > 0 && snapshot.xmin >= self.floor;
        is_past && self.kept.iter().take(kept).all(|xid| snapshot.sees(*xid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn what_was_delivered_before_must_be_seen_and_what_came_later_need_not() {
        let mut recent = Recent::default();
        assert!(!recent.are_seen(&snapshot("200:200:"), 0), "nothing is known");
        recent.begin(100);
        recent.begin(190);
        assert!(!recent.are_seen(&snapshot("95:105:95"), 0), "95 may have been delivered");
        assert!(recent.are_seen(&snapshot("100:105:"), 0));
        recent.push(102);
        assert!(!recent.are_seen(&snapshot("102:105:102"), 1), "it is not visible yet");
        assert!(recent.are_seen(&snapshot("102:105:102"), 0), "it came later");
        assert!(!recent.are_seen(&snapshot("101:102:"), 1), "it is of the future");
        assert!(recent.are_seen(&snapshot("103:105:"), 1));
    }

    #[test]
    fn what_is_forgotten_is_bounded_by_the_floor() {
        let mut recent = Recent::default();
        recent.begin(100);
        (100..100 + u32::try_from(KEPT_MAX).unwrap() + 10).for_each(|xid| recent.push(xid));
        assert!(!recent.are_seen(&snapshot("105:20000:105"), recent.count()), "105 is forgotten");
        assert!(recent.are_seen(&snapshot("20000:20000:"), recent.count()));
    }

    #[test]
    fn ids_wrap() {
        let epoch = 1 << 32;
        let mut recent = Recent::default();
        recent.begin(epoch - 1);
        recent.push(u32::MAX);
        recent.push(3);
        assert!(recent.are_seen(&snapshot(&format!("{0}:{0}:", epoch + 4)), 2));
        assert!(!recent.are_seen(&snapshot(&format!("{0}:{1}:{0}", epoch + 3, epoch + 4)), 2));
    }
}
