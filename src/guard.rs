//! What the daemon adds to the WAL guard: it runs beside the source, whatever that does, and what it
//! gives up leaves a trace.
//!
//! ```text
//! heartbeats ──▶ the WAL, if they are asked for
//! WalGuard::next ── cause ──▶ trace in the control schema ──▶ drop the slot
//!                                     │
//! start of the source ◀── Lost, by name
//! ```
//!
//! The invariant: a slot that was dropped by policy is never begun anew by itself.

use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use anabranch_postgres::{DropCause, WalGuard, beat, has_slot};
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
    loop {
        let cause = guard.next().await;
        leave_trace(config, &cause).await;
        if let Err(error) = guard.drop_slot(&cause).await {
            tracing::error!("{}; trying again", error.report());
        }
    }
}

/// The server comes first: a trace that cannot be left does not save the slot.
async fn leave_trace(config: &Config, cause: &DropCause) {
    let leave = async {
        let control = Control::open(&config.control_database()).await?;
        control.note_dropped_slot(&cause.slot, &cause.to_string()).await
    };
    match timeout(TRACE_WAIT_MAX, leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("the cause is not kept: {}", error.report()),
        Err(_elapsed) => tracing::error!("the cause is not kept: the control schema is silent"),
    }
}

/// A source whose slot was dropped by policy goes on only when a person says how.
///
/// # Errors
///
/// [`ErrorKind::Lost`] with when and why it was dropped.
pub async fn refuse_dropped_slot(config: &Config) -> Result<()> {
    let slot = &config.source.slot;
    let asked = async {
        let control = Control::open(&config.control_database()).await?;
        let dropped = control.dropped_slot(slot).await?;
        Ok::<_, Error>((control, dropped))
    };
    let (control, dropped) = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            // The missing slot is found all the same; only its cause is not named.
            tracing::warn!("{}; going on without it", error.report());
            return Ok(());
        }
    };
    let Some(dropped) = dropped else { return Ok(()) };
    if has_slot(&config.source).await? {
        return control.forget_dropped_slot(slot).await;
    }
    if is_accepted(config, &control).await? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Lost, format!("go on with slot {slot}"))
        .with_source(format!("the WAL guard dropped it at {dropped}"))
        .with_help(
            "`anabranch source accept --snapshot` copies every table again, `anabranch source accept \
             --gap` goes on without what is missing",
        ))
}

/// Whether a person has said how to go on from where the log stands. Whether it is said of just what
/// is found there, the source sees.
async fn is_accepted(config: &Config, control: &Control) -> Result<bool> {
    let position = anabranch_kafka::admin::read_position(&config.kafka).await?;
    let accepted = control.accepted().await?;
    Ok(position.is_some_and(|at| {
        let here = (at.log, at.epoch, at.confirm);
        accepted.iter().any(|one| (one.gap.log, one.gap.epoch, one.gap.log_lsn) == here)
    }))
}
