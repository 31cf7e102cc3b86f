//! What a sink of kind `redis` is told in `anabranch.toml`.

use std::ops::RangeInclusive;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result, Secret};
use serde::Deserialize;

use crate::keys::KeyTemplate;

/// A section `[sinks.NAME]` with `kind = "redis"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/db`; `rediss://…` for TLS.
    pub url: Secret,
    /// What the key of a row looks like: see [`KeyTemplate`].
    #[serde(default)]
    pub key: KeyTemplate,
    /// What a row is stored as.
    #[serde(default)]
    pub format: RowFormat,
    /// The field that carries a row's version.
    #[serde(default = "default_version_field")]
    pub version_field: String,
    /// The field that carries a row's log partition.
    #[serde(default = "default_partition_field")]
    pub partition_field: String,
    /// How long an answer may take, in milliseconds.
    #[serde(default = "default_request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// Rows that one script writes: Redis serves nobody else while it runs.
    #[serde(default = "default_chunk_rows_max")]
    pub chunk_rows_max: usize,
}

/// What a row is stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// A hash with a field for each column that is not null, as text.
    #[default]
    Hash,
    /// A string with a JSON object that begins with version and partition.
    Json,
}

fn default_version_field() -> String {
    "_v".to_owned()
}

fn default_partition_field() -> String {
    "_p".to_owned()
}

fn default_request_timeout_ms() -> u64 {
    10_000
}

/// One to three milliseconds of Redis's time with rows of a usual width.
fn default_chunk_rows_max() -> usize {
    512
}

/// A script with more keys than this keeps every other client waiting for long.
const CHUNK_ROWS: RangeInclusive<usize> = 1..=16_384;
/// Below, a loaded server is never in time; above, a dead one is noticed too late.
const REQUEST_TIMEOUT_MS: RangeInclusive<u64> = 10..=300_000;

impl RedisConfig {
    /// The settings for the server at `url`; all others have their defaults.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Secret::from(url.into()),
            key: KeyTemplate::default(),
            format: RowFormat::default(),
            version_field: default_version_field(),
            partition_field: default_partition_field(),
            request_timeout_ms: default_request_timeout_ms(),
            chunk_rows_max: default_chunk_rows_max(),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// # Errors
    ///
    /// [`ErrorKind::Config`] names the setting of `[sinks.<sink>]` that is wrong.
    pub(crate) fn validate(&self, sink: &str) -> Result<()> {
        let (version, partition) = (&self.version_field, &self.partition_field);
        let checks = [
            (!version.is_empty(), "version_field", "must not be empty"),
            (
                !partition.is_empty() && partition != version,
                "partition_field",
                "must be a name of its own",
            ),
            (
                REQUEST_TIMEOUT_MS.contains(&self.request_timeout_ms),
                "request_timeout_ms",
                "must lie between 10 and 300000",
            ),
            (
                CHUNK_ROWS.contains(&self.chunk_rows_max),
                "chunk_rows_max",
                "must lie between 1 and 16384",
            ),
        ];
        match checks.iter().find(|(fine, _, _)| !fine) {
            None => Ok(()),
            Some((_, name, what)) => {
                Err(Error::new(ErrorKind::Config, format!("use [sinks.{sink}] {name}"))
                    .with_help(format!("{name} {what}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        let refused = |change: fn(&mut RedisConfig)| {
            let mut config = RedisConfig::at("redis://localhost");
            change(&mut config);
            config.validate("cache").unwrap_err().report()
        };
        assert!(refused(|c| c.version_field.clear()).contains("[sinks.cache] version_field"));
        assert!(refused(|c| c.partition_field = "_v".to_owned()).contains("partition_field"));
        assert!(refused(|c| c.chunk_rows_max = 0).contains("chunk_rows_max"));
        assert!(refused(|c| c.request_timeout_ms = 0).contains("request_timeout_ms"));
    }

    #[test]
    fn defaults_are_filled_and_unknown_settings_refused() {
        let read = |text: &str| serde_json::from_str::<RedisConfig>(text);
        let url = "redis://:pw@localhost/3";
        assert_eq!(read(r#"{"url":"redis://:pw@localhost/3"}"#).unwrap(), RedisConfig::at(url));
        assert!(read(r#"{"url":"redis://localhost","tabel":1}"#).is_err());
        assert!(read(r#"{"url":"redis://localhost","key":"{key}"}"#).is_err());
        assert_eq!(
            read(r#"{"url":"redis://localhost","format":"json"}"#).unwrap().format,
            RowFormat::Json
        );
        assert!(!format!("{:?}", RedisConfig::at(url)).contains("pw"));
    }
}
