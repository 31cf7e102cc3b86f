//! How the values of a PostgreSQL type are read, in either format, and as what they travel.
//!
//! ```text
//! oid, modifier ── catalog::Types ──▶ Codec ── kind ──▶ ColumnType: what the log and stores see
//!                                      ├── value::text ◀── t
//!                                      └── value::binary ◀── b
//! ```
//!
//! The invariant: both formats of a value become the same bytes of Avro.

use anabranch_core::{Attribute, ColumnType};

/// How the values of one type are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Bool,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Hundredths, as under `lc_monetary = C`.
    Money,
    /// `oid`, `xid`, `cid`: 32 bits without a sign.
    Unsigned,
    /// Characters, the same in both formats.
    Text,
    Json,
    Jsonb,
    Bytes,
    /// PostGIS: EWKB, whose text form is bare hex.
    Geometry,
    Uuid,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Hstore,
    /// pgvector: floats.
    Vector,
    /// Travels as its text; the binary form has to be spelt.
    Spelt(Spelling),
    /// Travels as its text; the binary form is not known here.
    Opaque,
    Array {
        element: Box<Self>,
        delimiter: u8,
    },
    /// By its bound's type.
    Range(Box<Self>),
    /// By its bound's type.
    Multirange(Box<Self>),
    Composite(Vec<Part>),
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) codec: Codec,
}

/// A type whose text is made from its binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// `numeric` without a precision, with the scale of each value.
    Numeric,
    Unsigned64,
    Lsn,
    TimeTz,
    /// `inet` and `cidr`.
    Inet,
    MacAddr,
    /// `bit` and `varbit`.
    Bits,
}

/// Digits of `money`: 64 bits of hundredths.
pub(crate) const MONEY: ColumnType = ColumnType::Decimal { precision: 19, scale: 2 };

impl Codec {
    /// What the values travel as.
    pub(crate) fn kind(&self) -> ColumnType {
        match self {
            Self::Bool => ColumnType::Bool,
            Self::Int16 => ColumnType::Int16,
            Self::Int32 => ColumnType::Int32,
            Self::Int64 | Self::Unsigned => ColumnType::Int64,
            Self::Float32 => ColumnType::Float32,
            Self::Float64 => ColumnType::Float64,
            Self::Decimal { precision, scale } => {
                ColumnType::Decimal { precision: *precision, scale: *scale }
            }
            Self::Money => MONEY,
            Self::Text | Self::Spelt(_) | Self::Opaque => ColumnType::Text,
            Self::Json | Self::Jsonb => ColumnType::Json,
            Self::Bytes | Self::Geometry => ColumnType::Bytes,
            Self::Uuid => ColumnType::Uuid,
            Self::Date => ColumnType::Date,
            Self::Time => ColumnType::Time,
            Self::Timestamp => ColumnType::Timestamp,
            Self::TimestampTz => ColumnType::TimestampTz,
            Self::Interval => ColumnType::Interval,
            Self::Hstore => ColumnType::Map,
            Self::Vector => ColumnType::Array(Box::new(ColumnType::Float32)),
            Self::Array { element, .. } => ColumnType::Array(Box::new(element.kind())),
            Self::Range(bound) => ColumnType::Range(Box::new(bound.kind())),
            Self::Multirange(bound) => {
                ColumnType::Array(Box::new(ColumnType::Range(Box::new(bound.kind()))))
            }
            Self::Composite(parts) => {
                let attribute =
                    |part: &Part| Attribute { name: part.name.clone(), kind: part.codec.kind() };
                ColumnType::Record(parts.iter().map(attribute).collect())
            }
        }
    }

    /// Whether the binary form is known, of all its parts, too.
    pub(crate) fn is_binary(&self) -> bool {
        if let Self::Composite(parts) = self {
            return parts.iter().all(|part| part.codec.is_binary());
        }
        if let Self::Array { element: inner, .. } | Self::Range(inner) | Self::Multirange(inner) =
            self
        {
            return inner.is_binary();
        }
        *self != Self::Opaque
    }

    /// Whether the binary form is the cheaper one: what is text in both is no reason for it.
    pub(crate) fn gains_by_binary(&self) -> bool {
        !matches!(self, Self::Bool | Self::Text | Self::Json | Self::Jsonb | Self::Int16)
            && self.is_binary()
    }
}
