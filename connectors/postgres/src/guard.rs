//! Watches how much WAL our slot keeps on the server, so that a source that stands still fills
//! nobody's disk unnoticed.
//!
//! ```text
//! server ── sample ──▶ Guard::observe ──▶ report ──▶ status, metrics, snapshots
//!  every few seconds      (pure)    └───▶ notices ─▶ log, once a crossing
//!                                   └───▶ drop ────▶ the caller, by explicit policy only
//! ```
//!
//! The invariant: nothing is decided here but from what the server says now, and the slot is never
//! given up for any reason but that it has reached the limit that the configuration names for it.

mod config;
mod growth;
mod report;
mod sample;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use anabranch_core::Result;
use tokio_postgres::Client;

use crate::config::PostgresConfig;
pub use config::WalGuardConfig;
use growth::Growth;
pub(crate) use report::prepared_help;
pub use report::{GuardReport, GuardState, Limit, OldestPrepared, SpillReport};
use sample::{Sample, SlotSample};
pub use watch::{DropCause, GuardWatch, WalGuard, has_slot};

/// Percentage points that a figure must fall below a threshold before the state it led to ends, so
/// that one that sways around it is one crossing.
const HYSTERESIS_PERCENT: u64 = 5;
/// Below this share of a limit the time that is left says little: a slot moves in steps.
const PROJECTION_PERCENT_MIN: u64 = 10;
/// A prepared transaction that nobody has ended for this long was probably forgotten.
const PREPARED_SECONDS_LONG: u64 = 600;

/// One look, for `check`: without a history there is no growth.
pub(crate) async fn look(client: &Client, config: &PostgresConfig) -> Result<GuardReport> {
    let sample = Sample::read(client, &config.slot, &config.application_name).await?;
    let mut guard = Guard::new(config.wal_guard.clone(), config.slot.clone());
    Ok(guard.observe(Duration::ZERO, &sample).0)
}

/// What the samples so far amount to.
#[derive(Debug)]
struct Guard {
    config: WalGuardConfig,
    slot: String,
    growth: Growth,
    state: GuardState,
    /// The prepared transaction that was told of last.
    told: Option<String>,
}

/// What one sample leads to.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// The state is another now.
    Tell {
        /// Whether it is a worse one.
        worse: bool,
    },
    /// A prepared transaction has been left for long.
    TellPrepared,
    /// The policy asks for it.
    DropSlot,
}

/// How far a limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    limit: Limit,
    bytes: u64,
    limit_bytes: u64,
}

impl Used {
    fn left(self) -> u64 {
        self.limit_bytes.saturating_sub(self.bytes)
    }

    fn percent(self) -> u64 {
        // A limit that is nothing is used up.
        self.bytes.saturating_mul(100).checked_div(self.limit_bytes).unwrap_or(100)
    }
}

impl Guard {
    fn new(config: WalGuardConfig, slot: String) -> Self {
        Self { config, slot, growth: Growth::default(), state: GuardState::Absent, told: None }
    }

    /// Takes what the server said `at` this time since the guard began.
    fn observe(&mut self, at: Duration, sample: &Sample) -> (GuardReport, Vec<Action>) {
        let before = self.state;
        let slot = sample.slot.as_ref().filter(|slot| slot.ours);
        match slot.and_then(|slot| slot.retained) {
            Some(retained) => self.growth.push(at, retained),
            None => self.growth = Growth::default(),
        }
        let used = slot.and_then(|slot| self.used(slot));
        let growth = self.growth.bytes_per_second();
        let full_in = used.and_then(|used| seconds_left(used, growth?));
        self.state = match slot {
            None if before == GuardState::Dropped => GuardState::Dropped,
            None => GuardState::Absent,
            Some(slot) if slot.is_lost() => GuardState::Lost,
            Some(slot) => self.pressure(slot, used, full_in),
        };
        let mut report = GuardReport::of(&self.slot, sample, self.state);
        if let Some(used) = used {
            report.limit = Some(used.limit);
            report.limit_bytes = Some(used.limit_bytes);
            report.used_percent = Some(used.percent());
        }
        report.growth_bytes_per_second = growth;
        report.full_in_seconds = full_in;
        report.help = report::help(&report);
        let mut actions = Vec::new();
        if self.state != before {
            let worse = self.state > before && self.state > GuardState::Calm;
            actions.push(Action::Tell { worse });
        }
        if self.is_news_of_prepared(&report) {
            actions.push(Action::TellPrepared);
        }
        if slot.is_some_and(|slot| self.must_drop(slot)) {
            actions.push(Action::DropSlot);
        }
        (report, actions)
    }

    /// The slot was dropped by us; that holds until there is one again.
    fn dropped(&mut self) {
        self.state = GuardState::Dropped;
        self.growth = Growth::default();
    }

    /// The limit that is nearest, if there is one.
    fn used(&self, slot: &SlotSample) -> Option<Used> {
        let retained = slot.retained?;
        // What the server says may still be written, so that its rounding to segments is in it.
        let server = slot.safe_bytes.map(|safe| Used {
            limit: Limit::Server,
            bytes: retained,
            limit_bytes: retained.saturating_add_signed(safe),
        });
        let ours = self.config.retained_bytes_max.map(|limit_bytes| Used {
            limit: Limit::Configured,
            bytes: retained,
            limit_bytes,
        });
        server.into_iter().chain(ours).min_by_key(|used| used.left())
    }

    fn pressure(&self, slot: &SlotSample, used: Option<Used>, full_in: Option<u64>) -> GuardState {
        let Some(used) = used else { return GuardState::Calm };
        let reaches = |state: GuardState, threshold: u8| {
            let kept = if self.state >= state { HYSTERESIS_PERCENT } else { 0 };
            used.percent() >= u64::from(threshold).saturating_sub(kept)
        };
        let factor = if self.state >= GuardState::Warn { 2 } else { 1 };
        let warn_seconds = self.config.warn_seconds.saturating_mul(factor);
        let soon = full_in.is_some_and(|seconds| seconds <= warn_seconds)
            && used.percent() >= PROJECTION_PERCENT_MIN;
        if reaches(GuardState::Full, 100) {
            GuardState::Full
        } else if slot.is_unreserved() || reaches(GuardState::Pause, self.config.pause_percent) {
            GuardState::Pause
        } else if soon || reaches(GuardState::Warn, self.config.warn_percent) {
            GuardState::Warn
        } else {
            GuardState::Calm
        }
    }

    /// The server's own limit needs no help of ours: it ends the slot by itself, and one that it has
    /// ended keeps nothing more.
    fn must_drop(&self, slot: &SlotSample) -> bool {
        let limit = self.config.retained_bytes_max.filter(|_| self.config.drop_slot);
        let reached = limit.zip(slot.retained).is_some_and(|(limit, kept)| kept >= limit);
        reached && !slot.is_lost()
    }

    fn is_news_of_prepared(&mut self, report: &GuardReport) -> bool {
        let long = report
            .oldest_prepared
            .as_ref()
            .filter(|prepared| prepared.seconds >= PREPARED_SECONDS_LONG)
            .map(|prepared| prepared.gid.clone());
        let news = long.is_some() && long != self.told;
        self.told = long;
        news
    }
}

fn seconds_left(used: Used, bytes_per_second: i64) -> Option<u64> {
    let growth = u64::try_from(bytes_per_second).ok()?;
    used.left().checked_div(growth)
}
