//! A table as its log says it is.
//!
//! ```text
//! checkpoint, commit, commit, … ──▶ files, columns, transactions
//! ```
//!
//! Actions of one commit have no order among them: a file whose vector changes is removed and
//! added in one commit, so removals are applied first.

use std::collections::BTreeMap;

use deltalake::kernel::{Action, Add, DeletionVectorDescriptor, Metadata, Protocol};
use serde::{Deserialize, Serialize};

use crate::error::Cause;
use crate::schema::StoredSchema;
use crate::units::Transactions;

/// The key in `commitInfo` that marks a commit as ours; its value says what it is for.
pub(crate) const MARK: &str = "anabranch";

/// A table at one version.
#[derive(Clone, Debug)]
pub(crate) struct TableState {
    /// The version in the log, from 0.
    pub(crate) version: u64,
    pub(crate) protocol: Features,
    pub(crate) schema: StoredSchema,
    /// The live files by path.
    pub(crate) adds: BTreeMap<String, Add>,
    pub(crate) transactions: Transactions,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) version: u64,
    pub(crate) actions: Vec<Action>,
}

/// Who has made a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A worker of ours, with what the log said before in sight.
    Ours,
    /// RESTORE, by whatever tool, to this version if it says so.
    Restore(Option<u64>),
    /// Anybody else.
    Foreign,
}

/// What a table asks of its readers and writers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Features {
    min_reader_version: i32,
    min_writer_version: i32,
    #[serde(default)]
    reader_features: Vec<String>,
    #[serde(default)]
    writer_features: Vec<String>,
}

/// What is known of a table so far.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    adds: BTreeMap<String, Add>,
    transactions: Transactions,
}

impl Replay {
    /// Applies the actions of a checkpoint or of one commit.
    pub(crate) fn apply(&mut self, actions: Vec<Action>) {
        for action in &actions {
            if let Action::Remove(remove) = action {
                remove_file(&mut self.adds, &remove.path, remove.deletion_vector.as_ref());
            }
        }
        for action in actions {
            match action {
                Action::Metadata(metadata) => self.metadata = Some(metadata),
                Action::Protocol(protocol) => self.protocol = Some(protocol),
                Action::Add(add) => {
                    self.adds.insert(add.path.clone(), add);
                }
                Action::Txn(txn) => {
                    self.transactions.insert(txn.app_id, txn.version);
                }
                Action::Remove(_)
                | Action::Cdc(_)
                | Action::CommitInfo(_)
                | Action::DomainMetadata(_) => {}
            }
        }
    }

    /// The table at `version`.
    pub(crate) fn finish(self, version: u64) -> Result<TableState, Cause> {
        let missing = |what: &str| Cause::Foreign(format!("its log has no {what} action"));
        let protocol = Features::read(&self.protocol.ok_or_else(|| missing("protocol"))?)?;
        let schema = StoredSchema::read(&self.metadata.ok_or_else(|| missing("metaData"))?)?;
        let Self { adds, transactions, .. } = self;
        Ok(TableState { version, protocol, schema, adds, transactions })
    }
}

impl TableState {
    /// Moves on by one commit. On an error nothing has changed.
    pub(crate) fn advance(&mut self, commit: Commit) -> Result<(), Cause> {
        let (mut protocol, mut schema) = (None, None);
        for action in &commit.actions {
            if let Action::Protocol(seen) = action {
                protocol = Some(Features::read(seen)?);
            } else if let Action::Metadata(seen) = action {
                schema = Some(StoredSchema::read(seen)?);
            }
        }
        let mut replay = Replay {
            adds: std::mem::take(&mut self.adds),
            transactions: std::mem::take(&mut self.transactions),
            ..Replay::default()
        };
        replay.apply(commit.actions);
        self.adds = replay.adds;
        self.transactions = replay.transactions;
        self.protocol = protocol.unwrap_or_else(|| std::mem::take(&mut self.protocol));
        if let Some(schema) = schema {
            self.schema = schema;
        }
        self.version = commit.version;
        Ok(())
    }
}

impl Commit {
    /// Who has made it.
    pub(crate) fn origin(&self) -> Origin {
        let infos = self.actions.iter().filter_map(|action| match action {
            Action::CommitInfo(info) => Some(info),
            Action::Metadata(_)
            | Action::Protocol(_)
            | Action::Add(_)
            | Action::Remove(_)
            | Action::Cdc(_)
            | Action::Txn(_)
            | Action::DomainMetadata(_) => None,
        });
        for info in infos {
            if info.info.contains_key(MARK) {
                return Origin::Ours;
            }
            if info.operation.as_deref() == Some("RESTORE") {
                let parameters = info.operation_parameters.as_ref();
                return Origin::Restore(parameters.and_then(|all| all.get("version")).and_then(
                    |version| {
                        version.as_u64().or_else(|| version.as_str().and_then(|v| v.parse().ok()))
                    },
                ));
            }
        }
        Origin::Foreign
    }
}

impl Features {
    /// Reads a `protocol` action, and refuses what this crate does not know how to keep.
    fn read(protocol: &Protocol) -> Result<Self, Cause> {
        const READER: [&str; 2] = ["deletionVectors", "timestampNtz"];
        // The last two bind nobody unless a property or a column turns them on.
        const WRITER: [&str; 4] = ["deletionVectors", "timestampNtz", "appendOnly", "invariants"];
        let features: Self = serde_json::from_value(serde_json::to_value(protocol)?)?;
        let strange = |known: &[&str], found: &[String]| {
            found.iter().find(|feature| !known.contains(&feature.as_str())).cloned()
        };
        let strange = strange(&READER, &features.reader_features)
            .or_else(|| strange(&WRITER, &features.writer_features));
        if let Some(feature) = strange {
            return Err(Cause::Foreign(format!("it has the table feature {feature}")));
        }
        if !features.reader_features.iter().any(|feature| feature == "deletionVectors") {
            return Err(Cause::Foreign("it lacks the table feature deletionVectors".to_owned()));
        }
        Ok(features)
    }

    /// These and those of `wanted`, or `None` if nothing is missing.
    pub(crate) fn with(&self, wanted: &Protocol) -> Result<Option<Protocol>, Cause> {
        let wanted = Self::read(wanted)?;
        let mut union = self.clone();
        for (have, want) in [
            (&mut union.reader_features, wanted.reader_features),
            (&mut union.writer_features, wanted.writer_features),
        ] {
            have.extend(want.into_iter().filter(|f| !have.contains(f)).collect::<Vec<_>>());
        }
        if union == *self {
            return Ok(None);
        }
        Ok(Some(serde_json::from_value(serde_json::to_value(&union)?)?))
    }
}

fn remove_file(
    adds: &mut BTreeMap<String, Add>,
    path: &str,
    vector: Option<&DeletionVectorDescriptor>,
) {
    // A removal is of a file with its vector: one of an older vector is no news.
    if adds
        .get(path)
        .is_some_and(|add| vector_id(add.deletion_vector.as_ref()) == vector_id(vector))
    {
        adds.remove(path);
    }
}

/// What tells the vectors of one file apart.
pub(crate) fn vector_id(vector: Option<&DeletionVectorDescriptor>) -> Option<(&str, Option<i32>)> {
    vector.map(|vector| (vector.path_or_inline_dv.as_str(), vector.offset))
}
