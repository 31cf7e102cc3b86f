//! Half a minute of traffic, with the daemon killed twice, and the wait until all is quiet.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anabranch::status::{Report, SinkReport, State, TableReport};
use anabranch_core::Lsn;

use crate::Failure;
use crate::chart::Chart;
use crate::probes::{Measured, Probes};
use crate::progress::{Progress, SinkView, View, grouped};
use crate::shop::{SINKS, TABLES};
use crate::support::world::World;
use crate::traffic::{IMPORT_ROWS, Traffic};

/// How long the traffic lasts.
const TRAFFIC: Duration = Duration::from_secs(30);
/// What happens in it, and when.
const SCRIPT: [(Duration, Act); 3] = [
    (Duration::from_secs(14), Act::Kill),
    (Duration::from_secs(17), Act::Import),
    (Duration::from_secs(22), Act::Kill),
];
/// So long before the first kill the calm ends: Delta collects for five seconds.
const CALM_BEFORE: Duration = Duration::from_secs(6);
/// How long the stores may take to be level with the source once that is quiet.
const SETTLE: Duration = Duration::from_secs(180);
/// Between two looks at the daemon.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The daemon answers from memory.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Act {
    Kill,
    Import,
}

/// What was seen of the live part.
#[derive(Debug, Default)]
pub(crate) struct SeenLive {
    /// Rows that the source changed.
    pub(crate) rows: u64,
    /// How soon they were visible.
    pub(crate) delays: Measured,
    /// What was committed before was not disturbed.
    pub(crate) calm_until: Option<Instant>,
    /// The same as a picture.
    pub(crate) chart: Chart,
    /// When it began.
    begun: Option<Instant>,
    /// Seconds that each sink and table was behind at most.
    pub(crate) peaks: BTreeMap<(String, String), f64>,
}

/// Runs the traffic and the script, then waits until the stores are level.
pub(crate) async fn live(world: &mut World, progress: &mut Progress) -> Result<SeenLive, Failure> {
    progress.step("half a minute of traffic: inserts, updates, deletes, key changes");
    let mut traffic = Traffic::start(&world.name);
    let probes = Probes::start(world)?;
    let (begun, mut script) = (Instant::now(), SCRIPT.into_iter().peekable());
    let mut seen = SeenLive { begun: Some(begun), ..SeenLive::default() };
    let mut rate = Rate::default();
    while begun.elapsed() < TRAFFIC {
        if let Some((_, act)) = script.next_if(|(when, _)| begun.elapsed() >= *when) {
            seen.calm_until = seen.calm_until.or(Instant::now().checked_sub(CALM_BEFORE));
            seen.chart.mark(begun.elapsed().as_secs_f64(), act.name());
            perform(act, world, &mut traffic, progress);
        }
        let report = status(world).await;
        report.iter().for_each(|report| seen.note(report, &world.name));
        let rows = traffic.rows();
        let view = View {
            elapsed: begun.elapsed(),
            whole: TRAFFIC,
            rate: rate.of(rows),
            rows,
            sinks: sinks(report.as_ref()),
        };
        progress.show(&view);
        seen.chart.sample(begun.elapsed().as_secs_f64(), &view);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    seen.rows = traffic.finish().await?;
    probes.quiet();
    progress.step(&format!(
        "no more traffic after {} changed rows; waiting for the stores",
        grouped(seen.rows)
    ));
    settle_noting(world, progress, SETTLE, &mut seen).await?;
    seen.delays = probes.finish().await;
    Ok(seen)
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Import => "transaction of 100,000 rows",
        }
    }
}

fn perform(act: Act, world: &mut World, traffic: &mut Traffic, progress: &Progress) {
    match act {
        Act::Kill => {
            progress.event("kill -9 of the daemon, and a new start");
            world.kill();
            world.start();
        }
        Act::Import => {
            progress.event(&format!("one transaction of {} rows begins", grouped(IMPORT_ROWS)));
            traffic.import();
        }
    }
}

/// Waits until every sink has applied what the source has committed by now.
pub(crate) async fn settle(
    world: &World,
    progress: &mut Progress,
    limit: Duration,
) -> Result<(), Failure> {
    settle_noting(world, progress, limit, &mut SeenLive::default()).await
}

async fn settle_noting(
    world: &World,
    progress: &mut Progress,
    limit: Duration,
    seen: &mut SeenLive,
) -> Result<(), Failure> {
    let row = world.sql.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?;
    let wanted: Lsn = row.get::<_, String>(0).parse()?;
    let begun = Instant::now();
    loop {
        let report = status(world).await;
        if let Some(report) = &report {
            seen.note(report, &world.name);
        }
        let is_level = report.as_ref().is_some_and(|report| is_level(report, wanted));
        let sinks = sinks(report.as_ref());
        let view = View { rows: seen.rows, sinks, ..View::default() };
        progress.show(&view);
        if let Some(begun) = seen.begun {
            seen.chart.sample(begun.elapsed().as_secs_f64(), &view);
        }
        if is_level {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let stands = report.map_or_else(|| "it does not answer".to_owned(), |r| r.to_string());
            return Err(format!(
                "the stores are not level after {} s\n{stands}\n{}",
                limit.as_secs(),
                world.log()
            )
            .into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the log is past `wanted`, and every sink at the end of the log.
fn is_level(report: &Report, wanted: Lsn) -> bool {
    let durable = report.source.as_ref().map(|source| source.figures.durable_lsn);
    let level = |sink: &SinkReport| {
        let table = |table: &TableReport| {
            let mut units = table.partitions.iter();
            table.state == State::Running
                && !table.partitions.is_empty()
                && units.all(|unit| unit.lag_events == 0)
        };
        sink.tables.len() == TABLES.len() && sink.tables.values().all(table)
    };
    durable.is_some_and(|durable| durable >= wanted)
        && report.sinks.len() == SINKS.len()
        && report.sinks.values().all(level)
}

async fn status(world: &World) -> Option<Report> {
    tokio::time::timeout(ANSWER, world.status()).await.ok().flatten()
}

/// What the daemon says of each sink.
fn sinks(report: Option<&Report>) -> [SinkView; SINKS.len()] {
    SINKS.map(|name| {
        let Some(sink) = report.and_then(|report| report.sinks.get(name)) else {
            return SinkView::default();
        };
        let tables = || sink.tables.values();
        let units = || tables().flat_map(|table| &table.partitions);
        let state = tables().map(|table| &table.state).find(|state| **state != State::Running);
        let events = units().map(|unit| unit.lag_events).sum::<i64>();
        // Of a table that is about to begin nobody knows.
        let is_known = events > 0 || (units().next().is_some() && state.is_none());
        SinkView {
            state: state.unwrap_or(&sink.state).word().to_owned(),
            events: u64::try_from(events).ok().filter(|_| is_known),
            seconds: units().map(|unit| unit.lag_seconds).fold(0.0, f64::max),
        }
    })
}

impl SeenLive {
    /// Keeps the worst. A topic is named `<prefix>.<schema>.<table>`.
    fn note(&mut self, report: &Report, prefix: &str) {
        for (sink, part) in &report.sinks {
            for (topic, table) in &part.tables {
                let name = topic.strip_prefix(prefix).unwrap_or(topic).trim_start_matches('.');
                let worst =
                    table.partitions.iter().map(|unit| unit.lag_seconds).fold(0.0, f64::max);
                let peak = self.peaks.entry((sink.clone(), name.to_owned())).or_default();
                *peak = peak.max(worst);
            }
        }
    }
}

/// Rows within the last second.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn of(&mut self, rows: u64) -> u64 {
        let now = Instant::now();
        self.0.push_back((now, rows));
        while self.0.front().is_some_and(|(at, _)| now - *at > Duration::from_secs(1))
            && self.0.len() > 2
        {
            self.0.pop_front();
        }
        self.0.front().map_or(0, |(_, before)| rows.saturating_sub(*before))
    }
}
