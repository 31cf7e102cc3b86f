//! What the guard has to say: for `/status`, `/metrics` and the log.

use std::fmt;

use anabranch_core::Lsn;
use serde::{Deserialize, Serialize};

use super::PREPARED_SECONDS_LONG;
use super::sample::Sample;
use crate::slot::bytes;

/// How it stands with the WAL that the slot keeps, from harmless to gone.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum GuardState {
    /// There is no slot of ours, so nothing is kept for us.
    #[default]
    Absent,
    /// Nothing to worry about.
    Calm,
    /// A limit comes near.
    Warn,
    /// So near that no snapshot may go on beside the stream.
    Pause,
    /// A limit is reached: the server, or the policy, is about to end the slot.
    Full,
    /// The guard dropped the slot, as the policy asks.
    Dropped,
    /// The server has invalidated the slot.
    Lost,
}

/// What bounds the WAL that a slot keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// The server's own setting.
    #[serde(rename = "max_slot_wal_keep_size")]
    Server,
    /// `[source.wal_guard] retained_bytes_max`.
    #[serde(rename = "retained_bytes_max")]
    Configured,
}

/// What the last look at the server brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardReport {
    /// The slot's name.
    pub slot: String,
    /// How it stands.
    pub state: GuardState,
    /// What helps, if anything is wrong.
    pub help: Option<String>,
    /// What keeps the guard from looking.
    pub error: Option<String>,
    /// Seconds since it could look; `None` before the first time.
    pub age_seconds: Option<u64>,
    /// Whether anybody reads the slot.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why the server invalidated it, from PostgreSQL 17 on.
    pub invalidation_reason: Option<String>,
    /// WAL that the server keeps for the slot: from its `restart_lsn` on.
    pub retained_bytes: Option<u64>,
    /// WAL that was not confirmed yet: from `confirmed_flush_lsn` on.
    pub unconfirmed_bytes: Option<u64>,
    /// `safe_wal_size`: what may be written before the slot is lost.
    pub safe_wal_bytes: Option<i64>,
    /// The nearest limit.
    pub limit: Option<Limit>,
    /// Its size.
    pub limit_bytes: Option<u64>,
    /// How much of it is used up.
    pub used_percent: Option<u64>,
    /// How fast the retained WAL grows; negative while the source catches up.
    pub growth_bytes_per_second: Option<i64>,
    /// When the limit will be reached if that goes on; `None` if it will not.
    pub full_in_seconds: Option<u64>,
    /// `confirmed_flush_lsn`.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The end of the server's WAL.
    pub wal_lsn: Option<Lsn>,
    /// Transactions since the slot's `catalog_xmin`.
    pub catalog_xmin_age: Option<u64>,
    /// The transaction that has been prepared for the longest time.
    pub oldest_prepared: Option<OldestPrepared>,
    /// What decoding has cost the server, since its statistics were reset.
    pub spill: SpillReport,
    /// Connections to the database under our `application_name`, of every instance.
    pub connections: u64,
}

/// A transaction between `PREPARE TRANSACTION` and its end; it holds back every slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldestPrepared {
    /// Its name.
    pub gid: String,
    /// Where it was prepared.
    pub database: String,
    /// Its age.
    pub seconds: u64,
}

/// `pg_stat_replication_slots` of our slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpillReport {
    /// Transactions that did not fit into `logical_decoding_work_mem`.
    pub spilled_transactions: u64,
    /// What they wrote to the server's disk.
    pub spilled_bytes: u64,
    /// Transactions sent before their commit.
    pub streamed_transactions: u64,
    /// Their size.
    pub streamed_bytes: u64,
    /// All transactions that were decoded.
    pub decoded_transactions: u64,
    /// Their size.
    pub decoded_bytes: u64,
}

impl GuardState {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Calm => "calm",
            Self::Warn => "warn",
            Self::Pause => "pause",
            Self::Full => "full",
            Self::Dropped => "dropped",
            Self::Lost => "lost",
        }
    }

    /// Every state, for those that count them.
    pub const ALL: [Self; 7] =
        [Self::Absent, Self::Calm, Self::Warn, Self::Pause, Self::Full, Self::Dropped, Self::Lost];

    /// Whether a snapshot may go on beside the stream. Every row that it reads takes time from
    /// what the slot waits for.
    #[must_use]
    pub fn lets_snapshots_run(self) -> bool {
        match self {
            Self::Absent | Self::Calm | Self::Warn => true,
            Self::Pause | Self::Full | Self::Dropped | Self::Lost => false,
        }
    }
}

impl Limit {
    /// The setting it comes from.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "max_slot_wal_keep_size",
            Self::Configured => "retained_bytes_max",
        }
    }
}

impl GuardReport {
    pub(super) fn of(slot_name: &str, sample: &Sample, state: GuardState) -> Self {
        let slot = sample.slot.clone().filter(|slot| slot.ours).unwrap_or_default();
        Self {
            slot: slot_name.to_owned(),
            state,
            active: slot.active,
            wal_status: slot.wal_status,
            invalidation_reason: slot.invalidation,
            retained_bytes: slot.retained,
            unconfirmed_bytes: slot.unconfirmed,
            safe_wal_bytes: slot.safe_bytes,
            confirmed_flush_lsn: slot.confirmed_flush,
            wal_lsn: sample.wal_lsn,
            catalog_xmin_age: slot.catalog_xmin_age,
            oldest_prepared: sample.oldest_prepared.clone(),
            spill: slot.spill,
            connections: sample.connections,
            ..Self::default()
        }
    }
}

/// One line: what is kept, how near the limit is, and when it is reached.
impl fmt::Display for GuardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.slot)?;
        match self.state {
            GuardState::Absent => return f.write_str(" does not exist"),
            GuardState::Dropped => return f.write_str(" was dropped by the WAL guard"),
            GuardState::Lost => {
                let reason = self.invalidation_reason.as_deref().unwrap_or("its WAL was removed");
                return write!(f, " was invalidated by the server: {reason}");
            }
            GuardState::Calm | GuardState::Warn | GuardState::Pause | GuardState::Full => {}
        }
        write!(f, " keeps {} of WAL", bytes(self.retained_bytes.unwrap_or_default()))?;
        if let (Some(percent), Some(limit), Some(size)) =
            (self.used_percent, self.limit, self.limit_bytes)
        {
            write!(f, ", {percent} % of {} ({})", limit.word(), bytes(size))?;
        }
        if let Some(growth @ 1..) = self.growth_bytes_per_second {
            write!(f, ", growing by {}/s", bytes(growth.unsigned_abs()))?;
        }
        self.full_in_seconds.map_or(Ok(()), |seconds| write!(f, ", full in {}", duration(seconds)))
    }
}

/// A time for people.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What helps: against what holds the slot back, else against the limit itself.
pub(super) fn help(report: &GuardReport) -> Option<String> {
    match report.state {
        GuardState::Absent | GuardState::Calm => return prepared_help(report),
        GuardState::Dropped | GuardState::Lost => {
            return Some(
                "what was written since is lost: `anabranch status` says how the source goes on"
                    .to_owned(),
            );
        }
        GuardState::Warn | GuardState::Pause | GuardState::Full => {}
    }
    let cause = prepared_help(report).unwrap_or_else(|| cause_help(report));
    Some(format!("{cause}; for more room: {}", room_help(report)))
}

/// What to do about a transaction that was prepared long ago.
pub(crate) fn prepared_help(report: &GuardReport) -> Option<String> {
    let prepared = report.oldest_prepared.as_ref()?;
    (prepared.seconds >= PREPARED_SECONDS_LONG).then(|| {
        format!(
            "transaction {:?} of database {} was prepared {} ago and holds the slot back: there, \
             COMMIT PREPARED or ROLLBACK PREPARED {}",
            prepared.gid,
            prepared.database,
            duration(prepared.seconds),
            postgres_protocol::escape::escape_literal(&prepared.gid).trim_start(),
        )
    })
}

fn cause_help(report: &GuardReport) -> String {
    let (retained, unconfirmed) =
        (report.retained_bytes.unwrap_or_default(), report.unconfirmed_bytes.unwrap_or_default());
    if !report.active {
        "nobody reads the slot: `anabranch status` says what the source waits for, and \
         `anabranch resume source` tries again"
            .to_owned()
    } else if unconfirmed < retained / 2 {
        "what is kept is mostly for transactions that are still running: SELECT pid, xact_start, \
         query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start"
            .to_owned()
    } else {
        "the source is behind: `anabranch status` says what it waits for".to_owned()
    }
}

fn room_help(report: &GuardReport) -> String {
    match report.limit {
        Some(Limit::Server) => {
            let megabytes = report.limit_bytes.unwrap_or_default().div_ceil(1 << 19);
            format!(
                "ALTER SYSTEM SET max_slot_wal_keep_size = '{megabytes}MB'; SELECT \
                 pg_reload_conf(); if the disk has it"
            )
        }
        Some(Limit::Configured) | None => {
            "raise [source.wal_guard] retained_bytes_max, if the disk has it".to_owned()
        }
    }
}
