//! One stage in a process of its own, so that its CPU and its memory are its own.
//!
//! ```text
//! parent ── Job (JSON) ──▶ stdin of this same program ── runs ──▶ stdout ── Outcome (JSON) ──▶ parent
//! ```

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::scene::{Scene, Store};
use crate::usage::Usage;
use crate::workload::Tally;
use crate::{Result, floor, receive, snapshot, source, store};

/// The first argument of a process that is a stage.
pub(crate) const STAGE: &str = "--stage";

/// What a process is to measure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// pg_recvlogical reads a slot: the floor of the source.
    Receive {
        /// A copy of the run's slot.
        slot: String,
    },
    /// The source, decoded and encoded, into nothing.
    Null {
        /// A copy of the run's slot.
        slot: String,
    },
    /// psql reads the table with several connections: the floor of the snapshot.
    CopyOut,
    /// The source's first copy, decoded and encoded, into nothing.
    Snapshot {
        /// A slot of its own.
        slot: String,
    },
    /// The same into Kafka.
    SnapshotToKafka {
        /// A slot of its own.
        slot: String,
        /// The log to begin.
        log: String,
    },
    /// The table read in chunks beside the stream, into nothing.
    Chunks {
        /// A slot of its own.
        slot: String,
    },
    /// The source into Kafka.
    Kafka {
        /// A copy of the run's slot.
        slot: String,
        /// The log to write, which has been begun.
        log: String,
    },
    /// A bare producer of the same records: the floor of the log.
    Produce {
        /// The log to read the records from.
        log: String,
    },
    /// The log into a store, by the daemon's own worker.
    Store {
        /// The log to read.
        log: String,
        /// The store.
        store: Store,
    },
    /// The same rows, made ready before and sent as fast as they are taken: the floor of a store.
    Bare {
        /// The log to read the rows from.
        log: String,
        /// The store.
        store: Store,
    },
}

/// What a stage is told.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    scene: Scene,
    stage: Stage,
}

/// What a stage tells.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What went through it.
    pub(crate) tally: Tally,
    /// What that took.
    pub(crate) usage: Usage,
}

/// Runs a stage in a process of its own.
pub(crate) async fn run(scene: &Scene, stage: Stage) -> Result<Outcome> {
    let job = serde_json::to_vec(&Job { scene: scene.clone(), stage })?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(STAGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("a stage has no standard input")?;
    stdin.write_all(&job).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        return Err(format!("the stage ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the process of a stage does.
pub(crate) async fn perform() -> Result<()> {
    // Nothing else runs yet that waiting here could hold up.
    let Job { scene, stage } = serde_json::from_reader(std::io::stdin())?;
    let outcome = match stage {
        Stage::Receive { slot } => receive::run(&scene, &slot).await,
        Stage::Null { slot } => source::null(&scene, &slot).await,
        Stage::CopyOut => snapshot::copy_out(&scene).await,
        Stage::Snapshot { slot } => source::snapshot(&scene, &slot).await,
        Stage::SnapshotToKafka { slot, log } => {
            source::snapshot_to_kafka(&scene, &slot, &log).await
        }
        Stage::Chunks { slot } => source::chunks(&scene, &slot).await,
        Stage::Kafka { slot, log } => source::kafka(&scene, &slot, &log).await,
        Stage::Produce { log } => floor::produce(&scene, &log).await,
        Stage::Store { log, store } => store::run(&scene, &log, store).await,
        Stage::Bare { log, store } => floor::store(&scene, &log, store).await,
    };
    serde_json::to_writer(std::io::stdout(), &outcome?)?;
    Ok(())
}
