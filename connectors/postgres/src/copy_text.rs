//! A row of `COPY .. TO STDOUT` in text format.

use std::borrow::Cow;

/// The values of one line, without its end; `None` is a null.
pub(crate) fn values(line: &[u8]) -> impl Iterator<Item = Option<Cow<'_, [u8]>>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.split(|byte| *byte == b'\t').map(|field| match field {
        b"\\N" => None,
        field => Some(unescape(field)),
    })
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

    #[test]
    fn values_are_split_and_unescaped() {
        let line = b"1\t\\N\t\ta\\tb\\nc\\\\N\\bx\\\\\n";
        let got: Vec<_> = values(line).map(|value| value.map(Cow::into_owned)).collect();
        let text = |text: &[u8]| Some(text.to_vec());
        assert_eq!(got, [text(b"1"), None, text(b""), text(b"a\tb\nc\\N\x08x\\")]);
        assert_eq!(values(b"\n").count(), 1);
    }
}
