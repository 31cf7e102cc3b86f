//! What rows of every type become, and how the index follows the table.

use std::sync::Arc;

use anabranch_core::{
    Attribute, Batch, Column, ColumnType, ErrorKind, RowMeta, RowOp, Sink as _, Table, i256,
};
use arrow_array::builder::{ListBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_buffer::OffsetBuffer;
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
            ("gap", ColumnType::Interval),
            ("wide", ColumnType::Decimal { precision: 76, scale: 70 }),
            ("pair", pair()),
            ("spans", ColumnType::Array(Box::new(span()))),
            ("words", ColumnType::Map),
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
        ]
        .into_iter()
        .chain(made_of_parts())
        .collect(),
    )
}

fn pair() -> ColumnType {
    let attribute = |name: &str, kind| Attribute { name: name.to_owned(), kind };
    ColumnType::Record(vec![
        attribute("x", ColumnType::Int32),
        attribute("it's \"q\"", ColumnType::Float64),
    ])
}

fn span() -> ColumnType {
    ColumnType::Range(Box::new(ColumnType::Date))
}

fn record(kind: &ColumnType, parts: Vec<ArrayRef>) -> StructArray {
    let DataType::Struct(fields) = kind.arrow() else { panic!("no struct") };
    let valid = [true, true, false].into_iter().take(parts[0].len());
    StructArray::new(fields, parts, Some(valid.collect::<Vec<_>>().into()))
}

/// `gap`, `wide`, `pair`, `spans` and `words`.
fn made_of_parts() -> Vec<ArrayRef> {
    let ints = |values: [i32; 3]| -> ArrayRef { Arc::new(Int32Array::from(values.to_vec())) };
    let micros: ArrayRef = Arc::new(Int64Array::from(vec![0, i64::MAX, 0]));
    let gap = vec![ints([14, i32::MAX, 0]), ints([-3, i32::MAX, 0]), micros];
    let wide = vec![Some(i256::from_i128(i128::MAX)), Some(i256::MINUS_ONE), None];
    let wide = Decimal256Array::from(wide).with_precision_and_scale(76, 70).unwrap();
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.5, f64::NAN, 0.0]));
    let date = |day| -> ArrayRef { Arc::new(Date32Array::from(vec![day, None])) };
    let flag = |flag| -> ArrayRef { Arc::new(BooleanArray::from(vec![flag; 2])) };
    let bounds =
        vec![date(Some(20_000)), date(Some(i32::MAX)), flag(true), flag(false), flag(false)];
    let spans = record(&span(), bounds);
    let element = Arc::new(Field::new("element", span().arrow(), true));
    let lengths = OffsetBuffer::from_lengths([1, 1, 0]);
    let names = ["key_value", "key", "value"].map(str::to_owned);
    let [entry, key, value] = names;
    let names = MapFieldNames { entry, key, value };
    let mut words = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for (key, value) in [("", Some("no name")), ("a..b", None)] {
        words.keys().append_value(key);
        words.values().append_option(value);
    }
    for valid in [true, true, false] {
        words.append(valid).unwrap();
    }
    vec![
        Arc::new(record(&ColumnType::Interval, gap)),
        Arc::new(wide),
        Arc::new(record(&pair(), vec![ints([1, 2, 3]), floats])),
        Arc::new(ListArray::new(element, lengths, Arc::new(spans), None)),
        Arc::new(words.finish()),
    ]
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
    has("\"gap\":\"P1Y2M-3D\"");
    has("\"gap\":\"infinity\"");
    has("\"wide\":-0.0000000000000000000000000000000000000000000000000000000000000000000001,");
    has("\"pair\":{\"x\":1,\"it's \\\"q\\\"\":0.5}");
    has("\"it's \\\"q\\\"\":\"NaN\"}");
    has("\"spans\":[{\"lower\":\"2024-10-04\",\"upper\":\"infinity\",\"lower_inc\":true,");
    has("\"words\":{\"\":\"no name\",\"a..b\":null}");
    assert_eq!(rows.len(), 3, "keys that look like our own ids are rows like others");
    let query = json!({"query": {"range": {"moment": {"gte": "1970-01-01", "lt": "1970-01-02"}}}});
    let path = format!("{}/_count", server.name("things"));
    let (_, found) = server.ask(Method::Post, &path, &query).await;
    assert_eq!(found["count"], 1, "dates can be searched");
    for (field, bounds) in
        [("pair.x", json!({"gte": 2})), ("spans.lower", json!({"lt": "2025-01-01"}))]
    {
        let query = json!({"query": {"range": {field: bounds}}});
        let (_, found) = server.ask(Method::Post, &path, &query).await;
        assert_eq!(found["count"], 1, "{field} can be searched");
    }
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
