//! Takes away what a source has left on the server: the slot and the publication.

use anabranch_core::{Error, ErrorKind, Result};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::config::PostgresConfig;
use crate::error::Context;
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
    let name = &config.publication;
    let publication = publication.map(|owner| match owner {
        Owner::Us => format!("drop publication {name} of the source database"),
        Owner::Another => format!("leave publication {name}, which belongs to another role"),
    });
    Ok(slot.into_iter().chain(publication).collect())
}

/// Drops the slot, unless it is in use, and the publication, if it is ours to drop.
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
    if publication == Some(Owner::Us) {
        let sql = format!("drop publication if exists {}", escape_identifier(&config.publication));
        let action = || format!("drop publication {}", config.publication);
        session.batch_execute(&sql).await.doing(action)?;
    }
    Ok(())
}

/// Whose a publication is. The tables' owner makes it where our role may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Us,
    Another,
}

/// The slot and the publication, so far as they are there.
async fn leftovers(
    client: &Client,
    config: &PostgresConfig,
) -> Result<(Option<Slot>, Option<Owner>)> {
    let slot = Slot::read(client, &config.slot).await?;
    if let Some(slot) = &slot
        && (slot.plugin.as_deref() != Some("pgoutput")
            || slot.database.as_deref() != Some(&config.endpoint()?.database))
    {
        return Err(Error::new(ErrorKind::Config, format!("drop slot {}", slot.name))
            .with_source("it was made by somebody else")
            .with_help("choose another name in [source] slot"));
    }
    Ok((slot, owner(client, &config.publication).await?))
}

async fn owner(client: &Client, publication: &str) -> Result<Option<Owner>> {
    let action = || format!("look at publication {publication}");
    let query = "select pg_has_role(pubowner, 'usage') from pg_publication where pubname = $1";
    let row = client.query_opt(query, &[&publication]).await.doing(action)?;
    let is_ours: Option<bool> = row.map(|row| row.try_get(0)).transpose().doing(action)?;
    Ok(is_ours.map(|is_ours| if is_ours { Owner::Us } else { Owner::Another }))
}
