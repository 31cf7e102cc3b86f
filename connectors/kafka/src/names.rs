//! The names of topics, groups and subjects, all made from the prefix.

use anabranch_core::{Table, avro};

use crate::KafkaConfig;

/// The longest topic name that Kafka takes.
const TOPIC_NAME_MAX: usize = 249;

/// Hex digits of the hash that keeps a shortened name apart from others.
const HASH_DIGITS: usize = 16;

/// What everything of one prefix is called.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The names under the prefix of `config`.
    #[must_use]
    pub fn new(config: &KafkaConfig) -> Self {
        Self { prefix: config.prefix.clone() }
    }

    /// The topic of a table's changes: `<prefix>.<schema>.<table>`.
    ///
    /// What Kafka does not allow in a name, and a dot, is escaped as in Avro's names, so that no
    /// two tables share a topic; a name too long for Kafka ends in a hash.
    #[must_use]
    pub fn topic(&self, table: &Table) -> String {
        let topic = format!("{}.{}.{}", self.prefix, part(&table.schema), part(&table.name));
        if topic.len() <= TOPIC_NAME_MAX {
            return topic;
        }
        let kept: String = topic.chars().take(TOPIC_NAME_MAX - 1 - HASH_DIGITS).collect();
        format!("{kept}-{}", crate::hash(topic.as_bytes()))
    }

    /// The topic of the position record.
    #[must_use]
    pub fn progress(&self) -> String {
        format!("{}.progress", self.prefix)
    }

    /// The topic of the tables and their schemas.
    #[must_use]
    pub fn schemas(&self) -> String {
        format!("{}.schemas", self.prefix)
    }

    /// The topic of position and time while the source is idle.
    #[must_use]
    pub fn heartbeat(&self) -> String {
        format!("{}.heartbeat", self.prefix)
    }

    /// The transactional id of the source's producer.
    #[must_use]
    pub fn transactional_id(&self) -> String {
        format!("{}.source", self.prefix)
    }

    /// The consumer group of a sink's generation, from 1.
    #[must_use]
    pub fn group(&self, sink: &str, generation: u32) -> String {
        match generation {
            0 | 1 => format!("{}.{sink}", self.prefix),
            later => format!("{}.{sink}.g{later}", self.prefix),
        }
    }

    /// The group id of clients that read without being a member; nothing is ever committed to it.
    pub(crate) fn reader(&self) -> String {
        format!("{}.reader", self.prefix)
    }
}

/// The subject of a topic's key schema.
#[must_use]
pub(crate) fn key_subject(topic: &str) -> String {
    format!("{topic}-key")
}

/// The subject of a topic's value schema.
#[must_use]
pub(crate) fn value_subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// A part of a topic's name. Kafka allows more than Avro does: a hyphen, and a digit in front.
fn part(name: &str) -> String {
    let is_plain = |c: char| c == '-' || c == '_' || c.is_ascii_alphanumeric();
    let mut escaped = String::with_capacity(name.len());
    for (place, piece) in name.split('-').enumerate() {
        if place > 0 {
            escaped.push('-');
        }
        if piece.chars().all(is_plain) && !piece.contains("_x") {
            escaped.push_str(piece);
        } else {
            escaped.push_str(&avro::escape(piece));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schema: &str, name: &str) -> Table {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        Table { oid: 1, version: 1, schema, name, columns: Vec::new(), key: vec![0] }
    }

    #[test]
    fn topics_are_legal_and_apart() {
        let names = Names::new(&KafkaConfig::new("a:1"));
        let topic = |schema: &str, name: &str| names.topic(&table(schema, name));
        assert_eq!(topic("public", "order_items"), "anabranch.public.order_items");
        assert_eq!(topic("public", "2024-orders"), "anabranch.public.2024-orders");
        assert_ne!(topic("a.b", "c"), topic("a", "b.c"));
        assert_ne!(topic("a", "b c"), topic("a", "b_x20_c"));
        let long = topic("public", &"é".repeat(60));
        assert_ne!(long, topic("public", &"é".repeat(61)));
        for topic in [topic("a.b", "größe \"x\""), long] {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            assert!(topic.len() <= TOPIC_NAME_MAX && topic.chars().all(legal), "{topic}");
        }
    }

    #[test]
    fn groups_are_named_after_sinks() {
        let names = Names::new(&KafkaConfig::new("a:1"));
        assert_eq!(names.group("search", 1), "anabranch.search");
        assert_eq!(names.group("search", 2), "anabranch.search.g2");
    }
}
