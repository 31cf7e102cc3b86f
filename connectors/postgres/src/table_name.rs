//! The name of a table, as the configuration has it.

use std::fmt;

use std::collections::BTreeSet;

use anabranch_core::selection::{left_out, takes_in, whole_schema};
use anabranch_core::{Error, ErrorKind, Result};

use crate::config::PostgresConfig;

/// `schema.name`, which no quotes surround.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableName {
    pub(crate) schema: String,
    pub(crate) name: String,
}

impl TableName {
    /// # Errors
    ///
    /// `Config` if `text` has no schema, or nothing beside it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.split_once('.') {
            Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {
                Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
            }
            Some(_) | None => Err(Error::new(ErrorKind::Config, format!("use table {text:?}"))
                .with_help("write \"schema.table\", for example \"public.orders\"")),
        }
    }
}

impl PostgresConfig {
    /// Whether [`PostgresConfig::tables`] takes in `table`, as `schema.table`.
    #[must_use]
    pub fn takes_in(&self, table: &str) -> bool {
        let parts = table.split_once('.');
        parts.is_some_and(|(schema, name)| takes_in(&self.tables, schema, name))
    }

    /// The tables that it names one by one.
    pub(crate) fn named(&self) -> BTreeSet<String> {
        let is_one = |text: &&String| left_out(text).is_none() && whole_schema(text).is_none();
        self.tables.iter().filter(is_one).cloned().collect()
    }

    /// Nothing is named and left out, and something is taken in.
    pub(crate) fn validate_tables(&self) -> Result<()> {
        let config = |what: &str| Error::new(ErrorKind::Config, format!("use {what}"));
        let out = self.tables.iter().filter_map(|text| left_out(text));
        for text in self.tables.iter().map(|text| left_out(text).unwrap_or(text)) {
            TableName::parse(text)?;
        }
        for text in out.clone() {
            if whole_schema(text).is_some() {
                return Err(config(&format!("\"!{text}\"")).with_help("leave out single tables"));
            }
            if self.tables.iter().any(|named| named == text) {
                return Err(config(&format!("table {text:?}"))
                    .with_source("[source] tables names it and leaves it out"));
            }
        }
        if out.count() == self.tables.len() {
            return Err(config("a source without tables")
                .with_help("name them in [source] tables, as \"schema.table\" or \"schema.*\""));
        }
        Ok(())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
