//! The event model, and the two traits that every connector is written against.
//!
//! ```text
//! Source ── LogBatch, SourceCursor ──▶ log ── Batch, StoreCursor ──▶ Sink
//! ```
//!
//! A cursor lives in the target, with the data it describes: recovery asks the target. Nothing
//! here does I/O.

mod assignment;
pub mod avro;
mod batch;
#[cfg(feature = "testing")]
pub mod conformance;
mod cursor;
mod error;
mod event;
mod finding;
pub mod key;
mod log_history;
mod membership;
#[cfg(feature = "testing")]
pub mod memory;
mod partition;
mod position;
mod repair;
mod rereads;
pub mod resume;
mod secret;
pub mod selection;
mod sink;
mod snapshot;
mod source;
mod table;
pub mod value;

pub use arrow_buffer::i256;
pub use assignment::Assignment;
pub use batch::{Batch, DeleteBelow, RowMeta, RowOp};
pub use cursor::{
    CURSOR_FORMAT, Fork, LastRecord, Phase, SourceCursor, Split, StoreCursor, UnitCursor,
};
pub use error::{Error, ErrorKind, Result};
pub use event::{Change, Event, LogBatch, Op, ROW_PART_MAX, TRUNCATE_PARTS, Transaction};
pub use finding::{Finding, Level};
pub use log_history::{Answer, Delivered, LogHistory, OpenWork};
pub use membership::{Membership, TableMarks};
pub use partition::partition;
pub use position::{BadLsn, BadVersion, Epoch, Lsn, Position, Version};
pub use repair::{PendingRepair, Repair, RepairKey, RepairReason};
pub use rereads::{Reread, Rereads};
pub use secret::Secret;
pub use sink::Sink;
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotStart, SnapshotState, TableSnapshot};
pub use source::Source;
pub use table::{
    Attribute, Column, ColumnType, Member, NARROW_PRECISION_MAX, PRECISION_MAX, Table,
};
