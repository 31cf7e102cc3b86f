//! One cell of a batch as text: JSON for documents, canonical text for hash fields and keys.
//!
//! ```text
//! array, row, column type ──▶ json: 12.50   "2026-01-31T10:00:00.123456Z"   {"a":1}   null
//!                         └─▶ text: 12.50    2026-01-31T10:00:00.123456Z    {"a":1}
//! ```
//!
//! Nothing is rounded, and a value has one form: stores, keys and `verify` compare these texts.

mod calendar;
mod number;
mod output;

#[cfg(test)]
mod tests;

use std::any::Any;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, StringArray};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::number::Float;
use self::output::Output;
use crate::{ColumnType, Error, ErrorKind, Result};

/// Appends the value at `row` as JSON, without a line break in it.
///
/// Exact: a decimal is a number with its scale kept, JSON is embedded as it is (but for line
/// breaks between its tokens, which become spaces). Times are ISO 8601 strings, bytes base64,
/// floats that are not finite `"NaN"`, `"Infinity"` and `"-Infinity"`; PostgreSQL's infinite dates
/// and timestamps are `"infinity"` and `"-infinity"`.
///
/// # Errors
///
/// [`ErrorKind::Bug`] if `array` has no such row or is not of the column's Arrow type; nothing is
/// appended then, unless it is an array within an array.
pub fn json(out: &mut Vec<u8>, array: &dyn Array, row: usize, kind: &ColumnType) -> Result<()> {
    match cell(array, row, kind)? {
        Cell::Null => out.push_str("null"),
        Cell::Json(json) => output::one_line(out, json),
        Cell::Array(elements, element) => list(out, elements.as_ref(), element)?,
        Cell::Text(text) => output::quoted(out, text),
        scalar @ (Cell::Bool(_) | Cell::Int(_) | Cell::Decimal { .. }) => plain(out, &scalar),
        Cell::Float(float) if float.is_finite() => float.push(out),
        scalar @ (Cell::Float(_)
        | Cell::Bytes(_)
        | Cell::Date(_)
        | Cell::Time(_)
        | Cell::Timestamp { .. }) => {
            out.push_str("\"");
            plain(out, &scalar);
            out.push_str("\"");
        }
    }
    Ok(())
}

/// Appends the canonical text of the value at `row`: what [`json`] gives, but strings bare, and
/// JSON byte for byte. An array is JSON. Null is nothing at all: who can have one asks the array.
///
/// # Errors
///
/// As [`json`].
pub fn text(out: &mut String, array: &dyn Array, row: usize, kind: &ColumnType) -> Result<()> {
    match cell(array, row, kind)? {
        Cell::Array(elements, element) => {
            let mut json = Vec::new();
            list(&mut json, elements.as_ref(), element)?;
            let json = String::from_utf8(json);
            out.push_str(&json.map_err(|error| bug(kind).with_source(error))?);
        }
        scalar @ (Cell::Null
        | Cell::Bool(_)
        | Cell::Int(_)
        | Cell::Float(_)
        | Cell::Decimal { .. }
        | Cell::Text(_)
        | Cell::Json(_)
        | Cell::Bytes(_)
        | Cell::Date(_)
        | Cell::Time(_)
        | Cell::Timestamp { .. }) => plain(out, &scalar),
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
    Text(&'a str),
    Json(&'a str),
    Bytes(&'a [u8]),
    Date(i32),
    Time(i64),
    Timestamp { micros: i64, is_utc: bool },
    Array(std::sync::Arc<dyn Array>, &'a ColumnType),
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
        ColumnType::Array(element) => {
            Cell::Array(downcast::<ListArray>(array, kind)?.value(row), element)
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
        Cell::Text(value) | Cell::Json(value) => out.push_str(value),
        Cell::Bytes(value) => out.push_str(&STANDARD.encode(value)),
        Cell::Date(days) => calendar::date(out, *days),
        Cell::Time(micros) => calendar::time(out, *micros),
        Cell::Timestamp { micros, is_utc } => calendar::timestamp(out, *micros, *is_utc),
        Cell::Null | Cell::Array(..) => {}
    }
}

fn list(out: &mut Vec<u8>, elements: &dyn Array, element: &ColumnType) -> Result<()> {
    out.push_str("[");
    for place in 0..elements.len() {
        if place > 0 {
            out.push_str(",");
        }
        json(out, elements, place, element)?;
    }
    out.push_str("]");
    Ok(())
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
