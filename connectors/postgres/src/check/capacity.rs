//! Whether the server has room for a slot and a connection of ours.

use anabranch_core::Result;
use tokio_postgres::types::ToSql;

use crate::error::Context;
use crate::hosting::Effect;

use super::{Facts, Findings};

/// What the source has open at most without heartbeats and those that copy the tables: its lock, its
/// SQL, replication, the guard, and the locks on what is copied.
const CONNECTIONS: i64 = 5;

pub(super) async fn look(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    let query = "
        select current_setting('max_replication_slots')::int8 as all_slots,
               (select count(*) from pg_replication_slots where slot_name <> $1) as slots,
               current_setting('max_wal_senders')::int8 as all_senders,
               (select count(*) from pg_stat_replication where application_name <> $2) as senders,
               case when rolsuper then -1 else rolconnlimit end::int8 as all_connections,
               (select count(*) from pg_stat_activity
                where usename = current_user and application_name <> $2) as connections
        from pg_roles where rolname = current_user";
    let action = || "look at the server's limits".to_owned();
    let config = facts.config;
    let parameters: [&(dyn ToSql + Sync); 2] = [&config.slot, &config.application_name];
    let row = facts.session.query_one(query, &parameters).await.doing(action)?;
    for (kind, setting) in [("slots", "max_replication_slots"), ("senders", "max_wal_senders")] {
        let all: i64 = row.try_get(format!("all_{kind}").as_str()).doing(action)?;
        let used: i64 = row.try_get(kind).doing(action)?;
        if used < all {
            findings.fine(setting, format!("{} of {all} free", all - used));
        } else {
            let more = (all.saturating_mul(2)).max(10).to_string();
            let help = facts.server.hosting.set_help(setting, &more, Effect::Restart);
            findings.block(setting, format!("none of {all} is free"), help);
        }
    }
    let limit: i64 = row.try_get("all_connections").doing(action)?;
    let used: i64 = row.try_get("connections").doing(action)?;
    let copying = i64::try_from(config.snapshot_sessions.get()).unwrap_or(i64::MAX);
    let needed = CONNECTIONS.saturating_add(copying) + i64::from(config.heartbeat_ms.is_some());
    if limit >= 0 && limit - used < needed {
        let role = &facts.server.role;
        findings.block(
            "connection limit",
            format!("role {role} may have {limit} connections, and the source needs {needed}"),
            format!("ALTER ROLE \"{role}\" CONNECTION LIMIT -1;"),
        );
    }
    Ok(())
}
