//! Looks up the values that the stream left out, so that every upsert in the log is complete.
//!
//! ```text
//! drafts with missing values ── keys ──▶ one read-only snapshot that sees their transactions
//!                          ◀── values ──     then: hold until what it saw is flushed
//! ```
//!
//! The invariant: a value is as new as its event or newer, and if newer, a newer event is certain to
//! follow. The snapshot sees every transaction of the drafts, so no value is older; the flush
//! position has reached what had been inserted after the read, so no crash of the server takes
//! back what was seen. Where that cannot be kept (a value of another type, a row that is gone while
//! no delete is certain to follow) the event is marked, and a repair is asked for with it.

mod lookup;
mod repairs;
mod settle;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Change, Error, ErrorKind, Lsn, Repair, RepairReason, Result};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::catalog::{Leaves, Relation};
use crate::config::PostgresConfig;
use crate::error::Context;
use crate::locks;
use crate::pace::Pace;
use crate::pgoutput::Value;
use crate::row::RowWriter;
use crate::server::{Server, names};
use crate::transaction::{Draft, Merged, Missing};
use crate::visibility::{Snapshot, end_of_records};
use crate::wait::Wait;
use lookup::{Current, LookedUp, look_up};
pub(crate) use lookup::{current_names, lock};
use repairs::Repairs;
use settle::{Fates, settle};

/// How long the server may take to flush by itself before it is asked to.
const FLUSH_WAIT: Duration = Duration::from_millis(50);

/// Fills in what is missing.
#[derive(Debug)]
pub(crate) struct Reread {
    application_name: String,
    publications: Vec<String>,
    writer: RowWriter,
    pace: Pace,
    /// The highest insert LSN that a re-read has seen.
    pub(crate) seen: Lsn,
}

/// What a re-read brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) rows: usize,
    /// Time spent so that the server is not asked for more than its bound.
    pub(crate) waited: Duration,
    pub(crate) values: usize,
    pub(crate) bytes: usize,
    /// Events that say of a value only that it is unchanged, and that need a repair.
    pub(crate) marked: usize,
    pub(crate) repairs: Vec<Repair>,
}

/// A row to look up.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) relation: Arc<Relation>,
    /// The texts of its key columns, in the order of the key.
    pub(crate) key: Vec<Bytes>,
    /// The columns whose values are wanted.
    pub(crate) attnums: BTreeSet<i16>,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The values of the columns that are as they were; a dropped column is null.
    Row(HashMap<i16, Current>),
    /// The row is gone, or its table is.
    Gone,
    /// It was not found, or cannot be, and no delete is certain to follow.
    Unknown(RepairReason),
}

/// Rows by table and encoded key, so that one that changed often is looked up once.
pub(crate) type WantedRows = HashMap<(u32, Bytes), Wanted>;
/// What was found, by the same.
pub(crate) type FoundRows = HashMap<(u32, Bytes), Found>;

impl Reread {
    pub(crate) fn new(config: &PostgresConfig, writer: RowWriter, seen: Lsn) -> Self {
        let application_name = config.application_name.clone();
        let publications = config.publications();
        let pace = Pace::new(config.reread_rows_per_second_max);
        Self { application_name, publications, writer, pace, seen }
    }

    /// Fills in everything that is missing in `drafts`, on a session of its own. `leaves` are the
    /// partitions that changes came from.
    pub(crate) async fn fill(
        &mut self,
        client: &Client,
        drafts: &mut [Draft],
        leaves: &mut Leaves,
    ) -> Result<Outcome> {
        if let Some(first) = drafts.first() {
            leaves.forget_before(first.event.position.commit_lsn);
        }
        let (wanted, xids) = wanted(drafts);
        if wanted.is_empty() {
            return Ok(Outcome::default());
        }
        let rows = wanted.len();
        let (found, fates, waited) = self.read_paced(client, wanted, &xids, leaves).await?;
        let flushed = wait_for_flush(client).await?;
        self.seen = self.seen.max(flushed);
        for (oid, fate) in &fates {
            if let Some(members) = &fate.members {
                leaves.gone(*oid, members, flushed);
            }
        }
        let mut outcome = Outcome { rows, waited, ..Outcome::default() };
        let mut repairs = Repairs::default();
        for draft in drafts {
            if let Some(missing) = draft.missing.take()
                && let Some(reason) = self.complete(draft, &missing, &found, &mut outcome)?
                && let Change::Row { key, .. } = &draft.event.change
            {
                repairs.add(&missing.relation, key, reason);
            }
        }
        (outcome.marked, outcome.repairs) = repairs.finish();
        Ok(outcome)
    }

    /// Reads the rows, no faster than is allowed: each slice in a snapshot of its own, so that none
    /// is held during a wait. What the invariant asks of a snapshot holds for each.
    async fn read_paced(
        &mut self,
        client: &Client,
        wanted: WantedRows,
        xids: &BTreeSet<u32>,
        leaves: &Leaves,
    ) -> Result<(FoundRows, Fates, Duration)> {
        let mut found = FoundRows::with_capacity(wanted.len());
        let mut fates = Fates::new();
        let mut waited = Duration::ZERO;
        let mut rest = wanted.into_iter();
        loop {
            let slice: WantedRows = rest.by_ref().take(self.pace.slice_rows()).collect();
            if slice.is_empty() {
                return Ok((found, fates, waited));
            }
            let wait = self.pace.take(slice.len(), Instant::now());
            tokio::time::sleep(wait).await;
            waited += wait;
            let (found_now, fates_now) = self.read(client, &slice, xids, leaves).await?;
            found.extend(found_now);
            fates.extend(fates_now);
        }
    }

    /// Reads all rows in one snapshot that sees `xids`.
    async fn read(
        &self,
        client: &Client,
        wanted: &WantedRows,
        xids: &BTreeSet<u32>,
        leaves: &Leaves,
    ) -> Result<(FoundRows, Fates)> {
        // Tables whose keys cannot even be asked for.
        let mut unfit = BTreeSet::new();
        // Each is told of by itself.
        let (mut for_locks, mut for_commits) = (Wait::begin(), Wait::begin());
        let oids: BTreeSet<u32> = wanted.keys().map(|(oid, _)| *oid).collect();
        loop {
            let names = current_names(client, &oids).await?;
            // The locks come before the snapshot: a rewrite of the table that comes in between
            // would make it look empty.
            if let Some(error) = lock(client, &names).await? {
                finish(client, "rollback").await?;
                locks::pause(&mut for_locks, &error).await;
                continue;
            }
            let snapshot = Snapshot::take(client).await?;
            match xids.iter().find(|xid| !snapshot.sees(**xid)) {
                None => match look_up(client, &names, wanted, &unfit).await? {
                    LookedUp::Rows(mut found) => {
                        let publications = &self.publications;
                        let fates = settle(client, &mut found, leaves, publications).await?;
                        finish(client, "commit").await?;
                        return Ok((found, fates));
                    }
                    LookedUp::Unfit(oid) => {
                        unfit.insert(oid);
                        finish(client, "rollback").await?;
                        continue;
                    }
                },
                Some(xid) if for_commits.is_to_be_told() => {
                    tracing::warn!(xid, "a committed transaction is not visible yet");
                    self.refuse_deadlock(client).await?;
                }
                Some(_) => {}
            }
            finish(client, "rollback").await?;
            for_commits.pause().await;
        }
    }

    /// A commit that waits for us as its synchronous standby becomes visible only after we
    /// confirmed it, which we do only after we have seen it.
    async fn refuse_deadlock(&self, client: &Client) -> Result<()> {
        let server = Server::read(client).await?;
        if names(&server.synchronous_standby_names, &self.application_name) {
            server.require(&self.application_name)?;
        }
        Ok(())
    }

    /// Fills in one draft; returns why a value stays out although no newer change will bring it.
    fn complete(
        &mut self,
        draft: &mut Draft,
        missing: &Missing,
        found: &FoundRows,
        outcome: &mut Outcome,
    ) -> Result<Option<RepairReason>> {
        let relation = &missing.relation;
        let Change::Row { key, after, unchanged, .. } = &mut draft.event.change else {
            return Ok(None);
        };
        let (row, unknown) = match found.get(&(relation.table.oid, key.clone())) {
            Some(Found::Row(row)) => (Some(row), None),
            Some(Found::Unknown(reason)) => (None, Some(*reason)),
            Some(Found::Gone) | None => (None, None),
        };
        let mut retyped = None;
        let mut current: HashMap<usize, Option<&Bytes>> = HashMap::new();
        for place in &missing.places {
            let attnum = relation.table.columns.get(*place).map(|column| column.attnum);
            let now = attnum.and_then(|attnum| row?.get(&attnum).map(|now| (attnum, now)));
            let text = match now {
                Some((attnum, Current::Value { type_oid, typmod, text })) => {
                    if !relation.has_type(attnum, *type_oid, Some(*typmod)) {
                        retyped = Some(RepairReason::TypeChanged);
                        unchanged.extend(name(relation, *place));
                        continue;
                    }
                    text.as_ref()
                }
                Some((_, Current::Dropped)) => None,
                None => {
                    unchanged.extend(name(relation, *place));
                    continue;
                }
            };
            if let Some(text) = text {
                outcome.values += 1;
                outcome.bytes += text.len();
            }
            current.insert(*place, text);
        }
        let merged = Merged { new: &missing.new, old: missing.old.as_ref(), relation };
        let read: Vec<Option<Cow<'_, [u8]>>> = merged
            .values()
            .enumerate()
            .map(|(place, value)| match (value, current.get(&place)) {
                (Value::Unchanged, Some(Some(text))) => Some(relation.mask(place, text)),
                (_, _) => None,
            })
            .collect();
        let filled = merged.values().zip(&read).map(|(value, read)| match value {
            Value::Unchanged => read.as_deref().map_or(Value::Null, Value::Text),
            sent @ (Value::Null | Value::Text(_) | Value::Binary(_)) => sent,
        });
        let values: Vec<Value<'_>> = filled.collect();
        let row = self.writer.row(&relation.layout, values.iter().copied());
        let value = |place: usize| values.get(place).copied();
        *after = Some(row.map_err(|bad| bad.error(&relation.layout, value))?);
        Ok(unknown.or(retyped))
    }
}

fn name(relation: &Relation, place: usize) -> Option<String> {
    relation.table.columns.get(place).map(|column| column.name.clone())
}

/// The rows to look up, and the transactions that must be visible.
fn wanted(drafts: &[Draft]) -> (WantedRows, BTreeSet<u32>) {
    let mut rows = WantedRows::new();
    let mut xids = BTreeSet::new();
    for draft in drafts {
        let (Some(missing), Change::Row { key, .. }) = (&draft.missing, &draft.event.change) else {
            continue;
        };
        xids.insert(draft.event.transaction.xid);
        let relation = &missing.relation;
        let row = rows.entry((relation.table.oid, key.clone())).or_insert_with(|| Wanted {
            relation: Arc::clone(relation),
            key: missing.key.clone(),
            attnums: BTreeSet::new(),
        });
        // The newest version of the table knows the most columns.
        row.relation = Arc::clone(relation);
        let columns = missing.places.iter().filter_map(|p| relation.table.columns.get(*p));
        row.attnums.extend(columns.map(|column| column.attnum));
    }
    (rows, xids)
}

async fn finish(client: &Client, how: &str) -> Result<()> {
    client.batch_execute(how).await.doing(|| "end a re-read".to_owned())
}

/// Waits until everything that a snapshot may have seen is flushed; returns how far that is.
pub(crate) async fn wait_for_flush(client: &Client) -> Result<Lsn> {
    let action = || "wait until the server has flushed its WAL".to_owned();
    let position = |column: &'static str| async move {
        let query = format!(
            "select {column}::text, setting::int8 from pg_settings where name = 'wal_segment_size'"
        );
        let row = client.query_one(&query, &[]).await.doing(action)?;
        let lsn: &str = row.try_get(0).doing(action)?;
        let lsn: Lsn =
            lsn.parse().map_err(|error| Error::new(ErrorKind::Bug, action()).with_source(error))?;
        Ok::<_, Error>((lsn, row.try_get::<_, i64>(1).doing(action)?.unsigned_abs()))
    };
    let (inserted, segment_bytes) = position("pg_current_wal_insert_lsn()").await?;
    let target = end_of_records(inserted, segment_bytes);
    let mut wait = Wait::begin();
    let mut asked = false;
    while position("pg_current_wal_flush_lsn()").await?.0 < target {
        if !asked && wait.elapsed() > FLUSH_WAIT {
            // Without a commit the tail of the WAL may stay where it is for a while.
            asked = true;
            let sql = "select pg_logical_emit_message(true, 'anabranch', 'flush')";
            client.batch_execute(sql).await.doing(action)?;
        }
        wait.pause().await;
    }
    Ok(target)
}
