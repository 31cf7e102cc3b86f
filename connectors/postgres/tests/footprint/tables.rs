//! Two thousand tables, one of them with as many columns as there can be.

use std::time::{Duration, Instant};

use super::reader::{Job, Reader};
use super::scene::Scene;

const TABLES: u64 = 2_000;
/// PostgreSQL's limit.
const COLUMNS: usize = 1_600;
/// From the start of the process to the first event.
const START_MAX: Duration = Duration::from_secs(5);
/// The same for a first start, which copies the tables one by one.
const FIRST_START_MAX: Duration = Duration::from_secs(20);
/// Starts, the fastest of which counts: what else runs on the machine only adds.
const STARTS: usize = 3;
const KIB_PER_TABLE_MAX: u64 = 20;

/// How long it took, and the memory once it had.
struct Start {
    took: Duration,
    rss_kib: u64,
}

/// A source of all tables starts soon and stays small, at its first start and at any other.
pub(crate) async fn many() {
    let small: Vec<String> = (0..TABLES).map(|n| format!("public.small_{n}")).collect();
    let create = |name: &String| {
        format!(
            "create table {name} (id bigint primary key, name text, amount numeric(12,2),
             created_at timestamptz, payload jsonb)"
        )
    };
    let columns: Vec<String> = (1..COLUMNS).map(|n| format!("c{n} int2")).collect();
    let wide = format!("create table wide (id int primary key, {})", columns.join(", "));
    let schema: Vec<String> = small.iter().map(create).chain([wide]).collect();
    let mut names: Vec<&str> = small.iter().map(String::as_str).collect();
    names.push("public.wide");
    let mut all = Scene::begin(&schema.join(";"), &names).await;
    let first = all.first_start;
    let mut again = start(&mut all, "wide").await;
    for _ in 1..STARTS {
        again.took = again.took.min(start(&mut all, "wide").await.took);
    }
    let mut one = Scene::begin(&schema[0], &names[..1]).await;
    let alone = start(&mut one, "small_0").await;
    let per_table = (again.rss_kib - alone.rss_kib) / TABLES;
    println!(
        "  first start {:?}, another {:?}, {per_table} KiB a table ({} KiB, {} KiB with one table)",
        first, again.took, again.rss_kib, alone.rss_kib
    );
    assert!(first <= FIRST_START_MAX && again.took <= START_MAX);
    assert!(per_table <= KIB_PER_TABLE_MAX);
    all.database.drop().await;
    one.database.drop().await;
}

/// Starts the source where there is an event of `table` to read already.
async fn start(scene: &mut Scene, table: &str) -> Start {
    let job = scene.job().await;
    let until =
        scene.transaction(&format!("insert into {table} (id) select count(*) from {table}")).await;
    let began = Instant::now();
    let mut reader = Reader::spawn(&Job { until, ..job });
    let mut start = None;
    while let Some(progress) = reader.next() {
        let fresh = || Start { took: began.elapsed(), rss_kib: progress.rss_kib };
        start = start.or_else(|| (progress.events > 0).then(fresh));
    }
    start.expect("the event that was written")
}
