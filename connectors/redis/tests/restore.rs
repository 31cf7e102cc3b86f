//! A Redis that holds an older state than the worker has seen.

use anabranch_core::{Batch, ErrorKind, Sink, StoreCursor};
use anabranch_redis::RedisSink;

use crate::support::{OwnServer, Space, below, command, step, unit_cursor, upto, values, worker};

/// Unit 1 is idle after the first batch. A delete and a delete-below follow the backup.
fn history() -> Vec<(Batch, StoreCursor)> {
    let mut truncate = step(&[(8, Some(80), 4)]);
    truncate.delete_below = vec![below(0, 4)];
    let batches = [
        step(&[(1, Some(10), 1), (2, Some(20), 1), (4, Some(40), 1)]),
        step(&[(2, None, 2), (4, Some(41), 2)]),
        step(&[(6, Some(60), 3)]),
        truncate,
    ];
    let cursor = |next| StoreCursor::from([(0, unit_cursor(next, 0)), (1, unit_cursor(1, 0))]);
    batches.into_iter().zip((1..).map(cursor)).collect()
}

async fn apply(sink: &mut RedisSink, history: &[(Batch, StoreCursor)]) {
    for (batch, upto) in history {
        sink.apply(batch, upto).await.unwrap();
    }
}

async fn is_as_the_history(space: &Space) {
    assert_eq!(space.rows().await, values(&[(1, 10), (8, 80)]));
}

#[tokio::test]
async fn a_restored_backup_is_resumed_from_what_it_holds() {
    let mut server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let history = history();
    apply(&mut sink, &history[..2]).await;
    command::<()>(&mut space.admin().await, &["SAVE"]).await;
    apply(&mut sink, &history[2..]).await;
    is_as_the_history(&space).await;

    // The directory still has the file of the SAVE.
    server.restart_after(|server| assert!(server.dump().exists())).await;
    let error = sink.apply(&step(&[(6, None, 9)]), &upto(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(sink.cursor().await.unwrap().as_ref(), Some(&history[1].1));
    assert_eq!(space.rows().await, values(&[(1, 10), (4, 41)]));
    apply(&mut sink, &history[2..]).await;
    is_as_the_history(&space).await;
}

/// The same, and the first commit after it is followed by a crash.
#[tokio::test]
async fn a_crash_right_after_a_restore_changes_nothing() {
    let mut server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let history = history();
    apply(&mut sink, &history[..1]).await;
    command::<()>(&mut space.admin().await, &["SAVE"]).await;
    apply(&mut sink, &history[1..]).await;
    server.restart_after(|_| ()).await;
    drop(sink);
    for (place, (batch, to)) in history.iter().enumerate().skip(1) {
        let (mut sink, held) = worker(&space.config).await;
        assert_eq!(held.as_ref(), Some(&history[place - 1].1));
        sink.apply(batch, to).await.unwrap();
    }
    is_as_the_history(&space).await;
}

/// The connection stays, but the rows and the unit are gone.
#[tokio::test]
async fn an_emptied_redis_begins_at_the_beginning() {
    let server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let history = history();
    apply(&mut sink, &history).await;
    command::<()>(&mut space.admin().await, &["FLUSHALL"]).await;
    let error = sink.apply(&history[3].0, &history[3].1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.report().contains("emptied"), "{error:?}");
    assert_eq!(sink.cursor().await.unwrap(), None);
    apply(&mut sink, &history).await;
    is_as_the_history(&space).await;
}

/// The connection and the owner stay, but the cursor went back, as behind a proxy that fails over.
#[tokio::test]
async fn a_cursor_that_went_back_is_noticed() {
    let server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let history = history();
    apply(&mut sink, &history[..2]).await;
    let older = serde_json::to_string(&unit_cursor(1, 0)).unwrap();
    let set = ["HSET", &space.unit(0), "cursor", &older];
    command::<()>(&mut space.admin().await, &set).await;
    let error = sink.apply(&history[2].0, &history[2].1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let held = sink.cursor().await.unwrap().unwrap();
    assert_eq!(held[&0], unit_cursor(1, 0));
    // Killed and started again without a backup: as emptied.
}
