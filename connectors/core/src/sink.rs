//! Where batches go.

use crate::Result;

/// A durable, idempotent target that remembers how far it is.
pub trait Sink<B, C>: Send {
    /// Reads the cursor from the target itself, and takes the target over from an earlier owner
    /// that may still have a write under way. `None` if the target has none.
    fn cursor(&mut self) -> impl Future<Output = Result<Option<C>>> + Send;

    /// Makes `batch` and `upto` durable together, before it returns.
    ///
    /// Applying a batch again, whole or in part, changes nothing in the end state. An error,
    /// a drop and a time-out all mean "not durable", never "not written".
    fn apply(&mut self, batch: &B, upto: &C) -> impl Future<Output = Result<()>> + Send;

    /// Says whether the target still stands where this worker left it. Asked now and then between
    /// batches, since a target that was put back to an older state while nothing moves would
    /// otherwise never be asked again. An error begins a new run.
    fn recheck(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}
