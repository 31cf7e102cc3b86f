//! Reads `pg_catalog`.

use std::collections::{BTreeSet, HashMap, HashSet};

use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::{Client, Row};

use super::WireColumn;
use super::identity::identity_of;
use super::type_query::load_types;
use super::types::Types;
use crate::config::{PostgresConfig, TableName};
use crate::error::Context;

/// A table as `pg_catalog` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawTable {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) table: String,
    /// `relkind`: `r` a table, `p` a partitioned one.
    pub(crate) kind: char,
    /// `relpersistence`: `p` permanent, `u` unlogged, `t` temporary.
    pub(crate) persistence: char,
    /// `relispartition`.
    pub(crate) is_partition: bool,
    /// `relreplident`.
    pub(crate) replica_identity: char,
    pub(crate) primary_key: Option<RawIndex>,
    pub(crate) identity_index: Option<RawIndex>,
    /// `relreplident` of its partitions, each once.
    pub(crate) leaf_identities: Vec<char>,
    pub(crate) access: Access,
    /// Only inserts and TRUNCATEs are followed, through a publication of their own.
    pub(crate) append_only: bool,
    /// In the order of their numbers, dropped ones included.
    pub(crate) columns: Vec<RawColumn>,
    /// What the publication has to say; `None` if the table is not in it.
    pub(crate) published: Option<Published>,
}

/// What we may read of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Full,
    /// SELECT is not granted.
    None,
    /// Policies hide rows of it.
    RowsHidden,
}

/// How a publication publishes a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// The columns it lists; empty for all.
    pub(crate) columns: Vec<String>,
    /// Its row filter.
    pub(crate) filter: Option<String>,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawIndex {
    pub(crate) attnums: Vec<i16>,
    /// Not deferrable.
    pub(crate) immediate: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawColumn {
    pub(crate) attnum: i16,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
    pub(crate) type_name: String,
    pub(crate) dropped: bool,
    pub(crate) generated: Generated,
    /// A text, or a domain over one.
    pub(crate) is_text: bool,
}

/// Whether a column is computed, and whether its values can be sent all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generated {
    No,
    /// Stored, and sent if the publication lists it (from PostgreSQL 18 on).
    IfListed,
    Never,
}

impl RawTable {
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    pub(crate) fn name(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.table.clone() }
    }

    /// Whether its rows can be had at all, as far as the catalog tells.
    pub(crate) fn require_readable(&self) -> Result<()> {
        self.obstacle().map_or(Ok(()), Err)
    }

    /// What keeps it from being read.
    pub(crate) fn obstacle(&self) -> Option<Error> {
        self.unpublishable().or_else(|| self.unreadable())
    }

    /// What keeps it from being published, or would have the server refuse the application's own
    /// changes of it if it were.
    pub(crate) fn unpublishable(&self) -> Option<Error> {
        let name = self.full_name();
        if !matches!(self.kind, 'r' | 'p') {
            let help = "take it out of [source] tables".to_owned();
            return Some(self.refuse("it is not a table", help));
        }
        if self.is_partition {
            let help = "name the partitioned table instead".to_owned();
            return Some(self.refuse("it is a partition", help));
        }
        if self.persistence != 'p' {
            let help = format!("ALTER TABLE {name} SET LOGGED;");
            return Some(self.refuse("it is unlogged or temporary, and never replicated", help));
        }
        let identity = if self.append_only { None } else { identity_of(self).err() };
        identity.map(|reason| reason.error(&name))
    }

    /// What keeps us from its rows.
    fn unreadable(&self) -> Option<Error> {
        match self.access {
            Access::Full => None,
            Access::None => {
                let help = format!("GRANT SELECT ON {} TO <role>;", self.full_name());
                Some(self.refuse("SELECT is not granted", help))
            }
            Access::RowsHidden => {
                let help = "ALTER ROLE <role> BYPASSRLS;".to_owned();
                Some(self.refuse("row-level security hides rows of it", help))
            }
        }
    }

    fn refuse(&self, why: &'static str, help: String) -> Error {
        let error = Error::new(ErrorKind::Config, format!("read {}", self.full_name()));
        error.with_source(why).with_help(help)
    }

    /// Whether the column is part of what identifies a row.
    pub(crate) fn is_key(&self, attnum: i16) -> bool {
        identity_of(self).is_ok_and(|identity| identity.attnums.contains(&attnum))
    }

    pub(crate) fn column(&self, attnum: i16) -> Option<&RawColumn> {
        self.columns.iter().find(|column| column.attnum == attnum && !column.dropped)
    }

    /// The columns whose values the stream carries.
    pub(crate) fn published_columns(&self) -> Vec<&RawColumn> {
        let list = self.published.as_ref().map(|published| &published.columns);
        let list = list.filter(|columns| !columns.is_empty());
        let list = list.map(|columns| columns.iter().collect::<HashSet<&String>>());
        let carried = |column: &&RawColumn| {
            let listed = list.as_ref().map(|columns| columns.contains(&column.name));
            !column.dropped
                && match column.generated {
                    Generated::No => listed.unwrap_or(true),
                    Generated::IfListed => listed.unwrap_or(false),
                    Generated::Never => false,
                }
        };
        self.columns.iter().filter(carried).collect()
    }
}

impl RawColumn {
    pub(super) fn wire(&self) -> WireColumn {
        let name = self.name.clone();
        WireColumn { attnum: self.attnum, name, type_oid: self.type_oid, typmod: self.typmod }
    }
}

const TABLES: &str = "
    select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
           c.relispartition, c.relreplident::text,
           pk.indkey::int2[] as pk_columns, pk.indimmediate as pk_immediate,
           ri.indkey::int2[] as ri_columns, ri.indimmediate as ri_immediate,
           pk.indnkeyatts as pk_count, ri.indnkeyatts as ri_count,
           coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), false) as may_select,
           row_security_active(c.oid) as is_row_secured,
           case when c.relkind = 'p' then array(
             select distinct leaf.relreplident::text from pg_partition_tree(c.oid) t
             join pg_class leaf on leaf.oid = t.relid where t.isleaf and leaf.oid <> c.oid)
           else '{}' end as leaf_identities
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join pg_index pk on pk.indrelid = c.oid and pk.indisprimary and pk.indislive
    left join pg_index ri on ri.indrelid = c.oid and ri.indisreplident and ri.indislive";

const COLUMNS: &str = "
    select attrelid, attnum, attname::text, atttypid, atttypmod,
           coalesce(format_type(nullif(atttypid, 0), atttypmod), '') as type_name,
           attisdropped, attgenerated::text as generated,
           current_setting('server_version_num')::int4 >= 180000 as sends_generated,
           coalesce(t.typcategory = 'S', false) as is_text
    from pg_attribute left join pg_type t on t.oid = atttypid where attrelid = any($1) and attnum > 0 order by attrelid, attnum";

/// Reads the configured tables, with what their publication says of them; one that does not exist
/// is left out.
pub(crate) async fn load_by_name(
    client: &Client,
    config: &PostgresConfig,
) -> Result<(Vec<RawTable>, Types)> {
    let names = config.table_names()?;
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let query = format!(
        "{TABLES} join unnest($1::text[], $2::text[]) wanted(schema, name)
         on wanted.schema = n.nspname and wanted.name = c.relname order by c.oid"
    );
    let rows = client.query(&query, &[&schemas, &tables]).await.doing(action)?;
    load(client, rows, config, &[]).await
}

/// Reads the table `oid`, if it still exists, and the types in `type_oids`.
pub(crate) async fn load_by_oid(
    client: &Client,
    oid: u32,
    config: &PostgresConfig,
    type_oids: &[u32],
) -> Result<(Option<RawTable>, Types)> {
    let query = format!("{TABLES} where c.oid = $1");
    let rows = client.query(&query, &[&oid]).await.doing(action)?;
    let (tables, types) = load(client, rows, config, type_oids).await?;
    Ok((tables.into_iter().next(), types))
}

fn action() -> String {
    "read the catalog of the source database".to_owned()
}

async fn load(
    client: &Client,
    rows: Vec<Row>,
    config: &PostgresConfig,
    type_oids: &[u32],
) -> Result<(Vec<RawTable>, Types)> {
    let mut tables = rows.iter().map(raw_table).collect::<Result<Vec<_>, _>>().doing(action)?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let places: HashMap<u32, usize> = (0..).zip(&oids).map(|(place, oid)| (*oid, place)).collect();
    let mut used = BTreeSet::from_iter(type_oids.iter().copied());
    for row in client.query(COLUMNS, &[&oids]).await.doing(action)? {
        let (relation, column) = raw_column(&row).doing(action)?;
        used.insert(column.type_oid);
        if let Some(table) = places.get(&relation).and_then(|place| tables.get_mut(*place)) {
            table.columns.push(column);
        }
    }
    let used: Vec<u32> = used.into_iter().collect();
    let types = load_types(client, &used, config.values).await?;
    let append_only: HashSet<&String> = config.append_only.iter().collect();
    for table in &mut tables {
        table.append_only = append_only.contains(&table.full_name());
    }
    let names: Vec<String> = tables.iter().map(RawTable::full_name).collect();
    let places: HashMap<&str, usize> =
        (0..).zip(&names).map(|(place, name)| (name.as_str(), place)).collect();
    for publication in config.publications() {
        let appends = publication != config.publication;
        for (name, published) in published(client, &publication, &names).await? {
            let table = places.get(name.as_str()).and_then(|place| tables.get_mut(*place));
            if let Some(table) = table.filter(|table| table.append_only == appends) {
                table.published = Some(published);
            }
        }
    }
    Ok((tables, types))
}

/// What the publication says of each table that is in it.
async fn published(
    client: &Client,
    publication: &str,
    names: &[String],
) -> Result<Vec<(String, Published)>> {
    // Column lists and row filters came with PostgreSQL 15.
    let (columns, filter) = match server_version(client).await? {
        150_000.. => ("coalesce(attnames, '{}')::text[]", "rowfilter"),
        _ => ("'{}'::text[]", "null::text"),
    };
    let query = format!(
        "select schemaname || '.' || tablename, {columns}, {filter}
         from pg_publication_tables
         where pubname = $1 and schemaname || '.' || tablename = any($2)"
    );
    let rows = client.query(&query, &[&publication, &names]).await.doing(action)?;
    let read = |row: &Row| {
        let published = Published { columns: row.try_get(1)?, filter: row.try_get(2)? };
        Ok((row.try_get(0)?, published))
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().doing(action)
}

/// `server_version_num`.
pub(crate) async fn server_version(client: &Client) -> Result<u32> {
    let query = "select current_setting('server_version_num')::int4";
    let version: i32 =
        client.query_one(query, &[]).await.and_then(|row| row.try_get(0)).doing(action)?;
    u32::try_from(version).map_err(|error| Error::new(ErrorKind::Bug, action()).with_source(error))
}

fn letter(row: &Row, column: &str) -> Result<char, tokio_postgres::Error> {
    let text: &str = row.try_get(column)?;
    Ok(text.chars().next().unwrap_or(' '))
}

fn raw_table(row: &Row) -> Result<RawTable, tokio_postgres::Error> {
    let index = |columns: &str, immediate: &str, count: &str| {
        let attnums: Option<Vec<i16>> = row.try_get(columns)?;
        let immediate: Option<bool> = row.try_get(immediate)?;
        // Columns that an index only includes come last and identify nothing.
        let count: Option<i16> = row.try_get(count)?;
        let count = usize::try_from(count.unwrap_or_default()).unwrap_or_default();
        Ok::<_, tokio_postgres::Error>(attnums.zip(immediate).map(|(mut attnums, immediate)| {
            attnums.truncate(count);
            RawIndex { attnums, immediate }
        }))
    };
    let leaf_identities: Vec<String> = row.try_get("leaf_identities")?;
    Ok(RawTable {
        oid: row.try_get("oid")?,
        schema: row.try_get("nspname")?,
        table: row.try_get("relname")?,
        kind: letter(row, "relkind")?,
        persistence: letter(row, "relpersistence")?,
        is_partition: row.try_get("relispartition")?,
        replica_identity: letter(row, "relreplident")?,
        primary_key: index("pk_columns", "pk_immediate", "pk_count")?,
        identity_index: index("ri_columns", "ri_immediate", "ri_count")?,
        leaf_identities: leaf_identities.iter().filter_map(|kind| kind.chars().next()).collect(),
        access: match (row.try_get("may_select")?, row.try_get("is_row_secured")?) {
            (true, false) => Access::Full,
            (true, true) => Access::RowsHidden,
            (false, _) => Access::None,
        },
        append_only: false,
        columns: Vec::new(),
        published: None,
    })
}

fn raw_column(row: &Row) -> Result<(u32, RawColumn), tokio_postgres::Error> {
    let generated = match (row.try_get("generated")?, row.try_get("sends_generated")?) {
        ("", _) => Generated::No,
        ("s", true) => Generated::IfListed,
        _ => Generated::Never,
    };
    let column = RawColumn {
        attnum: row.try_get("attnum")?,
        name: row.try_get("attname")?,
        type_oid: row.try_get("atttypid")?,
        typmod: row.try_get("atttypmod")?,
        type_name: row.try_get("type_name")?,
        dropped: row.try_get("attisdropped")?,
        generated,
        is_text: row.try_get("is_text")?,
    };
    Ok((row.try_get("attrelid")?, column))
}
