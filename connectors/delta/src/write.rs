//! Prepares a commit: writes what it will name, and changes nothing that a reader sees.
//!
//! ```text
//! plan ─▶ a data file for each partition · one file with the vectors of all touched files
//!      ─▶ Add, Remove + Add, or Remove alone for a file of which nothing is left
//! ```

use anabranch_core::Batch;
use deltalake::kernel::Action;
use uuid::Uuid;

use crate::data_file;
use crate::deletion_vector::VectorFile;
use crate::error::Cause;
use crate::plan::{bounds, plan};
use crate::row_index::{Change, RowIndex};
use crate::rows;
use crate::state::TableState;
use crate::storage::Storage;

/// A commit that is ready to be made.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) actions: Vec<Action>,
    pub(crate) change: Change,
}

/// Writes the files of a commit of `batch` on top of `state`. They are durable afterwards.
pub(crate) async fn prepare(
    storage: &Storage,
    state: &TableState,
    (index, batch): (RowIndex, &Batch),
    now_ms: i64,
) -> Result<(RowIndex, Prepared), Cause> {
    let last = rows::last_changes(batch, &state.schema)?;
    let hashes = index.hasher().hash(&last.rows)?;
    let (index, hits) = index.find(hashes.clone()).await?;
    let below = bounds(&batch.delete_below);
    let mut plan = plan(&last.meta, &hits, &below);
    for bound in &below {
        let gone = index.rows_below(storage, state, (*bound.0, *bound.1)).await?;
        for (slot, rows) in gone {
            *plan.dead.entry(slot).or_default() |= rows;
        }
    }
    let mut change = Change {
        keys: hashes.into_iter().zip(last.meta.iter().map(|m| m.version.to_i64())).collect(),
        superseded: plan.superseded,
        is_bulk: !below.is_empty(),
        ..Change::default()
    };
    let mut actions = Vec::new();
    let mut written = Vec::new();
    let mut vectors = VectorFile::new(Uuid::new_v4());
    let mut has_vectors = false;
    for (slot, newly) in plan.dead {
        let Some(file) = index.file(slot) else { continue };
        let Some(add) = state.adds.get(&file.path) else { continue };
        let dead = &file.dead | newly;
        actions.push(Action::Remove(data_file::removal(add, now_ms)));
        if dead.len() < file.rows {
            has_vectors = true;
            actions.push(Action::Add(data_file::with_vector(add, vectors.push(&dead)?)?));
        }
        change.dead.insert(slot, dead);
    }
    if has_vectors {
        let (path, bytes) = vectors.finish();
        storage.write(&path, bytes).await?;
        written.push(path);
    }
    for places in plan.writes.into_values() {
        let rows = rows::pick(&last.rows, places.iter().copied())?;
        let add = data_file::write(storage, &rows).await?;
        written.push(add.path.clone());
        actions.push(Action::Add(add.clone()));
        change.added.push((add, places));
    }
    if !written.is_empty() {
        storage.sync(written).await?;
    }
    Ok((index, Prepared { actions, change }))
}
