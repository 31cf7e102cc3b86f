//! Where everything is, for every process of a run.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use anabranch::config::StoreConfig;
use anabranch_core::{Secret, SourceCursor, Table};
use anabranch_delta::DeltaConfig;
use anabranch_elasticsearch::ElasticsearchConfig;
use anabranch_kafka::{KafkaConfig, RegistryConfig};
use anabranch_postgres::PostgresConfig;
use anabranch_redis::{KeyTemplate, RedisConfig};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::Result;
use crate::workload::Truth;

/// The database of a run, and the slot and the publication in it. Fixed, so that a run removes
/// what an interrupted one has left.
pub(crate) const DATABASE: &str = "anabranch_bench";
/// The one table.
pub(crate) const TABLE: &str = "public.seq200";
/// What begins the names of topics, indices and keys of every run.
pub(crate) const PREFIX: &str = "anabranch-bench";

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Store {
    /// Elasticsearch.
    Elasticsearch,
    /// Redis.
    Redis,
    /// Delta Lake on the local disk.
    Delta,
}

/// The services, and what the run has prepared in them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    postgres: String,
    kafka: String,
    registry: String,
    elasticsearch: String,
    redis: String,
    /// Where Delta tables are written.
    pub(crate) folder: PathBuf,
    /// Process ids of services on this machine.
    servers: BTreeMap<String, u32>,
    /// The tables that are read.
    pub(crate) tables: Vec<String>,
    /// What the log has before the workload: the table, and where the stream begins.
    pub(crate) begun: Option<Begun>,
    /// What the workload was.
    pub(crate) truth: Option<Truth>,
}

/// A source that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The tables of the log.
    pub(crate) tables: Vec<Arc<Table>>,
    /// Where the stream goes on.
    pub(crate) cursor: SourceCursor,
}

impl Store {
    /// Every store.
    pub(crate) const ALL: [Self; 3] = [Self::Redis, Self::Elasticsearch, Self::Delta];

    /// Its name in the table and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Elasticsearch => "elasticsearch",
            Self::Redis => "redis",
            Self::Delta => "delta",
        }
    }
}

impl Scene {
    /// The services that the environment names.
    pub(crate) fn from_env(folder: PathBuf) -> Result<Self> {
        let servers = env::var("ANABRANCH_BENCH_SERVERS").unwrap_or_default();
        let server = |word: &str| {
            let (name, pid) = word.split_once('=')?;
            Some((name.to_owned(), pid.parse().ok()?))
        };
        Ok(Self {
            postgres: address("POSTGRES_URL")?,
            kafka: address("KAFKA")?,
            registry: address("REGISTRY_URL")?,
            elasticsearch: address("ELASTICSEARCH_URL")?,
            redis: address("REDIS_URL")?,
            folder,
            servers: servers.split_whitespace().filter_map(server).collect(),
            tables: vec![TABLE.to_owned()],
            begun: None,
            truth: None,
        })
    }

    /// The process id of a service, if it is a process of this machine.
    pub(crate) fn server_pid(&self, name: &str) -> Option<u32> {
        self.servers.get(name).copied()
    }

    /// The database that the server was given with.
    pub(crate) fn server(&self) -> Result<PostgresConfig> {
        Ok(PostgresConfig::new(self.postgres_url(None)?, vec![TABLE.to_owned()]))
    }

    /// The source, reading from `slot`.
    pub(crate) fn source(&self, slot: &str) -> Result<PostgresConfig> {
        let url = self.postgres_url(Some(DATABASE))?;
        let mut config = PostgresConfig::new(url, self.tables.clone());
        config.slot = slot.to_owned();
        config.publication = DATABASE.to_owned();
        Ok(config)
    }

    /// A URL of the server. Without TLS, which every reader of the slot would pay alike.
    pub(crate) fn postgres_url(&self, database: Option<&str>) -> Result<String> {
        let mut url = Url::parse(&self.postgres)?;
        if let Some(database) = database {
            url.set_path(database);
        }
        url.set_query(Some("sslmode=disable"));
        Ok(url.into())
    }

    /// The log of one stage, by its name.
    pub(crate) fn kafka(&self, log: &str) -> KafkaConfig {
        let mut config = KafkaConfig::new(&self.kafka);
        config.prefix = format!("{PREFIX}.{log}");
        let options = env::var("ANABRANCH_BENCH_KAFKA_OPTIONS").unwrap_or_default();
        for (key, value) in options.split_whitespace().filter_map(|word| word.split_once('=')) {
            config.options.insert(key.to_owned(), Secret::from(value.to_owned()));
        }
        config
    }

    /// The schema registry.
    pub(crate) fn registry(&self) -> RegistryConfig {
        RegistryConfig { url: self.registry.clone(), username: None, password: None }
    }

    /// Where Elasticsearch is.
    pub(crate) fn elasticsearch_url(&self) -> &str {
        self.elasticsearch.trim_end_matches('/')
    }

    /// Where Redis is.
    pub(crate) fn redis_url(&self) -> &str {
        &self.redis
    }

    /// The settings of a store: the defaults, under names of ours.
    pub(crate) fn store(&self, store: Store) -> Result<StoreConfig> {
        Ok(match store {
            Store::Elasticsearch => {
                let mut config = ElasticsearchConfig::at(self.elasticsearch_url());
                config.index_prefix = format!("{PREFIX}-");
                StoreConfig::Elasticsearch(config)
            }
            Store::Redis => {
                let mut config = RedisConfig::at(&self.redis);
                config.key = KeyTemplate::try_from(format!("{PREFIX}:{{table}}:{{key}}"))?;
                StoreConfig::Redis(config)
            }
            Store::Delta => {
                let root = self.folder.join("lake").to_string_lossy().into_owned();
                let index_dir = Some(self.folder.join("index"));
                StoreConfig::Delta(DeltaConfig { root, index_dir })
            }
        })
    }

    /// What the workload was.
    pub(crate) fn truth(&self) -> Result<&Truth> {
        self.truth.as_ref().ok_or_else(|| "the workload has not run".into())
    }

    /// What the log has before the workload.
    pub(crate) fn begun(&self) -> Result<&Begun> {
        self.begun.as_ref().ok_or_else(|| "the source has not begun".into())
    }

    /// The table that is read, where it is one.
    pub(crate) fn table_name(&self) -> Result<&str> {
        self.tables.first().map(String::as_str).ok_or_else(|| "no table is read".into())
    }

    /// The same, as the log has it.
    pub(crate) fn table(&self) -> Result<&Arc<Table>> {
        let name = self.table_name()?;
        let mut tables = self.begun()?.tables.iter();
        let found = tables.find(|table| table.full_name() == name);
        found.ok_or_else(|| format!("the log does not have {name}").into())
    }
}

fn address(name: &str) -> Result<String> {
    let variable = format!("ANABRANCH_TEST_{name}");
    env::var(&variable).map_err(|_| {
        format!(
            "{variable} is not set: run `make bench`, or `eval \"$(compose/services up)\"` first"
        )
        .into()
    })
}
