//! A server that is busy, strange or locked: answers that the real one gives only under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_core::conformance::LOG;
use anabranch_core::{Assignment, ErrorKind, Sink as _, memory};
use anabranch_elasticsearch::{ElasticsearchConfig, ElasticsearchSink};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::scripted::{Asked, Scripted};
use crate::server::{batch, cursor_at, version};

/// Answers everything but bulks of rows as an empty, healthy index would.
fn healthy(asked: &Asked) -> (u16, String) {
    let index = json!({"t-1": {
        "aliases": {"t": {"filter": {}}, "t-1.write": {}},
        "mappings": {
            "_meta": {"anabranch": {"format": 1, "log": LOG, "sink": "search"}},
            "properties": {
                "_v": {"type": "long"},
                "_p": {"type": "integer"},
                "_cursor": {"type": "keyword"},
                "id": {"type": "long"},
                "value": {"type": "long"},
            },
        },
        "settings": {"index.number_of_shards": "1", "index.gc_deletes": "1h"},
    }});
    let answer = match asked.line.split(['?', ' ']).nth(1).unwrap() {
        "/t" | "/t-1" => index,
        "/t-1/_mget" => json!({"docs": [{"found": false}]}),
        "/t-1.write/_bulk" => json!({"items": items(asked, |_| 200)}),
        other => panic!("{other} was not expected"),
    };
    (200, answer.to_string())
}

fn is_bulk_of_rows(asked: &Asked) -> bool {
    asked.line.contains("/_bulk") && !asked.body.contains("anabranch:cursor")
}

/// The ids in a bulk of upserts.
fn ids(asked: &Asked) -> Vec<String> {
    let actions = asked.body.lines().step_by(2);
    let action = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    actions
        .map(action)
        .map(|action| {
            action.as_object().unwrap().values().next().unwrap()["_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn items(asked: &Asked, status: impl Fn(&str) -> u16) -> Vec<Value> {
    let item = |id: &String| match status(id) {
        200 => json!({"index": {"status": 200, "_seq_no": 1, "_primary_term": 1}}),
        status => json!({"index": {"status": status, "error": {"type": "t", "reason": "r"}}}),
    };
    ids(asked).iter().map(item).collect()
}

async fn sink(server: &Scripted, timeout_ms: u64) -> ElasticsearchSink {
    let config = ElasticsearchConfig {
        request_timeout_ms: timeout_ms,
        ..ElasticsearchConfig::at(server.url())
    };
    let assignment = Assignment {
        sink: "search".to_owned(),
        topic: "t".to_owned(),
        table: memory::table(),
        partitions: vec![0],
        log: LOG,
        generation: 1,
    };
    let mut sink = ElasticsearchSink::open(&config, assignment).unwrap();
    assert_eq!(sink.cursor().await.unwrap(), None);
    sink
}

fn three() -> anabranch_core::Batch {
    batch(&[(2, Some(1), version(1, 0)), (4, Some(1), version(1, 0)), (6, Some(1), version(1, 0))])
}

fn bulks_of_rows(server: &Scripted) -> Vec<Asked> {
    server.asked().into_iter().filter(is_bulk_of_rows).collect()
}

#[tokio::test]
async fn only_items_that_were_too_much_are_sent_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let server = Scripted::start(move |asked| {
        if !is_bulk_of_rows(asked) {
            return healthy(asked);
        }
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let status = |id: &str| match (first, id) {
            (true, "4") => 429,
            (true, "6") => 503,
            _ => 200,
        };
        (200, json!({"items": items(asked, status)}).to_string())
    })
    .await;
    let mut sink = sink(&server, 10_000).await;
    sink.apply(&three(), &cursor_at(&[(0, 3)])).await.unwrap();
    let sent: Vec<_> = bulks_of_rows(&server).iter().map(ids).collect();
    assert_eq!(sent, [vec!["2", "4", "6"], vec!["4", "6"]]);
}

#[tokio::test]
async fn a_busy_server_is_given_up_at_the_deadline_and_not_asked_later() {
    let server = Scripted::start(|asked| match is_bulk_of_rows(asked) {
        true => (429, json!({"error": {"type": "es_rejected_execution_exception"}}).to_string()),
        false => healthy(asked),
    })
    .await;
    let mut sink = sink(&server, 700).await;
    let begun = Instant::now();
    let error = sink.apply(&three(), &cursor_at(&[(0, 3)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.report().contains("es_rejected_execution_exception"), "{error:?}");
    let bulks = bulks_of_rows(&server);
    assert!(bulks.len() > 2, "it was tried again");
    assert!(bulks.iter().all(|asked| asked.at - begun <= Duration::from_millis(700)));
    let cursors =
        server.asked().iter().filter(|asked| asked.body.contains("anabranch:cursor\\")).count();
    assert_eq!(cursors, 0, "no cursor without its rows");
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let server = Scripted::start(|asked| {
        if is_bulk_of_rows(asked) {
            std::thread::sleep(Duration::from_secs(2));
        }
        healthy(asked)
    })
    .await;
    let mut sink = sink(&server, 300).await;
    let begun = Instant::now();
    let error = sink.apply(&three(), &cursor_at(&[(0, 3)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_split_down_to_the_row() {
    let server = Scripted::start(|asked| match is_bulk_of_rows(asked) {
        true if ids(asked).len() > 1 || asked.body.contains("\"6\"") => (413, String::new()),
        true | false => healthy(asked),
    })
    .await;
    let mut sink = sink(&server, 10_000).await;
    let error = sink.apply(&three(), &cursor_at(&[(0, 3)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.report().contains("\"6\""), "{error:?}");
    let sent: Vec<_> = bulks_of_rows(&server).iter().map(ids).collect();
    assert_eq!(sent, [vec!["2", "4", "6"], vec!["2"], vec!["4", "6"], vec!["4"], vec!["6"]]);
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let answer =
        json!({"error": {"type": "security_exception", "reason": "unable to authenticate"}});
    let server = Scripted::start(move |_| (401, answer.to_string())).await;
    let config = ElasticsearchConfig {
        username: Some("ann".to_owned()),
        password: Some("secret".to_owned().into()),
        ..ElasticsearchConfig::at(server.url())
    };
    let found = anabranch_elasticsearch::check(&config, "search").await;
    assert!(found[0].help.contains("username and password"), "{found:?}");
    let table = memory::table();
    let (sink, topic, log) = ("search".to_owned(), "t".to_owned(), LOG);
    let assignment = Assignment { sink, topic, table, partitions: vec![0], log, generation: 1 };
    let mut sink = ElasticsearchSink::open(&config, assignment).unwrap();
    let error = sink.cursor().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("[sinks.search]") && !error.report().contains("secret"));
    assert!(!format!("{sink:?}").contains("secret"), "{sink:?}");
}

#[tokio::test]
async fn a_reply_about_other_items_is_not_believed() {
    let server = Scripted::start(|asked| match is_bulk_of_rows(asked) {
        true => (200, json!({"items": [{"index": {"status": 200}}]}).to_string()),
        false => healthy(asked),
    })
    .await;
    let mut sink = sink(&server, 10_000).await;
    let error = sink.apply(&three(), &cursor_at(&[(0, 3)])).await.unwrap_err();
    assert!(error.report().contains("1 items instead of 3"), "{error:?}");
}
