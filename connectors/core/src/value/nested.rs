//! Values made of parts, as JSON: arrays as arrays, all others as objects.

use std::sync::Arc;

use arrow_array::{Array, ListArray, MapArray, StringArray, StructArray};

use super::output::{Output, quoted};
use super::{bug, downcast, json};
use crate::{ColumnType, Member, Result};

/// A value made of parts, on its way out of an array.
pub(super) enum Nested<'a> {
    List {
        elements: Arc<dyn Array>,
        kind: &'a ColumnType,
    },
    /// Keys and values.
    Map(StructArray),
    Record {
        parts: &'a StructArray,
        row: usize,
        kind: &'a ColumnType,
    },
}

impl<'a> Nested<'a> {
    /// `kind` is the element's.
    pub(super) fn list(array: &dyn Array, row: usize, kind: &'a ColumnType) -> Result<Self> {
        Ok(Self::List { elements: downcast::<ListArray>(array, kind)?.value(row), kind })
    }

    pub(super) fn map(array: &dyn Array, row: usize) -> Result<Self> {
        Ok(Self::Map(downcast::<MapArray>(array, &ColumnType::Map)?.value(row)))
    }

    pub(super) fn record(array: &'a dyn Array, row: usize, kind: &'a ColumnType) -> Result<Self> {
        Ok(Self::Record { parts: downcast::<StructArray>(array, kind)?, row, kind })
    }

    pub(super) fn json(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::List { elements, kind } => {
                out.push_str("[");
                for place in 0..elements.len() {
                    comma(out, place);
                    json(out, elements.as_ref(), place, kind)?;
                }
                out.push_str("]");
            }
            Self::Map(entries) => {
                out.push_str("{");
                let kind = &ColumnType::Text;
                let [keys, values] = entries.columns() else { return Err(bug(&ColumnType::Map)) };
                let keys = downcast::<StringArray>(keys.as_ref(), kind)?;
                for place in 0..entries.len() {
                    comma(out, place);
                    quoted(out, keys.value(place));
                    out.push_str(":");
                    json(out, values.as_ref(), place, kind)?;
                }
                out.push_str("}");
            }
            Self::Record { parts, row, kind } => {
                out.push_str("{");
                let members = kind.members();
                if members.len() != parts.num_columns() {
                    return Err(bug(kind));
                }
                for (place, (Member { name, kind, .. }, part)) in
                    members.iter().zip(parts.columns()).enumerate()
                {
                    comma(out, place);
                    quoted(out, name);
                    out.push_str(":");
                    json(out, part.as_ref(), *row, kind)?;
                }
                out.push_str("}");
            }
        }
        Ok(())
    }
}

fn comma(out: &mut Vec<u8>, place: usize) {
    if place > 0 {
        out.push_str(",");
    }
}
