//! One partition of a topic, from librdkafka's queue into the buffer.
//!
//! The first record after a seek is the one that the store remembers, if it is still there: it
//! must be that record, or the log is another one. Records before the next offset are passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::avro::envelope::split_header;
use anabranch_core::avro::read::Decoder;
use anabranch_core::{Error, ErrorKind, LastRecord, Result};
use bytes::Bytes;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::buffer::{Buffer, Record};
use crate::context::Trouble;
use crate::error;
use crate::member::Member;
use crate::stats::UnitStats;

/// One partition being read.
pub(crate) struct Feed {
    topic: String,
    pub(crate) partition: i32,
    queue: PartitionQueue<Member>,
    trouble: Trouble,
    stats: Arc<UnitStats>,
    pub(crate) buffer: Buffer,
    /// Nothing came after what was read.
    at_end: bool,
    /// The next offset that no batch has held.
    next: i64,
    /// The next offset that was not buffered yet: a pause in a rebalance may fetch one again.
    unread: i64,
    /// The record that must be found first, if it is there.
    check: Option<LastRecord>,
    /// What is in batches that are not confirmed, oldest first.
    in_flight: VecDeque<InFlight>,
}

/// Where a partition is to be read from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) partition: i32,
    pub(crate) next: i64,
    pub(crate) end: i64,
    pub(crate) check: Option<LastRecord>,
}

/// What a batch holds of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// The offset after it.
    pub(crate) next: i64,
    pub(crate) records: usize,
    pub(crate) oldest_us: i64,
    pub(crate) newest_us: i64,
}

/// A record whose schema has not been looked up.
#[derive(Debug)]
pub(crate) struct Raw {
    offset: i64,
    key: Bytes,
    value: Bytes,
    pub(crate) value_schema_id: i32,
}

impl Feed {
    pub(crate) fn new(
        (topic, start): (&str, &Start),
        queue: PartitionQueue<Member>,
        stats: Arc<UnitStats>,
        trouble: Trouble,
    ) -> Self {
        stats.begin(start.next, start.end);
        Self {
            topic: topic.to_owned(),
            partition: start.partition,
            queue,
            trouble,
            stats,
            buffer: Buffer::default(),
            at_end: false,
            next: start.next,
            unread: start.next,
            check: start.check,
            in_flight: VecDeque::new(),
        }
    }

    /// The next record, if one is there.
    pub(crate) fn poll(&mut self) -> Result<Option<Raw>> {
        loop {
            match self.queue.poll(Duration::ZERO) {
                None => return Ok(None),
                Some(Ok(record)) => {
                    let raw =
                        Raw::copy(&record).map_err(|seen| self.malformed(record.offset(), seen))?;
                    self.at_end = false;
                    return Ok(Some(raw));
                }
                Some(Err(end)) if error::is_partition_end(&end) => {
                    self.check = None;
                    self.at_end = true;
                    self.buffer.end();
                    self.count();
                }
                Some(Err(e)) => match error::kind(&e) {
                    ErrorKind::Transient => {
                        tracing::debug!(topic = self.topic, partition = self.partition, error = %e,
                            "still reading");
                    }
                    ErrorKind::Lost if self.check.is_some() => {
                        // Only the remembered record may have expired, since it was seen there.
                        return Err(error::transient(self.action(), e.to_string()));
                    }
                    ErrorKind::Lost => return Err(self.gone().with_source(e)),
                    ErrorKind::Config | ErrorKind::Rejected | ErrorKind::Bug => {
                        return Err(error::classify(self.action(), e, &self.trouble));
                    }
                },
            }
        }
    }

    /// Takes in a record that [`Feed::poll`] returned. `decoder` is that of its schema.
    pub(crate) fn push(&mut self, raw: Raw, decoder: &Decoder) -> Result<()> {
        let header = decoder.peek(&raw.value).map_err(|e| self.malformed(raw.offset, e))?;
        if let Some(last) = self.check.take()
            && last.offset == raw.offset
            && last.version != header.version
        {
            return Err(self.other_log(&last, &header.version.to_string()));
        }
        if raw.offset < self.unread {
            return Ok(());
        }
        self.unread = raw.offset + 1;
        let Raw { offset, key, value, value_schema_id } = raw;
        self.buffer.push(Record { offset, key, value, value_schema_id, header });
        Ok(())
    }

    /// Whether everything was read, and is in a batch.
    pub(crate) fn is_drained(&self) -> bool {
        self.at_end && self.buffer.size().rows == 0
    }

    /// A batch holds these records now.
    pub(crate) fn taken(&mut self, batch: InFlight) {
        self.next = batch.next;
        self.in_flight.push_back(batch);
        self.count();
    }

    /// Everything before `next` is applied.
    pub(crate) fn applied(&mut self, next: i64) {
        let mut newest_us = None;
        while let Some(batch) = self.in_flight.front().filter(|batch| batch.next <= next) {
            newest_us = Some(batch.newest_us);
            self.in_flight.pop_front();
        }
        self.stats.applied(next, newest_us);
        self.count();
    }

    /// Tells how far it is.
    pub(crate) fn count(&self) {
        let in_flight: usize = self.in_flight.iter().map(|batch| batch.records).sum();
        let buffered = self.buffer.first().map(|record| record.header.commit_us);
        let waiting_us = self.in_flight.front().map(|batch| batch.oldest_us).or(buffered);
        self.stats.read(in_flight + self.buffer.size().rows, self.at_end, waiting_us);
    }

    /// The record at `offset` is not what it must be.
    pub(crate) fn malformed(
        &self,
        offset: i64,
        seen: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let action = format!("read the record at {}[{}]@{offset}", self.topic, self.partition);
        Error::new(ErrorKind::Rejected, action)
            .with_source(seen)
            .with_help("look at what else writes to this topic")
    }

    fn action(&self) -> String {
        format!("read {}[{}]", self.topic, self.partition)
    }

    fn gone(&self) -> Error {
        Error::new(
            ErrorKind::Lost,
            format!("go on at {}[{}]@{}", self.topic, self.partition, self.next),
        )
        .with_help(
            "its records have expired before they were read: the store needs a new snapshot, \
                 and the topic a longer [kafka] retention_ms",
        )
    }

    fn other_log(&self, last: &LastRecord, found: &str) -> Error {
        let seen = format!(
            "the store remembers version {} at offset {}, and the log has {found} there",
            last.version, last.offset
        );
        Error::new(ErrorKind::Lost, self.action())
            .with_source(seen)
            .with_help("the topic was truncated or recreated: the store needs a new snapshot")
    }
}

impl Raw {
    fn copy(
        record: &BorrowedMessage<'_>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let Some(value) = record.payload() else { return Err("it has no value".into()) };
        let (value_schema_id, value) = split_header(value)?;
        let key = match record.key() {
            Some(key) => split_header(key)?.1,
            None => &[],
        };
        let copy = Bytes::copy_from_slice;
        Ok(Self { offset: record.offset(), key: copy(key), value: copy(value), value_schema_id })
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("partition", &self.partition).finish_non_exhaustive()
    }
}
