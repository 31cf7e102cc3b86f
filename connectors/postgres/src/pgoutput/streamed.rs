//! Transactions that are sent while they are in progress, in blocks, from protocol version 2 on.
//!
//! ```text
//! Stream Start xid ─ changes, each with the id of its own (sub)transaction ─ Stream Stop
//! …                                           Stream Abort of a subtransaction, or of all of it
//! Stream Commit xid
//! ```

use bytes::Bytes;

use super::{Commit, DecodeError, time};
use crate::fields::Fields;

/// A block of a transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamStart {
    pub(crate) xid: u32,
    /// It is the first block of this transaction.
    pub(crate) first: bool,
}

/// A streamed transaction commits: what a Begin and a Commit say of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamCommit {
    pub(crate) xid: u32,
    pub(crate) commit: Commit,
    /// Microseconds since 1970 UTC.
    pub(crate) commit_us: i64,
}

/// A subtransaction is rolled back, or all of it if the two ids are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamAbort {
    pub(crate) xid: u32,
    pub(crate) subxid: u32,
}

/// A message between Stream Start and Stream Stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InStream {
    /// Something of the transaction; `tag` and `body` are what it would be outside of a block.
    Change {
        xid: u32,
        tag: u8,
        body: Bytes,
    },
    /// Says nothing that anybody needs later.
    Passing,
    Stop,
}

/// Takes a message of a block apart. What it says is decoded when its transaction has committed.
pub(crate) fn in_stream(bytes: &Bytes) -> Result<InStream, DecodeError> {
    let mut fields = Fields::new(bytes);
    let tag = fields.u8().ok_or(DecodeError::Malformed('\0'))?;
    match tag {
        b'R' | b'I' | b'U' | b'D' | b'T' | b'M' => {
            let xid = fields.u32().ok_or(DecodeError::Malformed(char::from(tag)))?;
            Ok(InStream::Change { xid, tag, body: bytes.slice_ref(fields.rest()) })
        }
        b'Y' | b'O' => Ok(InStream::Passing),
        b'E' => super::decode(bytes).map(|_| InStream::Stop),
        other => Err(DecodeError::Unknown(char::from(other))),
    }
}

pub(super) fn start(fields: &mut Fields<'_>) -> Option<StreamStart> {
    let xid = fields.u32()?;
    let first = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(StreamStart { xid, first })
}

pub(super) fn commit(fields: &mut Fields<'_>) -> Option<StreamCommit> {
    let xid = fields.u32()?;
    let (commit, commit_us) = super::commit(fields)?;
    Some(StreamCommit { xid, commit, commit_us })
}

pub(super) fn abort(fields: &mut Fields<'_>) -> Option<StreamAbort> {
    let (xid, subxid) = (fields.u32()?, fields.u32()?);
    // Where and when: only with `streaming = parallel`, from version 4 on.
    if !fields.rest().is_empty() {
        let _lsn = fields.u64()?;
        let _abort_us = time(fields)?;
    }
    Some(StreamAbort { xid, subxid })
}
