//! The log in Kafka: where the source's changes go, and where every store's come from.
//!
//! ```text
//! LogBatch, SourceCursor ─▶ LogSink ──▶ topics, progress, schemas ──▶ Group ─▶ TopicSource ─▶ Batch
//!                           one Kafka                                 one a sink   one a topic
//!                           transaction
//! ```
//!
//! A batch and the position record that covers it are one Kafka transaction, so the log itself
//! says how far it is. A store's cursor says how far the store is; the group's committed offsets
//! are for people and their tools.

pub mod admin;
mod buffer;
mod catalog;
mod config;
mod context;
mod error;
mod feed;
mod group;
mod lease;
mod member;
mod names;
mod producer;
mod progress;
mod reader;
mod registry;
mod repairs;
mod routes;
mod scan;
mod schemas;
mod seek;
mod sink;
mod snapshots;
mod source;
mod stats;
mod topics;

pub use config::{KafkaConfig, RECORD_BYTES_MAX, RegistryConfig};
pub use group::{Group, GroupEvent};
pub use names::Names;
pub use registry::Registry;
pub use repairs::{REPAIR_FORMAT, RepairRecord, Repairs, TableRepairs};
pub use scan::LogScan;
pub use schemas::{SCHEMA_FORMAT, SchemaRecord, Tables};
pub use sink::LogSink;
pub use snapshots::Snapshots;
pub use source::{Limits, TopicSource};
pub use stats::{GroupStats, UnitLag};

use anabranch_core::Result;
use sha2::{Digest as _, Sha256};

/// The header that control records have; its value says what the record is.
const CONTROL_HEADER: &str = "anabranch";

/// Runs a call of librdkafka that waits for a broker.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(panicked) => Err(error::bug("call librdkafka", panicked.to_string())),
    }
}

/// The first 16 hex digits of the SHA-256 of `bytes`: names a key without showing it.
fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(bytes);
    digest.iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
