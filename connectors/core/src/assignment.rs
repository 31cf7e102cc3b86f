//! What one store worker is for.

use std::sync::Arc;

use uuid::Uuid;

use crate::Table;

/// One sink's share of one topic: what a store connector is opened with.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The sink's name in the configuration.
    pub sink: String,
    /// The log topic.
    pub topic: String,
    /// The table, in its newest schema version.
    pub table: Arc<Table>,
    /// The partitions of the topic that this worker owns, ascending: its units of progress.
    pub partitions: Vec<i32>,
    /// The id of the log.
    pub log: Uuid,
    /// The generation of the sink, from 1.
    pub generation: u32,
}
