//! What the user says of single columns and tables, and which columns of a table that means.
//!
//! ```text
//! [source.columns], append_only ── RuleBook ── catalog ──▶ TableRules ── columns sent ──▶ a rule each
//! ```
//!
//! The invariant: a rule holds for its column whatever that is called by now, and for whatever has
//! the name it was given for. A column that cannot be told from one that must not be read is not
//! read either.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::{ColumnType, Error, ErrorKind, Result};
use serde::Deserialize;

use crate::catalog::{RawColumn, RawTable, Types};
use crate::config::PostgresConfig;
use crate::intake::{Hasher, key_taken};

/// What becomes of columns of one table: `[source.columns."schema.table"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnRules {
    /// They do not leave the source.
    pub exclude: Vec<String>,
    /// They leave it as a keyed hash, in hex.
    pub hash: Vec<String>,
    /// They leave it up to so many characters.
    pub truncate: BTreeMap<String, usize>,
}

/// What becomes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Exclude,
    Hash,
    Truncate(usize),
}

/// The rules of all tables, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleBook {
    columns: BTreeMap<String, ColumnRules>,
    append_only: BTreeSet<String>,
    append_key: String,
    hasher: Option<Hasher>,
}

/// The rules of one table, found once, so that a rename does not lift them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableRules {
    pub(crate) by_name: BTreeMap<String, Rule>,
    pub(crate) by_attnum: BTreeMap<i16, Rule>,
    /// The name of the column that is made up to tell rows apart, if only inserts are followed.
    pub(crate) append_key: Option<String>,
    pub(crate) hasher: Option<Hasher>,
}

/// A column that the server sends, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentColumn<'a> {
    pub(crate) name: &'a str,
    pub(crate) attnum: i16,
    /// The number was found and not guessed.
    pub(crate) is_certain: bool,
}

impl ColumnRules {
    fn each(&self) -> impl Iterator<Item = (&String, Rule)> {
        let exclude = self.exclude.iter().map(|name| (name, Rule::Exclude));
        let hash = self.hash.iter().map(|name| (name, Rule::Hash));
        let truncate = self.truncate.iter().map(|(name, count)| (name, Rule::Truncate(*count)));
        exclude.chain(hash).chain(truncate)
    }

    /// What can be told without the database.
    pub(crate) fn validate(&self, table: &str) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (name, rule) in self.each() {
            if !seen.insert(name) {
                return Err(wrong(table, format!("column {name} has two rules"))
                    .with_help("name it once in exclude, hash or truncate"));
            }
            if rule == Rule::Truncate(0) {
                return Err(wrong(table, format!("column {name} would have no characters left"))
                    .with_help(format!("exclude = [{name:?}]")));
            }
        }
        Ok(())
    }
}

impl RuleBook {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        Self {
            columns: config.columns.clone(),
            append_only: config.append_only.iter().cloned().collect(),
            append_key: config.append_key.clone(),
            hasher: config.hash_key.as_ref().map(|key| Hasher::new(key.expose())),
        }
    }

    /// The rules of `table`, with the columns that it has now.
    pub(crate) fn of(&self, table: &RawTable) -> TableRules {
        let name = table.full_name();
        let rules = self.columns.get(&name).into_iter().flat_map(ColumnRules::each);
        let by_name: BTreeMap<String, Rule> =
            rules.map(|(name, rule)| (name.clone(), rule)).collect();
        let number = |(name, rule): (&String, &Rule)| {
            named(table, name).map(|column| (column.attnum, *rule))
        };
        TableRules {
            by_attnum: by_name.iter().filter_map(number).collect(),
            by_name,
            append_key: self.append_only.contains(&name).then(|| self.append_key.clone()),
            hasher: self.hasher.clone(),
        }
    }

    /// Rules that cannot be kept.
    pub(crate) fn obstacles(&self, table: &RawTable, types: &Types) -> Vec<Error> {
        let full_name = table.full_name();
        let rules = self.of(table);
        let taken = rules.append_key.as_ref().filter(|key| named(table, key).is_some());
        let taken = taken.map(|key| key_taken(format!("tell the rows of {full_name} apart"), key));
        let broken = rules
            .by_name
            .iter()
            .filter_map(|(name, rule)| rules.broken(table, (name, *rule), types));
        broken.map(|why| why.error(&full_name)).chain(taken).collect()
    }
}

/// Why a rule cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("there is no column {name}")]
    Unknown { name: String, known: String },
    #[error("column {0} is part of the key")]
    Key(String),
    #[error("column {0} is no text")]
    NoText(String),
    #[error("a hash of column {0} hides nothing, or is not one for equal values")]
    NoHash(String),
}

impl Broken {
    fn error(self, table: &str) -> Error {
        let help = match &self {
            Self::Unknown { known, .. } => format!("its columns are {known}"),
            Self::Key(_) => "rows are told apart by it: hash it instead, or choose another \
                             replica identity"
                .to_owned(),
            Self::NoText(_) => "exclude it, or hash it".to_owned(),
            Self::NoHash(_) => "exclude it".to_owned(),
        };
        wrong(table, self.to_string()).with_help(help)
    }
}

fn wrong(table: &str, why: String) -> Error {
    Error::new(ErrorKind::Config, format!("keep the rules of [source.columns.{table:?}]"))
        .with_source(why)
}

fn named<'a>(table: &'a RawTable, name: &str) -> Option<&'a RawColumn> {
    table.columns.iter().find(|column| !column.dropped && column.name == name)
}

impl TableRules {
    fn broken(
        &self,
        table: &RawTable,
        (name, rule): (&String, Rule),
        types: &Types,
    ) -> Option<Broken> {
        let Some(column) = named(table, name) else {
            let known = table.columns.iter().filter(|column| !column.dropped);
            let known = known.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
            return Some(Broken::Unknown { name: name.clone(), known });
        };
        let is_key = self.append_key.is_none() && table.is_key(column.attnum);
        let kind = types.column_type(column.type_oid, column.typmod);
        let unfit = matches!(kind, ColumnType::Bool | ColumnType::Json) || !kind.can_be_key();
        match rule {
            Rule::Exclude | Rule::Truncate(_) if is_key => Some(Broken::Key(name.clone())),
            Rule::Truncate(_) if !column.is_text => Some(Broken::NoText(name.clone())),
            Rule::Hash if unfit => Some(Broken::NoHash(name.clone())),
            Rule::Exclude | Rule::Truncate(_) | Rule::Hash => None,
        }
    }

    /// The rule of each of the columns that are sent.
    ///
    /// The numbers of columns that were renamed or dropped since are guesses. Such a column may
    /// be one that has a rule, unless every rule has found its column among the others.
    pub(crate) fn of(&self, sent: &[SentColumn<'_>]) -> Vec<Option<Rule>> {
        let known = |column: &SentColumn<'_>| {
            let by_attnum = || self.by_attnum.get(&column.attnum).filter(|_| column.is_certain);
            self.by_name.get(column.name).or_else(by_attnum).copied()
        };
        let accounted =
            |attnum: &i16| sent.iter().any(|column| column.is_certain && column.attnum == *attnum);
        let is_open = !self.by_attnum.keys().all(accounted);
        let rule = |column: &SentColumn<'_>| {
            let unknown = (!column.is_certain && is_open).then_some(Rule::Exclude);
            known(column).or(unknown)
        };
        sent.iter().map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> TableRules {
        TableRules {
            by_name: BTreeMap::from([("ssn".to_owned(), Rule::Exclude)]),
            by_attnum: BTreeMap::from([(5, Rule::Exclude)]),
            ..TableRules::default()
        }
    }

    fn column(name: &str, attnum: i16, is_certain: bool) -> SentColumn<'_> {
        SentColumn { name, attnum, is_certain }
    }

    #[test]
    fn a_rule_follows_its_column_and_its_name() {
        let excluded = Some(Rule::Exclude);
        let cases = [
            (vec![column("id", 1, true), column("ssn", 5, true)], vec![None, excluded]),
            (vec![column("id", 1, true), column("social", 5, true)], vec![None, excluded]),
            // Dropped, and added again under its name.
            (vec![column("id", 1, true), column("ssn", 9, true)], vec![None, excluded]),
            // As it was called before it got the name that the rule has.
            (vec![column("id", 1, true), column("old", 2, false)], vec![None, excluded]),
            // Another column that is gone by now, beside the one that has the rule.
            (vec![column("gone", 2, false), column("ssn", 5, true)], vec![None, excluded]),
        ];
        for (sent, expected) in cases {
            assert_eq!(rules().of(&sent), expected, "{sent:?}");
        }
    }

    #[test]
    fn a_column_has_one_rule_and_keeps_a_character() {
        let twice = ColumnRules {
            exclude: vec!["a".into()],
            hash: vec!["a".into()],
            ..ColumnRules::default()
        };
        assert!(twice.validate("s.t").unwrap_err().report().contains("two rules"));
        let nothing =
            ColumnRules { truncate: BTreeMap::from([("a".into(), 0)]), ..ColumnRules::default() };
        assert!(nothing.validate("s.t").unwrap_err().report().contains("exclude = [\"a\"]"));
    }
}
