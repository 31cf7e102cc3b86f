//! Looks at the house account in each store, as any reader of that store would.
//!
//! ```text
//! Elasticsearch: _search behind the aliases ─┐
//! Redis: HGET ───────────────────────────────┼─▶ updated_at of the row in each table
//! Delta: the log's new commits, their files ─┘
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anabranch::config::{Config, StoreConfig};
use anabranch_core::{ColumnType, value};
use arrow_array::cast::AsArray;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use crate::Failure;

/// The house account: table, condition in SQL, key column, its value, text of the whole key.
pub(crate) const HOUSE: [House; 4] = [
    House { table: "customers", column: "id", value: NOBODY, key: NOBODY },
    House { table: "products", column: "sku", value: "P-HOUSE", key: "P-HOUSE" },
    House { table: "orders", column: "id", value: NOBODY, key: NOBODY },
    House {
        table: "order_items",
        column: "order_id",
        value: NOBODY,
        key: "00000000-0000-0000-0000-000000000000:1",
    },
];
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// The row of the house account in one table.
#[derive(Debug)]
pub(crate) struct House {
    /// The table.
    pub(crate) table: &'static str,
    /// A column that finds it.
    pub(crate) column: &'static str,
    /// That column's value, as text.
    pub(crate) value: &'static str,
    /// The text of its key.
    key: &'static str,
}

/// The text of `updated_at` in each of [`HOUSE`]; none where the store has no such row.
pub(crate) type Seen = [Option<String>; HOUSE.len()];

/// A reader of one store.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Of Elasticsearch.
    Search {
        /// Of its own.
        client: reqwest::Client,
        /// Of a search over all tables.
        url: String,
        /// What the indexes' names begin with.
        prefix: String,
    },
    /// Of Redis.
    Cache {
        /// Where the server is.
        client: Box<redis::Client>,
        /// While there is one.
        connection: Option<MultiplexedConnection>,
        /// What the keys begin with.
        prefix: String,
    },
    /// Of Delta tables.
    Lake(Vec<LakeTable>),
}

impl Reader {
    /// A reader of the store behind `sink`.
    pub(crate) fn open(config: &Config, sink: &str, name: &str) -> Result<Self, Failure> {
        Ok(match &config.sink(sink)?.store {
            StoreConfig::Elasticsearch(store) => {
                let prefix = store.index_prefix.clone();
                let aliases = HOUSE.map(|house| format!("{prefix}{}", house.table)).join(",");
                let url = format!("{}/{aliases}/_search?ignore_unavailable=true", store.url);
                let client = reqwest::Client::builder().no_proxy().build()?;
                Self::Search { client, url, prefix }
            }
            StoreConfig::Redis(store) => {
                let client = Box::new(redis::Client::open(store.url.expose())?);
                Self::Cache { client, connection: None, prefix: name.to_owned() }
            }
            StoreConfig::Delta(store) => {
                let root = Path::new(&store.root).join("public");
                Self::Lake(HOUSE.iter().map(|house| LakeTable::new(&root, house)).collect())
            }
        })
    }

    /// What is there now.
    pub(crate) async fn look(&mut self) -> Result<Seen, Failure> {
        match self {
            Self::Search { client, url, prefix } => search(client, url, prefix).await,
            Self::Cache { client, connection, prefix } => {
                let open = match connection.take() {
                    Some(open) => open,
                    None => client.get_multiplexed_async_connection().await?,
                };
                let seen = cache(open.clone(), prefix).await?;
                *connection = Some(open);
                Ok(seen)
            }
            Self::Lake(tables) => {
                let mut mine = std::mem::take(tables);
                let (mine, looked) = tokio::task::spawn_blocking(move || {
                    let looked = mine.iter_mut().try_for_each(LakeTable::advance);
                    (mine, looked)
                })
                .await?;
                *tables = mine;
                looked?;
                let mut seen = Seen::default();
                seen.iter_mut().zip(tables).for_each(|(seen, table)| seen.clone_from(&table.seen));
                Ok(seen)
            }
        }
    }
}

async fn search(client: &reqwest::Client, url: &str, prefix: &str) -> Result<Seen, Failure> {
    let ids = HOUSE.map(|house| house.key);
    let query =
        json!({"size": HOUSE.len(), "_source": ["updated_at"], "query": {"ids": {"values": ids}}});
    let found: Value = client.post(url).json(&query).send().await?.json().await?;
    let hits = found.pointer("/hits/hits").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(HOUSE.map(|house| {
        let index = format!("{prefix}{}-", house.table);
        let is_there = |hit: &&Value| {
            hit.get("_index").and_then(Value::as_str).is_some_and(|name| name.starts_with(&index))
        };
        let hit = hits.iter().find(is_there)?;
        hit.pointer("/_source/updated_at").and_then(Value::as_str).map(str::to_owned)
    }))
}

async fn cache(mut connection: MultiplexedConnection, prefix: &str) -> Result<Seen, Failure> {
    let mut pipe = redis::pipe();
    for house in &HOUSE {
        pipe.cmd("HGET").arg(format!("{prefix}:{}:{}", house.table, house.key)).arg("updated_at");
    }
    let found: Vec<Option<String>> = pipe.query_async(&mut connection).await?;
    found.try_into().map_err(|_| "Redis answered with another number of fields".into())
}

/// One Delta table, read commit by commit.
#[derive(Debug)]
pub(crate) struct LakeTable {
    folder: PathBuf,
    house: &'static House,
    /// The version that comes next.
    next: u64,
    /// Files looked at: a new deletion vector names one again.
    known: HashSet<String>,
    seen: Option<String>,
}

impl LakeTable {
    fn new(root: &Path, house: &'static House) -> Self {
        let folder = root.join(house.table);
        Self { folder, house, next: 0, known: HashSet::new(), seen: None }
    }

    /// Takes in every new commit.
    fn advance(&mut self) -> Result<(), Failure> {
        loop {
            let commit = self.folder.join(format!("_delta_log/{:020}.json", self.next));
            let Ok(text) = fs::read_to_string(commit) else { return Ok(()) };
            for line in text.lines() {
                let action: Value = serde_json::from_str(line)?;
                if let Some(add) = action.get("add") {
                    self.file(add)?;
                }
            }
            self.next += 1;
        }
    }

    fn file(&mut self, add: &Value) -> Result<(), Failure> {
        let path = add.get("path").and_then(Value::as_str).unwrap_or_default();
        if !self.known.insert(path.to_owned()) || !self.may_hold(add) {
            return Ok(());
        }
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(File::open(self.folder.join(path))?)?;
        let columns = [self.house.column, "updated_at"];
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
        for batch in builder.with_projection(mask).build()? {
            let batch = batch?;
            let [Some(keys), Some(times)] = columns.map(|name| batch.column_by_name(name)) else {
                return Err(format!("{path} has not the columns of {}", self.house.table).into());
            };
            let keys = keys.as_string::<i32>();
            for row in (0..batch.num_rows()).filter(|row| keys.value(*row) == self.house.value) {
                let mut text = String::new();
                value::text(&mut text, times, row, &ColumnType::TimestampTz)?;
                self.seen = self.seen.take().max(Some(text));
            }
        }
        Ok(())
    }

    /// Whether the statistics of a file allow the row to be in it.
    fn may_hold(&self, add: &Value) -> bool {
        let stats = add.get("stats").and_then(Value::as_str).unwrap_or("{}");
        let stats: Value = serde_json::from_str(stats).unwrap_or_default();
        let bound = |which: &str| {
            stats.get(which).and_then(|all| all.get(self.house.column)).and_then(Value::as_str)
        };
        bound("minValues").is_none_or(|least| least <= self.house.value)
            && bound("maxValues").is_none_or(|most| self.house.value <= most)
    }
}
