//! The publications: what the server sends of which tables. They exist before the slot does.
//!
//! ```text
//! tables with a key ── <publication>          insert, update, delete, truncate
//! append-only ones  ── <publication>_append   insert, truncate
//! ```
//!
//! The invariant: no publication of ours makes an application's statement fail. PostgreSQL refuses
//! to update a row that nothing identifies as long as any publication of its table sends updates,
//! so the tables of which we follow the inserts have one that does not.
//!
//! A publication of ours lists no columns, not even where some are excluded: a list is fixed, so a
//! column that is added later would never come, and no update would get through from the moment
//! that a table is given `REPLICA IDENTITY FULL`. What is excluded is dropped as it arrives. A
//! publication that lists columns is followed as it is.

use anabranch_core::{Error, ErrorKind, Result};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::catalog::RawTable;
use crate::config::PostgresConfig;
use crate::error::Context;

/// What is asked of a publication.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: String,
    /// It is the one of the append-only tables.
    append_only: bool,
    tables: Vec<&'a RawTable>,
}

/// A publication as `pg_publication` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    name: String,
    /// Inserts and TRUNCATEs.
    appends: bool,
    /// Updates and deletes, both or not even one of them.
    changes: Option<bool>,
    via_root: bool,
    /// Append-only tables that are in it, quoted.
    append_only: Vec<String>,
    /// Those of them that it names; the others it takes in with a schema, or with all tables.
    named: Vec<String>,
}

impl<'a> Wanted<'a> {
    /// What is wanted of the publication called `name`, if `tables` are those that are read.
    pub(crate) fn new(config: &PostgresConfig, name: &str, tables: &'a [RawTable]) -> Self {
        let append_only = name != config.publication;
        let tables = tables.iter().filter(|table| table.append_only == append_only).collect();
        Self { name: name.to_owned(), append_only, tables }
    }

    /// The tables' names, for people.
    pub(crate) fn table_names(&self) -> String {
        let names = self.tables.iter().map(|table| table.full_name());
        names.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn oids(&self) -> Vec<u32> {
        self.tables.iter().map(|table| table.oid).collect()
    }

    fn kinds(&self) -> &'static str {
        if self.append_only { "insert, truncate" } else { "insert, update, delete, truncate" }
    }

    /// The SQL that creates the publication.
    pub(crate) fn create_sql(&self) -> String {
        // Without ONLY the children of an inherited table would be in it, too.
        let only = |table: &RawTable| if table.kind == 'p' { "" } else { "ONLY " };
        let table = |table: &&RawTable| format!("{}{}", only(table), quoted(table));
        let publish = if self.append_only {
            format!("publish = '{}', ", self.kinds())
        } else {
            String::new()
        };
        let tables: Vec<String> = self.tables.iter().map(table).collect();
        let tables = match tables.as_slice() {
            [] => String::new(),
            tables => format!(" FOR TABLE {}", tables.join(", ")),
        };
        format!(
            "CREATE PUBLICATION {}{tables} WITH ({publish}publish_via_partition_root = true);",
            escape_identifier(&self.name),
        )
    }
}

impl Publication {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn read(
        client: &Client,
        config: &PostgresConfig,
        name: &str,
    ) -> Result<Option<Self>> {
        let action = || format!("look at publication {name}");
        let query = "
            select pubinsert and pubtruncate,
                   case when pubupdate = pubdelete then pubupdate end, pubviaroot,
                   array(select format('%I.%I', schemaname, tablename) from pg_publication_tables
                         where pubname = $1 and schemaname || '.' || tablename = any($2)),
                   array(select format('%I.%I', n.nspname, c.relname) from pg_publication_rel r
                         join pg_class c on c.oid = r.prrelid
                         join pg_namespace n on n.oid = c.relnamespace where r.prpubid = p.oid
                         and n.nspname || '.' || c.relname = any($2))
            from pg_publication p where pubname = $1";
        let row = client.query_opt(query, &[&name, &config.append_only]).await.doing(action)?;
        let read = |row: tokio_postgres::Row| {
            Ok::<_, tokio_postgres::Error>(Self {
                name: name.to_owned(),
                appends: row.try_get(0)?,
                changes: row.try_get(1)?,
                via_root: row.try_get(2)?,
                append_only: row.try_get(3)?,
                named: row.try_get(4)?,
            })
        };
        row.map(read).transpose().doing(action)
    }

    /// Whether it is what is wanted; each obstacle with the SQL that mends it.
    pub(crate) fn obstacles(&self, wanted: &Wanted<'_>) -> Vec<Error> {
        let name = escape_identifier(&self.name);
        let mend = |why: String, sql: String| {
            Error::new(ErrorKind::Config, format!("read from publication {}", self.name))
                .with_source(why)
                .with_help(sql)
        };
        let mut obstacles = Vec::new();
        if !self.appends || self.changes != Some(!wanted.append_only) {
            let why = if self.appends && wanted.append_only {
                "it publishes updates or deletes, which PostgreSQL refuses where no key tells rows \
                 apart"
            } else {
                "it leaves out some kinds of changes"
            };
            let sql = format!("ALTER PUBLICATION {name} SET (publish = '{}');", wanted.kinds());
            obstacles.push(mend(why.to_owned(), sql));
        }
        let partitioned = wanted.tables.iter().filter(|table| table.kind == 'p');
        let partitioned: Vec<String> = partitioned.map(|table| table.full_name()).collect();
        if !self.via_root && !partitioned.is_empty() {
            obstacles.push(mend(
                format!("it publishes the partitions of {} one by one", partitioned.join(", ")),
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);"),
            ));
        }
        for table in wanted.tables.iter().filter(|table| table.published.is_none()) {
            obstacles.push(mend(
                format!("it does not publish {}", table.full_name()),
                format!(
                    "ALTER PUBLICATION {name} ADD TABLE {}; or take it out of [source] tables. \
                     If the table was in the publication before, `anabranch source accept` then says \
                     how to go on",
                    quoted(table)
                ),
            ));
        }
        for table in self.append_only.iter().filter(|_| !wanted.append_only) {
            let sql = if self.named.contains(table) {
                format!("ALTER PUBLICATION {name} DROP TABLE {table};")
            } else {
                "no table can be taken out of it: before the first start, let [source] publication \
                 name another one, which lists its tables"
                    .to_owned()
            };
            let why = format!("it publishes updates of {table}, which is append-only");
            obstacles.push(mend(why, sql));
        }
        obstacles
    }
}

/// Creates the publication.
pub(crate) async fn create(client: &Client, wanted: &Wanted<'_>) -> Result<()> {
    let sql = wanted.create_sql();
    let created = client.batch_execute(&sql).await;
    created.doing(|| format!("create publication {}", wanted.name)).map_err(|error| {
        match error.kind() {
            ErrorKind::Config => error.with_help(format!(
                "let the owner of the tables run it, with CREATE on the database: {sql}"
            )),
            ErrorKind::Transient | ErrorKind::Rejected | ErrorKind::Lost | ErrorKind::Bug => error,
        }
    })
}

/// Whether the publications still send every table of `oids` that exists.
pub(crate) async fn require_published(
    client: &Client,
    names: &[String],
    oids: &[u32],
) -> Result<()> {
    let action = || format!("look at the tables of publication {}", names.join(", "));
    let query = "
        select n.nspname || '.' || c.relname
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = any($2) and not exists (
          select from pg_publication_tables
          where pubname = any($1) and schemaname = n.nspname and tablename = c.relname)
        order by 1 limit 1";
    let Some(row) = client.query_opt(query, &[&names, &oids]).await.doing(action)? else {
        return Ok(());
    };
    let table: &str = row.try_get(0).doing(action)?;
    Err(Error::new(ErrorKind::Config, format!("go on with {table}"))
        .with_source(format!("{} does not publish {table} any more", names.join(", ")))
        .with_help(format!(
            "changes of it are missing from the log: take it out of [source] tables; or add it again, \
             ALTER PUBLICATION .. ADD TABLE {table};, start again, and `anabranch source accept` says \
             how to go on"
        )))
}

/// `"schema"."table"`.
pub(crate) fn quoted(table: &RawTable) -> String {
    quoted_name(&table.schema, &table.table)
}

pub(crate) fn quoted_name(schema: &str, table: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;

    fn wanted<'a>(tables: &'a [RawTable], append_only: bool) -> Wanted<'a> {
        Wanted { name: "p".into(), append_only, tables: tables.iter().collect() }
    }

    #[test]
    fn the_sql_quotes_names_and_leaves_children_out() {
        let odd = RawTable { table: "Od\"d".into(), kind: 'p', ..raw_orders() };
        let tables = [raw_orders(), odd];
        assert_eq!(
            wanted(&tables, false).create_sql(),
            "CREATE PUBLICATION \"p\" FOR TABLE ONLY \"shop\".\"orders\", \"shop\".\"Od\"\"d\" \
             WITH (publish_via_partition_root = true);"
        );
        let sql = wanted(&tables, true).create_sql();
        assert!(sql.contains("(publish = 'insert, truncate', publish_via"), "{sql}");
    }

    #[test]
    fn every_obstacle_says_what_mends_it() {
        let tables = [RawTable { kind: 'p', ..raw_orders() }];
        let publication = Publication {
            name: "p".into(),
            appends: true,
            changes: Some(false),
            via_root: false,
            append_only: vec!["shop.\"Audit\"".into(), "shop.trail".into()],
            named: vec!["shop.\"Audit\"".into()],
        };
        let reports = |append_only| {
            let obstacles = publication.obstacles(&wanted(&tables, append_only));
            obstacles.iter().map(Error::report).collect::<Vec<_>>()
        };
        assert_eq!(reports(false).len(), 5);
        let (taken_in, others) = { reports(false) }
            .split_last()
            .map(|(last, rest)| (last.clone(), rest.to_vec()))
            .unwrap();
        assert!(others.iter().all(|report| report.contains("ALTER PUBLICATION \"p\"")));
        assert!(others[3].contains("DROP TABLE shop.\"Audit\";"), "{others:?}");
        assert!(taken_in.contains("another one"), "{taken_in}");
        assert!(reports(false)[1].contains("shop.orders"));
        assert_eq!(reports(true).len(), 2, "it sends what is wanted, but not of this table");
        let changes = Publication { changes: None, ..publication.clone() };
        let obstacles = changes.obstacles(&wanted(&tables, true));
        assert!(obstacles[0].report().contains("SET (publish = 'insert, truncate')"));
    }
}
