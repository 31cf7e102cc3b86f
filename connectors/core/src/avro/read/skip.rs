//! How to pass over a value without looking at it.

use super::input::Input;
use crate::avro::Malformed;
use crate::{ColumnType, Member};

/// One step of the program that passes over a row.
#[derive(Debug)]
pub(super) struct Skip {
    nullable: bool,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// So many bytes.
    Fixed(usize),
    /// A varint.
    Varint,
    /// A varint and so many bytes.
    Sized,
    /// Blocks of elements.
    Array(Box<Skip>),
    /// Blocks of texts, each with a text or null.
    Map,
    /// One after another.
    Record(Vec<Skip>),
}

impl Skip {
    pub(super) fn compile(kind: &ColumnType, nullable: bool) -> Self {
        let step = match kind {
            ColumnType::Bool => Step::Fixed(1),
            ColumnType::Float32 => Step::Fixed(4),
            ColumnType::Float64 => Step::Fixed(8),
            ColumnType::Int16
            | ColumnType::Int32
            | ColumnType::Int64
            | ColumnType::Date
            | ColumnType::Time
            | ColumnType::Timestamp
            | ColumnType::TimestampTz => Step::Varint,
            ColumnType::Decimal { .. }
            | ColumnType::Text
            | ColumnType::Json
            | ColumnType::Bytes
            | ColumnType::Uuid => Step::Sized,
            ColumnType::Array(element) => Step::Array(Box::new(Self::compile(element, true))),
            ColumnType::Map => Step::Map,
            ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
                let members = kind.members();
                let member = |part: &Member<'_>| Self::compile(part.kind, part.nullable);
                Step::Record(members.iter().map(member).collect())
            }
        };
        Self { nullable, step }
    }

    pub(super) fn skip(&self, input: &mut Input<'_>) -> Result<(), Malformed> {
        if self.nullable && !input.branch()? {
            return Ok(());
        }
        match &self.step {
            Step::Fixed(len) => input.skip(*len),
            Step::Varint => input.long().map(|_| ()),
            Step::Sized => input.bytes().map(|_| ()),
            Step::Array(element) => input.blocks(|input| element.skip(input)),
            Step::Map => input.blocks(|input| {
                input.bytes()?;
                if input.branch()? { input.bytes().map(|_| ()) } else { Ok(()) }
            }),
            Step::Record(members) => members.iter().try_for_each(|member| member.skip(input)),
        }
    }
}
