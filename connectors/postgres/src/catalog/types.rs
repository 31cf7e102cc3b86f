//! Which [`ColumnType`] a PostgreSQL type travels as.

use std::collections::HashMap;

use anabranch_core::ColumnType;

/// Types by oid, with everything that they are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types(HashMap<u32, TypeInfo>);

/// A row of `pg_type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypeInfo {
    /// A domain over another type.
    Domain { name: String, base: u32, typmod: i32 },
    /// A true array; its text form separates elements with `delimiter`.
    Array { name: String, element: u32, delimiter: char },
    /// Anything else.
    Plain { name: String },
}

/// `atttypmod` of a type with a length or precision carries this much on top.
const TYPMOD_HEADER: i32 = 4;
/// Domains over domains, and arrays of them: PostgreSQL allows any depth, nobody uses more.
const NESTING_MAX: u8 = 32;
const PRECISION_MAX: i32 = 38;

impl Types {
    pub(crate) fn insert(&mut self, oid: u32, info: TypeInfo) {
        self.0.insert(oid, info);
    }

    /// The name of the type, for people.
    pub(crate) fn name(&self, oid: u32) -> String {
        match self.0.get(&oid) {
            Some(
                TypeInfo::Domain { name, .. }
                | TypeInfo::Array { name, .. }
                | TypeInfo::Plain { name },
            ) => name.clone(),
            None => format!("type {oid}"),
        }
    }

    /// How values of this type travel. A type that is not known here travels as its text.
    pub(crate) fn column_type(&self, oid: u32, typmod: i32) -> ColumnType {
        self.resolve(oid, typmod, NESTING_MAX)
    }

    fn resolve(&self, oid: u32, typmod: i32, depth: u8) -> ColumnType {
        let Some(depth) = depth.checked_sub(1) else { return ColumnType::Text };
        match self.0.get(&oid) {
            Some(TypeInfo::Domain { base, typmod: declared, .. }) => {
                self.resolve(*base, if typmod == -1 { *declared } else { typmod }, depth)
            }
            Some(TypeInfo::Array { element, delimiter: ',', .. }) => {
                let element = self.resolve(*element, typmod, depth);
                // An array of a domain over an array has no form of its own.
                if matches!(element, ColumnType::Array(_)) {
                    ColumnType::Text
                } else {
                    ColumnType::Array(Box::new(element))
                }
            }
            Some(TypeInfo::Array { .. } | TypeInfo::Plain { .. }) | None => scalar(oid, typmod),
        }
    }
}

/// Types that are built in have the same oid everywhere.
fn scalar(oid: u32, typmod: i32) -> ColumnType {
    match oid {
        16 => ColumnType::Bool,
        21 => ColumnType::Int16,
        23 => ColumnType::Int32,
        20 => ColumnType::Int64,
        700 => ColumnType::Float32,
        701 => ColumnType::Float64,
        1700 => numeric(typmod),
        17 => ColumnType::Bytes,
        2950 => ColumnType::Uuid,
        1082 => ColumnType::Date,
        1083 => ColumnType::Time,
        1114 => ColumnType::Timestamp,
        1184 => ColumnType::TimestampTz,
        114 | 3802 => ColumnType::Json,
        _ => ColumnType::Text,
    }
}

fn numeric(typmod: i32) -> ColumnType {
    if typmod < TYPMOD_HEADER {
        return ColumnType::Text;
    }
    let packed = typmod - TYPMOD_HEADER;
    let precision = (packed >> 16) & 0xFFFF;
    // Eleven bits with a sign, from PostgreSQL 15 on.
    let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
    let fits = precision <= PRECISION_MAX && (0..=precision).contains(&scale);
    match (fits, u8::try_from(precision), u8::try_from(scale)) {
        (true, Ok(precision), Ok(scale)) => ColumnType::Decimal { precision, scale },
        _ => ColumnType::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typmod(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7FF) + TYPMOD_HEADER
    }

    #[test]
    fn numerics_are_decimals_where_they_fit() {
        let types = Types::default();
        let cases = [
            (-1, ColumnType::Text),
            (typmod(10, 2), ColumnType::Decimal { precision: 10, scale: 2 }),
            (typmod(38, 38), ColumnType::Decimal { precision: 38, scale: 38 }),
            (typmod(39, 0), ColumnType::Text),
            (typmod(5, -2), ColumnType::Text),
            (typmod(2, 5), ColumnType::Text),
        ];
        for (typmod, expected) in cases {
            assert_eq!(types.column_type(1700, typmod), expected, "{typmod}");
        }
    }

    #[test]
    fn domains_and_arrays_are_resolved() {
        let mut types = Types::default();
        let name = String::new;
        types.insert(100, TypeInfo::Domain { name: name(), base: 1700, typmod: typmod(6, 2) });
        types.insert(101, TypeInfo::Array { name: name(), element: 100, delimiter: ',' });
        types.insert(102, TypeInfo::Array { name: name(), element: 603, delimiter: ';' });
        types.insert(103, TypeInfo::Plain { name: name() });
        types.insert(104, TypeInfo::Array { name: name(), element: 103, delimiter: ',' });
        types.insert(105, TypeInfo::Domain { name: name(), base: 105, typmod: -1 });
        types.insert(106, TypeInfo::Array { name: name(), element: 107, delimiter: ',' });
        types.insert(107, TypeInfo::Domain { name: name(), base: 104, typmod: -1 });
        let money = ColumnType::Decimal { precision: 6, scale: 2 };
        let array = |element| ColumnType::Array(Box::new(element));
        let cases = [
            (100, money.clone()),
            (101, array(money)),
            (102, ColumnType::Text),
            (103, ColumnType::Text),
            (104, array(ColumnType::Text)),
            (105, ColumnType::Text),
            (106, ColumnType::Text),
            (3802, ColumnType::Json),
        ];
        for (oid, expected) in cases {
            assert_eq!(types.column_type(oid, -1), expected, "{oid}");
        }
    }
}
