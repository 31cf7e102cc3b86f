//! The slot, what it keeps on the server, and what holds it back.

use anabranch_core::Result;

use crate::error::Context;
use crate::guard::{self, GuardState};
use crate::hosting::Effect;
use crate::slot::{Slot, bytes};

use super::{Facts, Findings};

/// Spilled so much that more memory would be felt.
const SPILLED_BYTES_MUCH: u64 = 1 << 30;
/// A transaction that has been open for so long was probably forgotten.
const OPEN_SECONDS_LONG: i64 = 600;

pub(super) async fn look(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    transactions(facts, findings).await?;
    let subject = "slot";
    let name = &facts.config.slot;
    let Some(slot) = Slot::read(&facts.session, name).await? else {
        findings.fine(subject, format!("{name} does not exist yet"));
        return Ok(());
    };
    let database = facts.config.database()?;
    if let Err(error) = slot.check_usable(&database) {
        findings.blocker(subject, &error);
        return Ok(());
    }
    match slot.wal_status.as_deref().unwrap_or("reserved") {
        // Beside a log it is said with what is missing there.
        "lost" if facts.log.is_some() => {}
        "lost" => findings.block(
            subject,
            format!("{name} was invalidated: its WAL is gone"),
            "`anabranch source accept` shows the ways on",
        ),
        status => {
            let user = slot.active_pid.map_or("not in use".to_owned(), |pid| {
                format!("in use by {}, process {pid}", slot.holder.as_deref().unwrap_or("a client"))
            });
            findings.fine(subject, format!("{name}: WAL {status}, {user}"));
        }
    }
    Ok(())
}

/// What every slot of the server waits for, ours or not yet ours.
async fn transactions(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    let config = facts.config;
    let report = guard::look(&facts.session, config).await?;
    match report.state {
        GuardState::Warn | GuardState::Pause | GuardState::Full => {
            findings.risk("WAL guard", report.to_string(), report.help.clone().unwrap_or_default());
        }
        // What there is to say of a slot that is gone is said of the slot.
        GuardState::Absent | GuardState::Calm | GuardState::Dropped | GuardState::Lost => {}
    }
    let subject = "prepared transactions";
    match (&report.oldest_prepared, guard::prepared_help(&report)) {
        (Some(prepared), Some(help)) => {
            let seen = format!("{:?} has been prepared for {} s", prepared.gid, prepared.seconds);
            findings.risk(subject, seen, help);
        }
        (Some(prepared), None) => {
            findings.fine(subject, format!("the oldest is {} s old", prepared.seconds));
        }
        (None, _) => findings.fine(subject, "none"),
    }
    if report.spill.spilled_bytes >= SPILLED_BYTES_MUCH {
        let setting = "logical_decoding_work_mem";
        let seen = format!(
            "{} of {} decoded went through the server's disk",
            bytes(report.spill.spilled_bytes),
            bytes(report.spill.decoded_bytes)
        );
        findings.risk(
            "decoding",
            seen,
            facts.server.hosting.set_help(setting, "256MB", Effect::Reload),
        );
    }
    open(facts, findings).await
}

/// Of other roles only `pg_read_all_stats` sees since when their transactions are open.
async fn open(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    let action = || "look for transactions that are open for long".to_owned();
    let query = "
        select pid, coalesce(usename::text, '') as role, datname::text as database,
               extract(epoch from now() - xact_start)::int8 as seconds
        from pg_stat_activity
        where backend_xid is not null and xact_start is not null and pid <> pg_backend_pid()
        order by xact_start limit 1";
    let Some(row) = facts.session.query_opt(query, &[]).await.doing(action)? else {
        return Ok(());
    };
    let seconds: i64 = row.try_get("seconds").doing(action)?;
    if seconds >= OPEN_SECONDS_LONG {
        let pid: i32 = row.try_get("pid").doing(action)?;
        let role: &str = row.try_get("role").doing(action)?;
        let database: Option<&str> = row.try_get("database").doing(action)?;
        let database = database.unwrap_or("?");
        findings.risk(
            "open transactions",
            format!(
                "process {pid} of {role} in {database} has had one for {} min: a new slot waits \
                 for it, and a slot keeps WAL for it",
                seconds / 60
            ),
            format!("end it, or: SELECT pg_terminate_backend({pid});"),
        );
    }
    Ok(())
}
