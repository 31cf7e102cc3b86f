//! Ordinals, parts, splits and key changes, without a server.

use super::*;

use crate::catalog::tests::{raw_orders, raw_wider_orders};
use crate::catalog::{KnownTables, Types};
use crate::pgoutput::decode;
use crate::pgoutput::tests::{
    Values, begin_message, commit_message, logical_message, row_message, truncate_message,
    two_phase_message,
};

const OID: u32 = 7;

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(vec![], KnownTables::default());
    catalog.adopt(&raw_orders(), &Types::default()).unwrap();
    catalog
}

/// What a test looks at of an event.
type Seen = (u64, u8, &'static str, bool);

struct Run {
    assembler: Assembler,
    catalog: Catalog,
    drafts: Vec<Draft>,
}

impl Run {
    fn new(delivered: u64, split: Option<Split>) -> Self {
        let assembler = Assembler::new(Epoch(1), Lsn(delivered), split);
        Self { assembler, catalog: catalog(), drafts: vec![] }
    }

    fn push(&mut self, bytes: &Bytes) -> Result<Step> {
        self.assembler.push(decode(bytes).unwrap(), &self.catalog, &mut self.drafts)
    }

    fn begin(&mut self, lsn: u64) {
        self.push(&begin_message(lsn, 9)).unwrap();
    }

    fn commit(&mut self, lsn: u64) {
        let step = self.push(&commit_message(lsn, lsn + 40)).unwrap();
        assert_eq!(step, Step::Committed { end_lsn: Lsn(lsn + 40) });
    }

    fn insert(&mut self, id: &str) {
        self.push(&row_message(b'I', OID, &[(b'N', &[Some(id), Some("x")])])).unwrap();
    }

    fn truncate(&mut self) {
        self.push(&truncate_message(&[OID])).unwrap();
    }

    /// Six messages, the fourth of which is a TRUNCATE; a batch ends after those in `splits`.
    fn six(&mut self, splits: &[u64]) -> Option<Split> {
        let mut split = None;
        self.begin(0x100);
        for ordinal in 1..=6 {
            match ordinal {
                4 => self.truncate(),
                _ => self.insert(&ordinal.to_string()),
            }
            if splits.contains(&ordinal) {
                split = self.assembler.split();
            }
        }
        self.commit(0x100);
        split
    }

    /// Key 1 is updated, its table gets a column, and it is updated and deleted; a batch ends after
    /// the first update if `split`.
    fn altered(&mut self, split: bool) -> Option<Split> {
        self.begin(0x100);
        self.update(None, &[Some("1"), Some("x")]);
        let split = if split { self.assembler.split() } else { None };
        self.catalog.adopt(&raw_wider_orders(), &Types::default()).unwrap();
        self.update(None, &[Some("1"), Some("x"), Some("5")]);
        self.push(&row_message(b'D', OID, &[(b'K', &[Some("1"), None, None])])).unwrap();
        self.commit(0x100);
        split
    }

    fn update(&mut self, old: Option<(u8, Values<'_>)>, new: Values<'_>) {
        let tuples: Vec<_> = old.into_iter().chain([(b'N', new)]).collect();
        self.push(&row_message(b'U', OID, &tuples)).unwrap();
    }

    fn seen(&self) -> Vec<Seen> {
        self.drafts
            .iter()
            .map(|draft| {
                let letter = match &draft.event.change {
                    Change::Row { op, .. } => op.letter(),
                    Change::Truncate | Change::Sweep => "t",
                };
                let event = &draft.event;
                (event.position.ordinal, event.part, letter, draft.missing.is_some())
            })
            .collect()
    }

    fn row(&self, place: usize) -> (&Bytes, Option<&Bytes>, Option<&Bytes>) {
        match &self.drafts[place].event.change {
            Change::Row { key, before, after, .. } => (key, before.as_ref(), after.as_ref()),
            Change::Truncate | Change::Sweep => panic!("a truncate"),
        }
    }
}

#[test]
fn rows_and_truncates_count_and_truncates_raise_the_part() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.insert("1");
    run.truncate();
    run.insert("2");
    // A table of somebody else's counts, too.
    run.push(&row_message(b'I', 99, &[(b'N', &[Some("5")])])).unwrap();
    run.insert("3");
    run.commit(0x100);
    let seen = [(1, 0, "c", false), (2, 2, "t", false), (3, 2, "c", false), (5, 2, "c", false)];
    assert_eq!(run.seen(), seen);
    let versions: Vec<_> = run.drafts.iter().map(|draft| draft.event.version()).collect();
    assert!(versions[0] < versions[1] && versions[1] == versions[2]);
}

#[test]
fn a_key_change_is_a_delete_and_a_create_at_one_position() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.update(Some((b'K', &[Some("1"), None])), &[Some("2"), Some("x")]);
    assert_eq!(run.seen(), [(1, 0, "d", false), (1, 0, "c", false)]);
    let (old_key, before, after) = run.row(0);
    assert_eq!((&old_key[..], before.map(|b| &b[..]), after), (&[2][..], Some(&[2, 0][..]), None));
    let (new_key, before, after) = run.row(1);
    assert_eq!((&new_key[..], before), (&[4][..], None));
    assert_eq!(after.unwrap()[..], b"\x04\x02\x02x"[..]);
}

#[test]
fn an_old_key_that_is_the_same_is_no_key_change() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.update(Some((b'K', &[Some("1"), None])), &[Some("\0"), Some("x")]);
    assert_eq!(run.seen(), [(1, 0, "u", false)]);
    assert_eq!(run.row(0).1, None);
    assert_eq!(run.row(0).0[..], [2], "filled from the old key");
}

#[test]
fn full_fills_what_was_not_sent_and_keeps_the_old_row() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.update(Some((b'O', &[Some("1"), Some("big")])), &[Some("1"), Some("\0")]);
    assert_eq!(run.seen(), [(1, 0, "u", false)]);
    assert_eq!(run.row(0).2.unwrap()[..], b"\x02\x02\x06big"[..]);
    assert_eq!(run.row(0).1.unwrap()[..], b"\x02\x02\x06big"[..]);
    run.update(Some((b'O', &[Some("1"), Some("big")])), &[Some("4"), Some("\0")]);
    assert_eq!(run.seen()[1..], [(2, 0, "d", false), (2, 0, "c", false)]);
    assert_eq!(run.row(2).2.unwrap()[..], b"\x08\x02\x06big"[..]);
}

#[test]
fn what_nobody_sent_is_missing_also_after_a_key_change() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.update(None, &[Some("1"), Some("\0")]);
    run.update(Some((b'K', &[Some("1"), None])), &[Some("2"), Some("\0")]);
    assert_eq!(run.seen(), [(1, 0, "u", true), (2, 0, "d", false), (2, 0, "c", true)]);
    let missing = run.drafts[2].missing.as_ref().unwrap();
    assert_eq!(missing.places, [1]);
    assert_eq!(run.row(2).2, None);
}

#[test]
fn a_null_that_was_sent_is_not_missing() {
    let mut run = Run::new(0, None);
    run.begin(0x100);
    run.update(Some((b'K', &[Some("1"), None])), &[Some("1"), None]);
    assert_eq!(run.row(0).2.unwrap()[..], [2, 0]);
}

#[test]
fn what_is_in_the_log_is_left_out() {
    let mut run = Run::new(0x128, None);
    run.begin(0x100);
    run.insert("1");
    run.truncate();
    run.commit(0x100);
    assert!(run.drafts.is_empty());
    run.begin(0x128);
    run.insert("2");
    run.commit(0x128);
    assert_eq!(run.seen(), [(1, 0, "c", false)]);
    // A server that came back from a crash sends it once more.
    run.begin(0x128);
    run.insert("2");
    run.commit(0x128);
    assert_eq!(run.drafts.len(), 1);
}

#[test]
fn a_split_transaction_goes_on_where_the_log_ends() {
    let mut uncrashed = Run::new(0, None);
    uncrashed.six(&[2, 5]);
    for (crash_after, splits_after) in [(2, &[5][..]), (5, &[])] {
        let before: Vec<u64> = [2, 5].into_iter().filter(|at| *at <= crash_after).collect();
        let split = Run::new(0, None).six(&before).unwrap();
        assert_eq!(split.ordinal, crash_after);
        let mut resumed = Run::new(0x40, Some(split));
        resumed.six(splits_after);
        let rest: Vec<Seen> = uncrashed.seen().into_iter().filter(|s| s.0 > crash_after).collect();
        assert_eq!(resumed.seen(), rest, "after {crash_after}");
    }
}

#[test]
fn one_key_never_has_one_version_on_both_sides_of_an_altered_table() {
    let mut run = Run::new(0, None);
    run.altered(false);
    assert_eq!(run.seen(), [(1, 0, "u", false), (2, 1, "u", false), (3, 1, "d", false)]);
    let schemas: Vec<u32> = run.drafts.iter().map(|draft| draft.event.table.version).collect();
    assert_eq!(schemas, [1, 2, 2]);
    let versions: Vec<_> = run.drafts.iter().map(|draft| draft.event.version()).collect();
    assert!(versions[0] < versions[1] && versions[1] == versions[2]);
}

#[test]
fn a_table_altered_right_after_a_split_has_the_same_parts_when_that_is_resumed() {
    let mut uncrashed = Run::new(0, None);
    let split = uncrashed.altered(true).unwrap();
    assert_eq!(uncrashed.seen(), [(1, 0, "u", false), (2, 1, "u", false), (3, 1, "d", false)]);
    let mut resumed = Run::new(0x40, Some(split));
    resumed.altered(false);
    assert_eq!(resumed.seen(), uncrashed.seen()[1..]);
}

#[test]
fn a_split_transaction_that_does_not_come_is_lost() {
    let split = Split { commit_lsn: Lsn(0x100), ordinal: 2, parts: BTreeMap::new() };
    let mut run = Run::new(0x40, Some(split));
    run.assembler.require_nothing_before(Lsn(0x100)).unwrap();
    assert!(run.assembler.require_nothing_before(Lsn(0x101)).is_err());
    let error = run.push(&begin_message(0x200, 9)).unwrap_err();
    assert_eq!(error.kind(), anabranch_core::ErrorKind::Lost);
}

#[test]
fn an_lsn_past_the_version_field_begins_an_epoch() {
    let limit = Lsn::VERSION_LIMIT.0;
    let row = row_message(b'I', OID, &[(b'N', &[Some("1"), Some("x")])]);
    let mut run = Run::new(limit - 0x100, None);
    let first = run.drafts.len();
    for (lsn, epoch) in [(limit - 0x100, 1), (limit + 0x40, 2), (limit + 0x80, 2)] {
        run.begin(lsn);
        run.push(&row).unwrap();
        run.push(&commit_message(lsn, lsn + 0x28)).unwrap();
        assert_eq!(run.drafts.last().unwrap().event.position.epoch, Epoch(epoch), "{lsn:x}");
    }
    let versions: Vec<_> = run.drafts[first..].iter().map(|draft| draft.event.version()).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let error = run.push(&begin_message(256 * limit, 9)).unwrap_err();
    assert_eq!(error.kind(), anabranch_core::ErrorKind::Lost);
}

#[test]
fn a_message_of_somebody_moves_the_position_and_nothing_else() {
    let mut run = Run::new(0, None);
    let outside = run.push(&logical_message(false, 0x80, b"theirs")).unwrap();
    assert_eq!(outside, Step::Passed { lsn: Lsn(0x80) });
    run.begin(0x100);
    run.insert("1");
    assert_eq!(run.push(&logical_message(true, 0x90, b"theirs")).unwrap(), Step::More);
    run.insert("2");
    run.commit(0x100);
    assert_eq!(run.seen(), [(1, 0, "c", false), (2, 0, "c", false)]);
}

#[test]
fn a_message_beyond_a_split_transaction_says_that_it_is_lost() {
    let split = Split { commit_lsn: Lsn(0x100), ordinal: 2, parts: BTreeMap::new() };
    let mut run = Run::new(0x40, Some(split));
    run.push(&logical_message(false, 0x80, b"theirs")).unwrap();
    assert!(run.push(&logical_message(false, 0x108, b"theirs")).is_err());
}

#[test]
fn messages_out_of_turn_are_bugs_and_not_panics() {
    let insert = row_message(b'I', OID, &[(b'N', &[Some("1"), Some("x")])]);
    let narrow = row_message(b'I', OID, &[(b'N', &[Some("1")])]);
    assert!(Run::new(0, None).push(&insert).is_err());
    assert!(Run::new(0, None).push(&commit_message(1, 2)).is_err());
    let mut run = Run::new(0, None);
    run.begin(0x100);
    assert!(run.push(&begin_message(0x200, 9)).is_err());
    assert!(run.push(&narrow).is_err());
    assert!(run.push(&two_phase_message(b'b', 0x200)).is_err());
    assert!(run.push(&commit_message(0x200, 0x240)).is_err());
}
