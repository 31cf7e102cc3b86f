//! History that is gone: each cause by its name, with the size of the gap and the ways out.
//!
//! ```text
//! Loss ──▶ Error (Lost): what is missing, how much, which commands help
//!   └────▶ Gap: exactly this finding, which a person may accept
//! ```
//!
//! The invariant: an acceptance names the log, its epoch and position, and what was found there. Each
//! way on begins another epoch, so no acceptance ever fits a later finding.

use std::fmt;

use anabranch_core::{Epoch, Lsn, SourceCursor};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::pgwire::Identity;
use crate::slot::{Slot, bytes};

/// Why the stream cannot go on where the log stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Loss {
    #[error(
        "the slot exists and the log has no position record: the log was wiped, or the slot belongs \
         to somebody else"
    )]
    LogWiped,
    #[error("the slot does not exist, and {} of WAL were written since the log's position {log}", gap(*log, *end))]
    SlotMissing { log: Lsn, end: Lsn },
    #[error("the WAL guard dropped it at {cause}; {} of WAL were written since the log's position {log}", gap(*log, *end))]
    DroppedByGuard {
        /// When, and why.
        cause: String,
        log: Lsn,
        end: Lsn,
        /// Whether the log has every table; what was never copied is no gap.
        copied: bool,
    },
    #[error(
        "the server was promoted (timeline {from} ended at {switch}, this is {to}) and the slot is not \
         here: it was not synchronised to this standby; {} of WAL were written since {log}", gap(*log, *end)
    )]
    SlotNotCarried { from: u32, to: u32, switch: Lsn, log: Lsn, end: Lsn },
    #[error(
        "the server was promoted, and its slot of that name is not the synchronised copy of the old \
         primary's ({why}); {} of WAL were written since {log}", gap(*log, *end)
    )]
    SlotNotSynced { why: &'static str, log: Lsn, end: Lsn },
    #[error("the server invalidated the slot ({reason}) and removed WAL that it needs; {} of WAL were written since the log's position {log}", gap(*log, *end))]
    SlotInvalidated { reason: String, log: Lsn, end: Lsn },
    #[error(
        "the slot is at {slot}, {} beyond the log's position {log}: it was advanced, recreated or read \
         by somebody else, or the log was restored", gap(*log, *slot)
    )]
    SlotAhead { log: Lsn, slot: Lsn },
    #[error(
        "the log is at {log}, {} ahead of the server, which ends at {end}: the server was restored, or \
         lost what it had not flushed", gap(*end, *log)
    )]
    LogAhead { log: Lsn, end: Lsn },
    #[error(
        "the log was written from system {log}, and this is system {server}: another cluster, or an upgraded one"
    )]
    OtherSystem { log: u64, server: u64 },
    #[error(
        "the log was written on timeline {log}, and this is timeline {server}: a former primary, or a restored one"
    )]
    TimelineLower { log: u32, server: u32 },
    #[error(
        "the log was written on timeline {log}, which is no ancestor of the server's timeline {server}"
    )]
    TimelineUnrelated { log: u32, server: u32 },
    #[error("the publication is missing at the log's position {log}, and the slot cannot pass that place, even after it is created again; {} of WAL were written since", gap(*log, *end))]
    PublicationMissing { log: Lsn, end: Lsn },
    #[error("{what}: changes may be missing from the log, since {since} at the earliest; {} of WAL were written since", gap(*since, *end))]
    PublicationChanged {
        /// Which, and how.
        what: String,
        since: Lsn,
        end: Lsn,
    },
    #[error("256 histories have begun in this log, and its versions can tell no more apart")]
    EpochsUsedUp,
}

/// A way on from a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOn {
    /// Go on from where the slot is. What is missing stays missing.
    Gap,
    /// Copy every table again, into the same log.
    Snapshot,
}

/// What was found, exactly, for a person to accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The log.
    pub log: Uuid,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its position.
    pub log_lsn: Lsn,
    /// The kind of loss.
    pub cause: String,
    /// Where the slot is, if it is there.
    pub slot_lsn: Option<Lsn>,
    /// The server.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
}

/// What a person has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// For this finding and no other.
    pub gap: Gap,
    /// How to go on.
    pub way: WayOn,
}

impl Gap {
    pub(crate) fn new(
        cursor: &SourceCursor,
        slot: Option<&Slot>,
        server: Identity,
        loss: &Loss,
    ) -> Self {
        Self {
            log: cursor.log,
            epoch: cursor.epoch,
            log_lsn: cursor.confirm,
            cause: loss.name().to_owned(),
            slot_lsn: slot.and_then(|slot| slot.confirmed_flush),
            system_id: server.system_id,
            timeline: server.timeline,
        }
    }
}

impl Loss {
    /// One word for each cause.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::LogWiped => "log_wiped",
            Self::SlotMissing { .. } => "slot_missing",
            Self::DroppedByGuard { .. } => "dropped_by_guard",
            Self::SlotNotCarried { .. } => "slot_not_carried",
            Self::SlotNotSynced { .. } => "slot_not_synced",
            Self::SlotInvalidated { .. } => "slot_invalidated",
            Self::SlotAhead { .. } => "slot_ahead",
            Self::LogAhead { .. } => "log_ahead",
            Self::OtherSystem { .. } => "other_system",
            Self::TimelineLower { .. } => "timeline_lower",
            Self::TimelineUnrelated { .. } => "timeline_unrelated",
            Self::PublicationMissing { .. } => "publication_missing",
            Self::PublicationChanged { .. } => "publication_changed",
            Self::EpochsUsedUp => "epochs_used_up",
        }
    }

    /// Whether it can be accepted in this way.
    pub(crate) fn allows(&self, way: WayOn) -> bool {
        match self {
            Self::LogWiped | Self::EpochsUsedUp => false,
            // The slot stands before a place that it cannot pass.
            Self::PublicationMissing { .. } | Self::DroppedByGuard { copied: false, .. } => {
                way == WayOn::Snapshot
            }
            Self::SlotMissing { .. }
            | Self::DroppedByGuard { copied: true, .. }
            | Self::SlotNotCarried { .. }
            | Self::SlotNotSynced { .. }
            | Self::SlotInvalidated { .. }
            | Self::SlotAhead { .. }
            | Self::LogAhead { .. }
            | Self::OtherSystem { .. }
            | Self::TimelineLower { .. }
            | Self::TimelineUnrelated { .. }
            | Self::PublicationChanged { .. } => true,
        }
    }

    /// Whether `on_lost` may decide for a person: where the server is the right one, and has what the
    /// stores should have. Whoever copies from a server that is behind, or another one, fills every
    /// store with what is stale.
    pub(crate) fn is_left_to_policy(&self) -> bool {
        match self {
            Self::SlotMissing { .. }
            | Self::SlotNotCarried { .. }
            | Self::SlotNotSynced { .. }
            | Self::SlotInvalidated { .. }
            | Self::SlotAhead { .. }
            | Self::PublicationMissing { .. }
            | Self::PublicationChanged { .. } => true,
            // A policy has given the slot up to save the server; it is not to take it back.
            Self::DroppedByGuard { .. }
            | Self::LogWiped
            | Self::LogAhead { .. }
            | Self::OtherSystem { .. }
            | Self::TimelineLower { .. }
            | Self::TimelineUnrelated { .. }
            | Self::EpochsUsedUp => false,
        }
    }

    /// What helps, in the order in which to try it.
    pub(crate) fn help(&self) -> String {
        let first = match self {
            Self::LogWiped => {
                return "if the slot is another program's, choose another name in [source] slot; if it \
                        is this log's, bring the log's topics back, or begin anew: `anabranch \
                        teardown`, which drops the slot, empty the stores, `anabranch run`"
                    .to_owned();
            }
            Self::EpochsUsedUp => {
                return "begin another log: `anabranch teardown`, empty the stores, `anabranch run`"
                    .to_owned();
            }
            Self::DroppedByGuard { copied: false, .. } => {
                return "`anabranch source accept --snapshot --yes` copies every table again"
                    .to_owned();
            }
            Self::SlotMissing { .. }
            | Self::SlotInvalidated { .. }
            | Self::PublicationChanged { .. }
            | Self::DroppedByGuard { copied: true, .. } => "",
            Self::SlotNotCarried { .. } | Self::SlotNotSynced { .. } => {
                "before the next failover, from PostgreSQL 17 on: sync_replication_slots = on on the \
                 standbys, and their slots in synchronized_standby_slots on the primary; "
            }
            Self::SlotAhead { .. } => "make sure that nobody else reads this slot; ",
            Self::LogAhead { .. } => "point [source] url at the server with the newer data; ",
            Self::OtherSystem { .. }
            | Self::TimelineLower { .. }
            | Self::TimelineUnrelated { .. } => {
                "point [source] url at the primary that the log was written from, or its successor; "
            }
            Self::PublicationMissing { .. } => {
                return "`anabranch source accept --snapshot --yes` makes publication and slot anew and \
                        copies every table again; if another publication was meant, set [source] \
                        publication"
                    .to_owned();
            }
        };
        format!(
            "{first}`anabranch source accept --snapshot --yes` copies every table again, `anabranch \
             source accept --gap --yes` goes on without what is missing{}",
            self.prevention()
        )
    }

    /// What keeps it from happening again, or makes it harmless.
    fn prevention(&self) -> &'static str {
        match self {
            Self::SlotInvalidated { reason, .. } if reason.contains("idle") => {
                "; so that it does not happen again: raise idle_replication_slot_timeout"
            }
            Self::SlotInvalidated { reason, .. } if reason.contains("max_slot_wal") => {
                "; so that it does not happen again: raise max_slot_wal_keep_size, with ALTER SYSTEM \
                 or as a managed service has it"
            }
            Self::PublicationChanged { .. } => {
                ", which loses nothing where nothing was left out meanwhile"
            }
            Self::SlotInvalidated { .. }
            | Self::LogWiped
            | Self::SlotMissing { .. }
            | Self::DroppedByGuard { .. }
            | Self::SlotNotCarried { .. }
            | Self::SlotNotSynced { .. }
            | Self::SlotAhead { .. }
            | Self::LogAhead { .. }
            | Self::OtherSystem { .. }
            | Self::TimelineLower { .. }
            | Self::TimelineUnrelated { .. }
            | Self::PublicationMissing { .. }
            | Self::EpochsUsedUp => "",
        }
    }
}

impl fmt::Display for WayOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gap => "--gap",
            Self::Snapshot => "--snapshot",
        })
    }
}

/// The way between two positions, for people.
fn gap(from: Lsn, to: Lsn) -> String {
    bytes(to.0.saturating_sub(from.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_a_size_for_people() {
        let size = |to| gap(Lsn(1_000), Lsn(to));
        assert_eq!([size(0), size(1_016)], ["0 bytes", "16 bytes"]);
        assert_eq!([size(51_000), size(9_000_001_000)], ["50 kB", "9000 MB"]);
    }

    #[test]
    fn what_ended_a_slot_is_raised_after_the_way_on() {
        let cases = [
            ("wal_removed: max_slot_wal_keep_size", "raise max_slot_wal_keep_size"),
            ("idle_timeout", "raise idle_replication_slot_timeout"),
            ("rows_removed", "without what is missing"),
        ];
        for (reason, needle) in cases {
            let (log, end) = (Lsn(16), Lsn(32));
            let help = Loss::SlotInvalidated { reason: reason.into(), log, end }.help();
            assert!(help.starts_with("`anabranch source accept"), "{help}");
            assert!(help.contains(needle), "{help}");
        }
    }

    #[test]
    fn every_loss_says_what_helps() {
        let (log, end) = (Lsn(16), Lsn(32));
        let losses = [
            Loss::SlotMissing { log, end },
            Loss::SlotInvalidated { reason: "wal_removed".into(), log, end },
            Loss::SlotAhead { log, slot: end },
            Loss::PublicationMissing { log, end },
            Loss::PublicationChanged { what: "it was altered".into(), since: log, end },
        ];
        for loss in losses {
            assert!(loss.help().contains("anabranch source accept --snapshot"), "{loss:?}");
            assert!(loss.allows(WayOn::Snapshot), "{loss:?}");
            assert!(loss.to_string().contains("16 bytes"), "{loss}");
            let gap = loss.help().contains("--gap");
            assert_eq!(gap, loss.allows(WayOn::Gap), "{loss:?}");
        }
        let cause = "noon: it kept 2 bytes".to_owned();
        let dropped = |copied| Loss::DroppedByGuard { cause: cause.clone(), log, end, copied };
        for copied in [false, true] {
            let loss = dropped(copied);
            assert!(loss.allows(WayOn::Snapshot) && !loss.is_left_to_policy());
            assert_eq!(loss.allows(WayOn::Gap), copied, "what was never copied is no gap");
            assert_eq!(loss.help().contains("--gap"), copied);
        }
        for loss in [Loss::LogWiped, Loss::EpochsUsedUp] {
            assert!(loss.help().contains("anabranch teardown"), "{loss:?}");
            assert!(!loss.allows(WayOn::Snapshot) && !loss.allows(WayOn::Gap));
        }
    }
}
