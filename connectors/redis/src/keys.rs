//! What rows and units are called.
//!
//! ```text
//! public.orders, key 7     ──▶ orders:7            sales.orders, key 7 ──▶ sales.orders:7
//! sink cache, partition 3  ──▶ anabranch:cache:shop.public.orders:3
//! ```
//!
//! The invariant: two tables never share a key, and no row has the key of a unit. The name of a
//! table ends at the first separator that is not escaped, and none begins `anabranch:`.

use std::fmt;

use anabranch_core::Table;
use serde::Deserialize;

/// What the key of a row looks like: `<prefix>{table}<separator>{key}`, `{table}:{key}` by
/// default.
///
/// `{table}` is the table's name, after `<schema>.` where the schema is not `public`; a `\` stands
/// before each `.`, `:`, `\` and first character of the separator within the names. A table
/// `public.anabranch` is called that in full. `{key}` is the text of the key. The sink's own keys
/// begin with the prefix and `anabranch:`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyTemplate {
    prefix: String,
    separator: String,
}

/// A text that is no template for keys.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no key template: it must be a prefix (or none), {{table}}, a separator that does not \
     begin with '.' or '\\', and {{key}}, as in \"shop:{{table}}:{{key}}\""
)]
pub struct BadKeyTemplate(String);

impl Default for KeyTemplate {
    fn default() -> Self {
        Self { prefix: String::new(), separator: ":".to_owned() }
    }
}

impl TryFrom<String> for KeyTemplate {
    type Error = BadKeyTemplate;

    fn try_from(text: String) -> Result<Self, BadKeyTemplate> {
        let parts = text.strip_suffix("{key}").and_then(|rest| rest.split_once("{table}"));
        let plain = |part: &str| !part.contains(['{', '}']);
        match parts {
            Some((prefix, separator))
                if plain(prefix)
                    && plain(separator)
                    && !separator.is_empty()
                    && !separator.starts_with(['.', '\\']) =>
            {
                Ok(Self { prefix: prefix.to_owned(), separator: separator.to_owned() })
            }
            _ => Err(BadKeyTemplate(text)),
        }
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{table}}{}{{key}}", self.prefix, self.separator)
    }
}

/// What begins the sink's own keys, after the prefix.
const OWN: &str = "anabranch";

impl KeyTemplate {
    /// What the keys of all rows of `table` begin with, and no other's.
    pub(crate) fn rows_of(&self, table: &Table) -> String {
        let mut key = self.prefix.clone();
        let separator = self.separator.chars().next().unwrap_or(':');
        let special = ['\\', '.', ':', separator];
        if table.schema != "public" || table.name == OWN {
            escape(&table.schema, &special, &mut key);
            key.push('.');
        }
        escape(&table.name, &special, &mut key);
        key.push_str(&self.separator);
        key
    }

    /// The key that holds owner and cursor of a unit.
    pub(crate) fn unit(&self, sink: &str, topic: &str, partition: i32) -> String {
        let mut key = format!("{}{OWN}:", self.prefix);
        for name in [sink, topic] {
            escape(name, &['\\', ':'], &mut key);
            key.push(':');
        }
        key.push_str(&partition.to_string());
        key
    }
}

fn escape(name: &str, special: &[char], out: &mut String) {
    for character in name.chars() {
        if special.contains(&character) {
            out.push('\\');
        }
        out.push(character);
    }
}

/// The pattern for `SCAN` that fits every key beginning with `start`, and no other.
pub(crate) fn beginning_with(start: &str) -> String {
    let mut pattern = String::with_capacity(start.len() + 1);
    for character in start.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use anabranch_core::{Column, ColumnType};

    use super::*;

    fn table(schema: &str, name: &str) -> Table {
        let id = Column {
            attnum: 1,
            name: "id".to_owned(),
            source_type: "bigint".to_owned(),
            kind: ColumnType::Int64,
        };
        let (schema, name) = (schema.to_owned(), name.to_owned());
        Table { oid: 1, version: 1, schema, name, columns: vec![id], key: vec![0] }
    }

    fn template(text: &str) -> KeyTemplate {
        KeyTemplate::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn usual_names_stay_as_they_are() {
        let default = KeyTemplate::default();
        assert_eq!(default.rows_of(&table("public", "order_items")), "order_items:");
        assert_eq!(default.rows_of(&table("sales", "order-items")), "sales.order-items:");
        assert_eq!(template("shop/{table}/{key}").rows_of(&table("public", "t")), "shop/t/");
        assert_eq!(
            default.unit("cache", "shop.public.orders", 3),
            "anabranch:cache:shop.public.orders:3"
        );
    }

    /// No row's key, whatever its key text, may be one of another table or of a unit.
    #[test]
    fn no_two_tables_share_a_key() {
        const NAMES: [&str; 16] = [
            "a",
            "b",
            "public",
            "anabranch",
            "a.b",
            "a:b",
            "a\\b",
            "a\\:b",
            "a\\",
            "a/b",
            ":",
            ".",
            "\\",
            "anabranch:s",
            "a*",
            "/",
        ];
        for text in ["{table}:{key}", "x:{table}/{key}", "{table}xx{key}", "{table}::{key}"] {
            let template = template(text);
            let mut taken: HashMap<String, (&str, &str)> = HashMap::new();
            for schema in NAMES {
                for name in NAMES {
                    let start = template.rows_of(&table(schema, name));
                    assert_eq!(taken.insert(start, (schema, name)), None, "{schema} {name}");
                }
            }
            let mut starts: Vec<_> = taken.keys().cloned().collect();
            starts.extend(NAMES.iter().map(|sink| template.unit(sink, "t", 0)));
            for start in &starts {
                let longer = starts.iter().filter(|other| other.starts_with(start)).count();
                assert_eq!(longer, 1, "{start} begins another's keys in {text}");
            }
        }
    }

    #[test]
    fn templates_that_could_confuse_are_refused() {
        for bad in [
            "",
            "{key}",
            "{table}",
            "{table}{key}",
            "{key}:{table}",
            "{table}.{key}",
            "{table}\\{key}",
            "{table}:{key}:",
            "{schema}:{table}:{key}",
            "{table}:{key}:{key}",
        ] {
            assert!(KeyTemplate::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert_eq!(template("shop:{table}:{key}").to_string(), "shop:{table}:{key}");
    }

    #[test]
    fn patterns_are_literal() {
        assert_eq!(beginning_with("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:*");
    }
}
