//! An index restored from a snapshot repository (`ANABRANCH_TEST_ES_REPO`, a folder in the server's
//! `path.repo`), with shards of different age.

use anabranch_core::{ErrorKind, Sink as _, StoreCursor};
use bytes::Bytes;
use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::server::{Server, batch, cursor, cursor_at, finish, send, version};

struct Repository<'a> {
    server: &'a Server,
    name: String,
}

impl<'a> Repository<'a> {
    async fn new(server: &'a Server) -> Self {
        let folder = std::env::var("ANABRANCH_TEST_ES_REPO")
            .expect("ANABRANCH_TEST_ES_REPO is not set: run eval \"$(compose/services up)\" first");
        let name = format!("repo-{}", server.config.index_prefix);
        let location = format!("{folder}/{name}");
        let body = json!({"type": "fs", "settings": {"location": location}});
        let (status, answer) = server.ask(Method::Put, &format!("_snapshot/{name}"), &body).await;
        assert_eq!(status, 200, "{answer}");
        Self { server, name }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) {
        let path = format!("_snapshot/{}{path}", self.name);
        let (status, answer) = self.server.ask(method, &path, &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }

    async fn save(&self, snapshot: &str) {
        let body = json!({"indices": self.server.name("t-1"), "include_global_state": false});
        self.ask(Method::Put, &format!("/{snapshot}?wait_for_completion=true"), body).await;
    }

    /// Puts the index back, in place.
    async fn restore(&self, snapshot: &str) {
        let index = self.server.name("t-1");
        self.server.ask(Method::Post, &format!("{index}/_close"), &Value::Null).await;
        let body = json!({"indices": index});
        self.ask(Method::Post, &format!("/{snapshot}/_restore?wait_for_completion=true"), body)
            .await;
    }

    /// Puts shard 0 back from `older` and shard 1 from `newer`, as if the snapshot had saved them at
    /// those times: restores the older, then brings shard 1 to the newer's state.
    async fn restore_mixed(&self, older: &str, newer: &str) {
        self.restore(older).await;
        let copy = self.server.name("copy");
        let body = json!({
            "indices": self.server.name("t-1"),
            "rename_pattern": ".+",
            "rename_replacement": copy,
            "include_aliases": false,
        });
        self.ask(Method::Post, &format!("/{newer}/_restore?wait_for_completion=true"), body).await;
        let index = self.server.name("t-1");
        let (old, new) = (self.shard_one(&index).await, self.shard_one(&copy).await);
        let mut lines = Vec::new();
        for (id, hit) in &new {
            let mut action = json!({"_id": id});
            if let Some(routing) = hit.get("_routing") {
                action["routing"] = routing.clone();
            } else {
                action["version"] = hit["_version"].clone();
                action["version_type"] = json!("external_gte");
            }
            lines.extend([json!({"index": action}), hit["_source"].clone()]);
        }
        for (id, hit) in old.iter().filter(|(id, _)| new.iter().all(|(other, _)| other != id)) {
            let version = &hit["_version"];
            let action = json!({"_id": id, "version": version, "version_type": "external_gte"});
            lines.push(json!({"delete": action}));
        }
        let reply = self.server.bulk(&index, &lines).await;
        assert_eq!(reply["errors"], json!(false), "{reply}");
        self.server.ask(Method::Delete, &copy, &Value::Null).await;
    }

    async fn shard_one(&self, index: &str) -> Vec<(String, Value)> {
        self.server.ask(Method::Post, &format!("{index}/_refresh"), &Value::Null).await;
        let path = format!("{index}/_search?preference=_shards:1&size=1000&version=true");
        let (_, found) = self.server.ask(Method::Get, &path, &Value::Null).await;
        let hits = found["hits"]["hits"].as_array().unwrap().iter();
        hits.map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit.clone())).collect()
    }
}

impl Drop for Repository<'_> {
    fn drop(&mut self) {
        let path = format!("_snapshot/{}", self.name);
        finish(async move {
            send(Method::Delete, &format!("{path}/*"), Bytes::new()).await;
            send(Method::Delete, &path, Bytes::new()).await;
        });
    }
}

/// The batches after each offset of [`cursor`]; unit 1 only has the first.
fn history() -> Vec<anabranch_core::Batch> {
    let row = |id, value, commit| (id, value, version(commit, 0));
    let even = |from: i64, value, commit| -> Vec<_> {
        (0..20).map(|n| row(from + n * 2, Some(value), commit)).collect()
    };
    let odd: Vec<_> = (0..20).map(|n| row(n * 2 + 1, Some(1), 1)).collect();
    let gone: Vec<_> = (0..10).map(|n| row(n * 4, None, 4)).collect();
    vec![
        batch(&[odd, even(0, 1, 1)].concat()),
        batch(&even(0, 2, 2)),
        batch(&even(40, 3, 3)),
        batch(&gone),
        batch(&even(10, 5, 5)),
    ]
}

fn upto(step: usize) -> StoreCursor {
    cursor_at(&[(0, 10 * (step as i64 + 1)), (1, 10)])
}

async fn apply_from(server: &Server, steps: std::ops::Range<usize>) -> Option<StoreCursor> {
    let (mut sink, held) = server.worker(&[0, 1]).await;
    for step in steps {
        sink.apply(&history()[step], &upto(step)).await.unwrap();
    }
    held
}

#[tokio::test]
async fn shards_of_different_age_are_filled_up_from_the_older() {
    let server = Server::new();
    apply_from(&server, 0..5).await;
    let wanted = server.values().await;
    let server = Server::new();
    let repository = Repository::new(&server).await;
    apply_from(&server, 0..2).await;
    repository.save("older").await;
    apply_from(&server, 2..4).await;
    repository.save("newer").await;
    apply_from(&server, 4..5).await;
    assert_eq!(server.values().await, wanted);
    repository.restore_mixed("older", "newer").await;
    assert_ne!(server.values().await, wanted, "something is missing");
    let held = apply_from(&server, 0..0).await;
    assert_eq!(held, Some(upto(1)), "the older shard counts; the idle unit is where it was");
    apply_from(&server, 2..5).await;
    assert_eq!(server.values().await, wanted);
    assert_eq!(apply_from(&server, 0..0).await, Some(upto(4)));
}

/// The first commit reaches one shard's cursor only, or was saved before the other's.
#[tokio::test]
async fn a_shard_saved_before_its_first_cursor_begins_at_the_beginning() {
    let server = Server::new();
    let repository = Repository::new(&server).await;
    apply_from(&server, 0..0).await;
    repository.save("empty").await;
    apply_from(&server, 0..1).await;
    repository.save("first").await;
    let wanted = server.values().await;
    repository.restore_mixed("empty", "first").await;
    assert_eq!(apply_from(&server, 0..0).await, None);
    apply_from(&server, 0..1).await;
    assert_eq!(server.values().await, wanted);
}

/// Rows, snapshot, rows, restore: all within a second, and the worker runs on.
#[tokio::test]
async fn an_index_restored_under_a_worker_is_noticed() {
    let server = Server::new();
    let repository = Repository::new(&server).await;
    let (mut sink, _) = server.worker(&[0, 1]).await;
    sink.apply(&history()[0], &cursor(10)).await.unwrap();
    repository.save("before").await;
    sink.apply(&history()[1], &cursor(20)).await.unwrap();
    repository.restore("before").await;
    let error = sink.apply(&history()[2], &cursor(30)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(sink.cursor().await.unwrap(), Some(cursor(10)), "offset 10 comes next again");
}
