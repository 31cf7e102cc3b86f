//! What each store holds, as canonical text.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch::config::{Config, StoreConfig};
use anabranch_core::{Attribute, ColumnType, Table, key, value};
use anabranch_elasticsearch::ElasticsearchConfig;
use arrow_schema::{DataType, FieldRef};
use serde_json::value::RawValue;

use super::compare::{Row, Rows};
use super::world::World;

/// The newest version of `table` in the log.
pub async fn table(world: &World, name: &str) -> Result<Arc<Table>, String> {
    let config = world.config();
    let known = anabranch_kafka::admin::tables(&config.kafka).await.map_err(|e| e.report())?;
    let found = known.iter().find(|record| record.table.full_name() == name);
    found.map(|record| Arc::clone(&record.table)).ok_or_else(|| "not in the log".to_owned())
}

/// The rows of `table` in the store of `sink`.
pub async fn rows(world: &World, sink: &str, name: &str) -> Result<Rows, String> {
    let table = table(world, name).await?;
    let config = world.config();
    let rows = match &config.sink(sink).unwrap().store {
        StoreConfig::Elasticsearch(store) => search_rows(store, &table).await,
        StoreConfig::Redis(store) => anabranch_redis::read_all(store, &table)
            .await
            .map(|rows| rows.into_iter().map(|(key, row)| (key, plain(row))).collect()),
        StoreConfig::Delta(store) => match anabranch_delta::read_table(store, &table).await {
            Ok(batches) => {
                let rows = batches.iter().map(|batch| delta_rows(batch, &table));
                let rows: Result<Vec<_>, _> = rows.collect();
                Ok(rows.map_err(|error| error.to_string())?.into_iter().flatten().collect())
            }
            Err(error) => Err(error),
        },
    };
    rows.map_err(|error| error.report())
}

fn plain(row: BTreeMap<String, String>) -> Row {
    row.into_iter().map(|(column, text)| (column, Some(text))).collect()
}

async fn search_rows(
    config: &ElasticsearchConfig,
    table: &Table,
) -> Result<Rows, anabranch_core::Error> {
    let alias = anabranch_elasticsearch::alias_of(config, table);
    let documents = anabranch_elasticsearch::read_all(config, &alias).await?;
    let row = |source: &RawValue| {
        let fields: BTreeMap<String, Option<Box<RawValue>>> =
            serde_json::from_str(source.get()).unwrap();
        fields.into_iter().map(|(name, raw)| (name, raw.map(|raw| bare(raw.get())))).collect()
    };
    Ok(documents.into_iter().map(|document| (document.id.clone(), row(&document.source))).collect())
}

/// A JSON value as text: a string loses its quotes, everything else stays as it is.
fn bare(json: &str) -> String {
    if json.starts_with('"') { serde_json::from_str(json).unwrap() } else { json.to_owned() }
}

/// Fails while the table has not grown a column of the log's newest schema yet.
fn delta_rows(
    batch: &arrow_array::RecordBatch,
    table: &Table,
) -> Result<Vec<(String, Row)>, arrow_schema::ArrowError> {
    let place = |name: &str| batch.schema().index_of(name);
    let places: Result<Vec<_>, _> =
        table.columns.iter().map(|column| place(&column.name)).collect();
    let projected = batch.project(&places?)?;
    Ok((0..batch.num_rows())
        .map(|row| {
            let cells = table.columns.iter().zip(projected.columns()).map(|(column, array)| {
                let text = (!array.is_null(row)).then(|| {
                    let mut text = String::new();
                    value::text(&mut text, array, row, &held(&column.kind, array.data_type()))
                        .unwrap();
                    text
                });
                (column.name.clone(), text)
            });
            (key::text(&projected, row, table).unwrap(), cells.collect())
        })
        .collect())
}

/// What Delta holds values of `kind` as: their text, where it has no type for them.
fn held(kind: &ColumnType, stored: &DataType) -> ColumnType {
    match (kind, stored) {
        (ColumnType::Json, _) => ColumnType::Json,
        (_, DataType::Utf8) => ColumnType::Text,
        (ColumnType::Array(element), DataType::List(field)) => {
            ColumnType::Array(Box::new(held(element, field.data_type())))
        }
        (ColumnType::Range(bound), DataType::Struct(fields)) => {
            ColumnType::Range(Box::new(held(bound, fields[0].data_type())))
        }
        (ColumnType::Record(attributes), DataType::Struct(fields)) => {
            let attribute = |(part, field): (&Attribute, &FieldRef)| Attribute {
                name: part.name.clone(),
                kind: held(&part.kind, field.data_type()),
            };
            ColumnType::Record(attributes.iter().zip(fields).map(attribute).collect())
        }
        (kind, _) => kind.clone(),
    }
}

/// Removes what a test left in the stores that outlive it.
pub async fn forget(config: &Config) {
    for sink in config.sinks.values() {
        match &sink.store {
            StoreConfig::Elasticsearch(store) => drop(forget_indexes(store).await),
            StoreConfig::Redis(store) => {
                forget_keys(store.url.expose(), &store.key.to_string()).await;
            }
            // Its folder is the test's own.
            StoreConfig::Delta(_) => {}
        }
    }
}

/// By their names: the server refuses a pattern here.
async fn forget_indexes(store: &ElasticsearchConfig) -> Result<(), reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let pattern = format!("{}/_cat/indices/{}*?h=index", store.url, store.index_prefix);
    let names = client.get(pattern).send().await?.text().await?;
    let names: Vec<_> = names.split_whitespace().collect();
    if !names.is_empty() {
        client.delete(format!("{}/{}", store.url, names.join(","))).send().await?;
    }
    Ok(())
}

async fn forget_keys(url: &str, template: &str) {
    let (prefix, _) = template.split_once("{table}").unwrap();
    let client = redis::Client::open(url).unwrap();
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return };
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(5000);
        let Ok((next, keys)) = scan.query_async::<(u64, Vec<String>)>(&mut connection).await else {
            return;
        };
        if !keys.is_empty() {
            drop(redis::cmd("UNLINK").arg(&keys).query_async::<()>(&mut connection).await);
        }
        if next == 0 {
            return;
        }
        cursor = next;
    }
}
