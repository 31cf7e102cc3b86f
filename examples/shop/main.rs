//! The sample shop, live: what `make demo` runs.
//!
//! ```text
//! schema.sql ─▶ PostgreSQL ─▶ daemon ─▶ Elasticsearch, Redis, Delta
//!                  ▲            ▲ ▲             │
//! traffic, probes ─┘   SIGKILL ─┘ └─ again      ├─▶ probes: when is a change visible?
//!                                               └─▶ verdict: does every row equal the source?
//! ```
//!
//! The daemon is the real binary, a process of its own. Whatever happens (Ctrl-C, a panic) it is
//! ended, and everything that was made for it is removed, unless `KEEP` is set.

mod chart;
mod keep;
mod live;
mod probes;
mod progress;
mod readers;
mod shop;
mod support;
mod traffic;
mod verdict;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use progress::Progress;
use support::world::World;

/// Any table of any store differs from the source.
const DIFFERENT: u8 = 1;
/// As a shell says it of SIGINT.
const INTERRUPTED: u8 = 130;

/// What goes wrong in a demo ends it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => demo().await,
        Some("stop") => keep::stop_all().await.map(|()| ExitCode::SUCCESS),
        Some(other) => Err(format!("there is no {other:?}; the one argument is \"stop\"").into()),
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("demo: {error}"));
        ExitCode::from(DIFFERENT)
    })
}

/// A line for the reader. Who has gone away misses it.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

async fn demo() -> Result<ExitCode, Failure> {
    // Registered first, so that Ctrl-C finds somebody who cleans up.
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut world = shop::world().await?;
    let ran = tokio::select! {
        biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ran = run(&mut world) => Some(ran),
    };
    let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty());
    match ran {
        Some(_) if keep => keep::leave(world).await?,
        Some(_) => remove(world, "Removing what the demo made (KEEP=1 leaves it) ..."),
        None => remove(world, "Interrupted: removing what the demo made ..."),
    }
    match ran {
        None => Ok(ExitCode::from(INTERRUPTED)),
        Some(is_equal) => Ok(if is_equal? { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) }),
    }
}

fn remove(world: World, why: &str) {
    say(why);
    drop(world);
}

/// The whole show; whether everything is equal in the end.
async fn run(world: &mut World) -> Result<bool, Failure> {
    let mut progress = Progress::new();
    progress.step("loading the shop");
    shop::load(world).await?;
    progress.step("the daemon copies it into the log and from there into three stores");
    world.start();
    live::settle(world, &mut progress, Duration::from_secs(120)).await?;
    let seen = live::live(world, &mut progress).await?;
    progress.step("comparing every row of every table in every store with PostgreSQL");
    let verdict = verdict::compare(world, &seen, &mut progress).await?;
    progress.finish();
    if let Some(file) = std::env::var_os("CHART") {
        std::fs::write(file, seen.chart.svg())?;
    }
    say(&verdict.to_string());
    Ok(verdict.is_equal())
}
