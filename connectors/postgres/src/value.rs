//! One value: from PostgreSQL's text form to Avro.
//!
//! ```text
//! b"2026-07-01" ── ColumnType::Date ──▶ int 20635
//! ```
//!
//! The invariant: a value that its type cannot hold is an error, never a null and never another
//! value.

mod array;
mod number;
mod time;

use anabranch_core::ColumnType;
use anabranch_core::avro::write;

/// Why a value cannot be written. The value itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("it is not what PostgreSQL writes for {0}")]
    Malformed(&'static str),
    #[error("a numeric of a declared precision is NaN or infinite")]
    NotFinite,
    #[error("the number has more digits than its column was declared with")]
    TooManyDigits,
    #[error("the time is too far from 1970 for 64 bits of microseconds")]
    TimeOutOfRange,
    #[error("an array has more than one dimension")]
    Dimensions,
    #[error("an array does not begin at 1")]
    LowerBound,
    #[error("the text is not UTF-8")]
    NotUtf8,
    #[error("the key is null")]
    NullKey,
}

/// Appends the value `text` of type `kind`, without a branch.
pub(crate) fn write_value(
    out: &mut Vec<u8>,
    kind: &ColumnType,
    text: &[u8],
) -> Result<(), ValueError> {
    match kind {
        ColumnType::Bool => write::boolean(out, boolean(text)?),
        ColumnType::Int16 | ColumnType::Int32 => write::int(out, number::parse(text, "int")?),
        ColumnType::Int64 => write::long(out, number::parse(text, "int8")?),
        ColumnType::Float32 => write::float(out, number::parse(text, "float4")?),
        ColumnType::Float64 => write::double(out, number::parse(text, "float8")?),
        ColumnType::Decimal { precision, scale } => {
            write::decimal(out, number::decimal(text, *precision, *scale)?);
        }
        ColumnType::Text | ColumnType::Json | ColumnType::Uuid => write::string(out, utf8(text)?),
        ColumnType::Bytes => bytea(out, text)?,
        ColumnType::Date => write::int(out, time::date(utf8(text)?)?),
        ColumnType::Time => write::long(out, time::time(utf8(text)?)?),
        ColumnType::Timestamp => write::long(out, time::timestamp(utf8(text)?)?),
        ColumnType::TimestampTz => write::long(out, time::timestamptz(utf8(text)?)?),
        ColumnType::Array(element) => array::write_array(out, element, text)?,
    }
    Ok(())
}

fn utf8(text: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(text).map_err(|_| ValueError::NotUtf8)
}

fn boolean(text: &[u8]) -> Result<bool, ValueError> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(ValueError::Malformed("bool")),
    }
}

fn bytea(out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
    let malformed = ValueError::Malformed("bytea");
    let digits = text.strip_prefix(b"\\x").ok_or(malformed)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: &ColumnType, text: &str) -> Result<Vec<u8>, ValueError> {
        let mut out = Vec::new();
        write_value(&mut out, kind, text.as_bytes()).map(|()| out)
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn plain_values_are_written() {
        let cases = [
            (ColumnType::Bool, "t", written(|out| write::boolean(out, true))),
            (ColumnType::Int16, "-32768", written(|out| write::int(out, -32768))),
            (ColumnType::Int64, "-9223372036854775808", written(|out| write::long(out, i64::MIN))),
            (ColumnType::Float32, "0.1", written(|out| write::float(out, 0.1))),
            (ColumnType::Float64, "-0", written(|out| write::double(out, -0.0))),
            (ColumnType::Float64, "5e-324", written(|out| write::double(out, 5e-324))),
            (ColumnType::Float64, "1e+308", written(|out| write::double(out, 1e308))),
            (
                ColumnType::Float64,
                "-Infinity",
                written(|out| write::double(out, f64::NEG_INFINITY)),
            ),
            (ColumnType::Text, "é☃🦀", written(|out| write::string(out, "é☃🦀"))),
            (
                ColumnType::Json,
                "{\"a\":1, \"a\":2 }",
                written(|out| write::string(out, "{\"a\":1, \"a\":2 }")),
            ),
            (ColumnType::Bytes, "\\x00ff27", written(|out| write::bytes(out, &[0, 255, 0x27]))),
            (ColumnType::Bytes, "\\x", written(|out| write::bytes(out, &[]))),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(encoded(&kind, text).unwrap(), expected, "{kind:?} {text}");
        }
        assert!(
            f64::from_le_bytes(encoded(&ColumnType::Float64, "NaN").unwrap().try_into().unwrap())
                .is_nan()
        );
    }

    #[test]
    fn what_cannot_be_held_is_an_error() {
        let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
        let cases = [
            (ColumnType::Bool, "true"),
            (ColumnType::Int32, "2147483648"),
            (ColumnType::Int32, ""),
            (ColumnType::Bytes, "\\xf"),
            (ColumnType::Bytes, "\\xzz"),
            (ColumnType::Bytes, "raw"),
            (decimal, "NaN"),
        ];
        for (kind, text) in cases {
            assert!(encoded(&kind, text).is_err(), "{kind:?} {text}");
        }
        assert_eq!(
            write_value(&mut Vec::new(), &ColumnType::Text, &[0xFF]),
            Err(ValueError::NotUtf8)
        );
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(text in proptest::collection::vec(0_u8.., 0..40)) {
            let kinds = [
                ColumnType::Bool, ColumnType::Int64, ColumnType::Float64,
                ColumnType::Decimal { precision: 38, scale: 38 }, ColumnType::Bytes,
                ColumnType::Date, ColumnType::Time, ColumnType::Timestamp, ColumnType::TimestampTz,
                ColumnType::Array(Box::new(ColumnType::Int32)),
            ];
            for kind in kinds {
                write_value(&mut Vec::new(), &kind, &text).ok();
            }
        }
    }
}
