//! The whole table of causes, without a server.

use std::collections::BTreeMap;

use anabranch_core::Split;

use super::*;
use crate::batch::tests::cursor;
use crate::loss::Gap;
use crate::membership::tests::{NOTHING, found};
use crate::slot::tests::slot;

const SERVER: Identity = Identity { system_id: 1, timeline: 1, flushed: Lsn(0x1000) };
/// Timeline 1 ended at 0x100, timeline 2 at 0x400.
const ANCESTORS: &[Ancestor] =
    &[Ancestor { timeline: 1, end: Lsn(0x100) }, Ancestor { timeline: 2, end: Lsn(0x400) }];

fn facts<'a>(cursor: Option<&'a SourceCursor>, slot: Option<&'a Slot>) -> Facts<'a> {
    let names = ("s", "db");
    let (publication, found, dropped) = (true, NOTHING, None);
    Facts { cursor, slot, publication, found, dropped, server: SERVER, ancestors: &[], names }
}

fn promoted<'a>(cursor: &'a SourceCursor, slot: Option<&'a Slot>, timeline: u32) -> Facts<'a> {
    let server = Identity { timeline, ..SERVER };
    Facts { server, ancestors: ANCESTORS, ..facts(Some(cursor), slot) }
}

fn decided(cursor: Option<SourceCursor>, slot: Option<Slot>) -> Decision {
    facts(cursor.as_ref(), slot.as_ref()).decide().unwrap()
}

fn split_at(lsn: u64) -> Option<Split> {
    Some(Split { commit_lsn: Lsn(lsn), ordinal: 3, parts: BTreeMap::new() })
}

fn turned(facts: &Facts<'_>) -> SourceCursor {
    let decision = facts.decide().unwrap();
    let Decision::Go(Plan::Turn(cursor)) = decision else { panic!("{decision:?}") };
    *cursor
}

#[test]
fn a_first_start_and_its_repetitions_begin() {
    let begin = |epoch| Decision::Go(Plan::Begin { epoch: Epoch(epoch) });
    assert_eq!(decided(None, None), begin(0));
    for slot in [None, Some(slot())] {
        for phase in [Phase::Starting, Phase::Snapshot] {
            assert_eq!(decided(Some(SourceCursor { phase, ..cursor() }), slot.clone()), begin(1));
        }
    }
    let last = |phase| Some(SourceCursor { phase, epoch: Epoch(255), ..cursor() });
    assert_eq!(decided(last(Phase::Snapshot), None), Decision::Lost(Loss::EpochsUsedUp));
    assert_eq!(decided(last(Phase::Starting), None), begin(255), "nothing was written in it");
}

#[test]
fn a_slot_that_the_guard_dropped_is_begun_anew_by_a_person_alone() {
    for phase in [Phase::Starting, Phase::Snapshot, Phase::Streaming] {
        let cursor = SourceCursor { phase, ..cursor() };
        let dropped = |slot| Facts { dropped: Some("noon: it kept"), ..facts(Some(&cursor), slot) };
        let facts = dropped(None);
        let Decision::Lost(loss) = facts.decide().unwrap() else { panic!("{phase:?}") };
        assert_eq!(loss.name(), "dropped_by_guard");
        let begin = Some(Plan::Begin { epoch: Epoch(1) });
        assert_eq!(facts.accept(&loss, WayOn::Snapshot), begin);
        let gap = facts.accept(&loss, WayOn::Gap);
        assert_eq!(gap.is_some(), phase == Phase::Streaming, "{phase:?}: {gap:?}");
        let there = slot();
        assert!(matches!(dropped(Some(&there)).decide().unwrap(), Decision::Go(_)), "{phase:?}");
    }
}

#[test]
fn what_is_read_again_may_have_an_epoch_of_an_earlier_lap() {
    let lap = Lsn::VERSION_LIMIT.0;
    let cases = [(9, 8, 5), (lap + 9, lap, 5), (lap, lap - 1, 4), (3 * lap, 1, 2), (9 * lap, 0, 0)];
    for (here, since, expected) in cases {
        assert_eq!(epoch_back(Epoch(5), Lsn(here), Lsn(since)), Epoch(expected), "{here}");
        let again = Epoch(expected).at(Lsn(since), Lsn(here));
        assert!(expected == 0 || again == Some(Epoch(5)), "as it was counted forwards");
    }
}

#[test]
fn slot_and_log_that_agree_go_on() {
    let stream = Decision::Go(Plan::Stream);
    assert_eq!(decided(Some(cursor()), Some(slot())), stream);
    let within = SourceCursor { split: split_at(0x800), ..cursor() };
    assert_eq!(decided(Some(within), Some(slot())), stream);
    let behind = Slot { confirmed_flush: Some(Lsn(0x8)), ..slot() };
    assert_eq!(decided(Some(cursor()), Some(behind)), stream);
    let copied = Slot { synced: Some(false), ..slot() };
    assert_eq!(decided(Some(cursor()), Some(copied)), stream, "only a promotion asks for it");
}

#[test]
fn missing_history_is_lost_and_named() {
    let slot_at = |lsn| Some(Slot { confirmed_flush: Some(Lsn(lsn)), ..slot() });
    let gone = |status: &str| Some(Slot { wal_status: Some(status.into()), ..slot() });
    let reason = || Some(Slot { invalidation: Some("rows_removed".into()), ..slot() });
    let cases = [
        (None, Some(slot()), "log_wiped", "wiped"),
        (Some(cursor()), None, "slot_missing", "4080 bytes"),
        (Some(cursor()), slot_at(0x20), "slot_ahead", "16 bytes beyond"),
        (Some(cursor()), gone("lost"), "slot_invalidated", "max_slot_wal_keep_size"),
        (Some(cursor()), reason(), "slot_invalidated", "rows_removed"),
        (
            Some(cursor()),
            Some(Slot { confirmed_flush: None, ..slot() }),
            "slot_invalidated",
            "never finished",
        ),
        (Some(SourceCursor { system_id: 2, ..cursor() }), Some(slot()), "other_system", "system 2"),
        (
            Some(SourceCursor { timeline: 2, ..cursor() }),
            Some(slot()),
            "timeline_lower",
            "former primary",
        ),
        (
            Some(SourceCursor { timeline: 0, ..cursor() }),
            Some(slot()),
            "timeline_unrelated",
            "no ancestor",
        ),
        (
            Some(SourceCursor { confirm: Lsn(0x2000), ..cursor() }),
            Some(slot()),
            "log_ahead",
            "4096 bytes ahead",
        ),
        (
            Some(SourceCursor { seen: Lsn(0x2000), ..cursor() }),
            Some(slot()),
            "log_ahead",
            "4096 bytes ahead",
        ),
        (
            Some(SourceCursor { split: split_at(0x2000), ..cursor() }),
            Some(slot()),
            "log_ahead",
            "ahead",
        ),
    ];
    for (cursor, slot, name, needle) in cases {
        let Decision::Lost(loss) = decided(cursor, slot) else { panic!("{name}") };
        assert_eq!(loss.name(), name);
        assert!(loss.to_string().contains(needle), "{loss}");
    }
    let (cursor, slot) = (cursor(), slot());
    let unpublished = Facts { publication: false, ..facts(Some(&cursor), Some(&slot)) };
    let Decision::Lost(loss) = unpublished.decide().unwrap() else { panic!() };
    assert_eq!(loss.name(), "publication_missing");
}

#[test]
fn a_promotion_past_what_was_delivered_goes_on() {
    let cursor = SourceCursor { epoch: Epoch(3), seen: Lsn(0x100), ..cursor() };
    let slot = Slot { synced: Some(true), ..slot() };
    let next = turned(&promoted(&cursor, Some(&slot), 2));
    assert_eq!((next.epoch, next.timeline, next.confirm), (Epoch(4), 2, Lsn(0x10)));
    assert_eq!((next.fork, next.seen), (None, Lsn(0)));
    // Two promotions at once: what counts is where the log's own timeline ended.
    let next = turned(&promoted(&cursor, Some(&slot), 3));
    assert_eq!((next.timeline, next.confirm, next.fork), (3, Lsn(0x10), None));
    let at_switch = SourceCursor { confirm: Lsn(0x100), ..cursor };
    assert_eq!(turned(&promoted(&at_switch, Some(&slot), 2)).fork, None);
}

#[test]
fn what_was_delivered_beyond_the_switch_is_repaired() {
    let slot = slot();
    let beyond = SourceCursor { confirm: Lsn(0x180), ..cursor() };
    let next = turned(&promoted(&beyond, Some(&slot), 2));
    assert_eq!((next.epoch, next.confirm), (Epoch(1), Lsn(0x100)));
    assert_eq!(next.fork, Some(Fork { epoch: Epoch(0), since: Lsn(0x100), rows: 0 }));
    // A part of a transaction beyond it counts as well, and the rest never comes.
    let partly = SourceCursor { confirm: Lsn(0x80), split: split_at(0x100), ..cursor() };
    let next = turned(&promoted(&partly, Some(&slot), 2));
    assert_eq!((next.confirm, next.split.clone()), (Lsn(0x80), None));
    assert_eq!(next.fork.unwrap().since, Lsn(0x100));
    // One before it goes on where it was.
    let before = SourceCursor { confirm: Lsn(0x80), split: split_at(0xC0), ..cursor() };
    let next = turned(&promoted(&before, Some(&slot), 2));
    assert_eq!((next.confirm, next.split, next.fork), (Lsn(0x80), split_at(0xC0), None));
}

#[test]
fn what_was_reread_beyond_the_switch_is_repaired() {
    let slot = slot();
    let mut rereads = Rereads::default();
    rereads.add(Lsn(0x20), Lsn(0x60));
    rereads.add(Lsn(0x70), Lsn(0x120));
    let seen = SourceCursor { confirm: Lsn(0x90), seen: Lsn(0x120), rereads, ..cursor() };
    let next = turned(&promoted(&seen, Some(&slot), 2));
    assert_eq!((next.confirm, next.rereads.clone()), (Lsn(0x90), Rereads::default()));
    assert_eq!(next.fork.unwrap().since, Lsn(0x70));
    // The previous release kept no list.
    let unlisted = SourceCursor { rereads: Rereads::default(), ..seen };
    assert_eq!(turned(&promoted(&unlisted, Some(&slot), 2)).fork.unwrap().since, Lsn(0));
}

#[test]
fn a_fork_within_a_repair_goes_on_with_it() {
    let fork = Fork { epoch: Epoch(0), since: Lsn(0x50), rows: 7 };
    let slot = slot();
    let cursor = SourceCursor {
        epoch: Epoch(1),
        timeline: 2,
        confirm: Lsn(0x100),
        fork: Some(fork),
        ..cursor()
    };
    let next = turned(&promoted(&cursor, Some(&slot), 3));
    assert_eq!((next.epoch, next.confirm), (Epoch(2), Lsn(0x100)));
    assert_eq!(next.fork, Some(Fork { rows: 0, ..fork }));
    let again = promoted(&cursor, Some(&slot), 2).decide().unwrap();
    assert_eq!(again, Decision::Go(Plan::Stream), "the run sees that it is not finished");
}

#[test]
fn a_promoted_server_needs_the_slot_of_the_old_one() {
    let cursor = SourceCursor { confirm: Lsn(0x180), ..cursor() };
    let lost = |slot: Option<Slot>| match promoted(&cursor, slot.as_ref(), 2).decide().unwrap() {
        Decision::Lost(loss) => loss,
        Decision::Go(plan) => panic!("{plan:?}"),
    };
    assert_eq!(lost(None).name(), "slot_not_carried");
    assert!(lost(None).to_string().contains("3840 bytes"), "since the switch: {}", lost(None));
    assert_eq!(lost(Some(Slot { synced: Some(false), ..slot() })).name(), "slot_not_synced");
    assert_eq!(lost(Some(Slot { temporary: true, ..slot() })).name(), "slot_not_synced");
    let ahead = Slot { confirmed_flush: Some(Lsn(0x140)), ..slot() };
    assert_eq!(lost(Some(ahead)), Loss::SlotAhead { log: Lsn(0x100), slot: Lsn(0x140) });
    let last = SourceCursor { epoch: Epoch(255), ..cursor.clone() };
    let slot = slot();
    let decision = promoted(&last, Some(&slot), 2).decide().unwrap();
    assert_eq!(decision, Decision::Lost(Loss::EpochsUsedUp));
}

#[test]
fn an_acceptance_begins_another_epoch() {
    let cursor = SourceCursor { epoch: Epoch(4), split: split_at(0x800), ..cursor() };
    let ahead = Slot { confirmed_flush: Some(Lsn(0x20)), ..slot() };
    let facts = facts(Some(&cursor), Some(&ahead));
    let Decision::Lost(loss) = facts.decide().unwrap() else { panic!() };
    assert_eq!(facts.accept(&loss, WayOn::Snapshot), Some(Plan::Begin { epoch: Epoch(5) }));
    let Some(Plan::Turn(next)) = facts.accept(&loss, WayOn::Gap) else { panic!() };
    assert_eq!((next.epoch, next.confirm, next.split.clone()), (Epoch(5), Lsn(0x20), None));
    let gap = Gap::new(&cursor, Some(&ahead), SERVER, &loss);
    assert_ne!(gap, Gap::new(&next, Some(&ahead), SERVER, &loss), "it fits once");
    let missing = Facts { slot: None, ..facts };
    let Decision::Lost(loss) = missing.decide().unwrap() else { panic!() };
    assert!(matches!(missing.accept(&loss, WayOn::Gap), Some(Plan::Remake(_))));
    let unpublished = Loss::PublicationMissing { log: Lsn(1), end: Lsn(2) };
    assert_eq!(facts.accept(&unpublished, WayOn::Gap), None);
}

#[test]
fn a_slot_of_somebody_else_is_left_alone() {
    let physical = Slot { plugin: None, database: None, ..slot() };
    let elsewhere = Slot { database: Some("other".into()), ..slot() };
    for other in [physical, elsewhere] {
        for phase in [Phase::Starting, Phase::Streaming] {
            let cursor = SourceCursor { phase, ..cursor() };
            let error = facts(Some(&cursor), Some(&other)).decide().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
    let renamed = SourceCursor { slot: "t".into(), ..cursor() };
    assert_eq!(facts(Some(&renamed), None).decide().unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_slot_that_moved_while_it_was_in_use_says_nothing_of_the_log() {
    let ahead = || Decision::Lost(Loss::SlotAhead { log: Lsn(1), slot: Lsn(2) });
    let error = settle(ahead(), true, "s").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.report().contains("reading the log again"), "{error:?}");
    assert_eq!(settle(ahead(), false, "s").unwrap(), ahead());
    let stream = || Decision::Go(Plan::Stream);
    assert_eq!(settle(stream(), true, "s").unwrap(), stream(), "the log has it");
}

#[test]
fn a_history_file_lists_where_timelines_ended() {
    let file = "1\t0/100\tno recovery target specified\n\n# a remark\n2\t0/400\tbefore 2026\n";
    assert_eq!(ancestors(file).unwrap(), ANCESTORS);
    assert_eq!(ancestors("").unwrap(), []);
    for bad in ["x\t0/1\t", "1", "1\tx"] {
        assert!(ancestors(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_publication_that_changed_is_lost_and_goes_on_where_the_log_stands() {
    let (then, now) = (found((1, 741), &[Some(741)]), found((1, 741), &[Some(750)]));
    let at = SourceCursor { membership: then.membership(), split: split_at(0x800), ..cursor() };
    let slot = Slot { confirmed_flush: Some(Lsn(0x8)), ..slot() };
    let facts = Facts { found: &then, ..facts(Some(&at), Some(&slot)) };
    assert_eq!(facts.decide().unwrap(), Decision::Go(Plan::Stream));
    let facts = Facts { found: &now, ..facts };
    let Decision::Lost(loss) = facts.decide().unwrap() else { panic!("it changed") };
    assert_eq!(loss.name(), "publication_changed");
    let Some(Plan::Turn(turned)) = facts.accept(&loss, WayOn::Gap) else { panic!("a gap") };
    let wanted = SourceCursor { epoch: Epoch(1), membership: None, ..at.clone() };
    assert_eq!(*turned, wanted, "nothing that the log has comes again");
    assert!(matches!(facts.accept(&loss, WayOn::Snapshot), Some(Plan::Begin { .. })));
    // On a promoted server the history forks as well.
    let server = Identity { timeline: 2, ..SERVER };
    let forked = Facts { server, ancestors: ANCESTORS, ..facts };
    let Some(Plan::Turn(turned)) = forked.accept(&loss, WayOn::Gap) else { panic!("a gap") };
    assert_eq!((turned.epoch, turned.timeline, turned.membership), (Epoch(1), 2, None));
    // Of the slot's gap nothing is learnt about the publication; another server has its own.
    let (log, slot) = (Lsn(0x10), Lsn(0x20));
    for (loss, is_kept) in
        [(Loss::SlotAhead { log, slot }, true), (Loss::OtherSystem { log: 1, server: 2 }, false)]
    {
        let Some(Plan::Turn(turned)) = facts.accept(&loss, WayOn::Gap) else { panic!("{loss}") };
        assert_eq!(turned.membership.is_some(), is_kept, "{loss}");
    }
}
