//! The guard at work: a session of its own, a look every few seconds, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;

use super::report::{GuardReport, GuardState, prepared_help};
use super::sample::Sample;
use super::{Action, Guard};
use crate::config::PostgresConfig;
use crate::error::Context;
use crate::session::Session;
use crate::slot::{Slot, bytes};

/// How long the server may take to answer one look, the connection included.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// A tenth more or less, so that guards of many instances do not come at once.
const JITTER_DIVISOR: u64 = 10;
/// How long the slot may stay in use after its reader was told to go: it may come back in between.
const DROP_WAIT_MAX: Duration = Duration::from_secs(30);
/// The time between two tries.
const DROP_INTERVAL: Duration = Duration::from_millis(50);

/// Looks at the slot for as long as it is polled, whatever the source itself does.
pub struct WalGuard {
    config: Arc<PostgresConfig>,
    guard: Guard,
    session: Option<Session>,
    /// The first look is at once, the next ones after the interval.
    looked: bool,
    began: Instant,
    seen: watch::Sender<Seen>,
}

/// What the guard has seen last; anybody may look.
#[derive(Clone, Debug)]
pub struct GuardWatch(watch::Receiver<Seen>);

/// Why the policy gives a slot up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCause {
    /// The slot.
    pub slot: String,
    /// What it kept on the server.
    pub retained_bytes: u64,
    /// What it may keep.
    pub retained_bytes_max: u64,
}

#[derive(Debug, Default)]
struct Seen {
    report: GuardReport,
    at: Option<Instant>,
}

impl std::fmt::Debug for WalGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalGuard").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl std::fmt::Display for DropCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "it kept {} of WAL, and [source.wal_guard] says to drop it at {}",
            bytes(self.retained_bytes),
            bytes(self.retained_bytes_max)
        )
    }
}

impl WalGuard {
    /// A guard of the slot that `config` names; it looks when [`WalGuard::next`] is polled.
    #[must_use]
    pub fn new(config: PostgresConfig) -> Self {
        let guard = Guard::new(config.wal_guard.clone(), config.slot.clone());
        let report = GuardReport { slot: config.slot.clone(), ..GuardReport::default() };
        Self {
            config: Arc::new(config),
            guard,
            session: None,
            looked: false,
            began: Instant::now(),
            seen: watch::Sender::new(Seen { report, at: None }),
        }
    }

    /// What it sees from now on.
    #[must_use]
    pub fn watch(&self) -> GuardWatch {
        GuardWatch(self.seen.subscribe())
    }

    /// Looks again and again, until the policy asks for the slot to be dropped: then leave a trace
    /// of the cause, and call [`WalGuard::drop_slot`]. Cancel-safe.
    pub async fn next(&mut self) -> DropCause {
        loop {
            if std::mem::replace(&mut self.looked, true) {
                tokio::time::sleep(self.interval()).await;
            }
            match timeout(ANSWER_WAIT_MAX, self.sample()).await {
                Ok(Ok(sample)) => {
                    if let Some(cause) = self.take(&sample) {
                        return cause;
                    }
                }
                Ok(Err(error)) => self.blind(error.report()),
                Err(_elapsed) => self.blind("the server does not answer".to_owned()),
            }
        }
    }

    fn interval(&self) -> Duration {
        let interval_ms = self.config.wal_guard.interval_ms;
        let jitter_ms = interval_ms / JITTER_DIVISOR;
        let jitter_ms = rand::rng().random_range(0..=jitter_ms.saturating_mul(2));
        Duration::from_millis((interval_ms - interval_ms / JITTER_DIVISOR) + jitter_ms)
    }

    async fn sample(&mut self) -> Result<Sample> {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            Some(_) | None => Session::open(&self.config).await?,
        };
        let sample =
            Sample::read(&session, &self.config.slot, &self.config.application_name).await?;
        self.session = Some(session);
        Ok(sample)
    }

    /// Takes a sample; returns the cause if the slot must go.
    fn take(&mut self, sample: &Sample) -> Option<DropCause> {
        let (report, actions) = self.guard.observe(self.began.elapsed(), sample);
        let mut cause = None;
        for action in actions {
            match action {
                Action::Tell { worse } => tell(&report, worse),
                Action::TellPrepared => {
                    tracing::warn!("{}", prepared_help(&report).unwrap_or_default());
                }
                Action::DropSlot => cause = self.cause(&report),
            }
        }
        if self.seen.borrow().report.error.is_some() {
            tracing::info!("the WAL guard sees the server again");
        }
        self.seen.send_replace(Seen { report, at: Some(Instant::now()) });
        cause
    }

    fn cause(&self, report: &GuardReport) -> Option<DropCause> {
        Some(DropCause {
            slot: self.config.slot.clone(),
            retained_bytes: report.retained_bytes?,
            retained_bytes_max: self.config.wal_guard.retained_bytes_max?,
        })
    }

    /// Nothing was seen; what was seen last stands, and says how old it is.
    fn blind(&mut self, why: String) {
        self.session = None;
        self.seen.send_modify(|seen| {
            if seen.report.error.is_none() {
                tracing::warn!("the WAL guard cannot see the server: {why}");
            }
            seen.report.error = Some(why);
        });
    }

    /// Ends whoever reads the slot, and drops it; `false` if by now it keeps less than the limit, or
    /// the server has ended it. Each try looks at it anew: a reader may have caught up since.
    ///
    /// # Errors
    ///
    /// If the server refuses, or the slot cannot be had from its reader.
    pub async fn drop_slot(&mut self, cause: &DropCause) -> Result<bool> {
        let session = Session::open(&self.config).await?;
        let began = Instant::now();
        while let Some(slot) = Slot::read(&session, &cause.slot).await? {
            slot.check_ours(&self.config.database()?)?;
            let sample = Sample::read(&session, &cause.slot, &self.config.application_name).await?;
            if sample.slot.is_some_and(|slot| !self.guard.must_drop(&slot)) {
                tracing::info!(slot = cause.slot, "the slot need not be dropped any more");
                return Ok(false);
            }
            if drop_once(&session, &slot).await? {
                break;
            }
            if began.elapsed() > DROP_WAIT_MAX {
                let kind = ErrorKind::Transient;
                let error = Error::new(kind, format!("drop slot {}", slot.name));
                return Err(error.with_source("its reader came back each time"));
            }
            tokio::time::sleep(DROP_INTERVAL).await;
        }
        self.guard.dropped();
        self.seen.send_modify(|seen| {
            let slot = cause.slot.clone();
            let help = Some(format!(
                "{cause}; the source is lost: `anabranch status` says how it goes on"
            ));
            seen.report =
                GuardReport { slot, state: GuardState::Dropped, help, ..GuardReport::default() };
            seen.at = Some(Instant::now());
        });
        tracing::error!(slot = cause.slot, "the WAL guard dropped the slot: {cause}");
        Ok(true)
    }
}

/// `false` if somebody uses the slot still, or again.
async fn drop_once(session: &Session, slot: &Slot) -> Result<bool> {
    let action = || format!("drop slot {}", slot.name);
    if let Some(pid) = slot.active_pid {
        session.execute("select pg_terminate_backend($1)", &[&pid]).await.doing(action)?;
    }
    // By name as text, since the type `name` has no parameter form of its own here.
    let drop = "select pg_drop_replication_slot($1::text::name)";
    match session.execute(drop, &[&slot.name]).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Ok(false),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(true),
        Err(error) => Err(error).doing(action),
    }
}

/// Whether the slot of `config` is there.
///
/// # Errors
///
/// If the server cannot be asked.
pub async fn has_slot(config: &PostgresConfig) -> Result<bool> {
    let session = Session::open(config).await?;
    Ok(Slot::read(&session, &config.slot).await?.is_some())
}

fn tell(report: &GuardReport, worse: bool) {
    let help = report.help.as_ref().map(|help| format!(": {help}")).unwrap_or_default();
    match report.state {
        GuardState::Full | GuardState::Lost => tracing::error!("{report}{help}"),
        GuardState::Warn | GuardState::Pause if worse => tracing::warn!("{report}{help}"),
        GuardState::Absent
        | GuardState::Calm
        | GuardState::Warn
        | GuardState::Pause
        | GuardState::Dropped => tracing::info!("{report}"),
    }
}

impl GuardWatch {
    /// What was seen last.
    #[must_use]
    pub fn report(&self) -> GuardReport {
        let seen = self.0.borrow();
        let age_seconds = seen.at.map(|at| at.elapsed().as_secs());
        GuardReport { age_seconds, ..seen.report.clone() }
    }

    /// Waits until a snapshot may go on beside the stream; for ever if the guard has ended, since
    /// then the source has, too. Cancel-safe.
    ///
    /// The initial copy is no such snapshot: the slot waits for its end, so that a pause would
    /// only make it keep more.
    pub async fn snapshots_may_run(&mut self) {
        let may_run = |seen: &Seen| seen.report.state.lets_snapshots_run();
        if self.0.wait_for(may_run).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
