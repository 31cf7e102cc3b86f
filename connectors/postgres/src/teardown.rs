//! Takes away what a source has left on the server: the slot and the publications.

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
    let (slot, publications) = leftovers(&session, config).await?;
    let slot = slot.map(|slot| {
        let used = slot.active_pid.map(|pid| format!(", once process {pid} no longer uses it"));
        format!("drop slot {} of the source database{}", slot.name, used.unwrap_or_default())
    });
    let publications = publications.iter().map(|(name, owner)| match owner {
        Owner::Us => format!("drop publication {name} of the source database"),
        Owner::Another => format!("leave publication {name}, which belongs to another role"),
    });
    Ok(slot.into_iter().chain(publications).collect())
}

/// Drops the slot, unless it is in use, and the publications, if they are ours to drop.
///
/// # Errors
///
/// `Config` if the slot is in use or somebody else's; then nothing is dropped.
pub async fn teardown(config: &PostgresConfig) -> Result<()> {
    let session = Session::open(config).await?;
    let (slot, publications) = leftovers(&session, config).await?;
    if let Some(slot) = slot {
        if let Some(used) = slot.in_use() {
            return Err(Error::new(ErrorKind::Config, format!("drop slot {}", slot.name))
                .with_source(used)
                .with_help("stop `anabranch run` first"));
        }
        slot.drop(&session).await?;
    }
    for (name, _) in publications.iter().filter(|(_, owner)| *owner == Owner::Us) {
        let sql = format!("drop publication if exists {}", escape_identifier(name));
        session.batch_execute(&sql).await.doing(|| format!("drop publication {name}"))?;
    }
    Ok(())
}

/// Whose a publication is. The tables' owner makes it where our role may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Us,
    Another,
}

/// The slot and the publications, so far as they are there; the second one may be a leftover of an
/// earlier configuration.
async fn leftovers(
    client: &Client,
    config: &PostgresConfig,
) -> Result<(Option<Slot>, Vec<(String, Owner)>)> {
    let slot = Slot::read(client, &config.slot).await?;
    if let Some(slot) = &slot {
        slot.check_ours(&config.database()?)?;
    }
    let names = [config.publication.clone(), config.append_publication()];
    Ok((slot, owners(client, &names).await?))
}

async fn owners(client: &Client, names: &[String]) -> Result<Vec<(String, Owner)>> {
    let action = || "look at the publications".to_owned();
    let query = "
        select pubname::text, pg_has_role(pubowner, 'usage') from pg_publication
        where pubname = any($1) order by 1";
    let read = |row: &tokio_postgres::Row| {
        let is_ours: bool = row.try_get(1)?;
        Ok((row.try_get(0)?, if is_ours { Owner::Us } else { Owner::Another }))
    };
    let rows = client.query(query, &[&names]).await.doing(action)?;
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().doing(action)
}
