//! The replication slot, as the server has it.
//!
//! What a slot means for the way on is decided in [`crate::history`].

use anabranch_core::{Error, ErrorKind, Lsn, Result};
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use crate::error::Context;
use crate::pgoutput::refuse_two_phase;

/// A slot as `pg_replication_slots` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// `pgoutput`; `None` for a physical slot.
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    /// It ends with the session that made it.
    pub(crate) temporary: bool,
    /// It sends transactions when they are prepared; on PostgreSQL 14 pgoutput never does.
    pub(crate) two_phase: bool,
    /// The walsender that uses it.
    pub(crate) active_pid: Option<i32>,
    /// Who that is.
    pub(crate) holder: Option<String>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) wal_status: Option<String>,
    pub(crate) confirmed_flush: Option<Lsn>,
    /// Whether it is the copy of a primary's slot; `None` before PostgreSQL 17.
    pub(crate) synced: Option<bool>,
    /// `invalidation_reason`, from PostgreSQL 17 on; on 16 `wal_removed` or that it conflicts.
    pub(crate) invalidation: Option<String>,
}

// Later releases have more columns; a row as JSON has those there are. On 16 `conflicting` is said of
// any slot that was invalidated, and one whose WAL was removed has no `restart_lsn` any more.
const SLOT: &str = "
    select slot_name::text, plugin::text, database::text, temporary, active_pid, wal_status,
           confirmed_flush_lsn::text,
           two_phase and current_setting('server_version_num')::int >= 150000 as two_phase,
           (select application_name || coalesce(' from ' || host(client_addr), '')
            from pg_stat_activity where pid = active_pid) as holder,
           (to_jsonb(s) ->> 'synced')::bool as synced,
           coalesce(to_jsonb(s) ->> 'invalidation_reason',
                    case when (to_jsonb(s) ->> 'conflicting')::bool then
                      case when restart_lsn is null then 'wal_removed' else 'conflicting' end end)
           as invalidation
    from pg_replication_slots s where slot_name = $1";

impl Slot {
    pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let action = || format!("look at slot {name}");
        let Some(row) = client.query_opt(SLOT, &[&name]).await.doing(action)? else {
            return Ok(None);
        };
        let read = || {
            let confirmed_flush: Option<&str> = row.try_get("confirmed_flush_lsn")?;
            Ok::<_, tokio_postgres::Error>(Self {
                name: row.try_get("slot_name")?,
                plugin: row.try_get("plugin")?,
                database: row.try_get("database")?,
                temporary: row.try_get("temporary")?,
                two_phase: row.try_get("two_phase")?,
                active_pid: row.try_get("active_pid")?,
                holder: row.try_get("holder")?,
                wal_status: row.try_get("wal_status")?,
                confirmed_flush: confirmed_flush.and_then(|lsn| lsn.parse().ok()),
                synced: row.try_get("synced")?,
                invalidation: row.try_get("invalidation")?,
            })
        };
        read().map(Some).doing(action)
    }

    /// Drops the slot, which must not be in use.
    pub(crate) async fn drop(&self, client: &Client) -> Result<()> {
        let sql = format!("select pg_drop_replication_slot({})", escape_literal(&self.name));
        client.batch_execute(&sql).await.doing(|| format!("drop slot {}", self.name))
    }

    /// The error for a slot that somebody else uses; it may be our own predecessor, which the
    /// server has not given up yet.
    pub(crate) fn in_use(&self) -> Option<Error> {
        let pid = self.active_pid?;
        let holder = self.holder.as_deref().unwrap_or("an unknown client");
        Some(
            Error::new(ErrorKind::Transient, format!("use slot {}", self.name))
                .with_source(format!("it is in use by {holder}, process {pid}"))
                .with_help(format!(
                    "wait until the server notices that this client is gone, or stop it, or end it: \
                     SELECT pg_terminate_backend({pid});"
                )),
        )
    }

    /// An error if it is not one that we have made.
    pub(crate) fn check_ours(&self, database: &str) -> Result<()> {
        let here = self.database.as_deref() == Some(database);
        if here && self.plugin.as_deref() == Some("pgoutput") {
            return Ok(());
        }
        let kind = self.plugin.as_deref().unwrap_or("physical");
        let place = self.database.as_deref().unwrap_or("no database");
        Err(Error::new(ErrorKind::Config, format!("use slot {}", self.name))
            .with_source(format!("it is a {kind} slot of {place}, made by somebody else"))
            .with_help("choose another name in [source] slot"))
    }

    /// An error if it sends what may be rolled back yet.
    pub(crate) fn check_single_phase(&self) -> Result<()> {
        if self.two_phase { Err(refuse_two_phase(&self.name, "")) } else { Ok(()) }
    }

    /// Both of them.
    pub(crate) fn check_usable(&self, database: &str) -> Result<()> {
        self.check_ours(database).and_then(|()| self.check_single_phase())
    }

    /// Why it is of no use any more.
    pub(crate) fn invalidated(&self) -> Option<String> {
        let lost = self.wal_status.as_deref() == Some("lost");
        let bound = || lost.then(|| "max_slot_wal_keep_size".to_owned());
        match self.invalidation.as_deref() {
            Some("wal_removed") => Some("wal_removed: max_slot_wal_keep_size".to_owned()),
            Some(reason) => Some(reason.to_owned()),
            None => bound(),
        }
    }
}

/// A size for people.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{} kB", count / 1_000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that is as it should be.
    pub(crate) fn slot() -> Slot {
        Slot {
            name: "s".into(),
            plugin: Some("pgoutput".into()),
            database: Some("db".into()),
            temporary: false,
            two_phase: false,
            active_pid: None,
            holder: None,
            wal_status: Some("reserved".into()),
            confirmed_flush: Some(Lsn(0x10)),
            synced: None,
            invalidation: None,
        }
    }

    #[test]
    fn a_slot_in_use_names_its_user() {
        let used =
            Slot { active_pid: Some(77), holder: Some("psql from 10.0.0.1".into()), ..slot() };
        let error = used.in_use().unwrap();
        assert_eq!(error.kind(), ErrorKind::Transient);
        let report = error.report();
        assert!(report.contains("psql from 10.0.0.1, process 77"), "{report}");
        assert!(report.contains("pg_terminate_backend(77)"), "{report}");
        assert!(slot().in_use().is_none());
    }

    #[test]
    fn an_invalidated_slot_says_why() {
        let status = |status: &str| Slot { wal_status: Some(status.into()), ..slot() };
        let reason = |reason: &str| Slot { invalidation: Some(reason.into()), ..status("lost") };
        assert_eq!(status("unreserved").invalidated(), None);
        assert!(status("lost").invalidated().unwrap().contains("max_slot_wal_keep_size"));
        assert!(reason("wal_removed").invalidated().unwrap().contains("max_slot_wal_keep_size"));
        assert_eq!(reason("idle_timeout").invalidated().unwrap(), "idle_timeout");
    }
}
