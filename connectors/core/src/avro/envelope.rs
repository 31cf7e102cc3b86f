//! A change as the value of a record in the log: Debezium's envelope around the rows.
//!
//! ```text
//! 0 · schema id · before · after · source · op · ts_ms · transaction · unchanged
//! └── header ───┘ └── payload: schema::envelope_schema, in this order ──────────┘
//! ```
//!
//! The rows come encoded and are copied as they are.

use super::{Malformed, write};
use crate::{Change, Error, ErrorKind, Event, Op, Result};

/// What `source` says of where a change comes from, the same for all changes of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNames {
    /// `source.name`: the topic prefix.
    pub prefix: String,
    /// `source.db`: the database.
    pub database: String,
}

/// Bytes of the header of the Confluent wire format.
pub const HEADER_LEN: usize = 5;

/// Debezium's letter for a TRUNCATE.
pub(super) const TRUNCATE: &str = "t";

/// Debezium's letter for a message, which other readers pass over.
pub(super) const SWEEP: &str = "m";

/// The header of the Confluent wire format: 0 and the schema's id.
#[must_use]
pub fn header(schema_id: i32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = schema_id.to_be_bytes();
    [0, a, b, c, d]
}

/// Splits a record of the log, key or value, into its schema's id and its payload.
///
/// # Errors
///
/// [`ErrorKind::Rejected`] if it does not start with a header.
pub fn split_header(record: &[u8]) -> Result<(i32, &[u8])> {
    match record {
        [0, a, b, c, d, payload @ ..] => Ok((i32::from_be_bytes([*a, *b, *c, *d]), payload)),
        _ => Err(Error::new(ErrorKind::Rejected, "read the header of a record")
            .with_source(Malformed::Header)
            .with_help("look at what else writes to this topic")),
    }
}

/// Appends the payload of `event`. `now_us` is the time of writing, microseconds since 1970 UTC.
///
/// `source.ts_ms` and `ts_us` are the commit time. `source.lsn` is the commit record's: it orders,
/// a row's own does not. `transaction` is null: its `data_collection_order` is not known here,
/// and `source` has the rest (`txId`, `ordinal`).
pub fn encode(event: &Event, names: &SourceNames, now_us: i64, out: &mut Vec<u8>) {
    let (op, before, after, unchanged) = match &event.change {
        Change::Row { op, before, after, unchanged, .. } => {
            (op.letter(), before.as_deref(), after.as_deref(), unchanged.as_slice())
        }
        Change::Truncate => (TRUNCATE, None, None, [].as_slice()),
        Change::Sweep => (SWEEP, None, None, [].as_slice()),
    };
    image(before, out);
    image(after, out);
    source(event, names, out);
    write::string(out, op);
    write::value_branch(out);
    write::long(out, milliseconds(now_us));
    write::null_branch(out);
    names_list(unchanged, out);
}

fn image(row: Option<&[u8]>, out: &mut Vec<u8>) {
    match row {
        Some(row) => {
            write::value_branch(out);
            out.extend_from_slice(row);
        }
        None => write::null_branch(out),
    }
}

fn source(event: &Event, names: &SourceNames, out: &mut Vec<u8>) {
    let commit_lsn = saturating(event.position.commit_lsn.0);
    write::string(out, env!("CARGO_PKG_VERSION"));
    write::string(out, "postgresql");
    write::string(out, &names.prefix);
    write::long(out, milliseconds(event.transaction.commit_us));
    write::string(out, if is_snapshot(&event.change) { "true" } else { "false" });
    write::string(out, &names.database);
    write::value_branch(out);
    write::long(out, event.transaction.commit_us);
    write::string(out, &event.table.schema);
    write::string(out, &event.table.name);
    if event.transaction.xid == 0 {
        write::null_branch(out);
    } else {
        write::value_branch(out);
        write::long(out, i64::from(event.transaction.xid));
    }
    write::value_branch(out);
    write::long(out, commit_lsn);
    write::int(out, i32::from(event.position.epoch.0));
    write::long(out, commit_lsn);
    write::long(out, saturating(event.position.ordinal));
    write::int(out, i32::from(event.part));
}

fn names_list(names: &[String], out: &mut Vec<u8>) {
    if names.is_empty() {
        write::null_branch(out);
        return;
    }
    write::value_branch(out);
    write::array_start(out, names.len());
    for name in names {
        write::string(out, name);
    }
    write::array_end(out);
}

fn is_snapshot(change: &Change) -> bool {
    matches!(change, Change::Row { op: Op::Read, .. })
}

/// Rounds down, before 1970 too.
fn milliseconds(microseconds: i64) -> i64 {
    microseconds.div_euclid(1000)
}

/// 256 epochs of 4 PiB bound the LSN, what a transaction can hold the ordinal: both fit.
fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
