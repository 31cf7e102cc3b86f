//! RESTORE by somebody else, step by step.

use anabranch_core::{ErrorKind, Sink};

use super::support::{Record, World, beginning, checkpoint, optimize, restore, restore_by_time};

/// A table with rows of two units at versions 1 to 4; unit 1 has been idle since version 2.
async fn two_units() -> World {
    let mut world = World::new(2);
    for id in 0..12 {
        world.append(Record::Put(id));
    }
    let mut both = world.open(&[0, 1]);
    assert_eq!(both.cursor().await.unwrap(), None);
    let mut at = beginning(&[0, 1], 0);
    for _ in 0..2 {
        let (batch, upto) = world.batch(&at, 2);
        both.apply(&batch, &upto).await.unwrap();
        at = upto;
    }
    drop(both);
    let mut even = world.open(&[0]);
    let mut at = even.cursor().await.unwrap().unwrap();
    for _ in 0..2 {
        let (batch, upto) = world.batch(&at, 1);
        even.apply(&batch, &upto).await.unwrap();
        at = upto;
    }
    world
}

async fn offsets(world: &World, partitions: &[i32]) -> Vec<i64> {
    let held = world.open(partitions).cursor().await.unwrap().unwrap_or_default();
    held.values().map(|unit| unit.next).collect()
}

/// Every unit goes back, also one without events since, and stays there after a crash.
#[tokio::test]
async fn every_unit_is_rewound_at_once() {
    let world = two_units().await;
    assert_eq!(offsets(&world, &[0, 1]).await, [6, 4]);
    assert!(restore(&world, 1).await);
    // The worker of one unit finds out, makes its first commit, and is gone.
    assert_eq!(offsets(&world, &[0]).await, [2]);
    // The idle one's worker comes much later.
    assert_eq!(offsets(&world, &[1]).await, [2]);
    assert_eq!(offsets(&world, &[0, 1]).await, [2, 2]);
    let (rows, cursor) = world.rows_and_cursor(&[0, 1]).await;
    assert_eq!(rows, world.expected(&cursor));
}

/// A worker that was at work meanwhile gives its batch up and is told where to begin again.
#[tokio::test]
async fn a_worker_at_work_begins_again() {
    let mut world = two_units().await;
    let mut sink = world.open(&[0, 1]);
    let at = sink.cursor().await.unwrap().unwrap();
    restore_by_time(&world, 1).await;
    optimize(&world).await;
    world.append(Record::Put(0));
    let (batch, upto) = world.batch(&at, 9);
    let refused = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transient);
    let refused = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transient, "not before it has asked for the cursor");
    let again = sink.cursor().await.unwrap().unwrap();
    assert_eq!(again.values().map(|unit| unit.next).collect::<Vec<_>>(), [2, 2]);
    let (batch, upto) = world.batch(&again, 99);
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(world.rows().await, world.expected(&upto));
}

/// A worker that comes only after other commits have followed the RESTORE finds it all the same.
#[tokio::test]
async fn commits_of_others_do_not_hide_a_restore() {
    let world = two_units().await;
    restore(&world, 1).await;
    optimize(&world).await;
    optimize(&world).await;
    assert_eq!(offsets(&world, &[0, 1]).await, [2, 2]);
}

/// Rows that a RESTORE brings back are known to a worker that had long forgotten them.
#[tokio::test]
async fn rows_that_come_back_are_found_again() {
    let mut world = World::new(1);
    let mut sink = world.open(&[0]);
    sink.cursor().await.unwrap();
    let mut at = beginning(&[0], 0);
    for step in 0..20 {
        // One row of each file stays, and keeps the file.
        (0..5).chain([100 + step]).for_each(|id| world.append(Record::Put(id)));
        let (batch, upto) = world.batch(&at, 6);
        sink.apply(&batch, &upto).await.unwrap();
        at = upto;
    }
    restore(&world, 1).await;
    let at = sink.cursor().await.unwrap().unwrap();
    let (batch, upto) = world.batch(&at, 999);
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(world.rows().await, world.expected(&upto));
}

/// A RESTORE to a version that another RESTORE had made counts by what that one had put back.
#[tokio::test]
async fn a_restore_of_a_restore_goes_all_the_way() {
    let world = two_units().await;
    let tip = world.log().load(None).await.unwrap().unwrap().version;
    restore(&world, 1).await;
    restore(&world, tip).await;
    assert_eq!(offsets(&world, &[0, 1]).await, [6, 4], "forth");
    let tip = world.log().load(None).await.unwrap().unwrap().version;
    restore(&world, 1).await;
    restore(&world, 2).await;
    restore(&world, tip + 1).await;
    assert_eq!(offsets(&world, &[0, 1]).await, [2, 2], "and back, to what a RESTORE had made");
}

/// A RESTORE to before the first row leaves no cursor.
#[tokio::test]
async fn a_restore_to_the_beginning_is_the_beginning() {
    let world = two_units().await;
    restore(&world, 0).await;
    assert_eq!(world.open(&[0, 1]).cursor().await.unwrap(), None);
    assert!(world.rows().await.is_empty());
}

/// Without the history in between nobody can say what the rows are.
#[tokio::test]
async fn history_that_is_gone_is_lost() {
    let world = two_units().await;
    restore(&world, 1).await;
    checkpoint(&world).await;
    for version in 0..5 {
        let name = format!("_delta_log/{version:020}.json");
        std::fs::remove_file(world.url().to_file_path().unwrap().join(name)).unwrap();
    }
    let lost = world.open(&[0, 1]).cursor().await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost:?}");
    assert!(lost.help().is_some());
}

/// A worker that has slept longer than the log is kept finds the number after its own free,
/// because the commit of that number has been cleaned up.
#[tokio::test]
async fn a_version_that_was_cleaned_up_is_not_taken_for_free() {
    let mut world = two_units().await;
    let mut sleeper = world.open(&[0, 1]);
    let at = sleeper.cursor().await.unwrap().unwrap();
    world.append(Record::Put(0));
    world.append(Record::Put(1));
    let (batch, upto) = world.batch(&at, 99);
    world.open(&[0, 1]).apply(&batch, &upto).await.unwrap();
    optimize(&world).await;
    checkpoint(&world).await;
    let tip = world.log().load(None).await.unwrap().unwrap().version;
    for version in 0..tip {
        let name = format!("_delta_log/{version:020}.json");
        std::fs::remove_file(world.url().to_file_path().unwrap().join(name)).unwrap();
    }
    // Its own cursor was the one before; what it sends is what has landed already.
    let woken = sleeper.apply(&batch, &upto).await;
    assert!(woken.is_err(), "its history is gone, so it can say nothing for certain");
    let commits = std::fs::read_dir(world.url().to_file_path().unwrap().join("_delta_log"));
    let commits = commits.unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "json")
    });
    assert_eq!(commits.count(), 1, "no commit was made where one had been");
}
