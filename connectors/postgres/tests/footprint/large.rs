//! A transaction of any size takes the memory of a small one, and a reader that is killed within it
//! goes on from there.

use anabranch_core::Lsn;

use super::reader::{Job, Progress, Reader};
use super::scene::{Scene, is_full};

/// What a large transaction may take beyond the small ones.
const GROWTH_KIB_MAX: u64 = 16 << 10;
/// Small transactions, of 10 MB of WAL or a little less each.
const SMALL: i64 = 10;
/// Time that each batch takes to become durable where everything between fills up.
const PAUSE_MS: u64 = 100;

/// Deletes of a table with nothing but its key: the most changes a byte. The full size has ten
/// million.
pub(crate) async fn deletes() {
    const ROWS: i64 = 100_000;
    let large = if is_full() { 10_000_000 } else { 1_000_000 };
    let schema = "create table keys (id int primary key) with (autovacuum_enabled = off)";
    let mut scene = Scene::begin(schema, &["public.keys"]).await;
    let all = SMALL * ROWS + large;
    let fill = format!("insert into keys select generate_series(0, {})", all - 1);
    scene.database.run(&fill).await;
    let delete = |from: i64, rows: i64| {
        format!("delete from keys where id >= {from} and id < {}", from + rows)
    };
    measure(&mut scene, (ROWS, large), delete).await;
    scene.database.drop().await;
}

/// Inserts of rows of 1 kB. The full size has a million, which is 1 GB.
pub(crate) async fn inserts() {
    const ROWS: i64 = 10_000;
    let large = if is_full() { 1_000_000 } else { 100_000 };
    let schema =
        "create table wide (id int primary key, body text) with (autovacuum_enabled = off)";
    let mut scene = Scene::begin(schema, &["public.wide"]).await;
    let insert = |from: i64, rows: i64| {
        format!(
            "insert into wide select n, repeat(chr(97 + n % 26), 1000)
             from generate_series({from}, {}) n",
            from + rows - 1
        )
    };
    measure(&mut scene, (ROWS, large), insert).await;
    scene.database.drop().await;
}

/// Reads small transactions, then a large one: both as fast as it goes, and with a log that is
/// slower than the server. `change` makes the SQL for some rows after the first.
async fn measure(
    scene: &mut Scene,
    (small, large): (i64, i64),
    change: impl Fn(i64, i64) -> String,
) {
    let before = scene.job().await;
    let mut end = Lsn(0);
    for nth in 0..SMALL {
        end = scene.transaction(&change(nth * small, small)).await;
    }
    let within = scene.job().await;
    let last = scene.transaction(&change(SMALL * small, large)).await;
    for pause_ms in [0, PAUSE_MS] {
        let base = peak(&read(&Job { until: end, pause_ms, ..scene.copy(&before).await }));
        let job = Job { until: last, pause_ms, ..scene.copy(&within).await };
        let progress = read_twice(&job, large.unsigned_abs());
        let peak = peak(&progress);
        println!(
            "  a batch takes {pause_ms} ms: {base} KiB for transactions of {small} rows, {peak} KiB \
             for one of {large} in {} batches",
            progress.len()
        );
        assert!(peak <= base + GROWTH_KIB_MAX, "{peak} KiB, and {base} KiB for small ones");
    }
}

fn read(job: &Job) -> Vec<Progress> {
    let mut reader = Reader::spawn(job);
    std::iter::from_fn(|| reader.next()).collect()
}

/// Reads one transaction of `rows` changes, killed at half-way. Every change comes once, in order.
fn read_twice(job: &Job, rows: u64) -> Vec<Progress> {
    let mut reader = Reader::spawn(job);
    let mut progress = Vec::new();
    let mut events = 0;
    while events < rows / 2 {
        let batch = reader.next().expect("half of it is not all");
        events += batch.events;
        progress.push(batch);
    }
    progress.extend(reader.kill());
    let cursor = progress.last().map(|batch| batch.cursor.clone());
    let split = cursor.as_ref().and_then(|cursor| cursor.split.as_ref());
    assert!(split.is_some_and(|split| split.ordinal >= rows / 2), "killed within it: {split:?}");
    progress.extend(read(&Job { cursor, ..job.clone() }));
    let mut next = 1;
    for (first, last) in progress.iter().filter_map(|batch| batch.ordinals) {
        assert_eq!(first, next, "it goes on where the log is");
        next = last + 1;
    }
    assert_eq!(next - 1, rows);
    assert_eq!(progress.iter().map(|batch| batch.events).sum::<u64>(), rows);
    progress
}

fn peak(progress: &[Progress]) -> u64 {
    progress.iter().map(|batch| batch.peak_kib).max().unwrap()
}
