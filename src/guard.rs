//! What the daemon adds to the WAL guard: it runs beside the source, whatever that does, and what it
//! gives up leaves a trace.
//!
//! ```text
//! heartbeats ──▶ the WAL, if they are asked for
//! WalGuard::next ── cause ──▶ trace in the control schema ──▶ drop the slot
//!                                     │
//! source that misses its slot ◀── Lost, by name
//! ```
//!
//! The invariant: a slot that was dropped by policy is never begun anew by itself.

use std::time::Duration;

use anabranch_core::{Answer, Error, ErrorKind, Phase, Result, SourceCursor};
use anabranch_postgres::{DropCause, DroppedSlots, OnLost, WalGuard, beat, has_slot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::Control;
use crate::status::Status;

/// How long the trace may take: the disk of the server fills meanwhile.
const TRACE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Guards the slot, and sends heartbeats, until `stop`.
pub async fn run(config: &Config, status: &Status, stop: &CancellationToken) {
    let stats = status.source_stats();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = watch(config, status) => {}
        () = beat(&config.source, &stats) => {}
    }
}

async fn watch(config: &Config, status: &Status) {
    let mut guard = WalGuard::new(config.source.clone());
    status.set_guard(guard.watch());
    // One that was ended between the two has left a trace for nothing.
    forget_trace(config).await;
    loop {
        let cause = guard.next().await;
        leave_trace(config, &cause).await;
        match guard.drop_slot(&cause).await {
            // Once more: it is certain now, and the control schema may have been silent before.
            Ok(true) => leave_trace(config, &cause).await,
            Ok(false) => forget_trace(config).await,
            Err(error) => {
                tracing::error!("{}; trying again", error.report());
                forget_trace(config).await;
            }
        }
    }
}

/// A slot that is still there was not dropped, so no later loss is to be called that.
async fn forget_trace(config: &Config) {
    let forget = async {
        if has_slot(&config.source).await? {
            open(config).await?.forget_dropped_slot(&config.source.slot).await?;
        }
        Ok::<_, Error>(())
    };
    let done = timeout(TRACE_WAIT_MAX, forget).await.unwrap_or_else(|_elapsed| Err(silent()));
    if let Err(error) = done {
        tracing::warn!("a trace of the WAL guard may be left for nothing: {}", error.report());
    }
}

/// The server comes first: a trace that cannot be left does not save the slot.
async fn leave_trace(config: &Config, cause: &DropCause) {
    let leave = async {
        let control = open(config).await?;
        control.note_dropped_slot(&cause.slot, &cause.to_string()).await
    };
    match timeout(TRACE_WAIT_MAX, leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("the cause is not kept: {}", error.report()),
        Err(_elapsed) => tracing::error!("the cause is not kept: the control schema is silent"),
    }
}

/// The traces of this guard, for the source that misses its slot.
#[derive(Debug)]
pub struct Traces(pub Config);

impl DroppedSlots for Traces {
    fn cause<'a>(&'a self, at: &'a SourceCursor) -> Answer<'a, Option<String>> {
        Box::pin(async {
            let read = async { open(&self.0).await?.dropped_slot(at).await };
            match timeout(TRACE_WAIT_MAX, read).await.unwrap_or_else(|_elapsed| Err(silent())) {
                // Where a slot would be begun anew by itself, it must be known that it may be.
                Err(error) if self.0.source.wal_guard.drop_slot && !self.waits_for_people(at) => {
                    Err(error)
                }
                Err(error) => {
                    tracing::warn!("{}; going on without the traces", error.report());
                    Ok(None)
                }
                Ok(cause) => Ok(cause),
            }
        })
    }
}

impl Traces {
    /// Whether a slot that is missing at `at` is a loss in any case, whoever dropped it.
    fn waits_for_people(&self, at: &SourceCursor) -> bool {
        at.phase == Phase::Streaming && self.0.source.on_lost == OnLost::Park
    }
}

async fn open(config: &Config) -> Result<Control> {
    Control::open(config).await
}

fn silent() -> Error {
    Error::new(ErrorKind::Transient, "read the control schema").with_source("it does not answer")
}
