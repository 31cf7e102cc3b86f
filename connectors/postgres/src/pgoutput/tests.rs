//! Every message of protocols 1 to 4, and bytes that are none.

mod blocks;

use super::two_phase::Prepared;
use super::*;
pub(crate) use blocks::{in_block, stream_abort, stream_commit, stream_start, stream_stop};
use bytes::{BufMut, BytesMut};

/// The values of a tuple to build: `None` is null, `Some("\0")` is unchanged.
pub(crate) type Values<'a> = &'a [Option<&'a str>];

pub(crate) fn put_tuple(out: &mut BytesMut, tag: u8, values: Values<'_>) {
    out.put_u8(tag);
    out.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        match value {
            None => out.put_u8(b'n'),
            Some("\0") => out.put_u8(b'u'),
            Some(text) => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap());
                out.put_slice(text.as_bytes());
            }
        }
    }
}

pub(crate) fn row_message(tag: u8, oid: u32, tuples: &[(u8, Values<'_>)]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    out.put_u32(oid);
    for (kind, values) in tuples {
        put_tuple(&mut out, *kind, values);
    }
    out.freeze()
}

pub(crate) fn begin_message(commit_lsn: u64, xid: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'B');
    out.put_u64(commit_lsn);
    out.put_i64(1);
    out.put_u32(xid);
    out.freeze()
}

pub(crate) fn commit_message(commit_lsn: u64, end_lsn: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"C\0");
    out.put_u64(commit_lsn);
    out.put_u64(end_lsn);
    out.put_i64(1);
    out.freeze()
}

pub(crate) fn truncate_message(oids: &[u32]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'T');
    out.put_u32(u32::try_from(oids.len()).unwrap());
    out.put_u8(3);
    oids.iter().for_each(|oid| out.put_u32(*oid));
    out.freeze()
}

/// A table with two columns, `id` and `note`.
pub(crate) fn relation_message(oid: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"R");
    out.put_u32(oid);
    out.put_slice(b"shop\0orders\0d\0\x02");
    out.put_slice(b"\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF");
    out.put_slice(b"\0note\0\0\0\0\x19\xFF\xFF\xFF\xFF");
    out.freeze()
}

/// `pg_logical_emit_message`.
pub(crate) fn logical_message(transactional: bool, lsn: u64, prefix: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"M");
    out.put_u8(transactional.into());
    out.put_u64(lsn);
    out.put_slice(prefix);
    out.put_slice(b"\0\0\0\0\x01x");
    out.freeze()
}

/// A step of a two-phase commit at `lsn`, of transaction 9 with the name `tx`.
pub(crate) fn two_phase_message(tag: u8, lsn: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    if tag != b'b' {
        out.put_u8(0);
    }
    out.put_u64(lsn);
    out.put_u64(lsn + 8);
    out.put_bytes(1, if tag == b'r' { 16 } else { 8 });
    out.put_slice(b"\0\0\0\x09tx\0");
    out.freeze()
}

fn samples() -> Vec<Bytes> {
    vec![
        begin_message(0x10, 7),
        commit_message(0x10, 0x38),
        Bytes::from_static(b"O\0\0\0\0\0\0\0\0there\0"),
        relation_message(7),
        Bytes::from_static(b"Y\0\0\0\x09\0mood\0"),
        row_message(b'I', 7, &[(b'N', &[Some("1"), None])]),
        row_message(b'U', 7, &[(b'N', &[Some("1"), Some("\0")])]),
        row_message(b'U', 7, &[(b'K', &[Some("1"), None]), (b'N', &[Some("2"), Some("\0")])]),
        row_message(b'U', 7, &[(b'O', &[Some("1"), Some("a")]), (b'N', &[Some("1"), Some("b")])]),
        row_message(b'D', 7, &[(b'K', &[Some("1"), None])]),
        truncate_message(&[7, 8]),
        logical_message(true, 0x20, b"pr\xE9fix"),
        logical_message(false, 0x28, b""),
        two_phase_message(b'b', 0x30),
        two_phase_message(b'P', 0x30),
        two_phase_message(b'p', 0x30),
        two_phase_message(b'K', 0x30),
        two_phase_message(b'r', 0x30),
    ]
}

#[test]
fn every_message_is_decoded() {
    let decoded: Vec<Message> = samples().iter().map(|bytes| decode(bytes).unwrap()).collect();
    assert_eq!(
        decoded[0],
        Message::Begin(Begin { commit_lsn: Lsn(0x10), commit_us: POSTGRES_EPOCH_US + 1, xid: 7 })
    );
    assert_eq!(decoded[1], Message::Commit(Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x38) }));
    let Message::Relation(relation) = &decoded[3] else { panic!("{:?}", decoded[3]) };
    assert_eq!(
        (relation.oid, relation.schema.as_str(), relation.name.as_str()),
        (7, "shop", "orders")
    );
    assert_eq!(
        relation.columns[0],
        RelationColumn { identity: true, name: "id".into(), type_oid: 23, typmod: -1 }
    );
    assert!(!relation.columns[1].identity);
    let Message::Update { old: Some(OldTuple::Key(old)), new, .. } = &decoded[7] else {
        panic!("{:?}", decoded[7])
    };
    assert_eq!(old.values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null]);
    assert_eq!(new.values().collect::<Vec<_>>(), [Value::Text(b"2"), Value::Unchanged]);
    assert_eq!(new.value(0), Some(Value::Text(b"2")));
    assert!(matches!(&decoded[8], Message::Update { old: Some(OldTuple::Full(_)), .. }));
    assert_eq!(decoded[10], Message::Truncate { relations: vec![7, 8] });
    let logical = Logical { transactional: false, lsn: Lsn(0x28), ours: None };
    assert_eq!(decoded[12], Message::Logical(logical));
    let steps = [
        Prepared::Begin,
        Prepared::Complete,
        Prepared::Streamed,
        Prepared::Commit,
        Prepared::Rollback,
    ];
    for (message, what) in decoded[13..].iter().zip(steps) {
        let step = TwoPhase { what, xid: 9, gid: "tx".into(), lsn: Lsn(0x30) };
        assert_eq!(message, &Message::TwoPhase(step));
    }
}

#[test]
fn a_message_ends_where_it_ends() {
    for sample in samples() {
        let longer = [&sample[..], b"!"].concat();
        let tag = char::from(sample[0]);
        assert_eq!(decode(&longer.into()), Err(DecodeError::Trailing(tag, 1)), "{tag}");
    }
}

#[test]
fn flags_that_nobody_knows_are_refused() {
    let commit = [b"C\x01", &commit_message(0x10, 0x38)[2..]].concat();
    assert_eq!(decode(&commit.into()), Err(DecodeError::Malformed('C')));
    let logical = [b"M\x02", &logical_message(true, 1, b"")[2..]].concat();
    assert_eq!(decode(&logical.into()), Err(DecodeError::Malformed('M')));
}

#[test]
fn a_prepared_transaction_is_refused_with_the_sql_that_mends_it() {
    let Ok(Message::TwoPhase(step)) = decode(&two_phase_message(b'b', 0x30)) else { panic!() };
    let error = step.refuse("shop");
    assert_eq!(error.kind(), anabranch_core::ErrorKind::Config);
    let report = error.report();
    assert!(report.contains("two_phase = true") && report.contains("\"tx\""), "{report}");
    assert!(report.contains("pg_copy_logical_replication_slot('shop', 'anabranch_copy')"));
}

#[test]
fn values_have_two_formats_and_unknown_ones_are_refused() {
    let of =
        |format: u8| Bytes::from([&b"I\0\0\0\x07N\0\x01"[..], &[format], b"\0\0\0\x01x"].concat());
    let Ok(Message::Insert { new, .. }) = decode(&of(b'b')) else { panic!("no insert") };
    assert_eq!(new.value(0), Some(Value::Binary(b"x")));
    assert_eq!(decode(&of(b'c')), Err(DecodeError::Format('c')));
    assert_eq!(decode(&Bytes::from_static(b"?")), Err(DecodeError::Unknown('?')));
    assert_eq!(decode(&Bytes::new()), Err(DecodeError::Malformed('\0')));
}

#[test]
fn a_message_cut_short_is_an_error_and_never_a_panic() {
    for sample in samples() {
        for end in 0..sample.len() {
            assert!(decode(&sample.slice(..end)).is_err(), "{sample:?} until {end}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(tag in 0_usize..18, noise in proptest::collection::vec(0_u8.., 0..200)) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b"BCORYIUDTMSEcAbPpKr?"[tag]);
        bytes.put_slice(&noise);
        if let Ok(message) = decode(&bytes.freeze()) {
            walk(&message);
        }
    }

    #[test]
    fn tuples_round_trip(values in proptest::collection::vec(
        proptest::option::of("[ -~é☃]{0,12}"), 0..40)
    ) {
        let borrowed: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let bytes = row_message(b'I', 1, &[(b'N', &borrowed)]);
        let Ok(Message::Insert { new, .. }) = decode(&bytes) else { panic!("not an insert") };
        let got: Vec<Option<&[u8]>> = new.values().map(|value| match value {
            Value::Text(text) | Value::Binary(text) => Some(text),
            Value::Null | Value::Unchanged => None,
        }).collect();
        let expected: Vec<Option<&[u8]>> =
            borrowed.iter().map(|value| value.map(str::as_bytes)).collect();
        assert_eq!(got, expected);
        assert_eq!(new.len(), values.len());
    }
}

fn walk(message: &Message) {
    match message {
        Message::Insert { new, .. } => assert_eq!(new.values().count(), new.len()),
        Message::Update { old, new, .. } => {
            assert_eq!(new.values().count(), new.len());
            if let Some(old) = old {
                assert_eq!(old.tuple().values().count(), old.tuple().len());
            }
        }
        Message::Delete { old, .. } => {
            assert_eq!(old.tuple().values().count(), old.tuple().len());
        }
        Message::Begin(_)
        | Message::Commit(_)
        | Message::Origin
        | Message::Relation(_)
        | Message::Type
        | Message::Truncate { .. }
        | Message::Logical(_)
        | Message::StreamStart(_)
        | Message::StreamStop
        | Message::StreamCommit(_)
        | Message::StreamAbort(_)
        | Message::TwoPhase(_) => {}
    }
}
