//! Tables that were described while their transaction was in progress.
//!
//! The server describes a table once for all of a streamed transaction, perhaps in a part of it that
//! is rolled back, and after its commit counts the table as described for all that follow. So a
//! description is given right before the first change that needs it, which is where the server puts
//! it when it does not stream; one that no change needs is never given.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::pgoutput::{Message, Relation};

/// Descriptions that were not given yet, and the message that waits for one.
#[derive(Debug, Default)]
pub(super) struct LateRelations {
    /// The tables that are read.
    ours: HashSet<u32>,
    kept: HashMap<u32, Relation>,
    /// What came right behind one of these, by that: its partitions, whose changes come under its
    /// name.
    behind: HashMap<u32, Vec<Relation>>,
    /// What was kept last, if nothing else came since.
    last: Option<u32>,
    /// What comes out before the message.
    due: VecDeque<Relation>,
    given: Option<Message>,
}

impl LateRelations {
    pub(super) fn new(ours: HashSet<u32>) -> Self {
        Self { ours, ..Self::default() }
    }

    /// Keeps a description until a change needs it, in place of one before.
    pub(super) fn keep(&mut self, relation: Relation) {
        let oid = relation.oid;
        if let Some(last) = self.last.replace(oid)
            && self.ours.contains(&last)
            && !self.ours.contains(&oid)
        {
            let behind = self.behind.entry(last).or_default();
            behind.retain(|other| other.oid != oid);
            behind.push(relation.clone());
        }
        self.kept.insert(oid, relation);
    }

    /// Takes a message; [`Self::next`] is to be called until it has come out.
    pub(super) fn give(&mut self, message: Message) {
        if message != Message::Type {
            self.last = None;
        }
        if let Message::Relation(relation) = &message {
            self.kept.remove(&relation.oid);
        }
        if !self.kept.is_empty() {
            self.find_needed(&message);
        }
        self.given = Some(message);
    }

    /// The message that was given, after the descriptions that it needs.
    pub(super) fn next(&mut self) -> Option<Message> {
        self.due.pop_front().map(Message::Relation).or_else(|| self.given.take())
    }

    fn find_needed(&mut self, message: &Message) {
        match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => self.give_table(*relation),
            Message::Truncate { relations } => {
                // They were described one behind the other.
                let others = |leaf: &Relation| !relations.contains(&leaf.oid);
                self.behind.values_mut().for_each(|behind| behind.retain(others));
                relations.iter().for_each(|oid| self.due.extend(self.kept.remove(oid)));
            }
            Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin
            | Message::Relation(_)
            | Message::Type
            | Message::Logical(_)
            | Message::StreamStart(_)
            | Message::StreamStop
            | Message::StreamCommit(_)
            | Message::StreamAbort(_)
            | Message::TwoPhase(_) => {}
        }
    }

    /// A table, and each of its partitions behind it, as the server does when it does not stream.
    fn give_table(&mut self, oid: u32) {
        let Some(table) = self.kept.remove(&oid) else { return };
        let leaves = self.behind.remove(&oid).unwrap_or_default();
        if leaves.is_empty() {
            self.due.push_back(table);
            return;
        }
        for leaf in leaves {
            self.due.extend([table.clone(), leaf]);
        }
    }
}
