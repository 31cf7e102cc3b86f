//! The publication: what the server sends of which tables. It exists before the slot does.

use anabranch_core::{Error, ErrorKind, Result};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::catalog::RawTable;
use crate::error::Context;

/// A publication as `pg_publication` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    name: String,
    /// Inserts, updates, deletes and TRUNCATEs, all of them.
    complete: bool,
    via_root: bool,
}

impl Publication {
    pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let action = || format!("look at publication {name}");
        let query = "
            select pubinsert and pubupdate and pubdelete and pubtruncate, pubviaroot
            from pg_publication where pubname = $1";
        let Some(row) = client.query_opt(query, &[&name]).await.doing(action)? else {
            return Ok(None);
        };
        let complete = row.try_get(0).doing(action)?;
        let via_root = row.try_get(1).doing(action)?;
        Ok(Some(Self { name: name.to_owned(), complete, via_root }))
    }

    /// Whether everything of `tables` is in it; each obstacle with the SQL that mends it.
    pub(crate) fn obstacles(&self, tables: &[RawTable]) -> Vec<Error> {
        let name = escape_identifier(&self.name);
        let mend = |why: String, sql: String| {
            Error::new(ErrorKind::Config, format!("read from publication {}", self.name))
                .with_source(why)
                .with_help(sql)
        };
        let mut obstacles = Vec::new();
        if !self.complete {
            obstacles.push(mend(
                "it leaves out some kinds of changes".to_owned(),
                format!(
                    "ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');"
                ),
            ));
        }
        if !self.via_root && tables.iter().any(|table| table.kind == 'p') {
            obstacles.push(mend(
                "it publishes partitions one by one".to_owned(),
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);"),
            ));
        }
        for table in tables.iter().filter(|table| table.published.is_none()) {
            obstacles.push(mend(
                format!("it does not publish {}", table.full_name()),
                format!(
                    "take the table out of [source] tables; or, to begin anew with it: run \
                     `anabranch teardown`, then ALTER PUBLICATION {name} ADD TABLE {}; if the \
                     publication is still there, and start again",
                    quoted(table)
                ),
            ));
        }
        obstacles
    }
}

/// The SQL that creates the publication.
pub(crate) fn create_sql(name: &str, tables: &[RawTable]) -> String {
    let tables: Vec<String> = tables.iter().map(quoted).collect();
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true);",
        escape_identifier(name),
        tables.join(", ")
    )
}

/// Creates the publication.
pub(crate) async fn create(client: &Client, name: &str, tables: &[RawTable]) -> Result<()> {
    let sql = create_sql(name, tables);
    client.batch_execute(&sql).await.doing(|| format!("create publication {name}")).map_err(
        |error| match error.kind() {
            ErrorKind::Config => error.with_help(format!(
                "let the owner of the tables run it, with CREATE on the database: {sql}"
            )),
            ErrorKind::Transient | ErrorKind::Rejected | ErrorKind::Lost | ErrorKind::Bug => error,
        },
    )
}

/// `"schema"."table"`.
pub(crate) fn quoted(table: &RawTable) -> String {
    format!("{}.{}", escape_identifier(&table.schema), escape_identifier(&table.table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;

    #[test]
    fn the_sql_quotes_names() {
        let odd = RawTable { table: "Od\"d".into(), ..raw_orders() };
        assert_eq!(
            create_sql("p", &[raw_orders(), odd]),
            "CREATE PUBLICATION \"p\" FOR TABLE \"shop\".\"orders\", \"shop\".\"Od\"\"d\" \
             WITH (publish_via_partition_root = true);"
        );
    }

    #[test]
    fn every_obstacle_says_what_mends_it() {
        let partitioned = RawTable { kind: 'p', ..raw_orders() };
        let publication = Publication { name: "p".into(), complete: false, via_root: false };
        let obstacles = publication.obstacles(&[partitioned]);
        let reports: Vec<String> = obstacles.iter().map(Error::report).collect();
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|report| report.contains("ALTER PUBLICATION \"p\"")));
    }
}
