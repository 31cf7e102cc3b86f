//! Where batches come from.

use crate::Result;

/// A replayable, ordered stream of batches.
///
/// A source keeps its own connection alive between calls: back-pressure never silences a
/// keepalive.
pub trait Source: Send {
    /// What one step moves.
    type Batch: Send + Sync;
    /// How far a batch takes the target.
    type Cursor: Clone + Send + Sync;

    /// Goes to just after `after`, the target's own cursor; `None` if the target is empty.
    ///
    /// # Errors
    ///
    /// [`crate::ErrorKind::Lost`] if the history after it is gone.
    fn seek(&mut self, after: Option<Self::Cursor>) -> impl Future<Output = Result<()>> + Send;

    /// Returns the next batch and the cursor a target has once it holds it, or `None` at the
    /// end of a bounded source.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Option<(Self::Batch, Self::Cursor)>>> + Send;

    /// Says that the target durably holds everything up to `upto`, so that history up to there
    /// may be released. Called in the order of `next`.
    fn confirm(&mut self, upto: Self::Cursor) -> impl Future<Output = Result<()>> + Send;
}
