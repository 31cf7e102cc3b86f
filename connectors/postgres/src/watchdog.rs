//! Keeps a reader that is dead from looking alive.
//!
//! ```text
//! the task that reads ── beat, each turn and each second ──▶ Pulse ◀── looks ── a thread of its own
//!                                                              │ no beat for a while: closes the socket
//!                                                              └──▶ stalled: the source fails
//! ```
//!
//! Statuses come from a task of their own, so that whatever waits for room downstream keeps its
//! connection; so they would also go on for ever for a reader that is stuck, and hold its slot. The
//! invariant: beats come from the reader's task alone, and go on while it waits for anything at
//! all; they stop only when that task does not come back from a computation.
//!
//! Who looks is a thread and not a task: a task that blocks its thread may keep a runtime from
//! seeing its timers and its sockets, and then nothing that runs there would notice.

use std::convert::Infallible;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use socket2::Socket;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Time between two beats of a reader that waits.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How many looks in a row see no beat before a reader is dead. Looks are counted, not time, so
/// that a process or a machine that was suspended is not dead when it goes on.
const LOOKS: u32 = 8;
/// What PostgreSQL grants a silent receiver by default; and longer than it takes to make an event
/// of the largest row that PostgreSQL sends, 1 GB.
const DEFAULT_STALL_MS_MAX: u64 = 60_000;
/// Two beats of a reader that waits.
const STALL_MS_MIN: u64 = 2_000;

/// When a reader counts as dead.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogConfig {
    /// Milliseconds without a sign of life of the task that reads, after which its connection is
    /// closed, so that the slot is free for another process; at least 2,000.
    pub stall_ms_max: u64,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self { stall_ms_max: DEFAULT_STALL_MS_MAX }
    }
}

impl WatchdogConfig {
    pub(crate) fn validate(self) -> Result<()> {
        if self.stall_ms_max >= STALL_MS_MIN {
            return Ok(());
        }
        let action = format!("use watchdog.stall_ms_max = {}", self.stall_ms_max);
        Err(Error::new(ErrorKind::Config, action)
            .with_help(format!("it is at least {STALL_MS_MIN}; leave it out for a minute")))
    }

    fn stall_max(self) -> Duration {
        Duration::from_millis(self.stall_ms_max)
    }
}

/// Signs of life of a reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<State>);

#[derive(Debug, Default)]
struct State {
    beats: AtomicU64,
    stalled: CancellationToken,
}

/// Looks after a reader until it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// The thread ends with it.
    _end: mpsc::Sender<Infallible>,
}

impl Pulse {
    pub(crate) fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Beats as long as it is polled: the reader's task polls it beside its work.
    pub(crate) async fn beat_while_waiting(&self) -> Infallible {
        let mut timer = tokio::time::interval(BEAT_INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            self.beat();
        }
    }

    /// Returns when the reader was found dead. Cancel-safe.
    pub(crate) async fn stalled(&self) {
        self.0.stalled.cancelled().await;
    }

    /// Begins to look after the reader, whose connection `socket` is.
    pub(crate) fn guard(&self, config: WatchdogConfig, socket: Option<Socket>) -> Result<Watchdog> {
        let (end, ended) = mpsc::channel();
        let pulse = self.clone();
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || pulse.watch(config, socket.as_ref(), &ended))
            .map_err(|error| {
                Error::new(ErrorKind::Transient, "start the watchdog").with_source(error)
            })?;
        Ok(Watchdog { _end: end })
    }

    /// Returns when the reader is dead, and that is known; or when nobody cares any more.
    fn watch(
        &self,
        config: WatchdogConfig,
        socket: Option<&Socket>,
        ended: &mpsc::Receiver<Infallible>,
    ) {
        let mut silence = Silence::default();
        while !silence.is_death(self.0.beats.load(Ordering::Relaxed)) {
            let timeout = ended.recv_timeout(config.stall_max() / LOOKS);
            if matches!(timeout, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
        }
        tracing::error!("the task that reads the stream is stuck: closing its connection");
        // What is closed already needs no closing.
        socket.map(|socket| socket.shutdown(Shutdown::Both).ok());
        self.0.stalled.cancel();
    }
}

/// What the looks saw.
#[derive(Debug, Default)]
struct Silence {
    beats: u64,
    looks: u32,
}

impl Silence {
    /// Whether a look that sees this number of beats is one too many.
    fn is_death(&mut self, beats: u64) -> bool {
        self.looks = if beats == self.beats { self.looks + 1 } else { 0 };
        self.beats = beats;
        self.looks > LOOKS
    }
}

/// The error of a source whose reader is dead.
pub(crate) fn stalled(config: WatchdogConfig) -> Error {
    let action = "read the stream: the task that does it is stuck";
    let seconds = config.stall_max().as_secs();
    Error::new(ErrorKind::Bug, action)
        .with_source(format!("it has shown no sign of life for {seconds} s"))
        .with_help("the slot is free for another process; restart this one, and report it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::time::Instant;

    #[test]
    fn a_reader_is_dead_after_a_number_of_silent_looks_in_a_row() {
        let mut silence = Silence::default();
        assert!((0..LOOKS).all(|_| !silence.is_death(0)));
        assert!(!silence.is_death(1));
        assert!((0..LOOKS).all(|_| !silence.is_death(1)));
        assert!(silence.is_death(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_beats_each_second() {
        let pulse = Pulse::default();
        let began = Instant::now();
        let waits = Duration::from_secs(3600);
        assert!(tokio::time::timeout(waits, pulse.beat_while_waiting()).await.is_err());
        assert_eq!(began.elapsed(), waits);
        assert!(pulse.0.beats.load(Ordering::Relaxed) >= 3600);
    }

    #[test]
    fn a_watchdog_that_is_dropped_says_nothing() {
        let pulse = Pulse::default();
        let (end, ended) = mpsc::channel();
        drop(end);
        pulse.watch(WatchdogConfig::default(), None, &ended);
        assert!(pulse.stalled().now_or_never().is_none());
        let (_end, ended) = mpsc::channel();
        pulse.watch(WatchdogConfig { stall_ms_max: 8 }, None, &ended);
        assert!(pulse.stalled().now_or_never().is_some());
    }
}
