//! The values of a row, as a slice of the message they came in.

use bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;
use crate::fields::Fields;

/// A row. Its bytes have been walked once, so walking them again cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    count: u16,
    /// A value among them is [`Value::Unchanged`].
    unchanged: bool,
    values: Bytes,
}

/// Puts a tuple together, as the server would send it.
#[derive(Debug, Default)]
pub(crate) struct TupleBuilder {
    count: u16,
    unchanged: bool,
    values: BytesMut,
}

/// A value in one of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    /// A TOASTed value that the change left alone: it was not sent.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl Tuple {
    /// Cuts a tuple off `fields`, which are part of `bytes`.
    pub(super) fn cut(bytes: &Bytes, fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed('N');
        let count = fields.u16().ok_or(malformed)?;
        let start = fields.rest();
        let mut unchanged = false;
        for _ in 0..count {
            match fields.u8().ok_or(malformed)? {
                b'n' => {}
                b'u' => unchanged = true,
                b't' | b'b' => {
                    let length = fields.length().ok_or(malformed)?;
                    fields.take(length).ok_or(malformed)?;
                }
                other => return Err(DecodeError::Format(char::from(other))),
            }
        }
        let length = start.len() - fields.rest().len();
        let values = start.get(..length).ok_or(malformed)?;
        Ok(Self { count, unchanged, values: bytes.slice_ref(values) })
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether a value was not sent.
    pub(crate) fn has_unchanged(&self) -> bool {
        self.unchanged
    }

    /// The values in the order of the columns.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'_>> {
        let mut fields = Fields::new(&self.values);
        std::iter::from_fn(move || match fields.u8()? {
            b'n' => Some(Value::Null),
            b'u' => Some(Value::Unchanged),
            format => {
                let length = fields.length()?;
                let bytes = fields.take(length)?;
                Some(if format == b'b' { Value::Binary(bytes) } else { Value::Text(bytes) })
            }
        })
    }

    /// The value at `place`.
    pub(crate) fn value(&self, place: usize) -> Option<Value<'_>> {
        self.values().nth(place)
    }

    /// Bytes that it keeps in memory, roughly.
    pub(crate) fn size(&self) -> usize {
        self.values.len()
    }
}

impl TupleBuilder {
    pub(crate) fn push(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.values.put_u8(b'n'),
            Value::Unchanged => {
                self.unchanged = true;
                self.values.put_u8(b'u');
            }
            Value::Text(text) => self.put(b't', text),
            Value::Binary(bytes) => self.put(b'b', bytes),
        }
        self.count = self.count.saturating_add(1);
    }

    fn put(&mut self, format: u8, value: &[u8]) {
        self.values.put_u8(format);
        // No value of PostgreSQL is longer than 1 GiB.
        self.values.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.values.put_slice(value);
    }

    pub(crate) fn finish(self) -> Tuple {
        Tuple { count: self.count, unchanged: self.unchanged, values: self.values.freeze() }
    }
}
