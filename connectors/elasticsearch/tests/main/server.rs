//! The real server: a random name prefix for each test, removed at its end.

use std::sync::Arc;

use anabranch_core::conformance::LOG;
use anabranch_core::{
    Assignment, Batch, CURSOR_FORMAT, Epoch, LastRecord, Lsn, RowMeta, RowOp, Sink as _,
    StoreCursor, Table, UnitCursor, Version, memory,
};
use anabranch_elasticsearch::{ElasticsearchConfig, ElasticsearchSink};
use bytes::Bytes;
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::Transport;
use serde_json::{Value, json};

/// The indexes of one test.
pub(crate) struct Server {
    pub(crate) config: ElasticsearchConfig,
}

impl Server {
    /// Two shards, no replicas, and a refresh that comes too late for every test.
    pub(crate) fn new() -> Self {
        let mut config = ElasticsearchConfig::at(url());
        config.index_prefix = format!("test-{}-", uuid::Uuid::new_v4().simple());
        config.shards = 2;
        config.replicas = 0;
        config.refresh_interval = Some("30s".to_owned());
        Self { config }
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.config.index_prefix)
    }

    pub(crate) fn open(&self, partitions: &[i32]) -> ElasticsearchSink {
        self.open_for(&memory::table(), partitions)
    }

    pub(crate) fn open_for(&self, table: &Arc<Table>, partitions: &[i32]) -> ElasticsearchSink {
        let assignment = Assignment {
            sink: "search".to_owned(),
            topic: "shop.public.t".to_owned(),
            table: Arc::clone(table),
            partitions: partitions.to_vec(),
            log: LOG,
            generation: 1,
        };
        ElasticsearchSink::open(&self.config, assignment).unwrap()
    }

    /// A worker that has read its cursor.
    pub(crate) async fn worker(
        &self,
        partitions: &[i32],
    ) -> (ElasticsearchSink, Option<StoreCursor>) {
        let mut sink = self.open(partitions);
        let held = sink.cursor().await.unwrap();
        (sink, held)
    }

    /// A request beside the sink, and its answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        send(method, path, body).await
    }

    /// A bulk request as a stopped worker would send it.
    pub(crate) async fn bulk(&self, index: &str, lines: &[Value]) -> Value {
        let mut body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        body.push('\n');
        let (status, reply) = send(Method::Post, &format!("{index}/_bulk"), body.into()).await;
        assert_eq!(status, 200, "{reply}");
        reply
    }

    /// Ids and documents, as a user sees them.
    pub(crate) async fn rows(&self, alias: &str) -> Vec<(String, Value)> {
        let rows =
            anabranch_elasticsearch::read_all(&self.config, &self.name(alias)).await.unwrap();
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|row| (row.id, serde_json::from_str(row.source.get()).unwrap()))
            .collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }

    /// The ids of [`Server::rows`] of the table `t`, and their values.
    pub(crate) async fn values(&self) -> Vec<(i64, Option<i64>)> {
        let rows = self.rows("t").await;
        let mut values: Vec<_> = rows
            .iter()
            .map(|(_, row)| (row["id"].as_i64().unwrap(), row["value"].as_i64()))
            .collect();
        values.sort_unstable();
        values
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pattern = format!("{}*", self.config.index_prefix);
        finish(async move {
            let (_, found) = send(Method::Get, &pattern, Bytes::new()).await;
            for index in found.as_object().into_iter().flat_map(|found| found.keys()) {
                send(Method::Delete, index, Bytes::new()).await;
            }
        });
    }
}

/// Cleans up, after a test that failed too.
pub(crate) fn finish(cleaning: impl Future<Output = ()> + Send + 'static) {
    let cleaned = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cleaning);
    });
    drop(cleaned.join());
}

/// The address of the real server.
pub(crate) fn url() -> String {
    std::env::var("ANABRANCH_TEST_ELASTICSEARCH_URL").expect(
        "ANABRANCH_TEST_ELASTICSEARCH_URL is not set: run eval \"$(compose/services up)\" first",
    )
}

/// Hands a request on to the real server, from where nothing can be awaited.
pub(crate) fn relay(method: &str, path: &str, body: String) -> (u16, Value) {
    let method = match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        other => panic!("{other}"),
    };
    let path = path.to_owned();
    let relayed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(send(method, &path, body.into()))
    });
    relayed.join().unwrap()
}

pub(crate) async fn send(method: Method, path: &str, body: Bytes) -> (u16, Value) {
    let transport = Transport::single_node(&url()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = (!body.is_empty()).then_some(body);
    let answer = transport.send(method, path, headers, None::<&()>, body, None).await.unwrap();
    let status = answer.status_code().as_u16();
    (status, answer.json().await.unwrap_or(json!(null)))
}

/// A version by the commit's number.
pub(crate) fn version(commit: u64, part: u8) -> Version {
    Version::new(Epoch(3), Lsn(0x100_0000 + commit * 64), part)
}

/// A batch of the table `t`: id, value (`None` deletes), version; partition `id % 2`.
pub(crate) fn batch(rows: &[(i64, Option<i64>, Version)]) -> Batch {
    let meta = |(id, value, version): &(i64, Option<i64>, Version)| RowMeta {
        op: if value.is_some() { RowOp::Upsert } else { RowOp::Delete },
        partition: (id % 2) as i32,
        version: *version,
        key: memory::key(*id),
    };
    let values: Vec<_> = rows.iter().map(|(id, value, _)| (*id, *value)).collect();
    memory::batch(&values, rows.iter().map(meta).collect(), Vec::new())
}

/// A cursor of the units 0 and 1 at the same offset.
pub(crate) fn cursor(next: i64) -> StoreCursor {
    cursor_at(&[(0, next), (1, next)])
}

pub(crate) fn cursor_at(units: &[(i32, i64)]) -> StoreCursor {
    let unit = |next| UnitCursor {
        format: CURSOR_FORMAT,
        log: LOG,
        generation: 1,
        resets: 0,
        next,
        last: Some(LastRecord { offset: next - 1, version: version(1, 0) }),
    };
    units.iter().map(|(partition, next)| (*partition, unit(*next))).collect()
}
