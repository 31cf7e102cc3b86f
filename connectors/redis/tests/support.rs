//! Servers, workers and batches for the tests.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::memory::{batch, key, table};
use anabranch_core::{
    Assignment, Batch, CURSOR_FORMAT, DeleteBelow, Epoch, LastRecord, Lsn, RowMeta, RowOp, Sink,
    StoreCursor, Table, UnitCursor, Version,
};
use anabranch_redis::{KeyTemplate, RedisConfig, RedisSink, read_all};
use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const LOG: Uuid = Uuid::from_u128(0xA11A);
const START_MAX: Duration = Duration::from_secs(20);

/// The shared server, under a key prefix that nobody else has.
pub(crate) struct Space {
    pub(crate) config: RedisConfig,
    prefix: String,
}

impl Space {
    pub(crate) fn new() -> Self {
        let url = std::env::var("ANABRANCH_TEST_REDIS_URL").expect(
            "ANABRANCH_TEST_REDIS_URL is not set: run `eval \"$(compose/services up redis)\"`",
        );
        Self::at(url)
    }

    pub(crate) fn at(url: String) -> Self {
        let prefix = format!("test-{}:", Uuid::new_v4().simple());
        let template = format!("{prefix}{{table}}:{{key}}");
        let mut config = RedisConfig::at(url);
        config.key = KeyTemplate::try_from(template).unwrap();
        Self { config, prefix }
    }

    /// The key of a row of the test table.
    pub(crate) fn row(&self, id: i64) -> String {
        format!("{}t:{id}", self.prefix)
    }

    pub(crate) fn unit(&self, partition: i32) -> String {
        format!("{}anabranch:cache:shop.public.t:{partition}", self.prefix)
    }

    pub(crate) async fn admin(&self) -> MultiplexedConnection {
        admin(self.config.url.expose()).await
    }

    pub(crate) async fn rows(&self) -> BTreeMap<i64, Option<i64>> {
        let rows = read_all(&self.config, &table()).await.unwrap();
        let number = |fields: &BTreeMap<String, String>, name: &str| {
            fields.get(name).map(|text| text.parse::<i64>().unwrap())
        };
        rows.iter()
            .map(|(key, fields)| {
                let id = number(fields, "id").unwrap();
                assert_eq!(key, &id.to_string());
                (id, number(fields, "value"))
            })
            .collect()
    }

    /// Removes every key under the prefix.
    pub(crate) async fn clean(&self) {
        let mut admin = self.admin().await;
        let keys: Vec<String> = command(&mut admin, &["KEYS", &format!("{}*", self.prefix)]).await;
        for key in keys {
            command::<()>(&mut admin, &["DEL", &key]).await;
        }
    }
}

pub(crate) async fn admin(url: &str) -> MultiplexedConnection {
    Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

pub(crate) async fn command<T: FromRedisValue>(
    admin: &mut MultiplexedConnection,
    words: &[&str],
) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query_async(admin).await.unwrap()
}

pub(crate) fn assignment(table: Arc<Table>, partitions: &[i32]) -> Assignment {
    Assignment {
        sink: "cache".to_owned(),
        topic: "shop.public.t".to_owned(),
        table,
        partitions: partitions.to_vec(),
        log: LOG,
        generation: 1,
    }
}

pub(crate) async fn open(config: &RedisConfig, partitions: &[i32]) -> RedisSink {
    RedisSink::open(config, assignment(table(), partitions)).await.unwrap()
}

/// A worker on partitions 0 and 1, and the cursor it found.
pub(crate) async fn worker(config: &RedisConfig) -> (RedisSink, Option<StoreCursor>) {
    let mut sink = open(config, &[0, 1]).await;
    let held = sink.cursor().await.unwrap();
    (sink, held)
}

pub(crate) fn version(lsn: u64) -> Version {
    Version::new(Epoch(0), Lsn(0x100_0000 + lsn * 64), 0)
}

/// Rows of partition `id % 2`: id, value (`None` deletes), and the commit.
pub(crate) fn step(rows: &[(i64, Option<i64>, u64)]) -> Batch {
    let meta = |(id, value, lsn): &(i64, Option<i64>, u64)| RowMeta {
        op: if value.is_some() { RowOp::Upsert } else { RowOp::Delete },
        partition: i32::from(id % 2 != 0),
        version: version(*lsn),
        key: key(*id),
    };
    let values: Vec<_> = rows.iter().map(|(id, value, _)| (*id, *value)).collect();
    batch(&values, rows.iter().map(meta).collect(), Vec::new())
}

pub(crate) fn below(partition: i32, lsn: u64) -> DeleteBelow {
    DeleteBelow { partition, version: version(lsn) }
}

pub(crate) fn unit_cursor(next: i64, resets: u32) -> UnitCursor {
    let last = (next > 0).then(|| LastRecord { offset: next - 1, version: version(1) });
    UnitCursor { format: CURSOR_FORMAT, log: LOG, generation: 1, resets, next, last }
}

/// The same cursor for partitions 0 and 1.
pub(crate) fn upto(next: i64) -> StoreCursor {
    StoreCursor::from([(0, unit_cursor(next, 0)), (1, unit_cursor(next, 0))])
}

pub(crate) fn values(rows: &[(i64, i64)]) -> BTreeMap<i64, Option<i64>> {
    rows.iter().map(|(id, value)| (*id, Some(*value))).collect()
}

/// A Redis that a test starts for itself; ends when dropped.
pub(crate) struct OwnServer {
    child: Child,
    port: u16,
    pub(crate) directory: TempDir,
    settings: Vec<String>,
}

impl OwnServer {
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings: Vec<_> = settings.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(port, directory.path(), &settings);
        let server = Self { child, port, directory, settings };
        server.ready().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    pub(crate) fn dump(&self) -> std::path::PathBuf {
        self.directory.path().join("dump.rdb")
    }

    /// Kills it, and starts it again on what its directory holds then.
    pub(crate) async fn restart_after(&mut self, change: impl FnOnce(&Self)) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        change(self);
        self.child = spawn(self.port, self.directory.path(), &self.settings);
        self.ready().await;
    }

    async fn ready(&self) {
        let begun = Instant::now();
        loop {
            let client = Client::open(self.url()).unwrap();
            if let Ok(mut admin) = client.get_multiplexed_async_connection().await {
                let answer = redis::cmd("PING").query_async::<()>(&mut admin).await;
                if answer.map_or_else(|error| error.code() == Some("NOAUTH"), |()| true) {
                    return;
                }
            }
            assert!(begun.elapsed() < START_MAX, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn spawn(port: u16, directory: &Path, settings: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .args(["--dir", directory.to_str().unwrap()])
        .args(settings)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server of version 7 is on the PATH")
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
