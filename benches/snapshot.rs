//! The first copy of a table, into nothing and into Kafka, and the table read beside the stream, each
//! beside what it cannot beat, for each shape of rows.
//!
//! ```text
//! shape ─▶ table ─┬─ psql × 4, COPY of a quarter each ─▶ /dev/null    in turn, three times;
//!                 ├─ source, first copy ─▶ nothing                    who begins changes
//!                 ├─ source, first copy ─▶ log ─▶ bare producer
//!                 └─ source, chunks beside the stream ─▶ nothing
//! ```
//!
//! A ratio is taken within a turn. psql has the table cut into parts of one size and nothing to do
//! with what it reads; the source also makes its slot and its records.

use std::process::Stdio;

use tokio::process::Command;

use crate::drain::{self, SHAPES, Shape};
use crate::report::{self, Line};
use crate::scene::{DATABASE, Scene};
use crate::stage::{Outcome, Stage};
use crate::usage::{Meter, Usage};
use crate::workload::Tally;
use crate::{PRODUCE, ROUNDS, Result, must_be, records, run, source};

/// What a copy cannot beat.
const COPY: &str = "COPY, psql x 4";

/// What is measured, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Copy,
    Nothing,
    Producer,
    Kafka,
    Chunks,
}

impl Part {
    const ALL: [Self; 5] = [Self::Copy, Self::Nothing, Self::Producer, Self::Kafka, Self::Chunks];
    /// What takes its turn. The producer has the records of the log, so it comes after that.
    const TURNS: [Self; 4] = [Self::Copy, Self::Nothing, Self::Kafka, Self::Chunks];

    fn name(self) -> &'static str {
        match self {
            Self::Copy => COPY,
            Self::Nothing => "first copy to nothing",
            Self::Producer => PRODUCE,
            Self::Kafka => "first copy to Kafka",
            Self::Chunks => "chunks to nothing",
        }
    }

    fn floors(self) -> &'static [&'static str] {
        match self {
            Self::Copy | Self::Producer => &[],
            Self::Nothing | Self::Chunks => &[COPY],
            Self::Kafka => &[COPY, PRODUCE],
        }
    }
}

/// Reads the table of every shape that has one; returns the tables of figures.
pub(crate) async fn measure(scene: &mut Scene, changes: u64) -> Result<String> {
    let mut text = String::new();
    for shape in SHAPES.into_iter().filter(|shape| shape.tables.len() == 1) {
        let about = format!("{}: {}", shape.name, shape.about);
        crate::say(&format!("copying {about}"));
        prepare(scene, shape, changes).await?;
        text.push_str(&format!("{about}\n{}\n", report::table(&lines(scene, shape).await?)));
    }
    Ok(text)
}

/// Fills the table, and says what is in it.
async fn prepare(scene: &mut Scene, shape: Shape, changes: u64) -> Result<()> {
    drain::prepare(scene, shape, changes).await?;
    // So that the first to read does not write what all who read would.
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").await?;
    client.batch_execute("CHECKPOINT").await?;
    let mut truth = *scene.truth()?;
    // The other shapes insert only.
    if let Ok(rows @ 1..) = u64::try_from(truth.held.rows) {
        truth.changes = Tally { events: rows, ids: truth.held.ids };
    }
    scene.truth = Some(truth);
    Ok(())
}

async fn lines(scene: &Scene, shape: Shape) -> Result<Vec<Line>> {
    let mut runs: Vec<(Part, Outcome)> = Vec::new();
    for round in 1..=crate::number("ANABRANCH_BENCH_ROUNDS", ROUNDS)? {
        let log = format!("{}-{round}", shape.name);
        let mut turns = Part::TURNS;
        if round % 2 == 0 {
            turns.reverse();
        }
        for part in turns {
            runs.push((part, turn(scene, part, &log).await?));
            if part == Part::Kafka {
                must_be(records::tally(scene, &log)?, scene.truth()?.changes, "the log")?;
                let stage = Stage::Produce { log: log.clone() };
                runs.push((Part::Producer, run(scene, stage).await?));
            }
        }
    }
    let line = |part: Part| {
        let of_part = runs.iter().filter(|(other, _)| *other == part);
        let runs = of_part.map(|(_, outcome)| outcome.clone()).collect();
        Line { name: part.name().to_owned(), floors: part.floors(), runs }
    };
    Ok(Part::ALL.into_iter().map(line).collect())
}

/// Runs a part, and checks that it has read what is there.
async fn turn(scene: &Scene, part: Part, log: &str) -> Result<Outcome> {
    let slot = format!("{DATABASE}_snapshot");
    let stage = match part {
        Part::Copy | Part::Producer => return run(scene, Stage::CopyOut).await,
        Part::Nothing => Stage::Snapshot { slot: slot.clone() },
        Part::Kafka => Stage::SnapshotToKafka { slot: slot.clone(), log: log.to_owned() },
        Part::Chunks => Stage::Chunks { slot: slot.clone() },
    };
    let outcome = run(scene, stage).await?;
    source::drop_slot(scene, &slot).await?;
    must_be(outcome.tally, scene.truth()?.changes, part.name()).map(|()| outcome)
}

/// psql, once for each session that the source would have.
pub(crate) async fn copy_out(scene: &Scene) -> Result<Outcome> {
    let program = std::env::var("ANABRANCH_BENCH_PSQL").unwrap_or_else(|_| "psql".to_owned());
    let table = scene.table_name()?;
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
    // It says nothing of what it reads. The memory is not that of psql.
    let usage = Usage { peak_mib: None, ..meter.stop()? };
    Ok(Outcome { tally: scene.truth()?.changes, usage })
}
