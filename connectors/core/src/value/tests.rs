//! Known texts, and random cells against `serde_json` and `chrono`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int32Array, Int64Array, ListArray, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use chrono::{DateTime, Days, NaiveDate};
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::avro::tests::random::{self, Cell as Sample};
use crate::avro::{envelope, read};
use crate::{Change, Table, key};

fn json_of(array: &dyn Array, row: usize, kind: &ColumnType) -> String {
    let mut out = b"before ".to_vec();
    json(&mut out, array, row, kind).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

fn text_of(array: &dyn Array, row: usize, kind: &ColumnType) -> String {
    let mut out = String::new();
    text(&mut out, array, row, kind).unwrap();
    out
}

fn check(kind: &ColumnType, array: ArrayRef, expected: &[(&str, &str)]) {
    assert_eq!(array.len(), expected.len());
    for (row, (json, text)) in expected.iter().enumerate() {
        assert_eq!(json_of(array.as_ref(), row, kind), *json);
        assert_eq!(text_of(array.as_ref(), row, kind), *text);
    }
}

#[test]
fn numbers_keep_their_digits() {
    let decimals = [Some(5), Some(-5), Some(0), Some(123_450), Some(10_i128.pow(38) - 1), None];
    let decimals = Decimal128Array::from(decimals.to_vec()).with_precision_and_scale(38, 4);
    check(
        &ColumnType::Decimal { precision: 38, scale: 4 },
        Arc::new(decimals.unwrap()),
        &[
            ("0.0005", "0.0005"),
            ("-0.0005", "-0.0005"),
            ("0.0000", "0.0000"),
            ("12.3450", "12.3450"),
            ("9999999999999999999999999999999999.9999", "9999999999999999999999999999999999.9999"),
            ("null", ""),
        ],
    );
    check(
        &ColumnType::Int64,
        Arc::new(Int64Array::from(vec![i64::MIN, 9_007_199_254_740_993])),
        &[
            ("-9223372036854775808", "-9223372036854775808"),
            ("9007199254740993", "9007199254740993"),
        ],
    );
    check(
        &ColumnType::Float64,
        Arc::new(Float64Array::from(vec![0.1, -0.0, 1e300, f64::NAN, f64::NEG_INFINITY])),
        &[
            ("0.1", "0.1"),
            ("-0.0", "-0.0"),
            ("1e300", "1e300"),
            ("\"NaN\"", "NaN"),
            ("\"-Infinity\"", "-Infinity"),
        ],
    );
    check(
        &ColumnType::Float32,
        Arc::new(Float32Array::from(vec![0.1, f32::INFINITY])),
        &[("0.1", "0.1"), ("\"Infinity\"", "Infinity")],
    );
}

#[test]
fn times_are_iso_8601_beyond_any_calendar_library() {
    let day = 86_400_000_000;
    let micros =
        vec![1_769_853_600_123_456, -1, i64::MAX, i64::MIN, i64::MAX - 1, 253_402_300_800_000_000];
    let expected = [
        "2026-01-31T10:00:00.123456",
        "1969-12-31T23:59:59.999999",
        "infinity",
        "-infinity",
        "+294247-01-10T04:00:54.775806",
        "+10000-01-01T00:00:00.000000",
    ];
    let bare: Vec<String> = expected.iter().map(|text| format!("\"{text}\"")).collect();
    let pairs: Vec<_> = bare.iter().map(String::as_str).zip(expected).collect();
    check(
        &ColumnType::Timestamp,
        Arc::new(TimestampMicrosecondArray::from(micros.clone())),
        &pairs,
    );
    let utc = TimestampMicrosecondArray::from(micros).with_timezone("UTC");
    assert_eq!(text_of(&utc, 0, &ColumnType::TimestampTz), "2026-01-31T10:00:00.123456Z");
    assert_eq!(text_of(&utc, 2, &ColumnType::TimestampTz), "infinity");
    // 44 BC, 1 BC, and the extremes.
    let dates =
        Date32Array::from(vec![-735_231, -719_528, -719_529, i32::MAX, i32::MIN, i32::MIN + 1]);
    let texts = ["-0043-01-03", "0000-01-01", "-0001-12-31", "infinity", "-infinity"];
    for (row, text) in texts.into_iter().enumerate() {
        assert_eq!(text_of(&dates, row, &ColumnType::Date), text);
    }
    assert_eq!(text_of(&dates, 5, &ColumnType::Date), "-5877641-06-24");
    check(
        &ColumnType::Time,
        Arc::new(Time64MicrosecondArray::from(vec![0, 1, day, -1])),
        &[
            ("\"00:00:00.000000\"", "00:00:00.000000"),
            ("\"00:00:00.000001\"", "00:00:00.000001"),
            ("\"24:00:00.000000\"", "24:00:00.000000"),
            ("\"-00:00:00.000001\"", "-00:00:00.000001"),
        ],
    );
}

#[test]
fn texts_bytes_json_and_arrays() {
    check(
        &ColumnType::Text,
        Arc::new(StringArray::from(vec!["a\"b\\c\n\u{1}é/😀", ""])),
        &[("\"a\\\"b\\\\c\\n\\u0001é/😀\"", "a\"b\\c\n\u{1}é/😀"), ("\"\"", "")],
    );
    check(
        &ColumnType::Json,
        Arc::new(StringArray::from(vec!["{\"a\":\r\n1.10}"])),
        &[("{\"a\":  1.10}", "{\"a\":\r\n1.10}")],
    );
    check(
        &ColumnType::Bytes,
        Arc::new(BinaryArray::from(vec![&[0xFF, 0, 1, 2][..], b""])),
        &[("\"/wABAg==\"", "/wABAg=="), ("\"\"", "")],
    );
    check(
        &ColumnType::Bool,
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        &[("true", "true"), ("null", "")],
    );
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![]),
        None,
    ]);
    check(
        &ColumnType::Array(Box::new(ColumnType::Int64)),
        Arc::new(list),
        &[("[1,null]", "[1,null]"), ("[]", "[]"), ("null", "")],
    );
}

#[test]
fn intervals_are_spelt_as_postgresql_spells_them() {
    let hour = 3_600_000_000;
    let cases = [
        ((14, -3, 4 * hour + 5 * 60_000_000 + 6_789_000), "P1Y2M-3DT4H5M6.789S"),
        ((0, 0, 0), "PT0S"),
        ((-1, 0, 0), "P-1M"),
        ((-178_000_000 * 12, 0, 0), "P-178000000Y"),
        ((0, 0, -hour - 1), "PT-1H-0.000001S"),
        ((0, 1, 1_000_000), "P1DT1S"),
        ((i32::MAX, i32::MAX, i64::MAX), "infinity"),
        ((i32::MIN, i32::MIN, i64::MIN), "-infinity"),
    ];
    for ((months, days, micros), text) in cases {
        let parts: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![months])),
            Arc::new(Int32Array::from(vec![days])),
            Arc::new(Int64Array::from(vec![micros])),
        ];
        let array = StructArray::new(ColumnType::Interval.fields(), parts, None);
        assert_eq!(text_of(&array, 0, &ColumnType::Interval), text);
        assert_eq!(json_of(&array, 0, &ColumnType::Interval), format!("\"{text}\""));
    }
}

#[test]
fn ranges_are_objects() {
    let kind = ColumnType::Range(Box::new(ColumnType::Int32));
    let flags = |flag| -> ArrayRef { Arc::new(BooleanArray::from(vec![flag])) };
    let parts: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1])),
        Arc::new(Int32Array::from(vec![None])),
        flags(true),
        flags(false),
        flags(false),
    ];
    let array = StructArray::new(kind.fields(), parts, None);
    let text = r#"{"lower":1,"upper":null,"lower_inc":true,"upper_inc":false,"empty":false}"#;
    check(&kind, Arc::new(array), &[(text, text)]);
}

#[test]
fn a_wrong_array_is_a_bug_not_a_panic() {
    let texts = StringArray::from(vec!["a"]);
    for (row, kind) in [(0, ColumnType::Int64), (0, ColumnType::Bytes), (1, ColumnType::Text)] {
        let error = json(&mut Vec::new(), &texts, row, &kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
}

/// What JSON says of a cell, from its definition.
fn check_meaning(kind: &ColumnType, sample: &Sample, text: &str) {
    let parsed: serde_json::Value = serde_json::from_str(text).unwrap();
    let string = || parsed.as_str().unwrap();
    match (kind, sample) {
        (_, Sample::Null) => assert!(parsed.is_null()),
        (_, Sample::Bool(value)) => assert_eq!(parsed, *value),
        (ColumnType::Json, Sample::Text(value)) => {
            assert_eq!(
                text.split_whitespace().collect::<String>(),
                value.split_whitespace().collect::<String>()
            );
        }
        (_, Sample::Text(value)) => assert_eq!(string(), value),
        (_, Sample::Bytes(value)) => assert_eq!(&STANDARD.decode(string()).unwrap(), value),
        (_, Sample::Float32(bits)) => match f32::from_bits(*bits) {
            value if value.is_finite() => assert_eq!(text.parse::<f32>().unwrap().to_bits(), *bits),
            value => assert_eq!(string().parse::<f32>().unwrap().is_nan(), value.is_nan()),
        },
        (_, Sample::Float64(bits)) => match f64::from_bits(*bits) {
            value if value.is_finite() => assert_eq!(text.parse::<f64>().unwrap().to_bits(), *bits),
            value => assert_eq!(string().parse::<f64>().unwrap().is_nan(), value.is_nan()),
        },
        (ColumnType::Decimal { scale, .. }, Sample::Decimal(unscaled)) => {
            assert_eq!(text.replace('.', "").parse::<i128>().unwrap(), *unscaled);
            let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            assert_eq!(fraction, usize::from(*scale));
        }
        (ColumnType::Decimal { scale, .. }, Sample::WideDecimal(unscaled)) => {
            assert_eq!(text.replace('.', "").parse::<crate::i256>().unwrap(), *unscaled);
            let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            assert_eq!(fraction, usize::from(*scale));
        }
        (ColumnType::Array(element), Sample::List(cells)) => {
            let raw: Vec<&RawValue> = serde_json::from_str(text).unwrap();
            assert_eq!(raw.len(), cells.len());
            raw.iter().zip(cells).for_each(|(json, cell)| check_meaning(element, cell, json.get()));
        }
        (ColumnType::Map, Sample::Map(entries)) => {
            let raw: HashMap<String, &RawValue> = serde_json::from_str(text).unwrap();
            assert_eq!(raw.len(), entries.len());
            let text = &ColumnType::Text;
            entries.iter().for_each(|(key, cell)| check_meaning(text, cell, raw[key].get()));
        }
        (ColumnType::Interval, Sample::Record(_)) => {
            assert!(string().starts_with('P') || string().ends_with("infinity"));
        }
        (kind, Sample::Record(cells)) => {
            let raw: HashMap<String, &RawValue> = serde_json::from_str(text).unwrap();
            assert_eq!(raw.len(), cells.len());
            for (part, cell) in kind.members().iter().zip(cells) {
                check_meaning(part.kind, cell, raw[part.name].get());
            }
        }
        (ColumnType::Date | ColumnType::Time, Sample::Int(_)) => assert!(!string().is_empty()),
        (ColumnType::Timestamp | ColumnType::TimestampTz, Sample::Int(_)) => {
            assert!(!string().is_empty());
        }
        (_, Sample::Int(value)) => assert_eq!(parsed, *value),
        (kind, sample) => unreachable!("{sample:?} is no {kind:?}"),
    }
}

fn unquoted(kind: &ColumnType, json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(serde_json::Value::String(text)) if *kind != ColumnType::Json => text,
        _ => json.to_owned(),
    }
}

/// The rows of the upserts of `samples`, through the log.
fn upserts(
    table: &Arc<Table>,
    samples: &[random::Sample],
) -> (arrow_array::RecordBatch, Vec<random::Row>) {
    let names = envelope::SourceNames { prefix: "p".to_owned(), database: "d".to_owned() };
    let mut decoder = read::Decoder::new(Arc::clone(table));
    let mut rows = Vec::new();
    for sample in samples {
        let mut payload = Vec::new();
        envelope::encode(&sample.event, &names, 0, &mut payload);
        let Change::Row { key, .. } = &sample.event.change else { continue };
        if decoder.peek(&payload).unwrap().kind == read::Kind::Upsert {
            decoder.push(key, &payload, 0).unwrap();
            rows.push(sample.after.clone().unwrap());
        }
    }
    (decoder.finish().unwrap().0, rows)
}

proptest! {
    #[test]
    fn every_cell_is_json_with_its_meaning((table, samples) in random::samples()) {
        let (batch, rows) = upserts(&table, &samples);
        for (place, row) in rows.iter().enumerate() {
            for ((column, array), cell) in table.columns.iter().zip(batch.columns()).zip(row) {
                let json = json_of(array.as_ref(), place, &column.kind);
                prop_assert!(!json.contains(['\n', '\r']));
                check_meaning(&column.kind, cell, &json);
                let text = text_of(array.as_ref(), place, &column.kind);
                match (&column.kind, cell) {
                    (_, Sample::Null) => prop_assert_eq!(text, ""),
                    (ColumnType::Json, Sample::Text(raw)) => prop_assert_eq!(&text, raw),
                    (kind, _) => prop_assert_eq!(text, unquoted(kind, &json)),
                }
            }
        }
    }

    #[test]
    fn keys_differ_exactly_as_their_rows((table, samples) in random::samples()) {
        let (batch, rows) = upserts(&table, &samples);
        for (a, row_a) in rows.iter().enumerate() {
            for (b, row_b) in rows.iter().enumerate() {
                let text = |row| key::text(&batch, row, &table).unwrap();
                // NaN has many bit patterns and one text.
                let is_float = |place: &usize| {
                    matches!(row_a[*place], Sample::Float32(_) | Sample::Float64(_) | Sample::List(_))
                };
                if !table.key.iter().any(is_float) {
                    let equal = table.key.iter().all(|place| row_a[*place] == row_b[*place]);
                    prop_assert_eq!(text(a) == text(b), equal);
                }
            }
        }
    }

    #[test]
    fn timestamps_are_chronos(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
        let array = TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC");
        let chrono = DateTime::from_timestamp_micros(micros).unwrap();
        let expected = chrono.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        prop_assert_eq!(text_of(&array, 0, &ColumnType::TimestampTz), expected);
    }

    /// The calendar repeats every 400 years, so a far day is a near one with another year.
    #[test]
    fn dates_are_chronos_in_any_era(day in 0_u64..146_097, era in -14_000_i64..14_000) {
        let near = NaiveDate::from_ymd_opt(2000, 3, 1).unwrap() + Days::new(day);
        let days = near.to_epoch_days();
        let far = i64::from(days) + era * 146_097;
        let Ok(far) = i32::try_from(far) else { return Ok(()) };
        let text = text_of(&Date32Array::from(vec![far]), 0, &ColumnType::Date);
        let (year, month_and_day) = text.split_at(text.len() - 6);
        prop_assert_eq!(month_and_day, near.format("-%m-%d").to_string());
        let years: i64 = near.format("%Y").to_string().parse().unwrap();
        prop_assert_eq!(year.parse::<i64>().unwrap(), years + era * 400);
        prop_assert_eq!(year.starts_with('+'), years + era * 400 > 9999);
    }
}
