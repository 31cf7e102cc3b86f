//! One-dimensional arrays: `{1,NULL,"a \"quoted\" one"}`.

use anabranch_core::ColumnType;
use anabranch_core::avro::write;

use super::{ValueError, write_value};

const MALFORMED: ValueError = ValueError::Malformed("array");

/// Appends an array whose elements have type `element`.
pub(super) fn write_array(
    out: &mut Vec<u8>,
    element: &ColumnType,
    text: &[u8],
) -> Result<(), ValueError> {
    let inside = match text {
        // Explicit bounds are printed only where they are not 1.
        [b'[', ..] => return Err(ValueError::LowerBound),
        [b'{', inside @ .., b'}'] => inside,
        _ => return Err(MALFORMED),
    };
    let elements = split(inside)?;
    write::array_start(out, elements.len());
    for text in &elements {
        match text {
            None => write::null_branch(out),
            Some(text) => {
                write::value_branch(out);
                write_value(out, element, text)?;
            }
        }
    }
    write::array_end(out);
    Ok(())
}

/// The elements, unquoted; `None` is a null.
fn split(mut rest: &[u8]) -> Result<Vec<Option<Vec<u8>>>, ValueError> {
    let mut elements = Vec::new();
    if rest.is_empty() {
        return Ok(elements);
    }
    loop {
        let element;
        (element, rest) = match rest {
            [b'{', ..] => return Err(ValueError::Dimensions),
            [b'"', quoted @ ..] => {
                let (text, rest) = unquote(quoted)?;
                (Some(text), rest)
            }
            plain => {
                let end = plain.iter().position(|byte| *byte == b',').unwrap_or(plain.len());
                let (text, rest) = plain.split_at_checked(end).ok_or(MALFORMED)?;
                let value = match text {
                    b"" => return Err(MALFORMED),
                    b"NULL" => None,
                    text => Some(text.to_vec()),
                };
                (value, rest)
            }
        };
        elements.push(element);
        rest = match rest {
            [] => return Ok(elements),
            [b',', rest @ ..] => rest,
            _ => return Err(MALFORMED),
        };
    }
}

/// Reads up to the closing quote; returns the text and what follows it.
fn unquote(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), ValueError> {
    let mut text = Vec::new();
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Ok((text, rest)),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
            [] => return Err(MALFORMED),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<Option<String>>, ValueError> {
        let text = text.as_bytes();
        let elements = split(&text[1..text.len() - 1])?;
        Ok(elements.into_iter().map(|e| e.map(|e| String::from_utf8(e).unwrap())).collect())
    }

    #[test]
    fn elements_are_unquoted() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(elements("{}").unwrap(), []);
        assert_eq!(elements("{1,NULL,3}").unwrap(), [some("1"), None, some("3")]);
        assert_eq!(
            elements(r#"{"a,b","NULL","","a\"b\\c","{x}"}"#).unwrap(),
            [some("a,b"), some("NULL"), some(""), some("a\"b\\c"), some("{x}")]
        );
    }

    #[test]
    fn empty_arrays_and_nulls_are_told_apart() {
        let mut out = Vec::new();
        write_array(&mut out, &ColumnType::Int32, b"{}").unwrap();
        assert_eq!(out, [0]);
        out.clear();
        write_array(&mut out, &ColumnType::Int32, b"{7,NULL}").unwrap();
        assert_eq!(out, [4, 2, 14, 0, 0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let cases = [
            ("{{1,2},{3,NULL}}", ValueError::Dimensions),
            ("[0:1]={1,2}", ValueError::LowerBound),
            ("1,2", MALFORMED),
            ("{1,}", MALFORMED),
            ("{\"a}", MALFORMED),
            ("{\"a\"b}", MALFORMED),
        ];
        for (text, expected) in cases {
            let got = write_array(&mut Vec::new(), &ColumnType::Text, text.as_bytes());
            assert_eq!(got, Err(expected), "{text}");
        }
    }
}
