//! One transaction in the spool.
//!
//! ```text
//! file: [ segment | segment | … ]  memory: [ record | record | … ]
//! record: id of the (sub)transaction, length, message
//! ```
//!
//! The invariant: what a rolled-back subtransaction left is never replayed, whether or not its bytes
//! are gone. They are at the end, so most are; the ids that were rolled back decide.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::mem::size_of;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::SpoolError;
use super::disk::{Disk, SpoolFile};

/// Bytes before the message in a record.
pub(super) const HEADER_BYTES: usize = 8;

/// What has arrived of it.
#[derive(Debug, Default)]
pub(super) struct Spooled {
    /// Records after those in the file.
    memory: BytesMut,
    /// For each of them where it begins.
    heads: Vec<Head>,
    segments: Vec<Segment>,
    file: Option<Arc<dyn SpoolFile>>,
    /// Bytes in the file, all segments.
    file_bytes: u64,
    /// The file is longer than that.
    too_long: bool,
    /// Subtransactions that were rolled back.
    aborted: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    xid: u32,
    start: usize,
    is_relation: bool,
}

/// Records that were written together.
#[derive(Debug)]
struct Segment {
    start: u64,
    /// Whose changes are in it.
    xids: BTreeSet<u32>,
    /// Its Relation messages, as records. They outlive a rollback of the subtransaction that they
    /// came in: the server sends a table once for all of a transaction.
    relations: Vec<Bytes>,
}

/// What a write to the file came to.
#[derive(Debug)]
pub(super) struct Written {
    file: Arc<dyn SpoolFile>,
}

/// What is left of it at the commit.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) file: Option<Arc<dyn SpoolFile>>,
    pub(super) file_bytes: u64,
    pub(super) memory: Bytes,
    pub(super) aborted: HashSet<u32>,
}

impl Spooled {
    /// Bytes in memory that could be on disk.
    pub(super) fn memory(&self) -> usize {
        self.memory.len() + self.heads.len() * size_of::<Head>()
    }

    /// Bytes in its file.
    pub(super) fn on_disk(&self) -> u64 {
        self.file_bytes
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    pub(super) fn add(&mut self, xid: u32, tag: u8, body: &[u8]) -> Result<(), SpoolError> {
        let too_long = |_| SpoolError::OutOfTurn("a change without end", xid);
        let length = u32::try_from(body.len() + 1).map_err(too_long)?;
        self.heads.push(Head { xid, start: self.memory.len(), is_relation: tag == b'R' });
        self.memory.put_u32(xid);
        self.memory.put_u32(length);
        self.memory.put_u8(tag);
        self.memory.put_slice(body);
        Ok(())
    }

    /// Takes the changes of a subtransaction back.
    pub(super) fn abort(&mut self, subxid: u32) {
        self.aborted.insert(subxid);
        let mut relations = Vec::new();
        while let Some(head) = self.heads.last().copied()
            && (head.is_relation || self.aborted.contains(&head.xid))
        {
            if head.is_relation {
                relations.extend(self.memory.get(head.start..).map(Bytes::copy_from_slice));
            }
            self.memory.truncate(head.start);
            self.heads.pop();
        }
        let aborted = &self.aborted;
        while self.heads.is_empty()
            && let Some(last) =
                self.segments.pop_if(|last| last.xids.iter().all(|xid| aborted.contains(xid)))
        {
            relations.extend(last.relations.into_iter().rev());
            self.file_bytes = last.start;
            self.too_long = true;
        }
        for record in last_of_each(relations) {
            self.heads.push(Head { xid: subxid, start: self.memory.len(), is_relation: true });
            self.memory.put_slice(&record);
        }
    }

    /// Gives out what is in memory, and the blocking call that writes it and shortens the file to
    /// what it holds.
    pub(super) fn write(
        &mut self,
        disk: Arc<dyn Disk>,
    ) -> (Bytes, impl FnOnce() -> io::Result<Written> + Send + 'static) {
        let bytes = self.memory.split().freeze();
        let (file, start, too_long) = (self.file.clone(), self.file_bytes, self.too_long);
        let copy = bytes.clone();
        let write = move || {
            let file = file.map_or_else(|| disk.create(), Ok)?;
            if too_long {
                file.set_length(start)?;
            }
            file.write(&copy, start)?;
            Ok(Written { file })
        };
        (bytes, write)
    }

    /// `bytes` are on disk.
    pub(super) fn written(&mut self, bytes: &Bytes, written: Written) {
        let heads = std::mem::take(&mut self.heads);
        (self.file, self.too_long) = (Some(written.file), false);
        if bytes.is_empty() {
            return;
        }
        let ends = heads.iter().skip(1).map(|head| head.start).chain([bytes.len()]);
        let records = heads.iter().zip(ends);
        let mut segment =
            Segment { start: self.file_bytes, xids: BTreeSet::new(), relations: Vec::new() };
        for (head, end) in records {
            if head.is_relation {
                let record = bytes.get(head.start..end);
                segment.relations.extend(record.map(Bytes::copy_from_slice));
            } else {
                segment.xids.insert(head.xid);
            }
        }
        self.segments.push(segment);
        self.file_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    /// `bytes` could not be written, and are in memory as before.
    pub(super) fn take_back(&mut self, bytes: Bytes) {
        self.memory = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    }

    pub(super) fn into_rest(self) -> Rest {
        Rest {
            file: self.file,
            file_bytes: self.file_bytes,
            memory: self.memory.freeze(),
            aborted: self.aborted,
        }
    }
}

/// Of descriptions, the last one first, the last of each table behind each other: a partition comes
/// behind its table. In the order of the stream.
fn last_of_each(relations: Vec<Bytes>) -> Vec<Bytes> {
    let oids: Vec<_> = relations.iter().map(oid).collect();
    let before = oids.iter().skip(1).map(Some).chain([None]);
    let pairs = before.zip(&oids);
    let mut seen = HashSet::new();
    let last = relations.iter().zip(pairs).filter(|(_, pair)| seen.insert(*pair));
    let mut last: Vec<Bytes> = last.map(|(record, _)| record.clone()).collect();
    last.reverse();
    last
}

/// The table of a record with a Relation message: what follows its tag.
fn oid(record: &Bytes) -> Option<[u8; 4]> {
    record.get(HEADER_BYTES + 1..)?.first_chunk().copied()
}
