//! A sorted run of records, in memory if it is small, else in a file without a name.
//!
//! ```text
//! block: 256 records of 32 bytes: key (16), version (8), slot (4), row (4), little endian
//! memory: a filter of all keys, the first key of each block
//! ```
//!
//! The file is unlinked as soon as it is open: nothing is left behind, however the process ends.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use xorf::{BinaryFuse8, Filter};

use super::{KeyHash, Place, Record};

const RECORD: usize = 32;
const BLOCK_RECORDS: usize = 256;
/// Up to this many records (2 MiB) a run stays in memory.
const MEMORY_RECORDS_MAX: usize = 1 << 16;

/// A sorted run.
pub(super) struct Run {
    id: u64,
    /// The first key of each block.
    fences: Vec<KeyHash>,
    filter: BinaryFuse8,
    records: Records,
    count: usize,
    live: usize,
}

enum Records {
    Memory(Vec<Record>),
    File(File),
}

/// Finds keys in ascending order.
pub(super) struct Cursor<'a> {
    run: &'a Run,
    block: Vec<Record>,
    number: Option<usize>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, count, live, .. } = self;
        write!(f, "run {id}: {count} records, {live} live")
    }
}

impl Run {
    /// Builds a run of `records`, which are sorted by key and not empty.
    pub(super) fn build(id: u64, records: Vec<Record>, folder: &Path) -> io::Result<Self> {
        let mut keys: Vec<u64> = records.iter().map(|record| short(record.key)).collect();
        keys.sort_unstable();
        keys.dedup();
        let filter = BinaryFuse8::try_from(keys).map_err(io::Error::other)?;
        let blocks = records.chunks(BLOCK_RECORDS);
        let fences = blocks.filter_map(|block| block.first()).map(|record| record.key).collect();
        let count = records.len();
        let records = if count <= MEMORY_RECORDS_MAX {
            Records::Memory(records)
        } else {
            Records::File(write(&records, folder)?)
        };
        Ok(Self { id, fences, filter, records, count, live: count })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How many of its rows are there, as far as is known.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn set_live(&mut self, live: usize) {
        self.live = live;
    }

    pub(super) fn lose(&mut self, rows: usize) {
        self.live = self.live.saturating_sub(rows);
    }

    /// Whether it may have a record of `key`: no is certain.
    pub(super) fn may_hold(&self, key: KeyHash) -> bool {
        self.filter.contains(&short(key))
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { run: self, block: Vec::new(), number: None }
    }

    /// Visits every record, in the order of the keys.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(&Record)) -> io::Result<()> {
        if let Records::Memory(records) = &self.records {
            records.iter().for_each(visit);
            return Ok(());
        }
        let mut block = Vec::new();
        for number in 0..self.fences.len() {
            self.read(number, &mut block)?;
            block.iter().for_each(&mut *visit);
        }
        Ok(())
    }

    fn read(&self, number: usize, block: &mut Vec<Record>) -> io::Result<()> {
        block.clear();
        let first = number * BLOCK_RECORDS;
        let end = self.count.min(first + BLOCK_RECORDS);
        match &self.records {
            Records::Memory(records) => {
                block.extend_from_slice(records.get(first..end).unwrap_or_default());
            }
            Records::File(file) => {
                let mut bytes = vec![0; (end - first) * RECORD];
                let offset = u64::try_from(first * RECORD).map_err(io::Error::other)?;
                file.read_exact_at(&mut bytes, offset)?;
                let (records, _) = bytes.as_chunks::<RECORD>();
                block.extend(records.iter().map(decode));
            }
        }
        Ok(())
    }
}

impl Cursor<'_> {
    /// Visits the records of `key`.
    pub(super) fn find(&mut self, key: KeyHash, visit: &mut dyn FnMut(&Record)) -> io::Result<()> {
        // The records of one key may begin in the block before the first that begins with it.
        let mut number = self.run.fences.partition_point(|first| *first < key).saturating_sub(1);
        while self.run.fences.get(number).is_some_and(|first| *first <= key) {
            if self.number != Some(number) {
                self.number = None;
                self.run.read(number, &mut self.block)?;
                self.number = Some(number);
            }
            let from = self.block.partition_point(|record| record.key < key);
            let records = self.block.iter().skip(from);
            records.take_while(|record| record.key == key).for_each(&mut *visit);
            number += 1;
        }
        Ok(())
    }
}

/// The bits of a hash that the filter sees.
fn short(key: KeyHash) -> u64 {
    let bytes = key.to_le_bytes();
    bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

fn write(records: &[Record], folder: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(folder)?;
    let mut out = BufWriter::new(file);
    for record in records {
        out.write_all(&record.key.to_le_bytes())?;
        out.write_all(&record.version.to_le_bytes())?;
        out.write_all(&record.place.slot.to_le_bytes())?;
        out.write_all(&record.place.row.to_le_bytes())?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

fn decode(bytes: &[u8; RECORD]) -> Record {
    // A field lies within the array, so that the defaults are never taken.
    fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
    Record {
        key: u128::from_le_bytes(field(bytes, 0)),
        version: i64::from_le_bytes(field(bytes, 16)),
        place: Place {
            slot: u32::from_le_bytes(field(bytes, 24)),
            row: u32::from_le_bytes(field(bytes, 28)),
        },
    }
}
