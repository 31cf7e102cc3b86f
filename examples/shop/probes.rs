//! How soon a committed change is visible to a reader of each store.
//!
//! ```text
//! UPDATE .. COMMIT acknowledged ── t0        a look at the store finds that value or a newer one ── t1
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Failure;
use crate::readers::{HOUSE, Reader};
use crate::shop::SINKS;
use crate::support::world::{World, connect};

/// Between two probes of one table.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at a store: what the figures may be too high by.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the last probes may take to show up once all is quiet.
const LAST_PROBES: Duration = Duration::from_secs(15);

/// Probes under way.
#[derive(Debug)]
pub(crate) struct Probes {
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Measured>>,
    tasks: JoinSet<Result<(), Failure>>,
}

/// What was written, and how long each store took to show it.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// For each table: the values committed, and when.
    sent: [Vec<(String, Instant)>; HOUSE.len()],
    /// For each sink and table, the delays of the first so many of `sent`.
    delays: [[Vec<Duration>; HOUSE.len()]; SINKS.len()],
}

impl Measured {
    /// The delay that the share `quantile` of the probes committed before `until` did not exceed.
    pub(crate) fn quantile(
        &self,
        (sink, table): (usize, usize),
        quantile: f64,
        until: Option<Instant>,
    ) -> Option<Duration> {
        let delays = self.delays.get(sink)?.get(table)?;
        let sent = self.sent.get(table)?;
        let in_time = |at: &Instant| until.is_none_or(|until| *at < until);
        let pairs = delays.iter().zip(sent).filter(|(_, (_, at))| in_time(at));
        let mut delays: Vec<_> = pairs.map(|(delay, _)| *delay).collect();
        delays.sort_unstable();
        let wanted = f64::from(u32::try_from(delays.len()).ok()?) * quantile;
        (1_u32..).zip(delays).find(|(rank, _)| f64::from(*rank) >= wanted).map(|(_, delay)| delay)
    }

    /// Probes written to each table.
    pub(crate) fn count(&self) -> usize {
        self.sent.iter().map(Vec::len).min().unwrap_or(0)
    }

    fn is_complete(&self) -> bool {
        let whole = |delays: &[Vec<Duration>; HOUSE.len()]| {
            delays.iter().zip(&self.sent).all(|(delays, sent)| delays.len() == sent.len())
        };
        self.delays.iter().all(whole)
    }

    /// `text` is what a look at `sink` found in `table`: all up to it are visible.
    fn note(&mut self, sink: usize, table: usize, text: &str, now: Instant) {
        let (Some(sent), Some(delays)) =
            (self.sent.get(table), self.delays.get_mut(sink).and_then(|all| all.get_mut(table)))
        else {
            return;
        };
        let new = sent.iter().skip(delays.len()).take_while(|(value, _)| value.as_str() <= text);
        delays.extend(new.map(|(_, at)| now.saturating_duration_since(*at)));
    }
}

impl Probes {
    /// Starts to write and to look.
    pub(crate) fn start(world: &World) -> Result<Self, Failure> {
        let shared = Arc::new(Mutex::new(Measured::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        spawn(&mut tasks, write(world.name.clone(), Arc::clone(&shared), Arc::clone(&stop)));
        let config = world.config();
        for (place, sink) in SINKS.iter().enumerate() {
            let reader = Reader::open(&config, sink, &world.name)?;
            spawn(&mut tasks, look(reader, place, Arc::clone(&shared)));
        }
        Ok(Self { stop, shared, tasks })
    }

    /// Writes no more. The looks go on.
    pub(crate) fn quiet(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the last probes to show up; what never does is left out and told by the count.
    pub(crate) async fn finish(mut self) -> Measured {
        self.quiet();
        let begun = Instant::now();
        while !lock(&self.shared).is_complete() && begun.elapsed() < LAST_PROBES {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.tasks.shutdown().await;
        std::mem::take(&mut *lock(&self.shared))
    }
}

fn spawn(
    tasks: &mut JoinSet<Result<(), Failure>>,
    task: impl Future<Output = Result<(), Failure>> + Send + 'static,
) {
    tasks.spawn(task);
}

fn lock(shared: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(
    name: String,
    shared: Arc<Mutex<Measured>>,
    stop: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let client = connect(&name).await;
    while !stop.load(Ordering::Relaxed) {
        for (table, house) in HOUSE.iter().enumerate() {
            let update = format!(
                "UPDATE {} SET updated_at = clock_timestamp() WHERE {}::text = '{}'
                 RETURNING to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
                house.table, house.column, house.value
            );
            let text: String = client.query_one(&update, &[]).await?.get(0);
            let at = Instant::now();
            lock(&shared)
                .sent
                .get_mut(table)
                .into_iter()
                .for_each(|sent| sent.push((text.clone(), at)));
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
    Ok(())
}

async fn look(
    mut reader: Reader,
    sink: usize,
    shared: Arc<Mutex<Measured>>,
) -> Result<(), Failure> {
    loop {
        // A store that does not answer shows nothing.
        if let Ok(seen) = reader.look().await {
            let now = Instant::now();
            let mut measured = lock(&shared);
            for (table, text) in seen.iter().enumerate() {
                text.iter().for_each(|text| measured.note(sink, table, text, now));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
