//! Reads a topic, or parts of its partitions, as far as it is committed, without being in a group.
//!
//! Blocking: call it where blocking is allowed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anabranch_core::{ErrorKind, Result};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::context::{Quiet, Trouble};
use crate::{KafkaConfig, Names, error};

/// How long a broker may take to answer before it counts as unreachable.
pub(crate) const BROKER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one look into the queue of fetched records waits.
const POLL: Duration = Duration::from_millis(100);

/// A consumer that is not a member of any group.
pub(crate) struct Reader {
    consumer: BaseConsumer<Quiet>,
    trouble: Trouble,
}

/// The first and the end offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Borders {
    pub(crate) start: i64,
    /// After the last record that is committed, or its marker.
    pub(crate) end: i64,
}

/// A part of a partition: from one offset up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) partition: i32,
    pub(crate) from: i64,
    pub(crate) end: i64,
}

impl Reader {
    pub(crate) fn new(config: &KafkaConfig) -> Result<Self> {
        let context = Quiet::default();
        let trouble = context.trouble.clone();
        let client = config.consumer(&Names::new(config).reader());
        let consumer = BaseConsumer::from_config_and_context(&client, context)
            .map_err(|e| error::classify("make a Kafka consumer", e, &trouble))?;
        Ok(Self { consumer, trouble })
    }

    /// How many partitions `topic` has; `None` if there is no such topic.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        partitions(&self.consumer, topic, &self.trouble)
    }

    /// Hands every record of partition 0 of `topic`, from offset `from` up to `end`, to `visit`.
    ///
    /// The end is the caller's: while somebody writes all the time, the partition has none.
    pub(crate) fn read(
        &self,
        topic: &str,
        (from, end): (i64, i64),
        visit: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        self.read_ranges(topic, &[Range { partition: 0, from, end }], visit)
    }

    /// Hands every record of each of `ranges`, which are of different partitions, to `visit`; those
    /// of one partition in their order.
    pub(crate) fn read_ranges(
        &self,
        topic: &str,
        ranges: &[Range],
        mut visit: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let action = || format!("read topic {topic}");
        let classify = |e: KafkaError| error::classify(action(), e, &self.trouble);
        let mut assignment = TopicPartitionList::new();
        for Range { partition, from, .. } in ranges {
            assignment
                .add_partition_offset(topic, *partition, Offset::Offset(*from))
                .map_err(classify)?;
        }
        self.consumer.assign(&assignment).map_err(classify)?;
        // Those that an earlier call was done with.
        self.consumer.resume(&assignment).map_err(classify)?;
        let mut open: HashMap<i32, i64> =
            ranges.iter().map(|range| (range.partition, range.end)).collect();
        let mut deadline = Instant::now() + BROKER_TIMEOUT;
        while Instant::now() < deadline && !open.is_empty() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(record)) => match open.get(&record.partition()) {
                    Some(end) if record.offset() < *end => {
                        visit(&record)?;
                        deadline = Instant::now() + BROKER_TIMEOUT;
                    }
                    Some(_) => {
                        open.remove(&record.partition());
                        // What comes after the end is nothing to fetch while others go on.
                        let mut done = TopicPartitionList::new();
                        done.add_partition(topic, record.partition());
                        self.consumer.pause(&done).map_err(classify)?;
                    }
                    // It was fetched already.
                    None => {}
                },
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(e)) if error::kind(&e) != ErrorKind::Transient => return Err(classify(e)),
                Some(Err(e)) => tracing::debug!(topic, error = %e, "still reading"),
            }
        }
        if !open.is_empty() {
            return Err(classify(KafkaError::NoMessageReceived));
        }
        self.consumer.unassign().map_err(classify)
    }

    /// Those of `groups` that Kafka knows.
    pub(crate) fn existing_groups(&self, groups: Vec<String>) -> Result<Vec<String>> {
        let known = self
            .consumer
            .fetch_group_list(None, BROKER_TIMEOUT)
            .map_err(|e| error::classify("list the consumer groups", e, &self.trouble))?;
        let is_known = |group: &String| known.groups().iter().any(|known| known.name() == group);
        Ok(groups.into_iter().filter(is_known).collect())
    }

    /// The borders of some partitions of a topic.
    pub(crate) fn borders(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Borders>> {
        borders(&self.consumer, topic, partitions, &self.trouble)
    }
}

/// How many partitions `topic` has; `None` if there is no such topic.
pub(crate) fn partitions<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    trouble: &Trouble,
) -> Result<Option<i32>> {
    let action = || format!("look at topic {topic}");
    let metadata = consumer
        .fetch_metadata(Some(topic), BROKER_TIMEOUT)
        .map_err(|e| error::classify(action(), e, trouble))?;
    error::topic_partitions(&metadata, topic).map_err(|e| error::classify(action(), e, trouble))
}

/// The borders of some partitions of a topic, in their order: two requests to each leader.
pub(crate) fn borders<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    trouble: &Trouble,
) -> Result<Vec<Borders>> {
    let deadline = Instant::now() + BROKER_TIMEOUT;
    let ask = |offset| loop {
        let wanted = partitions.iter().map(|partition| (topic, *partition));
        match offsets(consumer, wanted, offset, BROKER_TIMEOUT) {
            // A topic that was just created has no leaders for a moment.
            Err(e) if error::is_leaderless(&e) && Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            answer => {
                let action = || format!("find the ends of topic {topic}");
                return answer.map_err(|e| error::classify(action(), e, trouble));
            }
        }
    };
    let (starts, ends) = (ask(Offset::Beginning)?, ask(Offset::End)?);
    Ok(starts.into_iter().zip(ends).map(|(start, end)| Borders { start, end }).collect())
}

/// The first ([`Offset::Beginning`]) or the end ([`Offset::End`]) offsets of some partitions, in
/// their order. A consumer that reads what is committed is told the end of that.
pub(crate) fn offsets<'a, C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: impl Iterator<Item = (&'a str, i32)> + Clone,
    which: Offset,
    timeout: Duration,
) -> Result<Vec<i64>, KafkaError> {
    let mut wanted = TopicPartitionList::new();
    for (topic, partition) in partitions.clone() {
        // The request is that for a time; the two ends are times below zero.
        wanted.add_partition_offset(topic, partition, which)?;
    }
    if wanted.count() == 0 {
        return Ok(Vec::new());
    }
    let found = consumer.offsets_for_times(wanted, timeout)?;
    partitions
        .map(|(topic, partition)| {
            let Some(unit) = found.find_partition(topic, partition) else {
                return Err(KafkaError::NoMessageReceived);
            };
            unit.error()?;
            match unit.offset() {
                Offset::Offset(offset) => Ok(offset),
                Offset::Beginning
                | Offset::End
                | Offset::Stored
                | Offset::Invalid
                | Offset::OffsetTail(_) => Err(KafkaError::NoMessageReceived),
            }
        })
        .collect()
}
