//! Whether the slot would be there after a failover.

use anabranch_core::Result;
use postgres_protocol::escape::escape_identifier;

use crate::error::Context;
use crate::hosting::{Effect, Hosting};

use super::{Facts, Findings};

/// The first version whose slots a standby can take over.
const FAILOVER_VERSION: u32 = 170_000;

/// A standby, as the primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standby {
    name: String,
    /// Its physical slot.
    slot: Option<String>,
    /// Whether that slot holds back vacuum for it: `hot_standby_feedback`.
    feeds_back: bool,
}

/// What decides about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Readiness {
    version: u32,
    hosting: Hosting,
    standbys: Vec<Standby>,
    /// `synchronized_standby_slots`.
    waits_for: Vec<String>,
    /// Our slot's name, and its `failover`; `None` while there is no slot.
    slot: Option<(String, bool)>,
}

/// A backup streams, too, and is promoted by nobody.
const STANDBYS: &str = "
    select coalesce(nullif(r.application_name, ''), 'process ' || r.pid) as name,
           s.slot_name::text as slot, s.xmin is not null as feeds_back
    from pg_stat_replication r left join pg_replication_slots s on s.active_pid = r.pid
    where s.slot_type is distinct from 'logical' and r.application_name <> $1
          and r.state in ('streaming', 'catchup') and s.temporary is not true
          and r.application_name not in ('pg_basebackup', 'pg_receivewal')
    order by 1";

const SLOT: &str = "
    select coalesce((to_jsonb(s) ->> 'failover')::bool, false)
    from pg_replication_slots s where slot_name = $1";

pub(super) async fn look(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    let action = || "look at the standbys".to_owned();
    let config = facts.config;
    let rows = facts.session.query(STANDBYS, &[&config.application_name]).await.doing(action)?;
    let read = |row: &tokio_postgres::Row| {
        Ok::<_, tokio_postgres::Error>(Standby {
            name: row.try_get("name")?,
            slot: row.try_get("slot")?,
            feeds_back: row.try_get("feeds_back")?,
        })
    };
    let standbys = rows.iter().map(read).collect::<Result<_, _>>().doing(action)?;
    let slot = facts.session.query_opt(SLOT, &[&config.slot]).await.doing(action)?;
    let failover: Option<bool> = slot.map(|row| row.try_get(0)).transpose().doing(action)?;
    let names = facts.settings.text("synchronized_standby_slots").unwrap_or_default();
    let readiness = Readiness {
        version: facts.server.version,
        hosting: facts.server.hosting,
        standbys,
        waits_for: names
            .split(',')
            .map(|name| name.trim().trim_matches('"').to_owned())
            .filter(|name| !name.is_empty())
            .collect(),
        slot: failover.map(|failover| (config.slot.clone(), failover)),
    };
    judge(&readiness, findings);
    Ok(())
}

fn judge(readiness: &Readiness, findings: &mut Findings) {
    let subject = "failover";
    let before = findings.0.len();
    let names: Vec<&str> = readiness.standbys.iter().map(|s| s.name.as_str()).collect();
    if names.is_empty() {
        findings.fine(subject, "no standby is connected");
        return;
    }
    if readiness.version < FAILOVER_VERSION {
        findings.risk(
            subject,
            format!("standby {} will not have the slot when it is promoted", names.join(", ")),
            "upgrade to PostgreSQL 17, which can keep it there; or plan a new snapshot",
        );
        return;
    }
    if let Some((slot, false)) = &readiness.slot {
        let slot = escape_identifier(slot);
        findings.risk(
            subject,
            "the slot was made without failover, so no standby takes it over",
            format!(
                "stop the source, then: psql 'dbname=.. replication=database' -c \
                 'ALTER_REPLICATION_SLOT {slot} (FAILOVER true)'"
            ),
        );
    }
    standbys(readiness, findings);
    if findings.0.len() == before {
        findings.fine(
            subject,
            format!(
                "ready as far as the primary shows; standby {} also needs sync_replication_slots \
                 = on and a dbname in primary_conninfo",
                names.join(", ")
            ),
        );
    }
}

fn standbys(readiness: &Readiness, findings: &mut Findings) {
    let subject = "failover";
    for Standby { name, slot, feeds_back } in &readiness.standbys {
        let Some(slot) = slot else {
            findings.risk(
                subject,
                format!("standby {name} streams without a slot, so ours cannot wait for it"),
                format!(
                    "SELECT pg_create_physical_replication_slot('{name}'); then on the standby: \
                     ALTER SYSTEM SET primary_slot_name = '{name}'; SELECT pg_reload_conf();"
                ),
            );
            continue;
        };
        if !readiness.waits_for.contains(slot) {
            let mut slots = readiness.waits_for.clone();
            slots.push(slot.clone());
            findings.risk(
                subject,
                format!(
                    "changes may reach the log before standby {name} has them: \
                     synchronized_standby_slots leaves {slot} out"
                ),
                readiness.hosting.set_help(
                    "synchronized_standby_slots",
                    &slots.join(", "),
                    Effect::Reload,
                ),
            );
        }
        if !feeds_back {
            findings.risk(
                subject,
                format!("standby {name} gives no feedback, without which it takes no slot over"),
                "on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT \
                 pg_reload_conf();",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Level;

    use super::*;

    fn ready() -> Readiness {
        Readiness {
            version: 170_010,
            hosting: Hosting::Plain,
            standbys: vec![Standby { name: "b".into(), slot: Some("b".into()), feeds_back: true }],
            waits_for: vec!["b".into()],
            slot: Some(("s".into(), true)),
        }
    }

    fn judged(readiness: &Readiness) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        judge(readiness, &mut findings);
        findings.0.into_iter().map(|found| (found.level, found.help)).collect()
    }

    #[test]
    fn what_is_ready_says_what_cannot_be_seen_from_here() {
        assert_eq!(judged(&ready()), [(Level::Fine, String::new())]);
        let alone = Readiness { standbys: vec![], waits_for: vec![], ..ready() };
        assert_eq!(judged(&alone), [(Level::Fine, String::new())]);
    }

    #[test]
    fn each_gap_has_its_command() {
        let standby = |slot: Option<&str>, feeds_back| {
            vec![Standby { name: "b".into(), slot: slot.map(str::to_owned), feeds_back }]
        };
        let cases = [
            (Readiness { version: 160_014, ..ready() }, "PostgreSQL 17"),
            (Readiness { slot: Some(("s".into(), false)), ..ready() }, "ALTER_REPLICATION_SLOT"),
            (Readiness { waits_for: vec![], ..ready() }, "synchronized_standby_slots = 'b'"),
            (
                Readiness { waits_for: vec!["a".into()], ..ready() },
                "synchronized_standby_slots = 'a, b'",
            ),
            (Readiness { standbys: standby(None, true), ..ready() }, "primary_slot_name"),
            (Readiness { standbys: standby(Some("b"), false), ..ready() }, "hot_standby_feedback"),
        ];
        for (readiness, wanted) in cases {
            let found = judged(&readiness);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, Level::Risk);
            assert!(found[0].1.contains(wanted), "{wanted} in {found:?}");
        }
    }
}
