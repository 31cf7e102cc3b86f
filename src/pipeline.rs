//! Moves batches from a source to a sink, and receipts back. Nothing else moves data.
//!
//! ```text
//! source ── (batch, cursor) ──▶ sink
//!    ▲                            │
//!    └───────── cursor ───────────┘   once it is durable in the sink
//! ```
//!
//! The invariant: a cursor comes back only after its batch is durable, in the order of the
//! batches. All else is the target's word: a run begins by asking the sink where it stands, and
//! so does every retry, since a write that failed may have landed all the same.

use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result, Sink, Source};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Batches between the source and the sink: one is written while the next is made.
const IN_FLIGHT_MAX: usize = 1;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait: a store that is back is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often a target is asked whether it still stands where it was left.
const RECHECK: Duration = Duration::from_secs(10);

/// Hears of each failed attempt, and with `None` of the success that ends a row of them.
pub type Report<'a> = &'a (dyn Fn(Option<&Error>) + Sync);

/// Runs until the source ends, `stop` is cancelled, or an error needs somebody else: any of the
/// source, any of the sink but [`ErrorKind::Transient`], and a transient one after which the
/// target is not where this run left it (begin a new run then).
pub async fn run<S: Source<Cursor: PartialEq>, K: Sink<S::Batch, S::Cursor>>(
    source: &mut S,
    sink: &mut K,
    stop: &CancellationToken,
    report: Report<'_>,
) -> Result<()> {
    let held = sink.cursor().await?;
    source.seek(held.clone()).await?;
    report(None);
    let (batches, inbox) = mpsc::channel(IN_FLIGHT_MAX);
    let (receipts, returned) = mpsc::channel(IN_FLIGHT_MAX);
    let read = read(source, batches, returned, stop);
    tokio::try_join!(read, write(sink, held, inbox, receipts, (stop, report)))?;
    Ok(())
}

/// Reads until stopped, then waits for every receipt still out.
async fn read<S: Source>(
    source: &mut S,
    batches: mpsc::Sender<(S::Batch, S::Cursor)>,
    mut returned: mpsc::Receiver<S::Cursor>,
    stop: &CancellationToken,
) -> Result<()> {
    loop {
        let next = async { (batches.reserve().await, source.next().await) };
        // Stopping first; then receipts, so that history is released while the source is busy.
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(upto) = returned.recv() => source.confirm(upto).await?,
            (room, item) = next => match (room, item?) {
                (Ok(room), Some(item)) => room.send(item),
                (_, None) | (Err(_), _) => break,
            },
        }
    }
    drop(batches);
    while let Some(upto) = returned.recv().await {
        source.confirm(upto).await?;
    }
    Ok(())
}

/// Applies each batch until it is durable, then returns its cursor. `held`: where the target is.
async fn write<B: Send + Sync, C: Clone + PartialEq + Send + Sync, K: Sink<B, C>>(
    sink: &mut K,
    mut held: Option<C>,
    mut inbox: mpsc::Receiver<(B, C)>,
    receipts: mpsc::Sender<C>,
    (stop, report): (&CancellationToken, Report<'_>),
) -> Result<()> {
    let mut recheck_at = Instant::now() + RECHECK;
    loop {
        let item = timeout_at(recheck_at, inbox.recv()).await;
        if Instant::now() >= recheck_at {
            sink.recheck().await?;
            recheck_at = Instant::now() + RECHECK;
        }
        let Ok(item) = item else { continue };
        let Some((batch, upto)) = item else { return Ok(()) };
        let mut attempt = sink.apply(&batch, &upto).await;
        let mut backoff = BACKOFF_MIN;
        while let Err(error) = attempt {
            if error.kind() != ErrorKind::Transient || stop.is_cancelled() {
                return Err(error);
            }
            report(Some(&error));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(error),
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
            attempt = match sink.cursor().await {
                Ok(now) if now.as_ref() == Some(&upto) => Ok(()),
                Ok(now) if now == held => sink.apply(&batch, &upto).await,
                Ok(_) => return Err(error),
                Err(error) => Err(error),
            };
            attempt.is_ok().then(|| report(None));
        }
        held = Some(upto.clone());
        if receipts.send(upto).await.is_err() {
            return Ok(());
        }
    }
}
