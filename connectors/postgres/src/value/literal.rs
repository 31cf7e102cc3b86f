//! A binary value of a key as text: to look its row up, and for people.

use super::binary::fixed;
use super::codec::Codec;
use super::number::{Numeric, float4, float8};
use super::spelling::spell;
use super::time::{self, DAY_US, POSTGRES_EPOCH_DAYS};

/// What PostgreSQL reads as the value; `None` if the bytes are not one, or if a key cannot have the
/// type.
pub(crate) fn literal(codec: &Codec, bytes: &[u8]) -> Option<String> {
    let name = "a key";
    let text = match codec {
        Codec::Bool => bool_text(fixed(bytes, name).ok()?),
        Codec::Int16 => i16::from_be_bytes(fixed(bytes, name).ok()?).to_string(),
        Codec::Int32 => i32::from_be_bytes(fixed(bytes, name).ok()?).to_string(),
        Codec::Int64 => i64::from_be_bytes(fixed(bytes, name).ok()?).to_string(),
        Codec::Unsigned => u32::from_be_bytes(fixed(bytes, name).ok()?).to_string(),
        Codec::Float32 => float4(fixed(bytes, name).ok()?).to_string(),
        Codec::Float64 => float8(fixed(bytes, name).ok()?).to_string(),
        Codec::Decimal { .. } => {
            let mut text = String::new();
            Numeric::of_binary(bytes).ok()?.spell(&mut text);
            text
        }
        Codec::Money => money(i64::from_be_bytes(fixed(bytes, name).ok()?)),
        Codec::Text | Codec::Json => std::str::from_utf8(bytes).ok()?.to_owned(),
        Codec::Jsonb => std::str::from_utf8(bytes.get(1..)?).ok()?.to_owned(),
        Codec::Bytes => format!("\\x{}", hex(bytes)),
        Codec::Geometry => hex(bytes),
        Codec::Uuid => uuid::Uuid::from_bytes(fixed(bytes, name).ok()?).to_string(),
        Codec::Date => match i32::from_be_bytes(fixed(bytes, name).ok()?) {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => time::date_text(i64::from(days) + i64::from(POSTGRES_EPOCH_DAYS)),
        },
        Codec::Time => time::time_text(i64::from_be_bytes(fixed(bytes, name).ok()?)),
        Codec::Timestamp => timestamp(i64::from_be_bytes(fixed(bytes, name).ok()?), ""),
        Codec::TimestampTz => timestamp(i64::from_be_bytes(fixed(bytes, name).ok()?), "+00"),
        Codec::Spelt(spelling) => {
            let mut text = String::new();
            spell(&mut text, *spelling, bytes).ok()?;
            text
        }
        Codec::Opaque
        | Codec::Interval
        | Codec::Hstore
        | Codec::Vector
        | Codec::Array { .. }
        | Codec::Range(_)
        | Codec::Multirange(_)
        | Codec::Composite(_) => return None,
    };
    Some(text)
}

fn bool_text([byte]: [u8; 1]) -> String {
    if byte == 0 { "f" } else { "t" }.to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
}

/// Microseconds since 2000, with the zone before `BC`.
fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let days = micros.div_euclid(DAY_US) + i64::from(POSTGRES_EPOCH_DAYS);
    let date = time::date_text(days);
    let (date, era) = date.strip_suffix(" BC").map_or((date.as_str(), ""), |date| (date, " BC"));
    format!("{date} {}{zone}{era}", time::time_text(micros.rem_euclid(DAY_US)))
}
