//! Decodes the messages of the `pgoutput` plugin, protocol versions 1 to 4.
//!
//! ```text
//! Bytes of one CopyData ─┬─ decode ──────▶ Message, whose tuples are slices of the same bytes
//!                        └─ in_stream ───▶ its transaction, and the bytes of such a message
//! ```
//!
//! A pure function of its input: it never panics, a message is taken whole or not at all, and a
//! tuple that it returns can be walked to its end without an error.

mod logical;
mod options;
mod streamed;
mod tuple;
mod two_phase;

use anabranch_core::Lsn;
use bytes::Bytes;

use crate::fields::Fields;
pub(crate) use logical::{ChunkEdge, Edge, Logical, Ours};
pub(crate) use options::PluginOptions;
pub(crate) use streamed::{InStream, StreamAbort, StreamCommit, StreamStart, in_stream};
pub(crate) use tuple::{Tuple, TupleBuilder, Value};
pub(crate) use two_phase::{TwoPhase, refuse_two_phase};

/// One message of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Begin(Begin),
    Commit(Commit),
    /// The transaction was replicated into the source from elsewhere.
    Origin,
    Relation(Relation),
    /// The name of a type that is not built in.
    Type,
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Option<OldTuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<u32>,
    },
    Logical(Logical),
    StreamStart(StreamStart),
    StreamStop,
    StreamCommit(StreamCommit),
    StreamAbort(StreamAbort),
    TwoPhase(TwoPhase),
}

/// A transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) commit_lsn: Lsn,
    /// Microseconds since 1970 UTC.
    pub(crate) commit_us: i64,
    pub(crate) xid: u32,
}

/// A transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) commit_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
}

/// A table as the changes that follow have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `relreplident`: of a partition, what its own changes say of the old row.
    pub(crate) replica_identity: char,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Part of the replica identity; under FULL every column is.
    pub(crate) identity: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
}

/// The row as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OldTuple {
    /// Only the columns of the replica identity; the others read as null, which they need not be.
    Key(Tuple),
    /// Every column (REPLICA IDENTITY FULL).
    Full(Tuple),
}

/// What cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("pgoutput message {0:?} is cut short or malformed")]
    Malformed(char),
    #[error("pgoutput message {0:?} is not known in protocol versions 1 to 4")]
    Unknown(char),
    #[error("pgoutput message {0:?} goes on where it should end, for {1} bytes")]
    Trailing(char, usize),
    #[error("a pgoutput value has format {0:?}")]
    Format(char),
}

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
pub(crate) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Decodes one message that is not part of a stream of a transaction in progress.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message, DecodeError> {
    let mut fields = Fields::new(bytes);
    let tag = fields.u8().ok_or(DecodeError::Malformed('\0'))?;
    let message = body(tag, bytes, &mut fields)?;
    match fields.rest().len() {
        0 => Ok(message),
        trailing => Err(DecodeError::Trailing(char::from(tag), trailing)),
    }
}

/// Decodes what follows the tag. `fields` are what is left of `bytes`.
fn body(tag: u8, bytes: &Bytes, fields: &mut Fields<'_>) -> Result<Message, DecodeError> {
    let malformed = DecodeError::Malformed(char::from(tag));
    match tag {
        b'I' => {
            let relation = fields.u32().ok_or(malformed)?;
            let new = new_tuple(bytes, fields, malformed)?;
            return Ok(Message::Insert { relation, new });
        }
        b'U' => {
            let relation = fields.u32().ok_or(malformed)?;
            let old = old_tuple(bytes, fields)?;
            let new = new_tuple(bytes, fields, malformed)?;
            return Ok(Message::Update { relation, old, new });
        }
        b'D' => {
            let relation = fields.u32().ok_or(malformed)?;
            let old = old_tuple(bytes, fields)?.ok_or(malformed)?;
            return Ok(Message::Delete { relation, old });
        }
        _ => {}
    }
    let message = match tag {
        b'B' => begin(fields).map(Message::Begin),
        b'C' => commit(fields).map(|(commit, _)| Message::Commit(commit)),
        b'O' => origin(fields).map(|()| Message::Origin),
        b'R' => relation(fields).map(Message::Relation),
        b'Y' => type_name(fields).map(|()| Message::Type),
        b'T' => truncate(fields).map(|relations| Message::Truncate { relations }),
        b'M' => logical::decode(fields).map(Message::Logical),
        b'S' => streamed::start(fields).map(Message::StreamStart),
        b'E' => Some(Message::StreamStop),
        b'c' => streamed::commit(fields).map(Message::StreamCommit),
        b'A' => streamed::abort(fields).map(Message::StreamAbort),
        b'b' | b'P' | b'p' | b'K' | b'r' => two_phase::decode(tag, fields).map(Message::TwoPhase),
        other => return Err(DecodeError::Unknown(char::from(other))),
    };
    message.ok_or(malformed)
}

fn begin(fields: &mut Fields<'_>) -> Option<Begin> {
    let commit_lsn = Lsn(fields.u64()?);
    Some(Begin { commit_lsn, commit_us: time(fields)?, xid: fields.u32()? })
}

/// A commit, and its time.
fn commit(fields: &mut Fields<'_>) -> Option<(Commit, i64)> {
    no_flags(fields)?;
    let commit = Commit { commit_lsn: Lsn(fields.u64()?), end_lsn: Lsn(fields.u64()?) };
    Some((commit, time(fields)?))
}

/// Flags that no version of the protocol uses: one that does means something that we do not know.
fn no_flags(fields: &mut Fields<'_>) -> Option<()> {
    (fields.u8()? == 0).then_some(())
}

/// A time in microseconds since 1970 UTC.
fn time(fields: &mut Fields<'_>) -> Option<i64> {
    fields.i64()?.checked_add(POSTGRES_EPOCH_US)
}

fn origin(fields: &mut Fields<'_>) -> Option<()> {
    let _lsn = fields.u64()?;
    fields.terminated().map(drop)
}

fn relation(fields: &mut Fields<'_>) -> Option<Relation> {
    let oid = fields.u32()?;
    let schema = match fields.string()? {
        "" => "pg_catalog".to_owned(),
        schema => schema.to_owned(),
    };
    let name = fields.string()?.to_owned();
    let replica_identity = char::from(fields.u8()?);
    let count = fields.u16()?;
    let column = |_| {
        Some(RelationColumn {
            identity: fields.u8()? & 1 == 1,
            name: fields.string()?.to_owned(),
            type_oid: fields.u32()?,
            typmod: fields.i32()?,
        })
    };
    let columns = (0..count).map(column).collect::<Option<_>>()?;
    Some(Relation { oid, schema, name, replica_identity, columns })
}

fn type_name(fields: &mut Fields<'_>) -> Option<()> {
    let _oid = fields.u32()?;
    let _schema = fields.terminated()?;
    fields.terminated().map(drop)
}

fn new_tuple(
    bytes: &Bytes,
    fields: &mut Fields<'_>,
    malformed: DecodeError,
) -> Result<Tuple, DecodeError> {
    match fields.u8() {
        Some(b'N') => Tuple::cut(bytes, fields),
        Some(_) | None => Err(malformed),
    }
}

fn old_tuple(bytes: &Bytes, fields: &mut Fields<'_>) -> Result<Option<OldTuple>, DecodeError> {
    let mut ahead = *fields;
    let old = match ahead.u8() {
        Some(b'K') => OldTuple::Key(Tuple::cut(bytes, &mut ahead)?),
        Some(b'O') => OldTuple::Full(Tuple::cut(bytes, &mut ahead)?),
        Some(_) | None => return Ok(None),
    };
    *fields = ahead;
    Ok(Some(old))
}

fn truncate(fields: &mut Fields<'_>) -> Option<Vec<u32>> {
    let count = fields.u32()?;
    let _options = fields.u8()?;
    // Four bytes each: a wrong count ends with the message, not with the memory.
    let relations = (0..count).map_while(|_| fields.u32()).collect::<Vec<_>>();
    (u32::try_from(relations.len()) == Ok(count)).then_some(relations)
}

impl OldTuple {
    pub(crate) fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
