//! The codec against `apache-avro`, against itself, and against broken bytes.

use std::sync::Arc;

use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum, to_avro_datum};
use proptest::prelude::*;

use self::random::{Row, Sample, avro_key, avro_row, none, some};
use super::envelope::{self, SourceNames};
use super::read::{Decoder, Header, Kind};
use super::schema;
use crate::{Change, Column, ColumnType, ErrorKind, Event, Op, RowOp, Table};

pub(crate) mod random;

const TOPIC: &str = "shop-1.shop.orders";
const NOW_US: i64 = 1_700_000_000_123_456;

fn names() -> SourceNames {
    SourceNames { prefix: "shop-1".to_owned(), database: "shop".to_owned() }
}

fn encode(event: &Event) -> Vec<u8> {
    let mut out = Vec::new();
    envelope::encode(event, &names(), NOW_US, &mut out);
    out
}

fn key_of(event: &Event) -> &[u8] {
    match &event.change {
        Change::Row { key, .. } => key,
        Change::Truncate | Change::Sweep => &[],
    }
}

fn kind_of(event: &Event) -> Kind {
    match &event.change {
        Change::Truncate => Kind::Truncate,
        Change::Sweep => Kind::Sweep,
        Change::Row { op: Op::Delete, .. } => Kind::Delete,
        Change::Row { unchanged, .. } if !unchanged.is_empty() => Kind::Marked,
        Change::Row { .. } => Kind::Upsert,
    }
}

fn header_of(event: &Event) -> Header {
    Header {
        position: event.position,
        part: event.part,
        version: random::version(event),
        commit_us: event.transaction.commit_us,
        snapshot: matches!(event.change, Change::Row { op: Op::Read, .. }),
        kind: kind_of(event),
    }
}

/// What a store must see of a change: nothing, or a row.
fn stored_row(table: &Table, sample: &Sample) -> Option<(RowOp, Row)> {
    match kind_of(&sample.event) {
        Kind::Upsert => Some((RowOp::Upsert, sample.after.clone().unwrap())),
        Kind::Delete => {
            let mut row = vec![random::Cell::Null; table.columns.len()];
            for (place, cell) in table.key.iter().zip(&sample.key) {
                row[*place] = cell.clone();
            }
            Some((RowOp::Delete, row))
        }
        Kind::Marked | Kind::Truncate | Kind::Sweep => None,
    }
}

/// The envelope as `apache-avro` has it, written down independently of ours.
fn avro_envelope(table: &Table, sample: &Sample) -> Value {
    let Event { position, part, transaction, change, .. } = &sample.event;
    let image = |row: &Option<Row>| row.as_ref().map_or_else(none, |r| some(avro_row(table, r)));
    let text = |text: &str| Value::String(text.to_owned());
    let lsn = i64::try_from(position.commit_lsn.0).unwrap();
    let (op, unchanged) = match change {
        Change::Row { op, unchanged, .. } => (op.letter(), unchanged.as_slice()),
        Change::Truncate => ("t", [].as_slice()),
        Change::Sweep => ("m", [].as_slice()),
    };
    let xid = transaction.xid;
    let source = [
        ("version", text(env!("CARGO_PKG_VERSION"))),
        ("connector", text("postgresql")),
        ("name", text("shop-1")),
        ("ts_ms", Value::Long(transaction.commit_us.div_euclid(1000))),
        ("snapshot", text(if op == "r" { "true" } else { "false" })),
        ("db", text("shop")),
        ("ts_us", some(Value::Long(transaction.commit_us))),
        ("schema", text(&table.schema)),
        ("table", text(&table.name)),
        ("txId", if xid == 0 { none() } else { some(Value::Long(xid.into())) }),
        ("lsn", some(Value::Long(lsn))),
        ("epoch", Value::Int(position.epoch.0.into())),
        ("commit_lsn", Value::Long(lsn)),
        ("ordinal", Value::Long(i64::try_from(position.ordinal).unwrap())),
        ("part", Value::Int((*part).into())),
    ];
    let marks = Value::Array(unchanged.iter().map(|name| text(name)).collect());
    let fields = [
        ("before", image(&sample.before)),
        ("after", image(&sample.after)),
        ("source", record(source)),
        ("op", text(op)),
        ("ts_ms", some(Value::Long(NOW_US / 1000))),
        ("transaction", none()),
        ("unchanged", if unchanged.is_empty() { none() } else { some(marks) }),
    ];
    record(fields)
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Decimals of one value differ by how many bytes they came from; NaN does not equal itself; maps
/// have no order.
fn canonical(value: &Value) -> String {
    let text = format!("{:?}", sorted(value));
    let mut parts = text.split(", len: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Maps as arrays of their entries, in the order of their keys.
fn sorted(value: &Value) -> Value {
    if let Value::Map(entries) = value {
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        let entry =
            |(key, value): (&String, &Value)| Value::Record(vec![(key.clone(), sorted(value))]);
        return Value::Array(entries.into_iter().map(entry).collect());
    }
    if let Value::Array(elements) = value {
        return Value::Array(elements.iter().map(sorted).collect());
    }
    if let Value::Union(branch, inner) = value {
        return Value::Union(*branch, Box::new(sorted(inner)));
    }
    if let Value::Record(fields) = value {
        let field = |(name, value): &(String, Value)| (name.clone(), sorted(value));
        return Value::Record(fields.iter().map(field).collect());
    }
    value.clone()
}

/// Our bytes of `samples`, through the decoder.
fn check_decoder(table: &Arc<Table>, samples: &[Sample], values: &[Vec<u8>]) {
    let mut decoder = Decoder::new(Arc::clone(table));
    let mut expected = Vec::new();
    for (partition, (sample, value)) in (0..).zip(samples.iter().zip(values)) {
        let header = header_of(&sample.event);
        assert_eq!(decoder.peek(value).unwrap(), header);
        assert_eq!(decoder.push(key_of(&sample.event), value, partition).unwrap(), header);
        expected.extend(stored_row(table, sample).map(|row| (partition, sample, row)));
        assert_eq!(decoder.len(), expected.len());
    }
    assert_eq!(decoder.bytes() > 0, !expected.is_empty());
    let (batch, meta) = decoder.finish().unwrap();
    assert_eq!((batch.num_rows(), meta.len()), (expected.len(), expected.len()));
    assert_eq!(batch.schema(), table.arrow());
    for (place, (partition, sample, (op, row))) in expected.into_iter().enumerate() {
        assert_eq!(random::arrow_row(table, &batch, place), row);
        assert_eq!(meta[place].op, op);
        assert_eq!(meta[place].partition, partition);
        assert_eq!(meta[place].version, random::version(&sample.event));
        assert_eq!(meta[place].key, key_of(&sample.event));
    }
    assert_eq!((decoder.len(), decoder.bytes()), (0, 0));
}

proptest! {
    #[test]
    fn what_we_write_we_read((table, samples) in random::samples()) {
        let values: Vec<_> = samples.iter().map(|sample| encode(&sample.event)).collect();
        check_decoder(&table, &samples, &values);
    }

    #[test]
    fn what_we_write_apache_avro_reads((table, samples) in random::samples()) {
        let value_schema = Schema::parse_str(&schema::envelope_schema(&table, TOPIC)).unwrap();
        let key_schema = Schema::parse_str(&schema::key_schema(&table, TOPIC)).unwrap();
        for sample in &samples {
            let payload = encode(&sample.event);
            let mut rest = payload.as_slice();
            let value = from_avro_datum(&value_schema, &mut rest, None).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(canonical(&value), canonical(&avro_envelope(&table, sample)));
            let mut key = key_of(&sample.event);
            if !key.is_empty() {
                let decoded = from_avro_datum(&key_schema, &mut key, None).unwrap();
                prop_assert!(key.is_empty());
                prop_assert_eq!(canonical(&decoded), canonical(&avro_key(&table, &sample.key)));
            }
        }
    }

    #[test]
    fn what_apache_avro_writes_we_read((table, samples) in random::samples()) {
        let schema = Schema::parse_str(&schema::envelope_schema(&table, TOPIC)).unwrap();
        let value = |sample| to_avro_datum(&schema, avro_envelope(&table, sample)).unwrap();
        let values: Vec<_> = samples.iter().map(value).collect();
        check_decoder(&table, &samples, &values);
    }

    #[test]
    fn a_cut_record_is_rejected_and_leaves_no_trace(
        (table, samples) in random::samples(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut decoder = Decoder::new(Arc::clone(&table));
        let sample = &samples[0];
        let value = encode(&sample.event);
        let cut = &value[..cut.index(value.len())];
        let error = decoder.push(key_of(&sample.event), cut, 0).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Rejected);
        prop_assert!(decoder.peek(cut).is_err());
        let longer = [value.as_slice(), &[0]].concat();
        prop_assert!(decoder.push(key_of(&sample.event), &longer, 0).is_err());
        let values: Vec<_> = samples.iter().map(|sample| encode(&sample.event)).collect();
        for (sample, value) in samples.iter().zip(&values) {
            decoder.push(key_of(&sample.event), value, 0).unwrap();
            decoder.push(key_of(&sample.event), cut, 0).unwrap_err();
        }
        let (batch, _) = decoder.finish().unwrap();
        let rows = samples.iter().filter_map(|sample| stored_row(&table, sample));
        for (place, (_, row)) in rows.enumerate() {
            prop_assert_eq!(random::arrow_row(&table, &batch, place), row);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        (table, samples) in random::samples(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut decoder = Decoder::new(Arc::clone(&table));
        for sample in &samples {
            let mut value = encode(&sample.event);
            for (index, byte) in &flips {
                let place = index.index(value.len());
                value[place] = *byte;
            }
            for (key, value) in [(key_of(&sample.event), &value), (&noise, &value), (&noise, &noise)] {
                let peeked = decoder.peek(value);
                let before = decoder.len();
                match decoder.push(key, value, 0) {
                    Ok(header) => prop_assert_eq!(peeked.unwrap(), header),
                    Err(error) => {
                        prop_assert_eq!(error.kind(), ErrorKind::Rejected);
                        prop_assert_eq!(decoder.len(), before);
                    }
                }
            }
        }
        let rows = decoder.len();
        let (batch, meta) = decoder.finish().unwrap();
        prop_assert_eq!((batch.num_rows(), meta.len()), (rows, rows));
    }

    #[test]
    fn a_nullable_column_may_come_or_go(
        (table, samples) in random::samples(),
        kind in random::kind(),
    ) {
        let mut wider = Table::clone(&table);
        let (attnum, name) = (99, "a new one".to_owned());
        wider.columns.push(Column { attnum, name, source_type: String::new(), kind });
        let (old, new) = (comparable_schema(&table), comparable_schema(&wider));
        prop_assert!(SchemaCompatibility::can_read(&old, &new).is_ok(), "backward");
        prop_assert!(SchemaCompatibility::can_read(&new, &old).is_ok(), "forward");
        for sample in &samples {
            let payload = encode(&sample.event);
            let read = from_avro_datum(&old, &mut payload.as_slice(), Some(&new));
            prop_assert!(read.is_ok(), "{read:?}");
        }
    }
}

/// `apache-avro` can compare no decimals, so they are plain bytes here.
fn comparable_schema(table: &Table) -> Schema {
    let schema = schema::envelope_schema(table, TOPIC);
    Schema::parse_str(&schema.replace(r#","logicalType":"decimal""#, "")).unwrap()
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column { attnum: 1, name: name.to_owned(), source_type: String::new(), kind }
}

/// A table with the key `id` and one more column, `value`.
fn two_columns(value: ColumnType) -> Arc<Table> {
    let columns = vec![column("id", ColumnType::Int32), column("value", value)];
    let (schema, name) = ("shop".to_owned(), "orders".to_owned());
    Arc::new(Table { oid: 1, version: 1, schema, name, columns, key: vec![0] })
}

fn upsert(table: &Arc<Table>, after: &[u8]) -> Event {
    Event {
        table: Arc::clone(table),
        position: crate::Position::default(),
        part: 0,
        transaction: Arc::default(),
        change: Change::Row {
            op: Op::Create,
            key: vec![2].into(),
            before: None,
            after: Some(after.to_owned().into()),
            unchanged: Vec::new(),
        },
    }
}

/// What others may write is read.
#[test]
fn arrays_may_come_in_sized_blocks() {
    let table = two_columns(ColumnType::Array(Box::new(ColumnType::Text)));
    let mut decoder = Decoder::new(Arc::clone(&table));
    // id 1; an array: a block of one element, "a"; one of two elements in 4 bytes, "b" and null.
    let row = [2, 2, 2, 2, 2, b'a', 3, 8, 2, 2, b'b', 0, 0];
    decoder.push(&[2], &encode(&upsert(&table, &row)), 0).unwrap();
    let (batch, _) = decoder.finish().unwrap();
    let text = |text: &str| random::Cell::Text(text.to_owned());
    let tags = random::Cell::List(vec![text("a"), text("b"), random::Cell::Null]);
    assert_eq!(random::arrow_row(&table, &batch, 0), [random::Cell::Int(1), tags]);
}

#[test]
fn what_no_table_of_ours_says_is_rejected() {
    let report = |table: &Arc<Table>, key: &[u8], value: &[u8]| {
        let mut decoder = Decoder::new(Arc::clone(table));
        let error = decoder.push(key, value, 0).unwrap_err();
        assert_eq!((error.kind(), decoder.len()), (ErrorKind::Rejected, 0));
        error.report()
    };
    let decimals = two_columns(ColumnType::Decimal { precision: 2, scale: 1 });
    let value = |row: &[u8]| encode(&upsert(&decimals, row));
    assert!(Decoder::new(Arc::clone(&decimals)).push(&[2], &value(&[2, 2, 2, 99]), 0).is_ok());
    assert!(report(&decimals, &[2], &value(&[2, 2, 2, 100])).contains("more digits"));
    assert!(report(&decimals, &[2, 2], &value(&[2, 0])).contains("follow"), "a longer key");
    let texts = two_columns(ColumnType::Text);
    assert!(report(&texts, &[2], &encode(&upsert(&texts, &[2, 2, 2, 0xFF]))).contains("UTF-8"));
    let unknown = encode(&upsert(&texts, &[2, 0])).into_iter().map(|byte| match byte {
        b'c' => b'q',
        byte => byte,
    });
    assert!(report(&texts, &[2], &unknown.collect::<Vec<_>>()).contains("op is unknown"));
}

#[test]
fn a_header_is_zero_and_a_big_endian_id() {
    assert_eq!(envelope::header(258), [0, 0, 0, 1, 2]);
    assert_eq!(envelope::split_header(&[0, 0, 0, 1, 2, 7, 8]).unwrap(), (258, [7, 8].as_slice()));
    for bad in [[].as_slice(), &[0, 0, 0, 1], &[1, 0, 0, 1, 2, 7]] {
        assert_eq!(envelope::split_header(bad).unwrap_err().kind(), ErrorKind::Rejected);
    }
}
