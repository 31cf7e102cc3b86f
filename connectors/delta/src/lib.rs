//! Delta Lake as a store: a row per key, kept by deletion vectors.
//!
//! ```text
//! Batch ─▶ plan ─▶ data files, deletion vectors ─▶ one commit: rows and cursor ─▶ any reader
//!            ▲                                          │
//!         key index ◀───────────────────────────────────┘
//! ```
//!
//! Rows and cursor are in one commit of the table's log, so that no reader sees half a batch and
//! no worker finds rows without their cursor. `docs/formats.md` says what is written.
//!
//! Data files are not compacted yet: each commit adds one for each partition that it has rows
//! of, and a reader's work grows with their number. Any tool's OPTIMIZE may be run meanwhile.

mod check;
mod config;
mod data_file;
mod deletion_vector;
mod error;
mod key_index;
mod log;
mod object_reader;
mod plan;
mod reader;
mod restore;
mod row_index;
mod rows;
mod schema;
mod sink;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod units;
mod write;

pub use check::check;
pub use config::DeltaConfig;
pub use reader::read_table;
pub use sink::DeltaSink;
