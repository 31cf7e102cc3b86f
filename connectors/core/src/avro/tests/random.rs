//! Random tables and rows, and what they are to our codec, to `apache-avro` and to Arrow.

use std::sync::Arc;

use apache_avro::types::Value;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::avro::{escape, write};
use crate::{
    Attribute, Change, Column, ColumnType, Epoch, Event, Lsn, NARROW_PRECISION_MAX, Op, Position,
    Table, Transaction, Version, i256,
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
    WideDecimal(i256),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
    Record(Vec<Self>),
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
    let first = ("[a-z]{1,6}", scalar());
    (first, vec(column, 0..8), vec(any::<Index>(), 1..4)).prop_map(|(first, mut columns, key)| {
        columns.insert(0, first);
        let fit: Vec<usize> =
            (0..columns.len()).filter(|place| columns[*place].1.can_be_key()).collect();
        // A number makes the names distinct.
        let column = |(place, (name, kind)): (usize, (String, ColumnType))| Column {
            attnum: i16::try_from(place + 1).unwrap(),
            name: format!("{name}{place}"),
            source_type: String::new(),
            kind,
        };
        let columns = columns.into_iter().enumerate().map(column).collect();
        let mut key: Vec<usize> = key.iter().map(|index| *index.get(&fit)).collect();
        let mut seen = std::collections::HashSet::new();
        key.retain(|place| seen.insert(*place));
        let (schema, name) = ("shop".to_owned(), "orders".to_owned());
        Arc::new(Table { oid: 1, version: 1, schema, name, columns, key })
    })
}

fn scalar() -> impl Strategy<Value = ColumnType> + Clone {
    prop_oneof![
        Just(ColumnType::Bool),
        Just(ColumnType::Int16),
        Just(ColumnType::Int32),
        Just(ColumnType::Int64),
        Just(ColumnType::Float32),
        Just(ColumnType::Float64),
        (1..=crate::PRECISION_MAX)
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
    ]
}

pub(crate) fn kind() -> impl Strategy<Value = ColumnType> {
    let leaf = prop_oneof![
        8 => scalar(),
        1 => Just(ColumnType::Interval),
        1 => Just(ColumnType::Map),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            2 => inner.clone().prop_map(|element| ColumnType::Array(Box::new(element))),
            1 => inner.clone().prop_map(|bound| ColumnType::Range(Box::new(bound))),
            2 => vec(("[a-z]{1,3}|\\PC{1,3}", inner), 1..4).prop_map(|parts| {
                // A number makes the names distinct.
                let attribute = |(place, (name, kind))| Attribute {
                    name: format!("{name}{place}"),
                    kind,
                };
                ColumnType::Record(parts.into_iter().enumerate().map(attribute).collect())
            }),
        ]
    })
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
        ColumnType::Decimal { precision, .. } if *precision > NARROW_PRECISION_MAX => {
            let bound = i256::from_i128(10).checked_pow((*precision).into()).unwrap();
            let most = bound - i256::ONE;
            let random = any::<(u128, i128)>().prop_map(|(low, high)| i256::from_parts(low, high));
            let random = random.prop_map(move |value| value.checked_rem(bound).unwrap());
            prop_oneof![random, Just(most), Just(-most), any::<i128>().prop_map(i256::from_i128)]
                .prop_map(Cell::WideDecimal)
                .boxed()
        }
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
        ColumnType::Map => {
            let text = any::<String>().prop_map(Cell::Text);
            let value = prop_oneof![1 => Just(Cell::Null), 3 => text];
            let entries = proptest::collection::btree_map(any::<String>(), value, 0..4);
            entries.prop_map(|entries| Cell::Map(entries.into_iter().collect())).boxed()
        }
        ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
            let members = kind.members();
            let part = |part: &crate::Member<'_>| {
                if part.nullable { nullable(part.kind) } else { cell(part.kind) }
            };
            members.iter().map(part).collect::<Vec<_>>().prop_map(Cell::Record).boxed()
        }
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
    let none = prop_oneof![Just(Change::Truncate), Just(Change::Sweep)];
    let op = prop_oneof![9 => ops.prop_map(Ok), 1 => none.prop_map(Err)];
    let what = (op, any::<bool>(), vec(".{1,3}", 0..2));
    (position, what, row(&table), row(&table), any::<(u32, i64)>()).prop_map(
        move |((epoch, lsn, ordinal, part), (op, has_before, unchanged), old, new, (xid, us))| {
            let commit_lsn = Lsn(lsn);
            let before = (has_before && op.is_ok()).then_some(old);
            let after = op.as_ref().ok().filter(|op| **op != Op::Delete).map(|_| new.clone());
            let key: Row = table.key.iter().map(|place| new[*place].clone()).collect();
            let change = op.map_or_else(
                |other| other,
                |op| Change::Row {
                    op,
                    key: Bytes::from(encode_key(&table, &key)),
                    before: before.as_ref().map(|row| encode_row(&table, row).into()),
                    after: after.as_ref().map(|row| encode_row(&table, row).into()),
                    unchanged: if op == Op::Update { unchanged } else { Vec::new() },
                },
            );
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
        Cell::WideDecimal(unscaled) => write::wide_decimal(out, *unscaled),
        Cell::Text(text) => write::string(out, text),
        Cell::Bytes(bytes) => write::bytes(out, bytes),
        Cell::List(cells) => {
            let ColumnType::Array(element) = kind else { unreachable!("a list outside an array") };
            write::array_start(out, cells.len());
            cells.iter().for_each(|cell| encode_nullable(out, element, cell));
            write::array_end(out);
        }
        Cell::Map(entries) => {
            write::array_start(out, entries.len());
            for (key, value) in entries {
                write::string(out, key);
                encode_nullable(out, &ColumnType::Text, value);
            }
            write::array_end(out);
        }
        Cell::Record(cells) => {
            for (part, cell) in kind.members().iter().zip(cells) {
                if part.nullable {
                    encode_nullable(out, part.kind, cell);
                } else {
                    encode_cell(out, part.kind, cell);
                }
            }
        }
    }
}

fn encode_nullable(out: &mut Vec<u8>, kind: &ColumnType, cell: &Cell) {
    if *cell == Cell::Null {
        write::null_branch(out);
    } else {
        write::value_branch(out);
        encode_cell(out, kind, cell);
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
        (_, Cell::WideDecimal(unscaled)) => Value::Decimal(unscaled.to_be_bytes().into()),
        (ColumnType::Uuid, Cell::Text(text)) => Value::Uuid(text.parse().unwrap()),
        (_, Cell::Text(text)) => Value::String(text.clone()),
        (_, Cell::Bytes(bytes)) => Value::Bytes(bytes.clone()),
        (ColumnType::Array(element), Cell::List(cells)) => {
            Value::Array(cells.iter().map(|cell| avro_nullable(element, cell)).collect())
        }
        (_, Cell::Map(entries)) => {
            let entry = |(key, value): &(String, Cell)| {
                (key.clone(), avro_nullable(&ColumnType::Text, value))
            };
            Value::Map(entries.iter().map(entry).collect())
        }
        (kind, Cell::Record(cells)) => {
            let field = |(part, cell): (&crate::Member<'_>, &Cell)| {
                let value = if part.nullable {
                    avro_nullable(part.kind, cell)
                } else {
                    avro_cell(part.kind, cell)
                };
                (escape(part.name).into_owned(), value)
            };
            Value::Record(kind.members().iter().zip(cells).map(field).collect())
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
        ColumnType::Decimal { precision, .. } if *precision > NARROW_PRECISION_MAX => {
            Cell::WideDecimal(array.as_primitive::<Decimal256Type>().value(row))
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
        ColumnType::Map => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1));
            let entry = |n| {
                let value = arrow_cell(&ColumnType::Text, values.as_ref(), n);
                (keys.value(n).to_owned(), value)
            };
            let mut entries: Vec<_> = (0..entries.len()).map(entry).collect();
            // `apache-avro` writes a map in no order.
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            Cell::Map(entries)
        }
        ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
            let members = kind.members();
            let parts = members.iter().zip(array.as_struct().columns());
            let cell = |(part, array): (&crate::Member<'_>, &arrow_array::ArrayRef)| {
                arrow_cell(part.kind, array.as_ref(), row)
            };
            Cell::Record(parts.map(cell).collect())
        }
    }
}

/// The version that stores must see.
pub(crate) fn version(event: &Event) -> Version {
    Version::new(event.position.epoch, event.position.commit_lsn, event.part)
}
