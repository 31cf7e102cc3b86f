//! What the user says about the source database.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;

use anabranch_core::{Error, ErrorKind, Result, Secret, selection};
use serde::Deserialize;
use tokio_postgres::config::Host;

use crate::binary::BinaryFormat;
use crate::columns::ColumnRules;
use crate::guard::WalGuardConfig;
use crate::spool::SpoolConfig;
pub(crate) use crate::table_name::TableName;
use crate::value::ValuePolicies;
use crate::watchdog::WatchdogConfig;

/// The name of the slot and the publication unless said otherwise.
const DEFAULT_NAME: &str = "anabranch";
/// Bytes of events in one batch, which is one transaction of the log.
const DEFAULT_BATCH_BYTES_MAX: usize = 16 << 20;
/// Milliseconds between two position records while nothing happens.
const DEFAULT_IDLE_POSITION_MS: u64 = 5_000;
/// Connections that copy the tables at once. Beyond four, what writes the log is the slower one.
const DEFAULT_SNAPSHOT_SESSIONS: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");
/// The name of the column that tells the rows of append-only tables apart.
const DEFAULT_APPEND_KEY: &str = "_row";
/// What the name of the publication of append-only tables ends with.
const APPEND_SUFFIX: &str = "_append";
/// PostgreSQL's own limit on names.
const NAME_BYTES_MAX: usize = 63;
/// 128 bits if they are random: fewer can be guessed from a hash whose value is known.
const HASH_KEY_BYTES_MIN: usize = 16;

/// The source database and what is read from it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=..`; one host, over TCP.
    pub url: Secret,
    /// The replication slot.
    #[serde(default = "default_name")]
    pub slot: String,
    /// The publication; it is created if it is missing at the first start.
    #[serde(default = "default_name")]
    pub publication: String,
    /// The tables: `schema.table`, `schema.*` for what is published of a schema, and
    /// `!schema.table` for one to leave out of that.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Those of the tables of which only inserts and TRUNCATEs are followed.
    #[serde(default)]
    pub append_only: Vec<String>,
    /// The column that tells the rows of these apart.
    #[serde(default = "default_append_key")]
    pub append_key: String,
    /// What becomes of single columns, by `schema.table`.
    #[serde(default)]
    pub columns: BTreeMap<String, ColumnRules>,
    /// What columns are hashed with.
    #[serde(default)]
    pub hash_key: Option<Secret>,
    /// What becomes of values that the type of their column cannot hold.
    #[serde(default)]
    pub values: ValuePolicies,
    /// Whether the stream has its values in binary format.
    #[serde(default)]
    pub binary: BinaryFormat,
    /// A file of PEM certificates to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bytes of events in one batch.
    #[serde(default = "default_batch_bytes_max")]
    pub batch_bytes_max: usize,
    /// Milliseconds between two position records while nothing happens.
    #[serde(default = "default_idle_position_ms")]
    pub idle_position_ms: u64,
    /// What to do when history is gone.
    #[serde(default)]
    pub on_lost: OnLost,
    /// What `pg_stat_activity` shows.
    #[serde(default = "default_name")]
    pub application_name: String,
    /// Whether large transactions are sent before they commit.
    #[serde(default)]
    pub streaming: StreamingMode,
    /// Where these wait.
    #[serde(default)]
    pub spool: SpoolConfig,
    /// How much WAL the slot may keep on the server.
    #[serde(default)]
    pub wal_guard: WalGuardConfig,
    /// Connections that copy the tables at once.
    #[serde(default = "default_snapshot_sessions")]
    pub snapshot_sessions: NonZeroUsize,
    /// What a log begins with.
    #[serde(default)]
    pub initial_copy: InitialCopy,
    /// A table with more bytes than this is not copied with the others, but read beside the stream.
    #[serde(default = "default_copy_bytes_max")]
    pub copy_bytes_max: u64,
    /// Rows that are read beside the stream in a second at most; no bound if absent.
    #[serde(default)]
    pub snapshot_rows_per_second_max: Option<NonZeroU32>,
    /// Rows that are looked up again in a second at most; no bound if absent.
    #[serde(default)]
    pub reread_rows_per_second_max: Option<NonZeroU32>,
    /// Milliseconds between two messages that measure how long a change is under way.
    #[serde(default)]
    pub heartbeat_ms: Option<NonZeroU64>,
    /// When a reader that is stuck gives the slot up.
    #[serde(default)]
    pub watchdog: WatchdogConfig,
}

/// When the server sends a transaction that is larger than its `logical_decoding_work_mem`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamingMode {
    /// When it has committed: until then the server keeps it on its own disk.
    #[default]
    Off,
    /// In blocks while it is in progress: until it commits we keep it.
    On,
}

/// What a log begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitialCopy {
    /// All rows that are there.
    #[default]
    All,
    /// The tables without their rows: what changes from then on.
    None,
}

/// What to do when history is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Stand still until a person decides.
    #[default]
    Park,
    /// Copy every table again, into the same log.
    Snapshot,
}

/// How far TLS goes, as libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Where the server is, and as whom.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) database: String,
    pub(crate) ssl: SslMode,
    /// The same for `tokio-postgres`.
    pub(crate) sql: tokio_postgres::Config,
}

fn default_name() -> String {
    DEFAULT_NAME.to_owned()
}

/// An hour or so of copying, during which the slot keeps all WAL.
fn default_copy_bytes_max() -> u64 {
    256 << 30
}

fn default_snapshot_sessions() -> NonZeroUsize {
    DEFAULT_SNAPSHOT_SESSIONS
}

fn default_append_key() -> String {
    DEFAULT_APPEND_KEY.to_owned()
}

fn default_batch_bytes_max() -> usize {
    DEFAULT_BATCH_BYTES_MAX
}

fn default_idle_position_ms() -> u64 {
    DEFAULT_IDLE_POSITION_MS
}

impl PostgresConfig {
    /// A configuration with everything but these two at its default.
    #[must_use]
    pub fn new(url: impl Into<String>, tables: Vec<String>) -> Self {
        Self {
            url: Secret::from(url.into()),
            slot: default_name(),
            publication: default_name(),
            tables,
            append_only: Vec::new(),
            append_key: default_append_key(),
            columns: BTreeMap::new(),
            hash_key: None,
            values: ValuePolicies::default(),
            binary: BinaryFormat::default(),
            ca_file: None,
            batch_bytes_max: default_batch_bytes_max(),
            idle_position_ms: default_idle_position_ms(),
            on_lost: OnLost::default(),
            application_name: default_name(),
            streaming: StreamingMode::default(),
            spool: SpoolConfig::default(),
            wal_guard: WalGuardConfig::default(),
            snapshot_sessions: default_snapshot_sessions(),
            initial_copy: InitialCopy::default(),
            copy_bytes_max: default_copy_bytes_max(),
            snapshot_rows_per_second_max: None,
            reread_rows_per_second_max: None,
            heartbeat_ms: None,
            watchdog: WatchdogConfig::default(),
        }
    }

    /// The database's name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the URL is no URL of a database.
    pub fn database(&self) -> Result<String> {
        self.endpoint().map(|endpoint| endpoint.database)
    }

    /// Where the server is. The URL itself never shows up in an error, since it holds a password.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        let text = self.url.expose();
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let mut ssl = SslMode::Prefer;
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => ssl = ssl_mode(mode)?,
                Some(_) | None => rest.push(pair),
            }
        }
        let stripped = format!("{address}?{}", rest.join("&"));
        let mut sql = tokio_postgres::Config::from_str(&stripped)
            .map_err(|error| bad_url("it is not a PostgreSQL URL").with_source(error))?;
        let [Host::Tcp(host)] = sql.get_hosts() else {
            return Err(bad_url("it must name exactly one host, over TCP"));
        };
        let host = host.clone();
        let user = sql.get_user().ok_or_else(|| bad_url("it names no user"))?.to_owned();
        let password = sql.get_password().unwrap_or_default();
        let password = Secret::from(String::from_utf8_lossy(password).into_owned());
        let database = sql.get_dbname().unwrap_or(&user).to_owned();
        let port = sql.get_ports().first().copied().unwrap_or(5432);
        sql.application_name(&self.application_name).dbname(&database);
        Ok(Endpoint { host, port, user, password, database, ssl, sql })
    }

    /// The publication of the append-only tables. PostgreSQL refuses an application's updates of a
    /// table without a key while any publication of it sends them, so these have one of their own.
    pub(crate) fn append_publication(&self) -> String {
        format!("{}{APPEND_SUFFIX}", self.publication)
    }

    /// The publications that the tables come through.
    pub(crate) fn publications(&self) -> Vec<String> {
        let (tables, is_appended) =
            (self.single_tables(), |table: &String| self.append_only.contains(table));
        let main = tables.is_empty() || !tables.iter().all(is_appended);
        let append = !self.append_only.is_empty();
        let main = main.then(|| self.publication.clone());
        main.into_iter().chain(append.then(|| self.append_publication())).collect()
    }

    /// Whether the names can be what they are meant for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] names the setting that cannot.
    pub fn validate(&self) -> Result<()> {
        let config = |what: &str| Error::new(ErrorKind::Config, format!("use {what}"));
        let slot_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.slot.is_empty()
            || self.slot.len() > NAME_BYTES_MAX
            || !self.slot.chars().all(slot_char)
        {
            return Err(config(&format!("slot name {:?}", self.slot))
                .with_help("a slot is named by up to 63 of a-z, 0-9 and _"));
        }
        let publications = [self.publication.clone(), self.append_publication()];
        let long = |name: &String| name.len() > NAME_BYTES_MAX;
        if self.publication.is_empty() || publications.iter().any(long) {
            return Err(config(&format!("publication name {:?}", self.publication))
                .with_help("a publication is named by 1 to 56 bytes"));
        }
        if self.batch_bytes_max == 0 {
            return Err(config("batch_bytes_max = 0").with_help("leave it out for 16 MiB"));
        }
        if let Some(misfit) = self.values.impossible() {
            let what =
                format!("{:?} for {} in [source.values]", self.values.of(misfit), misfit.name());
            return Err(
                config(&what).with_help("there is no such value: see docs/configuration.md")
            );
        }
        self.validate_rules()?;
        self.wal_guard.validate()?;
        self.watchdog.validate()?;
        if self.tables.is_empty() {
            return Err(config("a source without tables")
                .with_help("name them in [source] tables, as \"schema.table\" or \"schema.*\""));
        }
        selection::validate(&self.tables).map_err(|(entry, why)| {
            config(&format!("{entry:?} in [source] tables")).with_source(why).with_help(
                "write \"schema.table\", \"schema.*\", or \"!schema.table\" to leave it out",
            )
        })
    }

    /// Rules are for tables that are read, and whole.
    fn validate_rules(&self) -> Result<()> {
        let unknown = |table: &&String| !self.takes_in(table);
        if let Some(table) = self.columns.keys().chain(&self.append_only).find(unknown) {
            return Err(Error::new(ErrorKind::Config, format!("keep a rule for table {table}"))
                .with_source("it is not read")
                .with_help("name it in [source] tables first, as \"schema.table\""));
        }
        for (table, rules) in &self.columns {
            rules.validate(table)?;
        }
        let hashed = self.columns.values().any(|rules| !rules.hash.is_empty());
        let is_short = |key: &Secret| key.expose().len() < HASH_KEY_BYTES_MIN;
        if hashed && self.hash_key.as_ref().is_none_or(is_short) {
            return Err(Error::new(ErrorKind::Config, "hash columns without a key of 16 bytes")
                .with_source("whoever guesses the key can look up the hash of any value")
                .with_help(
                    "set [source] hash_key = \"${HASH_KEY}\" to a secret of your own: \
                     openssl rand -hex 32",
                ));
        }
        if self.append_key.is_empty() || self.append_key.len() > NAME_BYTES_MAX {
            return Err(Error::new(ErrorKind::Config, "use append_key")
                .with_help("a column is named by 1 to 63 bytes"));
        }
        Ok(())
    }
}

impl Endpoint {
    /// `host:port/database`, for messages.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }
}

fn bad_url(why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("read [source] url: {why}"))
        .with_help("write postgres://user:password@host:5432/database?sslmode=require")
}

fn ssl_mode(text: &str) -> Result<SslMode> {
    Ok(match text {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        other => {
            return Err(Error::new(ErrorKind::Config, format!("use sslmode {other:?}"))
                .with_help("it is one of disable, prefer, require, verify-ca, verify-full"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint> {
        PostgresConfig::new(url, vec!["public.t".into()]).endpoint()
    }

    #[test]
    fn urls_are_taken_apart() {
        let got = endpoint("postgres://a%40b:p%2Fw@db:6000/shop?sslmode=verify-full").unwrap();
        assert_eq!((got.user.as_str(), got.password.expose()), ("a@b", "p/w"));
        assert_eq!((got.name().as_str(), got.ssl), ("db:6000/shop", SslMode::VerifyFull));
        let got = endpoint("postgresql://me@db").unwrap();
        assert_eq!((got.database.as_str(), got.port, got.ssl), ("me", 5432, SslMode::Prefer));
    }

    #[test]
    fn bad_urls_are_refused_without_showing_the_password() {
        for bad in [
            "postgres://u:secret@a,b/x",
            "mysql://u:secret@h/x",
            "postgres://u:secret@h/x?sslmode=on",
            "postgres://u:secret@h/x?nonsense=1",
            "postgres://u:secret@h:99999/x",
        ] {
            let error = endpoint(bad).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!error.report().contains("secret"), "{}", error.report());
        }
    }

    #[test]
    fn names_are_checked() {
        let good = PostgresConfig::new("postgres://u@h/x", vec!["public.t".into()]);
        good.validate().unwrap();
        let bad = [
            PostgresConfig { slot: "Not-a-slot".into(), ..good.clone() },
            PostgresConfig { tables: vec![], ..good.clone() },
            PostgresConfig { tables: vec!["orders".into()], ..good.clone() },
            PostgresConfig { tables: vec!["!public.t".into()], ..good.clone() },
            PostgresConfig { tables: vec!["a.*".into(), "!a.*".into()], ..good.clone() },
            PostgresConfig { tables: vec!["a.b".into(), "!a.b".into()], ..good.clone() },
            PostgresConfig { publication: String::new(), ..good.clone() },
            PostgresConfig { batch_bytes_max: 0, ..good.clone() },
            PostgresConfig { append_key: String::new(), ..good.clone() },
            PostgresConfig { watchdog: WatchdogConfig { stall_ms_max: 1_999 }, ..good },
        ];
        assert!(bad.iter().all(|config| config.validate().is_err()));
    }

    #[test]
    fn rules_are_for_tables_that_are_read_and_hashes_have_a_key() {
        let good = PostgresConfig::new("postgres://u@h/x", vec!["public.t".into()]);
        let hash = ColumnRules { hash: vec!["email".into()], ..ColumnRules::default() };
        let of = |table: &str| BTreeMap::from([(table.to_owned(), hash.clone())]);
        let key_of = |length| Some(Secret::from("k".repeat(length)));
        let key = || key_of(HASH_KEY_BYTES_MIN);
        let cases = [
            (PostgresConfig { columns: of("public.t"), hash_key: key(), ..good.clone() }, ""),
            (
                PostgresConfig { columns: of("public.x"), hash_key: key(), ..good.clone() },
                "public.x",
            ),
            (PostgresConfig { columns: of("public.t"), ..good.clone() }, "hash_key"),
            (
                PostgresConfig {
                    columns: of("public.t"),
                    hash_key: key_of(HASH_KEY_BYTES_MIN - 1),
                    ..good.clone()
                },
                "hash_key",
            ),
            (PostgresConfig { append_only: vec!["public.y".into()], ..good.clone() }, "public.y"),
            (
                PostgresConfig {
                    tables: vec!["public.*".into()],
                    columns: of("public.*"),
                    hash_key: key(),
                    ..good
                },
                "public.*",
            ),
        ];
        for (config, needle) in cases {
            let report = config.validate().err().map(|error| error.report()).unwrap_or_default();
            assert_eq!(report.is_empty(), needle.is_empty(), "{report}");
            assert!(report.contains(needle), "{report}");
        }
    }

    #[test]
    fn append_only_tables_have_a_publication_of_their_own() {
        let tables = vec!["public.t".to_owned(), "public.u".to_owned()];
        let mut config = PostgresConfig::new("postgres://u@h/x", tables.clone());
        assert_eq!(config.publications(), ["anabranch"]);
        config.append_only = vec!["public.u".into()];
        assert_eq!(config.publications(), ["anabranch", "anabranch_append"]);
        config.append_only = tables;
        assert_eq!(config.publications(), ["anabranch_append"]);
    }
}
