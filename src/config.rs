//! `anabranch.toml`.
//!
//! ```text
//! text ─▶ TOML ─▶ ${ENV} filled in ─▶ each table read by the connector it is for
//! ```
//!
//! A value is filled in after parsing, so no value can change the structure. An unknown key is an
//! error that names it: a setting that is silently ignored is a setting that somebody relies on.

mod environment;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anabranch_core::selection::{excluded, whole_schema};
use anabranch_core::{Error, ErrorKind, Result, Secret, selection};
use anabranch_delta::DeltaConfig;
use anabranch_elasticsearch::ElasticsearchConfig;
use anabranch_kafka::{KafkaConfig, RegistryConfig};
use anabranch_postgres::PostgresConfig;
use anabranch_redis::RedisConfig;
use serde::Deserialize;
use toml::{Table, Value};

/// Everything that `anabranch.toml` says.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[source]`: the database.
    pub source: PostgresConfig,
    /// `[kafka]`: the log.
    pub kafka: KafkaConfig,
    /// `[registry]`: the schema registry.
    pub registry: RegistryConfig,
    /// `[control]`: where requests are kept.
    pub control: ControlConfig,
    /// `[admin]`: HTTP of the daemon.
    pub admin: AdminConfig,
    /// `[sinks.NAME]`, by name.
    pub sinks: BTreeMap<String, SinkConfig>,
}

/// `[control]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// A PostgreSQL database for the schema `anabranch`; the source database by default.
    pub url: Option<Secret>,
}

/// `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/status` and `/health` are served.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8642)) }
    }
}

/// `[sinks.NAME]`.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// The tables it follows, as [`selection::takes_in`] has them; all of the log's if absent.
    pub tables: Option<Vec<String>>,
    /// The system behind it.
    pub store: StoreConfig,
}

/// A store's own settings.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// `kind = "elasticsearch"`.
    Elasticsearch(ElasticsearchConfig),
    /// `kind = "redis"`.
    Redis(RedisConfig),
    /// `kind = "delta"`.
    Delta(DeltaConfig),
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the line, the key or the variable that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Config, format!("read {name}"))
                .with_source(error)
                .with_help("name the configuration with --config FILE")
        })?;
        Self::parse(&text, &name, &|variable| std::env::var(variable).ok())
    }

    /// Reads `text`; `name` stands for it in messages, `lookup` for the environment.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(text: &str, name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut root: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| {
                1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
            });
            wrong(format!("read {name}, line {line}: {}", one_line(error.message())))
        })?;
        environment::fill(&mut root, lookup).map_err(|error| {
            wrong(format!("read {name}: {error}"))
                .with_help("set the variable, or write the value itself")
        })?;
        let mut tables = Tables { root, name };
        let config = Self {
            source: tables.required("source", "[source] names the database: url and tables")?,
            kafka: tables.required("kafka", KAFKA_HELP)?,
            registry: tables.required("registry", REGISTRY_HELP)?,
            control: tables.optional("control")?.unwrap_or_default(),
            admin: tables.optional("admin")?.unwrap_or_default(),
            sinks: tables.sinks()?,
        };
        match tables.root.keys().next() {
            Some(key) => Err(wrong(format!("read {name}: unknown key `{key}`")).with_help(
                "there are [source], [kafka], [registry], [sinks.NAME], [control] and [admin]",
            )),
            None => config.validate().map(|()| config),
        }
    }

    /// What no single table of the file can tell.
    fn validate(&self) -> Result<()> {
        self.source.validate()?;
        let (control, setting) = self.control_database();
        control.validate().map_err(|error| error.renaming("[source] url", setting))?;
        for (name, sink) in &self.sinks {
            let list = sink.tables.as_deref().unwrap_or_default();
            selection::validate(list).map_err(|(entry, why)| {
                wrong(format!("use {entry:?} in [sinks.{name}] tables"))
                    .with_source(why)
                    .with_help("write them as in [source] tables")
            })?;
            if let Some(table) = list.iter().find(|table| !self.has(table)) {
                return Err(wrong(format!("follow table {table} in [sinks.{name}]"))
                    .with_help("name it in [source] tables first, as \"schema.table\""));
            }
        }
        Ok(())
    }

    /// Whether an entry of a sink's list can be about what the source reads.
    fn has(&self, entry: &str) -> bool {
        let read = &self.source.tables;
        let of_schema =
            |schema: &str| read.iter().any(|text| text.starts_with(&format!("{schema}.")));
        excluded(entry).is_some()
            || self.source.takes_in(entry)
            || whole_schema(entry).is_some_and(of_schema)
    }

    /// The database of the control schema, and the setting that names it.
    #[must_use]
    pub fn control_database(&self) -> (PostgresConfig, &'static str) {
        let url = self.control.url.clone();
        let setting = if url.is_some() { "[control] url" } else { "[source] url" };
        let url = url.unwrap_or_else(|| self.source.url.clone());
        (PostgresConfig { url, ..self.source.clone() }, setting)
    }

    /// The sink called `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the names there are.
    pub fn sink(&self, name: &str) -> Result<&SinkConfig> {
        self.sinks.get(name).ok_or_else(|| {
            let names: Vec<_> = self.sinks.keys().map(String::as_str).collect();
            Error::new(ErrorKind::Config, format!("find sink {name}"))
                .with_help(format!("the sinks are: {}", names.join(", ")))
        })
    }
}

const KAFKA_HELP: &str =
    "the embedded log does not exist yet: name a Kafka with [kafka] brokers = \"host:9092\"";
const REGISTRY_HELP: &str = "the embedded registry does not exist yet: name one that speaks Confluent's API with [registry] url = \"http://host:8081\"";

/// What is left of the file.
struct Tables<'a> {
    root: Table,
    name: &'a str,
}

impl Tables<'_> {
    fn optional<T: for<'de> Deserialize<'de>>(&mut self, key: &str) -> Result<Option<T>> {
        self.root.remove(key).map(|value| self.read(key, value)).transpose()
    }

    fn required<T: for<'de> Deserialize<'de>>(&mut self, key: &str, help: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| {
            wrong(format!("read {}: there is no [{key}]", self.name)).with_help(help)
        })
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, key: &str, value: Value) -> Result<T> {
        value.try_into().map_err(|error: toml::de::Error| {
            wrong(format!("read {}: [{key}]: {}", self.name, one_line(error.message())))
        })
    }

    fn sinks(&mut self) -> Result<BTreeMap<String, SinkConfig>> {
        let sinks: BTreeMap<String, Table> = self.optional("sinks")?.unwrap_or_default();
        sinks
            .into_iter()
            .map(|(name, table)| Ok((name.clone(), self.sink(&name, table)?)))
            .collect()
    }

    fn sink(&self, name: &str, mut table: Table) -> Result<SinkConfig> {
        let key = format!("sinks.{name}");
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name == "source"
            || name.is_empty()
            || name.len() > SINK_NAME_MAX
            || !name.chars().all(legal)
        {
            return Err(wrong(format!("use {name:?} as the name of a sink")).with_help(
                "a sink is named by up to 64 letters, digits, - and _, and not `source`",
            ));
        }
        let tables = table.remove("tables").map(|value| self.read(&key, value)).transpose()?;
        let kind = table.remove("kind");
        let rest = Value::Table(table);
        let store = match kind.as_ref().and_then(Value::as_str) {
            Some("elasticsearch") => StoreConfig::Elasticsearch(self.read(&key, rest)?),
            Some("redis") => StoreConfig::Redis(self.read(&key, rest)?),
            Some("delta") => StoreConfig::Delta(self.read(&key, rest)?),
            Some(_) | None => {
                return Err(wrong(format!("read {}: [{key}] has no known kind", self.name))
                    .with_help("kind is \"elasticsearch\", \"redis\" or \"delta\""));
            }
        };
        Ok(SinkConfig { tables, store })
    }
}

/// A sink's name is part of a consumer group's name and of keys in the stores.
const SINK_NAME_MAX: usize = 64;

fn wrong(action: String) -> Error {
    Error::new(ErrorKind::Config, action)
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [source]
        url = "postgres://app:${PASSWORD}@db/shop"
        tables = ["public.orders"]
        [kafka]
        brokers = "kafka:9092"
        [registry]
        url = "http://registry:8081"
        [sinks.search]
        kind = "elasticsearch"
        url = "http://search:9200"
        tables = ["public.orders"]
        [sinks.lake]
        kind = "delta"
        root = "/lake"
    "#;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, "a.toml", &|name| (name == "PASSWORD").then(|| "s3cret".to_owned()))
    }

    #[test]
    fn a_whole_file_is_read_and_secrets_do_not_print() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.source.url.expose(), "postgres://app:s3cret@db/shop");
        assert_eq!(config.sinks.keys().collect::<Vec<_>>(), ["lake", "search"]);
        assert_eq!(
            config.sink("search").unwrap().tables.as_deref(),
            Some(&["public.orders".to_owned()][..])
        );
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        let cases = [
            (GOOD.replace("[kafka]", "[kafka"), "line 5"),
            (GOOD.replace("PASSWORD", "PASWORD"), "PASWORD"),
            (GOOD.replace("brokers", "brokrs"), "brokrs"),
            (GOOD.replace("root =", "rot ="), "rot"),
            (GOOD.replace("\"delta\"", "\"detla\""), "sinks.lake"),
            (GOOD.replace("[registry]", "[regstry]"), "[registry]"),
            (format!("{GOOD}\n[sorce]\n"), "sorce"),
            (GOOD.replace("[sinks.lake]", "[sinks.\"a b\"]"), "a b"),
            (
                GOOD.replace(
                    "9200\"\n        tables = [\"public.orders",
                    "9200\"\n        tables = [\"public.x",
                ),
                "public.x",
            ),
        ];
        for (text, wanted) in cases {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let report = error.report();
            assert!(report.contains(wanted) && !report.contains('\n'), "{report}");
            assert!(!report.contains("s3cret"), "{report}");
        }
    }

    #[test]
    fn a_sink_follows_what_the_source_reads() {
        let lists = |source: &str, sink: &str| {
            let text = GOOD.replacen("[\"public.orders\"]", source, 1);
            parse(&text.replacen("[\"public.orders\"]", sink, 1)).map(drop)
        };
        lists("[\"shop.*\"]", "[\"shop.orders\"]").unwrap();
        lists("[\"shop.orders\", \"public.t\"]", "[\"shop.*\", \"!shop.audit\"]").unwrap();
        lists("[\"shop.*\"]", "[\"public.*\"]").unwrap_err();
        lists("[\"shop.*\", \"!shop.audit\"]", "[\"shop.audit\"]").unwrap_err();
    }

    #[test]
    fn no_kafka_and_no_registry_say_what_to_do() {
        for (section, setting, wanted) in [
            ("kafka", "brokers = \"kafka:9092\"", "brokers"),
            ("registry", "url = \"http://registry:8081\"", "Confluent"),
        ] {
            let text = GOOD.replace(&format!("[{section}]"), "[admin]").replace(setting, "");
            let report = parse(&text).unwrap_err().report();
            assert!(report.contains(wanted), "{report}");
        }
    }
}
