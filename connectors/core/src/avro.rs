//! Rows as they lie in the log: Avro in Debezium's envelope, written once and read once.
//!
//! ```text
//! tuple ── write ──▶ row ── envelope ──▶ record in the log ── read ──▶ Arrow
//!                            schema: what any other reader of the log needs to know
//! ```
//!
//! One layout holds everywhere: a row has the table's columns in their order, a column of the key
//! is a plain `T` and any other a `["null", T]`; the key record has the key's columns in the order
//! of the key, all plain. Equal keys have equal bytes, in every schema version.

pub mod envelope;
mod malformed;
mod name;
pub mod read;
pub mod schema;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;

use malformed::Malformed;
pub use name::escape;
