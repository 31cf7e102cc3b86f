//! A row of `COPY .. TO STDOUT`, in text or binary format.
//!
//! ```text
//! message of COPY ── CopyRow::read ──▶ values, in the order of the columns
//! ```
//!
//! Source: the PostgreSQL manual, reference of COPY, "File Formats".

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::fields::Fields;
use crate::pgoutput::Value;

/// What a binary copy begins with: a signature, flags, and the length of an extension.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What stands for the number of values after the last row.
const TRAILER: u16 = u16::MAX;
/// What stands for the length of a null.
const NULL: u32 = u32::MAX;

/// The two formats of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CopyFormat {
    #[default]
    Text,
    Binary,
}

impl CopyFormat {
    /// As `COPY .. WITH (FORMAT ..)` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

/// The values of one row, in memory that the next row has again.
#[derive(Debug, Default)]
pub(crate) struct CopyRow {
    format: CopyFormat,
    bytes: Vec<u8>,
    values: Vec<Option<(CopyFormat, Range<usize>)>>,
}

/// Bytes that are no row of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent no row of a {} copy", .0.name())]
pub(crate) struct BadRow(CopyFormat);

impl CopyRow {
    /// Forgets the row before; what follows is in `format`.
    pub(crate) fn clear(&mut self, format: CopyFormat) {
        self.format = format;
        self.bytes.clear();
        self.values.clear();
    }

    /// Adds a value of our own.
    pub(crate) fn push_text(&mut self, text: &[u8]) {
        self.push(CopyFormat::Text, text);
    }

    /// Adds the values of a message of the server; `is_row` is false if it says that no row follows.
    /// A text is taken as `mask` leaves it, which is given the number of the value, from 0.
    pub(crate) fn read(
        &mut self,
        message: &Bytes,
        mask: impl for<'a> Fn(usize, &'a [u8]) -> Cow<'a, [u8]>,
    ) -> Result<bool, BadRow> {
        match self.format {
            CopyFormat::Text => {
                let line = message.strip_suffix(b"\n").unwrap_or(message);
                for (place, field) in line.split(|byte| *byte == b'\t').enumerate() {
                    if field == b"\\N" {
                        self.values.push(None);
                        continue;
                    }
                    let text = unescape(field);
                    self.push_text(&mask(place, &text));
                }
                Ok(true)
            }
            CopyFormat::Binary => self.read_binary(message).ok_or(BadRow(self.format)),
        }
    }

    /// The header comes with the first row, or with the trailer if there is none.
    fn read_binary(&mut self, message: &[u8]) -> Option<bool> {
        let mut fields = Fields::new(message.strip_prefix(SIGNATURE).unwrap_or(message));
        if fields.rest().len() < message.len() {
            let _flags = fields.u32()?;
            let extension = fields.length()?;
            fields.take(extension)?;
        }
        let count = fields.u16()?;
        if count == TRAILER {
            return Some(false);
        }
        for _ in 0..count {
            match fields.u32()? {
                NULL => self.values.push(None),
                length => {
                    let value = fields.take(usize::try_from(length).ok()?)?;
                    self.push(CopyFormat::Binary, value);
                }
            }
        }
        fields.rest().is_empty().then_some(true)
    }

    fn push(&mut self, format: CopyFormat, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.values.push(Some((format, start..self.bytes.len())));
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The values in the order of the columns.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'_>> {
        self.values.iter().map(|value| {
            let value = value.as_ref().and_then(|(format, span)| {
                self.bytes.get(span.clone()).map(|bytes| (format, bytes))
            });
            match value {
                None => Value::Null,
                Some((CopyFormat::Text, text)) => Value::Text(text),
                Some((CopyFormat::Binary, bytes)) => Value::Binary(bytes),
            }
        })
    }
}

fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: &mut CopyRow, format: CopyFormat, message: &[u8]) -> Result<bool, BadRow> {
        row.clear(format);
        row.read(&Bytes::copy_from_slice(message), |place, text| {
            if place == 0 { Cow::Owned(text.to_ascii_uppercase()) } else { Cow::Borrowed(text) }
        })
    }

    #[test]
    fn texts_are_split_unescaped_and_masked() {
        let mut row = CopyRow::default();
        let line = b"one\t\\N\t\ta\\tb\\nc\\\\N\\bx\\\\\n";
        assert_eq!(read(&mut row, CopyFormat::Text, line), Ok(true));
        let text = Value::Text;
        let expected = [text(b"ONE"), Value::Null, text(b""), text(b"a\tb\nc\\N\x08x\\")];
        assert_eq!(row.values().collect::<Vec<_>>(), expected);
        assert_eq!(read(&mut row, CopyFormat::Text, b"\n"), Ok(true));
        assert_eq!(row.len(), 1);
    }

    #[test]
    fn binary_rows_come_between_a_header_and_a_trailer() {
        let header = [SIGNATURE, &[0; 8]].concat();
        let tuple: &[u8] = &[0, 2, 0, 0, 0, 1, 7, 0xff, 0xff, 0xff, 0xff];
        let trailer: &[u8] = &[0xff, 0xff];
        let mut row = CopyRow::default();
        for message in [tuple.to_vec(), [&header, tuple].concat()] {
            assert_eq!(read(&mut row, CopyFormat::Binary, &message), Ok(true));
            assert_eq!(row.values().collect::<Vec<_>>(), [Value::Binary(&[7]), Value::Null]);
        }
        for message in [trailer.to_vec(), [&header, trailer].concat()] {
            assert_eq!(read(&mut row, CopyFormat::Binary, &message), Ok(false));
        }
        for end in 0..tuple.len() {
            let cut = tuple.get(..end).unwrap();
            assert_eq!(
                read(&mut row, CopyFormat::Binary, cut),
                Err(BadRow(CopyFormat::Binary)),
                "{cut:?}"
            );
        }
        assert!(read(&mut row, CopyFormat::Binary, &[tuple, &[0]].concat()).is_err());
    }
}
