//! Tables that nobody read for a while: a stream goes on with them by a snapshot beside it.

use anabranch_core::{Error, ErrorKind, Result, SourceCursor};

use crate::catalog::{KnownTables, RawTable};

/// What keeps a table out that was created again.
pub(crate) const ANOTHER: &str =
    "the log has another table of that name: it was created again since";

/// The oids and names of those of `tables` that the log, which has `known`, does not have as of
/// `after`, a position of the stream.
///
/// # Errors
///
/// `Config` for a table that no snapshot beside the stream brings into the log.
pub(crate) fn missed(
    tables: &[RawTable],
    known: &KnownTables,
    after: &SourceCursor,
) -> Result<Vec<(u32, String)>> {
    let read = after.membership.as_ref().map(|read| &read.tables);
    let mut missed = Vec::new();
    for table in tables {
        let is_known = known.has(table.oid);
        // The server knows nothing of the time in which it was left out of the configuration.
        if is_known && read.is_none_or(|read| read.get(table.oid).is_some()) {
            continue;
        }
        if let Some(why) = obstacle(table, known) {
            let action = format!("go on with {}", table.full_name());
            return Err(Error::new(ErrorKind::Config, action).with_source(why).with_help(
                "take it out of [source] tables; or run `anabranch teardown` and start again with it",
            ));
        }
        missed.push((table.oid, table.full_name()));
    }
    Ok(missed)
}

/// Why no snapshot beside the stream brings `table`, which the log does not have, into it.
pub(crate) fn obstacle(table: &RawTable, known: &KnownTables) -> Option<&'static str> {
    if table.append_only {
        return Some(
            "it was not read for a while, and has no key by which it could be read beside the stream",
        );
    }
    let is_another = !known.has(table.oid) && !known.named(&table.schema, &table.table).is_empty();
    is_another.then_some(ANOTHER)
}
