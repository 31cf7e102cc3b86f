//! Messages of transactions in progress.

use super::*;

/// A message as it is within a block, where a change carries the id of its transaction.
pub(crate) fn in_block(xid: u32, message: &Bytes) -> Bytes {
    [&message[..1], &xid.to_be_bytes(), &message[1..]].concat().into()
}

pub(crate) fn stream_start(xid: u32, first: bool) -> Bytes {
    [&b"S"[..], &xid.to_be_bytes(), &[first.into()]].concat().into()
}

pub(crate) fn stream_stop() -> Bytes {
    Bytes::from_static(b"E")
}

pub(crate) fn stream_commit(xid: u32, commit: &Bytes) -> Bytes {
    [&b"c"[..], &xid.to_be_bytes(), &commit[1..]].concat().into()
}

pub(crate) fn stream_abort(xid: u32, subxid: u32) -> Bytes {
    [&b"A"[..], &xid.to_be_bytes(), &subxid.to_be_bytes()].concat().into()
}

#[test]
fn blocks_and_their_ends_are_decoded() {
    let commit = commit_message(0x10, 0x38);
    let aborted = StreamAbort { xid: 7, subxid: 9 };
    let committed = StreamCommit {
        xid: 7,
        commit: Commit { commit_lsn: Lsn(0x10), end_lsn: Lsn(0x38) },
        commit_us: POSTGRES_EPOCH_US + 1,
    };
    let with_place = [&stream_abort(7, 9)[..], &[0; 16]].concat();
    let cases = [
        (stream_start(7, true), Message::StreamStart(StreamStart { xid: 7, first: true })),
        (stream_start(7, false), Message::StreamStart(StreamStart { xid: 7, first: false })),
        (stream_stop(), Message::StreamStop),
        (stream_abort(7, 9), Message::StreamAbort(aborted)),
        (with_place.into(), Message::StreamAbort(aborted)),
        (stream_commit(7, &commit), Message::StreamCommit(committed)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(&bytes), Ok(expected));
        let longer = [&bytes[..], b"!"].concat();
        assert!(decode(&longer.into()).is_err(), "{bytes:?}");
        for end in 0..bytes.len() {
            let cut = decode(&bytes.slice(..end));
            let short_abort = bytes[0] == b'A' && end == 9;
            assert_eq!(cut.is_ok(), short_abort, "{bytes:?} until {end}");
        }
    }
}

#[test]
fn a_change_within_a_block_is_one_outside_with_an_id() {
    let row = row_message(b'I', 7, &[(b'N', &[Some("1"), None])]);
    let change = InStream::Change { xid: 9, tag: b'I', body: row.slice(1..) };
    assert_eq!(in_stream(&in_block(9, &row)), Ok(change));
    assert_eq!(in_stream(&stream_stop()), Ok(InStream::Stop));
    assert_eq!(in_stream(&Bytes::from_static(b"O")), Ok(InStream::Passing));
    assert_eq!(in_stream(&begin_message(1, 2)), Err(DecodeError::Unknown('B')));
    assert_eq!(in_stream(&Bytes::from_static(b"I\0\0")), Err(DecodeError::Malformed('I')));
    assert!(in_stream(&Bytes::new()).is_err());
}
