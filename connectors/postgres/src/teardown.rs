//! Takes away what a source has left on the server: the slot and the publication.

use anabranch_core::{Error, ErrorKind, Result};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::config::PostgresConfig;
use crate::error::Context;
use crate::publication::Publication;
use crate::session::Session;
use crate::slot::Slot;

/// What [`teardown`] would do, a line each; empty if nothing is left.
///
/// # Errors
///
/// If the server cannot be asked.
pub async fn teardown_plan(config: &PostgresConfig) -> Result<Vec<String>> {
    let session = Session::open(config).await?;
    let (slot, publication) = leftovers(&session, config).await?;
    let slot = slot.map(|slot| {
        let used = slot.active_pid.map(|pid| format!(", once process {pid} no longer uses it"));
        format!("drop slot {} of the source database{}", slot.name, used.unwrap_or_default())
    });
    let publication = publication
        .then(|| format!("drop publication {} of the source database", config.publication));
    Ok(slot.into_iter().chain(publication).collect())
}

/// Drops the slot, unless it is in use, and the publication.
///
/// # Errors
///
/// `Config` if the slot is in use or somebody else's; then nothing is dropped.
pub async fn teardown(config: &PostgresConfig) -> Result<()> {
    let session = Session::open(config).await?;
    let (slot, publication) = leftovers(&session, config).await?;
    if let Some(slot) = slot {
        if let Some(used) = slot.in_use() {
            return Err(Error::new(ErrorKind::Config, format!("drop slot {}", slot.name))
                .with_source(used)
                .with_help("stop `anabranch run` first"));
        }
        slot.drop(&session).await?;
    }
    if publication {
        let sql = format!("drop publication if exists {}", escape_identifier(&config.publication));
        let action = || format!("drop publication {}", config.publication);
        session.batch_execute(&sql).await.doing(action)?;
    }
    Ok(())
}

/// The slot, and whether the publication is there.
async fn leftovers(client: &Client, config: &PostgresConfig) -> Result<(Option<Slot>, bool)> {
    let slot = Slot::read(client, &config.slot).await?;
    if let Some(slot) = &slot
        && (slot.plugin.as_deref() != Some("pgoutput")
            || slot.database.as_deref() != Some(&config.endpoint()?.database))
    {
        return Err(Error::new(ErrorKind::Config, format!("drop slot {}", slot.name))
            .with_source("it was made by somebody else")
            .with_help("choose another name in [source] slot"));
    }
    let publication = Publication::read(client, &config.publication).await?;
    Ok((slot, publication.is_some()))
}
