//! A database, a log and three stores of a test's own, and the daemon between them.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anabranch::config::Config;
use anabranch::status::Report;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::services::address;
use super::{compare, stores};

/// How long the stores may take to be equal once the source is quiet.
pub const SETTLE: Duration = Duration::from_secs(90);

/// How long a daemon may take to end, and a group to lose a member that was killed.
const END: Duration = Duration::from_secs(5);
const SESSION: Duration = Duration::from_secs(15);

/// Everything of one test. Dropping it ends the daemon and removes what the test made.
pub struct World {
    /// A random name: of the database, the slot, the prefixes.
    pub name: String,
    /// The tables, as `schema.table`.
    pub tables: Vec<String>,
    /// The daemon's configuration, which a test may change before a start.
    pub toml: String,
    /// A connection to the database.
    pub sql: Client,
    dir: TempDir,
    port: u16,
    daemon: Option<Child>,
}

/// The test server's URL with another database.
pub fn database_url(database: &str) -> String {
    with_database(&address("POSTGRES_URL"), database)
}

/// The URL of another database of a server.
fn with_database(url: &str, database: &str) -> String {
    let url = url.split('?').next().unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

/// The daemon. Cargo names it to tests; an example is built beside it, in a folder of examples.
pub fn binary() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_anabranch") {
        Some(path) => path.into(),
        None => std::env::current_exe().unwrap().parent().unwrap().with_file_name("anabranch"),
    }
}

/// A connection whose task ends with it.
pub async fn connect(database: &str) -> Client {
    connect_to(&database_url(database)).await
}

/// The same by URL.
async fn connect_to(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::task::spawn(connection);
    client
}

/// Where a test writes and looks: intervals and times read as the source reads them.
async fn session(server: &str, database: &str) -> Client {
    let sql = connect_to(&with_database(server, database)).await;
    sql.batch_execute("SET intervalstyle = 'iso_8601'; SET timezone = 'UTC'").await.unwrap();
    sql
}

impl World {
    /// A database in which `schema` was run. `tables` go through all three stores.
    pub async fn new(schema: &str, tables: &[&str]) -> Self {
        Self::on(&address("POSTGRES_URL"), schema, tables).await
    }

    /// The same on a server of the test's own.
    pub async fn on(server: &str, schema: &str, tables: &[&str]) -> Self {
        let name = format!("ab_{}", &Uuid::new_v4().simple().to_string()[..10]);
        let admin = connect_to(&with_database(server, "postgres")).await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let sql = session(server, &name).await;
        sql.batch_execute(schema).await.unwrap();
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        let lake = dir.path().join("lake");
        let toml = format!(
            r#"
[source]
url = "{source}?sslmode=disable"
slot = "{name}"
publication = "{name}"
tables = {tables:?}
idle_position_ms = 1000

[kafka]
brokers = "{kafka}"
prefix = "{name}"
partitions = 4

[registry]
url = "{registry}"

[admin]
listen = "127.0.0.1:{port}"

[sinks.search]
kind = "elasticsearch"
url = "{search}"
index_prefix = "{index}-"
shards = 2

[sinks.cache]
kind = "redis"
url = "{cache}/0"
key = "{name}:{{table}}:{{key}}"

[sinks.lake]
kind = "delta"
root = "{lake}"
"#,
            source = with_database(server, &name),
            kafka = address("KAFKA"),
            registry = address("REGISTRY_URL"),
            search = address("ELASTICSEARCH_URL"),
            index = name.replace('_', "-"),
            cache = address("REDIS_URL"),
            lake = lake.display(),
        );
        Self { name, tables, toml, sql, dir, port, daemon: None }
    }

    /// Writes to and looks at this server from here on. The daemon hears nothing of it.
    pub async fn look_at(&mut self, server: &str) {
        self.sql = session(server, &self.name).await;
    }

    /// Configures the daemon for this server, and looks at it.
    pub async fn move_to(&mut self, server: &str) {
        let before = self.config().source.url.expose().to_owned();
        let after = format!("{}?sslmode=disable", with_database(server, &self.name));
        self.toml = self.toml.replace(&before, &after);
        self.look_at(server).await;
    }

    /// Runs statements.
    pub async fn run(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
    }

    /// A number from a query.
    pub async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The folder of this test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration as the daemon reads it.
    pub fn config(&self) -> Config {
        Config::parse(&self.toml, "test", &|_| None).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let file = self.path("anabranch.toml");
        std::fs::write(&file, &self.toml).unwrap();
        let mut command = Command::new(binary());
        command.arg("--config").arg(file).args(arguments);
        command
    }

    /// Runs a command of `anabranch` to its end.
    pub async fn anabranch(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// As [`World::anabranch`], and it must succeed.
    pub async fn must(&self, arguments: &[&str]) -> String {
        let done = self.anabranch(arguments).await;
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {error}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Starts `anabranch run`.
    pub fn start(&mut self) {
        self.start_part(&["run"]);
    }

    /// Starts the daemon with these arguments.
    pub fn start_part(&mut self, arguments: &[&str]) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        self.daemon = Some(self.spawn(arguments));
    }

    /// Starts another process of `anabranch`, which the caller ends.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut log =
            OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        writeln!(log, "--- {arguments:?}").unwrap();
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// SIGTERM, and waits for it to end well.
    pub async fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        signal(daemon.id(), "TERM");
        let status = tokio::task::spawn_blocking(move || daemon.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// What `/status` says; `None` while nobody answers.
    pub async fn status(&self) -> Option<Report> {
        let url = format!("http://127.0.0.1:{}/status", self.port);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(url).send().await.ok()?.json().await.ok()
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(url).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        answer.text().await.unwrap()
    }

    /// Waits until `/status` satisfies `wanted`.
    pub async fn wait_status(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let begun = Instant::now();
        loop {
            let report = self.status().await;
            if let Some(report) = report.as_ref().filter(|report| wanted(report)) {
                return report.clone();
            }
            assert!(begun.elapsed() < SETTLE, "{what}: {report:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until `done`.
    pub async fn wait_until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !done().await {
            assert!(begun.elapsed() < SETTLE, "{what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every table of every store equals the source, by content.
    pub async fn wait_equal(&self) {
        self.wait_equal_in(&["search", "cache", "lake"]).await;
    }

    /// The same for some of the sinks.
    pub async fn wait_equal_in(&self, sinks: &[&str]) {
        let begun = Instant::now();
        loop {
            let difference = compare::difference(self, sinks).await;
            let Some(difference) = difference else { return };
            assert!(begun.elapsed() < SETTLE, "{difference}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Why the source is parked, if it is.
pub fn parked(report: &Report) -> Option<&str> {
    let state = &report.source.as_ref()?.state;
    state.error().filter(|_| state.word() == "PARKED")
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success());
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            end(&mut daemon);
        }
        let (config, name) = (self.config(), self.name.clone());
        // Of its own, since a test's runtime cannot be waited for in its own drop.
        let cleaner = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(remove(&config, &name));
        });
        drop(cleaner.join());
    }
}

/// Ends a daemon, gently if it lets itself: one that was killed keeps its groups for seconds.
fn end(daemon: &mut Child) {
    signal(daemon.id(), "TERM");
    let begun = Instant::now();
    while begun.elapsed() < END && matches!(daemon.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(daemon.kill());
    drop(daemon.wait());
}

/// Removes what was made for `config`: rows in stores, slot and publication, the log, database `name`.
pub async fn remove(config: &Config, name: &str) {
    stores::forget(config).await;
    drop(anabranch_postgres::teardown(&config.source).await);
    let sinks: Vec<String> = config.sinks.keys().cloned().collect();
    let begun = Instant::now();
    // Groups of a daemon that was killed have members until their session ends.
    while forget_log(config, &sinks).await.is_err() && begun.elapsed() < SESSION {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let server = connect_to(&with_database(config.source.url.expose(), "postgres")).await;
    drop(server.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await);
}

async fn forget_log(config: &Config, sinks: &[String]) -> anabranch_core::Result<()> {
    let plan = anabranch_kafka::admin::plan_teardown(&config.kafka, sinks).await?;
    anabranch_kafka::admin::teardown(&config.kafka, &config.registry, &plan).await
}
