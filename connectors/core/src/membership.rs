//! By which rows of its catalog a source publishes the tables: what makes an interruption show.
//!
//! ```text
//! ALTER PUBLICATION p DROP TABLE t; … ADD TABLE t;      t is published, before and after
//! pg_publication_rel        xmin 741 ─▶ ∅ ─▶ xmin 897   but not by the same row
//! ```
//!
//! A table that leaves a publication for a while sends nothing meanwhile, and the stream does not
//! say so. The invariant: whoever was published by the same rows at two moments was published all
//! the time between them, and in the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// The rows of a catalog that make tables published, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// When: they were still these at this position of the WAL.
    pub at: Lsn,
    /// By name: `oid` and `xmin` of the row in `pg_publication`, as `16415/741`.
    pub publications: BTreeMap<String, String>,
    /// What took each table in.
    pub tables: TableMarks,
}

/// By the oid of the table: `xmin` of the row that names it, or its schema; 0 where all tables are
/// published. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Groups", into = "Groups")]
pub struct TableMarks(Arc<BTreeMap<u32, u32>>);

/// As it is written: most tables came in with others, and a number for each of thousands of them
/// would be most of a position record.
type Groups = BTreeMap<u32, Vec<u32>>;

impl TableMarks {
    /// What took the table in; `None` if it was not looked at.
    #[must_use]
    pub fn get(&self, oid: u32) -> Option<u32> {
        self.0.get(&oid).copied()
    }

    /// The oids of the tables.
    pub fn oids(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }
}

impl FromIterator<(u32, u32)> for TableMarks {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(marks: I) -> Self {
        Self(Arc::new(marks.into_iter().collect()))
    }
}

impl From<Groups> for TableMarks {
    fn from(groups: Groups) -> Self {
        let marks = groups.into_iter();
        marks.flat_map(|(xmin, oids)| oids.into_iter().map(move |oid| (oid, xmin))).collect()
    }
}

impl From<TableMarks> for Groups {
    fn from(marks: TableMarks) -> Self {
        let mut groups = Self::new();
        for (oid, xmin) in marks.0.iter() {
            groups.entry(*xmin).or_default().push(*oid);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_came_together_are_written_together() {
        let membership = Membership {
            at: Lsn(0x10),
            publications: BTreeMap::from([("p".to_owned(), "16415/741".to_owned())]),
            tables: [(7, 741), (5, 741), (6, 897)].into_iter().collect(),
        };
        let json = serde_json::to_string(&membership).unwrap();
        let wanted = concat!(
            r#"{"at":"0/10","publications":{"p":"16415/741"},"#,
            r#""tables":{"741":[5,7],"897":[6]}}"#
        );
        assert_eq!(json, wanted);
        assert_eq!(serde_json::from_str::<Membership>(&json).unwrap(), membership);
        assert_eq!([5, 6, 8].map(|oid| membership.tables.get(oid)), [Some(741), Some(897), None]);
    }
}
