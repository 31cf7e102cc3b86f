//! One cell of a batch as text: JSON for documents, canonical text for hash fields and keys.
//!
//! ```text
//! array, row, column type ──▶ json: 12.50   "2026-01-31T10:00:00.123456Z"   {"a":1}   null
//!                         └─▶ text: 12.50    2026-01-31T10:00:00.123456Z    {"a":1}
//! ```
//!
//! Nothing is rounded, and a value has one form: stores, keys and `verify` compare these texts.

mod calendar;
mod interval;
mod nested;
mod number;
mod output;

#[cfg(test)]
mod tests;

use std::any::Any;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrowPrimitiveType, BinaryArray, BooleanArray, StringArray};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::interval::Interval;
use self::nested::Nested;
use self::number::Float;
use self::output::Output;
use crate::{ColumnType, Error, ErrorKind, NARROW_PRECISION_MAX, Result, i256};

/// Appends the value at `row` as JSON, without a line break in it.
///
/// Exact: a decimal is a number with its scale kept, JSON is embedded as it is (but for line
/// breaks between its tokens, which become spaces). Times are ISO 8601 strings, bytes base64,
/// floats that are not finite `"NaN"`, `"Infinity"` and `"-Infinity"`; PostgreSQL's infinite dates
/// and timestamps are `"infinity"` and `"-infinity"`. An interval is a string, too; a map, a range
/// and a composite are objects.
///
/// # Errors
///
/// [`ErrorKind::Bug`] if `array` has no such row or is not of the column's Arrow type; nothing is
/// appended then, unless it is made of parts.
pub fn json(out: &mut Vec<u8>, array: &dyn Array, row: usize, kind: &ColumnType) -> Result<()> {
    match cell(array, row, kind)? {
        Cell::Null => out.push_str("null"),
        Cell::Json(json) => output::one_line(out, json),
        Cell::Nested(nested) => nested.json(out)?,
        Cell::Text(text) => output::quoted(out, text),
        scalar @ (Cell::Bool(_)
        | Cell::Int(_)
        | Cell::Decimal { .. }
        | Cell::WideDecimal { .. }) => plain(out, &scalar),
        Cell::Float(float) if float.is_finite() => float.push(out),
        scalar @ (Cell::Float(_)
        | Cell::Bytes(_)
        | Cell::Date(_)
        | Cell::Time(_)
        | Cell::Timestamp { .. }
        | Cell::Interval(_)) => {
            out.push_str("\"");
            plain(out, &scalar);
            out.push_str("\"");
        }
    }
    Ok(())
}

/// Appends the canonical text of the value at `row`: what [`json`] gives, but strings bare, and
/// JSON byte for byte. What is made of parts is JSON. Null is nothing at all: who can have one asks the array.
///
/// # Errors
///
/// As [`json`].
pub fn text(out: &mut String, array: &dyn Array, row: usize, kind: &ColumnType) -> Result<()> {
    match cell(array, row, kind)? {
        Cell::Nested(nested) => {
            let mut json = Vec::new();
            nested.json(&mut json)?;
            let json = String::from_utf8(json);
            out.push_str(&json.map_err(|error| bug(kind).with_source(error))?);
        }
        scalar @ (Cell::Null
        | Cell::Bool(_)
        | Cell::Int(_)
        | Cell::Float(_)
        | Cell::Decimal { .. }
        | Cell::WideDecimal { .. }
        | Cell::Text(_)
        | Cell::Json(_)
        | Cell::Bytes(_)
        | Cell::Date(_)
        | Cell::Time(_)
        | Cell::Timestamp { .. }
        | Cell::Interval(_)) => plain(out, &scalar),
    }
    Ok(())
}

/// A value on its way out of an array.
enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(Float),
    Decimal { unscaled: i128, scale: u8 },
    WideDecimal { unscaled: i256, scale: u8 },
    Text(&'a str),
    Json(&'a str),
    Bytes(&'a [u8]),
    Date(i32),
    Time(i64),
    Timestamp { micros: i64, is_utc: bool },
    Interval(Interval),
    Nested(Nested<'a>),
}

fn cell<'a>(array: &'a dyn Array, row: usize, kind: &'a ColumnType) -> Result<Cell<'a>> {
    if row >= array.len() {
        return Err(bug(kind));
    }
    if array.is_null(row) {
        return Ok(Cell::Null);
    }
    Ok(match kind {
        ColumnType::Bool => Cell::Bool(downcast::<BooleanArray>(array, kind)?.value(row)),
        ColumnType::Int16 => Cell::Int(primitive::<Int16Type>(array, row, kind)?.into()),
        ColumnType::Int32 => Cell::Int(primitive::<Int32Type>(array, row, kind)?.into()),
        ColumnType::Int64 => Cell::Int(primitive::<Int64Type>(array, row, kind)?),
        ColumnType::Float32 => {
            Cell::Float(Float::Single(primitive::<Float32Type>(array, row, kind)?))
        }
        ColumnType::Float64 => {
            Cell::Float(Float::Double(primitive::<Float64Type>(array, row, kind)?))
        }
        ColumnType::Decimal { precision, scale } if *precision > NARROW_PRECISION_MAX => {
            let unscaled = primitive::<Decimal256Type>(array, row, kind)?;
            Cell::WideDecimal { unscaled, scale: *scale }
        }
        ColumnType::Decimal { scale, .. } => Cell::Decimal {
            unscaled: primitive::<Decimal128Type>(array, row, kind)?,
            scale: *scale,
        },
        ColumnType::Text | ColumnType::Uuid => {
            Cell::Text(downcast::<StringArray>(array, kind)?.value(row))
        }
        ColumnType::Json => Cell::Json(downcast::<StringArray>(array, kind)?.value(row)),
        ColumnType::Bytes => Cell::Bytes(downcast::<BinaryArray>(array, kind)?.value(row)),
        ColumnType::Date => Cell::Date(primitive::<Date32Type>(array, row, kind)?),
        ColumnType::Time => Cell::Time(primitive::<Time64MicrosecondType>(array, row, kind)?),
        ColumnType::Timestamp | ColumnType::TimestampTz => Cell::Timestamp {
            micros: primitive::<TimestampMicrosecondType>(array, row, kind)?,
            is_utc: *kind == ColumnType::TimestampTz,
        },
        ColumnType::Interval => Cell::Interval(Interval::read(array, row, kind)?),
        ColumnType::Array(element) => Cell::Nested(Nested::list(array, row, element)?),
        ColumnType::Map => Cell::Nested(Nested::map(array, row)?),
        ColumnType::Range(_) | ColumnType::Record(_) => {
            Cell::Nested(Nested::record(array, row, kind)?)
        }
    })
}

/// Appends a scalar without quotes.
fn plain(out: &mut impl Output, scalar: &Cell<'_>) {
    match scalar {
        Cell::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Cell::Int(value) => out.push_str(itoa::Buffer::new().format(*value)),
        Cell::Float(value) => value.push(out),
        Cell::Decimal { unscaled, scale } => number::decimal(out, *unscaled, *scale),
        Cell::WideDecimal { unscaled, scale } => number::wide_decimal(out, *unscaled, *scale),
        Cell::Text(value) | Cell::Json(value) => out.push_str(value),
        Cell::Bytes(value) => out.push_str(&STANDARD.encode(value)),
        Cell::Date(days) => calendar::date(out, *days),
        Cell::Time(micros) => calendar::time(out, *micros),
        Cell::Timestamp { micros, is_utc } => calendar::timestamp(out, *micros, *is_utc),
        Cell::Interval(value) => value.push(out),
        Cell::Null | Cell::Nested(_) => {}
    }
}

fn primitive<T: ArrowPrimitiveType>(
    array: &dyn Array,
    row: usize,
    kind: &ColumnType,
) -> Result<T::Native> {
    array.as_primitive_opt::<T>().map(|array| array.value(row)).ok_or_else(|| bug(kind))
}

fn downcast<'a, T: Any>(array: &'a dyn Array, kind: &ColumnType) -> Result<&'a T> {
    array.as_any().downcast_ref().ok_or_else(|| bug(kind))
}

fn bug(kind: &ColumnType) -> Error {
    Error::new(ErrorKind::Bug, format!("find a {kind:?} where the batch should have one"))
}
