//! Measures every stage beside what it cannot beat, in one run: `make bench`, `docs/performance.md`.
//!
//! ```text
//! W1 to W4 ─▶ slot ─┬─ copy ─▶ pg_recvlogical                 five pairs of each
//!                   └─ copy ─▶ source ─▶ nothing
//! W2 to W4 ─▶ table ┬─ psql × 4 ─▶ /dev/null                  three times, in turn
//!                   ├─ source, first copy ─▶ nothing, log
//!                   └─ source, chunks ─▶ nothing
//! workload ─▶ slot ─┬─ copy ─▶ pg_recvlogical                 three times, in turn
//!                   ├─ copy ─▶ source ─▶ nothing
//!                   └─ copy ─▶ source ─▶ log ─▶ each store    beside its floor
//! ```
//!
//! Each stage is a process of its own. What went through is counted and compared with what the
//! workload was: a run that is fast and wrong fails.

mod drain;
mod floor;
mod receive;
mod records;
mod report;
mod scene;
mod snapshot;
mod source;
mod stage;
mod store;
mod usage;
mod workload;

use std::env;
use std::io::Write as _;
use std::process::ExitCode;

use report::Line;
use scene::{Scene, Store};
use stage::{Outcome, Stage};

/// Any error: each ends the run.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Changes of the workload unless `ANABRANCH_BENCH_CHANGES` says otherwise.
const CHANGES: u64 = 500_000;
/// Runs of each stage of the source unless `ANABRANCH_BENCH_ROUNDS` says otherwise.
const ROUNDS: u64 = 3;

/// Pairs of each shape unless `ANABRANCH_BENCH_PAIRS` says otherwise.
const PAIRS: u64 = 5;

/// The names of the floors in the table.
const RECEIVE: &str = "pg_recvlogical";
const PRODUCE: &str = "bare producer";
const REDIS: &str = "bare HSET and DEL";
const BULK: &str = "bare _bulk";
const PARQUET: &str = "bare Parquet append";

#[tokio::main]
async fn main() -> ExitCode {
    let is_stage = env::args().any(|argument| argument == stage::STAGE);
    let outcome = if is_stage { stage::perform().await } else { measure().await };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let ours = error.downcast_ref::<anabranch_core::Error>();
            say(&ours.map_or_else(|| error.to_string(), anabranch_core::Error::report));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for people, on standard error.
fn say(line: &str) {
    // Nobody is left to be told if that fails.
    writeln!(std::io::stderr(), "{line}").unwrap_or_default();
}

async fn measure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut scene = Scene::from_env(folder.path().to_owned())?;
    let machine = machine()?;
    clear(&scene).await?;
    let measured = stages(&mut scene).await;
    let cleared = clear(&scene).await;
    let (lines, drained) = measured?;
    cleared?;
    let table = if lines.is_empty() { String::new() } else { report::table(&lines) };
    writeln!(std::io::stdout(), "\n{machine}\n\n{drained}\n{table}")?;
    Ok(())
}

/// Removes what this run, or an interrupted one before it, has left.
async fn clear(scene: &Scene) -> Result<()> {
    workload::remove(scene).await?;
    records::remove_logs(scene).await?;
    for store in Store::ALL {
        store::clear(scene, store).await?;
    }
    Ok(())
}

async fn stages(scene: &mut Scene) -> Result<(Vec<Line>, String)> {
    let changes = number("ANABRANCH_BENCH_CHANGES", CHANGES)?;
    let mut drained = String::new();
    if is_wanted("drain") {
        drained = drain::measure(scene, changes).await?;
    }
    if is_wanted("snapshot") {
        drained.push('\n');
        drained.push_str(&snapshot::measure(scene, changes).await?);
    }
    if !wanted().is_empty()
        && wanted().iter().all(|stage| matches!(stage.as_str(), "drain" | "snapshot"))
    {
        return Ok((Vec::new(), drained));
    }
    say(&format!("loading {changes} changes"));
    scene.tables = vec![scene::TABLE.to_owned()];
    workload::create(scene, workload::SCHEMA).await?;
    scene.begun = Some(source::begin(scene).await?);
    scene.truth = Some(workload::load(scene, changes).await?);
    let mut lines = source_lines(scene).await?;
    let log = log_of(number("ANABRANCH_BENCH_ROUNDS", ROUNDS)?);
    for store in Store::ALL.into_iter().filter(|store| is_wanted(store.name())) {
        lines.extend(store_lines(scene, &log, store).await?);
    }
    Ok((lines, drained))
}

/// The stages of the source in turn, so that a noise that lasts hits all of them.
async fn source_lines(scene: &Scene) -> Result<Vec<Line>> {
    let line = |name: &str, floors| Line { name: name.to_owned(), floors, runs: Vec::new() };
    let mut receive = line(RECEIVE, &[]);
    let mut null = line("source to nothing", &[RECEIVE]);
    let mut produce = line(PRODUCE, &[]);
    let mut kafka = line("source to Kafka", &[RECEIVE, PRODUCE]);
    for round in 1..=number("ANABRANCH_BENCH_ROUNDS", ROUNDS)? {
        let slot = |name: &str| format!("{}_{name}_{round}", scene::DATABASE);
        let log = log_of(round);
        let slot_of = slot("receive");
        receive
            .runs
            .push(on_slot(scene, &slot_of, Stage::Receive { slot: slot_of.clone() }).await?);
        let slot_of = slot("null");
        null.runs.push(on_slot(scene, &slot_of, Stage::Null { slot: slot_of.clone() }).await?);
        if wanted().is_empty() || wanted() != ["source"] {
            let slot_of = slot("kafka");
            source::begin_log(scene, &slot_of, &log).await?;
            let stage = Stage::Kafka { slot: slot_of.clone(), log: log.clone() };
            kafka.runs.push(on_slot(scene, &slot_of, stage).await?);
            must_be(records::tally(scene, &log)?, scene.truth()?.changes, "the log")?;
            produce.runs.push(run(scene, Stage::Produce { log }).await?);
        }
    }
    let lines = [receive, null, produce, kafka];
    Ok(lines.into_iter().filter(|line| !line.runs.is_empty()).collect())
}

/// A store, then its floor, which takes the mapping from the store.
async fn store_lines(scene: &Scene, log: &str, store: Store) -> Result<[Line; 2]> {
    let log = log.to_owned();
    let stored = run(scene, Stage::Store { log: log.clone(), store }).await?;
    must_be(store::held(scene, store).await?, scene.truth()?.held, store.name())?;
    let (floor, floors, name): (_, &[_], _) = match store {
        Store::Redis => (REDIS, &[REDIS], "Kafka to Redis"),
        Store::Elasticsearch => (BULK, &[BULK], "Kafka to Elasticsearch"),
        Store::Delta => (PARQUET, &[PARQUET], "Kafka to Delta"),
    };
    let bare = run(scene, Stage::Bare { log, store }).await?;
    Ok([
        Line { name: floor.to_owned(), floors: &[], runs: vec![bare] },
        Line { name: name.to_owned(), floors, runs: vec![stored] },
    ])
}

/// Runs a stage on a copy of the slot, and checks that it read what was there.
async fn on_slot(scene: &Scene, slot: &str, stage: Stage) -> Result<Outcome> {
    source::copy_slot(scene, slot).await?;
    let outcome = run(scene, stage).await?;
    let decoded = source::drop_slot(scene, slot).await?;
    if decoded < scene.truth()?.transactions {
        return Err(format!("only {decoded} transactions were read from {slot}").into());
    }
    must_be(outcome.tally, scene.truth()?.changes, slot)?;
    Ok(outcome)
}

async fn run(scene: &Scene, stage: Stage) -> Result<Outcome> {
    let name = format!("{stage:?}");
    let outcome = stage::run(scene, stage).await.map_err(|error| format!("{name}: {error}"))?;
    let (seconds, cpu) = (outcome.usage.seconds, outcome.usage.cpu);
    say(&format!("{name}: {seconds:.2} s, {cpu:.2} CPU-s"));
    Ok(outcome)
}

fn must_be<T: PartialEq + std::fmt::Debug>(found: T, expected: T, place: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{place} has {found:?}, not {expected:?}: the figures are worth nothing").into())
}

fn log_of(round: u64) -> String {
    format!("log-{round}")
}

/// What the command line asks for: `drain` and `snapshot` alone; or `source`, `kafka` and names of stores; all if it is empty.
fn wanted() -> Vec<String> {
    env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect()
}

fn is_wanted(name: &str) -> bool {
    let wanted = wanted();
    wanted.is_empty() || wanted.iter().any(|other| other == name)
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable} is no number: {text:?}").into()),
        Err(_) => Ok(default),
    }
}

/// What it is measured on, and what else runs there.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let mut line = format!("{cores} cores of {model}, load average {} before", load.join(" "));
    let busy = load.first().and_then(|load| load.parse::<f64>().ok()).is_none_or(|load| load > 1.0);
    if busy {
        line.push_str(": other work is running, so trust the CPU-seconds and not the rates");
    }
    Ok(line)
}
