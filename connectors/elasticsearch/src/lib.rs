//! Keeps Elasticsearch (and OpenSearch) indexes equal to the tables of the log.
//!
//! ```text
//! Batch, StoreCursor ──▶ ElasticsearchSink ──▶ index orders-1 ◀── alias orders ◀── users
//! ```
//!
//! A row is the document whose `_id` is its key's text, written with the row's version as the
//! document's external version; so the server itself refuses what is older. The sink's progress
//! lies in the index, hidden from the alias. `docs/formats.md` has the details.

pub mod bulk;
mod check;
mod client;
mod config;
mod cursor;
mod delete_below;
mod document;
mod error;
mod index;
mod mapping;
mod names;
mod reader;
mod search;
mod sink;
mod write;

pub use check::check;
pub use config::ElasticsearchConfig;
pub use names::{alias_of, document_id};
pub use reader::{Document, read_all};
pub use sink::ElasticsearchSink;
