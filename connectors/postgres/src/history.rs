//! How a source goes on: the table of causes of the design.
//!
//! ```text
//! position record of the log ──┐
//! slot, publication ───────────┼─▶ decide ─┬─▶ begin · stream · turn into another epoch
//! identity of the server ──────┤           └─▶ Loss ── accepted? ─▶ begin · turn
//! history of its timelines ────┘
//! ```
//!
//! The rule behind it: the slot is at or behind the log, on the same server or on one that took over
//! from it. Anything else means that history is missing, and is never papered over.
//!
//! *A fork.* A standby that was promoted shares the WAL of the log's timeline up to the switch point
//! S; what the log has from beyond it never happened there. Epoch + 1 raises everything that comes
//! above everything the log has, and the stream goes on from S, or from the log's position where that
//! is lower. What may be wrong in the log are the rows of transactions at or beyond S, and those that
//! a re-read has filled in with a value from beyond S: both are found in the log ([`Fork`]) and read
//! again before the stream goes on ([`crate::repair`]).

use anabranch_core::{
    Epoch, Error, ErrorKind, Fork, Lsn, Membership, Phase, Rereads, Result, SourceCursor,
};

use crate::loss::{Loss, WayOn};
use crate::membership::Found;
use crate::pgwire::Identity;
use crate::slot::Slot;

/// How a source goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Announce this history, then drop the slot if there is one, create it, and copy.
    Begin { epoch: Epoch },
    /// Go on in the stream where the log stands.
    Stream,
    /// The same where the first copy was cut off: what it has not copied is read beside the stream.
    Finish,
    /// Go on in the stream at this position of another epoch, which the log does not have yet.
    Turn(Box<SourceCursor>),
    /// The same, with a slot that has to be made first.
    Remake(Box<SourceCursor>),
}

/// What the facts say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Go(Plan),
    Lost(Loss),
}

/// Where a timeline ended that the server's descends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) timeline: u32,
    pub(crate) end: Lsn,
}

/// Everything that a decision rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) cursor: Option<&'a SourceCursor>,
    pub(crate) slot: Option<&'a Slot>,
    /// Whether the publication is there.
    pub(crate) publication: bool,
    /// By which rows it publishes the tables.
    pub(crate) found: &'a Found,
    /// When and why the guard dropped the slot, if that is why it is missing.
    pub(crate) dropped: Option<&'a str>,
    pub(crate) server: Identity,
    pub(crate) ancestors: &'a [Ancestor],
    /// Of the slot, and of the database that we are connected to.
    pub(crate) names: (&'a str, &'a str),
}

impl Facts<'_> {
    /// Decides how to go on.
    pub(crate) fn decide(&self) -> Result<Decision> {
        let (name, database) = self.names;
        if let Some(slot) = self.slot {
            slot.check_ours(database)?;
        }
        let Some(cursor) = self.cursor else {
            return Ok(match self.slot {
                None => Decision::Go(Plan::Begin { epoch: Epoch(0) }),
                Some(_) => Decision::Lost(Loss::LogWiped),
            });
        };
        if cursor.slot != name {
            let why = format!("the log was written from slot {}", cursor.slot);
            return Err(Error::new(ErrorKind::Config, format!("go on with slot {name}"))
                .with_source(why)
                .with_help("set [source] slot back, or run `anabranch teardown` to begin anew"));
        }
        if let Some(slot) = self.slot {
            slot.check_single_phase()?;
        }
        let decision = match cursor.phase {
            Phase::Starting | Phase::Snapshot => {
                match self.dropped_by_guard(cursor.confirm, false) {
                    Some(loss) => Decision::Lost(loss),
                    None if self.has_begun(cursor) => Decision::Go(Plan::Finish),
                    None => begin(cursor).map_or_else(Decision::Lost, Decision::Go),
                }
            }
            Phase::Streaming => self.go_on(cursor).map_or_else(Decision::Lost, Decision::Go),
        };
        Ok(decision)
    }

    /// The way on that a person, or the policy, has chosen.
    pub(crate) fn accept(&self, loss: &Loss, way: WayOn) -> Option<Plan> {
        let cursor = self.cursor.filter(|_| loss.allows(way))?;
        let epoch = cursor.epoch.next()?;
        if let (Loss::PublicationChanged { .. }, WayOn::Gap) = (loss, way) {
            // The stream itself is whole: it goes on where it is.
            let turned = match self.stream(cursor).ok()?.0 {
                Plan::Turn(turned) => *turned,
                Plan::Stream | Plan::Finish | Plan::Begin { .. } | Plan::Remake(_) => {
                    let fork = cursor.fork.map(|fork| Fork { rows: 0, ..fork });
                    SourceCursor { epoch, fork, ..cursor.clone() }
                }
            };
            return Some(Plan::Turn(Box::new(SourceCursor { membership: None, ..turned })));
        }
        let slot = self.slot.filter(|slot| slot.invalidated().is_none() && !slot.temporary);
        // What is accepted of the slot says nothing of the publication; another server, and a gap that
        // reaches up to now, have what they have.
        let is_one_history = matches!(loss, Loss::SlotAhead { .. } | Loss::SlotNotSynced { .. });
        let turned = |confirm| {
            Box::new(SourceCursor {
                epoch,
                system_id: self.server.system_id,
                timeline: self.server.timeline,
                phase: Phase::Streaming,
                confirm,
                seen: Lsn::default(),
                split: None,
                rereads: Rereads::default(),
                fork: cursor.fork.map(|fork| Fork { rows: 0, ..fork }),
                membership: cursor.membership.clone().filter(|_| is_one_history),
                ..cursor.clone()
            })
        };
        Some(match (way, slot.and_then(|slot| slot.confirmed_flush)) {
            (WayOn::Snapshot, _) => Plan::Begin { epoch },
            (WayOn::Gap, Some(confirmed)) => Plan::Turn(turned(confirmed)),
            (WayOn::Gap, None) => Plan::Remake(turned(Lsn::default())),
        })
    }

    /// Whether a copy was under way, and the slot has everything since its snapshot.
    fn has_begun(&self, cursor: &SourceCursor) -> bool {
        let server = (self.server.system_id, self.server.timeline);
        let is_there = |slot: &Slot| {
            slot.confirmed_flush == Some(cursor.confirm)
                && slot.invalidated().is_none()
                && !slot.temporary
        };
        let is_published = |then: &Membership| self.found.changed_since(then).is_none();
        cursor.phase == Phase::Snapshot
            && (cursor.system_id, cursor.timeline) == server
            && self.slot.is_some_and(is_there)
            && self.publication
            && cursor.membership.as_ref().is_some_and(is_published)
    }

    fn go_on(&self, cursor: &SourceCursor) -> Result<Plan, Loss> {
        let (plan, from) = self.stream(cursor)?;
        self.check_slot(from)?;
        let end = self.server.flushed;
        if !self.publication {
            return Err(Loss::PublicationMissing { log: from, end });
        }
        let changed = cursor.membership.as_ref().and_then(|before| {
            let what = self.found.changed_since(before)?;
            Some(Loss::PublicationChanged { what, since: before.at, end })
        });
        changed.map_or(Ok(plan), Err)
    }

    /// The history of the server, where the log stands in it, and how it goes on from there.
    fn stream(&self, cursor: &SourceCursor) -> Result<(Plan, Lsn), Loss> {
        let server = self.server;
        if cursor.system_id != server.system_id {
            let (log, server) = (cursor.system_id, server.system_id);
            return Err(Loss::OtherSystem { log, server });
        }
        let (log, end) = (cursor.timeline, server.timeline);
        match log.cmp(&end) {
            std::cmp::Ordering::Greater => Err(Loss::TimelineLower { log, server: end }),
            std::cmp::Ordering::Equal => {
                let split = cursor.split.as_ref().map_or(Lsn::default(), |split| split.commit_lsn);
                let ahead = cursor.confirm.max(cursor.seen).max(split);
                if ahead > server.flushed {
                    return Err(Loss::LogAhead { log: ahead, end: server.flushed });
                }
                Ok((Plan::Stream, cursor.confirm))
            }
            std::cmp::Ordering::Less => {
                let switch = self.ancestors.iter().find(|ancestor| ancestor.timeline == log);
                let switch = switch.ok_or(Loss::TimelineUnrelated { log, server: end })?.end;
                self.check_carried(cursor, switch)?;
                let turned = fork(cursor, switch, end)?;
                let from = turned.confirm;
                Ok((Plan::Turn(Box::new(turned)), from))
            }
        }
    }

    /// What the guard has dropped is never begun anew by itself.
    fn dropped_by_guard(&self, log: Lsn, copied: bool) -> Option<Loss> {
        let cause = self.dropped.filter(|_| self.slot.is_none())?.to_owned();
        Some(Loss::DroppedByGuard { cause, log, end: self.server.flushed, copied })
    }

    /// Whether a promoted server has the slot that the old primary had.
    fn check_carried(&self, cursor: &SourceCursor, switch: Lsn) -> Result<(), Loss> {
        let (log, end) = (cursor.confirm.min(switch), self.server.flushed);
        let Some(slot) = self.slot else {
            let (from, to) = (cursor.timeline, self.server.timeline);
            let loss = self.dropped_by_guard(log, true);
            return Err(loss.unwrap_or(Loss::SlotNotCarried { from, to, switch, log, end }));
        };
        let why = if slot.temporary {
            "it is temporary"
        } else if slot.synced == Some(false) {
            "it was made here"
        } else {
            return Ok(());
        };
        Err(Loss::SlotNotSynced { why, log, end })
    }

    /// Whether the slot still has everything from `log` on.
    fn check_slot(&self, log: Lsn) -> Result<(), Loss> {
        let end = self.server.flushed;
        let Some(slot) = self.slot else {
            let loss = self.dropped_by_guard(log, true);
            return Err(loss.unwrap_or(Loss::SlotMissing { log, end }));
        };
        if let Some(reason) = slot.invalidated() {
            return Err(Loss::SlotInvalidated { reason, log, end });
        }
        match slot.confirmed_flush {
            Some(slot) if slot > log => Err(Loss::SlotAhead { log, slot }),
            Some(_) => Ok(()),
            None => {
                let reason = "its creation was never finished".to_owned();
                Err(Loss::SlotInvalidated { reason, log, end })
            }
        }
    }
}

/// A history that begins again.
pub(crate) fn begin(cursor: &SourceCursor) -> Result<Plan, Loss> {
    match (cursor.epoch.next(), cursor.phase) {
        (Some(epoch), _) => Ok(Plan::Begin { epoch }),
        // Nothing was written in the last one yet, so it may be begun once more.
        (None, Phase::Starting) => Ok(Plan::Begin { epoch: cursor.epoch }),
        (None, Phase::Snapshot | Phase::Streaming) => Err(Loss::EpochsUsedUp),
    }
}

/// The position in the history that forked off the log's at `switch`.
fn fork(cursor: &SourceCursor, switch: Lsn, timeline: u32) -> Result<SourceCursor, Loss> {
    let epoch = cursor.epoch.next().ok_or(Loss::EpochsUsedUp)?;
    let split = cursor.split.clone().filter(|split| split.commit_lsn < switch);
    let beyond = cursor.confirm > switch || split != cursor.split;
    let reach = match cursor.rereads.reach(switch) {
        // A release that kept no list has read again: anything may have been.
        None if cursor.seen > switch => Some(Lsn::default()),
        reach => reach,
    };
    let since = reach.into_iter().chain(beyond.then_some(switch)).min();
    // A repair that was under way reaches back further: into an earlier epoch.
    let fork = match cursor.fork {
        Some(fork) => Some(Fork { rows: 0, ..fork }),
        None => since.map(|since| Fork {
            epoch: epoch_back(cursor.epoch, cursor.confirm, since),
            since,
            rows: 0,
        }),
    };
    Ok(SourceCursor {
        epoch,
        timeline,
        confirm: cursor.confirm.min(switch),
        seen: Lsn::default(),
        split,
        rereads: Rereads::default(),
        fork,
        ..cursor.clone()
    })
}

/// The epoch of a commit at `lsn`, where the history stands at `here` in `epoch` now: each lap
/// between the two began another.
fn epoch_back(epoch: Epoch, here: Lsn, lsn: Lsn) -> Epoch {
    let laps = u8::try_from(here.lap().saturating_sub(lsn.lap())).unwrap_or(u8::MAX);
    Epoch(epoch.0.saturating_sub(laps))
}

/// What a decision about a slot is worth that was in use when it was first looked at, or while
/// somebody else wrote to the log: it is our view that is old.
pub(crate) fn settle(decision: Decision, is_stale: bool, name: &str) -> Result<Decision> {
    match decision {
        Decision::Lost(_) if is_stale => {
            let action = format!("take over slot {name}");
            let why = "another instance was still writing: reading the log again";
            Err(Error::new(ErrorKind::Transient, action).with_source(why))
        }
        Decision::Go(_) | Decision::Lost(_) => Ok(decision),
    }
}

/// Reads a timeline's history file; `None` if it is none.
pub(crate) fn ancestors(file: &str) -> Option<Vec<Ancestor>> {
    let is_entry = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (timeline, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Ancestor { timeline, end })
    };
    file.lines().map(str::trim).filter(is_entry).map(entry).collect()
}

#[cfg(test)]
mod tests;
