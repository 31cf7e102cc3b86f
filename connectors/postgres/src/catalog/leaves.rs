//! Partitions that changes came from, as the stream shows them.
//!
//! ```text
//! Relation root · Relation leaf · row under the root     a leaf's first change on a connection
//! ```
//!
//! Rows come under the name of their root, and a partition that is detached takes its rows along
//! without a word. Whether a row that is not found was deleted, or is in a table of its own by now,
//! is told by its leaf: the server announces each leaf before its first change, as the leaf was at
//! that time. If every one that was announced still belongs to its root, the row was deleted (or
//! moved, which is a delete), and that follows.

use std::collections::{BTreeMap, HashMap};

use anabranch_core::Lsn;

use crate::pgoutput::Message;

/// What was announced on this connection.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    /// By root: its leaves, and for one that is gone by when it was.
    by_root: HashMap<u32, BTreeMap<u32, Option<Lsn>>>,
    seen: Seen,
}

/// The announcements just before the next row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Root(u32),
    Leaf {
        root: u32,
        leaf: u32,
    },
}

impl Leaves {
    /// Takes the next message of the stream. `is_ours` says of a Relation message whether its
    /// table is one of those that are read.
    pub(crate) fn observe(&mut self, message: &Message, is_ours: impl Fn(u32) -> bool) {
        match (message, self.seen) {
            // Described again: several leaves come before the first row of a streamed transaction.
            (Message::Relation(relation), Seen::Leaf { root, leaf }) if relation.oid == root => {
                self.by_root.entry(root).or_default().insert(leaf, None);
                self.seen = Seen::Root(root);
            }
            (Message::Relation(relation), _) if is_ours(relation.oid) => {
                self.seen = Seen::Root(relation.oid);
            }
            (Message::Relation(relation), Seen::Root(root)) => {
                self.seen = Seen::Leaf { root, leaf: relation.oid };
            }
            (Message::Type, _) | (_, Seen::Nothing) => {}
            (
                Message::Insert { relation, .. }
                | Message::Update { relation, .. }
                | Message::Delete { relation, .. },
                Seen::Leaf { root, leaf },
            ) if *relation == root => {
                self.by_root.entry(root).or_default().insert(leaf, None);
                self.seen = Seen::Nothing;
            }
            _ => self.seen = Seen::Nothing,
        }
    }

    /// The table of ours that the last message announced: the next one may announce a leaf of it.
    pub(crate) fn expected_of(&self) -> Option<u32> {
        match self.seen {
            Seen::Root(root) => Some(root),
            Seen::Nothing | Seen::Leaf { .. } => None,
        }
    }

    /// Whether a leaf of `root` is not among its `members` any more.
    pub(crate) fn is_any_gone(&self, root: u32, members: &[u32]) -> bool {
        let leaves = self.by_root.get(&root);
        leaves.is_some_and(|leaves| leaves.keys().any(|leaf| !members.contains(leaf)))
    }

    /// Every leaf of `root` that is not among its `members` was gone by `lsn`.
    pub(crate) fn gone(&mut self, root: u32, members: &[u32], lsn: Lsn) {
        for (leaf, gone) in self.by_root.entry(root).or_default() {
            if !members.contains(leaf) {
                gone.get_or_insert(lsn);
            }
        }
    }

    /// Forgets the leaves that were gone before the transaction that committed at `lsn`: what
    /// follows cannot be theirs.
    pub(crate) fn forget_before(&mut self, lsn: Lsn) {
        for leaves in self.by_root.values_mut() {
            leaves.retain(|_, gone| gone.is_none_or(|gone| gone >= lsn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Relation, TupleBuilder};

    const ROOT: u32 = 7;

    fn relation(oid: u32) -> Message {
        Message::Relation(Relation {
            oid,
            schema: String::new(),
            name: String::new(),
            replica_identity: 'd',
            columns: Vec::new(),
        })
    }

    fn insert() -> Message {
        Message::Insert { relation: ROOT, new: TupleBuilder::default().finish() }
    }

    fn observe(messages: &[Message]) -> Leaves {
        let mut leaves = Leaves::default();
        messages.iter().for_each(|message| leaves.observe(message, |oid| oid == ROOT));
        leaves
    }

    #[test]
    fn a_leaf_is_announced_behind_its_root_and_before_a_row() {
        let leaves =
            observe(&[relation(ROOT), Message::Type, relation(8), insert(), relation(ROOT)]);
        assert!(!leaves.is_any_gone(ROOT, &[8]) && leaves.is_any_gone(ROOT, &[9]));
        let two = [relation(ROOT), relation(8), relation(ROOT), relation(9), insert()];
        assert!(observe(&two).is_any_gone(ROOT, &[8]) && observe(&two).is_any_gone(ROOT, &[9]));
        // The tables of a TRUNCATE are announced one behind the other, too.
        let truncate = Message::Truncate { relations: vec![ROOT, 8] };
        assert!(!observe(&[relation(ROOT), relation(8), truncate]).is_any_gone(ROOT, &[]));
        assert!(!observe(&[relation(8), insert()]).is_any_gone(ROOT, &[]));
        assert_eq!(observe(&[relation(ROOT)]).expected_of(), Some(ROOT));
        assert_eq!(observe(&[relation(8)]).expected_of(), None);
    }

    #[test]
    fn a_leaf_that_is_gone_counts_until_its_changes_are_read() {
        let mut leaves = observe(&[relation(ROOT), relation(8), insert()]);
        leaves.gone(ROOT, &[9], Lsn(100));
        leaves.gone(ROOT, &[9], Lsn(200));
        leaves.forget_before(Lsn(100));
        assert!(leaves.is_any_gone(ROOT, &[9]));
        leaves.forget_before(Lsn(101));
        assert!(!leaves.is_any_gone(ROOT, &[9]));
    }
}
