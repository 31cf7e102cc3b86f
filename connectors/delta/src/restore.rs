//! RESTORE puts files back, and leaves the `txn` actions, our cursor, where they were.
//!
//! ```text
//! … ours, ours, RESTORE to v ──▶ rewind: every unit's `txn` as of v
//! ```
//!
//! Every commit of ours is made with all commits before it in sight, and the first one after a
//! RESTORE is a rewind. So a RESTORE that nothing was done about yet is one with no commit of
//! ours after it, whoever of our workers made that; and the cursor that fits the files of a
//! version is the one its `txn` actions say, unless such a RESTORE stands between the version
//! and our last commit before it: then it is the one that fits the files of that RESTORE's target.

use anabranch_core::Result;
use deltalake::kernel::Add;

use crate::error::Cause;
use crate::log::Log;
use crate::state::{Origin, TableState, vector_id};
use crate::units::{Transactions, is_ours};

/// Versions that are looked at for the target of a RESTORE to a point in time.
const SEARCH_MAX: usize = 1000;

/// A RESTORE with no commit of ours after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    /// The version that it made.
    pub(crate) version: u64,
    /// The version that it went back to, if it says so.
    pub(crate) target: Option<u64>,
}

/// Looks for a RESTORE after our last commit up to `state`.
///
/// # Errors
///
/// [`anabranch_core::ErrorKind::Lost`] if the log does not reach back to our last commit.
pub(crate) async fn pending(log: &Log, state: &TableState) -> Result<Option<Restored>> {
    if !state.transactions.keys().any(|app_id| is_ours(app_id)) {
        return Ok(None);
    }
    for version in (0..=state.version).rev() {
        let commit = log.read(version).await?.ok_or_else(|| log.gone(version))?;
        match commit.origin() {
            Origin::Ours => return Ok(None),
            Origin::Restore(target) => return Ok(Some(Restored { version, target })),
            Origin::Foreign => {}
        }
    }
    Ok(None)
}

/// The `txn` actions that fit the files that `restored` has put back.
///
/// # Errors
///
/// [`anabranch_core::ErrorKind::Lost`] if the log does not reach back to its target.
pub(crate) async fn transactions(log: &Log, mut restored: Restored) -> Result<Transactions> {
    loop {
        let state = target(log, restored).await?;
        // A target lies before its RESTORE, so this ends.
        match pending(log, &state).await? {
            Some(earlier) => restored = earlier,
            None => return Ok(state.transactions),
        }
    }
}

async fn target(log: &Log, restored: Restored) -> Result<TableState> {
    let load = async |version| log.load(Some(version)).await?.ok_or_else(|| log.gone(version));
    if let Some(target) = restored.target.filter(|target| *target < restored.version) {
        return load(target).await;
    }
    // A RESTORE to a point in time. Equal files are equal rows, so that the newest version with
    // the files that are there now is as good as the one that was meant.
    let now = load(restored.version).await?;
    for version in (0..restored.version).rev().take(SEARCH_MAX) {
        let then = load(version).await?;
        if then.adds.values().map(file).eq(now.adds.values().map(file)) {
            return Ok(then);
        }
    }
    let action = format!("find what Delta table {} was restored to", log.name());
    Err(Cause::Foreign(format!("commit {} is of no version there is", restored.version))
        .while_doing(action))
}

fn file(add: &Add) -> (&str, Option<(&str, Option<i32>)>) {
    (&add.path, vector_id(add.deletion_vector.as_ref()))
}
