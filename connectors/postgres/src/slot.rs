//! The replication slot, and how a source goes on: the table of causes of the design.
//!
//! ```text
//! position record of the log ─┐
//! slot on the server ─────────┼─▶ decide ─▶ begin · begin again · stream · Lost
//! identity of the server ─────┘
//! ```
//!
//! The rule behind it: the slot is at or behind the log, on the same server. Anything else means
//! that history is missing, and is never papered over.

use anabranch_core::{Epoch, Error, ErrorKind, Lsn, Phase, Result, SourceCursor};
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use crate::error::{Context, lost};
use crate::pgwire::Identity;

/// A slot as `pg_replication_slots` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// `pgoutput`; `None` for a physical slot.
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    /// The walsender that uses it.
    pub(crate) active_pid: Option<i32>,
    /// Who that is.
    pub(crate) holder: Option<String>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) wal_status: Option<String>,
    pub(crate) confirmed_flush: Option<Lsn>,
}

/// How a source goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Announce this history, then drop the slot if there is one, create it, and copy.
    Begin { epoch: Epoch },
    /// Go on in the stream.
    Stream,
}

const SLOT: &str = "
    select slot_name::text, plugin::text, database::text, active_pid, wal_status,
           confirmed_flush_lsn::text,
           (select application_name || coalesce(' from ' || host(client_addr), '')
            from pg_stat_activity where pid = active_pid) as holder
    from pg_replication_slots where slot_name = $1";

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
                active_pid: row.try_get("active_pid")?,
                holder: row.try_get("holder")?,
                wal_status: row.try_get("wal_status")?,
                confirmed_flush: confirmed_flush.and_then(|lsn| lsn.parse().ok()),
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
                .with_help("stop that client, or wait until the server notices that it is gone"),
        )
    }
}

/// Decides how to go on. `database` is the one we are connected to.
pub(crate) fn decide(
    cursor: Option<&SourceCursor>,
    slot: Option<&Slot>,
    server: Identity,
    (name, database): (&str, &str),
) -> Result<Plan> {
    let go_on = || format!("go on with slot {name}");
    let Some(cursor) = cursor else {
        return match slot {
            None => Ok(Plan::Begin { epoch: Epoch(0) }),
            Some(_) => Err(lost(
                format!("begin with slot {name}"),
                "the slot exists and the log has no position record: the log was wiped, or the \
                 slot belongs to somebody else",
            )),
        };
    };
    if cursor.slot != name {
        let why = format!("the log was written from slot {}", cursor.slot);
        return Err(Error::new(ErrorKind::Config, go_on())
            .with_source(why)
            .with_help("set [source] slot back, or run `anabranch teardown` to begin anew"));
    }
    if cursor.phase != Phase::Streaming {
        slot.map_or(Ok(()), |slot| check_ours(slot, database))?;
        return next_epoch(cursor).map(|epoch| Plan::Begin { epoch });
    }
    check_server(cursor, server).map_err(|why| lost(go_on(), why))?;
    let Some(slot) = slot else {
        let gap = format!(
            "it does not exist on the server, and {} of WAL were written since the log's position \
             {}",
            bytes(server.flushed.0.saturating_sub(cursor.confirm.0)),
            cursor.confirm
        );
        return Err(lost(go_on(), gap));
    };
    check_ours(slot, database)?;
    check_slot(cursor, slot).map_err(|why| lost(go_on(), why))?;
    Ok(Plan::Stream)
}

/// What a decision about a slot is worth that was in use when it was first looked at: whoever read
/// it may have written to the log after we read that, so that it is our view that is old.
pub(crate) fn settle(decision: Result<Plan>, was_active: bool, name: &str) -> Result<Plan> {
    match decision {
        Err(error) if was_active && error.kind() == ErrorKind::Lost => {
            let action = format!("take over slot {name}");
            let why = "another instance was still writing: reading the log again";
            Err(Error::new(ErrorKind::Transient, action).with_source(why))
        }
        Ok(_) | Err(_) => decision,
    }
}

/// The epoch of a history that begins again.
fn next_epoch(cursor: &SourceCursor) -> Result<Epoch> {
    match (cursor.epoch.next(), cursor.phase) {
        (Some(epoch), _) => Ok(epoch),
        // Nothing was written in the last one yet, so it may be begun once more.
        (None, Phase::Starting) => Ok(cursor.epoch),
        (None, Phase::Snapshot | Phase::Streaming) => Err(lost(
            "begin another history",
            "256 of them have begun in this log, and its versions can tell no more apart",
        )),
    }
}

/// Whether the log was written from this server and history.
fn check_server(cursor: &SourceCursor, server: Identity) -> Result<(), String> {
    if cursor.system_id != server.system_id {
        return Err(format!(
            "the log was written from system {}, and this is system {}",
            cursor.system_id, server.system_id
        ));
    }
    if cursor.timeline != server.timeline {
        let what = if server.timeline < cursor.timeline {
            "this is a former primary, or was restored"
        } else {
            "the server was promoted or restored"
        };
        return Err(format!(
            "the log was written on timeline {}, and this is timeline {}: {what}",
            cursor.timeline, server.timeline
        ));
    }
    let ahead = cursor.confirm.max(cursor.seen);
    if ahead > server.flushed {
        return Err(format!(
            "the log is at {ahead}, {} ahead of the server, which ends at {}: it was restored",
            bytes(ahead.0 - server.flushed.0),
            server.flushed
        ));
    }
    Ok(())
}

fn check_ours(slot: &Slot, database: &str) -> Result<()> {
    let here = slot.database.as_deref() == Some(database);
    if here && slot.plugin.as_deref() == Some("pgoutput") {
        return Ok(());
    }
    let kind = slot.plugin.as_deref().unwrap_or("physical");
    let place = slot.database.as_deref().unwrap_or("no database");
    Err(Error::new(ErrorKind::Config, format!("use slot {}", slot.name))
        .with_source(format!("it is a {kind} slot of {place}, made by somebody else"))
        .with_help("choose another name in [source] slot"))
}

/// Whether the slot still has everything after the log's position.
fn check_slot(cursor: &SourceCursor, slot: &Slot) -> Result<(), String> {
    if slot.wal_status.as_deref() == Some("lost") {
        return Err("the server invalidated it and removed its WAL (max_slot_wal_keep_size)".into());
    }
    let Some(confirmed) = slot.confirmed_flush else {
        return Err("it has no position".into());
    };
    if confirmed > cursor.confirm {
        return Err(format!(
            "it is at {confirmed}, {} beyond the log's position {}: it was advanced, recreated or \
             read by somebody else, or the log was restored",
            bytes(confirmed.0 - cursor.confirm.0),
            cursor.confirm
        ));
    }
    Ok(())
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
mod tests {
    use super::*;
    use crate::batch::tests::cursor;
    use anabranch_core::Split;
    use std::collections::BTreeMap;

    const SERVER: Identity = Identity { system_id: 1, timeline: 1, flushed: Lsn(0x1000) };

    fn slot() -> Slot {
        Slot {
            name: "s".into(),
            plugin: Some("pgoutput".into()),
            database: Some("db".into()),
            active_pid: None,
            holder: None,
            wal_status: Some("reserved".into()),
            confirmed_flush: Some(Lsn(0x10)),
        }
    }

    fn decided(cursor: Option<SourceCursor>, slot: Option<Slot>) -> Result<Plan> {
        decide(cursor.as_ref(), slot.as_ref(), SERVER, ("s", "db"))
    }

    #[test]
    fn a_first_start_and_its_repetitions_begin() {
        let at = |phase| Some(SourceCursor { phase, ..cursor() });
        assert_eq!(decided(None, None).unwrap(), Plan::Begin { epoch: Epoch(0) });
        for slot in [None, Some(slot())] {
            for phase in [Phase::Starting, Phase::Snapshot] {
                let plan = decided(at(phase), slot.clone()).unwrap();
                assert_eq!(plan, Plan::Begin { epoch: Epoch(1) });
            }
        }
    }

    #[test]
    fn slot_and_log_that_agree_go_on() {
        assert_eq!(decided(Some(cursor()), Some(slot())).unwrap(), Plan::Stream);
        let split = Split { commit_lsn: Lsn(0x800), ordinal: 3, parts: BTreeMap::new() };
        let within = SourceCursor { split: Some(split), ..cursor() };
        assert_eq!(decided(Some(within), Some(slot())).unwrap(), Plan::Stream);
        let behind = Slot { confirmed_flush: Some(Lsn(0x8)), ..slot() };
        assert_eq!(decided(Some(cursor()), Some(behind)).unwrap(), Plan::Stream);
    }

    #[test]
    fn missing_history_is_lost_and_named() {
        let slot_at = |lsn| Some(Slot { confirmed_flush: Some(Lsn(lsn)), ..slot() });
        let cases = [
            (None, Some(slot()), "wiped"),
            (Some(cursor()), None, "4080 bytes"),
            (Some(cursor()), slot_at(0x20), "16 bytes beyond"),
            (
                Some(cursor()),
                Some(Slot { wal_status: Some("lost".into()), ..slot() }),
                "max_slot_wal_keep_size",
            ),
            (Some(SourceCursor { system_id: 2, ..cursor() }), Some(slot()), "system 2"),
            (Some(SourceCursor { timeline: 2, ..cursor() }), Some(slot()), "former primary"),
            (Some(SourceCursor { timeline: 0, ..cursor() }), Some(slot()), "promoted"),
            (Some(SourceCursor { confirm: Lsn(0x2000), ..cursor() }), Some(slot()), "ahead"),
            (Some(SourceCursor { seen: Lsn(0x2000), ..cursor() }), Some(slot()), "ahead"),
        ];
        for (cursor, slot, needle) in cases {
            let error = decided(cursor, slot).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lost, "{needle}");
            let report = error.report();
            assert!(report.contains(needle) && report.contains("teardown"), "{report}");
        }
    }

    #[test]
    fn a_slot_of_somebody_else_is_left_alone() {
        let physical = Slot { plugin: None, database: None, ..slot() };
        let elsewhere = Slot { database: Some("other".into()), ..slot() };
        for other in [physical, elsewhere] {
            for phase in [Phase::Starting, Phase::Streaming] {
                let cursor = Some(SourceCursor { phase, ..cursor() });
                let error = decided(cursor, Some(other.clone())).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Config);
            }
        }
        let renamed = SourceCursor { slot: "t".into(), ..cursor() };
        assert_eq!(decided(Some(renamed), None).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn the_last_epoch_is_the_last() {
        let last = |phase| Some(SourceCursor { phase, epoch: Epoch(255), ..cursor() });
        let error = decided(last(Phase::Snapshot), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lost);
        let again = decided(last(Phase::Starting), None).unwrap();
        assert_eq!(again, Plan::Begin { epoch: Epoch(255) }, "nothing was written in it");
    }

    #[test]
    fn a_slot_that_moved_while_it_was_in_use_says_nothing_of_the_log() {
        let ahead =
            || decided(Some(cursor()), Some(Slot { confirmed_flush: Some(Lsn(0x20)), ..slot() }));
        let error = settle(ahead(), true, "s").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.report().contains("reading the log again"), "{error:?}");
        assert_eq!(settle(ahead(), false, "s").unwrap_err().kind(), ErrorKind::Lost);
        let within = || decided(Some(cursor()), Some(slot()));
        assert_eq!(settle(within(), true, "s").unwrap(), Plan::Stream, "the log has it");
        let elsewhere = Some(Slot { database: Some("other".into()), ..slot() });
        let error = settle(decided(Some(cursor()), elsewhere), true, "s").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn a_slot_in_use_names_its_user() {
        let used =
            Slot { active_pid: Some(77), holder: Some("psql from 10.0.0.1".into()), ..slot() };
        let error = used.in_use().unwrap();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.report().contains("psql from 10.0.0.1, process 77"));
        assert!(slot().in_use().is_none());
    }
}
