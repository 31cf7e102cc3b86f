//! Of a row that is gone: whether its delete is certain to follow.

use std::collections::{BTreeSet, HashMap};

use anabranch_core::{RepairReason, Result};
use tokio_postgres::Client;

use super::{Found, FoundRows};
use crate::catalog::Leaves;
use crate::error::Context;

/// What is known of a table of which rows are gone.
#[derive(Debug)]
pub(super) struct Fate {
    /// Its publication sends deletes.
    publishes_deletes: bool,
    /// A partitioned table with everything below it; `None` for any other.
    pub(super) members: Option<Vec<u32>>,
}

/// Tables of which rows are gone, by oid.
pub(super) type Fates = HashMap<u32, Fate>;

/// Looks at the tables of the rows that are gone, in the snapshot that did not show these: a
/// partition that is detached after it was looked into is noticed, and one too many is harmless.
/// Rows whose delete may not follow become [`Found::Unknown`].
pub(super) async fn settle(
    client: &Client,
    found: &mut FoundRows,
    leaves: &Leaves,
    publications: &[String],
) -> Result<Fates> {
    let gone = found.iter().filter(|(_, found)| **found == Found::Gone);
    let oids: BTreeSet<u32> = gone.map(|((oid, _), _)| *oid).collect();
    if oids.is_empty() {
        return Ok(Fates::new());
    }
    let fates = read(client, &oids, publications).await?;
    for ((oid, _), found) in found.iter_mut().filter(|(_, found)| **found == Found::Gone) {
        // A table that is gone as a whole has no fate, and nothing follows to mend.
        if let Some(reason) = fates.get(oid).and_then(|fate| fate.doubt(*oid, leaves)) {
            *found = Found::Unknown(reason);
        }
    }
    Ok(fates)
}

impl Fate {
    /// Why no delete may follow.
    fn doubt(&self, oid: u32, leaves: &Leaves) -> Option<RepairReason> {
        let members = self.members.as_deref();
        if members.is_some_and(|members| leaves.is_any_gone(oid, members)) {
            return Some(RepairReason::PartitionGone);
        }
        (!self.publishes_deletes).then_some(RepairReason::DeleteUnpublished)
    }
}

async fn read(client: &Client, oids: &BTreeSet<u32>, publications: &[String]) -> Result<Fates> {
    let action = || "look at the tables of rows that are gone".to_owned();
    let query = "
        select c.oid,
               exists (select from pg_publication p
                       join pg_publication_tables t on t.pubname = p.pubname
                       where p.pubname = any($2) and p.pubdelete
                       and t.schemaname = n.nspname and t.tablename = c.relname) as deletes,
               case c.relkind when 'p' then array(
                 select relid::oid from pg_partition_tree(c.oid)) end as members
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1)";
    let oids: Vec<u32> = oids.iter().copied().collect();
    let rows = client.query(query, &[&oids, &publications]).await.doing(action)?;
    let pairs = rows.iter().map(|row| {
        let fate = Fate { publishes_deletes: row.try_get(1)?, members: row.try_get(2)? };
        Ok((row.try_get(0)?, fate))
    });
    pairs.collect::<Result<_, tokio_postgres::Error>>().doing(action)
}
