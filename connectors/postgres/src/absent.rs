//! Tables that the configuration names and the database has not: dropped, renamed, or never there.

use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::config::TableName;
use crate::error::Context;

/// What is told of one that was dropped.
pub(crate) const DROPPED: &str =
    "it was dropped: the log and the stores keep what they have of it, and get nothing more";
/// What helps then.
pub(crate) const LET_GO: &str = "take it out of [source] tables";

/// Why a source cannot go on without the table `name`, which is not there. `None` if the log has a
/// table of that name, which has one of `oids`, and that was dropped: then there is nothing to go on with.
///
/// # Errors
///
/// `Transient` if the server cannot be asked.
pub(crate) async fn obstacle(
    client: &Client,
    name: &TableName,
    oids: &[u32],
) -> Result<Option<Error>> {
    let action = || format!("read {name}");
    let query = "
        select n.nspname || '.' || c.relname
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1) limit 1";
    let row = client.query_opt(query, &[&oids]).await;
    let now: Option<String> =
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose()).doing(action)?;
    let error = |why: String| Error::new(ErrorKind::Config, action()).with_source(why);
    Ok(match now {
        Some(now) => Some(
            error(format!("its name is {now} now"))
                .with_help(format!("name it so in [source] tables: \"{now}\"")),
        ),
        None if oids.is_empty() => Some(
            error("there is no such table".to_owned())
                .with_help("create it, or take it out of [source] tables"),
        ),
        None => None,
    })
}
