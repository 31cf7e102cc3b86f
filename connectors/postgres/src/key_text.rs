//! A key of the log as the texts that PostgreSQL reads: the way back from [`crate::value`].
//!
//! ```text
//! Avro of the key record ── ColumnType ──▶ '42', '\x00ff', 'J2461223 10:00:00.5' ─▶ where id = …
//! ```
//!
//! Dates are written as Julian days, which PostgreSQL reads over their whole range. A key that has no
//! way back is `None`: its table is copied whole.

use anabranch_core::{ColumnType, Table, i256};

const DAY_US: i64 = 86_400_000_000;
/// The Julian day of 1970-01-01.
const JULIAN_1970: i64 = 2_440_588;
/// Bytes of a 64-bit varint.
const LONG_BYTES_MAX: usize = 10;

/// The texts of a key's columns, in the order of the key.
pub(crate) fn key_texts(table: &Table, key: &[u8]) -> Option<Vec<String>> {
    let mut rest = Rest(key);
    let texts: Option<Vec<String>> =
        table.key_columns().map(|column| text(&column.kind, &mut rest)).collect();
    texts.filter(|_| rest.0.is_empty())
}

fn text(kind: &ColumnType, rest: &mut Rest<'_>) -> Option<String> {
    Some(match kind {
        ColumnType::Bool => match rest.take(1)? {
            [0] => "f".to_owned(),
            _ => "t".to_owned(),
        },
        ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 => rest.long()?.to_string(),
        ColumnType::Float32 => f32::from_le_bytes(rest.take(4)?.try_into().ok()?).to_string(),
        ColumnType::Float64 => f64::from_le_bytes(rest.take(8)?.try_into().ok()?).to_string(),
        ColumnType::Decimal { scale, .. } => decimal(rest.bytes()?, *scale)?,
        ColumnType::Text | ColumnType::Json | ColumnType::Uuid => {
            String::from_utf8(rest.bytes()?.to_vec()).ok()?
        }
        ColumnType::Bytes => {
            let hex = rest.bytes()?.iter().map(|byte| format!("{byte:02x}"));
            format!("\\x{}", hex.collect::<String>())
        }
        ColumnType::Date => match i32::try_from(rest.long()?).ok()? {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => format!("J{}", JULIAN_1970 + i64::from(days)),
        },
        ColumnType::Time => clock(rest.long()?),
        ColumnType::Timestamp | ColumnType::TimestampTz => match rest.long()? {
            i64::MAX => "infinity".to_owned(),
            i64::MIN => "-infinity".to_owned(),
            us => {
                let day = JULIAN_1970 + us.div_euclid(DAY_US);
                format!("J{day} {}", clock(us.rem_euclid(DAY_US)))
            }
        },
        ColumnType::Interval
        | ColumnType::Map
        | ColumnType::Array(_)
        | ColumnType::Range(_)
        | ColumnType::Record(_) => return None,
    })
}

fn decimal(big_endian: &[u8], scale: u8) -> Option<String> {
    let negative = big_endian.first().is_some_and(|byte| *byte >= 0x80);
    let mut all = [if negative { 0xFF } else { 0 }; 32];
    let spare = all.len().checked_sub(big_endian.len())?;
    all.get_mut(spare..)?.copy_from_slice(big_endian);
    Some(format!("{}e-{scale}", i256::from_be_bytes(all)))
}

fn clock(us: i64) -> String {
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{:02}:{:02}:{seconds:02}.{us:06}", minutes / 60, minutes % 60)
}

/// What is left of a key.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn long(&mut self) -> Option<i64> {
        let mut zigzag = 0_u64;
        for place in 0..LONG_BYTES_MAX {
            let [byte] = self.take(1)? else { return None };
            zigzag |= u64::from(byte & 0x7F) << (7 * place);
            if *byte < 0x80 {
                return Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.long()?;
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Value;
    use crate::row::tests::orders;
    use crate::value::{Codec, Context, write_required};

    fn round(codec: &Codec, text: &str) -> String {
        let mut table = orders(&[0]);
        table.columns[0].kind = codec.kind();
        let mut key = Vec::new();
        let value = Value::Text(text.as_bytes());
        write_required(&mut Context::default(), &mut key, codec, value).unwrap();
        key_texts(&table, &key).unwrap().remove(0)
    }

    #[test]
    fn values_find_their_way_back() {
        let decimal = Codec::Decimal { precision: 10, scale: 2 };
        let cases = [
            (Codec::Bool, "t", "t"),
            (Codec::Int16, "-32768", "-32768"),
            (Codec::Int64, "9223372036854775807", "9223372036854775807"),
            (Codec::Int64, "-9223372036854775808", "-9223372036854775808"),
            (Codec::Float64, "0.1", "0.1"),
            (decimal.clone(), "-1.50", "-150e-2"),
            (decimal, "0", "0e-2"),
            (Codec::Text, "it's \\ ü", "it's \\ ü"),
            (Codec::Bytes, "\\x00ff", "\\x00ff"),
            (Codec::Date, "1970-01-01", "J2440588"),
            (Codec::Date, "4713-01-01 BC", "J38"),
            (Codec::Date, "infinity", "infinity"),
            (Codec::Time, "24:00:00", "24:00:00.000000"),
            (Codec::Timestamp, "1969-12-31 23:59:59.5", "J2440587 23:59:59.500000"),
            (Codec::TimestampTz, "1970-01-02 00:00:00+00", "J2440589 00:00:00.000000"),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(round(&kind, text), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_is_no_key_has_no_texts() {
        let table = orders(&[0, 1]);
        let key = [2, 4, b'e', b'u'];
        assert_eq!(key_texts(&table, &key).unwrap(), ["1", "eu"]);
        for end in 0..key.len() {
            assert_eq!(key_texts(&table, &key[..end]), None);
        }
        assert_eq!(key_texts(&table, &[2, 0, 0]), None, "something follows");
        assert_eq!(key_texts(&table, &[0xFF; 11]), None);
    }
}
