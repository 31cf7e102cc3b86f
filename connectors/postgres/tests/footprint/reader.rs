//! A process that reads a source into nothing, and tells its parent of every batch.
//!
//! ```text
//! parent ── Job (JSON) ──▶ stdin ── PostgresSource ──▶ nothing ── Progress (a line a batch) ──▶ stdout
//! ```
//!
//! A line stands for the position record: once the parent has it, the batch is durable, and a
//! reader that was killed goes on from the last one.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Lsn, Phase, Source as _, SourceCursor, Table};
use anabranch_postgres::{PostgresConfig, PostgresSource};
use serde::{Deserialize, Serialize};

/// The argument of a process that is a reader.
pub(crate) const READ: &str = "--read";

/// What to read, and how far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) url: String,
    pub(crate) slot: String,
    pub(crate) publication: String,
    pub(crate) tables: Vec<String>,
    /// What the log knows.
    pub(crate) known: Vec<Arc<Table>>,
    /// Where the log is; `None` for a first start.
    pub(crate) cursor: Option<SourceCursor>,
    /// Read until this may be confirmed.
    pub(crate) until: Lsn,
    /// Milliseconds that each batch takes to become durable.
    pub(crate) pause_ms: u64,
}

/// A durable batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) cursor: SourceCursor,
    pub(crate) events: u64,
    /// Ordinals of the first and the last event.
    pub(crate) ordinals: Option<(u64, u64)>,
    /// The tables that the log knows from now on.
    pub(crate) tables: Vec<Arc<Table>>,
    /// Resident memory, now and at most.
    pub(crate) rss_kib: u64,
    pub(crate) peak_kib: u64,
}

/// A running reader.
pub(crate) struct Reader {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Job {
    /// A first start with `config`, read until the stream begins.
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        Self {
            url: config.url.expose().to_owned(),
            slot: config.slot.clone(),
            publication: config.publication.clone(),
            tables: config.tables.clone(),
            known: Vec::new(),
            cursor: None,
            until: Lsn(0),
            pause_ms: 0,
        }
    }
}

impl Reader {
    pub(crate) fn spawn(job: &Job) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(READ)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), job).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next durable batch; `None` once it has read everything.
    pub(crate) fn next(&mut self) -> Option<Progress> {
        let Some(line) = self.lines.next() else {
            let status = self.child.wait().unwrap();
            assert!(status.success(), "the reader ended with {status}");
            return None;
        };
        Some(serde_json::from_str(&line.unwrap()).unwrap())
    }

    /// Kills it with SIGKILL. What it has written until then counts.
    pub(crate) fn kill(mut self) -> Vec<Progress> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The last line may be torn.
        let rest = self.lines.map_while(|line| serde_json::from_str(&line.ok()?).ok());
        rest.collect()
    }
}

/// What the process of a reader does.
pub(crate) fn read() {
    let job: Job = serde_json::from_reader(std::io::stdin()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(follow(job));
}

async fn follow(job: Job) {
    let mut config = PostgresConfig::new(job.url, job.tables);
    (config.slot, config.publication) = (job.slot, job.publication);
    let mut source = PostgresSource::open(config).await.unwrap();
    source.know(job.known);
    source.seek(job.cursor).await.unwrap();
    loop {
        let (batch, cursor) = source.next().await.unwrap().unwrap();
        let ordinal = |event: &anabranch_core::Event| event.position.ordinal;
        let ordinals = batch.events.first().map(ordinal).zip(batch.events.last().map(ordinal));
        let events = u64::try_from(batch.events.len()).unwrap();
        tokio::time::sleep(Duration::from_millis(job.pause_ms)).await;
        let (rss_kib, peak_kib) = memory();
        let done = cursor.phase == Phase::Streaming && cursor.confirm >= job.until;
        let tables = batch.tables;
        let line = Progress { cursor, events, ordinals, tables, rss_kib, peak_kib };
        drop(batch.events);
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        std::io::stdout().write_all(&text).unwrap();
        source.confirm(line.cursor).await.unwrap();
        if done {
            return;
        }
    }
}

/// Resident memory of this process in KiB, now and at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().trim_end_matches(" kB").trim().parse().unwrap()
    };
    (kib("VmRSS:"), kib("VmHWM:"))
}
