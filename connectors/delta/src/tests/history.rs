//! Random histories with everything that may happen to a table, against a model.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use anabranch_core::{ErrorKind, Sink, StoreCursor};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::support::{Record, World, beginning, checkpoint, optimize, restore, restore_by_time};
use crate::DeltaSink;

const PARTITIONS: [i32; 3] = [0, 1, 2];
const KEYS: i64 = 40;
/// Enough for each kind of event to meet each other; a few seconds.
const SEEDS: u64 = 5;

/// A worker as the loop drives it: it knows where it stands, and asks again after a failure.
struct Worker {
    sink: DeltaSink,
    partitions: Vec<i32>,
    at: StoreCursor,
}

impl Worker {
    async fn open(world: &World, partitions: &[i32]) -> Self {
        let sink = world.open(partitions);
        let mut worker = Self { sink, partitions: partitions.to_vec(), at: StoreCursor::new() };
        worker.seek().await;
        worker
    }

    async fn seek(&mut self) {
        let held = self.sink.cursor().await.unwrap().unwrap_or_default();
        self.at = beginning(&self.partitions, 0);
        self.at.extend(held);
    }

    /// One batch, as the loop applies it.
    async fn step(&mut self, world: &World, count: usize) {
        let (batch, upto) = world.batch(&self.at, count);
        match self.sink.apply(&batch, &upto).await {
            Ok(()) => self.at = upto,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
                self.seek().await;
            }
        }
    }

    /// A batch whose answer is lost: it is applied again.
    async fn lose_answer(&mut self, world: &World, count: usize) {
        let (batch, upto) = world.batch(&self.at, count);
        let known = self.sink.known.clone();
        if self.sink.apply(&batch, &upto).await.is_err() {
            return self.seek().await;
        }
        self.sink.known = known;
        self.sink.is_unsure = true;
        let before = world.log().load(None).await.unwrap().unwrap().version;
        self.sink.apply(&batch, &upto).await.unwrap();
        let after = world.log().load(None).await.unwrap().unwrap().version;
        assert_eq!(before, after, "what has landed is not written again");
        self.at = upto;
    }

    /// Begins a batch and drops it after some polls, then forgets or reuses the worker.
    async fn crash(&mut self, world: &World, rng: &mut StdRng) {
        let (batch, upto) = world.batch(&self.at, rng.random_range(1..20));
        let mut polls = rng.random_range(1..40_u32);
        {
            let mut apply = pin!(self.sink.apply(&batch, &upto));
            let cut = poll_fn(|context| match apply.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => {
                    polls -= 1;
                    if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
                }
            });
            cut.await;
        }
        if rng.random_bool(0.5) {
            self.sink = world.open(&self.partitions);
        }
        self.seek().await;
    }

    async fn reset(&mut self) {
        let resets = self.at.values().map(|unit| unit.resets).max().unwrap_or(0) + 1;
        let upto = beginning(&self.partitions, resets);
        let batch = anabranch_core::Batch::empty(anabranch_core::memory::table());
        match self.sink.apply(&batch, &upto).await {
            Ok(()) => self.at = upto,
            Err(_) => self.seek().await,
        }
    }
}

/// How the partitions are shared out.
fn split(rng: &mut StdRng) -> Vec<Vec<i32>> {
    let shares: [&[&[i32]]; 4] =
        [&[&[0, 1, 2]], &[&[0], &[1, 2]], &[&[0, 2], &[1]], &[&[0], &[1], &[2]]];
    shares.choose(rng).unwrap().iter().map(|share| share.to_vec()).collect()
}

fn write(world: &mut World, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..30) {
        let id = rng.random_range(0..KEYS);
        world.append(match rng.random_range(0..100) {
            0..3 => Record::Truncate,
            3..25 => Record::Delete(id),
            _ => Record::Put(id),
        });
    }
}

struct Scene {
    world: World,
    workers: Vec<Worker>,
    /// Workers that lost their partitions and do not know it.
    stopped: Vec<Worker>,
    /// Since a reset the table holds more than its cursor says, until all is replayed.
    is_replaying: bool,
}

impl Scene {
    async fn act(&mut self, rng: &mut StdRng) {
        let who = rng.random_range(0..self.workers.len());
        let count = rng.random_range(1..20);
        let version = match self.world.log().load(None).await.unwrap() {
            Some(state) => rng.random_range(0..=state.version),
            None => 0,
        };
        let exists = self.world.log().load(None).await.unwrap().is_some();
        match rng.random_range(0..100) {
            0..50 => self.workers[who].step(&self.world, count).await,
            50..60 => self.workers[who].lose_answer(&self.world, count).await,
            60..72 => self.workers[who].crash(&self.world, rng).await,
            72..76 => self.rebalance(rng).await,
            76..84 => {
                if let Some(late) = self.stopped.choose_mut_of(rng) {
                    // It may be refused; it must not be heard.
                    late.step(&self.world, count).await;
                }
            }
            84..88 if exists => optimize(&self.world).await,
            88..92 if exists => {
                restore(&self.world, version).await;
            }
            92..94 if exists => {
                restore_by_time(&self.world, version).await;
            }
            94..96 if exists => checkpoint(&self.world).await,
            96..97 => {
                self.is_replaying = true;
                self.workers[who].reset().await;
            }
            _ => {}
        }
    }

    async fn rebalance(&mut self, rng: &mut StdRng) {
        self.stopped.append(&mut self.workers);
        self.stopped.truncate(4);
        for share in split(rng) {
            self.workers.push(Worker::open(&self.world, &share).await);
        }
    }

    async fn check(&self, seed: u64, step: usize) {
        // A new worker does what a RESTORE asks for; what is read after that is one version.
        Worker::open(&self.world, &PARTITIONS).await;
        if !self.is_replaying {
            let (rows, cursor) = self.world.rows_and_cursor(&PARTITIONS).await;
            assert_eq!(rows, self.world.expected(&cursor), "seed {seed}, step {step}");
        }
    }

    /// Lets every worker read to the end.
    async fn catch_up(&mut self) {
        for _ in 0..500 {
            let mut is_behind = false;
            for worker in &mut self.workers {
                worker.step(&self.world, 50).await;
                is_behind |= worker.at.iter().any(|(partition, unit)| {
                    unit.next < self.world.topic[*partition as usize].len() as i64
                });
            }
            if !is_behind {
                self.is_replaying = false;
                return;
            }
        }
        panic!("no end in sight");
    }
}

trait Choose<T> {
    fn choose_mut_of(&mut self, rng: &mut StdRng) -> Option<&mut T>;
}

impl<T> Choose<T> for Vec<T> {
    fn choose_mut_of(&mut self, rng: &mut StdRng) -> Option<&mut T> {
        let place = rng.random_range(0..self.len().max(1));
        self.get_mut(place)
    }
}

async fn history(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(PARTITIONS.len());
    let workers = vec![Worker::open(&world, &PARTITIONS).await];
    let mut scene = Scene { world, workers, stopped: Vec::new(), is_replaying: false };
    for step in 0..steps {
        write(&mut scene.world, &mut rng);
        scene.act(&mut rng).await;
        // Not each time: what happens to a table piles up before a worker looks.
        if rng.random_bool(0.5) {
            scene.check(seed, step).await;
        }
    }
    scene.catch_up().await;
    scene.check(seed, steps).await;
    let end = scene.world.expected(&scene.workers.iter().flat_map(|w| w.at.clone()).collect());
    assert_eq!(scene.world.rows().await, end, "seed {seed}: at the end");
}

#[tokio::test]
async fn random_histories_end_as_the_model() {
    for seed in 0..SEEDS {
        history(seed, 50).await;
    }
}
