//! What rows of every type become, and how the index follows the table.

use std::sync::Arc;

use anabranch_core::{Batch, Column, ColumnType, ErrorKind, RowMeta, RowOp, Sink as _, Table};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::server::{Server, cursor, version};

pub(crate) fn table(schema_version: u32, columns: &[(&str, ColumnType)]) -> Arc<Table> {
    let column = |(attnum, (name, kind)): (i16, &(&str, ColumnType))| Column {
        attnum,
        name: (*name).to_owned(),
        source_type: String::new(),
        kind: kind.clone(),
    };
    Arc::new(Table {
        oid: 7,
        version: schema_version,
        schema: "public".to_owned(),
        name: "things".to_owned(),
        columns: (1..).zip(columns).map(column).collect(),
        key: vec![0],
    })
}

pub(crate) fn upserts(table: &Arc<Table>, columns: Vec<ArrayRef>) -> Batch {
    let rows = RecordBatch::try_new(table.arrow(), columns).unwrap();
    let meta = |row: usize| RowMeta {
        op: RowOp::Upsert,
        partition: 0,
        version: version(table.version.into(), 0),
        key: Bytes::copy_from_slice(&row.to_be_bytes()),
    };
    let meta = (0..rows.num_rows()).map(meta).collect();
    Batch { table: Arc::clone(table), rows, meta, delete_below: Vec::new() }
}

pub(crate) fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn everything() -> Batch {
    let table = table(
        1,
        &[
            ("name", ColumnType::Text),
            ("flag", ColumnType::Bool),
            ("small", ColumnType::Int16),
            ("middle", ColumnType::Int32),
            ("big", ColumnType::Int64),
            ("single", ColumnType::Float32),
            ("double", ColumnType::Float64),
            ("price", ColumnType::Decimal { precision: 38, scale: 10 }),
            ("doc", ColumnType::Json),
            ("raw", ColumnType::Bytes),
            ("uid", ColumnType::Uuid),
            ("day", ColumnType::Date),
            ("at", ColumnType::Time),
            ("local.time", ColumnType::Timestamp),
            ("moment", ColumnType::TimestampTz),
            ("tags", ColumnType::Array(Box::new(ColumnType::Text))),
        ],
    );
    let element = Field::new("element", DataType::Utf8, true);
    let mut tags = ListBuilder::new(StringBuilder::new()).with_field(element);
    tags.append_value([Some("a"), None, Some("line\nbreak")]);
    tags.append_value([None::<&str>; 0]);
    tags.append_null();
    let price = Decimal128Array::from(vec![Some(i128::pow(10, 38) - 1), Some(-1), None]);
    let uid = "0f0e0d0c-0b0a-4908-8706-050403020100";
    let infinite = i64::MAX;
    upserts(
        &table,
        vec![
            texts(&["plain", "sha256:x", "anabranch:cursor:0:0"]),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(1), None])),
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(1), None])),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(9_007_199_254_740_993), None])),
            Arc::new(Float32Array::from(vec![Some(f32::MAX), Some(f32::NAN), None])),
            Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(f64::INFINITY), None])),
            Arc::new(price.with_precision_and_scale(38, 10).unwrap()),
            Arc::new(StringArray::from(vec![
                Some("{\"a\":\n {\"\":[1,{\"x..y\":null}]}}"),
                Some("[3, \"x\"]"),
                None,
            ])),
            Arc::new(BinaryArray::from(vec![Some(b"\x00\xff".as_slice()), Some(b""), None])),
            Arc::new(StringArray::from(vec![Some(uid), Some(uid), None])),
            Arc::new(Date32Array::from(vec![Some(-735_000), Some(i32::MAX), None])),
            Arc::new(Time64MicrosecondArray::from(vec![Some(86_400_000_000), Some(1), None])),
            // The year 294247 is within PostgreSQL's range, and not within this field's.
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(9_223_372_036_854_775_000),
                Some(infinite),
                None,
            ])),
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1), Some(-infinite - 1), None])
                    .with_timezone("UTC"),
            ),
            Arc::new(tags.finish()),
        ],
    )
}

#[tokio::test]
async fn every_type_is_kept_exactly_and_never_refused() {
    let server = Server::new();
    let batch = everything();
    let mut sink = server.open_for(&batch.table, &[0]);
    assert_eq!(sink.alias(), anabranch_elasticsearch::alias_of(&server.config, &batch.table));
    sink.cursor().await.unwrap();
    sink.apply(&batch, &crate::server::cursor_at(&[(0, 3)])).await.unwrap();
    let rows =
        anabranch_elasticsearch::read_all(&server.config, &server.name("things")).await.unwrap();
    let texts: Vec<_> = rows.iter().map(|row| row.source.get()).collect();
    let has = |text: &str| assert!(texts.iter().any(|row| row.contains(text)), "{text}: {texts:?}");
    has(&format!("\"_v\":{},\"_p\":0", version(1, 0).to_i64()));
    has("\"big\":-9223372036854775808,");
    has("\"big\":9007199254740993,");
    has("\"price\":9999999999999999999999999999.9999999999,");
    has("\"price\":-0.0000000001,");
    has("\"single\":\"NaN\",\"double\":\"Infinity\"");
    has("\"doc\":{\"a\":  {\"\":[1,{\"x..y\":null}]}},");
    has("\"raw\":\"AP8=\"");
    has("\"tags\":[\"a\",null,\"line\\nbreak\"]");
    has("\"at\":\"24:00:00.000000\"");
    has("\"local.time\":\"infinity\"");
    has("\"moment\":\"1970-01-01T00:00:00.000001Z\"");
    has("\"local.time\":null");
    assert_eq!(rows.len(), 3, "keys that look like our own ids are rows like others");
    let query = json!({"query": {"range": {"moment": {"gte": "1970-01-01", "lt": "1970-01-02"}}}});
    let path = format!("{}/_count", server.name("things"));
    let (_, found) = server.ask(Method::Post, &path, &query).await;
    assert_eq!(found["count"], 1, "dates can be searched");
}

#[tokio::test]
async fn new_columns_are_mapped_before_they_are_written() {
    let server = Server::new();
    let first = table(1, &[("name", ColumnType::Text), ("size", ColumnType::Int32)]);
    let second = table(
        2,
        &[("name", ColumnType::Text), ("size", ColumnType::Int64), ("color", ColumnType::Uuid)],
    );
    let mut sink = server.open_for(&first, &[0]);
    sink.cursor().await.unwrap();
    let one = upserts(&first, vec![texts(&["a"]), Arc::new(Int32Array::from(vec![1]))]);
    sink.apply(&one, &cursor_of_unit(1)).await.unwrap();
    let grown = table(
        2,
        &[("name", ColumnType::Text), ("size", ColumnType::Int32), ("color", ColumnType::Uuid)],
    );
    let columns =
        vec![texts(&["b"]), Arc::new(Int32Array::from(vec![2])) as ArrayRef, texts(&["red"])];
    sink.apply(&upserts(&grown, columns), &cursor_of_unit(2)).await.unwrap();
    let query = json!({"query": {"term": {"color": "red"}}});
    server.rows("things").await;
    let path = format!("{}/_count", server.name("things"));
    assert_eq!(server.ask(Method::Post, &path, &query).await.1["count"], 1);
    // The older schema comes again, in a replay.
    sink.apply(&one, &cursor_of_unit(3)).await.unwrap();
    let columns =
        vec![texts(&["c"]), Arc::new(Int64Array::from(vec![3])) as ArrayRef, texts(&["red"])];
    let error = sink.apply(&upserts(&second, columns), &cursor_of_unit(4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("column size"), "{error:?}");
}

fn cursor_of_unit(next: i64) -> anabranch_core::StoreCursor {
    crate::server::cursor_at(&[(0, next)])
}

#[tokio::test]
async fn a_row_that_the_server_refuses_is_named() {
    let server = Server::new();
    let table = table(1, &[("name", ColumnType::Text), ("doc", ColumnType::Json)]);
    let mut sink = server.open_for(&table, &[0]);
    sink.cursor().await.unwrap();
    let docs = texts(&["{}", "{\"a\":\"secret\",\"a\":2}", "{}"]);
    let batch = upserts(&table, vec![texts(&["first", "twice", "last"]), docs]);
    let error = sink.apply(&batch, &cursor_of_unit(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let report = error.report();
    let index = server.name("things-1");
    assert!(report.contains("\"twice\"") && report.contains(&index), "{report}");
    assert!(report.contains("Duplicate") && !report.contains("secret"), "{report}");
    assert_eq!(sink.cursor().await.unwrap(), None, "the cursor has not moved");
}

#[tokio::test]
async fn the_alias_hides_the_cursors() {
    let server = Server::new();
    let (mut sink, _) = server.worker(&[0, 1]).await;
    sink.apply(&crate::server::batch(&[]), &cursor(9)).await.unwrap();
    assert_eq!(server.rows("t").await, []);
    assert_eq!(server.rows("t-1").await.len(), 4, "two units in two shards");
    let (_, aliases) = server.ask(Method::Get, &server.name("t-1/_alias"), &Value::Null).await;
    assert_eq!(aliases[server.name("t-1")]["aliases"].as_object().unwrap().len(), 2);
}
