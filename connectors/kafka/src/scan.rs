//! Reads the tables' topics backwards, for a source whose history has forked.
//!
//! ```text
//! partition   …────────[ window 3          ][ window 2 ][ w 1 ] end
//!                            ▲ the first record below the bound ends it
//! ```
//!
//! In a partition records stand in the order of their positions. So once a window holds a record below
//! the bound, nothing before it is at or above; and if the partition begins later than the bound,
//! because its records have expired, what the table was given is not known any more.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anabranch_core::avro::envelope::split_header;
use anabranch_core::avro::read::{Decoder, Kind};
use anabranch_core::{
    Answer, Delivered, Epoch, Error, LogHistory, Lsn, OpenWork, Result, SourceCursor, Table,
};
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::reader::{Borders, Range, Reader};
use crate::repairs::RepairRecord;
use crate::schemas::Tables;
use crate::{KafkaConfig, Names, error, progress};

/// Records of a partition that are looked at first; each window is this many times the one before.
const WINDOW: i64 = 1_000;
const GROWTH: i64 = 8;

/// The log, for the source that writes it.
#[derive(Clone, Debug)]
pub struct LogScan {
    kafka: KafkaConfig,
}

impl LogScan {
    /// The log of this configuration.
    #[must_use]
    pub fn new(kafka: &KafkaConfig) -> Self {
        Self { kafka: kafka.clone() }
    }
}

impl LogHistory for LogScan {
    fn position(&self) -> Answer<'_, Option<SourceCursor>> {
        Box::pin(crate::admin::read_position(&self.kafka))
    }

    fn open_work(&self) -> Answer<'_, OpenWork> {
        Box::pin(async {
            let (repairs, snapshots) = crate::admin::open_work(&self.kafka).await?;
            let repairs = repairs.iter().filter_map(RepairRecord::pending).collect();
            Ok(OpenWork { snapshots, repairs })
        })
    }

    fn delivered<'a>(
        &'a self,
        tables: &'a [Arc<Table>],
        since: (Epoch, Lsn),
    ) -> Answer<'a, Vec<Delivered>> {
        let (kafka, tables) = (self.kafka.clone(), tables.to_vec());
        Box::pin(crate::blocking(move || {
            let reader = Reader::new(&kafka)?;
            let names = Names::new(&kafka);
            let (known, _) = progress::read_tables(&reader, &names)?;
            let scan = Scan { reader, known, since };
            tables.iter().map(|table| scan.topic(&names.topic(table))).collect()
        }))
    }
}

struct Scan {
    reader: Reader,
    known: Tables,
    since: (Epoch, Lsn),
}

/// What is left to read of a partition: everything before `end`.
#[derive(Clone, Copy, Debug)]
struct Rest {
    partition: i32,
    start: i64,
    end: i64,
}

/// A record, as far as the scan looks at it.
enum Seen {
    /// Below the bound.
    Before,
    Row(Bytes),
    Truncate,
}

impl Scan {
    /// What was given to one topic.
    fn topic(&self, topic: &str) -> Result<Delivered> {
        let mut found = Delivered::nothing();
        // A table that the log does not know was never given anything.
        let Some(record) = self.known.newest(topic) else { return Ok(found) };
        let partitions: Vec<i32> = (0..record.partitions).collect();
        let borders = self.reader.borders(topic, &partitions)?;
        let rest =
            |(partition, Borders { start, end }): (i32, Borders)| Rest { partition, start, end };
        let mut rests: Vec<Rest> = partitions.into_iter().zip(borders).map(rest).collect();
        let mut window = WINDOW;
        while !rests.is_empty() && found != Delivered::Unbounded {
            rests = self.windows(topic, &rests, window, &mut found)?;
            window = window.saturating_mul(GROWTH);
        }
        Ok(found)
    }

    /// Reads one window of each partition; returns what is left of them.
    fn windows(
        &self,
        topic: &str,
        rests: &[Rest],
        window: i64,
        found: &mut Delivered,
    ) -> Result<Vec<Rest>> {
        let range = |rest: &Rest| Range {
            partition: rest.partition,
            from: rest.end.saturating_sub(window).max(rest.start),
            end: rest.end,
        };
        let ranges: Vec<Range> =
            rests.iter().map(range).filter(|range| range.from < range.end).collect();
        let mut complete = HashSet::new();
        let mut decoders = HashMap::new();
        self.reader.read_ranges(topic, &ranges, |record| {
            match look(record, &self.known, &mut decoders, self.since)? {
                Seen::Before => drop(complete.insert(record.partition())),
                Seen::Row(key) => found.add(key),
                Seen::Truncate => *found = Delivered::Unbounded,
            }
            Ok(())
        })?;
        let mut left = Vec::new();
        for rest in rests.iter().filter(|rest| !complete.contains(&rest.partition)) {
            let from = range(rest).from;
            if from > rest.start {
                left.push(Rest { end: from, ..*rest });
            } else if rest.start > 0 {
                tracing::warn!(topic, partition = rest.partition, "records of then have expired");
                *found = Delivered::Unbounded;
            }
        }
        Ok(left)
    }
}

fn look(
    record: &BorrowedMessage<'_>,
    known: &Tables,
    decoders: &mut HashMap<i32, Decoder>,
    since: (Epoch, Lsn),
) -> Result<Seen> {
    let value = record.payload().unwrap_or_default();
    let (schema, payload) = split_header(value)?;
    let decoder = match decoders.entry(schema) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let version = known.version(record.topic(), schema);
            let version = version.ok_or_else(|| unknown(record.topic(), schema))?;
            place.insert(Decoder::new(Arc::clone(&version.table)))
        }
    };
    let header = decoder.peek(payload)?;
    // A sweep stands where its snapshot began, and may have come long after that.
    if header.kind == Kind::Sweep {
        return Ok(Seen::Truncate);
    }
    if (header.position.epoch, header.position.commit_lsn) < since {
        return Ok(Seen::Before);
    }
    Ok(match (header.kind, record.key()) {
        (Kind::Truncate | Kind::Sweep, _) | (Kind::Upsert | Kind::Delete | Kind::Marked, None) => {
            Seen::Truncate
        }
        (Kind::Upsert | Kind::Delete | Kind::Marked, Some(key)) => {
            Seen::Row(Bytes::copy_from_slice(split_header(key)?.1))
        }
    })
}

fn unknown(topic: &str, schema: i32) -> Error {
    let seen = format!("its schema {schema} is not among those of the table");
    error::config(
        format!("read a record of topic {topic}"),
        seen,
        "look at what else writes to this topic",
    )
}
