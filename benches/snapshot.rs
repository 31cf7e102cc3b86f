//! Tables copied by the source and by psql with as many connections, in pairs, for each shape of rows.
//!
//! ```text
//! shape ─▶ table ─┬─ psql × 4, COPY of a quarter each ─▶ /dev/null ┐ five pairs; who begins changes
//!                 └─ source, the initial snapshot ─▶ nothing        ┘ with each
//! ```
//!
//! The ratio is taken within a pair. psql has the table cut into parts of one size and nothing to do
//! with what it reads; the source also makes its slot and its records.

use std::fmt::Write as _;
use std::process::Stdio;

use tokio::process::Command;

use crate::drain::{self, Pairs, SHAPES, Shape, median};
use crate::report::count;
use crate::scene::{DATABASE, Scene};
use crate::stage::{self, Outcome, Stage};
use crate::usage::Meter;
use crate::workload::Tally;
use crate::{Result, source};

/// Copies the table of every shape that has one; returns the table of figures.
pub(crate) async fn measure(scene: &mut Scene, changes: u64) -> Result<String> {
    let mut all = Vec::new();
    for shape in SHAPES.into_iter().filter(|shape| shape.tables.len() == 1) {
        crate::say(&format!("copying {}: {}", shape.name, shape.about));
        drain::prepare(scene, shape, changes).await?;
        settle(scene).await?;
        all.push(pairs(scene, shape).await?);
    }
    Ok(table(&all))
}

/// So that the first to read does not write what all who read would.
async fn settle(scene: &Scene) -> Result<()> {
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").await?;
    Ok(client.batch_execute("CHECKPOINT").await?)
}

async fn pairs(scene: &Scene, shape: Shape) -> Result<Pairs> {
    let rows = rows(scene).await?;
    let peer = async |_| stage::run(scene, Stage::CopyOut).await;
    let ours = async |round| {
        let slot = format!("{DATABASE}_copy_{round}");
        let outcome = stage::run(scene, Stage::Snapshot { slot: slot.clone() }).await?;
        source::drop_slot(scene, &slot).await?;
        crate::must_be(outcome.tally.events, rows, "the copy").map(|()| outcome)
    };
    Pairs::measure(shape, peer, ours).await
}

async fn rows(scene: &Scene) -> Result<u64> {
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let query = format!("SELECT count(*) FROM {}", table_of(scene)?);
    Ok(u64::try_from(client.query_one(&query, &[]).await?.try_get::<_, i64>(0)?)?)
}

fn table_of(scene: &Scene) -> Result<&str> {
    scene.tables.first().map(String::as_str).ok_or_else(|| "a shape has no table".into())
}

/// psql, once for each session that the source would have.
pub(crate) async fn out(scene: &Scene) -> Result<Outcome> {
    let program = std::env::var("ANABRANCH_BENCH_PSQL").unwrap_or_else(|_| "psql".to_owned());
    let (table, events) = (table_of(scene)?, rows(scene).await?);
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let pages = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::int8";
    let pages: i64 = client.query_one(pages, &[&table]).await?.try_get(0)?;
    let sessions = i64::try_from(scene.source(DATABASE)?.snapshot_sessions.get())?;
    let meter = Meter::start(None)?;
    let mut children = Vec::new();
    for session in 0..sessions {
        let (start, end) = (pages * session / sessions, pages * (session + 1) / sessions);
        let copy = format!(
            "COPY (SELECT * FROM ONLY {table} WHERE ctid >= '({start},0)' AND ctid < '({end},0)') \
             TO STDOUT"
        );
        let child = Command::new(&program)
            .args(["--no-psqlrc", "--dbname", &scene.postgres_url(Some(DATABASE))?])
            .args(["--command", &copy])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        children.push(child.map_err(|error| format!("cannot run {program}: {error}"))?);
    }
    for child in &mut children {
        let status = child.wait().await?;
        if !status.success() {
            return Err(format!("psql ended with {status}").into());
        }
    }
    Ok(Outcome { tally: Tally { events, ids: 0 }, usage: meter.stop()? })
}

/// A line a shape.
fn table(all: &[Pairs]) -> String {
    let mut text = String::from(
        "| shape | rows | COPY rows/s | source rows/s | ratio (lowest-highest) | psql CPU us/row | \
         source CPU us/row | peak RSS MiB |\n|---|---|---|---|---|---|---|---|\n",
    );
    for pairs in all {
        let ((ratio, lowest, highest), Pairs { shape, peer, ours }) = (pairs.ratios(), pairs);
        let rate = |run: &Outcome| count(run) / run.usage.seconds;
        let cpu = |run: &Outcome| run.usage.cpu * 1e6 / count(run);
        // Writing to a string cannot fail.
        writeln!(
            text,
            "| {}: {} | {} | {:.0} | {:.0} | {ratio:.2} ({lowest:.2}-{highest:.2}) | {:.2} | {:.2} | {:.0} |",
            shape.name,
            shape.about,
            ours.first().map_or(0, |run| run.tally.events),
            median(peer, &rate),
            median(ours, &rate),
            median(peer, &cpu),
            median(ours, &cpu),
            median(ours, &|run| run.usage.peak_mib.unwrap_or(f64::NAN)),
        )
        .unwrap_or_default();
    }
    text
}
