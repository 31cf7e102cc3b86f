//! Where the partitions of a topic are read from: asks Kafka, decides, and starts the fetching.
//!
//! ```text
//! pause ─▶ committed offsets, borders ─▶ resume(): next · reset · Lost ─▶ seek ─▶ split ─▶ resume
//! ```
//!
//! The decision is [`anabranch_core::resume`]'s; here is what it is decided from. Blocking: call
//! it where blocking is allowed. A lease may end meanwhile, and its successor seek the same
//! partitions: only who steers ([`Lease::steer`]) touches the consumer.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use anabranch_core::resume::{Committed, Mark, Partition, Resume, resume};
use anabranch_core::{CURSOR_FORMAT, Error, LastRecord, Result, StoreCursor, UnitCursor};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::error;
use crate::feed::{Feed, Start};
use crate::lease::Lease;
use crate::member::{Member, MemberConsumer};
use crate::reader::{self, BROKER_TIMEOUT, Borders};

/// How long a partition may take to start after its assignment: others are stopped first.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at whether it has.
const START_POLL: Duration = Duration::from_millis(50);

/// How long the request that wakes the fetching may take; it is of no other use.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Which history a cursor must be of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of {
    pub(crate) log: Uuid,
    pub(crate) generation: u32,
}

/// Where a topic goes on.
#[derive(Debug)]
pub(crate) struct Sought {
    pub(crate) feeds: Vec<Feed>,
    /// The cursor of every partition.
    pub(crate) cursor: StoreCursor,
    /// The offset that the last reset of each partition asked for.
    pub(crate) reset_to: Vec<(i32, i64)>,
    /// A reset was taken: the target must hold `cursor` before anything else.
    pub(crate) is_reset: bool,
}

/// What was decided for one partition.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) start: Start,
    pub(crate) cursor: UnitCursor,
    pub(crate) reset_to: i64,
    pub(crate) is_reset: bool,
}

/// Decides where to go on after `after`, and starts the fetching there.
pub(crate) fn seek(
    consumer: &Arc<MemberConsumer>,
    lease: &Arc<Lease>,
    after: &StoreCursor,
    of: Of,
) -> Result<Sought> {
    let trouble = &consumer.context().trouble;
    let action = || format!("find where to go on in topic {}", lease.topic);
    let classify = |e: KafkaError| error::classify(action(), e, trouble);
    let partitions: Vec<i32> = lease.units.keys().copied().collect();
    let mut units = TopicPartitionList::new();
    for partition in &partitions {
        units.add_partition(&lease.topic, *partition);
    }
    {
        let _held = lease.steer().ok_or_else(|| revoked(&lease.topic))?;
        consumer.pause(&units).map_err(classify)?;
    }
    let committed = consumer.committed_offsets(units.clone(), BROKER_TIMEOUT).map_err(classify)?;
    let borders = reader::borders(consumer, &lease.topic, &partitions, trouble)?;
    let mut decisions = Vec::new();
    for (partition, borders) in partitions.iter().zip(borders) {
        let committed = committed_of(&committed, &lease.topic, *partition).map_err(classify)?;
        let cursor = after.get(partition);
        decisions.push(decide(cursor, committed, (&lease.topic, *partition, borders), of)?);
    }
    start(consumer, lease, decisions)
}

fn committed_of(
    offsets: &TopicPartitionList,
    topic: &str,
    partition: i32,
) -> Result<Option<Committed>, KafkaError> {
    let Some(unit) = offsets.find_partition(topic, partition) else {
        return Err(KafkaError::NoMessageReceived);
    };
    unit.error()?;
    Ok(match unit.offset() {
        Offset::Offset(offset) => Some(Committed { offset, mark: unit.metadata().parse().ok() }),
        Offset::Beginning
        | Offset::End
        | Offset::Stored
        | Offset::Invalid
        | Offset::OffsetTail(_) => None,
    })
}

/// Decides for one partition.
pub(crate) fn decide(
    cursor: Option<&UnitCursor>,
    committed: Option<Committed>,
    (topic, partition, borders): (&str, i32, Borders),
    of: Of,
) -> Result<Decision> {
    let name = format!("{topic}[{partition}]");
    if let Some(cursor) = cursor.filter(|cursor| cursor.format > CURSOR_FORMAT) {
        return Err(newer_format(&name, cursor.format));
    }
    let Of { log, generation } = of;
    let Borders { start, end } = borders;
    let known = Partition { name: &name, log, generation, start, end };
    let mark = committed.and_then(|committed| committed.mark);
    let mark = mark.filter(|mark| (mark.log, mark.generation) == (log, generation));
    let decided = resume(cursor, committed, &known)?;
    let (next, resets, last, check, is_reset) = match decided {
        Resume::At { next, check } => {
            let resets = cursor.map_or(0, |cursor| cursor.resets);
            (next, resets, cursor.and_then(|cursor| cursor.last), check, false)
        }
        Resume::Reset { next, resets } => (next, resets, None, None, true),
    };
    Ok(Decision {
        start: Start { partition, next, end, check },
        cursor: UnitCursor { format: CURSOR_FORMAT, log, generation, resets, next, last },
        reset_to: asked_for(mark, resets).unwrap_or(if is_reset { next } else { start }),
        is_reset,
    })
}

/// The offset that the last reset asked for, if a mark tells. (If none does, a store that lost
/// the reset replays all there is.)
fn asked_for(mark: Option<Mark>, resets: u32) -> Option<i64> {
    mark.filter(|mark| mark.resets == resets).map(|mark| mark.reset_to)
}

fn start(
    consumer: &Arc<MemberConsumer>,
    lease: &Arc<Lease>,
    decisions: Vec<Decision>,
) -> Result<Sought> {
    let topic = &lease.topic;
    let trouble = &consumer.context().trouble;
    let classify = |e: KafkaError| error::classify(format!("seek in topic {topic}"), e, trouble);
    let mut targets = TopicPartitionList::new();
    for Decision { start, .. } in &decisions {
        let from = start.check.map_or(start.next, |LastRecord { offset, .. }| offset);
        let from = Offset::Offset(from);
        targets.add_partition_offset(topic, start.partition, from).map_err(classify)?;
    }
    let (held, sought) = seek_started(consumer, lease, &targets)?;
    // They are dropped before `held`: that takes the callbacks away, and must not be a successor's.
    let mut feeds = Vec::new();
    for Decision { start, .. } in &decisions {
        // A partition that was sought is started, so nothing joins its queue to another now.
        let queue = consumer.split_partition_queue(topic, start.partition);
        let mut queue = queue.ok_or(KafkaError::NoMessageReceived).map_err(classify)?;
        let woken = Arc::clone(lease);
        queue.set_nonempty_callback(move || woken.wake.notify_one());
        let stats = lease.units.get(&start.partition).map(Arc::clone).unwrap_or_default();
        feeds.push(Feed::new((topic, start), queue, stats, trouble.clone()));
    }
    consumer.resume(&sought).map_err(classify)?;
    if !lease.is_live() {
        return Err(revoked(topic));
    }
    drop(held);
    wake(consumer, topic, &decisions);
    Ok(Sought {
        feeds,
        is_reset: decisions.iter().any(|decision| decision.is_reset),
        reset_to: decisions.iter().map(|d| (d.start.partition, d.reset_to)).collect(),
        cursor: decisions.into_iter().map(|d| (d.start.partition, d.cursor)).collect(),
    })
}

/// Wakes the threads that fetch: one that has nothing under way looks for resumed partitions once
/// a second, or when it has something to send.
fn wake(consumer: &Arc<MemberConsumer>, topic: &str, decisions: &[Decision]) {
    let units = decisions.iter().map(|decision| (topic, decision.start.partition));
    if let Err(e) = reader::offsets(consumer, units, Offset::End, WAKE_TIMEOUT) {
        tracing::debug!(topic, error = %e, "they wake by themselves");
    }
}

/// Seeks in partitions that were assigned, and may not have been started yet. Nobody else may
/// steer them until the guard is dropped.
fn seek_started<'lease>(
    consumer: &Arc<MemberConsumer>,
    lease: &'lease Lease,
    targets: &TopicPartitionList,
) -> Result<(MutexGuard<'lease, ()>, TopicPartitionList)> {
    let topic = &lease.topic;
    let Member { leases, trouble } = consumer.context().as_ref();
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let held = lease.steer().ok_or_else(|| revoked(topic))?;
        let sought = consumer
            .seek_partitions(targets.clone(), BROKER_TIMEOUT)
            .map_err(|e| error::classify(format!("seek in topic {topic}"), e, trouble))?;
        let Some(e) = sought.elements().iter().find_map(|unit| unit.error().err()) else {
            return Ok((held, sought));
        };
        drop(held);
        // What was revoked cannot be sought, and that is no reason to leave the group.
        if Instant::now() > deadline && lease.is_live() {
            // Its fetching was stopped by an error: only a new member can start it again.
            leases.fail(error::transient(format!("seek in topic {topic}"), e.to_string()));
            return Err(error::classify(format!("seek in topic {topic}"), e, trouble));
        }
        std::thread::sleep(START_POLL);
    }
}

/// The lease has ended; its source comes to its end, and nobody is told of this.
fn revoked(topic: &str) -> Error {
    error::transient(format!("seek in topic {topic}"), "its partitions were revoked")
}

fn newer_format(name: &str, format: u16) -> Error {
    error::config(
        format!("go on in {name}"),
        format!(
            "the store's cursor has format {format}, and this release reads up to {CURSOR_FORMAT}"
        ),
        "run the release that wrote it, or a newer one",
    )
}

#[cfg(test)]
mod tests {
    use anabranch_core::{Epoch, ErrorKind, Lsn, Version};

    use super::*;
    use crate::context::Trouble;
    use crate::lease::Leases;

    const OF: Of = Of { log: Uuid::from_u128(7), generation: 1 };
    const BORDERS: Borders = Borders { start: 10, end: 100 };

    fn cursor(next: i64, resets: u32) -> UnitCursor {
        let version = Version::new(Epoch(0), Lsn(64), 0);
        let last = Some(LastRecord { offset: next - 1, version });
        let Of { log, generation } = OF;
        UnitCursor { format: CURSOR_FORMAT, log, generation, resets, next, last }
    }

    fn committed(offset: i64, mark: Option<(u32, i64)>) -> Option<Committed> {
        let Of { log, generation } = OF;
        let mark = mark.map(|(resets, reset_to)| Mark { log, generation, resets, reset_to });
        Some(Committed { offset, mark })
    }

    fn decided(cursor: Option<&UnitCursor>, committed: Option<Committed>) -> Decision {
        decide(cursor, committed, ("t", 0, BORDERS), OF).unwrap()
    }

    #[test]
    fn the_cursor_goes_on_and_its_record_is_looked_at() {
        let held = cursor(50, 2);
        let decision = decided(Some(&held), committed(40, Some((2, 33))));
        assert_eq!(decision.cursor, held);
        assert_eq!(decision.start.check, held.last);
        assert_eq!((decision.reset_to, decision.is_reset), (33, false));
        let decision = decided(Some(&held), None);
        assert_eq!(decision.reset_to, 10, "nobody knows what was asked for: all there is");
    }

    #[test]
    fn a_reset_forgets_the_record_and_is_remembered_by_its_offset() {
        let held = cursor(50, 2);
        let decision = decided(Some(&held), committed(20, None));
        assert_eq!(decision.cursor, UnitCursor { next: 20, resets: 3, last: None, ..held });
        assert_eq!((decision.start.check, decision.reset_to), (None, 20));
        assert!(decision.is_reset);
        let restored = cursor(15, 0);
        let decision = decided(Some(&restored), committed(90, Some((1, 20))));
        assert_eq!((decision.start.next, decision.cursor.resets), (15, 1));
        assert_eq!(decision.reset_to, 20, "what was asked for, not where it had to begin");
    }

    #[test]
    fn a_cursor_of_a_newer_release_is_refused() {
        let held = UnitCursor { format: CURSOR_FORMAT + 1, ..cursor(50, 0) };
        let error = decide(Some(&held), None, ("t", 0, BORDERS), OF).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    /// A member that is assigned nothing, and knows no broker: no seek succeeds.
    fn lonely() -> Arc<MemberConsumer> {
        let leases = Arc::new(Leases::default());
        leases.add(&[("t".to_owned(), 0)]);
        let mut client = rdkafka::ClientConfig::new();
        client.set("group.id", "g");
        let member = Member { leases, trouble: Trouble::default() };
        Arc::new(client.create_with_context(member).unwrap())
    }

    #[test]
    fn a_revocation_during_a_seek_does_not_end_the_membership() {
        let consumer = lonely();
        let leases = &consumer.context().leases;
        let lease = leases.of("t").unwrap();
        let sought = std::thread::scope(|scope| {
            let seeking =
                scope.spawn(|| start(&consumer, &lease, vec![decided(Some(&cursor(50, 0)), None)]));
            leases.remove(&[("t".to_owned(), 0)]);
            seeking.join().unwrap()
        });
        let error = sought.unwrap_err();
        assert!(error.report().contains("revoked"), "{error:?}");
        assert!(leases.take_failure().is_none());
    }

    #[test]
    fn a_partition_that_never_starts_ends_the_membership() {
        let consumer = lonely();
        let leases = &consumer.context().leases;
        let lease = leases.of("t").unwrap();
        start(&consumer, &lease, vec![decided(Some(&cursor(50, 0)), None)]).unwrap_err();
        assert!(leases.take_failure().is_some());
    }
}
