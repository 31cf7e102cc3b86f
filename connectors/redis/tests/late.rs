//! Writes that arrive late.

use std::time::{Duration, Instant};

use anabranch_core::memory::table;
use anabranch_core::{Assignment, ErrorKind, Sink};
use anabranch_redis::read_cursors;

use crate::proxy::Proxy;
use crate::support::{
    OwnServer, Space, assignment, below, command, step, unit_cursor, upto, values, worker,
};

/// Short, since each of these tests waits for it to pass; a busy machine only makes them retry.
const TIMEOUT_MS: u64 = 500;

async fn behind_a_proxy() -> (OwnServer, Proxy, Space, Space) {
    let server = OwnServer::start(&[]).await;
    let proxy = Proxy::start(server.address()).await;
    let mut space = Space::at(proxy.url());
    space.config.request_timeout_ms = TIMEOUT_MS;
    let mut direct = Space::at(server.url());
    direct.config.key = space.config.key.clone();
    (server, proxy, space, direct)
}

/// N writes a row and is not answered. N again, then N + 1, which deletes the row. Then the first
/// N arrives: it may neither bring the row back nor set the cursor back.
#[tokio::test]
async fn a_late_chunk_of_the_same_worker_is_void() {
    let (_server, mut proxy, space, direct) = behind_a_proxy().await;
    let (mut sink, _) = worker(&space.config).await;
    sink.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();

    proxy.hold_after(0);
    let late = step(&[(2, Some(20), 2), (3, Some(30), 2)]);
    let begun = Instant::now();
    let error = sink.apply(&late, &upto(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(begun.elapsed() < Duration::from_millis(20 * TIMEOUT_MS), "the answer is waited for");
    assert_eq!(direct.rows().await, values(&[(1, 10)]), "nothing has arrived yet");

    let error = sink.apply(&late, &upto(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "not before the unit is taken over again");
    assert_eq!(sink.cursor().await.unwrap(), Some(upto(1)));
    sink.apply(&late, &upto(3)).await.unwrap();
    sink.apply(&step(&[(2, None, 3), (3, None, 3)]), &upto(5)).await.unwrap();

    proxy.release();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("taken"), "{answer}");
    assert_eq!(direct.rows().await, values(&[(1, 10)]));
    sink.apply(&step(&[(4, Some(40), 4)]), &upto(6)).await.unwrap();
    assert_eq!(worker(&direct.config).await.1, Some(upto(6)));
}

/// The late chunk is of a batch whose retry has just deleted below a bound, and has not moved the
/// cursor yet: the late chunk expects the cursor that is there.
#[tokio::test]
async fn a_late_chunk_does_not_survive_the_delete_below_of_its_batch() {
    let (_server, mut proxy, space, direct) = behind_a_proxy().await;
    let (mut sink, _) = worker(&space.config).await;
    let mut first = step(&[(6, Some(60), 1)]);
    first.delete_below = vec![below(0, 1)];
    sink.apply(&first, &upto(1)).await.unwrap();
    let mut late = step(&[(2, Some(20), 2)]);
    late.delete_below = vec![below(0, 3)];
    let mut to = upto(1);
    to.insert(0, unit_cursor(3, 0));
    proxy.hold_after(0);
    sink.apply(&late, &to).await.unwrap_err();

    // What passes of the retry: its row, a SCAN, and the deletes.
    assert_eq!(sink.cursor().await.unwrap(), Some(upto(1)));
    proxy.hold_after(3);
    sink.apply(&late, &to).await.unwrap_err();
    assert_eq!(direct.rows().await, values(&[]));
    assert_eq!(read_cursors(&direct.config, &both()).await.unwrap(), upto(1));
    proxy.release_oldest();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("taken"), "{answer}");
    assert_eq!(direct.rows().await, values(&[]));

    // The cursor of the retry is late as well, and right: nobody has taken over since.
    proxy.release();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("ok"), "{answer}");
    assert_eq!(sink.cursor().await.unwrap(), Some(to));
    assert_eq!(direct.rows().await, values(&[]));
}

fn both() -> Assignment {
    assignment(table(), &[0, 1])
}

/// A worker is stopped with a write under way; another goes on; the write arrives.
#[tokio::test]
async fn a_late_chunk_of_another_worker_is_void() {
    let (_server, mut proxy, space, direct) = behind_a_proxy().await;
    let (mut stopped, _) = worker(&space.config).await;
    stopped.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();
    proxy.hold_after(0);
    let late = step(&[(2, Some(20), 2)]);
    stopped.apply(&late, &upto(2)).await.unwrap_err();

    let (mut owner, held) = worker(&direct.config).await;
    assert_eq!(held, Some(upto(1)));
    owner.apply(&late, &upto(2)).await.unwrap();
    owner.apply(&step(&[(2, None, 3)]), &upto(3)).await.unwrap();
    proxy.release();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("taken"), "{answer}");
    assert_eq!(direct.rows().await, values(&[(1, 10)]));
    owner.apply(&step(&[(1, Some(11), 4)]), &upto(4)).await.unwrap();
    assert_eq!(direct.rows().await, values(&[(1, 11)]));
}

/// A take-over that arrives late: whoever goes on is refused once, and nothing is lost.
#[tokio::test]
async fn a_late_take_over_does_no_harm() {
    let (_server, mut proxy, space, direct) = behind_a_proxy().await;
    let (mut stopped, _) = worker(&space.config).await;
    stopped.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();
    proxy.hold_after(0);
    assert_eq!(stopped.cursor().await.unwrap_err().kind(), ErrorKind::Transient);

    // Of the same worker, after its next one: void.
    stopped.cursor().await.unwrap();
    proxy.release();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("taken"), "{answer}");
    stopped.apply(&step(&[(1, Some(11), 2)]), &upto(2)).await.unwrap();

    // After another's: the other is refused, and takes over again.
    proxy.hold_after(0);
    stopped.cursor().await.unwrap_err();
    let (mut owner, _) = worker(&direct.config).await;
    owner.apply(&step(&[(1, Some(12), 3)]), &upto(3)).await.unwrap();
    proxy.release();
    let answer = proxy.late_answer().await;
    assert!(answer.contains("ok"), "{answer}");
    let next = step(&[(1, None, 4)]);
    assert_eq!(owner.apply(&next, &upto(4)).await.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(owner.cursor().await.unwrap(), Some(upto(3)));
    owner.apply(&next, &upto(4)).await.unwrap();
    assert_eq!(direct.rows().await, values(&[]));
}

/// A server that is alive and does not answer.
#[tokio::test]
async fn a_paused_server_is_waited_for_no_longer_than_the_time_limit() {
    let server = OwnServer::start(&[]).await;
    let mut space = Space::at(server.url());
    space.config.request_timeout_ms = TIMEOUT_MS;
    let (mut sink, _) = worker(&space.config).await;
    command::<()>(&mut space.admin().await, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let begun = Instant::now();
    let error = sink.apply(&step(&[(2, Some(20), 1)]), &upto(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(begun.elapsed() < Duration::from_millis(20 * TIMEOUT_MS));
    command::<()>(&mut space.admin().await, &["CLIENT", "UNPAUSE"]).await;
    // What was sent before the pause ended has run by now, or never will.
    assert!([None, Some(upto(1))].contains(&sink.cursor().await.unwrap()));
    sink.apply(&step(&[(2, None, 2)]), &upto(2)).await.unwrap();
    assert_eq!(space.rows().await, values(&[]));
}

/// The future of a write is dropped: the worker may not go on as if nothing had been sent.
#[tokio::test]
async fn a_dropped_write_is_in_doubt() {
    let (_server, proxy, space, direct) = behind_a_proxy().await;
    let (mut sink, _) = worker(&space.config).await;
    // The server knows the script from here on.
    sink.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();
    proxy.hold_after(0);
    let late = step(&[(2, Some(20), 2)]);
    let to = upto(2);
    let dropped = tokio::time::timeout(Duration::from_millis(20), sink.apply(&late, &to)).await;
    assert!(dropped.is_err());
    let next = step(&[(2, None, 3)]);
    assert_eq!(sink.apply(&next, &upto(3)).await.unwrap_err().kind(), ErrorKind::Transient);
    proxy.release();
    // It is sent over the same connection, so the write is in front of it.
    let held = sink.cursor().await.unwrap().unwrap();
    assert_eq!(held[&0], upto(2)[&0], "the write has landed");
    sink.apply(&next, &upto(3)).await.unwrap();
    assert_eq!(direct.rows().await, values(&[(1, 10)]));
}
