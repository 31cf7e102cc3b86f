//! Several workers on one table.

use anabranch_core::{Sink, StoreCursor};

use super::support::{Record, World, beginning, optimize};
use crate::DeltaSink;

async fn step(world: &World, sink: &mut DeltaSink, at: &mut StoreCursor, count: usize) {
    let (batch, upto) = world.batch(at, count);
    sink.apply(&batch, &upto).await.unwrap();
    *at = upto;
}

/// OPTIMIZE puts rows of both workers into one file: each keeps what the other has deleted.
#[tokio::test]
async fn two_workers_share_a_file() {
    let mut world = World::new(2);
    (0..20).for_each(|id| world.append(Record::Put(id)));
    let (mut even, mut odd) = (world.open(&[0]), world.open(&[1]));
    let (mut even_at, mut odd_at) = (beginning(&[0], 0), beginning(&[1], 0));
    step(&world, &mut even, &mut even_at, 99).await;
    step(&world, &mut odd, &mut odd_at, 99).await;
    optimize(&world).await;
    for id in 0..12 {
        world.append(if id % 3 == 0 { Record::Delete(id) } else { Record::Put(id) });
    }
    for _ in 0..6 {
        step(&world, &mut even, &mut even_at, 1).await;
        step(&world, &mut odd, &mut odd_at, 1).await;
    }
    world.append(Record::Truncate);
    world.append(Record::Put(1));
    step(&world, &mut even, &mut even_at, 9).await;
    let mut at = even_at.clone();
    at.extend(odd_at.clone());
    assert_eq!(world.rows().await, world.expected(&at), "one unit is truncated");
    step(&world, &mut odd, &mut odd_at, 1).await;
    step(&world, &mut odd, &mut odd_at, 1).await;
    at.extend(odd_at);
    assert_eq!(world.rows().await, world.expected(&at));
    assert_eq!(world.rows().await.len(), 1);
}

/// Workers of one table commit to one log: they wait for each other, and none gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_different_units_do_not_stop_each_other() {
    const BATCHES: usize = 15;
    let mut world = World::new(3);
    (0..90).for_each(|id| world.append(Record::Put(id)));
    let world = &world;
    let work = async |unit: i32| {
        let (mut sink, mut at) = (world.open(&[unit]), beginning(&[unit], 0));
        for _ in 0..BATCHES {
            step(world, &mut sink, &mut at, 2).await;
        }
    };
    tokio::join!(work(0), work(1), work(2));
    let (rows, cursor) = world.rows_and_cursor(&[0, 1, 2]).await;
    assert!(cursor.values().all(|unit| unit.next == 30), "{cursor:?}");
    assert_eq!(rows, world.expected(&cursor));
}
