//! What `anabranch check` finds at the control schema.

use anabranch_core::{Error, Finding, Level, Result};
use tokio_postgres::{Client, Row};

use super::{MIGRATIONS, embedded, unreachable};
use crate::config::Config;

/// How the schema is, and what the role may do in its database. Names are quoted where SQL needs it.
#[derive(Clone, Debug)]
struct Facts {
    database: String,
    role: String,
    is_standby: bool,
    /// It may make a schema in the database.
    may_create: bool,
    /// Whom the schema belongs to, if it is there.
    owner: Option<String>,
    access: Access,
    /// The newest migration that was run; 0 if none was, or none can be seen.
    version: i32,
}

/// What the role may do with a schema that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Nothing,
    /// Read and write every table.
    Use,
    /// All: it belongs to the role, or to one that it is a member of.
    Own,
}

const FACTS: &str = "
    SELECT quote_ident(current_database()), quote_ident(current_user), pg_is_in_recovery(),
           has_database_privilege(current_database(), 'CREATE'),
           max(quote_ident(pg_get_userbyid(n.nspowner))), coalesce(bool_and(pg_has_role(n.nspowner, 'USAGE')), true),
           coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND (
               SELECT coalesce(bool_and(has_table_privilege(c.oid, 'SELECT')
                   AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
                   AND has_table_privilege(c.oid, 'DELETE')), true)
               FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r')), true)
    FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'anabranch'";

/// Looks at whether requests can be kept, and changes nothing.
pub async fn check(config: &Config) -> Vec<Finding> {
    let (database, setting) = config.control_database();
    let looked = async {
        let client = anabranch_postgres::connect(&database).await?;
        let facts = Facts::read(&client).await?;
        Ok::<_, Error>((facts, dropped_slot(&client, &config.source.slot).await))
    };
    match looked.await {
        Err(error) => {
            let error = error.renaming("[source] url", setting);
            vec![Finding::blocker("control: connection", &error, &format!("check {setting}"))]
        }
        Ok((facts, dropped)) => {
            let dropped = dropped.map(|cause| {
                let help = "`anabranch source accept` shows the ways on, if the log needs it";
                Finding::trouble(Level::Risk, "control: WAL guard", cause, help)
            });
            [facts.judge()].into_iter().chain(dropped).collect()
        }
    }
}

/// When and why the WAL guard has given the slot up; `None` if it has not, or nothing can be read.
async fn dropped_slot(client: &Client, slot: &str) -> Option<String> {
    let query =
        "SELECT 'it dropped slot ' || slot || ' at ' || dropped_at::timestamptz(0) || ': ' || cause
                 FROM anabranch.dropped_slots WHERE slot = $1";
    let row = client.query_opt(query, &[&slot]).await.ok().flatten();
    row.and_then(|row| row.try_get(0).ok())
}

impl Facts {
    async fn read(client: &Client) -> Result<Self> {
        let failed = |error| unreachable("look at the control schema", error);
        let row = client.query_one(FACTS, &[]).await.map_err(failed)?;
        let mut facts = Self::of(&row).map_err(failed)?;
        // A schema without that table is one that no release of ours has finished.
        let version = format!("SELECT max(version) FROM {MIGRATIONS}");
        if let Ok(row) = client.query_one(&version, &[]).await {
            facts.version = row.try_get::<_, Option<i32>>(0).map_err(failed)?.unwrap_or(0);
        }
        Ok(facts)
    }

    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            database: row.try_get(0)?,
            role: row.try_get(1)?,
            is_standby: row.try_get(2)?,
            may_create: row.try_get(3)?,
            owner: row.try_get(4)?,
            access: match (row.try_get(5)?, row.try_get(6)?) {
                (true, _) => Access::Own,
                (false, true) => Access::Use,
                (false, false) => Access::Nothing,
            },
            version: 0,
        })
    }

    fn judge(&self) -> Finding {
        let subject = "control: schema";
        let block =
            |seen: String, help: String| Finding::trouble(Level::Blocker, subject, seen, help);
        if self.is_standby {
            let seen = format!("database {} is a standby's, and cannot be written", self.database);
            return block(seen, "name the primary in [control] url".to_owned());
        }
        let Some(owner) = &self.owner else {
            if self.may_create {
                return Finding::fine(
                    subject,
                    format!("`run` makes it in database {}", self.database),
                );
            }
            return block(
                format!("role {} may not make it in database {}", self.role, self.database),
                format!("GRANT CREATE ON DATABASE {} TO {};", self.database, self.role),
            );
        };
        let newest = newest();
        let grant = format!("GRANT {owner} TO {};", self.role);
        let stale = self.version < newest;
        match self.access {
            Access::Nothing => {
                block(format!("it is {owner}'s, and role {} may not use it", self.role), grant)
            }
            Access::Use if stale => {
                let seen =
                    format!("it is {owner}'s, and role {} may not bring it up to date", self.role);
                block(seen, grant)
            }
            Access::Use | Access::Own if self.version > newest => block(
                format!("it has migration {}, and this release ends at {newest}", self.version),
                "run the release that made it, or a newer one".to_owned(),
            ),
            Access::Own if stale => {
                let seen = format!("`run` brings it up to date in database {}", self.database);
                Finding::fine(subject, seen)
            }
            Access::Use | Access::Own => {
                Finding::fine(subject, format!("up to date in database {}", self.database))
            }
        }
    }
}

/// The newest migration of this release.
fn newest() -> i32 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            database: "shop".into(),
            role: "app".into(),
            is_standby: false,
            may_create: false,
            owner: Some("dba".into()),
            access: Access::Own,
            version: newest(),
        }
    }

    #[test]
    fn a_schema_that_can_be_used_is_fine() {
        let fine = |facts: Facts| assert_eq!(facts.judge().level, Level::Fine, "{facts:?}");
        fine(facts());
        fine(Facts { access: Access::Use, ..facts() });
        fine(Facts { version: 1, ..facts() });
        fine(Facts { owner: None, may_create: true, version: 0, ..facts() });
    }

    #[test]
    fn what_is_missing_comes_with_its_statement() {
        let cases = [
            (Facts { owner: None, ..facts() }, "GRANT CREATE ON DATABASE shop TO app;"),
            (Facts { access: Access::Nothing, ..facts() }, "GRANT dba TO app;"),
            (Facts { access: Access::Use, version: 1, ..facts() }, "GRANT dba TO app;"),
            (
                Facts { version: newest() + 1, ..facts() },
                "run the release that made it, or a newer one",
            ),
            (Facts { is_standby: true, ..facts() }, "name the primary in [control] url"),
        ];
        for (facts, help) in cases {
            let Finding { level, help: given, .. } = facts.judge();
            assert_eq!((level, given.as_str()), (Level::Blocker, help), "{facts:?}");
        }
    }
}
