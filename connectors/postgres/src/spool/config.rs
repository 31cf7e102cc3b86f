//! What the user says about the spool.

use std::path::PathBuf;

use serde::Deserialize;

/// Bytes of streamed transactions in memory. The server streams only what is larger than its
/// `logical_decoding_work_mem`, 64 MB by default, so most of it goes to disk whatever this is.
const DEFAULT_MEMORY_BYTES_MAX: usize = 8 << 20;

/// Where transactions wait that the server sends before they commit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Bytes in memory, before files are written.
    pub memory_bytes_max: usize,
    /// The folder of these files, which have no name: the system's for temporary files if left out.
    pub folder: Option<PathBuf>,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { memory_bytes_max: DEFAULT_MEMORY_BYTES_MAX, folder: None }
    }
}
