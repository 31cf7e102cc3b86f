//! What `anabranch check` finds at the source.

use anabranch_core::{Error, Finding, Level, Result};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::catalog::{RawTable, load_by_name};
use crate::columns::RuleBook;
use crate::config::PostgresConfig;
use crate::error::Context;
use crate::publication::{self, Publication, Wanted};
use crate::server::Server;
use crate::session::Session;
use crate::slot::Slot;

/// Looks at everything that a source needs, and changes nothing.
pub async fn check(config: &PostgresConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Err(error) = look(config, &mut findings).await {
        findings.blocker("source", &error);
    }
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, subject: impl Into<String>, seen: impl Into<String>) {
        self.0.push(Finding::fine(subject, seen));
    }

    fn risk(&mut self, subject: &str, seen: impl Into<String>, help: impl Into<String>) {
        self.0.push(Finding::trouble(Level::Risk, subject, seen, help));
    }

    fn blocker(&mut self, subject: impl Into<String>, error: &Error) {
        let help = error.help().unwrap_or_default().to_owned();
        let report = error.report();
        let suffix = format!("; {help}");
        let seen = report.strip_suffix(&suffix).unwrap_or(&report);
        self.0.push(Finding::trouble(Level::Blocker, subject, seen, help));
    }

    fn each(&mut self, subject: &str, obstacles: &[Error], fine: impl Into<String>) {
        if obstacles.is_empty() {
            self.fine(subject, fine);
        }
        obstacles.iter().for_each(|error| self.blocker(subject, error));
    }
}

async fn look(config: &PostgresConfig, findings: &mut Findings) -> Result<()> {
    config.validate()?;
    let session = Session::open(config).await?;
    findings.fine("source: connection", config.endpoint()?.name());
    let server = Server::read(&session).await?;
    let seen = format!("version {}, wal_level {}", server.version / 10_000, server.wal_level);
    findings.each("source: server", &server.obstacles(&config.application_name), seen);
    limits(&session, config, findings).await?;
    let tables = tables(&session, config, findings).await?;
    for name in config.publications() {
        publication(&session, config, &Wanted::new(config, &name, &tables), findings).await?;
    }
    slot(&session, config, findings).await
}

async fn tables(
    session: &Session,
    config: &PostgresConfig,
    findings: &mut Findings,
) -> Result<Vec<RawTable>> {
    let names = config.table_names()?;
    let (tables, types) = load_by_name(session, config).await?;
    let book = RuleBook::new(config);
    for name in names {
        let full_name = format!("{}.{}", name.schema, name.name);
        let subject = format!("source: table {full_name}");
        match tables.iter().find(|table| table.name() == name) {
            None => findings.0.push(Finding::trouble(
                Level::Blocker,
                subject,
                "there is no such table",
                "create it, or take it out of [source] tables",
            )),
            Some(table) => {
                let rules = book.obstacles(table, &types);
                let obstacles: Vec<Error> = table.obstacle().into_iter().chain(rules).collect();
                let fine = if table.append_only {
                    "only inserts and TRUNCATEs are followed"
                } else {
                    "has a usable replica identity"
                };
                findings.each(&subject, &obstacles, fine);
            }
        }
    }
    Ok(tables)
}

async fn publication(
    client: &Client,
    config: &PostgresConfig,
    wanted: &Wanted<'_>,
    findings: &mut Findings,
) -> Result<()> {
    let name = &wanted.name;
    let Some(publication) = Publication::read(client, config, name).await? else {
        return creatable(client, wanted, findings).await;
    };
    let seen = format!("{name} publishes all tables");
    findings.each("source: publication", &publication.obstacles(wanted), seen);
    for table in publication::refused_updates(client, name).await? {
        findings.risk(
            "source: publication",
            format!(
                "{name} makes every UPDATE and DELETE of {table} fail: no key tells its rows apart"
            ),
            format!(
                "ALTER TABLE {table} ADD PRIMARY KEY (..); or ALTER TABLE {table} REPLICA IDENTITY \
                 FULL; or make the publication FOR the TABLEs that are read"
            ),
        );
    }
    Ok(())
}

/// Whether the publication that is missing could be created.
async fn creatable(client: &Client, wanted: &Wanted<'_>, findings: &mut Findings) -> Result<()> {
    let oids = wanted.oids();
    let query = "
        select has_database_privilege(current_database(), 'create')
               and not exists (select from pg_class where oid = any($1)
                               and not pg_has_role(relowner, 'usage'))";
    let row = client.query_one(query, &[&oids]).await;
    let may: bool = row.and_then(|row| row.try_get(0)).doing(|| "look at privileges".to_owned())?;
    let name = &wanted.name;
    if may {
        findings.fine("source: publication", format!("{name} will be created"));
    } else {
        let sql = wanted.create_sql();
        let seen = format!("{name} does not exist, and the role may not create it");
        let help = format!("let the owner of the tables run: {sql}");
        findings.0.push(Finding::trouble(Level::Blocker, "source: publication", seen, help));
    }
    Ok(())
}

/// Whether the server has room for a slot, and a bound on what a slot may keep.
async fn limits(client: &Client, config: &PostgresConfig, findings: &mut Findings) -> Result<()> {
    let query = "
        select current_setting('max_replication_slots')::int8
               - (select count(*) from pg_replication_slots where slot_name <> $1) as slots,
               current_setting('max_wal_senders')::int8
               - (select count(*) from pg_stat_replication
                  where application_name <> $2) as senders,
               current_setting('max_slot_wal_keep_size') as keep";
    let action = || "look at the server's limits".to_owned();
    let parameters: [&(dyn ToSql + Sync); 2] = [&config.slot, &config.application_name];
    let row = client.query_one(query, &parameters).await.doing(action)?;
    for (column, setting) in [("slots", "max_replication_slots"), ("senders", "max_wal_senders")] {
        let free: i64 = row.try_get(column).doing(action)?;
        let subject = format!("source: {setting}");
        if free > 0 {
            findings.fine(subject, format!("{free} free"));
        } else {
            let help = format!("raise {setting} and restart PostgreSQL");
            findings.0.push(Finding::trouble(Level::Blocker, subject, "none is free", help));
        }
    }
    let keep: &str = row.try_get("keep").doing(action)?;
    let subject = "source: max_slot_wal_keep_size";
    if keep == "-1" {
        findings.risk(
            subject,
            "not set: a source that stands still fills the disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
        );
    } else {
        findings.fine(subject, keep);
    }
    Ok(())
}

async fn slot(client: &Client, config: &PostgresConfig, findings: &mut Findings) -> Result<()> {
    let subject = "source: slot";
    let Some(slot) = Slot::read(client, &config.slot).await? else {
        findings.fine(subject, format!("{} does not exist yet", config.slot));
        return Ok(());
    };
    let status = slot.wal_status.as_deref().unwrap_or("reserved");
    match status {
        "lost" => findings.0.push(Finding::trouble(
            Level::Blocker,
            subject,
            format!("{} was invalidated: its WAL is gone", slot.name),
            "run `anabranch teardown`, then start again",
        )),
        "unreserved" => findings.risk(
            subject,
            format!("{} is about to lose its WAL", slot.name),
            "let the source catch up, or raise max_slot_wal_keep_size",
        ),
        status => {
            let user = slot.active_pid.map_or("not in use".to_owned(), |pid| {
                format!("in use by {}, process {pid}", slot.holder.as_deref().unwrap_or("a client"))
            });
            findings.fine(subject, format!("{}: WAL {status}, {user}", slot.name));
        }
    }
    Ok(())
}
