//! The publication, and what any publication does to the application: a table that is published
//! without a usable identity rejects its own UPDATEs and DELETEs.

use anabranch_core::Result;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Row;

use crate::catalog::RawTable;
use crate::error::Context;
use crate::publication::{Publication, Wanted};
use crate::slot::Slot;

use super::{Facts, Findings};

/// Tables that are named one by one.
const NAMED_MAX: usize = 5;

/// Which tables a publication takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    List,
    Schemas,
    AllTables,
}

/// A publication of UPDATEs or DELETEs, and the tables that it makes reject them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Effects {
    publication: String,
    scope: Scope,
    /// Quoted where they must be.
    keyless: Vec<String>,
}

/// A row filter or a column list that does not go with the replica identity of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Restricted {
    publication: String,
    table: String,
    /// Columns of the filter that are not part of the identity.
    filtered: Vec<String>,
    /// Columns of the identity that are not in the list.
    unlisted: Vec<String>,
}

pub(super) async fn look(
    facts: &Facts<'_>,
    tables: &[RawTable],
    findings: &mut Findings,
) -> Result<()> {
    let ours = facts.config.publications();
    // What is wrong with the others is said of them; a publication of theirs would have the server
    // refuse it, or the application's own statements.
    let (fit, unfit): (Vec<RawTable>, Vec<RawTable>) =
        tables.iter().cloned().partition(|table| table.unpublishable().is_none());
    for name in &ours {
        let of = |tables| Wanted::new(facts.config, name, tables);
        let wanted = of(&fit);
        match Publication::read(&facts.session, facts.config, name).await? {
            Some(publication) => {
                let seen = format!("{name} publishes the tables that are read");
                findings.each("publication", &publication.obstacles(&wanted), seen);
            }
            None => missing(facts, (&wanted, &of(&unfit)), findings).await?,
        }
    }
    for effects in effects(facts).await? {
        judge_effects(&ours, &effects, findings);
    }
    for restricted in restricted(facts).await? {
        judge_restricted(&ours, &restricted, findings);
    }
    Ok(())
}

/// Whether the publication that is missing could be created.
async fn missing(
    facts: &Facts<'_>,
    (wanted, unfit): (&Wanted<'_>, &Wanted<'_>),
    findings: &mut Findings,
) -> Result<()> {
    let name = &wanted.name;
    if let Some(slot) = Slot::read(&facts.session, &facts.config.slot).await? {
        findings.block(
            "publication",
            format!("{name} does not exist, and slot {} cannot go on without it", slot.name),
            "`anabranch source accept` shows the ways on",
        );
        return Ok(());
    }
    let query = "
        select has_database_privilege(current_database(), 'create')
               and not exists (select from pg_class where oid = any($1)
                               and not pg_has_role(relowner, 'usage'))";
    let row = facts.session.query_one(query, &[&wanted.oids()]).await;
    let may: bool = row.and_then(|row| row.try_get(0)).doing(|| "look at privileges".to_owned())?;
    if may {
        findings.fine("publication", format!("{name} will be created"));
        return Ok(());
    }
    let seen = format!("{name} does not exist, and the role may not create it");
    let sql = wanted.create_sql();
    let run = format!("let the owner of the tables run it, with CREATE on the database: {sql}");
    let help = match (wanted.table_names().as_str(), unfit.table_names().as_str()) {
        ("", _) => "mend the tables first, then run check again".to_owned(),
        (_, "") => run,
        (_, unfit) => format!("{run} (without {unfit}: mend that first)"),
    };
    findings.block("publication", seen, help);
    Ok(())
}

/// What each publication of this database does, without those that do no harm.
async fn effects(facts: &Facts<'_>) -> Result<Vec<Effects>> {
    // Publications of schemas came with PostgreSQL 15.
    let of_schemas = match facts.server.version {
        150_000.. => "exists (select from pg_publication_namespace where pnpubid = p.oid)",
        _ => "false",
    };
    // A changed row is written by the leaf it is in, so it is the leaf's identity that counts.
    let query = format!(
        "with published as (
           select p.pubname, p.puballtables as of_all, {of_schemas} as of_schemas, c.oid as relid
           from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
           join pg_namespace n on n.nspname = t.schemaname
           join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
           where p.pubupdate or p.pubdelete),
         leaves as (
           select pubname, of_all, of_schemas, relid as leaf from published
           union select pubname, of_all, of_schemas, t.relid
           from published cross join lateral pg_partition_tree(relid) t)
         select l.pubname::text, l.of_all, l.of_schemas,
                coalesce(array_agg(c.oid::regclass::text order by 1) filter (where not coalesce(
                  c.relreplident = 'f' or c.relreplident in ('d', 'i') and exists (
                    select from pg_index i
                    where i.indrelid = c.oid and i.indimmediate and i.indisvalid
                    and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end),
                  false)), '{{}}') as keyless
         from leaves l join pg_class c on c.oid = l.leaf
         where c.relkind = 'r' and c.relpersistence = 'p'
         group by 1, 2, 3 order by 1"
    );
    let action = || "look at the publications".to_owned();
    let rows = facts.session.query(&query, &[]).await.doing(action)?;
    let read = |row: &Row| {
        let (of_all, of_schemas): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
        let scope = match (of_all, of_schemas) {
            (true, _) => Scope::AllTables,
            (false, true) => Scope::Schemas,
            (false, false) => Scope::List,
        };
        Ok(Effects { publication: row.try_get(0)?, scope, keyless: row.try_get(3)? })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().doing(action)
}

/// Filters and lists that make the server refuse changes. They came with PostgreSQL 15.
async fn restricted(facts: &Facts<'_>) -> Result<Vec<Restricted>> {
    if facts.server.version < 150_000 {
        return Ok(Vec::new());
    }
    // What an entry depends on are the columns of its list and of its filter; one that is in both
    // is found by its name in the filter's text.
    let query = "
        with entries as (
          select p.pubname::text as publication, c.oid, c.oid::regclass::text as name,
                 c.relreplident = 'f' as is_full, pr.prattrs::int2[] as listed,
                 pg_get_expr(pr.prqual, pr.prrelid) as filter,
                 array(select d.refobjsubid::int2 from pg_depend d
                       where d.classid = 'pg_publication_rel'::regclass and d.objid = pr.oid
                       and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
                       and d.refobjsubid > 0) as used,
                 coalesce((select i.indkey::int2[] from pg_index i where i.indrelid = c.oid
                           and case c.relreplident when 'd' then i.indisprimary
                               when 'i' then i.indisreplident else false end), '{}') as identity
          from pg_publication_rel pr join pg_publication p on p.oid = pr.prpubid
          join pg_class c on c.oid = pr.prrelid
          where (p.pubupdate or p.pubdelete) and (pr.prqual is not null or pr.prattrs is not null))
        select publication, name,
               array(select a.attname::text from pg_attribute a where a.attrelid = e.oid
                     and filter is not null and not is_full and a.attnum = any(used)
                     and not a.attnum = any(identity)
                     and (listed is null or not a.attnum = any(listed)
                          or position(quote_ident(a.attname) in filter) > 0)) as filtered,
               array(select a.attname::text from pg_attribute a where a.attrelid = e.oid
                     and listed is not null and a.attnum > 0 and not a.attisdropped
                     and (is_full or a.attnum = any(identity))
                     and not a.attnum = any(listed)) as unlisted
        from entries e order by 1, 2";
    let action = || "look at row filters and column lists".to_owned();
    let rows = facts.session.query(query, &[]).await.doing(action)?;
    let read = |row: &Row| {
        Ok(Restricted {
            publication: row.try_get(0)?,
            table: row.try_get(1)?,
            filtered: row.try_get(2)?,
            unlisted: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().doing(action)
}

/// The changes of the application that fail are a risk, not a blocker: they fail already, and we
/// can read the rest.
fn judge_effects(ours: &[String], effects: &Effects, findings: &mut Findings) {
    let Effects { publication, scope, keyless } = effects;
    let subject = format!("publication {publication}");
    let takes = match scope {
        Scope::List => "",
        Scope::Schemas => ", as FOR TABLES IN SCHEMA takes them in",
        Scope::AllTables => ", as FOR ALL TABLES takes them in",
    };
    if !keyless.is_empty() {
        let named = keyless.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = match keyless.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let seen = format!(
            "the application's UPDATE and DELETE fail on {named}{more}: no replica identity{takes}"
        );
        let statement = |table: &String| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
        let statements: Vec<String> = keyless.iter().map(statement).collect();
        findings.risk(subject, seen, format!("ADD PRIMARY KEY (..), or: {}", statements.join(" ")));
    } else if ours.contains(publication) && *scope != Scope::List {
        findings.risk(
            subject,
            format!(
                "a table without a key that is made later will reject UPDATE and DELETE{takes}"
            ),
            "publish the tables by name, when you begin anew; until then give each new table a \
             primary key",
        );
    }
}

fn judge_restricted(ours: &[String], restricted: &Restricted, findings: &mut Findings) {
    let Restricted { publication, table, filtered, unlisted } = restricted;
    let subject = format!("publication {publication}");
    if !filtered.is_empty() {
        let columns = filtered.join(", ");
        let seen = format!(
            "the application's UPDATE and DELETE fail on {table}: the row filter uses {columns}, \
             which its replica identity leaves out"
        );
        findings.risk(&subject, seen, format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"));
    }
    if !unlisted.is_empty() {
        let columns: Vec<String> = unlisted.iter().map(|name| escape_identifier(name)).collect();
        let seen = format!(
            "the application's UPDATE and DELETE fail on {table}: the column list leaves out {} of \
             its replica identity",
            unlisted.join(", ")
        );
        let help = format!(
            "ALTER PUBLICATION {} SET TABLE .., with {} in the column list of {table}",
            escape_identifier(publication),
            columns.join(", ")
        );
        // Without its key a row cannot be read, either.
        if ours.contains(publication) {
            findings.block(&subject, seen, help);
        } else {
            findings.risk(&subject, seen, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Level;

    use super::*;

    fn judged(effects: &Effects) -> Vec<(Level, String, String)> {
        let mut findings = Findings::default();
        judge_effects(&["ours".to_owned()], effects, &mut findings);
        findings.0.into_iter().map(|found| (found.level, found.seen, found.help)).collect()
    }

    fn effects(publication: &str, scope: Scope, keyless: &[&str]) -> Effects {
        let keyless = keyless.iter().map(|name| (*name).to_owned()).collect();
        Effects { publication: publication.into(), scope, keyless }
    }

    #[test]
    fn a_publication_that_breaks_the_application_is_named_with_every_table() {
        let found = judged(&effects("ours", Scope::AllTables, &["a", "b"]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Level::Risk);
        assert!(found[0].1.contains("FOR ALL TABLES"), "{found:?}");
        let sql = "ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE b REPLICA IDENTITY FULL;";
        assert!(found[0].2.contains(sql), "{found:?}");
        let found = judged(&effects("theirs", Scope::Schemas, &["a"]));
        assert_eq!(found[0].0, Level::Risk);
        assert!(found[0].1.contains("IN SCHEMA"), "{found:?}");
    }

    #[test]
    fn all_tables_is_a_risk_for_those_to_come() {
        assert_eq!(judged(&effects("ours", Scope::AllTables, &[]))[0].0, Level::Risk);
        assert!(judged(&effects("ours", Scope::List, &[])).is_empty());
        assert!(judged(&effects("theirs", Scope::AllTables, &[])).is_empty());
    }

    #[test]
    fn filters_and_lists_that_leave_the_identity_out_are_named() {
        let restricted = Restricted {
            publication: "ours".into(),
            table: "t".into(),
            filtered: vec!["state".into()],
            unlisted: vec!["id".into()],
        };
        let mut findings = Findings::default();
        judge_restricted(&["ours".to_owned()], &restricted, &mut findings);
        let levels: Vec<Level> = findings.0.iter().map(|found| found.level).collect();
        assert_eq!(levels, [Level::Risk, Level::Blocker]);
        assert!(findings.0[0].help.contains("REPLICA IDENTITY FULL"));
        assert!(findings.0[1].help.contains("\"id\" in the column list of t"));
    }
}
