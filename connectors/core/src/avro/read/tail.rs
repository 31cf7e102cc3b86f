//! The envelope behind the row images: where the change stands, and what it is.

use super::input::Input;
use super::{Header, Kind};
use crate::avro::Malformed;
use crate::avro::envelope::{SWEEP, TRUNCATE};
use crate::{Epoch, Lsn, Op, Position, Version};

/// What is read of `source`, `op` and `unchanged`.
#[derive(Debug)]
pub(super) struct Tail<'a> {
    ts_ms: i64,
    ts_us: Option<i64>,
    epoch: i64,
    commit_lsn: i64,
    ordinal: i64,
    part: i64,
    op: &'a [u8],
    is_marked: bool,
}

impl<'a> Tail<'a> {
    /// Reads to the end of the payload, in the order of `schema::envelope_schema`.
    pub(super) fn read(input: &mut Input<'a>) -> Result<Self, Malformed> {
        skip_sized(input, 3)?; // version, connector, name
        let ts_ms = input.long()?;
        skip_sized(input, 2)?; // snapshot, db
        let ts_us = optional_long(input)?;
        skip_sized(input, 2)?; // schema, table
        optional_long(input)?; // txId
        optional_long(input)?; // lsn
        let epoch = input.long()?;
        let commit_lsn = input.long()?;
        let ordinal = input.long()?;
        let part = input.long()?;
        let op = input.bytes()?;
        optional_long(input)?; // ts_ms
        skip_transaction(input)?;
        let is_marked = input.branch()? && any_strings(input)?;
        input.end()?;
        Ok(Self { ts_ms, ts_us, epoch, commit_lsn, ordinal, part, op, is_marked })
    }

    /// What the record is. Only a row that is there has an `after`.
    pub(super) fn header(&self, has_after: bool) -> Result<Header, Malformed> {
        let is = |op: Op| self.op == op.letter().as_bytes();
        let kind = if is(Op::Create) || is(Op::Update) || is(Op::Read) {
            if self.is_marked { Kind::Marked } else { Kind::Upsert }
        } else if is(Op::Delete) {
            Kind::Delete
        } else if self.op == TRUNCATE.as_bytes() {
            Kind::Truncate
        } else if self.op == SWEEP.as_bytes() {
            Kind::Sweep
        } else {
            return Err(Malformed::Op);
        };
        if has_after != matches!(kind, Kind::Upsert | Kind::Marked) {
            return Err(Malformed::Images);
        }
        let (position, part) = self.position().ok_or(Malformed::Position)?;
        let version = Version::new(position.epoch, position.commit_lsn, part);
        let commit_us = self.ts_us.unwrap_or_else(|| self.ts_ms.saturating_mul(1000));
        Ok(Header { position, part, version, commit_us, snapshot: is(Op::Read), kind })
    }

    fn position(&self) -> Option<(Position, u8)> {
        let epoch = Epoch(u8::try_from(self.epoch).ok()?);
        let commit_lsn = Lsn(u64::try_from(self.commit_lsn).ok()?);
        let ordinal = u64::try_from(self.ordinal).ok()?;
        let part = u8::try_from(self.part).ok()?;
        let position = Position { epoch, commit_lsn, ordinal };
        Some((position, part))
    }
}

fn skip_sized(input: &mut Input<'_>, count: usize) -> Result<(), Malformed> {
    (0..count).try_for_each(|_| input.bytes().map(|_| ()))
}

fn optional_long(input: &mut Input<'_>) -> Result<Option<i64>, Malformed> {
    if input.branch()? { input.long().map(Some) } else { Ok(None) }
}

fn skip_transaction(input: &mut Input<'_>) -> Result<(), Malformed> {
    if input.branch()? {
        input.bytes()?; // id
        input.long()?; // total_order
        input.long()?; // data_collection_order
    }
    Ok(())
}

/// Passes over an array of strings and says whether there was one.
fn any_strings(input: &mut Input<'_>) -> Result<bool, Malformed> {
    let mut any = false;
    input.blocks(|input| {
        any = true;
        input.bytes().map(|_| ())
    })?;
    Ok(any)
}
