//! The bodies of `_bulk` requests, and what their replies say. Nothing here does I/O.
//!
//! ```text
//! rows ──▶ Chunk ── bytes ──▶ POST _bulk ── reply ──▶ verdict(): again · refused · the rest is done
//! ```
//!
//! The invariant: a reply is believed only if it has as many items as the chunk, and an item
//! counts as done only by its own status.

use std::ops::Range;

use anabranch_core::{ErrorKind, Version};
use bytes::Bytes;
use serde::Deserialize;

use crate::error::{is_busy, kind_of_answer, without_values};

/// The body of a bulk request: action lines, each with its document.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    bytes: Bytes,
    items: Vec<Item>,
}

/// A [`Chunk`] under construction.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

/// Where an item stands in the body.
#[derive(Clone, Debug)]
struct Item {
    whole: Range<usize>,
    id: Range<usize>,
}

/// When a write is the newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// If the document's version is not higher: a row is written again with its own version.
    NotOlder,
    /// If the document's version is lower: what a delete-below removes.
    Newer,
}

impl Guard {
    fn name(self) -> &'static str {
        match self {
            Self::NotOlder => "external_gte",
            Self::Newer => "external",
        }
    }
}

impl ChunkWriter {
    /// Adds a document. `document` writes one JSON object without line breaks.
    ///
    /// # Errors
    ///
    /// What `document` returns; the chunk is then as before.
    pub fn index<E>(
        &mut self,
        id: &str,
        version: Version,
        document: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let id = self.action("index", id, |bytes| versioned(bytes, version, Guard::NotOlder));
        let written = document(&mut self.bytes);
        if written.is_err() {
            self.bytes.truncate(start);
            return written;
        }
        self.end(start, id);
        Ok(())
    }

    /// Adds the removal of a document.
    pub fn delete(&mut self, id: &str, version: Version, guard: Guard) {
        let start = self.bytes.len();
        let id = self.action("delete", id, |bytes| versioned(bytes, version, guard));
        self.items.push(Item { whole: start..self.bytes.len(), id });
    }

    /// Adds a document in the shard of `routing`: in place of the one that was left there as
    /// `(seq_no, primary_term)`, or where there is none.
    pub fn replace(&mut self, id: &str, routing: &str, left: Option<(u64, u64)>, document: &str) {
        let start = self.bytes.len();
        let action = if left.is_some() { "index" } else { "create" };
        let id = self.action(action, id, |bytes| {
            bytes.extend_from_slice(b",\"routing\":");
            json_text(bytes, routing);
            if let Some((seq_no, term)) = left {
                let guard = format!(",\"if_seq_no\":{seq_no},\"if_primary_term\":{term}");
                bytes.extend_from_slice(guard.as_bytes());
            }
        });
        self.bytes.extend_from_slice(document.as_bytes());
        self.end(start, id);
    }

    /// Writes `{"action":{"_id":"id"…}}` and a line break; returns where the id is.
    fn action(&mut self, action: &str, id: &str, more: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        self.bytes.extend_from_slice(b"{\"");
        self.bytes.extend_from_slice(action.as_bytes());
        self.bytes.extend_from_slice(b"\":{\"_id\":");
        let start = self.bytes.len();
        json_text(&mut self.bytes, id);
        let id = start..self.bytes.len();
        more(&mut self.bytes);
        self.bytes.extend_from_slice(b"}}\n");
        id
    }

    fn end(&mut self, start: usize, id: Range<usize>) {
        self.bytes.push(b'\n');
        self.items.push(Item { whole: start..self.bytes.len(), id });
    }

    /// How many bytes it has so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What was added since the last time.
    #[must_use]
    pub fn take(&mut self) -> Chunk {
        let items = std::mem::take(&mut self.items);
        Chunk { bytes: Bytes::from(std::mem::take(&mut self.bytes)), items }
    }
}

impl Chunk {
    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The body of a request.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The `_id` of the item at `place`; empty if there is none.
    #[must_use]
    pub fn id(&self, place: usize) -> String {
        let id = self.items.get(place).and_then(|item| self.bytes.get(item.id.clone()));
        id.and_then(|id| serde_json::from_slice(id).ok()).unwrap_or_default()
    }

    /// A chunk of the items at `places` alone.
    #[must_use]
    pub fn only(&self, places: impl IntoIterator<Item = usize>) -> Self {
        let mut chunk = ChunkWriter::default();
        for item in places.into_iter().filter_map(|place| self.items.get(place)) {
            let start = chunk.bytes.len();
            let moved = |at: usize| at - item.whole.start + start;
            chunk.bytes.extend_from_slice(self.bytes.get(item.whole.clone()).unwrap_or_default());
            chunk.items.push(Item {
                whole: start..moved(item.whole.end),
                id: moved(item.id.start)..moved(item.id.end),
            });
        }
        chunk.take()
    }

    /// The first half of the items and the other.
    #[must_use]
    pub fn halves(&self) -> (Self, Self) {
        let middle = self.items.len() / 2;
        (self.only(0..middle), self.only(middle..self.items.len()))
    }
}

fn versioned(bytes: &mut Vec<u8>, version: Version, guard: Guard) {
    let text = format!(",\"version\":{},\"version_type\":\"{}\"", version.to_i64(), guard.name());
    bytes.extend_from_slice(text.as_bytes());
}

/// A JSON string.
pub(crate) fn json_text(bytes: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail, and a text is always a JSON string.
    serde_json::to_writer(bytes, text).unwrap_or_default();
}

/// The parts of a reply that a write of rows needs (`filter_path`).
pub(crate) const ROWS_FILTER: &str =
    "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";
/// The same, and where each document now stands.
pub(crate) const PLACES_FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,\
                                        items.*._seq_no,items.*._primary_term";

/// A reply that is no answer to the chunk.
#[derive(Debug, thiserror::Error)]
pub enum BadReply {
    /// It is no JSON, or not that of `_bulk`.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// It speaks of other items.
    #[error("{seen} items instead of {wanted}")]
    Items {
        /// Items in the reply.
        seen: usize,
        /// Items in the chunk.
        wanted: usize,
    },
}

/// What became of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Places of items that the server was too busy for.
    pub again: Vec<usize>,
    /// The first item that the server will not take, and why.
    pub refused: Option<Refusal>,
    /// For each item where its document now stands: sequence number and primary term. `None` if it
    /// was not written.
    pub written: Vec<Option<(u64, u64)>>,
}

/// Why an item was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the chunk.
    pub place: usize,
    /// HTTP status.
    pub status: u16,
    /// The server's name of the error.
    pub kind: String,
    /// The server's words, without the values it quotes.
    pub reason: String,
}

#[derive(Deserialize)]
struct Reply {
    items: Vec<ItemReply>,
}

/// `{"index": {…}}`: one field, whatever its name.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ItemReply {
    Index(Outcome),
    Create(Outcome),
    Delete(Outcome),
    Update(Outcome),
}

#[derive(Deserialize)]
struct Outcome {
    status: u16,
    #[serde(rename = "_seq_no")]
    seq_no: Option<u64>,
    #[serde(rename = "_primary_term")]
    term: Option<u64>,
    error: Option<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason: String,
    caused_by: Option<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
}

/// Reads the reply to a chunk of `items` items.
///
/// A version conflict (409) is no refusal: the document is newer, or somebody else's. It shows as
/// `None` in [`Verdict::written`], as does every item that was not written.
///
/// # Errors
///
/// [`BadReply`] if it cannot be the reply to this chunk: nothing is known then.
pub fn verdict(reply: &[u8], items: usize) -> Result<Verdict, BadReply> {
    let reply: Reply = serde_json::from_slice(reply)?;
    if reply.items.len() != items {
        return Err(BadReply::Items { seen: reply.items.len(), wanted: items });
    }
    let mut verdict = Verdict { written: Vec::with_capacity(items), ..Verdict::default() };
    for (place, item) in reply.items.into_iter().enumerate() {
        let (ItemReply::Index(item)
        | ItemReply::Create(item)
        | ItemReply::Delete(item)
        | ItemReply::Update(item)) = item;
        verdict.written.push(item.seq_no.zip(item.term));
        verdict.judge(place, item);
    }
    Ok(verdict)
}

impl Verdict {
    fn judge(&mut self, place: usize, item: Outcome) {
        // A delete of what is not there is 404 without an error.
        let missing = item.status == 404 && item.error.is_none();
        if (200..300).contains(&item.status) || item.status == 409 || missing {
            return;
        }
        let (kind, reason) = item.error.map_or_else(Default::default, ItemError::words);
        if is_busy(item.status, &kind) {
            self.again.push(place);
        } else if self.refused.is_none() {
            self.refused = Some(Refusal { place, status: item.status, kind, reason });
        }
    }
}

impl ItemError {
    fn words(self) -> (String, String) {
        let mut reason = without_values(&self.reason);
        let cause = self.caused_by.map(|cause| without_values(&cause.reason)).unwrap_or_default();
        if !cause.is_empty() && !reason.contains(&cause) {
            reason.push_str(": ");
            reason.push_str(&cause);
        }
        (self.kind, reason)
    }
}

impl Refusal {
    /// Whether it is the document that is refused, not the whole request.
    pub(crate) fn is_of_the_document(&self) -> bool {
        kind_of_answer(self.status, &self.kind) == ErrorKind::Rejected
    }
}

#[cfg(test)]
mod tests;
