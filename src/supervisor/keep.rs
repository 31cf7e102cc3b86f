//! Tries one part again and again: after a while by itself, or when told.

use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Context, asked};
use crate::pipeline::Report;
use crate::status::{Part, State};

const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// What is down is asked again at least this often.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An attempt that lasted this long was no failure to start.
const STEADY: Duration = Duration::from_secs(30);
/// How long a loop may take to come to its end once it was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What is tried.
pub(super) trait Attempt: Send {
    /// Runs until `stop`, the end, or a failure; `report` hears how it goes.
    fn run(
        &mut self,
        stop: &CancellationToken,
        report: Report<'_>,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Runs `attempt` until it succeeds or `stop`. `name` is what `resume` calls it.
pub(super) async fn keep(
    context: &Context,
    part: Part,
    name: &str,
    stop: &CancellationToken,
    mut attempt: impl Attempt,
) -> Result<()> {
    let mut backoff = BACKOFF_MIN;
    let report = |error: Option<&Error>| note(context, &part, error);
    context.status.set(&part, State::Starting);
    loop {
        let begun = Instant::now();
        let resumes = context.request(name).resumes;
        let outcome = tokio::select! {
            biased;
            outcome = attempt.run(stop, &report) => outcome,
            // What does not hear of stopping is dropped, as by a crash.
            () = graceful(stop) => return Ok(()),
        };
        let Err(error) = outcome else { return Ok(()) };
        if stop.is_cancelled() {
            return Ok(());
        }
        note(context, &part, Some(&error));
        if error.kind() != ErrorKind::Transient {
            if context.alone {
                return Err(error);
            }
            resumed(context, name, resumes, stop).await;
        } else {
            backoff = if begun.elapsed() > STEADY { BACKOFF_MIN } else { backoff };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn graceful(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// Sets the part's state, and logs it if it is news.
fn note(context: &Context, part: &Part, error: Option<&Error>) {
    let state = error.map_or(State::Running, State::after);
    if !context.status.set(part, state.clone()) {
        return;
    }
    match state {
        State::Parked { error } => tracing::error!(part = %part, "parked: {error}"),
        State::Retrying { error } => tracing::warn!(part = %part, "trying again: {error}"),
        State::Starting | State::Running | State::Paused | State::Unknown => {
            tracing::info!(part = %part, "{}", state.word());
        }
    }
}

/// Waits until somebody asks to try again.
async fn resumed(context: &Context, name: &str, resumes: i64, stop: &CancellationToken) {
    let mut requests = context.requests.clone();
    let more =
        requests.wait_for(|all| all.as_ref().is_some_and(|all| asked(all, name).resumes > resumes));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        // The sender lives as long as the process.
        more = more => drop(more),
    }
}
