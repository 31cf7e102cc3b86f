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

mod config;
mod context;
mod error;
mod names;
mod registry;

pub use config::{KafkaConfig, RECORD_BYTES_MAX, RegistryConfig};
pub use names::Names;
pub use registry::Registry;

use sha2::{Digest as _, Sha256};

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
