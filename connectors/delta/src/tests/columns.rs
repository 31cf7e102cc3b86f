//! Types and changes of columns.

use std::sync::Arc;

use anabranch_core::{
    Attribute, Batch, Column, ColumnType, ErrorKind, RowMeta, RowOp, Sink, Table, UnitCursor, i256,
};
use anabranch_core::{CURSOR_FORMAT, Epoch, Lsn, StoreCursor, Version};
use arrow_array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_schema::DataType;
use bytes::Bytes;
use deltalake::arrow::compute::concat_batches;

use super::support::{World, assignment};
use crate::{DeltaSink, read_table};

fn column(attnum: i16, name: &str, kind: ColumnType) -> Column {
    Column { attnum, name: name.to_owned(), source_type: "?".to_owned(), kind }
}

fn table(columns: Vec<Column>) -> Table {
    let (schema, name) = ("public".to_owned(), "t".to_owned());
    Table { oid: 1, version: 1, schema, name, columns, key: vec![0] }
}

fn open(world: &World, table: &Table) -> DeltaSink {
    let mut assignment = assignment(&[0]);
    assignment.table = Arc::new(table.clone());
    DeltaSink::open(&world.config(), assignment).unwrap()
}

fn cursor(next: i64) -> StoreCursor {
    let log = anabranch_core::conformance::LOG;
    let unit =
        UnitCursor { format: CURSOR_FORMAT, log, generation: 1, resets: 0, next, last: None };
    StoreCursor::from([(0, unit)])
}

/// A batch of rows with the keys that begin in the first column.
fn batch(table: &Table, columns: Vec<ArrayRef>, lsn: u64) -> Batch {
    let rows = RecordBatch::try_new(table.arrow(), columns).unwrap();
    let meta = |row: usize| RowMeta {
        op: RowOp::Upsert,
        partition: 0,
        version: Version::new(Epoch(0), Lsn(lsn * 64), 0),
        key: Bytes::from(format!("{:?}", rows.column(0).slice(row, 1))),
    };
    let meta = (0..rows.num_rows()).map(meta).collect();
    Batch { table: Arc::new(table.clone()), rows, meta, delete_below: Vec::new() }
}

async fn read(world: &World, table: &Table) -> RecordBatch {
    let rows = read_table(&world.config(), table).await.unwrap();
    concat_batches(&rows[0].schema(), &rows).unwrap()
}

fn every_type() -> Table {
    let list = ColumnType::Array(Box::new(ColumnType::Time));
    table(vec![
        column(1, "uuid", ColumnType::Uuid),
        column(2, "bool", ColumnType::Bool),
        column(3, "int2", ColumnType::Int16),
        column(4, "int4", ColumnType::Int32),
        column(5, "int8", ColumnType::Int64),
        column(6, "float4", ColumnType::Float32),
        column(7, "float8", ColumnType::Float64),
        column(8, "numeric", ColumnType::Decimal { precision: 38, scale: 10 }),
        column(9, "text", ColumnType::Text),
        column(10, "json", ColumnType::Json),
        column(11, "bytea", ColumnType::Bytes),
        column(12, "date", ColumnType::Date),
        column(13, "time", ColumnType::Time),
        column(14, "timestamp", ColumnType::Timestamp),
        column(15, "timestamptz", ColumnType::TimestampTz),
        column(16, "times", list),
        column(17, "interval", ColumnType::Interval),
        column(18, "wide", ColumnType::Decimal { precision: 76, scale: 4 }),
        column(19, "hstore", ColumnType::Map),
        column(20, "range", ColumnType::Range(Box::new(ColumnType::Timestamp))),
        column(21, "composite", composite(["a", "b c"])),
        column(22, "record", composite(["a", "b"])),
    ])
}

/// A composite type of a time and a wide decimal.
fn composite([one, two]: [&str; 2]) -> ColumnType {
    let attribute = |name: &str, kind| Attribute { name: name.to_owned(), kind };
    let wide = ColumnType::Decimal { precision: 39, scale: 0 };
    ColumnType::Record(vec![attribute(one, ColumnType::Time), attribute(two, wide)])
}

/// A struct of `parts`, null in the second row.
fn record(kind: &ColumnType, parts: Vec<ArrayRef>) -> ArrayRef {
    let DataType::Struct(fields) = kind.arrow() else { panic!("no struct") };
    let nulls = vec![true, false, true, true].into();
    Arc::new(StructArray::new(fields, parts, Some(nulls)))
}

/// The values of the columns from `interval` on.
fn made_of_parts() -> Vec<ArrayRef> {
    let ints = |values: [i32; 4]| -> ArrayRef { Arc::new(Int32Array::from(values.to_vec())) };
    let micros: ArrayRef = Arc::new(Int64Array::from(vec![1_500_000, 0, i64::MAX, 0]));
    let wide = |values: [i128; 4], precision, scale| -> ArrayRef {
        let values = values.map(i256::from_i128).to_vec();
        let values = Decimal256Array::from(values);
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    };
    let flags = || -> ArrayRef {
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]))
    };
    let bounds = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values))
    };
    let mut maps = MapBuilder::new(
        Some(MapFieldNames {
            entry: "key_value".to_owned(),
            key: "key".to_owned(),
            value: "value".to_owned(),
        }),
        StringBuilder::new(),
        StringBuilder::new(),
    );
    maps.keys().append_value("k");
    maps.values().append_value("v");
    maps.keys().append_value("n");
    maps.values().append_null();
    for valid in [true, false, true, true] {
        maps.append(valid).unwrap();
    }
    let time = || -> ArrayRef {
        Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, None, Some(0)]))
    };
    let pair = |names| {
        let parts = vec![time(), wide([i128::MAX, 0, 7, -7], 39, 0)];
        record(&composite(names), parts)
    };
    vec![
        record(
            &ColumnType::Interval,
            vec![ints([14, 0, i32::MAX, 0]), ints([-3, 0, i32::MAX, 0]), micros],
        ),
        wide([i128::MAX, 0, -1, 0], 76, 4),
        Arc::new(maps.finish()),
        record(
            &ColumnType::Range(Box::new(ColumnType::Timestamp)),
            vec![
                bounds(vec![Some(5), None, None, Some(i64::MAX)]),
                bounds(vec![None; 4]),
                flags(),
                flags(),
                flags(),
            ],
        ),
        pair(["a", "b c"]),
        pair(["a", "b"]),
    ]
}

/// An ordinary row, one of nulls, one of the highest and one of the lowest values: PostgreSQL's
/// infinities travel as the ends of the integers.
fn every_value() -> Vec<ArrayRef> {
    let micros = || {
        let values = vec![Some(1_700_000_000_123_456), None, Some(i64::MAX), Some(i64::MIN)];
        TimestampMicrosecondArray::from(values)
    };
    let times = Time64MicrosecondArray::from(vec![Some(0), Some(86_400_000_000)]);
    let element = arrow_schema::Field::new("element", times.data_type().clone(), true);
    let lengths = deltalake::arrow::buffer::OffsetBuffer::from_lengths([2, 0, 0, 0]);
    let decimals = vec![Some(-12_345), None, Some(10_i128.pow(38) - 1), Some(1 - 10_i128.pow(38))];
    vec![
        Arc::new(StringArray::from(vec!["a", "b", "c", "d"])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])),
        Arc::new(Int16Array::from(vec![Some(1), None, Some(i16::MAX), Some(i16::MIN)])),
        Arc::new(Int32Array::from(vec![Some(1), None, Some(i32::MAX), Some(i32::MIN)])),
        Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MAX), Some(i64::MIN)])),
        Arc::new(Float32Array::from(vec![Some(f32::NAN), None, Some(f32::INFINITY), Some(-0.0)])),
        Arc::new(Float64Array::from(vec![
            Some(f64::NAN),
            None,
            Some(f64::INFINITY),
            Some(f64::NEG_INFINITY),
        ])),
        Arc::new(Decimal128Array::from(decimals).with_precision_and_scale(38, 10).unwrap()),
        Arc::new(StringArray::from(vec![
            Some(""),
            None,
            Some("\u{10ffff}"),
            Some("x".repeat(9000).as_str()),
        ])),
        Arc::new(StringArray::from(vec![Some("{ \"a\" : 1.0 }"), None, Some("null"), Some("[]")])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0"), None, Some(b"\xff"), Some(b"")])),
        Arc::new(Date32Array::from(vec![Some(20_000), None, Some(i32::MAX), Some(i32::MIN)])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_400_000_000), Some(0)])),
        Arc::new(micros()),
        Arc::new(micros().with_timezone("UTC")),
        Arc::new(ListArray::new(
            Arc::new(element),
            lengths,
            Arc::new(times),
            Some(vec![true, false, true, true].into()),
        )),
    ]
}

/// The values of every column of [`every_type`].
fn whole_rows() -> Vec<ArrayRef> {
    every_value().into_iter().chain(made_of_parts()).collect()
}

#[tokio::test]
async fn every_value_of_every_type_is_held_as_it_is() {
    let world = World::new(1);
    let table = every_type();
    let mut sink = open(&world, &table);
    sink.apply(&batch(&table, whole_rows(), 1), &cursor(1)).await.unwrap();
    // The second time the keys are found by what is in the file.
    let mut sink = open(&world, &table);
    sink.apply(&batch(&table, whole_rows(), 2), &cursor(2)).await.unwrap();
    let rows = read(&world, &table).await;
    assert_eq!(rows.num_rows(), 4);
    let written = whole_rows();
    let as_text = ["time", "times", "interval", "wide", "composite", "record"];
    let column = |name| rows.column_by_name(name).unwrap();
    for (place, wanted) in table.columns.iter().zip(&written) {
        if !as_text.contains(&place.name.as_str()) {
            let found = column(&place.name);
            assert_eq!(format!("{found:?}"), format!("{wanted:?}"), "{}", place.name);
        }
    }
    let times: Vec<_> = column("time").as_string::<i32>().iter().collect();
    assert_eq!(times[0], Some("00:00:00.000001"));
    assert_eq!(times[1], None);
    let list = column("times").as_list::<i32>();
    assert_eq!(list.value(0).as_string::<i32>().value(0), "00:00:00.000000");
    assert!(list.is_null(1) && list.value(2).is_empty());
    assert_eq!(column("date").as_primitive::<Date32Type>().value(2), i32::MAX);
    assert_eq!(column("timestamp").as_primitive::<TimestampMicrosecondType>().value(3), i64::MIN);
    assert_eq!(column("numeric").as_primitive::<Decimal128Type>().value(2), 10_i128.pow(38) - 1);
    assert!(column("float8").as_primitive::<Float64Type>().value(0).is_nan());
    let texts = |name| -> Vec<Option<&str>> { column(name).as_string::<i32>().iter().collect() };
    assert_eq!(texts("interval"), [Some("P1Y2M-3DT1.5S"), None, Some("infinity"), Some("PT0S")]);
    assert_eq!(texts("wide")[0], Some("17014118346046923173168730371588410.5727"));
    assert_eq!(texts("wide")[2], Some("-0.0001"));
    assert_eq!(
        texts("composite"),
        [
            Some("{\"a\":\"00:00:00.000001\",\"b c\":170141183460469231731687303715884105727}"),
            None,
            Some("{\"a\":null,\"b c\":7}"),
            Some("{\"a\":\"00:00:00.000000\",\"b c\":-7}"),
        ]
    );
    let parts = column("record").as_struct();
    assert!(parts.is_null(1));
    assert_eq!(parts.column(0).as_string::<i32>().value(0), "00:00:00.000001");
    assert_eq!(parts.column(1).as_string::<i32>().value(3), "-7");
}

#[tokio::test]
async fn every_type_that_can_be_a_key_is_one() {
    let every = every_type();
    for (place, values) in every_value().into_iter().enumerate().take(15) {
        let world = World::new(1);
        let mut key = every.columns[place].clone();
        key.name = "k".to_owned();
        let table = table(vec![key, column(99, "value", ColumnType::Int32)]);
        for step in 1..4_i32 {
            let value: ArrayRef = Arc::new(Int32Array::from(vec![step; 3]));
            let mut sink = open(&world, &table);
            let batch = batch(&table, vec![values.slice(0, 3), value], step as u64);
            sink.apply(&batch, &cursor(i64::from(step))).await.unwrap();
        }
        let rows = read(&world, &table).await;
        let found = rows.column_by_name("value").unwrap().as_primitive::<Int32Type>();
        assert_eq!(found.values(), &[3; 3], "key of type {:?}", table.columns[0].kind);
    }
}

fn ids(ids: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(ids.to_vec()))
}

fn texts(texts: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

#[tokio::test]
async fn a_new_column_is_added_and_a_dropped_one_is_null() {
    let world = World::new(1);
    let id = || column(1, "id", ColumnType::Int64);
    let first = table(vec![id(), column(2, "old", ColumnType::Text)]);
    let mut sink = open(&world, &first);
    let rows = batch(&first, vec![ids(&[1, 2]), texts(&["a", "b"])], 1);
    sink.apply(&rows, &cursor(1)).await.unwrap();
    let second = table(vec![id(), column(3, "at", ColumnType::Timestamp)]);
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![5]));
    sink.apply(&batch(&second, vec![ids(&[2]), at], 2), &cursor(2)).await.unwrap();
    // An older version of the schema may come again.
    let again = batch(&first, vec![ids(&[3]), texts(&["c"])], 3);
    sink.apply(&again, &cursor(3)).await.unwrap();
    let rows = read(&world, &second).await;
    let names: Vec<_> = rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "old", "_v", "_p", "at"]);
    let old = rows.column_by_name("old").unwrap().as_string::<i32>();
    let at = rows.column_by_name("at").unwrap().as_primitive::<TimestampMicrosecondType>();
    let id = rows.column_by_name("id").unwrap().as_primitive::<arrow_array::types::Int64Type>();
    let mut seen: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let old = old.is_valid(row).then(|| old.value(row).to_owned());
            (id.value(row), old, at.is_valid(row).then(|| at.value(row)))
        })
        .collect();
    seen.sort();
    let of = |text: &str| Some(text.to_owned());
    assert_eq!(seen, [(1, of("a"), None), (2, None, Some(5)), (3, of("c"), None)]);
    let library = deltalake::open_table(world.url()).await.unwrap();
    let features = format!("{:?}", library.snapshot().unwrap().protocol());
    assert!(features.contains("TimestampWithoutTimezone"), "{features}");
}

/// Applies a first version of a table and then another, and gives back the refusal.
async fn refusal(first: Table, second: Table) -> String {
    let world = World::new(1);
    let mut sink = open(&world, &first);
    let empty = |table: &Table| Batch::empty(Arc::new(table.clone()));
    sink.apply(&empty(&first), &cursor(1)).await.unwrap();
    let before = world.log().load(None).await.unwrap().unwrap().version;
    let refused = sink.apply(&empty(&second), &cursor(2)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.help().is_some());
    assert_eq!(world.log().load(None).await.unwrap().unwrap().version, before);
    refused.report()
}

#[tokio::test]
async fn any_other_change_is_refused_by_name() {
    let of = |columns: &[(i16, &str, ColumnType)]| {
        table(columns.iter().map(|(n, name, kind)| column(*n, name, kind.clone())).collect())
    };
    let int = || ColumnType::Int64;
    let first = of(&[(1, "id", int()), (2, "a", int())]);
    let cases = [
        (of(&[(1, "id", int()), (2, "a", ColumnType::Text)]), "column a was long and is string"),
        (of(&[(1, "id", int()), (2, "b", int())]), "column a was renamed to b"),
        (of(&[(1, "id", int()), (3, "a", int())]), "column a was dropped and added again"),
        (of(&[(2, "a", int()), (1, "id", int())]), "its key is no longer (id)"),
    ];
    for (second, why) in cases {
        let report = refusal(first.clone(), second).await;
        assert!(report.contains(why) && report.contains("public.t"), "{report}");
    }
}

#[tokio::test]
async fn what_delta_cannot_hold_is_refused_before_anything_is_created() {
    for names in [["id", "_V"], ["id", "a b"], ["id", "ID"]] {
        let columns = names.iter().zip(1..).map(|(n, at)| column(at, n, ColumnType::Int64));
        let table = table(columns.collect());
        let world = World::new(1);
        let batch = Batch::empty(Arc::new(table.clone()));
        let refused = open(&world, &table).apply(&batch, &cursor(1)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused:?}");
        assert!(!world.url().to_file_path().unwrap().exists(), "nothing is left behind");
    }
}

#[tokio::test]
async fn a_table_of_somebody_else_is_left_alone() {
    let world = World::new(1);
    let folder = world.url().to_file_path().unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    let field = deltalake::kernel::StructField::nullable("id", deltalake::kernel::DataType::LONG);
    let theirs = deltalake::DeltaTable::try_from_url(world.url()).await.unwrap();
    theirs.create().with_columns([field]).await.unwrap();
    let mut sink = open(&world, &table(vec![column(1, "id", ColumnType::Int64)]));
    let refused = sink.cursor().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused:?}");
}
