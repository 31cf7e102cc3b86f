//! Puts stores back to an older state, as an operator would.

use std::sync::Arc;

use anabranch::config::StoreConfig;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::services::address;
use super::stores;
use super::world::World;

/// An older state of all three stores.
pub struct Backup {
    keys: Vec<(String, Vec<u8>)>,
    lake: u64,
    table: String,
    snapshot: String,
}

async fn redis(world: &World) -> MultiplexedConnection {
    let config = world.config();
    let StoreConfig::Redis(store) = &config.sinks["cache"].store else { panic!("cache is Redis") };
    let client = redis::Client::open(store.url.expose()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn redis_keys(world: &World, connection: &mut MultiplexedConnection) -> Vec<String> {
    let pattern = format!("{}:*", world.name);
    redis::cmd("KEYS").arg(pattern).query_async(connection).await.unwrap()
}

/// Removes a row behind the daemon's back.
pub async fn delete_redis_row(world: &World, key: &str) {
    let key = format!("{}:{key}", world.name);
    let gone: i64 = redis::cmd("DEL").arg(key).query_async(&mut redis(world).await).await.unwrap();
    assert_eq!(gone, 1);
}

/// The version of a table's Delta log.
pub fn delta_version(world: &World, table: &str) -> u64 {
    let (schema, name) = table.split_once('.').unwrap();
    let log = world.path("lake").join(schema).join(name).join("_delta_log");
    let names = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name());
    let versions =
        names.filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse::<u64>().ok());
    versions.max().unwrap()
}

async fn search(method: reqwest::Method, path: &str, body: serde_json::Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/{path}", address("ELASTICSEARCH_URL"));
    let request = client.request(method, url);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = request.send().await.unwrap();
    let ok = answer.status().is_success();
    assert!(ok, "{path}: {}", answer.text().await.unwrap());
}

impl Backup {
    /// Saves what the stores hold of `table`; the daemon must not run.
    pub async fn take(world: &World, table: &str) -> Self {
        let mut connection = redis(world).await;
        let mut keys = Vec::new();
        for key in redis_keys(world, &mut connection).await {
            let value = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
            keys.push((key, value));
        }
        let snapshot = world.name.clone();
        let settings = json!({"type": "fs", "settings": {"location": format!("{}/{snapshot}", address("ES_REPO"))}});
        search(reqwest::Method::PUT, &format!("_snapshot/{snapshot}"), settings).await;
        let indices = json!({"indices": index(world, table), "include_global_state": false});
        search(
            reqwest::Method::PUT,
            &format!("_snapshot/{snapshot}/one?wait_for_completion=true"),
            indices,
        )
        .await;
        Self { keys, lake: delta_version(world, table), table: table.to_owned(), snapshot }
    }

    /// Puts it back.
    pub async fn put_back(&self, world: &World) {
        let mut connection = redis(world).await;
        let now = redis_keys(world, &mut connection).await;
        redis::cmd("DEL").arg(now).query_async::<()>(&mut connection).await.unwrap();
        for (key, value) in &self.keys {
            let mut restore = redis::cmd("RESTORE");
            restore.arg(key).arg(0).arg(value.as_slice());
            restore.query_async::<()>(&mut connection).await.unwrap();
        }
        let indices = index(world, &self.table);
        search(reqwest::Method::DELETE, &indices, json!(null)).await;
        let path = format!("_snapshot/{}/one/_restore?wait_for_completion=true", self.snapshot);
        search(reqwest::Method::POST, &path, json!({"indices": indices, "include_aliases": true}))
            .await;
        self.restore_delta(world).await;
    }

    async fn restore_delta(&self, world: &World) {
        let table = stores::table(world, &self.table).await.unwrap();
        let path = world.path("lake").join(&table.schema).join(&table.name);
        let url = url::Url::from_directory_path(path).unwrap();
        let lake = deltalake::open_table(url).await.unwrap();
        let (restored, _) = lake.restore().with_version_to_restore(self.lake).await.unwrap();
        drop(Arc::new(restored));
    }
}

fn index(world: &World, table: &str) -> String {
    let (_, name) = table.split_once('.').unwrap();
    format!("{}-{name}-1", world.name.replace('_', "-"))
}
