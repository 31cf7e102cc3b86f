//! PostgreSQL as a source: a snapshot of the tables, then every change, in the order of the commits.
//!
//! ```text
//! walsender ── pgwire ──▶ feed ──▶ transaction ──▶ batch ──▶ reread ──▶ LogBatch, SourceCursor
//!    ▲            │      decode,    positions      whole     unchanged
//!    └─ feedback ─┘       spool                 transactions  values
//!
//! slot with exported snapshot ── snapshot ──▶ LogBatch, SourceCursor      (when a history begins)
//! keys that the log was given ── repair ────▶ LogBatch, SourceCursor      (when it has forked)
//! ```
//!
//! The invariant: what is confirmed to the server is in a durable position record of the log first,
//! so at every start the slot is at or behind the log, or history is lost and is said to be.

mod absent;
mod accept;
mod batch;
mod binary;
mod blind;
mod catalog;
mod check;
mod columns;
mod config;
mod copy_row;
mod copying;
mod dropped;
mod error;
mod feed;
mod fields;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod heartbeat;
mod history;
mod hosting;
mod incremental;
mod intake;
mod key_sql;
mod key_text;
mod locks;
mod loss;
mod membership;
mod pace;
mod pgoutput;
mod pgwire;
mod publication;
mod repair;
mod reread;
mod row;
mod scope;
mod server;
mod session;
mod slot;
mod snapshot;
mod source;
mod spool;
mod stats;
mod streaming;
mod table_name;
mod teardown;
mod tls;
mod transaction;
mod value;
mod visibility;
mod wait;
mod watchdog;

pub use accept::{Diagnosis, diagnose};
pub use binary::BinaryFormat;
pub use check::{LogState, check};
pub use columns::ColumnRules;
pub use config::{InitialCopy, OnLost, PostgresConfig, StreamingMode};
pub use dropped::DroppedSlots;
pub use guard::{
    DropCause, GuardReport, GuardState, GuardWatch, Limit, OldestPrepared, SpillReport, WalGuard,
    WalGuardConfig, has_slot,
};
pub use heartbeat::beat;
pub use incremental::{SnapshotRequest, SnapshotRequests, SnapshotScope};
pub use loss::{Acceptance, Gap, WayOn};
pub use session::connect;
pub use snapshot::{CopyFigures, TableCopy, bar};
pub use source::PostgresSource;
pub use spool::SpoolConfig;
pub use stats::{SourceFigures, SourceStats};
pub use teardown::{teardown, teardown_plan};
pub use value::{Misfit, Policy, ValuePolicies};
pub use watchdog::WatchdogConfig;
