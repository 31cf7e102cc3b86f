//! The one place that says what a failure of this store asks for.

use anabranch_core::{Error, ErrorKind};
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store;
use deltalake::{DeltaTableError, ObjectStoreError};

use crate::deletion_vector::BadVector;

/// What went wrong below.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Delta(#[from] DeltaTableError),
    /// While writing a data file.
    #[error(transparent)]
    Write(DeltaTableError),
    #[error(transparent)]
    Store(#[from] ObjectStoreError),
    #[error(transparent)]
    Path(#[from] object_store::path::Error),
    #[error(transparent)]
    Commit(#[from] TransactionError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error(transparent)]
    Parquet(#[from] deltalake::parquet::errors::ParquetError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Vector(#[from] BadVector),
    #[error(transparent)]
    Core(#[from] Error),
    #[error("{0}")]
    Foreign(String),
    #[error("it is not a table of anabranch: {0}")]
    NotOurs(String),
    #[error("the data file {0} is not there")]
    FileGone(String),
    #[error("the blocking task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Cause {
    /// A failure to read a file that the log names.
    pub(crate) fn of_read(error: ObjectStoreError) -> Self {
        if let ObjectStoreError::NotFound { path, .. } = error {
            Self::FileGone(path)
        } else {
            Self::Store(error)
        }
    }

    /// The error of having failed to `action`.
    pub(crate) fn while_doing(self, action: impl Into<String>) -> Error {
        let (kind, help) = classify(&self);
        let error = Error::new(kind, action).with_source(self);
        match help {
            Some(help) => error.with_help(help),
            None => error,
        }
    }
}

const PERMISSION: &str = "give this user the right to read and write the root of the Delta tables";
const SPACE: &str = "free disk space under the root of the Delta tables";
const FILE_GONE: &str =
    "put the file back, RESTORE the table to a version without it, or rebuild the table";
const NOT_OURS: &str = "set another `root`, or move that table's folder away";
const FOREIGN: &str = "another writer has changed the table in a way that cannot be followed: \
                       RESTORE it to a version before that, or rebuild it";

fn classify(cause: &Cause) -> (ErrorKind, Option<&'static str>) {
    if let Some(class) = classify_chain(cause) {
        return class;
    }
    match cause {
        Cause::Core(error) => (error.kind(), None),
        Cause::NotOurs(_) => (ErrorKind::Config, Some(NOT_OURS)),
        Cause::FileGone(_) => (ErrorKind::Config, Some(FILE_GONE)),
        Cause::Task(error) if error.is_panic() => (ErrorKind::Bug, None),
        Cause::Commit(_) | Cause::Task(_) | Cause::Store(_) | Cause::Io(_) | Cause::Write(_) => {
            (ErrorKind::Transient, None)
        }
        Cause::Delta(_)
        | Cause::Json(_)
        | Cause::Vector(_)
        | Cause::Foreign(_)
        | Cause::Parquet(_) => (ErrorKind::Config, Some(FOREIGN)),
        Cause::Arrow(_) | Cause::Path(_) => (ErrorKind::Bug, None),
    }
}

/// Looks for the system's or the store's error, however deep the libraries have put it.
fn classify_chain(cause: &Cause) -> Option<(ErrorKind, Option<&'static str>)> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = match cause {
        Cause::Store(error) => Some(error),
        Cause::Io(error) => Some(error),
        Cause::Delta(error) | Cause::Write(error) => Some(error),
        Cause::Commit(error) => Some(error),
        Cause::Parquet(error) => Some(error),
        Cause::Core(_)
        | Cause::NotOurs(_)
        | Cause::FileGone(_)
        | Cause::Task(_)
        | Cause::Json(_)
        | Cause::Vector(_)
        | Cause::Foreign(_)
        | Cause::Arrow(_)
        | Cause::Path(_) => None,
    };
    let mut is_store = false;
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(classify_io(error));
        }
        match error.downcast_ref::<ObjectStoreError>() {
            Some(ObjectStoreError::NotFound { .. }) => {
                return Some((ErrorKind::Config, Some(FILE_GONE)));
            }
            Some(
                ObjectStoreError::PermissionDenied { .. }
                | ObjectStoreError::Unauthenticated { .. },
            ) => return Some((ErrorKind::Config, Some(PERMISSION))),
            other => is_store |= other.is_some(),
        }
        next = error.source();
    }
    is_store.then_some((ErrorKind::Transient, None))
}

fn classify_io(error: &std::io::Error) -> (ErrorKind, Option<&'static str>) {
    use std::io::ErrorKind as Io;
    let kind = error.kind();
    if [Io::PermissionDenied, Io::ReadOnlyFilesystem, Io::NotADirectory].contains(&kind) {
        (ErrorKind::Config, Some(PERMISSION))
    } else if [Io::StorageFull, Io::QuotaExceeded].contains(&kind) {
        (ErrorKind::Transient, Some(SPACE))
    } else {
        (ErrorKind::Transient, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(cause: Cause) -> ErrorKind {
        cause.while_doing("try").kind()
    }

    #[test]
    fn unknown_input_and_output_is_tried_again_and_permission_is_not() {
        use std::io::{Error as Io, ErrorKind as IoKind};
        assert_eq!(kind(Io::other("?").into()), ErrorKind::Transient);
        assert_eq!(kind(Io::from(IoKind::PermissionDenied).into()), ErrorKind::Config);
        let hidden = ObjectStoreError::Generic {
            store: "local",
            source: Box::new(Io::from(IoKind::PermissionDenied)),
        };
        assert_eq!(kind(hidden.into()), ErrorKind::Config);
        let outage = ObjectStoreError::Generic { store: "s3", source: "503".into() };
        assert_eq!(kind(outage.into()), ErrorKind::Transient);
        let full = ObjectStoreError::Generic {
            store: "local",
            source: Box::new(Io::from(IoKind::StorageFull)),
        };
        let full = Cause::Write(DeltaTableError::ObjectStore { source: full });
        let full = full.while_doing("write");
        assert_eq!((full.kind(), full.help()), (ErrorKind::Transient, Some(SPACE)));
        let odd = DeltaTableError::Generic("?".to_owned());
        assert_eq!(kind(odd.into()), ErrorKind::Config);
    }
}
