//! What became of a slot that is missing: the WAL guard may have given it up.
//!
//! ```text
//! WAL guard ──▶ trace ──▶ slot dropped        source: slot missing ──▶ trace? ──▶ cause
//! ```
//!
//! The invariant: the trace is there before the slot is gone, and is looked for after the slot was
//! missing, so that no drop by the guard is taken for another.

use std::fmt;

use anabranch_core::{Answer, SourceCursor};

/// Where the traces of the guard are kept.
pub trait DroppedSlots: fmt::Debug + Send + Sync {
    /// When and why the guard gave up the slot with which the log came to `at`; `None` if it did not.
    fn cause<'a>(&'a self, at: &'a SourceCursor) -> Answer<'a, Option<String>>;
}
