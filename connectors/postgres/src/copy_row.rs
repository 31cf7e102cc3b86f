//! A row of `COPY .. TO STDOUT`, in text or binary format.
//!
//! ```text
//! message of COPY ── CopyRow::read ──▶ values, in the order of the columns
//! ```
//!
//! Source: the PostgreSQL manual, reference of COPY, "File Formats".

use std::borrow::Cow;
use std::ops::Range;

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

/// Where the values of one row are, in memory that the next row has again.
#[derive(Debug, Default)]
pub(crate) struct CopyRow {
    format: CopyFormat,
    values: Vec<Place>,
    /// Texts that the message does not have as they are.
    texts: Vec<u8>,
}

/// Where a value is.
#[derive(Clone, Debug)]
enum Place {
    /// Nowhere: it is null.
    Null,
    /// In the message.
    Message(Range<usize>),
    /// Among the texts.
    Text(Range<usize>),
}

/// Bytes that are no row of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent no row of a {} copy", .0.name())]
pub(crate) struct BadRow(CopyFormat);

impl CopyRow {
    /// Forgets the row before; what follows is in `format`.
    pub(crate) fn clear(&mut self, format: CopyFormat) {
        self.format = format;
        self.values.clear();
        self.texts.clear();
    }

    /// Adds a value of our own.
    pub(crate) fn push_text(&mut self, text: &[u8]) {
        let start = self.texts.len();
        self.texts.extend_from_slice(text);
        self.values.push(Place::Text(start..self.texts.len()));
    }

    /// Adds the values of a message of the server; `is_row` is false if it says that no row follows.
    /// A text is taken as `mask` leaves it, which is given the number of the value, from 0.
    pub(crate) fn read(
        &mut self,
        message: &[u8],
        mask: impl for<'a> Fn(usize, &'a [u8]) -> Cow<'a, [u8]>,
    ) -> Result<bool, BadRow> {
        match self.format {
            CopyFormat::Text => {
                self.read_text(message, mask);
                Ok(true)
            }
            CopyFormat::Binary => self.read_binary(message).ok_or(BadRow(self.format)),
        }
    }

    fn read_text(
        &mut self,
        message: &[u8],
        mask: impl for<'a> Fn(usize, &'a [u8]) -> Cow<'a, [u8]>,
    ) {
        let line = message.strip_suffix(b"\n").unwrap_or(message);
        let mut start = 0;
        for (place, field) in line.split(|byte| *byte == b'\t').enumerate() {
            let span = start..start + field.len();
            start = span.end + 1;
            if field == b"\\N" {
                self.values.push(Place::Null);
                continue;
            }
            let text = unescape(field);
            let masked = mask(place, &text);
            if std::ptr::eq::<[u8]>(&*masked, field) {
                self.values.push(Place::Message(span));
            } else {
                self.push_text(&masked);
            }
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
                NULL => self.values.push(Place::Null),
                length => {
                    let start = message.len() - fields.rest().len();
                    let value = fields.take(usize::try_from(length).ok()?)?;
                    self.values.push(Place::Message(start..start + value.len()));
                }
            }
        }
        fields.rest().is_empty().then_some(true)
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The values of `message`, which was read last, in the order of the columns.
    pub(crate) fn values<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = Value<'a>> {
        self.values.iter().map(move |place| match place {
            Place::Null => Value::Null,
            Place::Message(span) => {
                let value = message.get(span.clone()).unwrap_or_default();
                match self.format {
                    CopyFormat::Text => Value::Text(value),
                    CopyFormat::Binary => Value::Binary(value),
                }
            }
            Place::Text(span) => Value::Text(self.texts.get(span.clone()).unwrap_or_default()),
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
        row.read(message, |place, text| {
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
        assert_eq!(row.values(line).collect::<Vec<_>>(), expected);
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
            assert_eq!(
                row.values(&message).collect::<Vec<_>>(),
                [Value::Binary(&[7]), Value::Null]
            );
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
