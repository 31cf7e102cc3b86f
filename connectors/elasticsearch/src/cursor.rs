//! Where the sink's progress is kept: in the index, in every shard of it.
//!
//! ```text
//! unit 3 ──▶ a document in shard 0, routed there ─┐
//!        ──▶ a document in shard 1, routed there ─┴─▶ the lowest counts
//! ```
//!
//! A snapshot is consistent for each shard alone, so a restored index may have shards of different
//! age. Each shard's document is true of that shard: what lies before `next` is in it, since the
//! document is written after the rows. So the lowest `next` is true of all, and the lowest reset
//! counter says that at least one shard still needs that reset; the log's committed offset has the
//! mark from which it is taken again. A shard without a document holds nothing for sure: then the
//! unit has no cursor.
//!
//! The invariant: a document is replaced only if it still is the one this worker read or left
//! (`if_seq_no`, `if_primary_term`; `create` where there was none). So a worker under which the
//! index was restored, deleted or made anew cannot claim what that index does not hold, and a
//! stopped worker that wakes up cannot overwrite what its successor wrote. Both get
//! [`Failure::Moved`], and read again. This is also why the document is written with every batch
//! and not once a second: between rows and cursor nothing may be restored unnoticed.

use std::collections::HashMap;

use anabranch_core::{CURSOR_FORMAT, StoreCursor, UnitCursor};
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bulk::{Chunk, ChunkWriter, PLACES_FILTER, verdict};
use crate::client::{Client, Request};
use crate::error::{Failure, without_values};
use crate::names::{Names, cursor_id};
use crate::write::{Backoff, Writer, refused};

/// The cursors of this worker's units, as they are in the index.
#[derive(Debug)]
pub(crate) struct Cursors {
    field: String,
    /// For each shard a routing value that leads to it.
    routings: Vec<String>,
    /// Where the document of a unit in a shard stands; `None` if there is none.
    left: HashMap<(i32, usize), Option<(u64, u64)>>,
    /// The lowest of each unit.
    held: StoreCursor,
}

#[derive(Deserialize)]
struct Found {
    docs: Vec<FoundDocument>,
}

#[derive(Deserialize)]
struct FoundDocument {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_seq_no")]
    seq_no: Option<u64>,
    #[serde(rename = "_primary_term")]
    term: Option<u64>,
    #[serde(rename = "_source", default)]
    source: Value,
    #[serde(default)]
    error: Value,
}

impl Cursors {
    /// Reads the documents of `partitions` from all shards, as they are now (no refresh needed).
    pub(crate) async fn read(
        client: &Client,
        names: &Names,
        field: &str,
        (partitions, routings): (&[i32], Vec<String>),
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let shards = 0..routings.len();
        let places: Vec<(i32, usize)> = partitions
            .iter()
            .flat_map(|partition| shards.clone().map(|shard| (*partition, shard)))
            .collect();
        let mut cursors = Self {
            field: field.to_owned(),
            routings,
            left: HashMap::new(),
            held: StoreCursor::new(),
        };
        if places.is_empty() {
            return Ok(cursors);
        }
        let wanted: Vec<_> = places
            .iter()
            .map(|(partition, shard)| {
                let routing = cursors.routing(*shard);
                json!({"_id": cursor_id(*partition, routing), "routing": routing})
            })
            .collect();
        let path = format!("{}/_mget", names.index);
        let request = Request::new(Method::Post, &path).json(&json!({"docs": wanted}));
        let found: Found = client.ask(request, deadline).await?;
        if found.docs.len() != places.len() {
            return Err(Failure::Reply(format!(
                "{} documents of {}",
                found.docs.len(),
                places.len()
            )));
        }
        let mut units: HashMap<i32, Vec<Option<UnitCursor>>> = HashMap::new();
        for ((partition, shard), document) in places.into_iter().zip(found.docs) {
            cursors.left.insert((partition, shard), document.stands()?);
            units.entry(partition).or_default().push(document.cursor(field)?);
        }
        let lowest = units.into_iter().filter_map(|(unit, shards)| Some((unit, lowest(shards)?)));
        cursors.held = lowest.collect();
        Ok(cursors)
    }

    /// What all shards hold for sure.
    pub(crate) fn held(&self) -> &StoreCursor {
        &self.held
    }

    /// Writes `upto` to every shard. After a failure the index must be read again.
    pub(crate) async fn write(
        &mut self,
        writer: Writer<'_>,
        upto: &StoreCursor,
    ) -> Result<(), Failure> {
        let moved = upto.iter().filter(|(unit, cursor)| self.held.get(unit) != Some(cursor));
        let mut waiting: Vec<(i32, usize)> = moved
            .flat_map(|(unit, _)| (0..self.routings.len()).map(|shard| (*unit, shard)))
            .collect();
        let mut backoff = Backoff::default();
        while !waiting.is_empty() {
            let chunk = self.chunk(&waiting, upto)?;
            let again = match writer.bulk(&chunk, PLACES_FILTER).await {
                Ok(reply) => self.take_reply(&chunk, &reply, &waiting)?,
                Err(failure) if failure.is_busy() => waiting,
                Err(failure) => return Err(failure),
            };
            waiting = again;
            if !waiting.is_empty() {
                backoff.pause(writer.deadline, "busy, cursors rejected").await?;
            }
        }
        self.held.extend(upto.iter().map(|(unit, cursor)| (*unit, cursor.clone())));
        Ok(())
    }

    fn routing(&self, shard: usize) -> &str {
        self.routings.get(shard).map_or("0", String::as_str)
    }

    fn chunk(&self, places: &[(i32, usize)], upto: &StoreCursor) -> Result<Chunk, Failure> {
        let mut chunk = ChunkWriter::default();
        for (unit, shard) in places {
            let routing = self.routing(*shard);
            let text = upto.get(unit).map(serde_json::to_string).transpose();
            let text = text.map_err(|error| Failure::Cursor(error.to_string()))?;
            let left = self.left.get(&(*unit, *shard)).ok_or_else(|| {
                Failure::Cursor(format!("partition {unit} is not one of this worker's"))
            })?;
            let document = json!({&self.field: text}).to_string();
            chunk.replace(&cursor_id(*unit, routing), routing, *left, &document);
        }
        Ok(chunk.take())
    }

    /// Remembers what was written; returns what the server was too busy for.
    fn take_reply(
        &mut self,
        chunk: &Chunk,
        reply: &[u8],
        places: &[(i32, usize)],
    ) -> Result<Vec<(i32, usize)>, Failure> {
        let verdict =
            verdict(reply, chunk.len()).map_err(|error| Failure::Reply(error.to_string()))?;
        if let Some(refusal) = verdict.refused {
            return Err(refused(chunk, refusal));
        }
        let mut again = Vec::new();
        for (at, (place, written)) in places.iter().zip(verdict.written).enumerate() {
            match written {
                Some(left) => {
                    self.left.insert(*place, Some(left));
                }
                None if verdict.again.contains(&at) => again.push(*place),
                None => return Err(Failure::Moved),
            }
        }
        Ok(again)
    }
}

impl FoundDocument {
    fn stands(&self) -> Result<Option<(u64, u64)>, Failure> {
        if !self.error.is_null() {
            let text =
                |name: &str| self.error.get(name).and_then(Value::as_str).unwrap_or_default();
            let (kind, reason) = (text("type").to_owned(), without_values(text("reason")));
            // The shard cannot be read now: closed, or not yet started.
            return Err(Failure::Answer { status: 503, kind, reason });
        }
        Ok(if self.found { self.seq_no.zip(self.term) } else { None })
    }

    fn cursor(&self, field: &str) -> Result<Option<UnitCursor>, Failure> {
        if !self.found {
            return Ok(None);
        }
        let text = self.source.get(field).and_then(Value::as_str).unwrap_or_default();
        let cursor: UnitCursor = serde_json::from_str(text).map_err(|error| {
            Failure::Cursor(format!("the document's field {field} is no cursor: {error}"))
        })?;
        if cursor.format > CURSOR_FORMAT {
            let format = cursor.format;
            return Err(Failure::Cursor(format!("format {format} is a newer release's")));
        }
        Ok(Some(cursor))
    }
}

/// What is true of every shard of a unit.
fn lowest(shards: Vec<Option<UnitCursor>>) -> Option<UnitCursor> {
    let shards: Vec<UnitCursor> = shards.into_iter().collect::<Option<_>>()?;
    // A cursor of another log or generation says nothing of this one: it is shown as it is.
    let first = shards.first()?;
    let known = (first.log, first.generation);
    if let Some(other) = shards.iter().find(|cursor| (cursor.log, cursor.generation) != known) {
        return Some(other.clone());
    }
    let resets = shards.iter().map(|cursor| cursor.resets).min()?;
    let lowest = shards.into_iter().min_by_key(|cursor| cursor.next)?;
    Some(UnitCursor { resets, ..lowest })
}

#[cfg(test)]
mod tests {
    use anabranch_core::{LastRecord, Version};
    use uuid::Uuid;

    use super::*;

    fn cursor(resets: u32, next: i64) -> UnitCursor {
        let last = LastRecord { offset: next - 1, version: Version::default() };
        let log = Uuid::nil();
        UnitCursor { format: 1, log, generation: 1, resets, next, last: Some(last) }
    }

    #[test]
    fn the_lowest_shard_counts() {
        let shards = vec![Some(cursor(0, 7)), Some(cursor(0, 5)), Some(cursor(0, 9))];
        assert_eq!(lowest(shards), Some(cursor(0, 5)));
    }

    #[test]
    fn a_shard_without_a_cursor_holds_nothing_for_sure() {
        assert_eq!(lowest(vec![Some(cursor(0, 7)), None]), None);
        assert_eq!(lowest(Vec::new()), None);
    }

    /// Every mix of a reset that reached some shards and of shards restored to before it.
    #[test]
    fn mixed_shards_skip_nothing_and_lose_no_reset() {
        let states = [(0, 3), (0, 8), (1, 0), (1, 5), (2, 2), (2, 9)];
        for (a, b) in states.iter().flat_map(|a| states.iter().map(move |b| (a, b))) {
            let both = lowest(vec![Some(cursor(a.0, a.1)), Some(cursor(b.0, b.1))]).unwrap();
            assert!(both.next <= a.1 && both.next <= b.1, "{a:?} {b:?}: nothing is skipped");
            assert!(
                both.resets <= a.0 && both.resets <= b.0,
                "{a:?} {b:?}: resets are taken again"
            );
            let last = both.last.unwrap();
            assert_eq!(last.offset, both.next - 1, "the last record is that of the lowest shard");
        }
    }

    #[test]
    fn a_cursor_of_another_log_is_shown() {
        let other = UnitCursor { log: Uuid::from_u128(1), ..cursor(0, 99) };
        let shards = vec![Some(cursor(0, 7)), Some(other.clone())];
        assert_eq!(lowest(shards), Some(other));
    }
}
