//! What the sessions of a snapshot copy at once: some pages of a table, or all of it.
//!
//! ```text
//! tables ── their leaves, and how large they are ──▶ ranges of pages, those of the largest table first
//! ```
//!
//! The invariant: the ranges of a table hold each of its rows once. The last one is open, since pages
//! are added while it is read; a table whose rows are not found by page is one range.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Result;

use crate::catalog::{RawTable, Relation};
use crate::config::{InitialCopy, PostgresConfig};
use crate::copy_row::CopyFormat;
use crate::error::Context;
use crate::publication::quoted_name;
use crate::session::Session;

use super::{CopySql, from};

/// Bytes of a table that one statement copies: a second or so, and little to hold when one session has
/// its last range to do and the others are finished.
const RANGE_BYTES: u64 = 64 << 20;

/// A table, its relation, and the format that it is copied in.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) table: RawTable,
    pub(super) relation: Arc<Relation>,
    pub(super) format: CopyFormat,
}

/// A part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Which of the sources.
    pub(super) source: usize,
    /// What is read from, if it is not the whole table.
    leaf: Option<String>,
    /// The first page, and the first that is not of it.
    pages: Option<(u64, Option<u64>)>,
    /// Roughly.
    pub(super) bytes: u64,
}

/// A table of its own or a partition.
#[derive(Clone, Debug)]
struct Leaf {
    root: u32,
    name: String,
    bytes: u64,
    /// Its rows are found by page, and we may read it under its own name.
    is_paged: bool,
}

impl Range {
    /// The statement that copies it.
    pub(super) fn sql(&self, source: &Source) -> String {
        let from = self.leaf.clone().unwrap_or_else(|| from(&source.table));
        let condition = self.pages.map(|(start, end)| match end {
            Some(end) => format!("ctid >= '({start},0)' and ctid < '({end},0)'"),
            None => format!("ctid >= '({start},0)'"),
        });
        let Source { table, relation, format } = source;
        CopySql { table, relation, from: &from, condition: condition.as_deref(), format: *format }
            .to_string()
    }
}

/// What is copied now, and the oids and names of the tables that are read beside the stream.
pub(super) fn divide(
    mut ranges: Vec<Range>,
    sources: &[Source],
    config: &PostgresConfig,
) -> (Vec<Range>, Vec<(u32, String)>) {
    if config.initial_copy == InitialCopy::None {
        return (Vec::new(), Vec::new());
    }
    let bytes = |place: usize| {
        let of_table = ranges.iter().filter(|range| range.source == place);
        of_table.map(|range| range.bytes).sum::<u64>()
    };
    let is_large = |(place, source): &(usize, &Source)| {
        !source.table.append_only && bytes(*place) > config.copy_bytes_max
    };
    let large: Vec<(usize, &Source)> = sources.iter().enumerate().filter(is_large).collect();
    let beside = large.iter().map(|(_, source)| (source.table.oid, source.table.full_name()));
    let beside = beside.collect();
    ranges.retain(|range| large.iter().all(|(place, _)| *place != range.source));
    (ranges, beside)
}

/// The oid and name of each of `sources`, and how many of `ranges` are of it.
pub(super) fn counts(ranges: &[Range], sources: &[Source]) -> Vec<(u32, String, usize)> {
    let of = |source: &Source| (source.table.oid, source.table.full_name(), 0);
    let mut counts: Vec<(u32, String, usize)> = sources.iter().map(of).collect();
    for range in ranges {
        if let Some((_, _, count)) = counts.get_mut(range.source) {
            *count += 1;
        }
    }
    counts
}

/// The ranges of all of `sources`, as they are now, in the order in which they are to be copied.
pub(super) async fn of(session: &Session, sources: &[Source]) -> Result<Vec<Range>> {
    let oids: Vec<u32> = sources.iter().map(|source| source.table.oid).collect();
    let query = "
        with recursive tree(root, oid) as (
          select oid, oid from unnest($1::oid[]) roots(oid)
          union all
          select tree.root, i.inhrelid
          from tree join pg_class parent on parent.oid = tree.oid and parent.relkind = 'p'
               join pg_inherits i on i.inhparent = tree.oid)
        select root, n.nspname::text, c.relname::text, pg_relation_size(c.oid),
               c.relkind = 'r' and a.amname = 'heap' and has_table_privilege(c.oid, 'select'),
               current_setting('block_size')::int8
        from tree join pg_class c on c.oid = tree.oid join pg_namespace n on n.oid = c.relnamespace
             left join pg_am a on a.oid = c.relam
        where c.relkind <> 'p'";
    let action = || "look how large the tables are".to_owned();
    let mut leaves = Vec::new();
    let mut page_bytes = 1;
    for row in session.query(query, &[&oids]).await.doing(action)? {
        let (schema, table): (&str, &str) =
            (row.try_get(1).doing(action)?, row.try_get(2).doing(action)?);
        // A partition that was just dropped has no size.
        let bytes: Option<i64> = row.try_get(3).doing(action)?;
        leaves.push(Leaf {
            root: row.try_get(0).doing(action)?,
            name: quoted_name(schema, table),
            bytes: bytes.unwrap_or_default().unsigned_abs(),
            is_paged: row.try_get(4).doing(action)?,
        });
        page_bytes = row.try_get::<_, i64>(5).doing(action)?.unsigned_abs().max(1);
    }
    Ok(plan(sources, &leaves, (RANGE_BYTES / page_bytes).max(1), page_bytes))
}

fn plan(sources: &[Source], leaves: &[Leaf], pages_max: u64, page_bytes: u64) -> Vec<Range> {
    let mut by_root: BTreeMap<u32, Vec<&Leaf>> = BTreeMap::new();
    for leaf in leaves {
        by_root.entry(leaf.root).or_default().push(leaf);
    }
    let mut tables = Vec::with_capacity(sources.len());
    for (place, source) in sources.iter().enumerate() {
        let leaves = by_root.remove(&source.table.oid).unwrap_or_default();
        let bytes: u64 = leaves.iter().map(|leaf| leaf.bytes).sum();
        let pages = bytes.div_ceil(page_bytes);
        let ranges = if pages > pages_max && leaves.iter().all(|leaf| leaf.is_paged) {
            let of_leaf = |leaf: &&Leaf| ranges_of(place, leaf, pages_max, page_bytes);
            leaves.iter().flat_map(of_leaf).collect()
        } else {
            vec![Range { source: place, leaf: None, pages: None, bytes }]
        };
        tables.push((bytes, ranges));
    }
    tables.sort_by_key(|(bytes, _)| Reverse(*bytes));
    tables.into_iter().flat_map(|(_, ranges)| ranges).collect()
}

fn ranges_of(source: usize, leaf: &Leaf, pages_max: u64, page_bytes: u64) -> Vec<Range> {
    let pages = leaf.bytes.div_ceil(page_bytes);
    let starts = (0..pages.max(1)).step_by(usize::try_from(pages_max).unwrap_or(usize::MAX));
    let range = |start: u64| {
        let end = start + pages_max;
        let (end, last) = if end < pages { (Some(end), end) } else { (None, pages) };
        let leaf = Some(format!("only {}", leaf.name));
        Range { source, leaf, pages: Some((start, end)), bytes: (last - start) * page_bytes }
    };
    starts.map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;
    use crate::catalog::{Catalog, KnownTables, Types};

    const MIB: u64 = 1 << 20;
    const PAGE: u64 = 8 << 10;

    fn source(oid: u32, kind: char) -> Source {
        let table = RawTable { oid, kind, ..raw_orders() };
        let relation =
            Catalog::new(vec![], KnownTables::default()).adopt(&table, &Types::default()).unwrap();
        Source { table, relation, format: CopyFormat::Text }
    }

    fn leaf(root: u32, name: &str, bytes: u64) -> Leaf {
        Leaf { root, name: name.into(), bytes, is_paged: true }
    }

    fn conditions(sources: &[Source], leaves: &[Leaf]) -> Vec<String> {
        let ranges = plan(sources, leaves, 64 * MIB / PAGE, PAGE);
        let copied: u64 = ranges.iter().map(|range| range.bytes).sum();
        assert_eq!(copied, leaves.iter().map(|leaf| leaf.bytes).sum::<u64>());
        let sql = |range: &Range| range.sql(sources.get(range.source).unwrap());
        let cut = |sql: String| {
            let from = sql.split_once(" from ").unwrap().1;
            from.strip_suffix(") to stdout").unwrap().to_owned()
        };
        ranges.iter().map(sql).map(cut).collect()
    }

    #[test]
    fn a_large_table_is_copied_in_ranges_and_before_a_small_one() {
        let sources = [source(1, 'r'), source(2, 'r'), source(3, 'r')];
        let leaves = [leaf(1, "a", 64 * MIB), leaf(2, "b", 130 * MIB), leaf(3, "c", 0)];
        let expected = [
            "only b where ctid >= '(0,0)' and ctid < '(8192,0)'",
            "only b where ctid >= '(8192,0)' and ctid < '(16384,0)'",
            "only b where ctid >= '(16384,0)'",
            "only \"shop\".\"orders\"",
            "only \"shop\".\"orders\"",
        ];
        assert_eq!(conditions(&sources, &leaves), expected);
    }

    #[test]
    fn a_partitioned_table_is_copied_by_its_leaves_if_each_can_be_read() {
        let sources = [source(1, 'p')];
        let mut leaves = [leaf(1, "a", 65 * MIB), leaf(1, "b", 0)];
        let expected = [
            "only a where ctid >= '(0,0)' and ctid < '(8192,0)'",
            "only a where ctid >= '(8192,0)'",
            "only b where ctid >= '(0,0)'",
        ];
        assert_eq!(conditions(&sources, &leaves), expected);
        leaves[1].is_paged = false;
        assert_eq!(conditions(&sources, &leaves), ["\"shop\".\"orders\""]);
    }
}
