//! The real loop over memory, under seeded faults, crashes, resets and restores.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use anabranch::pipeline;
use anabranch_core::memory::{
    Faults, LogRecord, MemoryChange, MemoryHistory, MemoryLog, MemoryLogSink, MemorySink,
    MemoryStore, MemoryTopic, MemoryTransaction, Protocol,
};
use anabranch_core::{ErrorKind, Lsn, Result, Sink, Source};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Seeds to run; `ANABRANCH_SEEDS=100000` runs more, `ANABRANCH_SEED=2212` that one alone.
const SEEDS: u64 = 2_400;
/// Runs of either loop within one seed; faults stop before they are used up.
const ROUNDS_MAX: usize = 4_000;
const ROUNDS_WITH_FAULTS: usize = 60;
const PARTITIONS: usize = 3;
const KEYS: usize = 9;
const BATCH_MAX: usize = 6;
const PROTOCOLS: [Protocol; 3] = [Protocol::Token, Protocol::Version, Protocol::Commit];

/// Transactions of one to twenty changes of few keys, so that large ones repeat keys.
fn history(rng: &Faults) -> Vec<MemoryTransaction> {
    let change = || match rng.below(30) {
        0 => MemoryChange::Truncate,
        1..=8 => MemoryChange::Delete(rng.below(KEYS) as i64),
        _ => MemoryChange::Put(rng.below(KEYS) as i64, rng.below(1_000_000) as i64),
    };
    let transaction = |number: usize| MemoryTransaction {
        commit_lsn: Lsn(0x1000 + 40 * number as u64),
        changes: (0..=rng.below(if rng.below(5) == 0 { 20 } else { 3 }))
            .map(|_| change())
            .collect(),
    };
    (0..12 + rng.below(12)).map(transaction).collect()
}

fn model(history: &[MemoryTransaction]) -> BTreeMap<i64, Option<i64>> {
    let mut rows = BTreeMap::new();
    for change in history.iter().flat_map(|transaction| &transaction.changes) {
        match *change {
            MemoryChange::Put(id, value) => drop(rows.insert(id, Some(value))),
            MemoryChange::Delete(id) => drop(rows.remove(&id)),
            MemoryChange::Truncate => rows.clear(),
        }
    }
    rows
}

/// The log holds each change once, in order per partition, and a truncate in each partition.
fn assert_exactly_once(log: &MemoryLog, history: &[MemoryTransaction], seed: u64) {
    let mut wanted = vec![Vec::new(); PARTITIONS];
    for transaction in history {
        for (place, change) in transaction.changes.iter().enumerate() {
            let at = (transaction.commit_lsn, place as u64 + 1);
            match *change {
                MemoryChange::Put(id, value) => {
                    wanted[id as usize % PARTITIONS].push((at, Some((id, Some(value)))));
                }
                MemoryChange::Delete(id) => {
                    wanted[id as usize % PARTITIONS].push((at, Some((id, None))));
                }
                MemoryChange::Truncate => {
                    wanted.iter_mut().for_each(|records| records.push((at, None)));
                }
            }
        }
    }
    let plain =
        |record: &LogRecord| ((record.position.commit_lsn, record.position.ordinal), record.row);
    let held: Vec<Vec<_>> = log.records().iter().map(|p| p.iter().map(plain).collect()).collect();
    assert_eq!(held, wanted, "seed {seed}: the log");
}

/// One run of the loop, crashed or stopped at a random poll. Says whether it came to its end.
async fn run<S: Source<Cursor: PartialEq>, K: Sink<S::Batch, S::Cursor>>(
    source: &mut S,
    sink: &mut K,
    rng: &Faults,
    calm: bool,
) -> Option<Result<()>> {
    let stop = CancellationToken::new();
    let (crash_at, stop_at) = (rng.below(150), rng.below(150));
    let mut polls = 0;
    let report = |_: Option<&anabranch_core::Error>| {};
    let mut future = pin!(pipeline::run(source, sink, &stop, &report));
    std::future::poll_fn(|context| {
        polls += 1;
        if !calm && polls == crash_at {
            return Poll::Ready(None);
        }
        if !calm && polls == stop_at {
            stop.cancel();
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

struct World {
    history: Arc<Vec<MemoryTransaction>>,
    source: MemoryHistory,
    log: MemoryLog,
    store: MemoryStore,
    backup: MemoryStore,
    rng: Faults,
    faults: Faults,
    crashes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let rng = Faults::seeded(seed, 0.0);
        let history = Arc::new(history(&rng));
        let log = MemoryLog::new(PARTITIONS);
        let store = MemoryStore::new(PROTOCOLS[seed as usize % PROTOCOLS.len()]);
        Self {
            source: MemoryHistory::new(Arc::clone(&history), BATCH_MAX, Uuid::from_u128(1)),
            backup: store.backup(),
            faults: Faults::seeded(seed ^ 0xA5A5, 0.2),
            history,
            log,
            store,
            rng,
            crashes: 0,
        }
    }

    async fn round(&mut self, calm: bool, seed: u64) {
        let Self { log, store, rng, faults, .. } = self;
        let to_log = rng.below(2) == 0;
        let outcome = if to_log {
            let mut sink = MemoryLogSink::new(log.clone(), faults.clone());
            run(&mut self.source, &mut sink, rng, calm).await
        } else {
            let units = (0..PARTITIONS as i32).collect();
            let mut sink = MemorySink::new(store.clone(), units, faults.clone());
            run(&mut MemoryTopic::new(log.clone(), BATCH_MAX), &mut sink, rng, calm).await
        };
        match outcome {
            None => self.crashes += 1,
            // Who stops in good order has said everything that became durable.
            Some(Ok(())) if to_log => {
                assert_eq!(self.source.confirmed(), log.confirm(), "seed {seed}: receipts");
            }
            Some(Ok(())) => {}
            Some(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Transient, "seed {seed}: {error:?}");
            }
        }
        if !calm {
            self.disturb();
        }
    }

    /// What users do: backups, restores of all or of one shard, offset resets. An offset ahead of
    /// the store is an order to skip, which no store can make good; so resets go back here.
    fn disturb(&self) {
        let Self { log, store, backup, rng, .. } = self;
        match rng.below(12) {
            0 => backup.restore(&store.backup(), None),
            1 if !log.has_unmarked() => {
                let shard = (rng.below(2) == 0).then(|| rng.below(2));
                let whole = !self.store_is_by_version();
                store.restore(backup, if whole { None } else { shard });
            }
            2 => {
                let partition = rng.below(PARTITIONS);
                let next = store.next(partition as i32);
                log.reset(partition, rng.below(next as usize + 1) as i64);
            }
            _ => {}
        }
    }

    fn store_is_by_version(&self) -> bool {
        self.store.protocol() == Protocol::Version
    }
}

async fn converges(seed: u64) -> (usize, u64) {
    let mut world = World::new(seed);
    for _ in 0..ROUNDS_WITH_FAULTS {
        world.round(false, seed).await;
    }
    world.faults.set_rate(0.0);
    let end = world.history.last().unwrap().commit_lsn;
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "seed {seed}: no progress");
        world.round(true, seed).await;
        // Two more rounds, so that each loop has come to its end at least once since.
        if world.source.confirmed() > end && world.store.rows() == model(&world.history) {
            break;
        }
        assert!(
            round < 40,
            "seed {seed}: {:?} is not {:?}",
            world.store.rows(),
            model(&world.history)
        );
    }
    assert_exactly_once(&world.log, &world.history, seed);
    (world.crashes, world.faults.fired())
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future)
}

#[test]
fn every_store_converges_under_faults_and_crashes() {
    let from_env = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let one: Option<u64> = from_env("ANABRANCH_SEED");
    let seeds = from_env("ANABRANCH_SEEDS").unwrap_or(SEEDS);
    let (mut crashes, mut faults) = (0, 0);
    for seed in one.map_or(1..=seeds, |seed| seed..=seed) {
        let (crashed, fired) = block_on(converges(seed));
        crashes += crashed;
        faults += fired;
    }
    assert!(crashes > 0 && faults > 0);
    println!("seeds {seeds} crashes {crashes} faults {faults}");
}

/// A store that followed another log is refused, and left as it was.
#[test]
fn a_store_of_a_lost_log_is_refused() {
    block_on(async {
        for protocol in PROTOCOLS {
            let history = Arc::new(history(&Faults::seeded(5, 0.0)));
            let calm = Faults::none();
            let store = MemoryStore::new(protocol);
            let mut outcomes = Vec::new();
            for id in [1, 2] {
                let log = MemoryLog::new(PARTITIONS);
                let mut source =
                    MemoryHistory::new(Arc::clone(&history), BATCH_MAX, Uuid::from_u128(id));
                let mut sink = MemoryLogSink::new(log.clone(), calm.clone());
                run(&mut source, &mut sink, &calm, true).await.unwrap().unwrap();
                let mut worker =
                    MemorySink::new(store.clone(), (0..PARTITIONS as i32).collect(), calm.clone());
                let mut topic = MemoryTopic::new(log, BATCH_MAX);
                outcomes.push(run(&mut topic, &mut worker, &calm, true).await.unwrap());
                assert_eq!(store.rows(), model(&history));
            }
            assert!(outcomes[0].is_ok());
            assert_eq!(outcomes[1].as_ref().unwrap_err().kind(), ErrorKind::Lost, "{protocol:?}");
        }
    });
}
