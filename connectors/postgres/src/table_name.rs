//! The name of a table, as the configuration has it.

use std::fmt;

use anabranch_core::{Error, ErrorKind, Result};

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

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
