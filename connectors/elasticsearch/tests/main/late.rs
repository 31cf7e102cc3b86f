//! Writes that arrive after what they were overtaken by, and indexes that change under a worker.

use anabranch_core::{DeleteBelow, ErrorKind, Sink as _, Version};
use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::scripted::Scripted;
use crate::server::{Server, batch, cursor, relay, url, version};

fn late_upsert(id: i64, value: i64, version: Version) -> [Value; 2] {
    let version = version.to_i64();
    [
        json!({"index": {"_id": id.to_string(), "version": version, "version_type": "external_gte"}}),
        json!({"_v": version, "_p": id % 2, "id": id, "value": value}),
    ]
}

fn statuses(reply: &Value) -> Vec<u64> {
    let items = reply["items"].as_array().unwrap().iter();
    items
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|i| i["status"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_late_bulk_loses_to_newer_rows_and_to_deletes() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let newer = [(1, Some(12), version(2, 0)), (2, None, version(2, 0)), (3, None, version(1, 1))];
    sink.apply(&batch(&newer), &cursor(5)).await.unwrap();
    let late = [
        late_upsert(1, 11, version(1, 0)),
        late_upsert(2, 21, version(1, 255)),
        late_upsert(3, 31, version(1, 0)),
    ];
    let reply = server.bulk(&server.name("t-1"), &late.concat()).await;
    assert_eq!(statuses(&reply), [409, 409, 409]);
    assert_eq!(server.values().await, [(1, Some(12))]);
}

/// One transaction writes rows (part 0) and truncates (part 1): the rows' version is one below the
/// bound, and a stopped worker sends them again when they are gone.
#[tokio::test]
async fn a_late_bulk_loses_to_a_truncate_of_its_own_transaction() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let mut rows = batch(&[(1, Some(11), version(5, 0)), (3, Some(31), version(5, 0))]);
    rows.delete_below = vec![DeleteBelow { partition: 1, version: version(5, 1) }];
    assert_eq!(version(5, 1).below(), version(5, 0), "the schedule is the one that was meant");
    sink.apply(&rows, &cursor(5)).await.unwrap();
    assert_eq!(server.values().await, []);
    let late = [late_upsert(1, 11, version(5, 0)), late_upsert(3, 31, version(5, 0))];
    let reply = server.bulk(&server.name("t-1"), &late.concat()).await;
    assert_eq!(statuses(&reply), [409, 409]);
    sink.apply(&batch(&[(3, Some(32), version(5, 1))]), &cursor(6)).await.unwrap();
    assert_eq!(server.values().await, [(3, Some(32))], "the row after the TRUNCATE");
    // The stopped worker's delete-below of the same bound comes last of all.
    let (mut late, _) = server.worker(&[0, 1]).await;
    late.apply(&rows, &cursor(5)).await.unwrap();
    assert_eq!(server.values().await, [(3, Some(32))]);
}

/// Another worker writes the row after the TRUNCATE just when this one has found its predecessor
/// and is about to delete it.
#[tokio::test]
async fn a_row_written_between_search_and_delete_stays() {
    let mut server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let old = [(1, Some(11), version(4, 0)), (3, Some(31), version(4, 0))];
    sink.apply(&batch(&old), &cursor(5)).await.unwrap();
    let index = server.name("t-1");
    let between = Scripted::start(move |asked| {
        if asked.body.starts_with("{\"delete\"") {
            let lines: String =
                late_upsert(1, 12, version(5, 1)).iter().map(|l| format!("{l}\n")).collect();
            let (status, reply) = relay("POST", &format!("{index}/_bulk"), lines);
            assert_eq!((status, &reply["errors"]), (200, &json!(false)));
        }
        let mut words = asked.line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = relay(method, path.trim_start_matches('/'), asked.body.clone());
        (status, answer.to_string())
    })
    .await;
    server.config.url = between.url();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let mut truncate = batch(&[]);
    truncate.delete_below = vec![DeleteBelow { partition: 1, version: version(5, 1) }];
    sink.apply(&truncate, &cursor(6)).await.unwrap();
    assert!(between.asked().iter().any(|asked| asked.body.starts_with("{\"delete\"")));
    server.config.url = url();
    assert_eq!(server.values().await, [(1, Some(12))]);
}

#[tokio::test]
async fn a_delete_below_takes_more_than_one_page() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let rows: Vec<_> = (0..24_000).map(|id| (id, Some(id), version(1, 0))).collect();
    sink.apply(&batch(&rows), &cursor(5)).await.unwrap();
    let mut truncate = batch(&[(7, Some(8), version(2, 0))]);
    truncate.delete_below = vec![DeleteBelow { partition: 1, version: version(2, 0) }];
    sink.apply(&truncate, &cursor(6)).await.unwrap();
    let left = server.values().await;
    assert_eq!(left.len(), 12_001);
    assert!(left.iter().all(|(id, _)| id % 2 == 0 || *id == 7));
}

#[tokio::test]
async fn the_highest_of_several_bounds_counts() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    let rows = [1, 2, 3, 4, 5, 6].map(|id: i64| (id, Some(id), version(id.unsigned_abs(), 0)));
    let mut batch = batch(&rows);
    let below = |partition, commit| DeleteBelow { partition, version: version(commit, 0) };
    batch.delete_below = vec![below(1, 2), below(1, 5), below(1, 3), below(0, 4)];
    sink.apply(&batch, &cursor(7)).await.unwrap();
    assert_eq!(server.values().await, [(4, Some(4)), (5, Some(5)), (6, Some(6))]);
}

#[tokio::test]
async fn a_worker_that_was_succeeded_cannot_move_the_cursor() {
    let server = Server::new();
    let (mut stopped, _) = server.worker(&[0, 1]).await;
    stopped.apply(&batch(&[(1, Some(10), version(1, 0))]), &cursor(3)).await.unwrap();
    let (mut owner, held) = server.worker(&[0, 1]).await;
    assert_eq!(held, Some(cursor(3)));
    owner.apply(&batch(&[(1, Some(11), version(2, 0))]), &cursor(4)).await.unwrap();
    let late =
        stopped.apply(&batch(&[(1, Some(13), version(3, 0))]), &cursor(9)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Transient, "{late:?}");
    let again = stopped.apply(&batch(&[]), &cursor(9)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Transient, "it must read the cursor first: {again:?}");
    assert_eq!(server.worker(&[0, 1]).await.1, Some(cursor(4)));
    owner.apply(&batch(&[]), &cursor(5)).await.unwrap();
}

#[tokio::test]
async fn an_index_deleted_under_a_worker_is_made_and_filled_anew() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    sink.apply(&batch(&[(1, Some(10), version(1, 0))]), &cursor(3)).await.unwrap();
    let (status, _) = server.ask(Method::Delete, &server.name("t-1"), &Value::Null).await;
    assert_eq!(status, 200);
    let error = sink.apply(&batch(&[(2, Some(20), version(2, 0))]), &cursor(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let (status, _) = server.ask(Method::Get, &server.name("t-1*"), &Value::Null).await;
    let (_, made) = server.ask(Method::Get, &server.name("t-1.write"), &Value::Null).await;
    assert_eq!((status, made["status"].as_u64()), (200, Some(404)), "nothing made it by accident");
    assert_eq!(sink.cursor().await.unwrap(), None);
    sink.apply(&batch(&[(2, Some(20), version(2, 0))]), &cursor(4)).await.unwrap();
    assert_eq!(server.values().await, [(2, Some(20))]);
}

/// Another worker makes the index anew before this one notices anything.
#[tokio::test]
async fn an_idle_worker_does_not_claim_a_new_index() {
    let server = Server::new();
    let (mut idle, _) = server.worker(&[0]).await;
    idle.apply(&batch(&[(2, Some(20), version(1, 0))]), &crate::server::cursor_at(&[(0, 3)]))
        .await
        .unwrap();
    server.ask(Method::Delete, &server.name("t-1"), &Value::Null).await;
    let (_other, held) = server.worker(&[1]).await;
    assert_eq!(held, None);
    let upto = crate::server::cursor_at(&[(0, 4)]);
    let error = idle.apply(&batch(&[(4, Some(40), version(2, 0))]), &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(idle.cursor().await.unwrap(), None, "row 2 has to come again");
}
