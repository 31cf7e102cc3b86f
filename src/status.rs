//! What every part is doing, for `/status`, `/health` and `anabranch status`.
//!
//! ```text
//! supervisor ── states ──┐
//! groups ──── lag ───────┼─▶ Report ─▶ JSON ─▶ a table in the terminal
//! source ──── figures ───┤
//! guard ───── WAL ───────┘
//! ```

mod table;

pub(crate) use table::snapshot_line;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::{Error, ErrorKind, TableSnapshot};
use anabranch_kafka::{GroupStats, Repairs, Snapshots, TableRepairs, UnitLag};
use anabranch_postgres::{GuardReport, GuardState, GuardWatch, SourceFigures, SourceStats};
use serde::{Deserialize, Serialize};

/// What a part is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It is about to begin, or waits for another instance to end.
    Starting,
    /// It moves, or has nothing to move.
    Running,
    /// It failed, and tries again by itself.
    Retrying {
        /// What failed.
        error: String,
    },
    /// It was told to stand still.
    Paused,
    /// No daemon was there to ask.
    Unknown,
    /// It cannot go on until somebody helps; `anabranch resume` tries again.
    Parked {
        /// What failed, and what helps.
        error: String,
    },
}

/// The states of everything in this process; shared.
#[derive(Debug, Default)]
pub struct Status(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    source: Option<State>,
    stats: Arc<SourceStats>,
    guard: Option<GuardWatch>,
    repairs: Option<Arc<Repairs>>,
    snapshots: Option<Arc<Snapshots>>,
    sinks: BTreeMap<String, SinkPart>,
}

#[derive(Debug, Default)]
struct SinkPart {
    state: Option<State>,
    tables: BTreeMap<String, State>,
    group: Option<Arc<GroupStats>>,
}

/// Names a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// PostgreSQL → log.
    Source,
    /// A sink as a whole.
    Sink(String),
    /// One topic of a sink.
    Table {
        /// The sink.
        sink: String,
        /// The topic.
        topic: String,
    },
}

/// Everything that `/status` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The source, if this process runs it.
    pub source: Option<SourceReport>,
    /// The sinks that this process runs, by name.
    pub sinks: BTreeMap<String, SinkReport>,
    /// What the log holds that has to be read again from the source.
    #[serde(default)]
    pub repairs: Vec<TableRepairs>,
    /// The last snapshot of each table that was read again beside the stream.
    #[serde(default)]
    pub snapshots: Vec<TableSnapshot>,
}

/// The source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// How far it is, and what it has done since the process began.
    #[serde(flatten)]
    pub figures: SourceFigures,
    /// How much WAL its slot keeps on the server.
    pub wal_guard: Option<GuardReport>,
}

/// One sink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkReport {
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// Its topics, by name.
    pub tables: BTreeMap<String, TableReport>,
}

/// One topic of a sink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableReport {
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
}

/// One partition of a topic, as one sink sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Its number.
    pub partition: i32,
    /// The next offset to apply.
    pub offset: i64,
    /// The end of the log.
    pub end: i64,
    /// Events between the two; 0 when nothing is left to apply.
    pub lag_events: i64,
    /// Age of the oldest change that is not applied yet; 0 when nothing is left.
    pub lag_seconds: f64,
}

impl State {
    /// What a failed attempt leaves a part in.
    #[must_use]
    pub fn after(error: &Error) -> Self {
        let report = error.report();
        if error.kind() == ErrorKind::Transient {
            Self::Retrying { error: report }
        } else {
            Self::Parked { error: report }
        }
    }

    /// Every word that there is.
    pub const WORDS: [&str; 6] = ["starting", "running", "retrying", "paused", "unknown", "PARKED"];

    /// One word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying { .. } => "retrying",
            Self::Paused => "paused",
            Self::Unknown => "unknown",
            Self::Parked { .. } => "PARKED",
        }
    }

    /// What failed.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Retrying { error } | Self::Parked { error } => Some(error),
            Self::Starting | Self::Running | Self::Paused | Self::Unknown => None,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Sink(sink) => f.write_str(sink),
            Self::Table { sink, topic } => write!(f, "{sink}/{topic}"),
        }
    }
}

impl Status {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what `part` is doing, and says whether that is news.
    pub fn set(&self, part: &Part, state: State) -> bool {
        let mut parts = self.parts();
        let old = match part {
            Part::Source => parts.source.replace(state.clone()),
            Part::Sink(sink) => {
                parts.sinks.entry(sink.clone()).or_default().state.replace(state.clone())
            }
            Part::Table { sink, topic } => {
                let sink = parts.sinks.entry(sink.clone()).or_default();
                sink.tables.insert(topic.clone(), state.clone())
            }
        };
        old.as_ref() != Some(&state)
    }

    /// Forgets a topic that this process no longer has.
    pub fn forget_table(&self, sink: &str, topic: &str) {
        if let Some(sink) = self.parts().sinks.get_mut(sink) {
            sink.tables.remove(topic);
        }
    }

    /// Where the source counts; every attempt goes on with the same figures.
    #[must_use]
    pub fn source_stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.parts().stats)
    }

    /// Where the guard of the source's slot reports.
    pub fn set_guard(&self, guard: GuardWatch) {
        self.parts().guard = Some(guard);
    }

    /// Where the pending repairs are, and the snapshots of single tables.
    pub fn set_work(&self, repairs: Arc<Repairs>, snapshots: Arc<Snapshots>) {
        let mut parts = self.parts();
        (parts.repairs, parts.snapshots) = (Some(repairs), Some(snapshots));
    }

    /// Whether the slot keeps so much WAL that snapshots of single tables have to wait.
    #[must_use]
    pub fn holds_snapshots(&self) -> bool {
        let state = self.parts().guard.as_ref().map(|guard| guard.report().state);
        matches!(state, Some(GuardState::Pause | GuardState::Full))
    }

    /// Where a sink's lag comes from; `None` while it is in no group.
    pub fn set_group(&self, sink: &str, group: Option<Arc<GroupStats>>) {
        self.parts().sinks.entry(sink.to_owned()).or_default().group = group;
    }

    /// Everything, as of `now_us` (microseconds since 1970).
    #[must_use]
    pub fn report(&self, now_us: i64) -> Report {
        let parts = self.parts();
        let source = parts.source.clone().map(|state| SourceReport {
            state,
            figures: parts.stats.figures(),
            wal_guard: parts.guard.as_ref().map(GuardWatch::report),
        });
        let sinks = parts.sinks.iter().map(|(name, part)| (name.clone(), part.report(now_us)));
        let repairs = parts.repairs.as_ref().map(|repairs| repairs.by_table()).unwrap_or_default();
        let snapshots = parts.snapshots.as_ref().map(|all| all.all()).unwrap_or_default();
        Report { source, sinks: sinks.collect(), repairs, snapshots }
    }
}

impl SinkPart {
    fn report(&self, now_us: i64) -> SinkReport {
        let mut report = SinkReport {
            state: self.state.clone().unwrap_or(State::Starting),
            tables: BTreeMap::new(),
        };
        for (topic, state) in &self.tables {
            let table = TableReport { state: state.clone(), partitions: Vec::new() };
            report.tables.insert(topic.clone(), table);
        }
        report.add(self.group.as_ref().map(|group| group.units()).unwrap_or_default(), now_us);
        report
    }
}

impl SinkReport {
    /// A sink that no daemon was asked about.
    #[must_use]
    pub fn offline(units: Vec<UnitLag>, now_us: i64) -> Self {
        let mut report = Self { state: State::Unknown, tables: BTreeMap::new() };
        report.add(units, now_us);
        report
    }

    fn add(&mut self, units: Vec<UnitLag>, now_us: i64) {
        for unit in units {
            let table = self.tables.entry(unit.topic.clone()).or_insert_with(|| TableReport {
                state: self.state.clone(),
                partitions: Vec::new(),
            });
            table.partitions.push(PartitionReport {
                partition: unit.partition,
                offset: unit.next,
                end: unit.end,
                lag_events: unit.events,
                lag_seconds: unit.seconds(now_us),
            });
            table.partitions.sort_by_key(|unit| unit.partition);
        }
    }
}

impl Report {
    /// Whether nothing is parked.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let parked = |state: &State| matches!(state, State::Parked { .. });
        let sink = |sink: &SinkReport| {
            parked(&sink.state) || sink.tables.values().any(|table| parked(&table.state))
        };
        let source = self.source.as_ref().is_some_and(|source| parked(&source.state));
        !source && !self.sinks.values().any(sink)
    }
}
