//! Which tables a source reads, where its configuration takes in whole schemas.
//!
//! ```text
//! "shop.*" ─▶ published, or known to the log ─▶ fit to be read? ─ yes ─▶ a configuration with its name
//!                                                             └─ no ──▶ left out, with a reason
//! ```
//!
//! The publication decides: what it publishes of the schema is read. A table that the log has is read as
//! if it were named, so one that stops being published is never let go of in silence; one that the log has
//! not is left out if anything is wrong with it, for somebody else's `CREATE TABLE` must not end a source.

use std::collections::BTreeSet;

use anabranch_core::selection::{takes_in, whole_schema};
use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::catalog::{Catalog, KnownTables, RawTable, Types, load_by_name};
use crate::columns::RuleBook;
use crate::config::{PostgresConfig, TableName};
use crate::error::Context;
use crate::membership;
use crate::publication::{Publication, Wanted};
use crate::{absent, blind};

/// What is to be read now.
pub(crate) struct Scope {
    /// The configuration with the name of each table.
    pub(crate) config: PostgresConfig,
    pub(crate) left_out: Vec<LeftOut>,
}

/// A table of a schema that is taken in, and why it is not read.
pub(crate) struct LeftOut {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) why: Error,
}

impl Scope {
    /// A log begins with a table, or the mistake would show only when rows are missed.
    pub(crate) fn require_some(&self, known: &KnownTables) -> Result<()> {
        if !self.config.named().is_empty() || !known.newest().is_empty() {
            return Ok(());
        }
        let action = format!("begin with the tables of {}", schemas(&self.config).join(", "));
        let error = Error::new(ErrorKind::Config, action);
        Err(match self.left_out.first() {
            Some(LeftOut { why, .. }) => {
                error.with_source(format!("none is fit: {}", why.report()))
            }
            None => error
                .with_source("there is none that is published")
                .with_help("create or publish one, or name others in [source] tables"),
        })
    }
}

/// Names the tables that `config` takes in; the log has `known`.
///
/// # Errors
///
/// `Config` if a table that the log has is not where it was, `Transient` if the server cannot be asked.
pub(crate) async fn resolve(
    client: &Client,
    config: &PostgresConfig,
    known: &KnownTables,
) -> Result<Scope> {
    let mut named = config.named();
    if schemas(config).is_empty() {
        return Ok(Scope { config: with(config, named), left_out: Vec::new() });
    }
    require_in_place(client, config, known).await?;
    let candidates = candidates(client, config, known).await?;
    let (fit, left_out) = judge(client, config, (candidates, known)).await?;
    named.extend(fit);
    Ok(Scope { config: with(config, named), left_out })
}

/// Tables that came into the scope of `config` beside those that are read, and others that could not.
///
/// # Errors
///
/// `Transient` if the server cannot be asked.
pub(crate) async fn news(
    client: &Client,
    config: &PostgresConfig,
    (known, before): (&KnownTables, &[membership::Wanted]),
) -> Result<(Vec<String>, Vec<LeftOut>)> {
    if schemas(config).is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut new = candidates(client, config, known).await?;
    let before: BTreeSet<u32> = before.iter().map(|(oid, _)| *oid).collect();
    new.retain(|(oid, _)| !before.contains(oid));
    judge(client, config, (new, known)).await
}

/// Says of tables why they are left out.
pub(crate) fn tell(left_out: &[LeftOut]) {
    for LeftOut { name, why, .. } in left_out {
        tracing::warn!(table = name, "left out: {}", why.report());
    }
}

/// With these names in place of those it has: what else it takes in stays.
fn with(config: &PostgresConfig, names: BTreeSet<String>) -> PostgresConfig {
    let named = config.named();
    let others = config.tables.iter().filter(|text| !named.contains(*text)).cloned();
    PostgresConfig { tables: others.chain(names).collect(), ..config.clone() }
}

fn schemas(config: &PostgresConfig) -> Vec<&str> {
    config.tables.iter().filter_map(|text| whole_schema(text)).collect()
}

/// A table that the log has and somebody has renamed is not let go of, as if it had been dropped.
async fn require_in_place(
    client: &Client,
    config: &PostgresConfig,
    known: &KnownTables,
) -> Result<()> {
    let logged = known.newest();
    let ours = logged.iter().filter(|table| takes_in(&config.tables, &table.schema, &table.name));
    let oids: Vec<u32> = ours.map(|table| table.oid).collect();
    let query = "
        select c.oid, n.nspname::text, c.relname::text
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1)";
    let rows = client.query(query, &[&oids]).await.doing(action)?;
    for row in rows {
        let (oid, schema, name): (u32, String, String) = (
            row.try_get(0).doing(action)?,
            row.try_get(1).doing(action)?,
            row.try_get(2).doing(action)?,
        );
        let before = logged.iter().find(|table| table.oid == oid);
        if let Some(before) = before.filter(|_| !takes_in(&config.tables, &schema, &name)) {
            let before = TableName { schema: before.schema.clone(), name: before.name.clone() };
            absent::obstacle(client, &before, &[oid]).await?.map_or(Ok(()), Err)?;
        }
    }
    Ok(())
}

/// The oids and names of tables in the schemas that are published, or would be by a publication that is not
/// there yet, or that the log has.
async fn candidates(
    client: &Client,
    config: &PostgresConfig,
    known: &KnownTables,
) -> Result<Vec<(u32, TableName)>> {
    let query = "
        with published as materialized (
          select pubname, schemaname, tablename from pg_publication_tables where pubname in ($2, $3)),
        ours as (
          select c.oid, n.nspname, c.relname, c.relkind,
                 case when n.nspname || '.' || c.relname = any($4) then $3 else $2 end as publication
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = any($1) and c.relkind in ('r', 'p') and c.relpersistence = 'p'
                and not c.relispartition)
        select oid, nspname::text, relname::text from ours
        where oid = any($5)
           or (publication, nspname, relname) in (select * from published)
           or relkind = 'p' and exists (
             select from pg_partition_tree(oid) t join pg_class leaf on leaf.oid = t.relid
             join pg_namespace n on n.oid = leaf.relnamespace
             where (publication, n.nspname, leaf.relname) in (select * from published))
           or publication not in (select pubname from pg_publication)";
    let (main, append) = (&config.publication, config.append_publication());
    let logged: Vec<u32> = known.newest().iter().map(|table| table.oid).collect();
    let schemas = schemas(config);
    let rows = client
        .query(query, &[&schemas, main, &append, &config.append_only, &logged])
        .await
        .doing(action)?;
    let read = |row: &tokio_postgres::Row| {
        let name = TableName { schema: row.try_get(1)?, name: row.try_get(2)? };
        Ok((row.try_get(0)?, name))
    };
    let found = rows.iter().map(read).collect::<Result<Vec<_>, tokio_postgres::Error>>();
    let mut found = found.doing(action)?;
    found.retain(|(_, name)| takes_in(&config.tables, &name.schema, &name.name));
    Ok(found)
}

/// The names of those that can be read, and the others.
async fn judge(
    client: &Client,
    config: &PostgresConfig,
    (candidates, known): (Vec<(u32, TableName)>, &KnownTables),
) -> Result<(Vec<String>, Vec<LeftOut>)> {
    let (mut fit, mut left_out) = (Vec::new(), Vec::new());
    if candidates.is_empty() {
        return Ok((fit, left_out));
    }
    let names = candidates.iter().map(|(_, name)| name.to_string()).collect();
    let (tables, types) = load_by_name(client, &with(config, names)).await?;
    let mut publications = Vec::new();
    for name in config.publications() {
        publications.extend(Publication::read(client, config, &name).await?);
    }
    for table in tables {
        // What is wrong with one that the log has is for whoever reads it to say.
        let why = match known.get(table.oid) {
            Some(_) => None,
            None => obstacle((config, &publications), (&table, &types), known),
        };
        match why {
            None => fit.push(table.full_name()),
            Some(why) => left_out.push(LeftOut { oid: table.oid, name: table.full_name(), why }),
        }
    }
    Ok((fit, left_out))
}

fn obstacle(
    (config, publications): (&PostgresConfig, &[Publication]),
    (table, types): (&RawTable, &Types),
    known: &KnownTables,
) -> Option<Error> {
    let rules = RuleBook::new(config);
    let published = || {
        let of = |publication: &Publication| {
            let wanted = Wanted::new(config, publication.name(), std::slice::from_ref(table));
            publication.obstacles(&wanted).into_iter().next()
        };
        publications.iter().find_map(of)
    };
    let late = || {
        let why = blind::obstacle(table, known).filter(|_| !known.has(table.oid))?;
        let action = format!("begin with {}", table.full_name());
        let help = format!("\"!{}\" in [source] tables leaves it out for good", table.full_name());
        Some(Error::new(ErrorKind::Config, action).with_source(why).with_help(help))
    };
    let named = || {
        let catalog = Catalog::new(vec![], KnownTables::default());
        catalog.with_rules(RuleBook::new(config)).adopt(table, types).err()
    };
    let broken = || rules.obstacles(table, types).into_iter().next();
    table.obstacle().or_else(broken).or_else(published).or_else(late).or_else(named)
}

fn action() -> String {
    "look for tables of the schemas in [source] tables".to_owned()
}
