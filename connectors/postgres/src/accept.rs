//! What a person may accept: finds what keeps a source from going on, and changes nothing.

use anabranch_core::{Error, Result, SourceCursor};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::catalog::KnownTables;
use crate::config::PostgresConfig;
use crate::dropped::DroppedSlots;
use crate::error::{Context, history_lost};
use crate::history::{Decision, Plan};
use crate::loss::{Gap, Loss, WayOn};
use crate::pgwire::{Identity, ReplicationConnection};
use crate::scope::{self, Logged};
use crate::session::Session;
use crate::source::{Gathered, connect_replication};

/// What keeps a source from going on.
#[derive(Debug)]
pub struct Diagnosis {
    /// The finding, to be accepted as it is.
    pub gap: Gap,
    /// The error that the daemon stands still with.
    pub error: Error,
    /// The ways on that there are.
    pub ways: Vec<WayOn>,
}

/// What the server says of a log's position.
struct Examined {
    /// With the name of each table.
    config: PostgresConfig,
    gathered: Gathered,
    replication: ReplicationConnection,
    identity: Identity,
}

/// Looks at what keeps the source from going on after `after`, the log's position; `None` if nothing
/// does. `dropped` knows what the WAL guard gave up.
///
/// # Errors
///
/// `Transient` if the server cannot be reached or somebody reads the slot right now, `Config` if its
/// answer is wrong.
pub async fn diagnose(
    config: &PostgresConfig,
    after: &SourceCursor,
    dropped: Option<&dyn DroppedSlots>,
) -> Result<Option<Diagnosis>> {
    let Examined { config, mut gathered, mut replication, identity } =
        examine(config, after).await?;
    let config = &config;
    if let Some(error) = gathered.in_use() {
        return Err(error.with_help(
            "while the slot is read there is nothing to accept: `anabranch status` says how the source \
             is; a reader that is not ours has to end first",
        ));
    }
    gathered.ask_of_drop(dropped, Some(after)).await?;
    let facts = gathered.facts(config, Some(after));
    let loss = match facts.decide()? {
        Decision::Go(Plan::Begin { .. }) => return Ok(None),
        // The worse finding counts: there is one way less.
        Decision::Go(_) | Decision::Lost(Loss::PublicationChanged { .. })
            if is_unpassable(&mut replication, config).await? =>
        {
            Loss::PublicationMissing { log: after.confirm, end: identity.flushed }
        }
        Decision::Lost(loss) => loss,
        Decision::Go(_) => return Ok(None),
    };
    let gap = Gap::new(after, facts.slot, identity, &loss);
    let mut ways = vec![WayOn::Snapshot, WayOn::Gap];
    ways.retain(|way| facts.accept(&loss, *way).is_some());
    Ok(Some(Diagnosis { gap, error: history_lost(&config.slot, loss), ways }))
}

/// How a source would go on after `after`, as far as can be told without reading from the slot.
pub(crate) async fn foresee(config: &PostgresConfig, after: &SourceCursor) -> Result<Decision> {
    let Examined { config, gathered, .. } = examine(config, after).await?;
    gathered.facts(&config, Some(after)).decide()
}

async fn examine(config: &PostgresConfig, after: &SourceCursor) -> Result<Examined> {
    let session = Session::open(config).await?;
    let (mut replication, identity) = connect_replication(config).await?;
    // Which tables were read says the position; their names in the log are no matter here.
    let logged = Logged::new(&KnownTables::default(), Some(after), identity.system_id);
    let config = scope::resolve(&session, config, &logged).await?.config;
    let facts = (identity, Some(after));
    let gathered = Gathered::read(&config, &session, &mut replication, facts).await?;
    Ok(Examined { config, gathered, replication, identity })
}

/// Whether the slot stands before a place where the publication did not exist. Peeks at the first
/// change after it, which moves nothing.
async fn is_unpassable(
    replication: &mut ReplicationConnection,
    config: &PostgresConfig,
) -> Result<bool> {
    let names: Vec<String> =
        config.publications().iter().map(|name| escape_identifier(name)).collect();
    let sql = format!(
        "select from pg_logical_slot_peek_binary_changes({}, null, 1, 'proto_version', '1', \
         'publication_names', {}) limit 1",
        escape_literal(&config.slot),
        escape_literal(&names.join(",")).trim_start()
    );
    match replication.query(&sql).await {
        Ok(_) => Ok(false),
        Err(error) if error.is_missing_publication() => Ok(true),
        Err(error) => Err(error).doing(|| format!("look into slot {}", config.slot)),
    }
}
