//! Gathers the facts, decides with them, and makes sure that they were of one moment.
//!
//! ```text
//! slot, once it is free ─┐
//! identity, timelines ───┼─▶ Facts ─▶ decide ─ Lost ─▶ log read again: as before? ─▶ accepted?
//! publication ───────────┘
//! ```
//!
//! The log was read before any of it. Whoever moved the slot since has written to the log first, so
//! a slot that looks ahead of the log is ahead only of what we have read, unless the log still says
//! the same. So a loss is final once the log, read after the slot was free, still stands there.

use anabranch_core::{Epoch, Error, ErrorKind, LogHistory, Lsn, Phase, Result, SourceCursor};
use tokio::time::Instant;

use super::{SLOT_INTERVAL, SLOT_WAIT_MAX};
use crate::config::{OnLost, PostgresConfig};
use crate::dropped::DroppedSlots;
use crate::error::{Context, bug, history_lost};
use crate::history::{Ancestor, Decision, Facts, Plan, ancestors, settle};
use crate::loss::{Acceptance, Gap, Loss, WayOn};
use crate::membership::Found;
use crate::pgwire::{Identity, ReplicationConnection};
use crate::publication::Publication;
use crate::session::Session;
use crate::slot::Slot;

/// What was gathered of the server; the log is the caller's.
pub(crate) struct Gathered {
    slot: Option<Slot>,
    publication: bool,
    pub(super) found: Found,
    dropped: Option<String>,
    identity: Identity,
    ancestors: Vec<Ancestor>,
    database: String,
}

impl Gathered {
    pub(crate) async fn read(
        config: &PostgresConfig,
        session: &Session,
        replication: &mut ReplicationConnection,
        (identity, after): (Identity, Option<&SourceCursor>),
    ) -> Result<Self> {
        let mut publication = true;
        for name in config.publications() {
            publication &= Publication::read(session, config, &name).await?.is_some();
        }
        Ok(Self {
            slot: Slot::read(session, &config.slot).await?,
            publication,
            found: Found::by_name(session, config).await?,
            dropped: None,
            identity,
            ancestors: forked(replication, identity, after).await?,
            database: config.database()?,
        })
    }

    pub(crate) fn facts<'a>(
        &'a self,
        config: &'a PostgresConfig,
        cursor: Option<&'a SourceCursor>,
    ) -> Facts<'a> {
        Facts {
            cursor,
            slot: self.slot.as_ref(),
            publication: self.publication,
            found: &self.found,
            dropped: self.dropped.as_deref(),
            server: self.identity,
            ancestors: &self.ancestors,
            names: (&config.slot, &self.database),
        }
    }

    /// The walsender that uses the slot.
    pub(crate) fn in_use(&self) -> Option<anabranch_core::Error> {
        self.slot.as_ref().and_then(Slot::in_use)
    }

    /// Asks whether the guard has dropped the slot. To be called after the slot was looked at: the
    /// trace is there before the slot is gone.
    pub(crate) async fn ask_of_drop(
        &mut self,
        dropped: Option<&dyn DroppedSlots>,
        after: Option<&SourceCursor>,
    ) -> Result<()> {
        let (Some(dropped), Some(after)) = (dropped, after) else { return Ok(()) };
        // Before the stream a slot is made anew; one that the guard is about to drop as well.
        if self.slot.is_some() && after.phase == Phase::Streaming {
            return Ok(());
        }
        self.dropped = dropped.cause(after).await?;
        match (&self.dropped, &self.slot) {
            (Some(cause), Some(slot)) => Err(Error::new(
                ErrorKind::Transient,
                format!("begin again with slot {}", slot.name),
            )
            .with_source(format!("the WAL guard is dropping it: {cause}"))),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Waits until nobody uses the slot; says whether anybody did.
    async fn wait_until_free(&mut self, session: &Session) -> Result<bool> {
        let began = Instant::now();
        let was_active = self.in_use().is_some();
        while let Some(used) = &self.slot
            && let Some(error) = used.in_use()
        {
            if began.elapsed() > SLOT_WAIT_MAX {
                return Err(error);
            }
            tokio::time::sleep(SLOT_INTERVAL).await;
            self.slot = Slot::read(session, &used.name).await?;
        }
        Ok(was_active)
    }
}

/// Whom else to hear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witnesses<'a> {
    pub(super) history: Option<&'a dyn LogHistory>,
    pub(super) dropped: Option<&'a dyn DroppedSlots>,
    pub(super) accepted: &'a [Acceptance],
    /// Where an earlier attempt has found that the slot cannot pass.
    pub(super) stuck_at: Option<(Epoch, Lsn)>,
}

/// Decides how to go on after `after`.
pub(super) async fn plan(
    config: &PostgresConfig,
    session: &Session,
    gathered: &mut Gathered,
    after: Option<&SourceCursor>,
    witnesses: Witnesses<'_>,
) -> Result<Plan> {
    let Witnesses { history, dropped, accepted, .. } = witnesses;
    // What no wait mends is said at once: a slot of somebody else, for example.
    gathered.facts(config, after).decide()?;
    let was_active = gathered.wait_until_free(session).await?;
    gathered.ask_of_drop(dropped, after).await?;
    let facts = gathered.facts(config, after);
    let decision = settle(facts.decide()?, was_active, &config.slot)?;
    if is_passable_by_looks(&decision)
        && let Some(loss) = unpassable(config, &facts, &witnesses)
        && let Some(begin) = facts.accept(&loss, WayOn::Snapshot)
    {
        tracing::warn!(%loss, "history is lost, and accepted");
        return Ok(begin);
    }
    let loss = match decision {
        Decision::Lost(loss) => loss,
        Decision::Go(plan) => return Ok(plan),
    };
    if let Some(history) = history {
        let is_stale = history.position().await?.as_ref() != after;
        settle(Decision::Lost(loss.clone()), is_stale, &config.slot)?;
    }
    let gap = facts.cursor.map(|cursor| Gap::new(cursor, facts.slot, facts.server, &loss));
    let found = |accepted: &&Acceptance| Some(&accepted.gap) == gap.as_ref();
    let by_person = accepted.iter().find(found).map(|accepted| accepted.way);
    let is_policy = config.on_lost == OnLost::Snapshot && loss.is_left_to_policy();
    let by_policy = is_policy.then_some(WayOn::Snapshot);
    let way = by_person.or(by_policy);
    if let Some(way) = way
        && let Some(plan) = facts.accept(&loss, way)
    {
        tracing::warn!(%loss, %way, by_policy = by_person.is_none(), "history is lost, and accepted");
        return Ok(plan);
    }
    Err(history_lost(&config.slot, loss))
}

/// Whether all that may be wrong with the publication is that it was another one for a while.
fn is_passable_by_looks(decision: &Decision) -> bool {
    matches!(decision, Decision::Go(Plan::Stream) | Decision::Lost(Loss::PublicationChanged { .. }))
}

/// A publication that was missing somewhere in the WAL shows only when the slot gets there. If a
/// person has accepted that for just this position, or we got there ourselves and the policy
/// accepts it, the slot cannot have passed the place.
fn unpassable(
    config: &PostgresConfig,
    facts: &Facts<'_>,
    Witnesses { accepted, stuck_at, .. }: &Witnesses<'_>,
) -> Option<Loss> {
    let cursor = facts.cursor?;
    let loss = Loss::PublicationMissing { log: cursor.confirm, end: facts.server.flushed };
    let gap = Gap::new(cursor, facts.slot, facts.server, &loss);
    let by_person = accepted.iter().any(|accepted| accepted.gap == gap);
    let is_stuck = stuck_at.is_some_and(|at| at >= (cursor.epoch, cursor.confirm));
    let by_policy = config.on_lost == OnLost::Snapshot && is_stuck;
    (by_person || by_policy).then_some(loss)
}

/// Where the timelines ended that the server descends from, if it is on a later one than the log.
async fn forked(
    replication: &mut ReplicationConnection,
    identity: Identity,
    after: Option<&SourceCursor>,
) -> Result<Vec<Ancestor>> {
    if after.is_none_or(|after| after.timeline >= identity.timeline) {
        return Ok(Vec::new());
    }
    let action = || format!("read the history of timeline {}", identity.timeline);
    let file = replication.timeline_history(identity.timeline).await;
    // Without its file nothing is known of where it comes from.
    let file = match file.doing(action) {
        Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
        Err(error) => {
            tracing::warn!("{}", error.report());
            return Ok(Vec::new());
        }
        Ok(file) => file,
    };
    ancestors(&file).ok_or_else(|| bug(action(), "it has another form than it should"))
}
