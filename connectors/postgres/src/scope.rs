//! Which tables a source reads, where its configuration takes in whole schemas.
//!
//! ```text
//! "shop.*" ─▶ read so far ───────────────────────────────────────▶ a configuration with its name
//!         └─▶ published ──▶ fit to be read? ─ yes ───────────────▶ the same
//!                                          └─ no ──▶ left out, with a reason
//! ```
//!
//! The publication decides: what it publishes of the schema is read. A table that was read so far is read as
//! if it were named, so one that stops being published, or moves, is never let go of in silence. Any other
//! is left out if anything is wrong with it: somebody else's `CREATE TABLE` must not end a source.

use std::collections::BTreeSet;

use anabranch_core::selection::{excluded, takes_in, whole_schema};
use anabranch_core::{Error, ErrorKind, Result, SourceCursor};
use tokio_postgres::{Client, Row};

use crate::blind;
use crate::catalog::{Catalog, KnownTables, RawTable, Types, load_by_name};
use crate::columns::RuleBook;
use crate::config::{PostgresConfig, TableName};
use crate::error::Context;
use crate::publication::{Publication, Wanted};

/// What is to be read now.
pub(crate) struct Scope {
    /// The configuration with the name of each table.
    pub(crate) config: PostgresConfig,
    pub(crate) unfit: Vec<Unfit>,
    /// What the configuration says of schemas and tables that are not there.
    pub(crate) strays: Vec<String>,
}

/// A table of a schema that is taken in, and why it is left out.
pub(crate) struct Unfit {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) why: Error,
}

/// What the log has of tables.
#[derive(Debug)]
pub(crate) struct Logged {
    known: KnownTables,
    /// Oids of those that were read so far.
    read: BTreeSet<u32>,
    stage: Stage,
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none yet.
    New,
    /// A history begins in it: all tables are copied.
    Beginning,
    /// It goes on.
    GoingOn,
}

impl Logged {
    /// A log of the tables `known` as of its position `after`, for the system `system_id`: what was read
    /// on another one has other numbers here.
    pub(crate) fn new(known: &KnownTables, after: Option<&SourceCursor>, system_id: u64) -> Self {
        let stage = if after.is_some() { Stage::GoingOn } else { Stage::New };
        if after.is_some_and(|after| after.system_id != system_id) {
            return Self { known: KnownTables::default(), read: BTreeSet::new(), stage };
        }
        let membership = after.and_then(|after| after.membership.as_ref());
        let read = membership.map(|membership| membership.tables.oids().collect());
        Self { known: known.clone(), read: read.unwrap_or_else(|| known.oids()), stage }
    }

    /// The same, where a history begins.
    pub(crate) fn beginning(self) -> Self {
        Self { stage: Stage::Beginning, ..self }
    }
}

impl PostgresConfig {
    /// Whether [`PostgresConfig::tables`] takes in `table`, as `schema.table`.
    #[must_use]
    pub fn takes_in(&self, table: &str) -> bool {
        let parts = table.split_once('.');
        parts.is_some_and(|(schema, name)| takes_in(&self.tables, schema, name))
    }

    /// The tables that are named one by one, split into schema and name.
    pub(crate) fn table_names(&self) -> Result<Vec<TableName>> {
        let mut names = self
            .single_tables()
            .iter()
            .map(|text| TableName::parse(text))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// The tables that it names one by one.
    pub(crate) fn single_tables(&self) -> BTreeSet<String> {
        let is_one = |entry: &&String| excluded(entry).is_none() && whole_schema(entry).is_none();
        self.tables.iter().filter(is_one).cloned().collect()
    }

    /// The schemas that it takes in.
    pub(crate) fn schemas(&self) -> Vec<&str> {
        self.tables.iter().filter_map(|entry| whole_schema(entry)).collect()
    }

    /// With these tables in place of those that it names one by one.
    fn with_tables(&self, tables: BTreeSet<String>) -> Self {
        let single = self.single_tables();
        let others = self.tables.iter().filter(|entry| !single.contains(*entry)).cloned();
        // A publication of append-only tables is asked for where there are some.
        let append_only = self.append_only.iter().filter(|table| tables.contains(*table)).cloned();
        let append_only = append_only.collect();
        Self { tables: others.chain(tables).collect(), append_only, ..self.clone() }
    }
}

impl Scope {
    /// A history begins with a table, or the mistake would show only when rows are missed.
    pub(crate) fn require_some(&self) -> Result<()> {
        if !self.config.single_tables().is_empty() {
            return Ok(());
        }
        let action = format!("begin with the tables of {}", self.config.schemas().join(", "));
        let error = Error::new(ErrorKind::Config, action);
        Err(match self.unfit.first() {
            Some(Unfit { why, .. }) => error.with_source(format!("none is fit: {}", why.report())),
            None => error
                .with_source("there is none that is published")
                .with_help("create or publish one, or name others in [source] tables"),
        })
    }

    /// Says what is left out, and why.
    pub(crate) fn tell(&self) {
        tell(&self.unfit);
        self.strays.iter().for_each(|stray| tracing::warn!("{stray}"));
    }
}

/// Says of tables why they are left out.
pub(crate) fn tell(unfit: &[Unfit]) {
    for Unfit { name, why, .. } in unfit {
        tracing::warn!(table = name, "left out: {}", why.report());
    }
}

/// Names the tables that `config` takes in.
///
/// # Errors
///
/// `Config` if a table that was read has another name now, by which it is not taken in, or its rules are
/// not found; `Transient` if the server cannot be asked.
pub(crate) async fn resolve(
    client: &Client,
    config: &PostgresConfig,
    logged: &Logged,
) -> Result<Scope> {
    let mut tables = config.single_tables();
    if config.schemas().is_empty() {
        return Ok(Scope { config: config.clone(), unfit: Vec::new(), strays: Vec::new() });
    }
    require_in_place(client, config, logged).await?;
    let candidates = candidates(client, config, logged).await?;
    let (read, new): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|(oid, _)| logged.read.contains(oid));
    let (fit, unfit) = judge(client, config, (new, logged)).await?;
    // What is wrong with one that was read is for whoever reads it to say.
    tables.extend(read.into_iter().map(|(_, name)| name.to_string()).chain(fit));
    let mut strays = missing_schemas(client, config).await?;
    let rules = config.columns.keys().chain(&config.append_only);
    strays.extend(rules.filter(|table| !tables.contains(*table)).map(|table| {
        format!("[source] has a rule for {table}, and no table of that name is read")
    }));
    Ok(Scope { config: config.with_tables(tables), unfit, strays })
}

/// Tables that came into the scope of `config` beside those with the oids `read`, by their names, and others
/// that are not fit.
///
/// # Errors
///
/// `Transient` if the server cannot be asked, `Config` if a table went while it was.
pub(crate) async fn news(
    client: &Client,
    config: &PostgresConfig,
    (known, read): (&KnownTables, &BTreeSet<u32>),
) -> Result<(Vec<String>, Vec<Unfit>)> {
    let logged = Logged { known: known.clone(), read: BTreeSet::new(), stage: Stage::GoingOn };
    let mut new = candidates(client, config, &logged).await?;
    new.retain(|(oid, _)| !read.contains(oid));
    judge(client, config, (new, &logged)).await
}

/// A table that was read and has another name now is not let go of as if it had been dropped, and not read
/// without the rules of its name.
async fn require_in_place(client: &Client, config: &PostgresConfig, logged: &Logged) -> Result<()> {
    let oids: Vec<u32> = logged.read.iter().copied().collect();
    let query = "
        select c.oid, n.nspname::text, c.relname::text
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = any($1) and c.relkind in ('r', 'p')";
    let rows = client.query(query, &[&oids]).await.doing(action)?;
    for (oid, now) in rows.iter().map(oid_and_name).collect::<Result<Vec<_>, _>>().doing(action)? {
        let before = logged.known.names(oid).into_iter().filter(|name| *name != now);
        let is_out = !takes_in(&config.tables, &now.schema, &now.name);
        let has_rule = |name: &TableName| {
            let name = name.to_string();
            config.columns.contains_key(&name) || config.append_only.contains(&name)
        };
        for name in before.filter(|name| takes_in(&config.tables, &name.schema, &name.name)) {
            let error = Error::new(ErrorKind::Config, format!("go on with {name}"))
                .with_source(format!("its name is {now} now"));
            if is_out {
                return Err(error.with_help(format!(
                    "name it so in [source] tables: \"{now}\"; or let go of it: \"!{name}\""
                )));
            }
            if has_rule(&name) && !has_rule(&now) {
                return Err(
                    error.with_help(format!("name it so where [source] has rules for {name}"))
                );
            }
        }
    }
    Ok(())
}

/// The oids and names of tables in the schemas that are published, or would be by a publication that a new
/// log begins with, or that were read so far.
async fn candidates(
    client: &Client,
    config: &PostgresConfig,
    logged: &Logged,
) -> Result<Vec<(u32, TableName)>> {
    let query = "
        with published as materialized (
          select pubname, schemaname, tablename from pg_publication_tables where pubname in ($2, $3)),
        ours as (
          select c.oid, n.nspname, c.relname, c.relkind,
                 case when n.nspname || '.' || c.relname = any($4) then $3 else $2 end as publication
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = any($1) and c.relkind in ('r', 'p')
                and (c.oid = any($5) or c.relpersistence = 'p' and not c.relispartition))
        select oid, nspname::text, relname::text from ours
        where oid = any($5)
           or (publication, nspname, relname) in (select * from published)
           or relkind = 'p' and exists (
             select from pg_partition_tree(oid) t join pg_class leaf on leaf.oid = t.relid
             join pg_namespace n on n.oid = leaf.relnamespace
             where (publication, n.nspname, leaf.relname) in (select * from published))
           or $6 and publication not in (select pubname from pg_publication)";
    let (main, append) = (&config.publication, config.append_publication());
    let read: Vec<u32> = logged.read.iter().copied().collect();
    let (schemas, is_new) = (config.schemas(), logged.stage == Stage::New);
    let rows = client
        .query(query, &[&schemas, main, &append, &config.append_only, &read, &is_new])
        .await
        .doing(action)?;
    let found = rows.iter().map(oid_and_name).collect::<Result<Vec<_>, _>>();
    let mut found = found.doing(action)?;
    found.retain(|(_, name)| takes_in(&config.tables, &name.schema, &name.name));
    Ok(found)
}

fn oid_and_name(row: &Row) -> Result<(u32, TableName), tokio_postgres::Error> {
    let name = TableName { schema: row.try_get(1)?, name: row.try_get(2)? };
    Ok((row.try_get(0)?, name))
}

/// The names of those that can be read, and the others.
async fn judge(
    client: &Client,
    config: &PostgresConfig,
    (candidates, logged): (Vec<(u32, TableName)>, &Logged),
) -> Result<(Vec<String>, Vec<Unfit>)> {
    let (mut fit, mut unfit) = (Vec::new(), Vec::new());
    if candidates.is_empty() {
        return Ok((fit, unfit));
    }
    let names = candidates.iter().map(|(_, name)| name.to_string()).collect();
    let config = &config.with_tables(names);
    let (tables, types) = load_by_name(client, config).await?;
    let mut publications = Vec::new();
    for name in config.publications() {
        publications.extend(Publication::read(client, config, &name).await?);
    }
    for table in tables {
        match obstacle((config, &publications), (&table, &types), logged) {
            None => fit.push(table.full_name()),
            Some(why) => unfit.push(Unfit { oid: table.oid, name: table.full_name(), why }),
        }
    }
    Ok((fit, unfit))
}

fn obstacle(
    (config, publications): (&PostgresConfig, &[Publication]),
    (table, types): (&RawTable, &Types),
    logged: &Logged,
) -> Option<Error> {
    let broken = || RuleBook::new(config).obstacles(table, types).into_iter().next();
    let unpublished = || {
        let of = |publication: &Publication| {
            let wanted = Wanted::new(config, publication.name(), std::slice::from_ref(table));
            publication.obstacles(&wanted).into_iter().next()
        };
        publications.iter().find_map(of)
    };
    let late = || {
        if logged.stage == Stage::Beginning || logged.known.has(table.oid) {
            return None;
        }
        // Its topic is there, with rows of the other one.
        let had_name = logged.known.has_name(&table.name()).then_some(blind::ANOTHER);
        let why = blind::obstacle(table, &logged.known).or(had_name)?;
        let action = format!("begin with {}", table.full_name());
        let help = format!("\"!{}\" in [source] tables leaves it out for good", table.full_name());
        Some(Error::new(ErrorKind::Config, action).with_source(why).with_help(help))
    };
    let unspeakable = || {
        let catalog = Catalog::new(vec![], KnownTables::default());
        catalog.with_rules(RuleBook::new(config)).adopt(table, types).err()
    };
    table.obstacle().or_else(broken).or_else(unpublished).or_else(late).or_else(unspeakable)
}

async fn missing_schemas(client: &Client, config: &PostgresConfig) -> Result<Vec<String>> {
    let query = "
        select format('[source] tables takes in %s.*, and there is no such schema', wanted)
        from unnest($1::text[]) wanted
        where not exists (select from pg_namespace where nspname = wanted)";
    let rows = client.query(query, &[&config.schemas()]).await.doing(action)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(action)
}

fn action() -> String {
    "look for tables of the schemas in [source] tables".to_owned()
}
