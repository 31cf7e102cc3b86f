//! A PostgreSQL server of a test's own: to configure, stop, kill, and to fail over to a standby.
//!
//! ```text
//! Cluster::new(settings) ── standby(name, settings) ──▶ another Cluster that follows it
//!      │ database(sql, tables) ──▶ Database ── on(&standby) ──▶ the same Database there
//!      └ set · stop · kill · start · backup · put_back    promote · has_replayed · timeline
//! ```
//!
//! The daemon's tests, in `tests/` of the workspace, have them as well. The programs come from
//! `ANABRANCH_TEST_POSTGRES_BIN` and run as an unprivileged user. Logical decoding is on, and
//! everybody on the loopback interface is let in without a password. A start takes a second or two,
//! so a test shares one among its cases. The invariant: server and files are gone when the `Cluster`
//! is dropped, or its thread ends, however the test ended.
//!
//! A failover, as a test writes it:
//!
//! ```text
//! let mut primary = Cluster::new(&[]).await;
//! let standby = primary.standby("second", &[("hot_standby_feedback", "on")]).await;
//! let database = primary.database("create table t (id int primary key)", &["public.t"]).await;
//! let mut follower = Follower::start(&database, Replica::default()).await;
//! follower.catch_up(&database).await;
//! standby.has_replayed(&primary.position().await).await;
//! let replica = follower.kill();
//! primary.kill().await;
//! standby.promote().await;
//! let database = database.on(&standby).await;
//! let follower = Follower::try_start(&database, replica).await;
//! ```
//!
//! From 17 on a slot survives that if it was made with `failover`, which ours are, and synchronised:
//! `standby.run("select pg_sync_replication_slots()")` does it now, `sync_replication_slots = on`
//! among the settings all the time; either needs `hot_standby_feedback`, and, to be ahead of every
//! reader, `primary.set(&[("synchronized_standby_slots", "'second'")])`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anabranch_postgres::{PostgresConfig, connect};
use tempfile::TempDir;
use tokio_postgres::Client;

use super::sql;

/// Who the server runs as where the test runs as root, which PostgreSQL refuses: nobody.
const UNPRIVILEGED: u32 = 65_534;
/// Another process may take a port between our look and the server's.
const PORTS_MAX: usize = 5;

const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "'127.0.0.1'"),
    ("unix_socket_directories", "''"),
    ("wal_level", "logical"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("max_prepared_transactions", "20"),
    ("shared_buffers", "16MB"),
    // A lost machine may lose this data; a killed process does not.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    // A standby asks again soon.
    ("wal_retrieve_retry_interval", "100ms"),
];

/// A server with a folder and a port of its own.
pub(crate) struct Cluster {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Cluster {
    /// A new, empty primary that runs. The values of `settings` are as in `postgresql.conf`.
    pub(crate) async fn new(settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::empty();
        let data = cluster.data();
        let mut initdb = program("initdb");
        initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "-N", "-A", "trust", "-D"]);
        must(initdb.arg(&data).output().unwrap());
        cluster.write_settings(SETTINGS);
        cluster.write_settings(settings);
        cluster.start().await;
        cluster
    }

    fn empty() -> Self {
        let folder = TempDir::with_prefix("anabranch-cluster-").unwrap();
        give(folder.path());
        Self { folder, port: 0, server: None }
    }

    /// The database `postgres` here.
    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&PostgresConfig::new(self.url(), vec![])).await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.connect().await.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        sql::text(&self.connect().await, sql).await
    }

    /// Waits until `sql` says `t`.
    pub(crate) async fn wait_for(&self, sql: &str) {
        sql::wait_for(&self.connect().await, sql).await;
    }

    /// Changes settings that need no restart; or, before [`Self::start`], any.
    pub(crate) async fn set(&self, settings: &[(&str, &str)]) {
        self.write_settings(settings);
        if self.server.is_some() {
            self.run("select pg_reload_conf()").await;
        }
    }

    /// Stops it in order: everything that was committed is on disk and, if it keeps up, on a
    /// standby.
    pub(crate) async fn stop(&mut self) {
        self.end("-INT").await;
    }

    /// Ends it as a crash of the machine does, as far as a process can.
    pub(crate) async fn kill(&mut self) {
        self.end("-KILL").await;
    }

    /// Stops one of its processes where it is: `walwriter`, for example.
    pub(crate) async fn freeze(&self, backend_type: &str) {
        self.signal(backend_type, "-STOP").await;
    }

    /// Lets it go on.
    pub(crate) async fn thaw(&self, backend_type: &str) {
        self.signal(backend_type, "-CONT").await;
    }

    async fn signal(&self, backend_type: &str, signal: &str) {
        let query =
            format!("select pid from pg_stat_activity where backend_type = '{backend_type}'");
        let pid = self.text(&query).await;
        must(Command::new("kill").args([signal, &pid]).output().unwrap());
    }

    /// Starts it again, on the same port, and waits until it answers.
    pub(crate) async fn start(&mut self) {
        for _ in 0..PORTS_MAX {
            let port = if self.port == 0 { free_port() } else { self.port };
            self.server = Some(self.spawn(port));
            if self.answers(port).await {
                self.port = port;
                return;
            }
        }
        panic!("the server does not start: {}", self.log());
    }

    /// A standby that follows this server by streaming, through a physical slot `name` here; it
    /// answers queries. Other standbys and logical slots are not copied.
    pub(crate) async fn standby(&self, name: &str, settings: &[(&str, &str)]) -> Self {
        let mut standby = Self::empty();
        let client = self.connect().await;
        let slot = format!("select pg_create_physical_replication_slot('{name}', true)");
        client.batch_execute(&slot).await.unwrap();
        let is_14 = sql::text(&client, "show server_version_num").await.starts_with("14");
        let (begin, end) = if is_14 {
            ("pg_start_backup('standby', true, false)", "pg_stop_backup(false, false)")
        } else {
            ("pg_backup_start('standby', true)", "pg_backup_stop(false)")
        };
        client.batch_execute(&format!("select {begin}")).await.unwrap();
        copy(&self.data(), &standby.data());
        let label = sql::text(&client, &format!("select labelfile from {end}")).await;
        for (name, text) in [("backup_label", label.as_str()), ("standby.signal", "")] {
            let file = standby.data().join(name);
            std::fs::write(&file, text).unwrap();
            give(&file);
        }
        let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        standby.write_settings(&[
            ("primary_conninfo", &format!("'{address} application_name={name}'")),
            ("primary_slot_name", &format!("'{name}'")),
        ]);
        standby.write_settings(settings);
        standby.start().await;
        standby
    }

    /// A cold copy of a server that was stopped.
    pub(crate) fn backup(&self) -> TempDir {
        let folder = TempDir::with_prefix("anabranch-cluster-").unwrap();
        must(Command::new("cp").arg("-a").arg(self.data()).arg(folder.path()).output().unwrap());
        folder
    }

    /// Makes a server that was stopped what it was when it was copied.
    pub(crate) fn put_back(&self, backup: TempDir) {
        std::fs::remove_dir_all(self.data()).unwrap();
        std::fs::rename(backup.path().join("data"), self.data()).unwrap();
    }

    /// Whether slots survive a failover by themselves: from PostgreSQL 17 on.
    pub(crate) async fn syncs_slots(&self) -> bool {
        let sql = "select current_setting('server_version_num')::int >= 170000";
        self.text(sql).await == "t"
    }

    /// Gives a standby the logical slot `slot` of this primary: by synchronisation, before 17 by its
    /// file. `false` if the slot is not where it can be synchronised: just behind a standby snapshot,
    /// and no transaction has begun since.
    pub(crate) async fn carry_slot(&self, slot: &str, standby: &mut Self) -> bool {
        if self.syncs_slots().await {
            // It says why it cannot, for example that the standby is behind.
            let sync = "select pg_sync_replication_slots()";
            drop(standby.connect().await.batch_execute(sync).await);
            let ready = "select synced and not temporary from pg_replication_slots";
            return standby.text(&format!("{ready} where slot_name = '{slot}'")).await == "t";
        }
        self.run("checkpoint").await;
        standby.stop().await;
        let place = |cluster: &Self| cluster.data().join("pg_replslot");
        let (from, to) = (place(self).join(slot), place(standby));
        must(Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap());
        standby.start().await;
        true
    }

    /// Lets a standby follow another primary.
    pub(crate) async fn follow(&self, primary: &Self) {
        let address =
            format!("'host=127.0.0.1 port={} user=postgres dbname=postgres'", primary.port);
        self.set(&[("primary_slot_name", "''"), ("primary_conninfo", &address)]).await;
    }

    /// Takes a standby off its primary.
    pub(crate) async fn cut_off(&self) {
        self.set(&[("primary_conninfo", "''")]).await;
        self.wait_for("select not exists (select from pg_stat_wal_receiver)").await;
    }

    /// Makes a standby a primary, on a timeline of its own.
    pub(crate) async fn promote(&self) {
        assert_eq!(self.text("select pg_promote()").await, "t", "{}", self.log());
    }

    /// Where the WAL of a primary ends.
    pub(crate) async fn position(&self) -> String {
        self.text("select pg_current_wal_lsn()").await
    }

    /// Waits until a standby shows everything before `position`.
    pub(crate) async fn has_replayed(&self, position: &str) {
        self.wait_for(&format!("select pg_last_wal_replay_lsn() >= '{position}'")).await;
    }

    /// The timeline of a primary.
    pub(crate) async fn timeline(&self) -> u32 {
        let sql = "select left(pg_walfile_name(pg_current_wal_lsn()), 8)";
        u32::from_str_radix(&self.text(sql).await, 16).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn write_settings(&self, settings: &[(&str, &str)]) {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).unwrap();
        settings.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
        std::fs::write(file, text).unwrap();
    }

    fn spawn(&self, port: u16) -> Child {
        let log = self.folder.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut server = program("postgres");
        server.arg("-D").arg(self.data()).args(["-p", &port.to_string()]);
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        server.spawn().unwrap()
    }

    /// Whether it comes to answer on `port`, or ends.
    async fn answers(&mut self, port: u16) -> bool {
        let config = PostgresConfig::new(url(port), vec![]);
        let answer = async {
            while connect(&config).await.is_err() {
                if self.server.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            true
        };
        tokio::time::timeout(super::DEADLINE, answer).await.unwrap_or(false)
    }

    async fn end(&mut self, signal: &str) {
        let Some(mut server) = self.server.take() else { return };
        signal_all(&server, signal);
        let gone = async {
            while server.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::DEADLINE, gone).await.expect("the server ends");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal_all(&server, "-KILL");
            server.wait().ok();
        }
    }
}

/// Sends a signal to the server; a deadly one to its children as well, which would live on for a
/// moment and keep a new server from starting.
fn signal_all(server: &Child, signal: &str) {
    let pid = server.id().to_string();
    let kill = |arguments: &[&str]| Command::new("kill").args(arguments).output().unwrap();
    if signal != "-KILL" {
        kill(&[signal, &pid]);
        return;
    }
    kill(&["-STOP", &pid]);
    let children = Command::new("pgrep").args(["-P", &pid]).output().unwrap().stdout;
    let children = String::from_utf8(children).unwrap();
    kill(&[&[signal, &pid][..], &children.split_whitespace().collect::<Vec<_>>()].concat());
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// A program of the server's; it ends with the thread that starts it.
fn program(name: &str) -> Command {
    let folder = std::env::var("ANABRANCH_TEST_POSTGRES_BIN").expect(
        "set ANABRANCH_TEST_POSTGRES_BIN to the folder of PostgreSQL's initdb: \
         eval \"$(compose/services up postgres)\"",
    );
    let folder = Path::new(&folder);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        let (user, group) = (format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}"));
        command.args([&user, &group, "--clear-groups"]);
    }
    command.arg(folder.join(name)).env("LC_ALL", "C").current_dir("/");
    // Where PostgreSQL is not installed but unpacked, its libraries are beside it.
    command.env("LD_LIBRARY_PATH", folder.parent().unwrap().join("lib"));
    command
}

/// Lets the server have a file of ours.
fn give(file: &Path) {
    if is_root() {
        std::os::unix::fs::chown(file, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    }
}

fn must(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a server's files, which may be in use. A file that goes meanwhile is not needed.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    let errors = String::from_utf8(done.stderr).unwrap();
    assert!(errors.lines().all(|line| line.ends_with("No such file or directory")), "{errors}");
    for gone in ["postmaster.pid", "postmaster.opts"] {
        std::fs::remove_file(to.join(gone)).ok();
    }
    for slot in std::fs::read_dir(to.join("pg_replslot")).unwrap() {
        std::fs::remove_dir_all(slot.unwrap().path()).unwrap();
    }
}

fn url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
