//! Streamed or not, the same messages; and a full disk silences nobody.

use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::pgoutput::tests::{
    begin_message, commit_message, in_block, relation_message, row_message, stream_abort,
    stream_commit, stream_start, stream_stop, truncate_message,
};
use crate::spool::FakeDisk;

struct Run {
    feed: Feed,
    server: DuplexStream,
}

fn run(spool: Spool) -> Run {
    let (ours, server) = duplex(1 << 20);
    let feed = Feed::new(ReplicationStream::over(ours, 3_000), spool, HashSet::from([7]));
    Run { feed, server }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'd'];
    out.put_u32(u32::try_from(body.len()).unwrap() + 4);
    out.extend_from_slice(body);
    out
}

fn data(message: &Bytes) -> Vec<u8> {
    framed(&[b"w", &[0; 24][..], message].concat())
}

fn keepalive(wal_end: u64) -> Vec<u8> {
    framed(&[b"k", &wal_end.to_be_bytes()[..], &[0; 9]].concat())
}

fn row(id: &str) -> Bytes {
    row_message(b'I', 7, &[(b'N', &[Some(id), Some("x")])])
}

impl Run {
    /// Everything that is given for `messages`.
    async fn all(mut self, messages: &[Bytes]) -> Vec<Message> {
        for message in messages {
            self.server.write_all(&data(message)).await.unwrap();
        }
        self.server.write_all(&keepalive(1)).await.unwrap();
        let mut given = Vec::new();
        loop {
            match self.feed.next().await.unwrap() {
                Fed::Message(message) => given.push(message),
                Fed::Keepalive { .. } => return given,
                Fed::Spooled => {}
            }
        }
    }
}

fn spool(memory_max: usize) -> Spool {
    Spool::new(memory_max, FakeDisk::with_room(1 << 20).0)
}

#[tokio::test]
async fn a_streamed_transaction_is_as_one_that_is_not() {
    let commit = commit_message(0x100, 0x128);
    let plain = [
        relation_message(8),
        begin_message(0x100, 1),
        relation_message(7),
        row("1"),
        row("3"),
        truncate_message(&[7, 8]),
        commit.clone(),
        begin_message(0x200, 5),
        row("4"),
        commit_message(0x200, 0x228),
    ];
    let streamed = [
        stream_start(1, true),
        // Described within what is rolled back, and never again.
        in_block(2, &relation_message(7)),
        in_block(2, &row("2")),
        stream_stop(),
        relation_message(8),
        stream_abort(1, 2),
        stream_start(1, false),
        in_block(1, &row("1")),
        in_block(3, &row("3")),
        in_block(1, &truncate_message(&[7, 8])),
        stream_stop(),
        stream_commit(1, &commit),
        begin_message(0x200, 5),
        row("4"),
        commit_message(0x200, 0x228),
    ];
    let expected = run(spool(0)).all(&plain).await;
    assert_eq!(expected.len(), plain.len());
    for memory_max in [0, 60, 1 << 20] {
        assert_eq!(run(spool(memory_max)).all(&streamed).await, expected, "{memory_max}");
    }
}

#[tokio::test]
async fn a_table_that_no_row_of_its_transaction_needs_is_described_to_the_next() {
    let commit = commit_message(0x100, 0x128);
    let given = run(spool(0))
        .all(&[
            stream_start(1, true),
            in_block(2, &relation_message(7)),
            in_block(2, &row("2")),
            stream_stop(),
            stream_abort(1, 2),
            stream_commit(1, &commit),
            begin_message(0x200, 5),
            row("4"),
            commit_message(0x200, 0x228),
        ])
        .await;
    let kinds: String = given.iter().map(|message| format!("{message:?}").remove(0)).collect();
    assert_eq!(kinds, "BCBRIC");
}

#[tokio::test]
async fn partitions_that_were_described_in_what_is_rolled_back_come_behind_their_table() {
    let commit = commit_message(0x100, 0x128);
    let given = run(spool(0))
        .all(&[
            stream_start(1, true),
            in_block(2, &relation_message(7)),
            in_block(2, &relation_message(8)),
            in_block(2, &row("2")),
            in_block(2, &relation_message(7)),
            in_block(2, &relation_message(9)),
            in_block(2, &row("3")),
            stream_stop(),
            stream_abort(1, 2),
            stream_commit(1, &commit),
            begin_message(0x200, 5),
            row("4"),
            row("5"),
            commit_message(0x200, 0x228),
        ])
        .await;
    let kind = |message: &Message| {
        if let Message::Relation(relation) = message {
            return relation.oid.to_string();
        }
        format!("{message:?}").remove(0).to_string()
    };
    assert_eq!(given.iter().map(kind).collect::<String>(), "BCB7879IIC");
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_is_nothing() {
    let given = run(spool(0))
        .all(&[stream_start(1, true), in_block(1, &row("2")), stream_stop(), stream_abort(1, 1)])
        .await;
    assert_eq!(given, []);
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_is_full_the_server_is_answered_and_nothing_is_read() {
    let (disk, room) = FakeDisk::with_room(0);
    let Run { mut feed, server } = run(Spool::new(100, disk));
    let (mut statuses, mut server) = tokio::io::split(server);
    let commit = commit_message(0x100, 0x128);
    let mut bytes = data(&stream_start(1, true));
    (0..100).for_each(|_| bytes.extend(data(&in_block(1, &row("1")))));
    bytes.extend(data(&stream_stop()));
    bytes.extend(data(&stream_commit(1, &commit)));
    server.write_all(&bytes).await.unwrap();
    let answered = async {
        // A third of the server's timeout of 3 s each; the disk has room after a minute.
        let mut status = BytesMut::new();
        while status.len() < 60 * 39 {
            assert!(statuses.read_buf(&mut status).await.unwrap() > 0);
        }
        room.room.store(1 << 20, Ordering::SeqCst);
    };
    let inserts = async {
        let mut inserts = 0;
        loop {
            match feed.next().await.unwrap() {
                Fed::Message(Message::Commit(_)) => return inserts,
                Fed::Message(Message::Insert { .. }) => inserts += 1,
                Fed::Message(_) | Fed::Spooled | Fed::Keepalive { .. } => {}
            }
        }
    };
    let ((), inserts) = tokio::join!(answered, inserts);
    assert_eq!(inserts, 100);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stays_full_ends_the_feed_which_frees_its_files() {
    let Run { mut feed, server } = run(Spool::new(100, FakeDisk::with_room(0).0));
    let (mut statuses, mut server) = tokio::io::split(server);
    let mut bytes = data(&stream_start(1, true));
    (0..100).for_each(|_| bytes.extend(data(&in_block(1, &row("1")))));
    server.write_all(&bytes).await.unwrap();
    let answers = async {
        let mut status = Vec::new();
        while statuses.read_buf(&mut status).await.unwrap() > 0 {}
    };
    let ends = async {
        loop {
            match feed.next().await {
                Ok(fed) => assert_eq!(fed, Fed::Spooled),
                Err(error) => return error.classify("read".into()),
            }
        }
    };
    let began = Instant::now();
    let error = tokio::select! {
        error = ends => error,
        () = answers => panic!("the server hears of us until the end"),
    };
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.report().contains("[source.spool] folder"), "{error:?}");
    assert!(began.elapsed() >= FULL_DISK_WAIT_MAX);
}

#[tokio::test]
async fn nonsense_between_blocks_is_a_bug_and_not_a_panic() {
    for message in [stream_stop(), stream_start(1, false), stream_commit(9, &commit_message(1, 2))]
    {
        let Run { mut feed, mut server } = run(spool(0));
        server.write_all(&data(&message)).await.unwrap();
        let error = feed.next().await.unwrap_err().classify("read".into());
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
}
