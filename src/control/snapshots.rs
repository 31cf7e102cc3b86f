//! Snapshots of single tables that people ask for.

use anabranch_core::{Error, ErrorKind, Result};
use anabranch_postgres::{SnapshotRequest, SnapshotScope};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Control, unreachable};

/// What is to become of a snapshot that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotChange {
    /// It stands still.
    Pause,
    /// It goes on.
    Resume,
    /// It ends.
    Cancel,
}

impl Control {
    /// The last request of each table that is read through `slot`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] if the database does not answer.
    pub async fn snapshots(&self, slot: &str) -> Result<Vec<SnapshotRequest>> {
        let query = "SELECT id::text, table_name, condition, keys::text, paused, cancelled
                     FROM anabranch.snapshots WHERE slot = $1 ORDER BY asked_at, table_name";
        let rows = self.client.query(query, &[&slot]).await;
        let rows = rows.map_err(|error| unreachable("read the control schema", error))?;
        Ok(rows.iter().filter_map(request).collect())
    }

    /// Asks for a snapshot; one of the same table that was asked for before counts no more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] if the database does not answer.
    pub async fn ask_snapshot(&self, slot: &str, request: &SnapshotRequest) -> Result<()> {
        let (condition, keys) = match &request.scope {
            SnapshotScope::Table => (None, None),
            SnapshotScope::Where(condition) => (Some(condition), None),
            SnapshotScope::Keys(keys) => (None, Some(serde_json::to_string(keys))),
        };
        let keys = keys
            .transpose()
            .map_err(|error| Error::new(ErrorKind::Bug, "write down keys").with_source(error))?;
        let statement = "
            INSERT INTO anabranch.snapshots (slot, table_name, id, condition, keys)
            VALUES ($1, $2, $3::text::uuid, $4, $5::text::jsonb)
            ON CONFLICT (slot, table_name) DO UPDATE SET id = excluded.id,
                condition = excluded.condition, keys = excluded.keys, paused = false,
                cancelled = false, asked_by = current_user, asked_at = now()";
        let id = request.id.to_string();
        let values: [&(dyn ToSql + Sync); 5] = [&slot, &request.table, &id, &condition, &keys];
        let done = self.client.execute(statement, &values).await;
        done.map(drop).map_err(|error| unreachable("write to the control schema", error))
    }

    /// Changes the snapshots `ids`; returns their tables.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] if the database does not answer.
    pub async fn change_snapshots(
        &self,
        slot: &str,
        ids: &[Uuid],
        change: SnapshotChange,
    ) -> Result<Vec<String>> {
        let set = match change {
            SnapshotChange::Pause => "paused = true",
            SnapshotChange::Resume => "paused = false",
            SnapshotChange::Cancel => "cancelled = true",
        };
        let statement = format!(
            "UPDATE anabranch.snapshots SET {set}
             WHERE slot = $1 AND id::text = ANY($2) RETURNING table_name"
        );
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let rows = self.client.query(&statement, &[&slot, &ids]).await;
        let rows = rows.map_err(|error| unreachable("write to the control schema", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// What another release has written, or a person, is no request of ours.
fn request(row: &Row) -> Option<SnapshotRequest> {
    let id: String = row.get(0);
    let keys: Option<String> = row.get(3);
    let keys = keys.map(|keys| serde_json::from_str(&keys).ok());
    let scope = match (row.get::<_, Option<String>>(2), keys) {
        (Some(condition), _) => SnapshotScope::Where(condition),
        (None, Some(keys)) => SnapshotScope::Keys(keys?),
        (None, None) => SnapshotScope::Table,
    };
    let (table, paused, cancelled) = (row.get(1), row.get(4), row.get(5));
    Some(SnapshotRequest { id: id.parse().ok()?, table, scope, paused, cancelled })
}
