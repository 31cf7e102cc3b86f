//! By which rows of the catalog the tables are published, and whether these are still the same.
//!
//! ```text
//! catalog ── Found::read ──▶ differs from the position record's? ─ yes ─▶ Loss: nothing tells what was left out
//!                                                               └─ no ──▶ the record says so, as of now
//! ```
//!
//! The invariant: what differs never gets into a position record before a person, the policy or a
//! snapshot has settled it. A look comes before the stream starts and every few seconds then, so an
//! alteration that it misses is found by the next one.
//!
//! *What a row tells.* PostgreSQL never updates a row of `pg_publication_rel`: a table that is taken
//! out and added again has a new one, as has one whose row filter or column list was set. A row of
//! `pg_publication` is updated by `SET`, `OWNER TO` and `RENAME`, and by nothing else. Other tables
//! of a publication, partitions, and vacuum leave both alone.

use std::collections::BTreeMap;

use anabranch_core::{Error, ErrorKind, Lsn, Membership, Result};
use tokio_postgres::{Client, Row};

use crate::catalog::{Catalog, RawTable};
use crate::config::PostgresConfig;
use crate::error::Context;

/// Tables that a message names.
const NAMED_MAX: usize = 3;

/// A table that is read, and whether only its inserts are.
pub(crate) type Wanted = (u32, bool);

/// All tables of a catalog.
pub(crate) fn wanted(catalog: &Catalog) -> Vec<Wanted> {
    let tables = catalog.tables().into_iter();
    tables
        .filter_map(|table| Some((table.oid, catalog.relation(table.oid)?.is_append_only())))
        .collect()
}

/// The rows that are there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// What committed before this position of the WAL was seen.
    pub(crate) at: Lsn,
    /// Those of `pg_publication` by name, if they are there.
    publications: BTreeMap<String, PublicationRow>,
    tables: Vec<TableRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicationRow {
    oid: String,
    xmin: String,
    /// It sends every kind of change that is wanted of it.
    is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TableRow {
    oid: u32,
    name: String,
    publication: String,
    /// `None` if the table is not published.
    mark: Option<u32>,
}

impl Found {
    /// Looks at the tables that the configuration names, as far as they exist.
    pub(crate) async fn by_name(client: &Client, config: &PostgresConfig) -> Result<Self> {
        let names = config.table_names()?;
        let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
        let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
        let query = "
            select c.oid, n.nspname || '.' || c.relname = any($3)
            from unnest($1::text[], $2::text[]) wanted(schema, name)
            join pg_namespace n on n.nspname = wanted.schema
            join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name";
        let rows = client.query(query, &[&schemas, &tables, &config.append_only]).await;
        let wanted = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let wanted: Result<Vec<Wanted>, tokio_postgres::Error> =
            rows.doing(action)?.iter().map(wanted).collect();
        Self::read(client, config, &wanted.doing(action)?).await
    }

    /// Looks at `tables`, as a snapshot that is consistent at `point` has them.
    pub(crate) async fn in_snapshot(
        client: &Client,
        config: &PostgresConfig,
        tables: &[RawTable],
        point: Lsn,
    ) -> Result<Self> {
        let wanted: Vec<Wanted> =
            tables.iter().map(|table| (table.oid, table.append_only)).collect();
        let found = Self::read(client, config, &wanted).await?;
        Ok(Self { at: point, ..found })
    }

    /// Looks at the tables `wanted`, as far as they exist.
    pub(crate) async fn read(
        client: &Client,
        config: &PostgresConfig,
        wanted: &[Wanted],
    ) -> Result<Self> {
        // First: what commits after this may or may not be seen below.
        let (at, has_schemas) = position(client).await?;
        let schemas = if has_schemas {
            "union all select s.oid, s.xmin from pg_publication_namespace s
             where s.pnpubid = p.oid and s.pnnspid = c.relnamespace"
        } else {
            ""
        };
        // One statement, so all is of one moment. Of several rows the oldest counts: it is the one
        // that the others changed nothing about.
        let query = format!(
            "select c.oid, n.nspname || '.' || c.relname, w.publication, p.oid::text, p.xmin::text,
                    p.pubinsert and p.pubtruncate and p.pubupdate <> w.append_only
                    and p.pubdelete <> w.append_only,
                    case when c.relkind <> 'p' or p.pubviaroot then (
                      select m.xmin::text::int8 from (
                        select r.oid, r.xmin from pg_publication_rel r
                        where r.prpubid = p.oid and r.prrelid = c.oid
                        {schemas}
                        union all select 0::oid, '0'::xid where p.puballtables) m
                      order by m.oid limit 1) end
             from (select u.oid, u.append_only,
                          case when u.append_only then $4 else $3 end as publication
                   from unnest($1::oid[], $2::bool[]) u(oid, append_only)) w
             join pg_class c on c.oid = w.oid join pg_namespace n on n.oid = c.relnamespace
             left join pg_publication p on p.pubname = w.publication order by c.oid"
        );
        let (oids, appended): (Vec<u32>, Vec<bool>) = wanted.iter().copied().unzip();
        let (main, append) = (&config.publication, config.append_publication());
        let rows = client.query(&query, &[&oids, &appended, main, &append]).await;
        let mut found = Self { at, publications: BTreeMap::new(), tables: Vec::new() };
        for row in rows.doing(action)? {
            found.take(&row).doing(action)?;
        }
        Ok(found)
    }

    fn take(&mut self, row: &Row) -> Result<(), tokio_postgres::Error> {
        let publication: String = row.try_get(2)?;
        if let (Some(oid), Some(xmin), Some(is_whole)) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?)
        {
            let row = PublicationRow { oid, xmin, is_whole };
            self.publications.insert(publication.clone(), row);
        }
        let mark: Option<i64> = row.try_get(6)?;
        let mark = mark.and_then(|mark| u32::try_from(mark).ok());
        self.tables.push(TableRow {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            publication,
            mark,
        });
        Ok(())
    }

    /// What goes into the position record; `None` if a table is not published now, or not with all
    /// that is wanted of it.
    pub(crate) fn membership(&self) -> Option<Membership> {
        if !self.publications.values().all(|publication| publication.is_whole) {
            return None;
        }
        let publications = self.publications.iter();
        let publications = publications.map(|(name, row)| (name.clone(), row.to_string()));
        let marks = self.tables.iter().map(|table| Some((table.oid, table.mark?)));
        Some(Membership {
            at: self.at,
            publications: publications.collect(),
            tables: marks.collect::<Option<Vec<_>>>()?.into_iter().collect(),
        })
    }

    /// What the position record is to say, where it has said `before`: what differs stays as it was
    /// until that is settled.
    pub(crate) fn carry(&self, before: Option<Membership>) -> Option<Membership> {
        match before {
            Some(before) if self.changed_since(&before).is_some() => Some(before),
            before => self.membership().or(before),
        }
    }

    /// What is not as it was in `before`; `None` if all is. What is not published at all now, or was
    /// not read before, is for others to judge.
    pub(crate) fn changed_since(&self, before: &Membership) -> Option<String> {
        let was_read = |table: &&TableRow| before.tables.get(table.oid).is_some();
        let mut through = self.tables.iter().filter(was_read).map(|table| &table.publication);
        let publication = through.find_map(|name| {
            self.publications.get(name).and_then(|row| row.changed_since(name, before))
        });
        publication.or_else(|| self.tables_changed_since(before))
    }

    fn tables_changed_since(&self, before: &Membership) -> Option<String> {
        let is_changed = |table: &&TableRow| {
            table.mark.zip(before.tables.get(table.oid)).is_some_and(|(now, then)| now != then)
        };
        let mut changed = self.tables.iter().filter(is_changed).peekable();
        let publication = &changed.peek()?.publication;
        let names: Vec<&str> = changed.map(|table| table.name.as_str()).collect();
        let (named, more) = names.split_at(NAMED_MAX.min(names.len()));
        let more =
            if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        let (was, has) = if names.len() == 1 { ("was", "has") } else { ("were", "have") };
        Some(format!(
            "{}{more} {was} taken out of publication {publication} and added again, or {has} \
             another row filter or column list",
            named.join(", ")
        ))
    }
}

impl PublicationRow {
    fn changed_since(&self, name: &str, before: &Membership) -> Option<String> {
        let then = before.publications.get(name);
        if then.is_some_and(|then| *then == self.to_string()) {
            return None;
        }
        let Some(then) = then else {
            return Some(format!(
                "publication {name} is not the one that the log was written through"
            ));
        };
        let is_another = then.split('/').next() != Some(self.oid.as_str());
        Some(if is_another {
            format!("publication {name} was dropped and created again")
        } else {
            format!(
                "publication {name} was altered, and may have left out kinds of changes for a \
                 while (OWNER TO and RENAME look the same, and lose nothing)"
            )
        })
    }
}

impl std::fmt::Display for PublicationRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.oid, self.xmin)
    }
}

fn action() -> String {
    "look at how the tables are published".to_owned()
}

/// Where the WAL ends, and whether a publication may take in whole schemas.
async fn position(client: &Client) -> Result<(Lsn, bool)> {
    let query = "
        select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
               else pg_current_wal_insert_lsn() end::text,
               to_regclass('pg_catalog.pg_publication_namespace') is not null";
    let row = client.query_one(query, &[]).await.doing(action)?;
    let (lsn, has_schemas): (&str, bool) =
        (row.try_get(0).doing(action)?, row.try_get(1).doing(action)?);
    let lsn = lsn.parse();
    let lsn = lsn.map_err(|error| Error::new(ErrorKind::Bug, action()).with_source(error))?;
    Ok((lsn, has_schemas))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// No table was looked at.
    pub(crate) const NOTHING: &Found =
        &Found { at: Lsn(0), publications: BTreeMap::new(), tables: Vec::new() };

    /// Tables 5, 6, … of publication `p`, whose row has these numbers; one that is not published
    /// has no mark.
    pub(crate) fn found((oid, xmin): (u32, u32), marks: &[Option<u32>]) -> Found {
        let row = PublicationRow { oid: oid.to_string(), xmin: xmin.to_string(), is_whole: true };
        let table = |(oid, mark): (u32, &Option<u32>)| TableRow {
            oid,
            name: format!("public.t{oid}"),
            publication: "p".into(),
            mark: *mark,
        };
        Found {
            at: Lsn(0x20),
            publications: BTreeMap::from([("p".to_owned(), row)]),
            tables: (5..).zip(marks).map(table).collect(),
        }
    }

    fn before() -> Membership {
        found((1, 741), &[Some(741), Some(741), Some(7)]).membership().unwrap()
    }

    fn changed(found: &Found) -> String {
        let what = found.changed_since(&before()).expect("something is not as it was");
        assert_eq!(found.carry(Some(before())), Some(before()), "the record stays as it was");
        what
    }

    #[test]
    fn the_same_rows_are_taken_in_as_of_now() {
        let same = found((1, 741), &[Some(741), Some(741), Some(7)]);
        let later = Found { at: Lsn(0x90), ..same };
        assert_eq!(later.changed_since(&before()), None);
        assert_eq!(later.carry(Some(before())).unwrap().at, Lsn(0x90));
        assert_eq!(later.carry(None), later.membership());
    }

    #[test]
    fn tables_with_other_rows_are_named() {
        let one = changed(&found((1, 741), &[Some(741), Some(750), Some(7)]));
        assert!(one.starts_with("public.t6 was taken out of publication p and added"), "{one}");
        let all = changed(&found((1, 741), &[Some(750); 3]));
        assert!(all.starts_with("public.t5, public.t6, public.t7 were taken"), "{all}");
        let many = found((1, 741), &[Some(1); 9]).membership().unwrap();
        let many = found((1, 741), &[Some(2); 9]).changed_since(&many).unwrap();
        assert!(many.starts_with("public.t5, public.t6, public.t7 and 6 more were"), "{many}");
    }

    #[test]
    fn a_publication_is_altered_or_another_one() {
        let marks = [Some(741), Some(741), Some(7)];
        let altered = changed(&found((1, 750), &marks));
        assert!(altered.contains("was altered") && altered.contains("OWNER TO"), "{altered}");
        let again = changed(&found((2, 750), &marks));
        assert!(again.contains("dropped and created again"), "{again}");
        let mut renamed = found((1, 741), &marks);
        renamed.publications =
            BTreeMap::from([("q".to_owned(), renamed.publications["p"].clone())]);
        renamed.tables.iter_mut().for_each(|table| table.publication = "q".into());
        let other = changed(&renamed);
        assert!(other.contains("publication q is not the one"), "{other}");
    }

    #[test]
    fn what_is_not_published_now_is_for_others_and_never_recorded() {
        let out = found((1, 741), &[Some(741), None, Some(7)]);
        assert_eq!((out.changed_since(&before()), out.membership()), (None, None));
        assert_eq!(out.carry(Some(before())), Some(before()));
        let mut part = found((1, 741), &[Some(741)]);
        part.publications.values_mut().for_each(|row| row.is_whole = false);
        assert_eq!(part.membership(), None, "it leaves out some kinds of changes");
        let fewer = found((1, 741), &[Some(741)]);
        assert_eq!(fewer.changed_since(&before()), None, "tables may leave the configuration");
        assert_eq!(fewer.carry(Some(before())).unwrap().tables.get(6), None);
        let unread = found((9, 9), &[Some(9)]);
        let others = Membership { tables: [(8, 1)].into_iter().collect(), ..before() };
        assert_eq!(unread.changed_since(&others), None, "tables that were not read before");
    }
}
