//! Values in binary format: what the `*_send` functions of PostgreSQL write.
//!
//! ```text
//! 00 00 25 db ── Codec::Date ──▶ int 20635
//! ```
//!
//! Big endian; times count from 2000.

use anabranch_core::avro::write;

use super::ValueError;
use super::codec::{Codec, Part};
use super::context::Context;
use super::interval::Interval;
use super::misfit::Misfit;
use super::number::{Numeric, float4, float8};
use super::spelling::spell;
use super::time::{self, POSTGRES_EPOCH_DAYS};
use crate::fields::Fields;

/// The version of the binary form of `jsonb`.
const JSONB_VERSION: u8 = 1;
/// The flags of a binary range.
const EMPTY: u8 = 0x01;
const LOWER_INC: u8 = 0x02;
const UPPER_INC: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

/// Appends the value `bytes`, without a branch.
pub(super) fn write_binary(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    bytes: &[u8],
) -> Result<(), ValueError> {
    match codec {
        Codec::Bool => write::boolean(out, u8::from_be_bytes(fixed(bytes, "bool")?) != 0),
        Codec::Int16 => write::int(out, i16::from_be_bytes(fixed(bytes, "int2")?).into()),
        Codec::Int32 => write::int(out, i32::from_be_bytes(fixed(bytes, "int4")?)),
        Codec::Int64 => write::long(out, i64::from_be_bytes(fixed(bytes, "int8")?)),
        Codec::Unsigned => write::long(out, u32::from_be_bytes(fixed(bytes, "oid")?).into()),
        Codec::Float32 => write::float(out, float4(fixed(bytes, "float4")?)),
        Codec::Float64 => write::double(out, float8(fixed(bytes, "float8")?)),
        Codec::Decimal { precision, scale } => {
            Numeric::of_binary(bytes)?.write(context, out, (*precision, *scale))?;
        }
        Codec::Money => write::decimal(out, i64::from_be_bytes(fixed(bytes, "money")?).into()),
        Codec::Text | Codec::Json => context.string(out, bytes)?,
        Codec::Jsonb => match bytes {
            [JSONB_VERSION, text @ ..] => context.string(out, text)?,
            _ => return Err(ValueError::Malformed("jsonb")),
        },
        Codec::Opaque => return Err(ValueError::NoBinary),
        Codec::Spelt(spelling) => {
            let mut text = std::mem::take(&mut context.spelling);
            text.clear();
            let spelt = spell(&mut text, *spelling, bytes);
            write::string(out, &text);
            context.spelling = text;
            spelt?;
        }
        Codec::Bytes | Codec::Geometry => write::bytes(out, bytes),
        Codec::Uuid => uuid(out, bytes)?,
        Codec::Date => {
            let days = i32::from_be_bytes(fixed(bytes, "date")?);
            write::int(out, context.days(since_1970(days)?)?);
        }
        Codec::Time => {
            let micros = i64::from_be_bytes(fixed(bytes, "time")?);
            write::long(out, context.time_of_day(micros)?);
        }
        Codec::Timestamp | Codec::TimestampTz => {
            let micros = i64::from_be_bytes(fixed(bytes, "timestamp")?);
            write::long(out, context.micros(time::of_binary(micros))?);
        }
        Codec::Interval => interval(bytes).ok_or(ValueError::Malformed("interval"))?.write(out),
        Codec::Vector => vector(out, bytes).ok_or(ValueError::Malformed("vector"))?,
        Codec::Hstore => hstore(context, out, bytes)?,
        Codec::Array { element, .. } => array(context, out, element, bytes)?,
        Codec::Range(bound) => range(context, out, bound, bytes)?,
        Codec::Multirange(bound) => multirange(context, out, bound, bytes)?,
        Codec::Composite(parts) => composite(context, out, parts, bytes)?,
    }
    Ok(())
}

pub(super) fn fixed<const N: usize>(
    bytes: &[u8],
    name: &'static str,
) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError::Malformed(name))
}

/// The infinities stay what they are.
fn since_1970(days: i32) -> Result<i32, ValueError> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        days => days.checked_add(POSTGRES_EPOCH_DAYS).ok_or(ValueError::Malformed("date")),
    }
}

fn uuid(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ValueError> {
    let mut buffer = uuid::Uuid::encode_buffer();
    let uuid = uuid::Uuid::from_bytes(fixed(bytes, "uuid")?);
    write::string(out, uuid.hyphenated().encode_lower(&mut buffer));
    Ok(())
}

fn interval(bytes: &[u8]) -> Option<Interval> {
    let mut fields = Fields::new(bytes);
    let (micros, days, months) = (fields.i64()?, fields.i32()?, fields.i32()?);
    fields.rest().is_empty().then_some(Interval { months, days, micros })
}

fn vector(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    let mut fields = Fields::new(bytes);
    let (count, _unused) = (fields.u16()?, fields.u16()?);
    let (elements, rest) = fields.rest().as_chunks::<4>();
    if elements.len() != usize::from(count) || !rest.is_empty() {
        return None;
    }
    write::array_start(out, elements.len());
    for element in elements {
        write::value_branch(out);
        write::float(out, float4(*element));
    }
    write::array_end(out);
    Some(())
}

/// The bytes of a part, after their length; `None` is a null.
fn part<'a>(fields: &mut Fields<'a>) -> Option<Option<&'a [u8]>> {
    match fields.i32()? {
        -1 => Some(None),
        length => fields.take(usize::try_from(length).ok()?).map(Some),
    }
}

/// A value with its branch.
fn slot(
    context: &mut Context,
    out: &mut Vec<u8>,
    codec: &Codec,
    bytes: Option<&[u8]>,
) -> Result<(), ValueError> {
    match bytes {
        None => write::null_branch(out),
        Some(bytes) => {
            context.optional(out, |context, out| write_binary(context, out, codec, bytes))?;
        }
    }
    Ok(())
}

fn hstore(context: &mut Context, out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("hstore");
    let mut fields = Fields::new(bytes);
    let count = fields.length().ok_or(malformed)?;
    write::array_start(out, count);
    for _ in 0..count {
        let key = part(&mut fields).flatten().ok_or(malformed)?;
        let value = part(&mut fields).ok_or(malformed)?;
        context.string(out, key)?;
        slot(context, out, &Codec::Text, value)?;
    }
    write::array_end(out);
    if fields.rest().is_empty() { Ok(()) } else { Err(malformed) }
}

fn array(
    context: &mut Context,
    out: &mut Vec<u8>,
    element: &Codec,
    bytes: &[u8],
) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("array");
    let mut fields = Fields::new(bytes);
    let (count, is_list) = array_header(&mut fields).ok_or(malformed)?;
    if !is_list && !context.clamps(Misfit::Array) {
        return Err(ValueError::Misfit(Misfit::Array));
    }
    write::array_start(out, count);
    for _ in 0..count {
        let bytes = part(&mut fields).ok_or(malformed)?;
        slot(context, out, element, bytes)?;
    }
    write::array_end(out);
    if fields.rest().is_empty() { Ok(()) } else { Err(malformed) }
}

/// The elements in all dimensions, and whether a list can hold them.
fn array_header(fields: &mut Fields<'_>) -> Option<(usize, bool)> {
    let dimensions = fields.u32()?;
    let (_has_nulls, _element_oid) = (fields.u32()?, fields.u32()?);
    let (mut count, mut is_list) = (usize::from(dimensions > 0), dimensions <= 1);
    for _ in 0..dimensions {
        count = count.checked_mul(fields.length()?)?;
        is_list &= fields.i32()? == 1;
    }
    // Each element takes four bytes at least.
    (count <= fields.rest().len() / 4).then_some((count, is_list))
}

fn composite(
    context: &mut Context,
    out: &mut Vec<u8>,
    parts: &[Part],
    bytes: &[u8],
) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("composite");
    let mut fields = Fields::new(bytes);
    if fields.length().ok_or(malformed)? != parts.len() {
        return Err(ValueError::Misfit(Misfit::Composite));
    }
    for known in parts {
        if fields.u32().ok_or(malformed)? != known.type_oid {
            return Err(ValueError::Misfit(Misfit::Composite));
        }
        let bytes = part(&mut fields).ok_or(malformed)?;
        slot(context, out, &known.codec, bytes)?;
    }
    if fields.rest().is_empty() { Ok(()) } else { Err(malformed) }
}

fn range(
    context: &mut Context,
    out: &mut Vec<u8>,
    bound: &Codec,
    bytes: &[u8],
) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("range");
    let mut fields = Fields::new(bytes);
    let flags = fields.u8().ok_or(malformed)?;
    let is = |flag: u8| flags & flag != 0;
    for infinite in [LOWER_INFINITE, UPPER_INFINITE] {
        if is(EMPTY) || is(infinite) {
            write::null_branch(out);
            continue;
        }
        // A null bound means that there is none, so one that does not fit is no null.
        let bytes = part(&mut fields).flatten().ok_or(malformed)?;
        write::value_branch(out);
        write_binary(context, out, bound, bytes)?;
    }
    write::boolean(out, is(LOWER_INC));
    write::boolean(out, is(UPPER_INC));
    write::boolean(out, is(EMPTY));
    if fields.rest().is_empty() { Ok(()) } else { Err(malformed) }
}

fn multirange(
    context: &mut Context,
    out: &mut Vec<u8>,
    bound: &Codec,
    bytes: &[u8],
) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("multirange");
    let mut fields = Fields::new(bytes);
    let count = fields.length().ok_or(malformed)?;
    write::array_start(out, count);
    for _ in 0..count {
        let bytes = part(&mut fields).flatten().ok_or(malformed)?;
        context.optional(out, |context, out| range(context, out, bound, bytes))?;
    }
    write::array_end(out);
    if fields.rest().is_empty() { Ok(()) } else { Err(malformed) }
}
