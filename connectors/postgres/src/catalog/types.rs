//! How the values of a PostgreSQL type are read: its [`Codec`].
//!
//! ```text
//! pg_type, pg_range, pg_attribute ── Types ──▶ domain → base · array → element · range → bound
//!                                               composite → attributes · base type → by oid or name
//! ```

use std::collections::HashMap;

use anabranch_core::{ColumnType, PRECISION_MAX};

use crate::value::{Codec, Part, Policy, Spelling, ValuePolicies};

/// Types by oid, with everything that they are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types {
    infos: HashMap<u32, TypeInfo>,
    policies: ValuePolicies,
}

/// A row of `pg_type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeInfo {
    /// For people.
    pub(crate) name: String,
    pub(crate) kind: TypeKind,
}

/// What a type is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypeKind {
    /// Over another type.
    Domain {
        base: u32,
        typmod: i32,
    },
    /// A true array; its text form separates elements with `delimiter`.
    Array {
        element: u32,
        delimiter: u8,
    },
    Enum,
    Range {
        bound: u32,
    },
    Multirange {
        range: u32,
    },
    /// By its attributes.
    Composite(Vec<RawPart>),
    /// Anything else. `extension` is where it comes from, if it is not built in.
    Base {
        name: String,
        extension: Option<String>,
    },
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawPart {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
}

/// `atttypmod` of a type with a length or precision carries this much on top.
const TYPMOD_HEADER: i32 = 4;
/// Domains over domains, and arrays of them: PostgreSQL allows any depth, nobody uses more.
const NESTING_MAX: u8 = 32;
/// Parts of one type in all: composites of composites multiply.
const PARTS_MAX: usize = 4096;

impl Types {
    /// Types whose values are read by `policies`.
    pub(crate) fn new(policies: ValuePolicies) -> Self {
        Self { policies, ..Self::default() }
    }

    pub(crate) fn insert(&mut self, oid: u32, info: TypeInfo) {
        self.infos.insert(oid, info);
    }

    /// The name of the type, for people.
    pub(crate) fn name(&self, oid: u32) -> String {
        self.infos.get(&oid).map_or_else(|| format!("type {oid}"), |info| info.name.clone())
    }

    /// How values of this type travel.
    pub(crate) fn column_type(&self, oid: u32, typmod: i32) -> ColumnType {
        self.codec(oid, typmod).kind()
    }

    /// How values of this type are read. Those of a type that is not known here travel as their
    /// text.
    pub(crate) fn codec(&self, oid: u32, typmod: i32) -> Codec {
        let mut parts = PARTS_MAX;
        self.resolve((oid, typmod), NESTING_MAX, &mut parts).unwrap_or(Codec::Opaque)
    }

    /// `None` if the type is nested too deep, or has too many parts.
    fn resolve(&self, (oid, typmod): (u32, i32), depth: u8, parts: &mut usize) -> Option<Codec> {
        let depth = depth.checked_sub(1)?;
        *parts = parts.checked_sub(1)?;
        let mut inner = |oid, typmod| self.resolve((oid, typmod), depth, parts);
        Some(match self.infos.get(&oid).map(|info| &info.kind) {
            Some(TypeKind::Domain { base, typmod: declared }) => {
                inner(*base, if typmod == -1 { *declared } else { typmod })?
            }
            Some(TypeKind::Array { element, delimiter }) => {
                let element = inner(*element, typmod)?;
                // An array of a domain over an array has no form of its own.
                if self.policies.arrays == Policy::Text || matches!(element, Codec::Array { .. }) {
                    Codec::Opaque
                } else {
                    Codec::Array { element: Box::new(element), delimiter: *delimiter }
                }
            }
            Some(TypeKind::Enum) => Codec::Text,
            Some(TypeKind::Range { bound }) => Codec::Range(Box::new(inner(*bound, -1)?)),
            Some(TypeKind::Multirange { range }) => {
                let range = inner(*range, -1)?;
                if let Codec::Range(bound) = range {
                    Codec::Multirange(bound)
                } else {
                    Codec::Opaque
                }
            }
            Some(TypeKind::Composite(attributes)) => {
                if self.policies.composites == Policy::Text || attributes.is_empty() {
                    return Some(Codec::Opaque);
                }
                let part = |raw: &RawPart| {
                    let codec = inner(raw.type_oid, raw.typmod)?;
                    Some(Part { name: raw.name.clone(), type_oid: raw.type_oid, codec })
                };
                Codec::Composite(attributes.iter().map(part).collect::<Option<_>>()?)
            }
            Some(TypeKind::Base { name, extension: Some(extension) }) => extended(extension, name),
            Some(TypeKind::Base { .. }) | None => self.built_in(oid, typmod),
        })
    }

    /// Types that are built in have the same oid everywhere.
    fn built_in(&self, oid: u32, typmod: i32) -> Codec {
        let text = |policy: Policy| policy == Policy::Text;
        let infinite = text(self.policies.infinities);
        match oid {
            16 => Codec::Bool,
            21 => Codec::Int16,
            23 => Codec::Int32,
            20 => Codec::Int64,
            // oid, xid, cid
            26 | 28 | 29 => Codec::Unsigned,
            700 => Codec::Float32,
            701 => Codec::Float64,
            1700 if text(self.policies.numbers) => Codec::Spelt(Spelling::Numeric),
            1700 => numeric(typmod),
            790 => Codec::Money,
            17 => Codec::Bytes,
            2950 => Codec::Uuid,
            1082 if infinite => Codec::Opaque,
            1082 => Codec::Date,
            1083 if text(self.policies.midnight) => Codec::Opaque,
            1083 => Codec::Time,
            1114 | 1184 if infinite || text(self.policies.timestamps) => Codec::Opaque,
            1114 => Codec::Timestamp,
            1184 => Codec::TimestampTz,
            1186 => Codec::Interval,
            114 => Codec::Json,
            3802 => Codec::Jsonb,
            // text, varchar, char(n), name, xml
            25 | 1043 | 1042 | 19 | 142 => Codec::Text,
            5069 => Codec::Spelt(Spelling::Unsigned64),
            3220 => Codec::Spelt(Spelling::Lsn),
            1266 => Codec::Spelt(Spelling::TimeTz),
            // inet, cidr
            869 | 650 => Codec::Spelt(Spelling::Inet),
            // macaddr, macaddr8
            829 | 774 => Codec::Spelt(Spelling::MacAddr),
            // bit, varbit
            1560 | 1562 => Codec::Spelt(Spelling::Bits),
            _ => Codec::Opaque,
        }
    }
}

/// Types of an extension have another oid in each database.
fn extended(extension: &str, name: &str) -> Codec {
    match (extension, name) {
        ("hstore", "hstore") => Codec::Hstore,
        ("citext", "citext") => Codec::Text,
        ("vector", "vector") => Codec::Vector,
        ("postgis", "geometry" | "geography") => Codec::Geometry,
        _ => Codec::Opaque,
    }
}

/// A scale below zero counts zeros before the point; one above the precision, zeros after it.
fn numeric(typmod: i32) -> Codec {
    let unbounded = Codec::Spelt(Spelling::Numeric);
    if typmod < TYPMOD_HEADER {
        return unbounded;
    }
    let packed = typmod - TYPMOD_HEADER;
    let precision = (packed >> 16) & 0xFFFF;
    // Eleven bits with a sign, from PostgreSQL 15 on.
    let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
    let (precision, scale) = match scale {
        ..0 => (precision - scale, 0),
        _ => (precision.max(scale), scale),
    };
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if precision <= PRECISION_MAX => {
            Codec::Decimal { precision, scale }
        }
        _ => unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typmod(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7FF) + TYPMOD_HEADER
    }

    fn types(kinds: impl IntoIterator<Item = (u32, TypeKind)>) -> Types {
        let mut types = Types::default();
        for (oid, kind) in kinds {
            types.insert(oid, TypeInfo { name: format!("t{oid}"), kind });
        }
        types
    }

    fn base(name: &str, extension: &str) -> TypeKind {
        TypeKind::Base { name: name.to_owned(), extension: Some(extension.to_owned()) }
    }

    #[test]
    fn numerics_are_decimals_where_they_fit() {
        let types = Types::default();
        let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
        let cases = [
            (-1, ColumnType::Text),
            (typmod(10, 2), decimal(10, 2)),
            (typmod(38, 38), decimal(38, 38)),
            (typmod(39, 0), decimal(39, 0)),
            (typmod(76, 76), decimal(76, 76)),
            (typmod(77, 0), ColumnType::Text),
            (typmod(5, -2), decimal(7, 0)),
            (typmod(2, 5), decimal(5, 5)),
            (typmod(70, -7), ColumnType::Text),
            (typmod(1, 77), ColumnType::Text),
        ];
        for (typmod, expected) in cases {
            assert_eq!(types.column_type(1700, typmod), expected, "{typmod}");
        }
    }

    #[test]
    fn types_are_what_they_are_made_of() {
        let part = |name: &str, type_oid| RawPart { name: name.into(), type_oid, typmod: -1 };
        let array = |element| TypeKind::Array { element, delimiter: b',' };
        let types = types([
            (100, TypeKind::Domain { base: 1700, typmod: typmod(6, 2) }),
            (101, array(100)),
            (102, TypeKind::Array { element: 603, delimiter: b';' }),
            (103, TypeKind::Enum),
            (104, array(103)),
            (105, TypeKind::Domain { base: 105, typmod: -1 }),
            (106, array(107)),
            (107, TypeKind::Domain { base: 104, typmod: -1 }),
            (108, TypeKind::Range { bound: 23 }),
            (109, TypeKind::Multirange { range: 108 }),
            (110, TypeKind::Composite(vec![part("a", 23), part("b", 101)])),
            (111, base("hstore", "hstore")),
            (112, base("hstore", "other")),
            (113, base("geometry", "postgis")),
            (114_000, base("vector", "vector")),
            (115, TypeKind::Composite(vec![])),
        ]);
        let decimals = Codec::Array {
            element: Box::new(Codec::Decimal { precision: 6, scale: 2 }),
            delimiter: b',',
        };
        let attribute = |name: &str, type_oid, codec| Part { name: name.into(), type_oid, codec };
        let cases = [
            (101, decimals.clone()),
            (102, Codec::Array { element: Box::new(Codec::Opaque), delimiter: b';' }),
            (103, Codec::Text),
            (104, Codec::Array { element: Box::new(Codec::Text), delimiter: b',' }),
            (105, Codec::Opaque),
            (106, Codec::Opaque),
            (108, Codec::Range(Box::new(Codec::Int32))),
            (109, Codec::Multirange(Box::new(Codec::Int32))),
            (
                110,
                Codec::Composite(vec![
                    attribute("a", 23, Codec::Int32),
                    attribute("b", 101, decimals),
                ]),
            ),
            (111, Codec::Hstore),
            (112, Codec::Opaque),
            (113, Codec::Geometry),
            (114_000, Codec::Vector),
            (115, Codec::Opaque),
            (3802, Codec::Jsonb),
            (603, Codec::Opaque),
        ];
        for (oid, expected) in cases {
            assert_eq!(types.codec(oid, -1), expected, "{oid}");
        }
    }

    #[test]
    fn composites_that_multiply_are_text() {
        let part = |type_oid| RawPart { name: "a".into(), type_oid, typmod: -1 };
        let wide = |oid: u32| (oid, TypeKind::Composite(vec![part(oid + 1), part(oid + 1)]));
        let types = types((1000..1020).map(wide));
        assert_eq!(types.codec(1000, -1), Codec::Opaque);
        assert!(matches!(types.codec(1015, -1), Codec::Composite(_)));
    }

    #[test]
    fn a_policy_of_text_makes_text_of_the_column() {
        let text = Policy::Text;
        let policies = ValuePolicies {
            numbers: text,
            infinities: text,
            midnight: text,
            arrays: text,
            composites: text,
            ..ValuePolicies::default()
        };
        let mut types = Types::new(policies);
        let part = RawPart { name: "a".into(), type_oid: 23, typmod: -1 };
        let kinds =
            [TypeKind::Array { element: 23, delimiter: b',' }, TypeKind::Composite(vec![part])];
        for (oid, kind) in (100..).zip(kinds) {
            types.insert(oid, TypeInfo { name: String::new(), kind });
        }
        for oid in [100, 101, 1700, 1082, 1083, 1114, 1184] {
            assert_eq!(types.column_type(oid, typmod(10, 2)), ColumnType::Text, "{oid}");
        }
    }
}
