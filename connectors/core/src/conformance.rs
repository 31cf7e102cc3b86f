//! What every store connector must do, as checks that each runs against its own target.
//!
//! ```text
//! Harness::fresh() ─▶ an empty target · open() ─▶ a worker on it · rows() ─▶ what a reader sees
//! ```
//!
//! The rows are those of [`crate::memory::table`]: an id and a value. A check panics with what it
//! saw; [`all`] runs them one after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::memory::{batch, key};
use crate::{
    Batch, CURSOR_FORMAT, DeleteBelow, Epoch, LastRecord, Lsn, RowMeta, RowOp, Sink, StoreCursor,
    UnitCursor, Version,
};

/// The log that the checks pretend to read.
pub const LOG: Uuid = Uuid::from_u128(0xA11A);
/// A target may write its cursor a little later than its rows, but not later than this.
const CURSOR_WAIT_MAX: Duration = Duration::from_secs(10);

/// How a connector's tests make targets and workers.
pub trait Harness {
    /// The connector.
    type Sink: Sink<Batch, StoreCursor>;

    /// Turns to a new, empty target.
    fn fresh(&mut self) -> impl Future<Output = ()>;

    /// A new worker on the present target, for these partitions of [`crate::memory::table`] in
    /// log [`LOG`], generation 1. It must not call `cursor` yet.
    fn open(&mut self, partitions: &[i32]) -> impl Future<Output = Self::Sink>;

    /// What a reader of the present target sees: id and value. Makes writes visible first, if
    /// the store needs that.
    fn rows(&mut self) -> impl Future<Output = BTreeMap<i64, Option<i64>>>;
}

/// Runs every check.
pub async fn all<H: Harness>(harness: &mut H) {
    an_empty_target_has_no_cursor(harness).await;
    rows_and_cursor_survive_a_restart(harness).await;
    applying_again_changes_nothing(harness).await;
    older_versions_lose(harness).await;
    large_versions_compare_exactly(harness).await;
    a_null_is_written(harness).await;
    delete_below_spares_the_newer_and_other_partitions(harness).await;
    insert_truncate_insert_leaves_the_last(harness).await;
    a_reset_lowers_the_cursor_and_a_replay_converges(harness).await;
    a_stopped_worker_that_wakes_up_does_no_harm(harness).await;
    units_move_alone(harness).await;
}

fn version(lsn: u64, part: u8) -> Version {
    Version::new(Epoch(0), Lsn(0x100_0000 + lsn * 64), part)
}

/// A row of partition `id % 2`: its id, value (`None` deletes) and the commit it is of.
fn step(rows: &[(i64, Option<i64>, u64)]) -> Batch {
    let meta = |(id, value, lsn): &(i64, Option<i64>, u64)| RowMeta {
        op: if value.is_some() { RowOp::Upsert } else { RowOp::Delete },
        partition: i32::from(id % 2 != 0),
        version: version(*lsn, 0),
        key: key(*id),
    };
    let values: Vec<_> = rows.iter().map(|(id, value, _)| (*id, *value)).collect();
    batch(&values, rows.iter().map(meta).collect(), Vec::new())
}

/// The cursor with the same offset in each of `units`.
fn cursor(units: &[i32], next: i64, resets: u32) -> StoreCursor {
    let last = (resets == 0).then_some(LastRecord { offset: next - 1, version: version(1, 0) });
    let unit = UnitCursor { format: CURSOR_FORMAT, log: LOG, generation: 1, resets, next, last };
    units.iter().map(|partition| (*partition, unit.clone())).collect()
}

async fn worker<H: Harness>(harness: &mut H, units: &[i32]) -> (H::Sink, Option<StoreCursor>) {
    let mut sink = harness.open(units).await;
    let held = sink.cursor().await.expect("the cursor is read");
    (sink, held)
}

async fn apply<K: Sink<Batch, StoreCursor>>(sink: &mut K, batch: &Batch, next: i64) {
    sink.apply(batch, &cursor(&[0, 1], next, 0)).await.expect("the batch is applied");
}

async fn expect_rows<H: Harness>(harness: &mut H, rows: &[(i64, i64)], what: &str) {
    let wanted: BTreeMap<_, _> = rows.iter().map(|(id, value)| (*id, Some(*value))).collect();
    assert_eq!(harness.rows().await, wanted, "{what}");
}

/// Waits until a new worker reads `wanted`.
async fn expect_cursor<H: Harness>(harness: &mut H, units: &[i32], wanted: &StoreCursor) {
    let begun = Instant::now();
    loop {
        let (_, held) = worker(harness, units).await;
        if held.as_ref() == Some(wanted) {
            return;
        }
        let late = begun.elapsed() > CURSOR_WAIT_MAX;
        assert!(!late, "the target's cursor is {held:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A target that nobody wrote to begins at the beginning.
pub async fn an_empty_target_has_no_cursor<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (_, held) = worker(harness, &[0, 1]).await;
    assert_eq!(held, None);
    expect_rows(harness, &[], "an empty target").await;
}

/// What `apply` returned for is there for the next worker.
pub async fn rows_and_cursor_survive_a_restart<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &step(&[(1, Some(10), 1), (2, Some(20), 1), (3, Some(30), 1)]), 5).await;
    apply(&mut sink, &step(&[(1, Some(11), 2), (2, None, 2), (9, None, 2)]), 9).await;
    expect_cursor(harness, &[0, 1], &cursor(&[0, 1], 9, 0)).await;
    drop(sink);
    expect_cursor(harness, &[0, 1], &cursor(&[0, 1], 9, 0)).await;
    expect_rows(harness, &[(1, 11), (3, 30)], "after a restart").await;
}

/// A batch may come again, whole or in part.
pub async fn applying_again_changes_nothing<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    let first = step(&[(1, Some(10), 1), (2, Some(20), 1), (1, Some(12), 2), (2, None, 3)]);
    let second = step(&[(2, Some(22), 4), (1, None, 4), (3, Some(33), 4)]);
    apply(&mut sink, &first, 3).await;
    apply(&mut sink, &first, 3).await;
    expect_rows(harness, &[(1, 12)], "once more").await;
    apply(&mut sink, &second, 6).await;
    let (mut again, _) = worker(harness, &[0, 1]).await;
    apply(&mut again, &first, 3).await;
    apply(&mut again, &second, 6).await;
    expect_rows(harness, &[(2, 22), (3, 33)], "both once more, by another worker").await;
}

/// A row never goes back.
pub async fn older_versions_lose<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &step(&[(1, Some(10), 5), (2, Some(20), 5)]), 3).await;
    apply(&mut sink, &step(&[(1, Some(9), 4), (2, None, 4)]), 4).await;
    expect_rows(harness, &[(1, 10), (2, 20)], "after older changes").await;
    apply(&mut sink, &step(&[(1, Some(11), 5)]), 5).await;
    expect_rows(harness, &[(1, 11), (2, 20)], "an equal version is written").await;
}

/// Versions beyond 2^53 differ in their last bit.
pub async fn large_versions_compare_exactly<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    let at = |value, part| {
        let version = Version::new(Epoch(255), Lsn(Lsn::VERSION_LIMIT.0 - 1), part);
        assert!(version.to_i64() > 1 << 53);
        let meta = RowMeta { op: RowOp::Upsert, partition: 1, version, key: key(1) };
        batch(&[(1, Some(value))], vec![meta], Vec::new())
    };
    apply(&mut sink, &at(10, 254), 1).await;
    apply(&mut sink, &at(9, 253), 2).await;
    expect_rows(harness, &[(1, 10)], "one below").await;
    apply(&mut sink, &at(11, 255), 3).await;
    expect_rows(harness, &[(1, 11)], "one above").await;
}

/// A column that is null replaces one that was not.
pub async fn a_null_is_written<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &step(&[(1, Some(10), 1)]), 1).await;
    let meta = RowMeta { op: RowOp::Upsert, partition: 1, version: version(2, 0), key: key(1) };
    apply(&mut sink, &batch(&[(1, None)], vec![meta], Vec::new()), 2).await;
    assert_eq!(harness.rows().await, BTreeMap::from([(1, None)]));
}

/// Delete-below is by partition and by version.
pub async fn delete_below_spares_the_newer_and_other_partitions<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &step(&[(1, Some(10), 1), (3, Some(30), 9), (2, Some(20), 1)]), 3).await;
    let mut below = step(&[(5, Some(50), 2), (7, Some(70), 5)]);
    below.delete_below = vec![DeleteBelow { partition: 1, version: version(5, 0) }];
    apply(&mut sink, &below, 6).await;
    expect_rows(harness, &[(2, 20), (3, 30), (7, 70)], "after delete-below 5").await;
    apply(&mut sink, &below, 6).await;
    expect_rows(harness, &[(2, 20), (3, 30), (7, 70)], "after the same again").await;
}

/// One transaction: INSERT, TRUNCATE, INSERT of the same key and of others.
pub async fn insert_truncate_insert_leaves_the_last<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &step(&[(1, Some(1), 1), (3, Some(3), 1)]), 3).await;
    let row = |id, part| RowMeta {
        op: RowOp::Upsert,
        partition: 1,
        version: version(2, part),
        key: key(id),
    };
    let below = vec![DeleteBelow { partition: 1, version: version(2, 2) }];
    let truncate = batch(&[(1, Some(11)), (5, Some(15))], vec![row(1, 0), row(5, 0)], below);
    let after = batch(&[(1, Some(21)), (7, Some(27))], vec![row(1, 2), row(7, 2)], Vec::new());
    apply(&mut sink, &truncate, 6).await;
    // The worker dies in between; the next one gets both again.
    drop(sink);
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    apply(&mut sink, &truncate, 6).await;
    apply(&mut sink, &after, 8).await;
    expect_rows(harness, &[(1, 21), (7, 27)], "after the transaction").await;
    apply(&mut sink, &truncate, 6).await;
    expect_rows(harness, &[(1, 21), (7, 27)], "the first half again").await;
}

/// A reset is an empty batch with a raised counter and a lower offset.
pub async fn a_reset_lowers_the_cursor_and_a_replay_converges<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut sink, _) = worker(harness, &[0, 1]).await;
    let steps = [
        step(&[(1, Some(10), 1), (2, Some(20), 1)]),
        step(&[(1, None, 2), (2, Some(21), 2)]),
        step(&[(3, Some(30), 3)]),
    ];
    for (next, batch) in (1..).zip(&steps) {
        apply(&mut sink, batch, next).await;
    }
    let reset = cursor(&[0, 1], 0, 1);
    sink.apply(&step(&[]), &reset).await.expect("the reset is written");
    drop(sink);
    let (mut sink, held) = worker(harness, &[0, 1]).await;
    assert_eq!(held, Some(reset), "a reset is durable when `apply` returns");
    for (next, batch) in (1..).zip(&steps) {
        let upto = cursor(&[0, 1], next, 1);
        sink.apply(batch, &upto).await.expect("the replay is applied");
    }
    expect_cursor(harness, &[0, 1], &cursor(&[0, 1], 3, 1)).await;
    expect_rows(harness, &[(2, 21), (3, 30)], "after the replay").await;
}

/// Two workers for one partition: the first stops, the second goes on, the first wakes up.
pub async fn a_stopped_worker_that_wakes_up_does_no_harm<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut stopped, _) = worker(harness, &[0, 1]).await;
    apply(&mut stopped, &step(&[(1, Some(10), 1), (2, Some(20), 1)]), 1).await;
    let (mut owner, _) = worker(harness, &[0, 1]).await;
    let late = step(&[(1, Some(11), 2), (3, Some(31), 2), (2, Some(22), 2)]);
    apply(&mut owner, &late, 4).await;
    apply(&mut owner, &step(&[(1, Some(12), 3), (3, None, 3), (4, Some(40), 3)]), 7).await;
    // It may be refused or outdone; it must not be heard.
    let heard = stopped.apply(&late, &cursor(&[0, 1], 4, 0)).await;
    expect_rows(harness, &[(1, 12), (2, 22), (4, 40)], "after a late write").await;
    let owns = owner.apply(&step(&[(1, Some(13), 4)]), &cursor(&[0, 1], 8, 0)).await;
    if owns.is_err() {
        assert!(heard.is_ok(), "one of the two workers owns the target");
        let (mut owner, _) = worker(harness, &[0, 1]).await;
        apply(&mut owner, &step(&[(1, Some(13), 4)]), 8).await;
    }
    expect_rows(harness, &[(1, 13), (2, 22), (4, 40)], "after the owner went on").await;
}

/// Units belong to different workers, and move alone.
pub async fn units_move_alone<H: Harness>(harness: &mut H) {
    harness.fresh().await;
    let (mut even, _) = worker(harness, &[0]).await;
    let (mut odd, _) = worker(harness, &[1]).await;
    even.apply(&step(&[(2, Some(20), 1)]), &cursor(&[0], 4, 0)).await.expect("unit 0 moves");
    odd.apply(&step(&[(1, Some(10), 1)]), &cursor(&[1], 7, 0)).await.expect("unit 1 moves");
    even.apply(&step(&[(4, Some(40), 2)]), &cursor(&[0], 5, 0)).await.expect("unit 0 moves on");
    let mut both = cursor(&[0], 5, 0);
    both.extend(cursor(&[1], 7, 0));
    expect_cursor(harness, &[0, 1], &both).await;
    expect_rows(harness, &[(1, 10), (2, 20), (4, 40)], "after both").await;
}
