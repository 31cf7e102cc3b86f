//! What the log says about itself: its position record and its tables, read to their ends.
//!
//! ```text
//! <prefix>.progress ─▶ position: SourceCursor, open work   <prefix>.schemas ─▶ Tables
//! ```
//!
//! Blocking: call it where blocking is allowed.

use std::collections::HashMap;

use anabranch_core::{CURSOR_FORMAT, Error, ErrorKind, Result, SourceCursor, TableSnapshot};
use rdkafka::message::Message as _;
use serde::Deserialize;
use uuid::Uuid;

use crate::reader::Reader;
use crate::repairs::{self, RepairRecord};
use crate::schemas::{SchemaRecord, Tables};
use crate::{KafkaConfig, Names, error, snapshots};

/// The key of the position record in the progress topic.
pub(crate) const POSITION_KEY: &str = "position";

/// Offsets before the end of the progress topic that are looked at first. Every transaction
/// writes the position record and a marker, so it is there unless many were aborted.
const TAIL_OFFSETS: i64 = 500;

/// What the log knows about itself.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// `None` if the log was never written to, or wiped.
    pub(crate) position: Option<SourceCursor>,
    pub(crate) tables: Tables,
    /// The end of the schemas topic.
    pub(crate) schemas_end: i64,
}

/// Reads all of it.
pub(crate) fn read(config: &KafkaConfig) -> Result<Progress> {
    let reader = Reader::new(config)?;
    let names = Names::new(config);
    let position = read_position(&reader, &names)?;
    let (tables, schemas_end) = read_tables(&reader, &names)?;
    Ok(Progress { position, tables, schemas_end })
}

/// Reads the position record; `None` if there is none.
pub(crate) fn read_position(reader: &Reader, names: &Names) -> Result<Option<SourceCursor>> {
    let topic = names.progress();
    let Some(borders) = single_partition(reader, &topic)? else { return Ok(None) };
    let mut last: Option<Vec<u8>> = None;
    let tail = (borders.end - TAIL_OFFSETS).max(borders.start);
    for from in [tail, borders.start] {
        reader.read(&topic, (from, borders.end), |record| {
            if record.key() == Some(POSITION_KEY.as_bytes()) {
                last = record.payload().map(<[u8]>::to_vec);
            }
            Ok(())
        })?;
        if last.is_some() || from == borders.start {
            break;
        }
    }
    last.as_deref().map(parse_position).transpose()
}

/// Repairs that are pending, and the last snapshot of each table, those that have ended, too.
pub(crate) type Records = (Vec<RepairRecord>, Vec<TableSnapshot>);

/// Reads what the log with this id has of work beside the stream.
pub(crate) fn read_open_work(reader: &Reader, names: &Names, log: Uuid) -> Result<Records> {
    let topic = names.progress();
    let Some(borders) = single_partition(reader, &topic)? else { return Ok(Records::default()) };
    let mut pending: HashMap<Vec<u8>, Option<RepairRecord>> = HashMap::new();
    let mut snapshots: HashMap<Vec<u8>, Option<TableSnapshot>> = HashMap::new();
    reader.read(&topic, (borders.start, borders.end), |record| {
        let Some(key) = record.key() else { return Ok(()) };
        if repairs::is_repair(Some(key)) {
            pending.insert(key.to_vec(), record.payload().map(repairs::parse).transpose()?);
        } else if snapshots::is_snapshot(key) {
            let snapshot = record.payload().map(snapshots::parse).transpose()?;
            snapshots.insert(key.to_vec(), snapshot);
        }
        Ok(())
    })?;
    let pending = pending.into_values().flatten().filter(|record| record.log == log);
    let snapshots = snapshots.into_values().flatten().filter(|record| record.log == log);
    Ok((pending.collect(), snapshots.collect()))
}

/// Reads the tables, and the end of what was read.
pub(crate) fn read_tables(reader: &Reader, names: &Names) -> Result<(Tables, i64)> {
    let topic = names.schemas();
    let mut tables = Tables::default();
    let Some(borders) = single_partition(reader, &topic)? else { return Ok((tables, 0)) };
    reader.read(&topic, (borders.start, borders.end), |record| {
        if let Some(value) = record.payload() {
            tables.add(SchemaRecord::parse(value)?);
        }
        Ok(())
    })?;
    Ok((tables, borders.end))
}

fn single_partition(reader: &Reader, topic: &str) -> Result<Option<crate::reader::Borders>> {
    match reader.partitions(topic)? {
        None => Ok(None),
        Some(1) => Ok(reader.borders(topic, &[0])?.first().copied()),
        Some(count) => Err(error::config(
            format!("read topic {topic}"),
            format!("it has {count} partitions, and must have 1"),
            "somebody else created it: choose another [kafka] prefix, or delete the topic",
        )),
    }
}

fn parse_position(value: &[u8]) -> Result<SourceCursor> {
    #[derive(Deserialize)]
    struct Format {
        format: u16,
    }
    let action = "read the position record";
    let malformed = |e: serde_json::Error| Error::new(ErrorKind::Rejected, action).with_source(e);
    let format = serde_json::from_slice::<Format>(value).map_err(malformed)?.format;
    if format > CURSOR_FORMAT {
        let seen = format!("it has format {format}, and this release reads up to {CURSOR_FORMAT}");
        return Err(error::config(action, seen, "run the release that wrote it, or a newer one"));
    }
    serde_json::from_slice(value).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_core::{Epoch, Lsn, Phase, Rereads};

    #[test]
    fn positions_round_trip_and_newer_formats_are_refused() {
        let mut position = SourceCursor {
            format: CURSOR_FORMAT,
            log: Uuid::from_u128(9),
            slot: "anabranch".to_owned(),
            epoch: Epoch(1),
            system_id: 7,
            timeline: 1,
            phase: Phase::Streaming,
            confirm: Lsn(0x15_0000),
            seen: Lsn(0),
            split: None,
            rereads: Rereads::default(),
            fork: None,
            membership: None,
        };
        let bytes = serde_json::to_vec(&position).unwrap();
        assert_eq!(parse_position(&bytes).unwrap(), position);
        position.format = CURSOR_FORMAT + 1;
        let bytes = serde_json::to_vec(&position).unwrap();
        assert_eq!(parse_position(&bytes).unwrap_err().kind(), ErrorKind::Config);
    }
}
