//! How far ahead of their events re-reads have looked.
//!
//! ```text
//! commits ──┬────────┬─────────▶ LSN
//!           from     └ switch   seen      an event at `from` may hold a value written before `seen`
//! ```
//!
//! A re-read may find a value that is newer than its event, and counts on the event that brought it
//! to follow. If the history forks in between, that event never comes. The invariant: for every
//! re-read of this history there is an entry whose `from` is at or before its event and whose
//! `seen` is at or after everything that it may have found.

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// What one batch with re-reads may have found, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// The commit of the earliest event.
    pub from: Lsn,
    /// The end of everything that was there to be found.
    pub seen: Lsn,
}

/// The re-reads of a history, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rereads(Vec<Reread>);

/// Entries that a position record holds. Neighbours are merged above that, older ones into wider
/// ones, so that the reach of a fork is at most a small multiple of how far it goes back.
const ENTRIES_MAX: usize = 32;

impl Rereads {
    /// Whether nothing was read again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in the next batch: its earliest event with a re-read, and what that may have found.
    pub fn add(&mut self, from: Lsn, seen: Lsn) {
        self.0.push(Reread { from, seen });
        if self.0.len() > ENTRIES_MAX {
            let place = self.narrowest();
            if let Some(second) = self.0.get(place + 1).copied()
                && let Some(first) = self.0.get_mut(place)
            {
                first.from = first.from.min(second.from);
                first.seen = first.seen.max(second.seen);
                self.0.remove(place + 1);
            }
        }
    }

    /// The earliest commit whose event may hold something written at or after `lsn`.
    #[must_use]
    pub fn reach(&self, lsn: Lsn) -> Option<Lsn> {
        self.0.iter().filter(|entry| entry.seen > lsn).map(|entry| entry.from).min()
    }

    /// The oldest two neighbours that together are no wider than they are old, else the oldest two.
    fn narrowest(&self) -> usize {
        let end = self.0.iter().map(|entry| entry.seen.0).max().unwrap_or(0);
        let fits = |pair: &[Reread]| match pair {
            [first, second] => {
                let width = second.seen.0.saturating_sub(first.from.0);
                width <= end.saturating_sub(second.seen.0)
            }
            _ => false,
        };
        self.0.windows(2).position(fits).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(batches: u64) -> Rereads {
        let mut rereads = Rereads::default();
        for batch in 1..=batches {
            rereads.add(Lsn(batch * 1_000), Lsn(batch * 1_000 + 1_500));
        }
        rereads
    }

    #[test]
    fn a_fork_reaches_every_event_that_may_have_seen_beyond_it() {
        for batches in [0, 1, 5, 40, 3_000] {
            let rereads = filled(batches);
            assert!(rereads.0.len() <= ENTRIES_MAX, "{batches}");
            for switch in (0..batches * 1_000 + 3_000).step_by(487) {
                let first = (1..=batches).find(|batch| batch * 1_000 + 1_500 > switch);
                let reach = rereads.reach(Lsn(switch));
                assert_eq!(reach.is_some(), first.is_some(), "{batches} {switch}");
                if let (Some(reach), Some(first)) = (reach, first) {
                    assert!(reach.0 <= first * 1_000, "{batches} {switch}: {reach}");
                }
            }
        }
    }

    #[test]
    fn a_fork_nearby_does_not_reach_far_back() {
        let rereads = filled(3_000);
        for back in [1_000_u64, 10_000, 100_000, 1_000_000] {
            let switch = 3_000_000 - back;
            let reach = rereads.reach(Lsn(switch)).unwrap();
            assert!(switch - reach.0 <= 2 * back + 5_000, "{back}: {reach}");
        }
    }

    #[test]
    fn entries_are_a_plain_list() {
        let rereads = filled(1);
        let json = serde_json::to_string(&rereads).unwrap();
        assert_eq!(json, r#"[{"from":"0/3E8","seen":"0/9C4"}]"#);
        assert_eq!(serde_json::from_str::<Rereads>(&json).unwrap(), rereads);
    }
}
