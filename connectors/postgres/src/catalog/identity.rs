//! What identifies a row of a table: its replica identity.

use anabranch_core::{Column, Error, ErrorKind};

use super::query::{RawIndex, RawTable};
use crate::config::TableName;

/// The columns that identify a row, in the order of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) attnums: Vec<i16>,
}

/// Why a table has no usable identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoIdentity {
    #[error("it has no primary key")]
    NoPrimaryKey,
    #[error("its primary key is deferrable")]
    Deferrable,
    #[error("its replica identity is NOTHING")]
    Nothing,
    #[error("the index of its replica identity is gone")]
    IndexGone,
    #[error("its partitions have another replica identity than the table")]
    Partitions,
}

/// The identity of `table`: the index of its replica identity, with FULL the primary key.
pub(crate) fn identity_of(table: &RawTable) -> Result<Identity, NoIdentity> {
    let usable = |index: &Option<RawIndex>, gone| match index {
        None => Err(gone),
        Some(index) if !index.immediate => Err(NoIdentity::Deferrable),
        Some(index) => Ok(Identity { attnums: index.attnums.clone() }),
    };
    let identity = match table.replica_identity {
        'd' | 'f' => usable(&table.primary_key, NoIdentity::NoPrimaryKey),
        'i' => usable(&table.identity_index, NoIdentity::IndexGone),
        _ => Err(NoIdentity::Nothing),
    }?;
    // A leaf decides what its own changes say of the old row; only these two say the key at least.
    let by_primary_key = |kind: &char| matches!(kind, 'd' | 'f');
    let agree = table.leaf_identities.iter().all(by_primary_key);
    if table.leaf_identities.is_empty() || (agree && by_primary_key(&table.replica_identity)) {
        Ok(identity)
    } else {
        Err(NoIdentity::Partitions)
    }
}

impl NoIdentity {
    pub(crate) fn error(self, table: &str) -> Error {
        Error::new(ErrorKind::Config, format!("tell the rows of {table} apart"))
            .with_source(self)
            .with_help(self.help(table))
    }

    /// The SQL that mends it.
    pub(crate) fn help(self, table: &str) -> String {
        match self {
            Self::NoPrimaryKey => format!(
                "ALTER TABLE {table} ADD PRIMARY KEY (..); or, with a unique index over NOT NULL \
                 columns: ALTER TABLE {table} REPLICA IDENTITY USING INDEX ..; or name it in \
                 [source] append_only to follow its inserts alone"
            ),
            Self::Deferrable => format!(
                "make the primary key NOT DEFERRABLE, or, with another unique index over NOT NULL \
                 columns: ALTER TABLE {table} REPLICA IDENTITY USING INDEX ..;"
            ),
            Self::Nothing | Self::IndexGone | Self::Partitions => format!(
                "ALTER TABLE {table} REPLICA IDENTITY DEFAULT; on its partitions, too, if it has any"
            ),
        }
    }
}

/// A column of the key is of a kind that no key can have.
pub(super) fn unfit_key(table: &TableName, column: &Column) -> Error {
    let (schema, table, name) = (&table.schema, &table.name, &column.name);
    Error::new(ErrorKind::Config, format!("tell the rows of {schema}.{table} apart"))
        .with_source(format!(
            "column {name} of the key is {}: a value made of parts can be no key",
            column.source_type
        ))
        .with_help(format!(
            "ALTER TABLE {schema}.{table} REPLICA IDENTITY USING INDEX ..; with a unique index over \
             numbers, texts, uuids, dates or times"
        ))
}
