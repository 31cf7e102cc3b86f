//! Tables that a stream cannot go on with: there were times in which nobody read them.

use anabranch_core::{Error, ErrorKind, SourceCursor};

use crate::catalog::{KnownTables, RawTable};

/// Those of `tables` that have a gap at `after`, a position of the stream in a log that has `known`.
pub(crate) fn obstacles(
    tables: &[RawTable],
    known: &KnownTables,
    after: &SourceCursor,
) -> impl Iterator<Item = Error> {
    let read = after.membership.as_ref().map(|read| &read.tables);
    tables.iter().filter_map(move |table| {
        let (source, help) = if !known.has(table.oid) {
            (
                "the log does not have it: it was added, or created again, since",
                "take it out of [source] tables; or run `anabranch teardown` and start again with it",
            )
        } else if read.is_some_and(|read| read.get(table.oid).is_none()) {
            // The server knows nothing of that.
            (
                "it was left out of [source] tables for a while, and its changes were not read",
                "take it out again; or run `anabranch teardown` and start again with all tables",
            )
        } else {
            return None;
        };
        let action = format!("go on with {}", table.full_name());
        Some(Error::new(ErrorKind::Config, action).with_source(source).with_help(help))
    })
}
