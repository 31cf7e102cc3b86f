//! How to pass over a value without looking at it.

use super::input::Input;
use crate::ColumnType;
use crate::avro::Malformed;

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
            Step::Array(element) => loop {
                // Each element takes a byte at least, so the payload bounds this.
                match input.block()? {
                    0 => break Ok(()),
                    count => (0..count).try_for_each(|_| element.skip(input))?,
                }
            },
        }
    }
}
