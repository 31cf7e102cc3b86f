//! Tables that were described while their transaction was in progress.
//!
//! The server describes a table once for all of a streamed transaction, perhaps in a part of it that
//! is rolled back, and after its commit counts the table as described for all that follow. So a
//! description is given right before the first change that needs it, which is where the server puts
//! it when it does not stream; one that no change needs is never given.

use std::collections::HashMap;

use crate::pgoutput::{Message, Relation};

/// Descriptions that were not given yet, and the message that waits for one.
#[derive(Debug, Default)]
pub(super) struct LateRelations {
    kept: HashMap<u32, Relation>,
    given: Option<Message>,
}

impl LateRelations {
    /// Keeps a description until a change needs it, in place of one before.
    pub(super) fn keep(&mut self, relation: Relation) {
        self.kept.insert(relation.oid, relation);
    }

    /// Takes a message; [`Self::next`] is to be called until it has come out.
    pub(super) fn give(&mut self, message: Message) {
        if let Message::Relation(relation) = &message {
            self.kept.remove(&relation.oid);
        }
        self.given = Some(message);
    }

    /// The message that was given, after the descriptions that it needs.
    pub(super) fn next(&mut self) -> Option<Message> {
        let message = self.given.as_ref()?;
        if !self.kept.is_empty()
            && let Some(relation) = Self::needed(&mut self.kept, message)
        {
            return Some(Message::Relation(relation));
        }
        self.given.take()
    }

    fn needed(kept: &mut HashMap<u32, Relation>, message: &Message) -> Option<Relation> {
        match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => kept.remove(relation),
            Message::Truncate { relations } => relations.iter().find_map(|oid| kept.remove(oid)),
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
            | Message::TwoPhase(_) => None,
        }
    }
}
