//! What a member of the group owns: for each topic a lease on some partitions, with the offsets
//! to commit for them.
//!
//! ```text
//! rebalance ─▶ Leases: topic ─▶ Lease (live) ─▶ TopicSource ── confirm ──▶ pending commits ─▶ Kafka
//! ```
//!
//! A topic whose partitions change gets a new lease, and the old one is dead: its source comes to
//! its end, and nothing more is committed for it. That a commit comes only from a live lease is
//! what keeps a reset by a person safe: their tool works while there is no member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::Error;
use anabranch_core::resume::Mark;
use tokio::sync::Notify;

use crate::stats::{GroupStats, UnitStats};

/// An offset to commit, and our mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) offset: i64,
    pub(crate) mark: Mark,
}

/// The right to read some partitions of a topic.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) topic: String,
    /// Ascending.
    pub(crate) units: BTreeMap<i32, Arc<UnitStats>>,
    live: AtomicBool,
    /// Something is to be read, or the lease has ended.
    pub(crate) wake: Notify,
    pending: Mutex<BTreeMap<i32, Commit>>,
    /// One for all leases of a topic, however many come: see [`Lease::steer`].
    steering: Arc<Mutex<()>>,
}

/// The leases of one member.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    topics: Mutex<BTreeMap<String, Topic>>,
    /// A lease has changed, or membership has failed.
    pub(crate) changed: Notify,
    failure: Mutex<Option<Error>>,
    pub(crate) stats: Arc<GroupStats>,
}

#[derive(Debug, Default)]
struct Topic {
    partitions: BTreeSet<i32>,
    current: Option<Arc<Lease>>,
    /// The lease that the owner of the group was told of.
    told: Option<Arc<Lease>>,
    steering: Arc<Mutex<()>>,
}

/// What the owner of the group is to be told next.
#[derive(Debug)]
pub(crate) enum Told {
    Assigned(Arc<Lease>),
    Revoked(String),
}

impl Lease {
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Asks for a commit; the newest one of a partition counts.
    pub(crate) fn commit(&self, partition: i32, commit: Commit) {
        self.pending().insert(partition, commit);
    }

    /// Asks again for a commit that failed, unless there is a newer one.
    pub(crate) fn commit_again(&self, partition: i32, commit: Commit) {
        self.pending().entry(partition).or_insert(commit);
    }

    /// The commits asked for since the last time.
    pub(crate) fn take_pending(&self) -> BTreeMap<i32, Commit> {
        std::mem::take(&mut *self.pending())
    }

    /// The right to pause, seek and resume the partitions at the consumer, while it is held; `None`
    /// if the lease has ended. The next lease of the topic waits for it, so a seek that hangs in a
    /// request and goes on late cannot undo what its successor did.
    pub(crate) fn steer(&self) -> Option<MutexGuard<'_, ()>> {
        let held = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_live().then_some(held)
    }

    fn end(&self) {
        self.live.store(false, Ordering::Release);
        self.wake.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<i32, Commit>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    /// These partitions are ours now.
    pub(crate) fn add(&self, units: &[(String, i32)]) {
        self.change(units, |partitions, partition| partitions.insert(partition));
    }

    /// These partitions are ours no more: from here on nothing is read or committed for them.
    pub(crate) fn remove(&self, units: &[(String, i32)]) {
        self.change(units, |partitions, partition| partitions.remove(&partition));
        for (topic, partition) in units {
            self.stats.forget(topic, *partition);
        }
    }

    /// Begins a topic's lease anew.
    pub(crate) fn renew(&self, topic: &str) {
        self.change(&[(topic.to_owned(), 0)], |_, _| true);
    }

    /// Ends every lease.
    pub(crate) fn end_all(&self) {
        let mut topics = self.topics();
        for topic in topics.values_mut() {
            topic.partitions.clear();
            if let Some(lease) = topic.current.take() {
                lease.end();
            }
        }
        drop(topics);
        self.changed.notify_one();
    }

    fn change(&self, units: &[(String, i32)], apply: impl Fn(&mut BTreeSet<i32>, i32) -> bool) {
        let mut topics = self.topics();
        let changed: BTreeSet<&str> = units.iter().map(|(topic, _)| topic.as_str()).collect();
        for name in changed {
            let topic = topics.entry(name.to_owned()).or_default();
            for (_, partition) in units.iter().filter(|(unit, _)| unit == name) {
                apply(&mut topic.partitions, *partition);
            }
            if let Some(lease) = topic.current.take() {
                lease.end();
            }
            if !topic.partitions.is_empty() {
                topic.current = Some(Arc::new(self.lease(name, topic)));
            }
        }
        drop(topics);
        self.changed.notify_one();
    }

    fn lease(&self, name: &str, topic: &Topic) -> Lease {
        let unit = |partition: &i32| (*partition, self.stats.unit(name, *partition));
        Lease {
            topic: name.to_owned(),
            units: topic.partitions.iter().map(unit).collect(),
            live: AtomicBool::new(true),
            wake: Notify::new(),
            pending: Mutex::default(),
            steering: Arc::clone(&topic.steering),
        }
    }

    /// The next thing the owner of the group has not been told of. A lease that came and went
    /// meanwhile is passed over.
    pub(crate) fn tell(&self) -> Option<Told> {
        let mut topics = self.topics();
        for (name, topic) in topics.iter_mut() {
            let is_same = match (&topic.told, &topic.current) {
                (Some(told), Some(current)) => Arc::ptr_eq(told, current),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if is_same {
                continue;
            }
            if topic.told.take().is_some() {
                return Some(Told::Revoked(name.clone()));
            }
            if let Some(lease) = &topic.current {
                topic.told = Some(Arc::clone(lease));
                return Some(Told::Assigned(Arc::clone(lease)));
            }
        }
        None
    }

    /// The live leases.
    pub(crate) fn live(&self) -> Vec<Arc<Lease>> {
        self.topics().values().filter_map(|topic| topic.current.clone()).collect()
    }

    /// The live lease of a topic.
    pub(crate) fn of(&self, topic: &str) -> Option<Arc<Lease>> {
        self.topics().get(topic)?.current.clone()
    }

    /// Membership cannot go on.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.changed.notify_one();
    }

    /// Why membership cannot go on, once.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn units(partitions: &[i32]) -> Vec<(String, i32)> {
        partitions.iter().map(|partition| ("t".to_owned(), *partition)).collect()
    }

    fn tell(leases: &Leases) -> Vec<String> {
        std::iter::from_fn(|| leases.tell())
            .map(|told| match told {
                Told::Assigned(lease) => format!("{:?}", lease.units.keys().collect::<Vec<_>>()),
                Told::Revoked(topic) => format!("-{topic}"),
            })
            .collect()
    }

    #[test]
    fn a_changed_topic_is_revoked_and_assigned_anew() {
        let leases = Leases::default();
        leases.add(&units(&[0, 1]));
        assert_eq!(tell(&leases), ["[0, 1]"]);
        assert!(tell(&leases).is_empty());
        let old = leases.of("t").unwrap();
        leases.add(&units(&[2]));
        assert!(!old.is_live());
        assert_eq!(tell(&leases), ["-t", "[0, 1, 2]"]);
        leases.remove(&units(&[1]));
        leases.remove(&units(&[2]));
        assert_eq!(tell(&leases), ["-t", "[0]"], "what came and went is passed over");
        leases.remove(&units(&[0]));
        assert_eq!(tell(&leases), ["-t"]);
        assert!(leases.stats.units().is_empty());
        leases.add(&units(&[3]));
        leases.remove(&units(&[3]));
        assert!(tell(&leases).is_empty());
    }

    #[test]
    fn a_topic_can_be_begun_anew() {
        let leases = Leases::default();
        leases.add(&units(&[1, 2]));
        assert_eq!(tell(&leases), ["[1, 2]"]);
        leases.renew("t");
        assert_eq!(tell(&leases), ["-t", "[1, 2]"]);
        leases.end_all();
        assert_eq!(tell(&leases), ["-t"]);
        assert!(leases.live().is_empty());
    }

    #[test]
    fn a_lease_that_has_ended_steers_nothing() {
        let leases = Leases::default();
        leases.add(&units(&[0]));
        let old = leases.of("t").unwrap();
        let held = old.steer().unwrap();
        leases.renew("t");
        let new = leases.of("t").unwrap();
        assert!(new.steering.try_lock().is_err(), "it waits for what was begun before");
        drop(held);
        assert!(new.steer().is_some());
        assert!(old.steer().is_none());
        leases.remove(&units(&[0]));
        leases.add(&units(&[0]));
        let newest = leases.of("t").unwrap();
        assert!(Arc::ptr_eq(&newest.steering, &old.steering), "one for all leases of the topic");
    }

    #[test]
    fn a_failed_commit_does_not_replace_a_newer_one() {
        let leases = Leases::default();
        leases.add(&units(&[0]));
        let lease = leases.of("t").unwrap();
        let mark = Mark { log: Uuid::nil(), generation: 1, resets: 0, reset_to: 0 };
        let commit = |offset| Commit { offset, mark };
        lease.commit(0, commit(5));
        assert_eq!(lease.take_pending(), BTreeMap::from([(0, commit(5))]));
        lease.commit(0, commit(9));
        lease.commit_again(0, commit(5));
        assert_eq!(lease.take_pending(), BTreeMap::from([(0, commit(9))]));
        lease.commit_again(0, commit(9));
        assert_eq!(lease.take_pending(), BTreeMap::from([(0, commit(9))]));
    }
}
