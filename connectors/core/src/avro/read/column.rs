//! A column of a batch while it is filled.
//!
//! Plain vectors, not Arrow's builders: a row that turns out to be malformed, marked or a truncate
//! is cut off again. They become Arrow's buffers without a copy.

use std::mem;
use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, ListArray, MapArray,
    PrimitiveArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields};

use super::input::Input;
use crate::avro::Malformed;
use crate::table::map_entries;
use crate::{ColumnType, Member, NARROW_PRECISION_MAX};

/// A column of a batch, or the elements of an array column.
#[derive(Debug)]
pub(super) struct Column {
    /// Whether the log has a branch before each value. A delete leaves any column null.
    nullable: bool,
    valid: Vec<bool>,
    cells: Cells,
}

/// The values; those of nulls are zero or empty.
#[derive(Debug)]
enum Cells {
    Bool(Vec<bool>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Decimals),
    WideDecimal(WideDecimals),
    Text(Varying),
    Bytes(Varying),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp { micros: Vec<i64>, is_utc: bool },
    Array { ends: Vec<i32>, elements: Box<Column>, field: FieldRef },
    Map { ends: Vec<i32>, keys: Varying, values: Box<Column> },
    Record { len: usize, members: Vec<Column>, fields: Fields },
}

#[derive(Debug)]
struct Decimals {
    unscaled: Vec<i128>,
    precision: u8,
    scale: i8,
    /// The least number with a digit too many.
    bound: u128,
}

#[derive(Debug)]
struct WideDecimals {
    unscaled: Vec<i256>,
    precision: u8,
    scale: i8,
    /// The least number with a digit too many.
    bound: i256,
}

/// Values of any length, one after another, and where each ends.
#[derive(Debug, Default)]
struct Varying {
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

/// The bytes that a value takes in a batch, but for those that vary.
pub(super) fn cell_bytes(kind: &ColumnType) -> usize {
    match kind {
        ColumnType::Bool => 2,
        ColumnType::Int16 => 3,
        ColumnType::Int32 | ColumnType::Float32 | ColumnType::Date => 5,
        ColumnType::Int64
        | ColumnType::Float64
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz => 9,
        ColumnType::Decimal { precision, .. } if *precision > NARROW_PRECISION_MAX => 33,
        ColumnType::Decimal { .. } => 17,
        ColumnType::Text
        | ColumnType::Json
        | ColumnType::Uuid
        | ColumnType::Bytes
        | ColumnType::Map
        | ColumnType::Array(_) => 5,
        ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
            1 + kind.members().iter().map(|member| cell_bytes(member.kind)).sum::<usize>()
        }
    }
}

impl Column {
    pub(super) fn new(kind: &ColumnType, nullable: bool) -> Self {
        Self { nullable, valid: Vec::new(), cells: Cells::new(kind) }
    }

    /// Values so far, nulls included.
    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    /// Appends a value of a row image.
    ///
    /// After an error the column may be longer by a part of the value: [`Column::truncate`] it.
    pub(super) fn read(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        if self.nullable && !input.branch()? {
            self.push_null();
            return Ok(());
        }
        self.cells.read(input)?;
        self.valid.push(true);
        Ok(())
    }

    pub(super) fn push_null(&mut self) {
        self.cells.push_null();
        self.valid.push(false);
    }

    /// Cuts off what comes after the first `len` values.
    pub(super) fn truncate(&mut self, len: usize) {
        self.valid.truncate(len);
        self.cells.truncate(len);
    }

    /// Takes the column as an array, and leaves it empty.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let valid = mem::take(&mut self.valid);
        let nulls = valid.contains(&false).then(|| NullBuffer::from(valid));
        self.cells.finish(nulls)
    }
}

impl Cells {
    fn new(kind: &ColumnType) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(Vec::new()),
            ColumnType::Int16 => Self::Int16(Vec::new()),
            ColumnType::Int32 => Self::Int32(Vec::new()),
            ColumnType::Int64 => Self::Int64(Vec::new()),
            ColumnType::Float32 => Self::Float32(Vec::new()),
            ColumnType::Float64 => Self::Float64(Vec::new()),
            ColumnType::Decimal { precision, scale } => Self::decimal(*precision, *scale),
            ColumnType::Text | ColumnType::Json | ColumnType::Uuid => {
                Self::Text(Varying::default())
            }
            ColumnType::Bytes => Self::Bytes(Varying::default()),
            ColumnType::Date => Self::Date(Vec::new()),
            ColumnType::Time => Self::Time(Vec::new()),
            ColumnType::Timestamp => Self::Timestamp { micros: Vec::new(), is_utc: false },
            ColumnType::TimestampTz => Self::Timestamp { micros: Vec::new(), is_utc: true },
            ColumnType::Array(element) => Self::Array {
                ends: Vec::new(),
                elements: Box::new(Column::new(element, true)),
                field: Arc::new(Field::new("element", element.arrow(), true)),
            },
            ColumnType::Map => Self::Map {
                ends: Vec::new(),
                keys: Varying::default(),
                values: Box::new(Column::new(&ColumnType::Text, true)),
            },
            ColumnType::Interval | ColumnType::Range(_) | ColumnType::Record(_) => {
                let members = kind.members();
                let member = |part: &Member<'_>| Column::new(part.kind, part.nullable);
                let members = members.iter().map(member).collect();
                Self::Record { len: 0, members, fields: kind.fields() }
            }
        }
    }

    fn decimal(precision: u8, scale: u8) -> Self {
        let scale = i8::try_from(scale).unwrap_or(i8::MAX);
        let power = u32::from(precision);
        if precision > NARROW_PRECISION_MAX {
            let bound = i256::from_i128(10).checked_pow(power).unwrap_or(i256::MAX);
            Self::WideDecimal(WideDecimals { unscaled: Vec::new(), precision, scale, bound })
        } else {
            let bound = 10_u128.checked_pow(power).unwrap_or(u128::MAX);
            Self::Decimal(Decimals { unscaled: Vec::new(), precision, scale, bound })
        }
    }

    fn read(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        match self {
            Self::Bool(values) => values.push(input.boolean()?),
            Self::Int16(values) => values.push(input.int()?),
            Self::Int32(values) | Self::Date(values) => values.push(input.int()?),
            Self::Int64(values) | Self::Time(values) | Self::Timestamp { micros: values, .. } => {
                values.push(input.long()?);
            }
            Self::Float32(values) => values.push(input.float()?),
            Self::Float64(values) => values.push(input.double()?),
            Self::Decimal(decimals) => decimals.read(input)?,
            Self::WideDecimal(decimals) => decimals.read(input)?,
            Self::Text(texts) => texts.push(input.string()?.as_bytes())?,
            Self::Bytes(values) => values.push(input.bytes()?)?,
            Self::Array { ends, elements, .. } => {
                input.blocks(|input| elements.read(input))?;
                ends.push(end(elements.len())?);
            }
            Self::Map { ends, keys, values } => {
                input.blocks(|input| {
                    keys.push(input.string()?.as_bytes())?;
                    values.read(input)
                })?;
                ends.push(end(values.len())?);
            }
            Self::Record { len, members, .. } => {
                members.iter_mut().try_for_each(|member| member.read(input))?;
                *len += 1;
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Self::Bool(values) => values.push(false),
            Self::Int16(values) => values.push(0),
            Self::Int32(values) | Self::Date(values) => values.push(0),
            Self::Int64(values) | Self::Time(values) | Self::Timestamp { micros: values, .. } => {
                values.push(0);
            }
            Self::Float32(values) => values.push(0.0),
            Self::Float64(values) => values.push(0.0),
            Self::Decimal(decimals) => decimals.unscaled.push(0),
            Self::WideDecimal(decimals) => decimals.unscaled.push(i256::ZERO),
            Self::Text(values) | Self::Bytes(values) => values.ends.push(last(&values.ends)),
            Self::Array { ends, .. } | Self::Map { ends, .. } => ends.push(last(ends)),
            Self::Record { len, members, .. } => {
                members.iter_mut().for_each(Column::push_null);
                *len += 1;
            }
        }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Bool(values) => values.truncate(len),
            Self::Int16(values) => values.truncate(len),
            Self::Int32(values) | Self::Date(values) => values.truncate(len),
            Self::Int64(values) | Self::Time(values) | Self::Timestamp { micros: values, .. } => {
                values.truncate(len);
            }
            Self::Float32(values) => values.truncate(len),
            Self::Float64(values) => values.truncate(len),
            Self::Decimal(decimals) => decimals.unscaled.truncate(len),
            Self::WideDecimal(decimals) => decimals.unscaled.truncate(len),
            Self::Text(values) | Self::Bytes(values) => values.truncate(len),
            Self::Array { ends, elements, .. } => {
                ends.truncate(len);
                elements.truncate(last_place(ends));
            }
            Self::Map { ends, keys, values } => {
                ends.truncate(len);
                keys.truncate(last_place(ends));
                values.truncate(last_place(ends));
            }
            Self::Record { len: held, members, .. } => {
                *held = len.min(*held);
                members.iter_mut().for_each(|member| member.truncate(len));
            }
        }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(values) => {
                let values = BooleanBuffer::from(mem::take(values));
                Arc::new(BooleanArray::new(values, nulls))
            }
            Self::Int16(values) => primitive::<Int16Type>(values, nulls)?,
            Self::Int32(values) => primitive::<Int32Type>(values, nulls)?,
            Self::Int64(values) => primitive::<Int64Type>(values, nulls)?,
            Self::Float32(values) => primitive::<Float32Type>(values, nulls)?,
            Self::Float64(values) => primitive::<Float64Type>(values, nulls)?,
            Self::Decimal(decimals) => decimals.finish(nulls)?,
            Self::WideDecimal(decimals) => decimals.finish(nulls)?,
            Self::Text(texts) => {
                let (ends, bytes) = texts.take();
                Arc::new(StringArray::try_new(ends, bytes, nulls)?)
            }
            Self::Bytes(values) => {
                let (ends, bytes) = values.take();
                Arc::new(BinaryArray::try_new(ends, bytes, nulls)?)
            }
            Self::Date(values) => primitive::<Date32Type>(values, nulls)?,
            Self::Time(values) => primitive::<Time64MicrosecondType>(values, nulls)?,
            Self::Timestamp { micros, is_utc: false } => {
                primitive::<TimestampMicrosecondType>(micros, nulls)?
            }
            Self::Timestamp { micros, is_utc: true } => {
                let micros = ScalarBuffer::from(mem::take(micros));
                Arc::new(TimestampMicrosecondArray::try_new(micros, nulls)?.with_timezone("UTC"))
            }
            Self::Array { ends, elements, field } => {
                let ends = offsets(mem::take(ends));
                Arc::new(ListArray::try_new(Arc::clone(field), ends, elements.finish()?, nulls)?)
            }
            Self::Map { ends, keys, values } => {
                let (key_ends, key_bytes) = keys.take();
                let keys = StringArray::try_new(key_ends, key_bytes, None)?;
                map(offsets(mem::take(ends)), keys, values.finish()?, nulls)?
            }
            Self::Record { len, members, fields } => {
                let len = mem::take(len);
                let arrays = members.iter_mut().map(Column::finish).collect::<Result<_, _>>()?;
                let fields = fields.clone();
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, len)?)
            }
        })
    }
}

fn map(
    ends: OffsetBuffer<i32>,
    keys: StringArray,
    values: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let field = map_entries();
    let DataType::Struct(fields) = field.data_type().clone() else {
        return Err(ArrowError::SchemaError("the entries of a map are a struct".to_owned()));
    };
    let entries = StructArray::try_new(fields, vec![Arc::new(keys), values], None)?;
    Ok(Arc::new(MapArray::try_new(Arc::new(field), ends, entries, nulls, false)?))
}

impl Decimals {
    fn read(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        let unscaled = input.decimal()?;
        if unscaled.unsigned_abs() >= self.bound {
            return Err(Malformed::Decimal);
        }
        self.unscaled.push(unscaled);
        Ok(())
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        let unscaled = ScalarBuffer::from(mem::take(&mut self.unscaled));
        let array: Decimal128Array = PrimitiveArray::<Decimal128Type>::try_new(unscaled, nulls)?;
        Ok(Arc::new(array.with_precision_and_scale(self.precision, self.scale)?))
    }
}

impl WideDecimals {
    fn read(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        let unscaled = input.wide_decimal()?;
        if unscaled >= self.bound || unscaled <= -self.bound {
            return Err(Malformed::Decimal);
        }
        self.unscaled.push(unscaled);
        Ok(())
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        let unscaled = ScalarBuffer::from(mem::take(&mut self.unscaled));
        let array: Decimal256Array = PrimitiveArray::<Decimal256Type>::try_new(unscaled, nulls)?;
        Ok(Arc::new(array.with_precision_and_scale(self.precision, self.scale)?))
    }
}

impl Varying {
    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(last_place(&self.ends));
    }

    fn push(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let end = end(self.bytes.len() + value.len())?;
        self.bytes.extend_from_slice(value);
        self.ends.push(end);
        Ok(())
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        (offsets(mem::take(&mut self.ends)), Buffer::from_vec(mem::take(&mut self.bytes)))
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(PrimitiveArray::<T>::try_new(ScalarBuffer::from(mem::take(values)), nulls)?))
}

/// Arrow counts in 32 bits.
fn end(place: usize) -> Result<i32, Malformed> {
    i32::try_from(place).map_err(|_| Malformed::Oversize)
}

fn last(ends: &[i32]) -> i32 {
    ends.last().copied().unwrap_or(0)
}

fn last_place(ends: &[i32]) -> usize {
    usize::try_from(last(ends)).unwrap_or(0)
}

/// The ends of values, which are ascending, as Arrow has them: with a 0 in front.
fn offsets(mut ends: Vec<i32>) -> OffsetBuffer<i32> {
    ends.insert(0, 0);
    OffsetBuffer::new(ScalarBuffer::from(ends))
}
