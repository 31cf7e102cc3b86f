//! Values in text format.
//!
//! ```text
//! b"2026-07-01" ── Codec::Date ──▶ int 20635
//! ```

use std::borrow::Cow;

use anabranch_core::avro::write;

use super::codec::{Codec, Part};
use super::context::Context;
use super::misfit::Misfit;
use super::number::{self, Numeric};
use super::split::{self, Shape};
use super::{ValueError, interval, time};

/// Appends the value `text`, without a branch.
pub(super) fn write_text(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    text: &[u8],
) -> Result<(), ValueError> {
    match codec {
        Codec::Bool => write::boolean(out, boolean(text)?),
        Codec::Int16 | Codec::Int32 => write::int(out, number::parse(text, "int")?),
        Codec::Int64 => write::long(out, number::parse(text, "int8")?),
        Codec::Unsigned => write::long(out, i64::from(number::parse::<u32>(text, "oid")?)),
        Codec::Float32 => write::float(out, number::parse(text, "float4")?),
        Codec::Float64 => write::double(out, number::parse(text, "float8")?),
        Codec::Decimal { precision, scale } => {
            Numeric::of_text(text)?.write(context, out, (*precision, *scale))?;
        }
        Codec::Money => number::money(context, out, text)?,
        Codec::Text | Codec::Json | Codec::Jsonb | Codec::Spelt(_) | Codec::Opaque => {
            context.string(out, text)?;
        }
        Codec::Uuid => write::string(out, uuid(text)?),
        Codec::Bytes => {
            hex(out, text.strip_prefix(b"\\x").ok_or(ValueError::Malformed("bytea"))?, "bytea")?;
        }
        Codec::Geometry => hex(out, text, "geometry")?,
        Codec::Date => write::int(out, context.days(time::date(ascii(text, "date")?)?)?),
        Codec::Time => write::long(out, context.time_of_day(time::time(ascii(text, "time")?)?)?),
        Codec::Timestamp => {
            let moment = time::timestamp(ascii(text, "timestamp")?)?;
            write::long(out, context.micros(moment)?);
        }
        Codec::TimestampTz => {
            let moment = time::timestamptz(ascii(text, "timestamptz")?)?;
            write::long(out, context.micros(moment)?);
        }
        Codec::Interval => interval::parse(ascii(text, "interval")?)?.write(out),
        Codec::Vector => vector(out, text)?,
        Codec::Hstore => hstore(context, out, text)?,
        Codec::Array { element, delimiter } => array(context, out, (element, *delimiter), text)?,
        Codec::Range(bound) => range(context, out, bound, text)?,
        Codec::Multirange(bound) => multirange(context, out, bound, text)?,
        Codec::Composite(parts) => composite(context, out, parts, text)?,
    }
    Ok(())
}

/// Text that PostgreSQL makes of ASCII alone.
fn ascii<'a>(text: &'a [u8], name: &'static str) -> Result<&'a str, ValueError> {
    std::str::from_utf8(text).map_err(|_| ValueError::Malformed(name))
}

/// Checked, since every reader of the log takes it for one.
fn uuid(text: &[u8]) -> Result<&str, ValueError> {
    let text = ascii(text, "uuid")?;
    let is_uuid = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
    is_uuid.then_some(text).ok_or(ValueError::Malformed("uuid"))
}

fn boolean(text: &[u8]) -> Result<bool, ValueError> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(ValueError::Malformed("bool")),
    }
}

fn hex(out: &mut Vec<u8>, digits: &[u8], name: &'static str) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed(name);
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(malformed);
    }
    write::long(out, i64::try_from(pairs.len()).map_err(|_| malformed)?);
    for [high, low] in pairs {
        let byte = nibble(*high).zip(nibble(*low)).map(|(high, low)| high << 4 | low);
        out.push(byte.ok_or(malformed)?);
    }
    Ok(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `[1,2.5]`.
fn vector(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let [b'[', inside @ .., b']'] = text else { return Err(ValueError::Malformed("vector")) };
    let count = inside.iter().filter(|byte| **byte == b',').count() + 1;
    write::array_start(out, count);
    for element in inside.split(|byte| *byte == b',') {
        write::value_branch(out);
        write::float(out, number::parse(element, "vector")?);
    }
    write::array_end(out);
    Ok(())
}

fn hstore(context: &mut Context, out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let pairs = split::hstore(text)?;
    write::array_start(out, pairs.len());
    for (key, value) in &pairs {
        context.string(out, key)?;
        slot(context, out, &Codec::Text, value.as_deref())?;
    }
    write::array_end(out);
    Ok(())
}

/// A value with its branch.
fn slot(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    text: Option<&[u8]>,
) -> Result<(), ValueError> {
    match text {
        None => write::null_branch(out),
        Some(text) => {
            context.optional(out, |context, out| write_text(context, out, codec, text))?;
        }
    }
    Ok(())
}

fn array(
    context: &mut Context,
    out: &mut Vec<u8>,
    (element, delimiter): (&Codec, u8),
    text: &[u8],
) -> Result<(), ValueError> {
    let (elements, shape) = split::array(text, delimiter)?;
    if shape == Shape::Other && !context.clamps(Misfit::Array) {
        return Err(ValueError::Misfit(Misfit::Array));
    }
    write::array_start(out, elements.len());
    for text in &elements {
        slot(context, out, element, text.as_deref())?;
    }
    write::array_end(out);
    Ok(())
}

fn composite(
    context: &mut Context,
    out: &mut Vec<u8>,
    parts: &[Part],
    text: &[u8],
) -> Result<(), ValueError> {
    let values = split::composite(text)?;
    if values.len() != parts.len() {
        return Err(ValueError::Misfit(Misfit::Composite));
    }
    for (part, text) in parts.iter().zip(&values) {
        slot(context, out, &part.codec, text.as_deref())?;
    }
    Ok(())
}

fn range(
    context: &mut Context,
    out: &mut Vec<u8>,
    bound: &Codec,
    text: &[u8],
) -> Result<(), ValueError> {
    let range = split::range(text)?;
    for text in [&range.lower, &range.upper] {
        bound_slot(context, out, bound, text)?;
    }
    write::boolean(out, range.lower_inc);
    write::boolean(out, range.upper_inc);
    write::boolean(out, range.empty);
    Ok(())
}

/// A null bound means that there is none, so one that does not fit is no null.
fn bound_slot(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    text: &Option<Cow<'_, [u8]>>,
) -> Result<(), ValueError> {
    match text {
        None => {
            write::null_branch(out);
            Ok(())
        }
        Some(text) => {
            write::value_branch(out);
            write_text(context, out, codec, text)
        }
    }
}

fn multirange(
    context: &mut Context,
    out: &mut Vec<u8>,
    bound: &Codec,
    text: &[u8],
) -> Result<(), ValueError> {
    let ranges = split::multirange(text)?;
    write::array_start(out, ranges.len());
    for text in ranges {
        context.optional(out, |context, out| range(context, out, bound, text))?;
    }
    write::array_end(out);
    Ok(())
}
