//! SQL about keys: in the order and in the words of the server.

use anabranch_core::{Error, ErrorKind, Result, Table};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::catalog::{RawColumn, RawTable};

/// Keys in one query: enough to make a round trip cheap, few enough for a plan by index.
pub(crate) const KEYS_MAX: usize = 500;

/// The columns of a table's key, as the catalog has them; `None` if one is not there.
pub(crate) fn key_columns<'a>(raw: &'a RawTable, table: &Table) -> Option<Vec<&'a RawColumn>> {
    table.key_columns().map(|column| raw.column(column.attnum)).collect()
}

/// `(id, region) in (values ('1'::integer, 'eu'::text), ..)`.
pub(crate) fn among(key: &[&RawColumn], keys: &[&Vec<String>]) -> String {
    let rows: Vec<String> = keys.iter().map(|texts| format!("({})", typed(key, texts))).collect();
    format!("(({}) in (values {}))", names(key).join(", "), rows.join(", "))
}

/// `("id", "region") > ('1'::integer, 'eu'::text)`: as the server orders them.
pub(crate) fn compared(key: &[&RawColumn], operator: &str, texts: &[String]) -> String {
    format!("({}) {operator} ({})", names(key).join(", "), typed(key, texts))
}

fn typed(key: &[&RawColumn], texts: &[String]) -> String {
    let pairs = key.iter().zip(texts);
    let values =
        pairs.map(|(column, text)| format!("{}::{}", escape_literal(text), column.type_name));
    values.collect::<Vec<_>>().join(", ")
}

/// The last key of the next `rows` rows; none if there are fewer. The order is that of the columns,
/// which is that of an index, and not of the texts, which have their names.
pub(crate) fn last_key(
    from: &str,
    key: &[&RawColumn],
    conditions: &[String],
    rows: usize,
) -> String {
    let names = names(key);
    let texts: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
    let columns: Vec<String> = names.iter().map(|name| format!("t.{name}")).collect();
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!(" where {}", conditions.join(" and "))
    };
    format!(
        "select {} from {from} t{filter} order by {} offset {} limit 1",
        texts.join(", "),
        columns.join(", "),
        rows.saturating_sub(1)
    )
}

/// Keys as the server writes them, each once.
pub(crate) fn canonical(key: &[&RawColumn], keys: &[Vec<String>]) -> Result<String> {
    if let Some(other) = keys.iter().find(|texts| texts.len() != key.len()) {
        return Err(Error::new(
            ErrorKind::Config,
            format!("look for the key {}", other.join(", ")),
        )
        .with_source(format!("the table's key has {} columns", key.len())));
    }
    let names: Vec<String> = (0..key.len()).map(|place| format!("k{place}")).collect();
    let texts: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
    let rows: Vec<String> = keys.iter().map(|texts| format!("({})", typed(key, texts))).collect();
    Ok(format!(
        "select distinct {} from (values {}) v({})",
        texts.join(", "),
        rows.join(", "),
        names.join(", ")
    ))
}

fn names(key: &[&RawColumn]) -> Vec<String> {
    key.iter().map(|column| escape_identifier(&column.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;

    #[test]
    fn a_chunk_is_bounded_by_keys_in_the_servers_order() {
        let raw = raw_orders();
        let key: Vec<&RawColumn> = raw.columns.iter().take(1).collect();
        let kind = &key[0].type_name;
        let after = compared(&key, ">", &["it's".to_owned()]);
        assert_eq!(after, format!("(\"id\") > ('it''s'::{kind})"));
        let sql = last_key("only x", &key, std::slice::from_ref(&after), 100);
        let expected = format!(
            "select \"id\"::text from only x t where {after} order by t.\"id\" offset 99 limit 1"
        );
        assert_eq!(sql, expected);
        assert!(!last_key("only x", &key, &[], 1).contains("where"));
        let keys = canonical(&key, &[vec!["1".into()], vec!["2".into()]]).unwrap();
        let expected =
            format!("select distinct k0::text from (values ('1'::{kind}), ('2'::{kind})) v(k0)");
        assert_eq!(keys, expected);
        assert!(canonical(&key, &[vec![]]).unwrap_err().report().contains("1 columns"));
    }

    #[test]
    fn keys_become_a_condition() {
        let raw = raw_orders();
        let key: Vec<&RawColumn> = raw.columns.iter().take(1).collect();
        let (one, other) = (vec!["1".to_owned()], vec!["it's".to_owned()]);
        let condition = among(&key, &[&one, &other]);
        let name = &key[0].type_name;
        assert_eq!(condition, format!("((\"id\") in (values ('1'::{name}), ('it''s'::{name})))"));
    }
}
