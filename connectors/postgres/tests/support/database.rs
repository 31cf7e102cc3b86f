//! A database, a slot and a publication of a test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_postgres::{PostgresConfig, connect};
use tokio_postgres::Client;

use super::Cluster;
use super::sql::{text, wait_for};

/// A database, a slot and a publication with a random name, gone at the end.
pub(crate) struct Database {
    pub(crate) config: PostgresConfig,
    pub(crate) client: Client,
    admin: Client,
    name: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn admin_url() -> String {
    std::env::var("ANABRANCH_TEST_POSTGRES_URL").expect(
        "set ANABRANCH_TEST_POSTGRES_URL to a PostgreSQL with wal_level = logical: \
         eval \"$(compose/services up postgres)\"",
    )
}

/// `url` with another database.
fn with_database(url: &str, database: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, ""), |(a, q)| (a, q));
    let (server, _) = address.rsplit_once('/').expect("the URL names a database");
    if query.is_empty() {
        format!("{server}/{database}")
    } else {
        format!("{server}/{database}?{query}")
    }
}

impl Cluster {
    /// A database of its own here.
    pub(crate) async fn database(&self, sql: &str, tables: &[&str]) -> Database {
        Database::create(self.url(), sql, tables).await
    }
}

impl Database {
    /// Creates it on the server of all tests, with `sql` run in it.
    pub(crate) async fn new(sql: &str, tables: &[&str]) -> Self {
        Self::create(admin_url(), sql, tables).await
    }

    /// Creates it on the server that has the database of `admin_url`.
    pub(crate) async fn create(admin_url: String, sql: &str, tables: &[&str]) -> Self {
        let random: u32 = rand::random();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("anabranch_test_{random:08x}_{count}");
        let tables: Vec<String> = tables.iter().map(|name| (*name).to_owned()).collect();
        let admin = connect(&PostgresConfig::new(&admin_url, vec![])).await.unwrap();
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let mut config = PostgresConfig::new(with_database(&admin_url, &name), tables);
        config.slot.clone_from(&name);
        config.idle_position_ms = 100;
        let client = connect(&config).await.unwrap();
        client.batch_execute(sql).await.unwrap();
        Self { config, client, admin, name }
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&self.config).await.unwrap()
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        text(&self.client, sql).await
    }

    /// Waits until `sql` says `t`.
    pub(crate) async fn wait_for(&self, sql: &str) {
        wait_for(&self.client, sql).await;
    }

    /// The same database on a server that has it, too, or has it again.
    pub(crate) async fn on(self, cluster: &Cluster) -> Self {
        let mut config = self.config;
        config.url = with_database(&cluster.url(), &self.name).into();
        let client = connect(&config).await.unwrap();
        Self { config, client, admin: cluster.connect().await, name: self.name }
    }

    /// Waits until the slot is being read; returns the process that sends.
    pub(crate) async fn reader(&self) -> String {
        let slot = &self.config.slot;
        let pid =
            format!("(select active_pid from pg_replication_slots where slot_name = '{slot}')");
        self.wait_for(&format!("select {pid} is not null")).await;
        self.text(&format!("select {pid}")).await
    }

    /// The server's major version.
    pub(crate) async fn version(&self) -> u32 {
        let version = self.text("show server_version_num").await;
        version.parse::<u32>().unwrap() / 10_000
    }

    /// The same database read through a slot of another name.
    pub(crate) fn other_config(&self, suffix: &str) -> PostgresConfig {
        let mut config = self.config.clone();
        config.slot = format!("{}_{suffix}", self.name);
        config
    }

    /// Drops everything. To be called when nothing reads any more; a test that fails leaves its
    /// database behind for a look.
    pub(crate) async fn drop(self) {
        drop(self.client);
        let sql = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{0}';
             select pg_terminate_backend(active_pid) from pg_replication_slots
             where database = '{0}' and active",
            self.name
        );
        self.admin.batch_execute(&sql).await.unwrap();
        let free = format!(
            "select not exists (select from pg_replication_slots where database = '{}' and active)",
            self.name
        );
        while !self.admin.query_one(&free, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let slots = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots
             where database = '{}'",
            self.name
        );
        self.admin.batch_execute(&slots).await.unwrap();
        let database = format!("drop database {} with (force)", self.name);
        self.admin.batch_execute(&database).await.unwrap();
    }
}
