//! Random histories against a model: workers that stop, lose answers, replay, and write late.

use std::collections::BTreeMap;

use anabranch_core::memory::{batch, key, table};
use anabranch_core::{RowMeta, RowOp, Sink, StoreCursor};
use anabranch_redis::{RedisConfig, RedisSink, RowFormat};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::proxy::Proxy;
use crate::support::{OwnServer, Space, assignment, below, unit_cursor, version, worker};

const SEEDS: u64 = 30;
const RECORDS: usize = 60;
const IDS: i64 = 8;
/// Short, since every lost answer waits for it; if the machine is busy there are more of them.
const TIMEOUT_MS: u64 = 100;
/// Steps after which a history must have come to its end.
const STEPS_MAX: usize = 4000;

#[derive(Clone, Copy, Debug)]
enum Record {
    Row(i64, Option<i64>),
    Below,
}

/// Two partitions: records by offset; the version of a record is its place in both.
type Log = [Vec<(Record, u64)>; 2];

fn log(random: &mut StdRng) -> Log {
    let mut log = Log::default();
    for lsn in 1..=RECORDS as u64 {
        let id = random.random_range(0..IDS);
        let record = match random.random_range(0..12) {
            0 => Record::Below,
            1..=4 => Record::Row(id, None),
            _ => Record::Row(id, Some(random.random_range(0..1000))),
        };
        log[usize::from(id % 2 != 0)].push((record, lsn));
    }
    log
}

fn model(log: &Log) -> BTreeMap<i64, Option<i64>> {
    let mut rows = BTreeMap::new();
    for (partition, records) in (0..).zip(log) {
        for (record, _) in records {
            match record {
                Record::Row(id, Some(value)) => drop(rows.insert(*id, Some(*value))),
                Record::Row(id, None) => drop(rows.remove(id)),
                Record::Below => rows.retain(|id, _| id % 2 != partition),
            }
        }
    }
    rows
}

/// A worker and where it believes to be; `None`: it must ask.
struct Worker {
    sink: RedisSink,
    at: Option<StoreCursor>,
}

struct Run {
    random: StdRng,
    log: Log,
    workers: Vec<Worker>,
    proxy: Proxy,
    config: RedisConfig,
}

impl Run {
    async fn new(seed: u64, server: &OwnServer) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let proxy = Proxy::start(server.address()).await;
        let mut config = Space::at(proxy.url()).config;
        config.request_timeout_ms = TIMEOUT_MS;
        config.chunk_rows_max = random.random_range(1..4);
        if random.random() {
            config.format = RowFormat::Json;
        }
        let log = log(&mut random);
        Self { random, log, workers: Vec::new(), proxy, config }
    }

    /// One step of some worker, with a fault or without.
    async fn step(&mut self, is_calm: bool) {
        let faults = if is_calm { 20..21 } else { 0..16 };
        match self.random.random_range(faults) {
            0 => self.workers.clear(),
            1 | 2 => self.proxy.hold_after(self.random.random_range(0..4)),
            3 | 4 => self.proxy.release(),
            _ => {}
        }
        let wanted = if is_calm { 1 } else { 2 };
        while self.workers.len() < wanted {
            let opened = RedisSink::open(&self.config, assignment(table(), &[0, 1])).await;
            // A busy machine may not even connect in time.
            let Ok(sink) = opened else { return };
            self.workers.push(Worker { sink, at: None });
        }
        let place = self.random.random_range(0..wanted);
        if self.workers[place].at.is_none() {
            let held = self.workers[place].sink.cursor().await;
            self.workers[place].at = held.ok().map(Option::unwrap_or_default);
            return;
        }
        if !is_calm && self.random.random_range(0..12) == 0 {
            self.reset(place).await;
        } else {
            self.apply(place).await;
        }
    }

    fn next(&self, place: usize) -> [(i64, u32); 2] {
        let at = self.workers[place].at.as_ref().unwrap();
        [0, 1].map(|unit| at.get(&unit).map_or((0, 0), |cursor| (cursor.next, cursor.resets)))
    }

    /// Some records of each unit, in order; a delete-below ends what is taken of its unit.
    async fn apply(&mut self, place: usize) {
        let (mut values, mut meta, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        let mut upto = StoreCursor::new();
        for (partition, (mut next, resets)) in (0..).zip(self.next(place)) {
            for _ in 0..self.random.random_range(0..6) {
                let records = &self.log[partition as usize];
                let Some((record, lsn)) = records.get(usize::try_from(next).unwrap()) else {
                    break;
                };
                next += 1;
                match record {
                    Record::Row(id, value) => {
                        let op = if value.is_some() { RowOp::Upsert } else { RowOp::Delete };
                        let version = version(*lsn);
                        values.push((*id, *value));
                        meta.push(RowMeta { op, partition, version, key: key(*id) });
                    }
                    Record::Below => {
                        bounds.push(below(partition, *lsn));
                        break;
                    }
                }
            }
            upto.insert(partition, unit_cursor(next, resets));
        }
        let applied = self.workers[place].sink.apply(&batch(&values, meta, bounds), &upto).await;
        self.workers[place].at = applied.ok().map(|()| upto);
    }

    async fn reset(&mut self, place: usize) {
        let mut upto = StoreCursor::new();
        for (partition, (next, resets)) in (0..).zip(self.next(place)) {
            let back = self.random.random_range(0..=next);
            upto.insert(partition, unit_cursor(back, resets + 1));
        }
        let empty = batch(&[], Vec::new(), Vec::new());
        let applied = self.workers[place].sink.apply(&empty, &upto).await;
        self.workers[place].at = applied.ok().map(|()| upto);
    }

    fn is_at_the_end(&self) -> bool {
        let ends = [0, 1].map(|unit: usize| self.log[unit].len() as i64);
        self.workers
            .first()
            .is_some_and(|worker| worker.at.is_some() && self.next(0).map(|(next, _)| next) == ends)
    }
}

#[tokio::test]
async fn every_history_ends_as_the_model() {
    let server = OwnServer::start(&[]).await;
    for seed in 0..SEEDS {
        let mut run = Run::new(seed, &server).await;
        for _ in 0..60 {
            run.step(false).await;
        }
        // Everything late arrives somewhere in here. Nobody believes anything.
        run.proxy.release();
        run.workers.clear();
        let mut steps = 0;
        while !run.is_at_the_end() {
            run.step(true).await;
            steps += 1;
            assert!(steps < STEPS_MAX, "seed {seed}: it does not come to an end");
        }
        let mut direct = Space::at(server.url());
        direct.config = RedisConfig { url: server.url().into(), ..run.config.clone() };
        assert_eq!(direct.rows().await, model(&run.log), "seed {seed}");
        // The last ones: a worker that was dropped with a write under way.
        let (mut owner, held) = worker(&direct.config).await;
        let empty = batch(&[], Vec::new(), Vec::new());
        owner.apply(&empty, &held.unwrap()).await.unwrap();
        assert_eq!(direct.rows().await, model(&run.log), "seed {seed}, after the last");
    }
}
