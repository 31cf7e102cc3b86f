//! What a sink of kind `elasticsearch` is told in `anabranch.toml`.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result, Secret};
use serde::Deserialize;
use url::Url;

/// A section `[sinks.NAME]` with `kind = "elasticsearch"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticsearchConfig {
    /// `http://host:9200` or `https://…`, without user and password.
    pub url: String,
    /// The user, for basic authentication.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// An API key in its encoded form, instead of user and password.
    pub api_key: Option<Secret>,
    /// A PEM file with the certificate authority of the server, where the system does not know it.
    pub ca_file: Option<PathBuf>,
    /// What the names of all indexes and aliases begin with.
    #[serde(default)]
    pub index_prefix: String,
    /// Primary shards of a new index.
    #[serde(default = "default_shards")]
    pub shards: u32,
    /// Replicas of a new index.
    #[serde(default = "default_replicas")]
    pub replicas: u32,
    /// How soon a new index shows what was written (`"1s"`, `"30s"`); the server's default if
    /// absent.
    pub refresh_interval: Option<String>,
    /// The field that carries a row's version.
    #[serde(default = "default_version_field")]
    pub version_field: String,
    /// The field that carries a row's log partition.
    #[serde(default = "default_partition_field")]
    pub partition_field: String,
    /// The field that marks the documents with the sink's own progress.
    #[serde(default = "default_cursor_field")]
    pub cursor_field: String,
    /// Where one bulk request ends and the next begins, in bytes.
    #[serde(default = "default_bulk_bytes_max")]
    pub bulk_bytes_max: usize,
    /// Bulk requests under way at the same time.
    #[serde(default = "default_concurrent_bulks")]
    pub concurrent_bulks: usize,
    /// How long the writing of a batch may be tried, in milliseconds: no request is sent later.
    #[serde(default = "default_request_timeout_ms")]
    pub request_timeout_ms: u64,
}

fn default_shards() -> u32 {
    1
}

fn default_replicas() -> u32 {
    1
}

fn default_version_field() -> String {
    "_v".to_owned()
}

fn default_partition_field() -> String {
    "_p".to_owned()
}

fn default_cursor_field() -> String {
    "_cursor".to_owned()
}

/// Larger bulks are not faster, and hold more of the server's memory.
fn default_bulk_bytes_max() -> usize {
    5 << 20
}

/// Two are about a fifth faster than one.
fn default_concurrent_bulks() -> usize {
    2
}

fn default_request_timeout_ms() -> u64 {
    30_000
}

/// The server's queue is shared: more bulks than this only wait there.
const CONCURRENT_BULKS_MAX: usize = 32;
/// A document must fit, and the server refuses bodies above 100 MB by default.
const BULK_BYTES: std::ops::RangeInclusive<usize> = 1024..=(90 << 20);
/// Far enough below [`crate::mapping::GC_DELETES`], which must outlive every late write.
const REQUEST_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=300_000;
/// Elasticsearch allows 255 bytes for a whole name.
const PREFIX_BYTES_MAX: usize = 40;

impl ElasticsearchConfig {
    /// The settings for a server at `url` that wants no password; all others have their defaults.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            api_key: None,
            ca_file: None,
            index_prefix: String::new(),
            shards: default_shards(),
            replicas: default_replicas(),
            refresh_interval: None,
            version_field: default_version_field(),
            partition_field: default_partition_field(),
            cursor_field: default_cursor_field(),
            bulk_bytes_max: default_bulk_bytes_max(),
            concurrent_bulks: default_concurrent_bulks(),
            request_timeout_ms: default_request_timeout_ms(),
        }
    }

    /// How long the writing of a batch may be tried.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// The server's address, with a path that ends in `/`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] names the setting that is wrong.
    pub(crate) fn validate(&self, sink: &str) -> Result<Url> {
        let url = Url::parse(&self.url)
            .map_err(|error| wrong(sink, "url", "is no URL").with_source(error))?;
        let checks = [
            (
                matches!(url.scheme(), "http" | "https"),
                "url",
                "must begin with http:// or https://",
            ),
            (
                url.username().is_empty() && url.password().is_none(),
                "url",
                "must not hold a password: use username and password",
            ),
            (
                self.username.is_some() == self.password.is_some(),
                "username",
                "and password go together",
            ),
            (
                self.api_key.is_none() || self.username.is_none(),
                "api_key",
                "stands instead of username and password",
            ),
            (
                self.api_key
                    .as_ref()
                    .is_none_or(|key| key.expose().bytes().all(|byte| byte.is_ascii_graphic())),
                "api_key",
                "must be the encoded form, in ASCII",
            ),
            (
                valid_prefix(&self.index_prefix),
                "index_prefix",
                "must be at most 40 of a-z 0-9 . _ - and begin with a letter or digit",
            ),
            (self.shards > 0, "shards", "must be at least 1"),
            (
                BULK_BYTES.contains(&self.bulk_bytes_max),
                "bulk_bytes_max",
                "must lie between 1 KiB and 90 MiB",
            ),
            (
                (1..=CONCURRENT_BULKS_MAX).contains(&self.concurrent_bulks),
                "concurrent_bulks",
                "must lie between 1 and 32",
            ),
            (
                REQUEST_TIMEOUT_MS.contains(&self.request_timeout_ms),
                "request_timeout_ms",
                "must lie between 100 and 300000",
            ),
        ];
        match checks.iter().find(|(fine, _, _)| !fine) {
            Some((_, name, what)) => Err(wrong(sink, name, what)),
            None => Ok(with_slash(url)),
        }
    }
}

fn wrong(sink: &str, name: &str, what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("use [sinks.{sink}] {name}"))
        .with_help(format!("{name} {what}"))
}

fn valid_prefix(prefix: &str) -> bool {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    prefix.len() <= PREFIX_BYTES_MAX
        && prefix.bytes().all(legal)
        && prefix.bytes().next().is_none_or(|first| first.is_ascii_alphanumeric())
}

fn with_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut ElasticsearchConfig)) -> String {
        let mut config = ElasticsearchConfig::at("http://localhost:9200");
        change(&mut config);
        let error = config.validate("search").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.report()
    }

    #[test]
    fn a_base_path_is_kept() {
        let config = ElasticsearchConfig::at("https://host/search");
        let url = config.validate("search").unwrap();
        assert_eq!(url.join("orders-1/_bulk").unwrap().path(), "/search/orders-1/_bulk");
    }

    #[test]
    fn wrong_settings_are_named() {
        assert!(refused(|c| c.url = "localhost".to_owned()).contains("url"));
        assert!(refused(|c| c.url = "ftp://host".to_owned()).contains("http://"));
        assert!(refused(|c| c.username = Some("elastic".to_owned())).contains("username"));
        assert!(refused(|c| c.index_prefix = "Shop-".to_owned()).contains("index_prefix"));
        assert!(refused(|c| c.index_prefix = "-a".to_owned()).contains("index_prefix"));
        assert!(refused(|c| c.concurrent_bulks = 0).contains("concurrent_bulks"));
        assert!(refused(|c| c.request_timeout_ms = 0).contains("request_timeout_ms"));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        let report = refused(|c| c.url = "http://elastic:secret@host:9200".to_owned());
        assert!(report.contains("password") && !report.contains("secret"), "{report}");
    }
}
