//! Transactions that are prepared first and committed later.
//!
//! A slot that was not created with `two_phase` never sends these: a prepared transaction comes
//! whole when it commits. They are decoded so that one that does can be refused by name.

use anabranch_core::{Error, ErrorKind, Lsn};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::{no_flags, time};
use crate::fields::Fields;

/// The name of a slot that is there for a moment.
const COPY: &str = "anabranch_copy";

/// A message of a two-phase commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TwoPhase {
    pub(crate) what: Prepared,
    pub(crate) xid: u32,
    /// The name that the application gave it.
    pub(crate) gid: String,
    /// Where the record of this step is.
    pub(crate) lsn: Lsn,
}

/// The steps of a two-phase commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// Its rows follow.
    Begin,
    /// Its rows are complete.
    Complete,
    /// The same, of a transaction that was streamed.
    Streamed,
    Commit,
    Rollback,
}

pub(super) fn decode(tag: u8, fields: &mut Fields<'_>) -> Option<TwoPhase> {
    let what = match tag {
        b'b' => Prepared::Begin,
        b'P' => Prepared::Complete,
        b'p' => Prepared::Streamed,
        b'K' => Prepared::Commit,
        b'r' => Prepared::Rollback,
        _ => return None,
    };
    if what != Prepared::Begin {
        no_flags(fields)?;
    }
    let lsn = Lsn(fields.u64()?);
    let _end_lsn = fields.u64()?;
    if what == Prepared::Rollback {
        let _prepared_us = time(fields)?;
    }
    let _at_us = time(fields)?;
    let xid = fields.u32()?;
    let gid = String::from_utf8_lossy(fields.terminated()?).into_owned();
    Some(TwoPhase { what, xid, gid, lsn })
}

impl TwoPhase {
    /// The error that it is.
    pub(crate) fn refuse(&self, slot: &str) -> Error {
        let what = match self.what {
            Prepared::Begin | Prepared::Complete | Prepared::Streamed => "was prepared",
            Prepared::Commit => "was committed after it had been prepared",
            Prepared::Rollback => "was rolled back after it had been prepared",
        };
        let (gid, xid, lsn) = (&self.gid, self.xid, self.lsn);
        refuse_two_phase(slot, &format!(": {gid:?}, transaction {xid}, {what} at {lsn}"))
    }
}

/// The error that a slot with `two_phase` is: what has been prepared may be rolled back yet, and a log
/// cannot take events back.
pub(crate) fn refuse_two_phase(slot: &str, seen: &str) -> Error {
    let slot_sql = escape_literal(slot);
    let slot_sql = slot_sql.trim_start();
    // A copy has the position of the slot, and neither its two_phase nor its failover.
    let sql = format!(
        "select pg_copy_logical_replication_slot({slot_sql}, '{COPY}'); \
         select pg_drop_replication_slot({slot_sql}); \
         select pg_copy_logical_replication_slot('{COPY}', {slot_sql}); \
         select pg_drop_replication_slot('{COPY}')"
    );
    Error::new(ErrorKind::Config, format!("read slot {slot}"))
        .with_source(format!(
            "it was created with two_phase = true, so that the server sends transactions before \
             they commit{seen}"
        ))
        .with_help(format!(
            "make it a slot without two_phase, which loses nothing: {sql}; if it had failover, too: \
             psql 'dbname=.. replication=database' -c 'ALTER_REPLICATION_SLOT {} (FAILOVER true)'",
            escape_identifier(slot)
        ))
}
