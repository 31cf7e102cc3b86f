//! What comes out of the spool is what was not rolled back, whatever went to disk on the way.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fake::FakeDisk;
use super::*;
use crate::pgoutput::tests::{relation_message, row_message};
use crate::pgoutput::{Commit, Message, decode};
use anabranch_core::Lsn;

fn commit(xid: u32) -> StreamCommit {
    let commit = Commit { commit_lsn: Lsn(0x100), end_lsn: Lsn(0x128) };
    StreamCommit { xid, commit, commit_us: 1 }
}

fn row(id: u32) -> Bytes {
    row_message(b'I', 7, &[(b'N', &[Some(&id.to_string()), Some("x")])])
}

fn add(spool: &mut Spool, xid: u32, message: &Bytes) {
    spool.add(xid, message[0], &message[1..]).unwrap();
}

async fn relieve(spool: &mut Spool) {
    while spool.is_full() {
        spool.relieve().await.unwrap();
    }
}

async fn messages(mut replay: Replay) -> Vec<Message> {
    let mut messages = Vec::new();
    while !replay.has_ended() {
        match replay.buffered().unwrap() {
            Some(message) => messages.push(message),
            None => replay.fill().await.unwrap(),
        }
    }
    messages
}

/// A transaction as a backend makes it: rows within savepoints, some of them rolled back.
struct Backend {
    xid: u32,
    /// The open subtransactions, and the ids of those that were released into each.
    open: Vec<(u32, Vec<u32>)>,
    /// Rows with the subtransaction that they are in.
    rows: Vec<(u32, u32)>,
    described: bool,
    known: bool,
}

impl Backend {
    fn new(xid: u32) -> Self {
        Self { xid, open: vec![(xid, vec![])], rows: vec![], described: false, known: false }
    }

    /// One block with a few rows, or a savepoint that begins, is released or rolled back.
    fn step(&mut self, spool: &mut Spool, next_xid: &mut u32, random: &mut StdRng) {
        match random.random_range(0..6) {
            0 => {
                *next_xid += 1;
                self.open.push((*next_xid, vec![]));
            }
            1 if self.open.len() > 1 => {
                let (xid, mut below) = self.open.pop().unwrap();
                below.push(xid);
                self.open.last_mut().unwrap().1.extend(below);
            }
            2 if self.open.len() > 1 => {
                let (xid, below) = self.open.pop().unwrap();
                // The server names the children first.
                for subxid in below.into_iter().chain([xid]) {
                    self.rows.retain(|(of, _)| *of != subxid);
                    if self.known {
                        spool.abort(StreamAbort { xid: self.xid, subxid }).unwrap();
                    }
                }
            }
            _ => self.block(spool, random),
        }
    }

    fn block(&mut self, spool: &mut Spool, random: &mut StdRng) {
        let xid = self.open.last().unwrap().0;
        spool.start(StreamStart { xid: self.xid, first: !self.known }).unwrap();
        self.known = true;
        if !self.described {
            add(spool, xid, &relation_message(7));
            self.described = true;
        }
        for _ in 0..random.random_range(0..8) {
            let id = random.random_range(0..1_000_000);
            add(spool, xid, &row(id));
            self.rows.push((xid, id));
        }
        spool.stop().unwrap();
    }
}

/// Two transactions at a time, interleaved; every fourth is rolled back as a whole.
async fn random_transactions(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (disk, used) = FakeDisk::with_room(1 << 20);
    let mut spool = Spool::new(random.random_range(0..2_000), disk);
    let mut next_xid = 100;
    let mut backends: BTreeMap<u32, Backend> = BTreeMap::new();
    for _ in 0..random.random_range(50..200) {
        while backends.len() < 2 {
            next_xid += 1;
            backends.insert(next_xid, Backend::new(next_xid));
        }
        let place = random.random_range(0..2);
        let xid = *backends.keys().nth(place).unwrap();
        let backend = backends.get_mut(&xid).unwrap();
        backend.step(&mut spool, &mut next_xid, &mut random);
        relieve(&mut spool).await;
        if random.random_range(0..12) == 0 && backend.known {
            let backend = backends.remove(&xid).unwrap();
            if random.random_range(0..4) == 0 {
                spool.abort(StreamAbort { xid, subxid: xid }).unwrap();
            } else {
                let messages = messages(spool.commit(commit(xid)).unwrap()).await;
                check(&backend, &messages, seed);
            }
        }
    }
    for xid in backends.keys() {
        spool.abort(StreamAbort { xid: *xid, subxid: *xid }).unwrap();
    }
    assert_eq!((spool.memory, used.used.load(Ordering::SeqCst)), (0, 0), "seed {seed}");
}

fn check(backend: &Backend, messages: &[Message], seed: u64) {
    let expected: Vec<Message> =
        backend.rows.iter().map(|(_, id)| decode(&row(*id)).unwrap()).collect();
    let begins =
        matches!(messages.first(), Some(Message::Begin(begin)) if begin.xid == backend.xid);
    let ends = matches!(messages.last(), Some(Message::Commit(_)));
    assert!(begins && ends, "seed {seed}");
    let relation = |message: &&Message| matches!(message, Message::Relation(_));
    let between = &messages[1..messages.len() - 1];
    let rows: Vec<Message> = between.iter().filter(|m| !relation(m)).cloned().collect();
    assert_eq!(rows, expected, "seed {seed}");
    assert!(between.first().is_some_and(|first| relation(&first)), "seed {seed}: described first");
}

#[tokio::test]
async fn what_was_not_rolled_back_comes_out_in_order() {
    for seed in 0..400 {
        random_transactions(seed).await;
    }
}

#[tokio::test]
async fn a_rolled_back_subtransaction_gives_its_memory_and_its_disk_back() {
    let (disk, used) = FakeDisk::with_room(1 << 20);
    let mut spool = Spool::new(1_000, disk);
    spool.start(StreamStart { xid: 1, first: true }).unwrap();
    add(&mut spool, 1, &row(1));
    add(&mut spool, 2, &relation_message(7));
    for id in 0..500 {
        add(&mut spool, 2, &row(id));
        relieve(&mut spool).await;
    }
    spool.stop().unwrap();
    assert!(used.used.load(Ordering::SeqCst) > 10_000);
    spool.abort(StreamAbort { xid: 1, subxid: 2 }).unwrap();
    relieve(&mut spool).await;
    assert!(used.used.load(Ordering::SeqCst) < 1_500 && spool.memory < 1_000);
    let messages = messages(spool.commit(commit(1)).unwrap()).await;
    let described = matches!(messages[..], [_, Message::Insert { .. }, Message::Relation(_), _]);
    assert!(described, "{messages:?}");
}

#[tokio::test]
async fn memory_is_bounded_by_the_limit_and_one_message() {
    let (disk, _) = FakeDisk::with_room(usize::MAX);
    let mut spool = Spool::new(10_000, disk);
    for xid in 1..50 {
        spool.start(StreamStart { xid, first: true }).unwrap();
        for id in 0..100 {
            add(&mut spool, xid, &row(id));
            assert!(spool.memory < 10_000 + 100);
            relieve(&mut spool).await;
        }
        spool.stop().unwrap();
    }
    let held: usize = spool.transactions.values().map(Spooled::memory).sum();
    assert_eq!(held, spool.memory);
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_room_is_used_when_there_is_some() {
    let (disk, room) = FakeDisk::with_room(100);
    let mut spool = Spool::new(500, disk);
    spool.start(StreamStart { xid: 1, first: true }).unwrap();
    add(&mut spool, 1, &relation_message(7));
    let mut backend = Backend::new(1);
    while !spool.is_full() {
        let id = u32::try_from(backend.rows.len()).unwrap();
        add(&mut spool, 1, &row(id));
        backend.rows.push((1, id));
    }
    for _ in 0..3 {
        let error = spool.relieve().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(spool.is_full());
    }
    room.room.store(1 << 20, Ordering::SeqCst);
    spool.relieve().await.unwrap();
    assert!(!spool.is_full());
    spool.stop().unwrap();
    check(&backend, &messages(spool.commit(commit(1)).unwrap()).await, 0);
}

#[tokio::test]
async fn a_row_larger_than_a_read_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(0, Arc::new(Folder(folder.path().into())));
    let large = "x".repeat(1_000_000);
    let large = row_message(b'I', 7, &[(b'N', &[Some("1"), Some(&large)])]);
    spool.start(StreamStart { xid: 1, first: true }).unwrap();
    for message in [&row(1), &large, &row(2)] {
        add(&mut spool, 1, message);
        relieve(&mut spool).await;
    }
    spool.stop().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    let messages = messages(spool.commit(commit(1)).unwrap()).await;
    let expected = [&row(1), &large, &row(2)].map(|message| decode(message).unwrap());
    assert_eq!(messages[1..4], expected);
}

#[test]
fn messages_out_of_turn_are_errors() {
    let (disk, _) = FakeDisk::with_room(0);
    let mut spool = Spool::new(1_000, disk);
    assert!(spool.stop().is_err());
    assert!(spool.add(1, b'I', &[]).is_err());
    assert!(spool.start(StreamStart { xid: 1, first: false }).is_err());
    assert!(spool.commit(commit(1)).is_err());
    spool.abort(StreamAbort { xid: 1, subxid: 1 }).unwrap();
    spool.start(StreamStart { xid: 1, first: true }).unwrap();
    assert!(spool.start(StreamStart { xid: 2, first: true }).is_err());
    assert!(spool.abort(StreamAbort { xid: 1, subxid: 1 }).is_err());
    assert!(spool.commit(commit(1)).is_err());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named_at_the_start() {
    let config = SpoolConfig { folder: Some("/nowhere/at/all".into()), ..SpoolConfig::default() };
    let error = Spool::open(&config, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("/nowhere/at/all"), "{error:?}");
    Spool::open(&config, false).await.unwrap();
}
