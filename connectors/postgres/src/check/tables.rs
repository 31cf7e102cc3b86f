//! The tables that are to be read, their partitions, and what never reaches the log.

use anabranch_core::{Level, Result};

use crate::absent;
use crate::catalog::{Access, Generated, RawTable, Types};
use crate::columns::RuleBook;
use crate::error::Context;

use super::{Facts, Findings};

/// Partitions that are named one by one.
const NAMED_MAX: usize = 5;

/// A relation below a table: a partition, or a table that inherits from it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Below {
    /// Quoted where it must be.
    name: String,
    /// `relkind`.
    kind: char,
    /// `relpersistence`.
    persistence: char,
    /// Whether its UPDATEs and DELETEs can name a row: by its primary key, or by FULL.
    has_identity: bool,
    is_partition: bool,
}

// A deferrable index identifies nothing, and of an identity by another index the rows of two
// partitions could not be told from the key alone.
const BELOW: &str = "
    with recursive tree(oid) as (
      select inhrelid from pg_inherits where inhparent = $1
      union all select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid)
    select c.oid::regclass::text as name, c.relkind::text, c.relpersistence::text,
           c.relispartition,
           c.relreplident = 'f' or c.relreplident = 'd' and exists (
             select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate
           ) as has_identity
    from tree join pg_class c on c.oid = tree.oid
    where c.relkind <> 'p' order by 1";

pub(super) async fn look(
    facts: &Facts<'_>,
    (tables, types): (&[RawTable], &Types),
    findings: &mut Findings,
) -> Result<()> {
    let book = RuleBook::new(facts.config);
    for name in facts.config.table_names()? {
        let subject = format!("table {name}");
        let Some(table) = tables.iter().find(|table| table.name() == name) else {
            let known = facts.known.named(&name.schema, &name.name);
            match absent::obstacle(&facts.session, &name, &known).await? {
                Some(error) => findings.blocker(&subject, &error),
                None => findings.risk(&subject, absent::DROPPED, absent::LET_GO),
            }
            continue;
        };
        let before = findings.0.len();
        judge_below(table, &below(facts, table).await?, findings);
        let named = findings.0.iter().skip(before).any(|found| found.level == Level::Blocker);
        // What is not granted is found with the other privileges.
        let granted = RawTable { access: Access::Full, ..table.clone() };
        let obstacle = granted.obstacle().filter(|_| !named);
        let obstacles = obstacle.into_iter().chain(book.obstacles(table, types));
        obstacles.for_each(|error| findings.blocker(&subject, &error));
        judge_columns(table, findings);
        if findings.0.len() == before {
            findings.fine(&subject, identity(table));
        }
    }
    Ok(())
}

async fn below(facts: &Facts<'_>, table: &RawTable) -> Result<Vec<Below>> {
    let action = || format!("look at the partitions of {}", table.full_name());
    let rows = facts.session.query(BELOW, &[&table.oid]).await.doing(action)?;
    let letter = |text: &str| text.chars().next().unwrap_or(' ');
    let read = |row: &tokio_postgres::Row| {
        Ok::<_, tokio_postgres::Error>(Below {
            name: row.try_get("name")?,
            kind: letter(row.try_get("relkind")?),
            persistence: letter(row.try_get("relpersistence")?),
            has_identity: row.try_get("has_identity")?,
            is_partition: row.try_get("relispartition")?,
        })
    };
    rows.iter().map(read).collect::<Result<_, _>>().doing(action)
}

fn judge_below(table: &RawTable, below: &[Below], findings: &mut Findings) {
    let subject = format!("table {}", table.full_name());
    let (partitions, children): (Vec<&Below>, Vec<&Below>) =
        below.iter().partition(|below| below.is_partition);
    let those = |wanted: &dyn Fn(&Below) -> bool| -> Vec<&str> {
        let wanted = partitions.iter().filter(|below| wanted(below));
        wanted.map(|below| below.name.as_str()).collect()
    };
    let foreign = those(&|below| below.kind == 'f');
    if !foreign.is_empty() {
        let seen = format!("changes of foreign {} never reach the log", list(&foreign));
        findings.risk(&subject, seen, "read them where they are, with a source of their own");
    }
    let unlogged = those(&|below| below.kind == 'r' && below.persistence != 'p');
    if !unlogged.is_empty() {
        let seen = format!("changes of unlogged {} never reach the log", list(&unlogged));
        findings.block(&subject, seen, alter(&unlogged, "SET LOGGED"));
    }
    let keyless = those(&|below| below.kind == 'r' && !below.has_identity);
    let by_primary_key = !table.append_only && matches!(table.replica_identity, 'd' | 'f');
    if !keyless.is_empty() && by_primary_key {
        let seen = format!("{} cannot tell their rows apart by the primary key", list(&keyless));
        findings.block(&subject, seen, alter(&keyless, "REPLICA IDENTITY DEFAULT"));
    }
    if !children.is_empty() {
        let names: Vec<&str> = children.iter().map(|below| below.name.as_str()).collect();
        let seen = format!("rows of {}, which inherit from it, are not part of it", list(&names));
        findings.risk(&subject, seen, "name them in [source] tables, too, if they are wanted");
    }
}

fn judge_columns(table: &RawTable, findings: &mut Findings) {
    let published = table.published_columns();
    let is_missing = |name: &str| !published.iter().any(|column| column.name == name);
    let generated = |kind: Generated| -> Vec<&str> {
        let columns = table.columns.iter();
        let columns = columns.filter(|column| !column.dropped && column.generated == kind);
        columns.map(|column| column.name.as_str()).filter(|name| is_missing(name)).collect()
    };
    let subject = format!("table {}", table.full_name());
    let never = generated(Generated::Never);
    if !never.is_empty() {
        let seen = format!("generated columns that never reach the log: {}", list(&never));
        findings.risk(&subject, seen, "compute them from what they are made of, where it is read");
    }
    let unlisted = generated(Generated::IfListed);
    if !unlisted.is_empty() {
        let seen = format!("generated columns that are not published: {}", list(&unlisted));
        let help = "before you begin: create the publication yourself, WITH \
                    (publish_generated_columns = stored)";
        findings.risk(&subject, seen, help);
    }
}

fn identity(table: &RawTable) -> &'static str {
    match table.replica_identity {
        _ if table.append_only => "only inserts and TRUNCATEs are followed",
        'f' => "rows are told apart by the primary key; its replica identity is FULL",
        'i' => "rows are told apart by the index of its replica identity",
        _ => "rows are told apart by the primary key",
    }
}

fn list(names: &[&str]) -> String {
    let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The statement for each, all of them: it is meant to be pasted.
fn alter(names: &[&str], what: &str) -> String {
    let statements: Vec<String> =
        names.iter().map(|name| format!("ALTER TABLE {name} {what};")).collect();
    statements.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;

    fn leaf(name: &str) -> Below {
        Below {
            name: name.into(),
            kind: 'r',
            persistence: 'p',
            has_identity: true,
            is_partition: true,
        }
    }

    fn judged(below: &[Below]) -> Vec<(Level, String, String)> {
        let mut findings = Findings::default();
        judge_below(&RawTable { kind: 'p', ..raw_orders() }, below, &mut findings);
        findings.0.into_iter().map(|found| (found.level, found.seen, found.help)).collect()
    }

    #[test]
    fn partitions_in_order_say_nothing() {
        assert!(judged(&[leaf("o_1"), leaf("o_2")]).is_empty());
    }

    #[test]
    fn what_a_partition_keeps_to_itself_is_named() {
        let below = [
            Below { kind: 'f', has_identity: false, ..leaf("far") },
            Below { persistence: 'u', ..leaf("fast") },
            Below { has_identity: false, ..leaf("bare") },
            Below { is_partition: false, ..leaf("child") },
        ];
        let found = judged(&below);
        let levels: Vec<Level> = found.iter().map(|(level, ..)| *level).collect();
        assert_eq!(levels, [Level::Risk, Level::Blocker, Level::Blocker, Level::Risk]);
        assert!(found[0].1.contains("foreign far"), "{found:?}");
        assert_eq!(found[1].2, "ALTER TABLE fast SET LOGGED;");
        assert_eq!(found[2].2, "ALTER TABLE bare REPLICA IDENTITY DEFAULT;");
        assert!(found[3].1.contains("rows of child"), "{found:?}");
    }

    #[test]
    fn a_long_list_is_cut_and_its_sql_is_not() {
        let below: Vec<Below> =
            (0..7).map(|n| Below { has_identity: false, ..leaf(&format!("o_{n}")) }).collect();
        let found = judged(&below);
        assert!(found[0].1.contains("o_4 and 2 more"), "{found:?}");
        assert_eq!(found[0].2.matches("ALTER TABLE").count(), 7);
    }
}
