//! Makes the index and its aliases ready for a worker, without taking anything of the user's.
//!
//! ```text
//! GET index ─▶ missing: PUT index with both aliases
//!           └▶ there: ours? of this log? durable? ─▶ missing columns, missing aliases
//! ```
//!
//! The invariant: an index or alias that anabranch did not make is never written, renamed or
//! re-pointed. What was made half by a worker that died is completed by the next one.

use std::collections::{BTreeMap, HashMap};

use anabranch_core::{Assignment, Error, ErrorKind, Result, Table};
use elasticsearch::http::Method;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use crate::ElasticsearchConfig;
use crate::client::{Client, Request};
use crate::error::Failure;
use crate::mapping::{self, FORMAT};
use crate::names::Names;

/// An index as `GET index` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Described {
    #[serde(default)]
    pub(crate) aliases: Map<String, Value>,
    #[serde(default)]
    pub(crate) mappings: Value,
    #[serde(default)]
    settings: Map<String, Value>,
}

/// One table's index on one server.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) client: &'a Client,
    pub(crate) config: &'a ElasticsearchConfig,
    pub(crate) assignment: &'a Assignment,
    pub(crate) names: &'a Names,
}

impl Index<'_> {
    /// Makes what is missing. Returns for each shard a routing value that leads to it.
    pub(crate) async fn prepare(&self) -> Result<Vec<String>> {
        let deadline = self.client.deadline();
        let alias_is_free = self.alias_is_free(deadline).await?;
        if self.describe(deadline).await?.is_none() {
            self.create(alias_is_free, deadline).await?;
        }
        let described = self.describe(deadline).await?.ok_or_else(|| {
            Error::new(ErrorKind::Transient, self.action("use"))
                .with_source("it was deleted just after it was made")
        })?;
        self.verify(&described)?;
        self.add_aliases(&described, alias_is_free, deadline).await?;
        self.add_columns(&described.mappings, &self.assignment.table, deadline).await?;
        let routings = self.routings(described.shards(), deadline).await;
        routings.map_err(|failure| failure.during(&self.client.sink, self.action("use")))
    }

    /// Adds the columns of `table` that the index does not have yet.
    pub(crate) async fn grow(&self, table: &Table) -> Result<()> {
        let deadline = self.client.deadline();
        let described = self.describe(deadline).await?.ok_or_else(|| {
            Error::new(ErrorKind::Transient, self.action("use")).with_source("it is gone")
        })?;
        self.add_columns(&described.mappings, table, deadline).await
    }

    fn action(&self, verb: &str) -> String {
        format!("{verb} index {}", self.names.index)
    }

    fn setup_error(&self, failure: Failure, verb: &str) -> Error {
        failure.during_setup(&self.client.sink, self.action(verb))
    }

    async fn describe(&self, deadline: Instant) -> Result<Option<Described>> {
        let index = self.names.index.as_str();
        let mut found = describe(self.client, index, deadline)
            .await
            .map_err(|failure| self.setup_error(failure, "read"))?;
        if found.is_empty() {
            return Ok(None);
        }
        found.remove(index).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Config, self.action("use"))
                .with_source("there is an alias of that name")
                .with_help(format!("remove it, or set [sinks.{}] index_prefix", self.client.sink))
        })
    }

    /// Whether nothing has the alias's name yet. An index of the user's, or an alias of theirs, is
    /// refused.
    async fn alias_is_free(&self, deadline: Instant) -> Result<bool> {
        let alias = self.names.alias.as_str();
        let found = describe(self.client, alias, deadline)
            .await
            .map_err(|failure| self.setup_error(failure, "read"))?;
        if found.contains_key(alias) {
            return Err(self.taken("there is an index of that name", format!(
                "rename it: PUT /{alias}/_block/write, then POST /{alias}/_clone/{alias}-old, then \
                 DELETE /{alias}; or set [sinks.{}] index_prefix",
                self.client.sink
            )));
        }
        if let Some(other) = found.iter().find(|(_, index)| !index.is_ours()).map(|(name, _)| name)
        {
            return Err(self.taken(
                &format!("it leads to index {other}, which is not ours"),
                format!(
                    "remove it: DELETE /{other}/_alias/{alias}; or set [sinks.{}] index_prefix",
                    self.client.sink
                ),
            ));
        }
        Ok(found.is_empty())
    }

    fn taken(&self, seen: &str, help: String) -> Error {
        Error::new(ErrorKind::Config, format!("use alias {}", self.names.alias))
            .with_source(seen)
            .with_help(help)
    }

    async fn create(&self, alias_is_free: bool, deadline: Instant) -> Result<()> {
        self.check_columns(&self.assignment.table)?;
        let alias = alias_is_free.then_some(self.names.alias.as_str());
        let body = mapping::creation(self.config, self.assignment, alias, &self.names.write);
        let request = Request::new(Method::Put, &self.names.index).json(&body);
        match self.client.call(request, deadline).await {
            Ok(_) => {
                tracing::info!(index = self.names.index, "created index");
                Ok(())
            }
            // Another worker of the same table was faster.
            Err(Failure::Answer { kind, .. }) if kind == "resource_already_exists_exception" => {
                Ok(())
            }
            Err(failure) => Err(self.setup_error(failure, "create")),
        }
    }

    fn check_columns(&self, table: &Table) -> Result<()> {
        let config = self.config;
        let own = [&config.version_field, &config.partition_field, &config.cursor_field];
        let taken = table.columns.iter().find(|column| own.contains(&&column.name));
        let Some(column) = taken else { return Ok(()) };
        let action = format!("map column {} to index {}", column.name, self.names.index);
        Err(Error::new(ErrorKind::Config, action)
            .with_source("the sink's own field has that name")
            .with_help(format!(
                "set [sinks.{}] version_field, partition_field or cursor_field to another name",
                self.client.sink
            )))
    }

    fn verify(&self, described: &Described) -> Result<()> {
        let refuse = |kind, seen: String, help: String| {
            Err(Error::new(kind, self.action("use")).with_source(seen).with_help(help))
        };
        let index = &self.names.index;
        let ours = |field: &str| described.mappings.pointer(&format!("/_meta/anabranch/{field}"));
        let Some(format) = ours("format").and_then(Value::as_u64) else {
            let help = format!(
                "rename it: PUT /{index}/_block/write, then POST /{index}/_clone/{index}-old, then \
                 DELETE /{index}"
            );
            return refuse(ErrorKind::Config, "it was not made by anabranch".to_owned(), help);
        };
        if format > FORMAT {
            let seen = format!("its format is {format}, and this release knows {FORMAT}");
            return refuse(ErrorKind::Config, seen, "use the newer release".to_owned());
        }
        let log = ours("log").and_then(Value::as_str).unwrap_or_default();
        if log != self.assignment.log.to_string() {
            let seen = format!("it was filled from log {log}, not from {}", self.assignment.log);
            let help = format!("delete it to have it filled anew: DELETE /{index}");
            return refuse(ErrorKind::Lost, seen, help);
        }
        if let Some(field) = mapping::misnamed(&described.mappings, self.config) {
            let seen = format!("it has no field {field} of ours");
            let help = "version_field, partition_field and cursor_field must stay what they were \
                        when the index was made";
            return refuse(ErrorKind::Config, seen, help.to_owned());
        }
        match described.weakness() {
            Some((seen, help)) => refuse(ErrorKind::Config, seen, help.replace("INDEX", index)),
            None => Ok(()),
        }
    }

    async fn add_aliases(
        &self,
        described: &Described,
        alias_is_free: bool,
        deadline: Instant,
    ) -> Result<()> {
        let Names { index, alias, write } = self.names;
        let mut actions = Vec::new();
        if !described.aliases.contains_key(write) {
            actions.push(json!({"add": {"index": index, "alias": write, "is_hidden": true}}));
        }
        let held = described.aliases.get(alias);
        // A worker that found the alias free may have been overtaken by another one: then the
        // alias leads here already, and adding it again changes nothing.
        if alias_is_free && held.is_none() || held.is_some_and(|held| held.get("filter").is_none())
        {
            let filter = mapping::filter(self.config);
            actions.push(json!({"add": {"index": index, "alias": alias, "filter": filter}}));
        }
        if actions.is_empty() {
            return Ok(());
        }
        let request = Request::new(Method::Post, "_aliases").json(&json!({"actions": actions}));
        let done = self.client.call(request, deadline).await;
        done.map(drop).map_err(|failure| self.setup_error(failure, "add aliases to"))
    }

    async fn add_columns(&self, mappings: &Value, table: &Table, deadline: Instant) -> Result<()> {
        self.check_columns(table)?;
        let missing = mapping::growth(mappings, table, &self.names.index)?;
        if missing.is_empty() {
            return Ok(());
        }
        let columns: Vec<_> = missing.keys().cloned().collect();
        let path = format!("{}/_mapping", self.names.index);
        let request = Request::new(Method::Put, &path).json(&json!({"properties": missing}));
        let done = self.client.call(request, deadline).await;
        done.map_err(|failure| self.setup_error(failure, "add columns to"))?;
        tracing::info!(index = self.names.index, ?columns, "added columns to index");
        Ok(())
    }

    /// The first routing value among "0", "1", "2"… that leads to each shard: the same ones for
    /// every worker, for as long as the index has as many shards.
    async fn routings(&self, shards: usize, deadline: Instant) -> Result<Vec<String>, Failure> {
        /// With this many values for each shard one is left out once in e^32 times.
        const TRIES_MAX: usize = 32;
        /// Questions under way at the same time.
        const CONCURRENT_MAX: usize = 8;
        if shards == 1 {
            return Ok(vec!["0".to_owned()]);
        }
        let tries = stream::iter(0..shards * TRIES_MAX)
            .map(|value| async move { Ok((self.shard_of(value, deadline).await?, value)) })
            .buffered(CONCURRENT_MAX);
        let mut found = BTreeMap::new();
        let mut tries = std::pin::pin!(tries);
        while let Some((shard, value)) = tries.try_next().await? {
            found.entry(shard).or_insert_with(|| value.to_string());
            if found.len() == shards {
                return Ok(found.into_values().collect());
            }
        }
        Err(Failure::Reply(format!("{} of {shards} shards can be reached", found.len())))
    }

    async fn shard_of(&self, routing: usize, deadline: Instant) -> Result<u64, Failure> {
        let path = format!("{}/_search_shards", self.names.index);
        let request = Request::get(&path).query("routing", routing.to_string());
        let answer: Value = self.client.ask(request, deadline).await?;
        answer.pointer("/shards/0/0/shard").and_then(Value::as_u64).ok_or(Failure::Shards(1))
    }
}

/// The indexes that a name or pattern leads to; none if there is nothing of that name.
pub(crate) async fn describe(
    client: &Client,
    name: &str,
    deadline: Instant,
) -> Result<HashMap<String, Described>, Failure> {
    let request = Request::get(name).query("flat_settings", "true");
    match client.ask(request, deadline).await {
        Err(failure) if failure.is_missing_index() => Ok(HashMap::new()),
        answer => answer,
    }
}

impl Described {
    pub(crate) fn is_ours(&self) -> bool {
        self.mappings.pointer("/_meta/anabranch").is_some()
    }

    /// Whether the sink of that name fills it.
    pub(crate) fn is_of(&self, sink: &str) -> bool {
        let name = self.mappings.pointer("/_meta/anabranch/sink").and_then(Value::as_str);
        name == Some(sink)
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).and_then(Value::as_str)
    }

    fn shards(&self) -> usize {
        let shards = self.setting("index.number_of_shards").and_then(|text| text.parse().ok());
        shards.unwrap_or(1)
    }

    /// A setting under which the index may lose or resurrect rows, and the request that mends it.
    pub(crate) fn weakness(&self) -> Option<(String, String)> {
        /// Every late write is over by then: see `request_timeout_ms`.
        const GC_DELETES_MIN: Duration = Duration::from_secs(1800);
        let mend =
            |name: &str, value: &str| format!("PUT /INDEX/_settings {{\"{name}\": \"{value}\"}}");
        let durability = self.setting("index.translog.durability").unwrap_or("request");
        if !durability.eq_ignore_ascii_case("request") {
            let name = "index.translog.durability";
            let seen = format!("{name} is {durability}: a crash would lose acknowledged rows");
            return Some((seen, mend(name, "request")));
        }
        let gc_deletes = self.setting("index.gc_deletes").unwrap_or("60s");
        if time_value(gc_deletes).is_none_or(|kept| kept < GC_DELETES_MIN) {
            let name = "index.gc_deletes";
            let seen =
                format!("{name} is {gc_deletes}: a late write could bring back deleted rows");
            return Some((seen, mend(name, mapping::GC_DELETES)));
        }
        None
    }
}

/// Elasticsearch's `90s`, `30m`, `1h`, `2d`. `None` for what is not at least a second or no time.
fn time_value(text: &str) -> Option<Duration> {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    units.into_iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs(count.saturating_mul(seconds)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(settings: &Value) -> Described {
        let body = json!({"settings": settings});
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn weak_settings_are_found() {
        let weakness = |settings| described(&settings).weakness().map(|(seen, _)| seen);
        assert_eq!(weakness(json!({"index.gc_deletes": "1h"})), None);
        assert_eq!(weakness(json!({"index.gc_deletes": "2d"})), None);
        assert!(weakness(json!({})).unwrap().contains("gc_deletes is 60s"));
        assert!(weakness(json!({"index.gc_deletes": "500ms"})).is_some());
        let lazy = json!({"index.gc_deletes": "1h", "index.translog.durability": "ASYNC"});
        assert!(weakness(lazy).unwrap().contains("durability is ASYNC"));
    }
}
