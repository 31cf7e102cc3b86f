//! What indexes, aliases and documents are called.
//!
//! ```text
//! public.orders, generation 2 ──▶ alias orders · index orders-2 · write alias orders-2.write
//! sales."Old Orders"          ──▶ alias sales.~4fld~20~4frders
//! ```
//!
//! The invariant: two tables never share a name, and no row's `_id` is that of a cursor.

use std::borrow::Cow;
use std::fmt::Write as _;

use anabranch_core::Table;
use sha2::{Digest as _, Sha256};

use crate::ElasticsearchConfig;

/// The alias under which the rows of `table` are searched.
#[must_use]
pub fn alias_of(config: &ElasticsearchConfig, table: &Table) -> String {
    format!("{}{}", config.index_prefix, base(&table.schema, &table.name))
}

/// The names that belong to one table and generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// What users search: hides the cursor documents, follows the live generation.
    pub(crate) alias: String,
    /// The index itself.
    pub(crate) index: String,
    /// What is written through: a bulk to an alias never makes an index that was deleted.
    pub(crate) write: String,
}

impl Names {
    pub(crate) fn new(config: &ElasticsearchConfig, table: &Table, generation: u32) -> Self {
        let alias = alias_of(config, table);
        let index = format!("{alias}-{generation}");
        Self { write: format!("{index}.write"), alias, index }
    }
}

/// Leaves room for a prefix, a generation and `.write` in the 255 bytes of a name.
const BASE_BYTES_MAX: usize = 190;

/// Lower-case letters, digits and `_` stand for themselves, every other byte and a leading `_` is
/// `~` and two hex digits. `.` parts schema and table; `public` is left out. `~~` begins the hash
/// of a name that is too long.
fn base(schema: &str, table: &str) -> String {
    let mut name = String::with_capacity(schema.len() + table.len() + 1);
    if schema != "public" {
        escape(schema, &mut name);
        name.push('.');
    }
    escape(table, &mut name);
    if name.len() <= BASE_BYTES_MAX {
        return name;
    }
    format!("~~{}", hex::encode(Sha256::digest(name.as_bytes())))
}

fn escape(text: &str, out: &mut String) {
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'_' if place > 0 => out.push('_'),
            _ => write!(out, "~{byte:02x}").unwrap_or_default(),
        }
    }
}

/// Elasticsearch's limit for an `_id`.
const ID_BYTES_MAX: usize = 512;
const HASHED: &str = "sha256:";
const CURSOR: &str = "anabranch:cursor:";

/// The `_id` of the row with this key: the text itself, or its hash where the text is empty, too
/// long, or could be taken for a hash or for a cursor.
#[must_use]
pub fn document_id(key: &str) -> Cow<'_, str> {
    let plain = (1..=ID_BYTES_MAX).contains(&key.len());
    if plain && !key.starts_with(HASHED) && !key.starts_with(CURSOR) {
        return Cow::Borrowed(key);
    }
    Cow::Owned(format!("{HASHED}{}", hex::encode(Sha256::digest(key.as_bytes()))))
}

/// The `_id` of a unit's cursor in the shard that `routing` leads to.
pub(crate) fn cursor_id(partition: i32, routing: &str) -> String {
    format!("{CURSOR}{partition}:{routing}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn plain_names_stay_and_others_are_escaped() {
        assert_eq!(base("public", "order_items"), "order_items");
        assert_eq!(base("sales", "orders"), "sales.orders");
        assert_eq!(base("public", "sales.orders"), "sales~2eorders");
        assert_eq!(base("sales", "Old Orders"), "sales.~4fld~20~4frders");
        assert_eq!(base("public", "_x"), "~5fx");
        assert_eq!(base("public", "größe"), "gr~c3~b6~c3~9fe");
    }

    #[test]
    fn different_tables_have_different_names() {
        let long = "ж".repeat(40);
        let names = ["a", "A", "a_b", "a-b", "a.b", "~61", "_a", "public", "a-1", long.as_str()];
        let mut seen = HashMap::new();
        for schema in names {
            for table in names {
                let name = base(schema, table);
                assert!(name.len() <= BASE_BYTES_MAX);
                let other = seen.insert(name, (schema, table));
                assert_eq!(other, None, "{schema}.{table}");
            }
        }
    }

    #[test]
    fn an_index_of_one_table_is_no_alias_of_another() {
        assert_ne!(base("public", "orders-1"), "orders-1");
    }

    #[test]
    fn ids_are_texts_or_hashes() {
        assert_eq!(document_id("42"), "42");
        let long = "x".repeat(ID_BYTES_MAX);
        assert_eq!(document_id(&long), long);
        let longer = format!("{long}x");
        assert_eq!(document_id(&longer).len(), 71);
        assert_eq!(
            document_id(""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let hashed = document_id(&longer).into_owned();
        assert_ne!(document_id(&hashed), hashed, "a key that looks like a hash is hashed");
        assert_ne!(document_id(&cursor_id(3, "0")), cursor_id(3, "0"));
    }
}
