//! Reads and writes the log of a table.
//!
//! ```text
//! newest checkpoint ≤ v, then the commits after it ──▶ TableState
//! actions ──▶ commit v + 1, if nobody else has made one
//! ```
//!
//! A commit of ours is made only on top of a state that holds every commit before it. There is
//! no automatic rebase: who finds the version taken looks at what has happened.

use anabranch_core::{Error, ErrorKind, Result};
use deltalake::arrow::json::LineDelimitedWriter;
use deltalake::kernel::{Action, CommitInfo, Transaction};
use deltalake::logstore::get_actions;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use futures::TryStreamExt;
use serde_json::json;

use crate::error::Cause;
use crate::object_reader::ObjectReader;
use crate::state::{Commit, MARK, Replay, TableState};
use crate::storage::{Storage, Written};
use crate::units::Transactions;

/// Commits between two checkpoints: opening a table reads at most this many small files.
pub(crate) const CHECKPOINT_EVERY: u64 = 100;

/// The log of one table.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    storage: Storage,
    /// The table's name, for errors.
    name: String,
}

/// What a commit of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It creates the table.
    Create,
    /// It adds columns.
    Schema,
    /// It holds the rows of a batch, and the cursor after it.
    Batch,
    /// It takes the cursor back to where the rows are since a RESTORE.
    Rewind,
}

/// A checkpoint of one or more files.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Checkpoint {
    version: u64,
    parts: Vec<String>,
}

impl Log {
    pub(crate) fn new(storage: Storage, name: String) -> Self {
        Self { storage, name }
    }

    /// The bytes of the table.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The table's name, for errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The table at version `at`, or at its newest. `None` if there is no table.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] if the log does not reach back to `at`.
    pub(crate) async fn load(&self, at: Option<u64>) -> Result<Option<TableState>> {
        let action = || format!("read the log of Delta table {}", self.name);
        let files = self.storage.log_files().await.map_err(|c| c.while_doing(action()))?;
        let newest = files.iter().filter_map(|name| commit_version(name)).max();
        let checkpoint = newest_checkpoint(&files, at);
        let Some(newest) = newest.max(checkpoint.as_ref().map(|c| c.version)) else {
            return Ok(None);
        };
        let at = at.unwrap_or(newest);
        let first = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.version + 1);
        let mut replay = Replay::default();
        for part in checkpoint.iter().flat_map(|checkpoint| &checkpoint.parts) {
            let actions = self.read_checkpoint(part).await;
            replay.apply(actions.map_err(|cause| cause.while_doing(action()))?);
        }
        for version in first..=at {
            let commit = self.read(version).await?.ok_or_else(|| self.gone(version))?;
            replay.apply(commit.actions);
        }
        replay.finish(at).map(Some).map_err(|cause| cause.while_doing(action()))
    }

    /// The commit `version`, or `None` if the log has none of that number (yet, or any more).
    pub(crate) async fn read(&self, version: u64) -> Result<Option<Commit>> {
        let action = || format!("read commit {version} of Delta table {}", self.name);
        let bytes = self.storage.read_commit(version).await;
        let Some(bytes) = bytes.map_err(|cause| cause.while_doing(action()))? else {
            return Ok(None);
        };
        let actions = get_actions(version, &bytes);
        let actions = actions.map_err(|error| Cause::from(error).while_doing(action()))?;
        Ok(Some(Commit { version, actions }))
    }

    /// Whether commit `version` is still there. Where it is not, what comes after it may be gone
    /// as well, and the number after it is no proof of being the newest.
    pub(crate) async fn holds(&self, version: u64) -> Result<bool> {
        let held = self.storage.has_commit(version).await;
        held.map_err(|cause| {
            cause.while_doing(format!("read the log of Delta table {}", self.name))
        })
    }

    /// Says that commit `version` is not there any more.
    pub(crate) fn gone(&self, version: u64) -> Error {
        Error::new(ErrorKind::Lost, format!("read the history of Delta table {}", self.name))
            .with_source(format!("commit {version} is not in the log any more"))
            .with_help(
                "rebuild the table: stop the sink, move the table's folder away, and reset the \
                 sink's offsets to the earliest (or take a new snapshot)",
            )
    }

    /// Makes `actions` the commit after `state`, and moves `state` on. `now_ms` is the time in
    /// milliseconds since 1970.
    ///
    /// After [`Written::Taken`] and after an error `state` is as before.
    pub(crate) async fn append(
        &self,
        state: &mut TableState,
        actions: Vec<Action>,
        (purpose, now_ms): (Purpose, i64),
    ) -> Result<Written> {
        if !self.holds(state.version).await? {
            return Ok(Written::Taken);
        }
        let version = state.version + 1;
        let written = self.write(version, actions, (purpose, now_ms)).await?;
        match written {
            Ok(commit) => {
                let action = format!("follow the log of Delta table {}", self.name);
                state.advance(commit).map_err(|cause| cause.while_doing(action))?;
                Ok(Written::Durable)
            }
            Err(Taken) => Ok(Written::Taken),
        }
    }

    /// Makes `actions` the first commit of a new table.
    pub(crate) async fn create(&self, actions: Vec<Action>, now_ms: i64) -> Result<Written> {
        match self.write(0, actions, (Purpose::Create, now_ms)).await? {
            Ok(_) => Ok(Written::Durable),
            Err(Taken) => Ok(Written::Taken),
        }
    }

    async fn write(
        &self,
        version: u64,
        mut actions: Vec<Action>,
        (purpose, now_ms): (Purpose, i64),
    ) -> Result<Result<Commit, Taken>> {
        actions.insert(0, Action::CommitInfo(info(purpose, version, now_ms)));
        let action = || format!("commit version {version} of Delta table {}", self.name);
        let content = serialize(&actions).map_err(|cause| cause.while_doing(action()))?;
        let written = self.storage.write_commit(version, content).await;
        Ok(match written.map_err(|cause| cause.while_doing(action()))? {
            Written::Durable => Ok(Commit { version, actions }),
            Written::Taken => Err(Taken),
        })
    }

    /// Writes a checkpoint where one is due. It saves work and holds nothing new, so that a
    /// failure is no failure of the commit.
    pub(crate) async fn checkpoint_if_due(&self, version: u64) {
        if !(version + 1).is_multiple_of(CHECKPOINT_EVERY) {
            return;
        }
        let url = self.storage.url().clone();
        // Expired entries go as the table's properties say: by default after 30 days.
        let made = deltalake::checkpoints::create_checkpoint_from_table_url_and_cleanup(
            url, version, None, None,
        );
        if let Err(error) = Box::pin(made).await {
            tracing::warn!(table = self.name, version, %error, "no checkpoint of a Delta table");
        }
    }

    async fn read_checkpoint(&self, name: &str) -> Result<Vec<Action>, Cause> {
        let path = Storage::log_path(name);
        let reader = ObjectReader::open(self.storage.objects(), path).await?;
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
        let wanted = ["metaData", "protocol", "add", "txn"];
        let roots = builder.schema().fields().iter().enumerate();
        let roots = roots.filter(|(_, field)| wanted.contains(&field.name().as_str()));
        let roots: Vec<usize> = roots.map(|(place, _)| place).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches: Vec<_> = builder.with_projection(mask).build()?.try_collect().await?;
        // A row of a checkpoint is an action in columns: as JSON it is what a commit holds.
        let mut lines = LineDelimitedWriter::new(Vec::new());
        for batch in &batches {
            lines.write(batch)?;
        }
        lines.finish()?;
        let lines = lines.into_inner();
        let lines = lines.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty() && *line != b"{}")
            .map(|line| Ok(serde_json::from_slice(line)?))
            .collect()
    }
}

/// Somebody else has made a commit of that version.
struct Taken;

/// `txn` actions.
pub(crate) fn transaction_actions(
    transactions: Transactions,
    now_ms: i64,
) -> impl Iterator<Item = Action> {
    transactions.into_iter().map(move |(app_id, version)| {
        Action::Txn(Transaction { app_id, version, last_updated: Some(now_ms) })
    })
}

fn serialize(actions: &[Action]) -> Result<Vec<u8>, Cause> {
    let mut content = Vec::new();
    for action in actions {
        serde_json::to_writer(&mut content, action)?;
        content.push(b'\n');
    }
    Ok(content)
}

fn info(purpose: Purpose, version: u64, now_ms: i64) -> CommitInfo {
    let (operation, purpose) = match purpose {
        Purpose::Create => ("CREATE TABLE", "create"),
        Purpose::Schema => ("ADD COLUMNS", "schema"),
        Purpose::Batch => ("MERGE", "batch"),
        Purpose::Rewind => ("WRITE", "rewind"),
    };
    CommitInfo {
        timestamp: Some(now_ms),
        operation: Some(operation.to_owned()),
        operation_parameters: Some(std::collections::HashMap::new()),
        read_version: version.checked_sub(1),
        is_blind_append: Some(false),
        engine_info: Some(concat!("anabranch/", env!("CARGO_PKG_VERSION")).to_owned()),
        info: [(MARK.to_owned(), json!({"format": 1, "purpose": purpose}))].into(),
        ..CommitInfo::default()
    }
}

fn commit_version(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}

/// The newest checkpoint of which every part is there, at or below `at`.
fn newest_checkpoint(files: &[String], at: Option<u64>) -> Option<Checkpoint> {
    let mut found: Vec<Checkpoint> = Vec::new();
    for name in files {
        let Some((version, part)) = checkpoint_name(name) else { continue };
        let is_wanted = at.is_none_or(|at| version <= at);
        match part {
            None if is_wanted => found.push(Checkpoint { version, parts: vec![name.clone()] }),
            Some((1, count)) if is_wanted => {
                let part = |n| format!("{version:020}.checkpoint.{n:010}.{count:010}.parquet");
                let parts: Vec<String> = (1..=count).map(part).collect();
                if parts.iter().all(|part| files.contains(part)) {
                    found.push(Checkpoint { version, parts });
                }
            }
            None | Some(_) => {}
        }
    }
    found.into_iter().max()
}

/// The version of a checkpoint file, and which part of how many it is, if there are parts.
fn checkpoint_name(name: &str) -> Option<(u64, Option<(u32, u32)>)> {
    let mut words = name.strip_suffix(".parquet")?.split('.');
    let version = words.next().filter(|digits| digits.len() == 20)?.parse().ok()?;
    if words.next() != Some("checkpoint") {
        return None;
    }
    match (words.next(), words.next(), words.next()) {
        (None, None, None) => Some((version, None)),
        (Some(part), Some(count), None) => {
            Some((version, Some((part.parse().ok()?, count.parse().ok()?))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_checkpoint_is_taken() {
        let names = [
            "00000000000000000005.json",
            "00000000000000000009.checkpoint.parquet",
            "00000000000000000019.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000019.checkpoint.0000000002.0000000002.parquet",
            "00000000000000000029.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000039.checkpoint.0f0a.parquet",
            "_last_checkpoint",
        ];
        let files: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let newest = |at| newest_checkpoint(&files, at).map(|c| (c.version, c.parts.len()));
        assert_eq!(newest(None), Some((19, 2)));
        assert_eq!(newest(Some(18)), Some((9, 1)));
        assert_eq!(newest(Some(8)), None);
        assert_eq!(commit_version(names[0]), Some(5));
        assert!(names[1..].iter().all(|name| commit_version(name).is_none()));
    }
}
