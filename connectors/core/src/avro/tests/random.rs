//! Random tables and rows, and what they are to our codec, to `apache-avro` and to Arrow.

use std::sync::Arc;

use apache_avro::types::Value;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::avro::{escape, write};
use crate::{
    Change, Column, ColumnType, Epoch, Event, Lsn, Op, Position, Table, Transaction, Version,
};

/// A value, whatever its column. Floats are kept as bits, so that NaN equals itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float32(u32),
    Float64(u64),
    Decimal(i128),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Self>),
}

pub(crate) type Row = Vec<Cell>;

/// A change of a table, and the rows it was encoded from.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) event: Event,
    pub(crate) key: Row,
    pub(crate) before: Option<Row>,
    pub(crate) after: Option<Row>,
}

pub(crate) fn table() -> impl Strategy<Value = Arc<Table>> {
    let column = ("[a-z]{1,6}|\\PC{1,6}", kind());
    (vec(column, 1..8), vec(any::<Index>(), 1..4)).prop_map(|(columns, key)| {
        let width = columns.len();
        // A number makes the names distinct.
        let column = |(place, (name, kind)): (usize, (String, ColumnType))| Column {
            attnum: i16::try_from(place + 1).unwrap(),
            name: format!("{name}{place}"),
            source_type: String::new(),
            kind,
        };
        let columns = columns.into_iter().enumerate().map(column).collect();
        let mut key: Vec<usize> = key.iter().map(|index| index.index(width)).collect();
        let mut seen = std::collections::HashSet::new();
        key.retain(|place| seen.insert(*place));
        let (schema, name) = ("shop".to_owned(), "orders".to_owned());
        Arc::new(Table { oid: 1, version: 1, schema, name, columns, key })
    })
}

pub(crate) fn kind() -> impl Strategy<Value = ColumnType> {
    let scalar = prop_oneof![
        Just(ColumnType::Bool),
        Just(ColumnType::Int16),
        Just(ColumnType::Int32),
        Just(ColumnType::Int64),
        Just(ColumnType::Float32),
        Just(ColumnType::Float64),
        (1..=38_u8)
            .prop_flat_map(|precision| (Just(precision), 0..=precision))
            .prop_map(|(precision, scale)| ColumnType::Decimal { precision, scale }),
        Just(ColumnType::Text),
        Just(ColumnType::Json),
        Just(ColumnType::Bytes),
        Just(ColumnType::Uuid),
        Just(ColumnType::Date),
        Just(ColumnType::Time),
        Just(ColumnType::Timestamp),
        Just(ColumnType::TimestampTz),
    ];
    prop_oneof![
        5 => scalar.clone(),
        1 => scalar.prop_map(|element| ColumnType::Array(Box::new(element))),
    ]
}

pub(crate) fn cell(kind: &ColumnType) -> BoxedStrategy<Cell> {
    match kind {
        ColumnType::Bool => any::<bool>().prop_map(Cell::Bool).boxed(),
        ColumnType::Int16 => any::<i16>().prop_map(|v| Cell::Int(v.into())).boxed(),
        ColumnType::Int32 | ColumnType::Date => {
            let extremes = prop_oneof![any::<i32>(), Just(i32::MAX), Just(i32::MIN), -9..9];
            extremes.prop_map(|v| Cell::Int(v.into())).boxed()
        }
        ColumnType::Int64 | ColumnType::Time | ColumnType::Timestamp | ColumnType::TimestampTz => {
            let extremes = prop_oneof![any::<i64>(), Just(i64::MAX), Just(i64::MIN), -9_i64..9];
            extremes.prop_map(Cell::Int).boxed()
        }
        ColumnType::Float32 => any::<u32>().prop_map(Cell::Float32).boxed(),
        ColumnType::Float64 => any::<u64>().prop_map(Cell::Float64).boxed(),
        ColumnType::Decimal { precision, .. } => {
            let bound = 10_i128.pow((*precision).into()) - 1;
            let near = prop_oneof![-bound..=bound, Just(bound), Just(-bound), Just(0)];
            near.prop_map(Cell::Decimal).boxed()
        }
        ColumnType::Text => any::<String>().prop_map(Cell::Text).boxed(),
        ColumnType::Json => "\\{\"a\":( |\n)*[1-9][0-9]{0,40}\\}".prop_map(Cell::Text).boxed(),
        ColumnType::Bytes => vec(any::<u8>(), 0..20).prop_map(Cell::Bytes).boxed(),
        ColumnType::Uuid => {
            any::<u128>().prop_map(|v| Cell::Text(uuid::Uuid::from_u128(v).to_string())).boxed()
        }
        ColumnType::Array(element) => vec(nullable(element), 0..5).prop_map(Cell::List).boxed(),
    }
}

fn nullable(kind: &ColumnType) -> BoxedStrategy<Cell> {
    prop_oneof![1 => Just(Cell::Null), 3 => cell(kind)].boxed()
}

pub(crate) fn row(table: &Table) -> BoxedStrategy<Row> {
    let strategies: Vec<_> = table
        .columns
        .iter()
        .enumerate()
        .map(|(place, c)| if table.is_key(place) { cell(&c.kind) } else { nullable(&c.kind) })
        .collect();
    strategies.boxed()
}

pub(crate) fn sample(table: Arc<Table>) -> impl Strategy<Value = Sample> {
    let position = (any::<u8>(), 0..Lsn::VERSION_LIMIT.0, 1..u64::from(u32::MAX), any::<u8>());
    let ops = prop_oneof![Just(Op::Create), Just(Op::Update), Just(Op::Delete), Just(Op::Read)];
    let what = (proptest::option::weighted(0.9, ops), any::<bool>(), vec(".{1,3}", 0..2));
    (position, what, row(&table), row(&table), any::<(u32, i64)>()).prop_map(
        move |((epoch, lsn, ordinal, part), (op, has_before, unchanged), old, new, (xid, us))| {
            let commit_lsn = Lsn(lsn);
            let before = (has_before && op.is_some()).then_some(old);
            let after = op.filter(|op| *op != Op::Delete).map(|_| new.clone());
            let key: Row = table.key.iter().map(|place| new[*place].clone()).collect();
            let change = op.map_or(Change::Truncate, |op| Change::Row {
                op,
                key: Bytes::from(encode_key(&table, &key)),
                before: before.as_ref().map(|row| encode_row(&table, row).into()),
                after: after.as_ref().map(|row| encode_row(&table, row).into()),
                unchanged: if op == Op::Update { unchanged } else { Vec::new() },
            });
            let event = Event {
                table: Arc::clone(&table),
                position: Position { epoch: Epoch(epoch), commit_lsn, ordinal },
                part,
                transaction: Arc::new(Transaction { xid, commit_lsn, commit_us: us }),
                change,
            };
            Sample { event, key, before, after }
        },
    )
}

/// A table and changes of it.
pub(crate) fn samples() -> impl Strategy<Value = (Arc<Table>, Vec<Sample>)> {
    table().prop_flat_map(|table| (Just(Arc::clone(&table)), vec(sample(table), 1..6)))
}

pub(crate) fn encode_key(table: &Table, key: &[Cell]) -> Vec<u8> {
    let mut out = Vec::new();
    for (column, cell) in table.key_columns().zip(key) {
        encode_cell(&mut out, &column.kind, cell);
    }
    out
}

pub(crate) fn encode_row(table: &Table, row: &[Cell]) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, (column, cell)) in table.columns.iter().zip(row).enumerate() {
        if *cell == Cell::Null {
            write::null_branch(&mut out);
            continue;
        }
        if !table.is_key(place) {
            write::value_branch(&mut out);
        }
        encode_cell(&mut out, &column.kind, cell);
    }
    out
}

fn encode_cell(out: &mut Vec<u8>, kind: &ColumnType, cell: &Cell) {
    match cell {
        Cell::Null => unreachable!("a key without a value"),
        Cell::Bool(value) => write::boolean(out, *value),
        Cell::Int(value) => write::long(out, *value),
        Cell::Float32(bits) => write::float(out, f32::from_bits(*bits)),
        Cell::Float64(bits) => write::double(out, f64::from_bits(*bits)),
        Cell::Decimal(unscaled) => write::decimal(out, *unscaled),
        Cell::Text(text) => write::string(out, text),
        Cell::Bytes(bytes) => write::bytes(out, bytes),
        Cell::List(cells) => {
            let ColumnType::Array(element) = kind else { unreachable!("a list outside an array") };
            write::array_start(out, cells.len());
            for cell in cells {
                if *cell == Cell::Null {
                    write::null_branch(out);
                } else {
                    write::value_branch(out);
                    encode_cell(out, element, cell);
                }
            }
            write::array_end(out);
        }
    }
}

/// The row as `apache-avro` has it.
pub(crate) fn avro_row(table: &Table, row: &[Cell]) -> Value {
    let field = |(place, (column, cell)): (usize, (&Column, &Cell))| {
        let value = match cell {
            cell if table.is_key(place) => avro_cell(&column.kind, cell),
            cell => avro_nullable(&column.kind, cell),
        };
        (escape(&column.name).into_owned(), value)
    };
    Value::Record(table.columns.iter().zip(row).enumerate().map(field).collect())
}

pub(crate) fn avro_key(table: &Table, key: &[Cell]) -> Value {
    let fields = table.key_columns().zip(key);
    let field =
        |(c, cell): (&Column, &Cell)| (escape(&c.name).into_owned(), avro_cell(&c.kind, cell));
    Value::Record(fields.map(field).collect())
}

pub(crate) fn some(value: Value) -> Value {
    Value::Union(1, Box::new(value))
}

pub(crate) fn none() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

fn avro_nullable(kind: &ColumnType, cell: &Cell) -> Value {
    if *cell == Cell::Null { none() } else { some(avro_cell(kind, cell)) }
}

fn avro_cell(kind: &ColumnType, cell: &Cell) -> Value {
    match (kind, cell) {
        (_, Cell::Bool(value)) => Value::Boolean(*value),
        (ColumnType::Date, Cell::Int(days)) => Value::Date(i32::try_from(*days).unwrap()),
        (ColumnType::Time, Cell::Int(micros)) => Value::TimeMicros(*micros),
        (ColumnType::Timestamp, Cell::Int(micros)) => Value::LocalTimestampMicros(*micros),
        (ColumnType::TimestampTz, Cell::Int(micros)) => Value::TimestampMicros(*micros),
        (ColumnType::Int64, Cell::Int(value)) => Value::Long(*value),
        (_, Cell::Int(value)) => Value::Int(i32::try_from(*value).unwrap()),
        (_, Cell::Float32(bits)) => Value::Float(f32::from_bits(*bits)),
        (_, Cell::Float64(bits)) => Value::Double(f64::from_bits(*bits)),
        (_, Cell::Decimal(unscaled)) => Value::Decimal(unscaled.to_be_bytes().into()),
        (ColumnType::Uuid, Cell::Text(text)) => Value::Uuid(text.parse().unwrap()),
        (_, Cell::Text(text)) => Value::String(text.clone()),
        (_, Cell::Bytes(bytes)) => Value::Bytes(bytes.clone()),
        (ColumnType::Array(element), Cell::List(cells)) => {
            Value::Array(cells.iter().map(|cell| avro_nullable(element, cell)).collect())
        }
        (kind, cell) => unreachable!("{cell:?} is no {kind:?}"),
    }
}

/// A row of a batch.
pub(crate) fn arrow_row(table: &Table, batch: &RecordBatch, row: usize) -> Row {
    let columns = table.columns.iter().zip(batch.columns());
    columns.map(|(column, array)| arrow_cell(&column.kind, array.as_ref(), row)).collect()
}

fn arrow_cell(kind: &ColumnType, array: &dyn Array, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match kind {
        ColumnType::Bool => Cell::Bool(array.as_boolean().value(row)),
        ColumnType::Int16 => Cell::Int(array.as_primitive::<Int16Type>().value(row).into()),
        ColumnType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(row).into()),
        ColumnType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float32 => {
            Cell::Float32(array.as_primitive::<Float32Type>().value(row).to_bits())
        }
        ColumnType::Float64 => {
            Cell::Float64(array.as_primitive::<Float64Type>().value(row).to_bits())
        }
        ColumnType::Decimal { .. } => {
            Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row))
        }
        ColumnType::Text | ColumnType::Json | ColumnType::Uuid => {
            Cell::Text(array.as_string::<i32>().value(row).to_owned())
        }
        ColumnType::Bytes => Cell::Bytes(array.as_binary::<i32>().value(row).to_owned()),
        ColumnType::Date => Cell::Int(array.as_primitive::<Date32Type>().value(row).into()),
        ColumnType::Time => Cell::Int(array.as_primitive::<Time64MicrosecondType>().value(row)),
        ColumnType::Timestamp | ColumnType::TimestampTz => {
            Cell::Int(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        ColumnType::Array(element) => {
            let elements = array.as_list::<i32>().value(row);
            let cells = 0..elements.len();
            Cell::List(cells.map(|n| arrow_cell(element, elements.as_ref(), n)).collect())
        }
    }
}

/// The version that stores must see.
pub(crate) fn version(event: &Event) -> Version {
    Version::new(event.position.epoch, event.position.commit_lsn, event.part)
}
