//! The text forms of values that are made of parts, taken apart and unquoted.
//!
//! ```text
//! {1,NULL,"a \"b\""}   (1,"a ""b""",)   [1,5)   {[1,3),[5,)}   "k"=>"v", "n"=>NULL
//! ```

use std::borrow::Cow;

use super::ValueError;

type Text<'a> = Cow<'a, [u8]>;
/// `None` is a null.
type Texts<'a> = Vec<Option<Text<'a>>>;

const ARRAY: ValueError = ValueError::Malformed("array");
const COMPOSITE: ValueError = ValueError::Malformed("composite");
const RANGE: ValueError = ValueError::Malformed("range");
const HSTORE: ValueError = ValueError::Malformed("hstore");

/// Whether a list can say all that an array says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One dimension that begins at 1, or no element.
    List,
    /// Several dimensions, or another lower bound.
    Other,
}

/// The elements of an array, in the order in which they are stored.
pub(super) fn array(text: &[u8], delimiter: u8) -> Result<(Texts<'_>, Shape), ValueError> {
    let mut shape = Shape::List;
    let mut rest = text;
    // Explicit bounds are printed only where they are not 1.
    if rest.first() == Some(&b'[') {
        shape = Shape::Other;
        let end = rest.iter().position(|byte| *byte == b'=').ok_or(ARRAY)?;
        rest = rest.get(end + 1..).ok_or(ARRAY)?;
    }
    let [b'{', inside @ .., b'}'] = rest else { return Err(ARRAY) };
    let mut elements = Vec::new();
    let (mut rest, mut depth) = (inside, 0_usize);
    if rest.is_empty() {
        return Ok((elements, shape));
    }
    loop {
        while let [b'{', inside @ ..] = rest {
            (rest, depth, shape) = (inside, depth + 1, Shape::Other);
        }
        let element;
        (element, rest) = array_element(rest, delimiter)?;
        elements.push(element);
        while let ([b'}', after @ ..], 1..) = (rest, depth) {
            (rest, depth) = (after, depth - 1);
        }
        rest = match rest {
            [] if depth == 0 => return Ok((elements, shape)),
            [byte, rest @ ..] if *byte == delimiter => rest,
            _ => return Err(ARRAY),
        };
    }
}

fn array_element(rest: &[u8], delimiter: u8) -> Result<(Option<Text<'_>>, &[u8]), ValueError> {
    if let [b'"', quoted @ ..] = rest {
        let (text, rest) = unquote(quoted, ARRAY)?;
        return Ok((Some(text), rest));
    }
    let ends = |byte: &u8| *byte == delimiter || *byte == b'}';
    let end = rest.iter().position(ends).unwrap_or(rest.len());
    let (text, rest) = rest.split_at_checked(end).ok_or(ARRAY)?;
    match text {
        b"" => Err(ARRAY),
        b"NULL" => Ok((None, rest)),
        text => Ok((Some(Cow::Borrowed(text)), rest)),
    }
}

/// The attributes of a composite.
pub(super) fn composite(text: &[u8]) -> Result<Texts<'_>, ValueError> {
    let [b'(', inside @ .., b')'] = text else { return Err(COMPOSITE) };
    let mut values = Vec::new();
    let mut rest = inside;
    loop {
        let value;
        (value, rest) = match rest {
            [] | [b',', ..] => (None, rest),
            rest => part(rest, COMPOSITE)?,
        };
        values.push(value);
        rest = match rest {
            [] => return Ok(values),
            [b',', rest @ ..] => rest,
            _ => return Err(COMPOSITE),
        };
    }
}

/// A range.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Range<'a> {
    pub(super) lower: Option<Text<'a>>,
    pub(super) upper: Option<Text<'a>>,
    pub(super) lower_inc: bool,
    pub(super) upper_inc: bool,
    pub(super) empty: bool,
}

pub(super) fn range(text: &[u8]) -> Result<Range<'_>, ValueError> {
    if text == b"empty" {
        return Ok(Range { empty: true, ..Range::default() });
    }
    let [start @ (b'[' | b'('), inside @ .., end @ (b']' | b')')] = text else {
        return Err(RANGE);
    };
    let (lower, rest) = range_bound(inside)?;
    let [b',', rest @ ..] = rest else { return Err(RANGE) };
    let (upper, []) = range_bound(rest)? else { return Err(RANGE) };
    Ok(Range { lower, upper, lower_inc: *start == b'[', upper_inc: *end == b']', empty: false })
}

fn range_bound(rest: &[u8]) -> Result<(Option<Text<'_>>, &[u8]), ValueError> {
    match rest {
        [] | [b',', ..] => Ok((None, rest)),
        rest => part(rest, RANGE),
    }
}

/// The ranges of a multirange, each as its text.
pub(super) fn multirange(text: &[u8]) -> Result<Vec<&[u8]>, ValueError> {
    let [b'{', inside @ .., b'}'] = text else { return Err(RANGE) };
    let mut ranges = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (place, byte) in inside.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b']' | b')' if !quoted => {
                ranges.push(inside.get(start..=place).ok_or(RANGE)?);
                // After the comma.
                start = place + 2;
            }
            _ => {}
        }
    }
    let is_whole = ranges.is_empty() && inside.is_empty() || start == inside.len() + 1;
    if is_whole { Ok(ranges) } else { Err(RANGE) }
}

/// The pairs of an hstore.
pub(super) fn hstore(text: &[u8]) -> Result<Vec<(Text<'_>, Option<Text<'_>>)>, ValueError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let [b'"', quoted @ ..] = rest else { return Err(HSTORE) };
        let (key, after) = unquote(quoted, HSTORE)?;
        let value;
        (value, rest) = match after {
            [b'=', b'>', b'"', quoted @ ..] => {
                let (text, rest) = unquote(quoted, HSTORE)?;
                (Some(text), rest)
            }
            [b'=', b'>', b'N', b'U', b'L', b'L', rest @ ..] => (None, rest),
            _ => return Err(HSTORE),
        };
        pairs.push((key, value));
        rest = match rest {
            [] => rest,
            [b',', b' ', rest @ ..] => rest,
            _ => return Err(HSTORE),
        };
    }
    Ok(pairs)
}

/// A part that ends before a comma outside quotes, in which a quote may be doubled.
fn part(rest: &[u8], malformed: ValueError) -> Result<(Option<Text<'_>>, &[u8]), ValueError> {
    let [b'"', quoted @ ..] = rest else {
        let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        let (text, rest) = rest.split_at_checked(end).ok_or(malformed)?;
        return Ok((Some(Cow::Borrowed(text)), rest));
    };
    let (text, rest) = unquote(quoted, malformed)?;
    Ok((Some(text), rest))
}

/// Reads up to the closing quote; returns the text and what follows it. A backslash takes the next
/// byte as it is; a doubled quote is one.
fn unquote(text: &[u8], malformed: ValueError) -> Result<(Text<'_>, &[u8]), ValueError> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\');
    let plain = text.iter().position(special).ok_or(malformed)?;
    if let (plain, [b'"', rest @ ..]) = text.split_at(plain)
        && rest.first() != Some(&b'"')
    {
        return Ok((Cow::Borrowed(plain), rest));
    }
    let (mut owned, mut rest) = (Vec::with_capacity(text.len()), text);
    loop {
        rest = match rest {
            [b'"', b'"', rest @ ..] => {
                owned.push(b'"');
                rest
            }
            [b'"', rest @ ..] => return Ok((Cow::Owned(owned), rest)),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                owned.push(*byte);
                rest
            }
            [] => return Err(malformed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: Texts<'_>) -> Vec<Option<String>> {
        let text = |text: Text<'_>| String::from_utf8(text.into_owned()).unwrap();
        texts.into_iter().map(|value| value.map(text)).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn elements_are_unquoted() {
        let elements = |text: &'static str| {
            let (texts, shape) = array(text.as_bytes(), b',').unwrap();
            (owned(texts), shape)
        };
        assert_eq!(elements("{}"), (vec![], Shape::List));
        assert_eq!(elements("{1,NULL,3}"), (vec![some("1"), None, some("3")], Shape::List));
        let quoted = ["a,b", "NULL", "", "a\"b\\c", "{x}"].map(some);
        let text = r#"{"a,b","NULL","","a\"b\\c","{x}"}"#;
        assert_eq!(elements(text), (quoted.to_vec(), Shape::List));
        let four = [some("1"), some("2"), some("3"), None];
        assert_eq!(elements("{{1,2},{3,NULL}}"), (four.to_vec(), Shape::Other));
        assert_eq!(elements("{{{1,2}},{{3,NULL}}}"), (four.to_vec(), Shape::Other));
        assert_eq!(elements("[0:1]={1,2}"), (four[..2].to_vec(), Shape::Other));
        let boxes = array(b"{(1,1),(0,0);(2,2),(1,1)}", b';').unwrap();
        assert_eq!(owned(boxes.0), [some("(1,1),(0,0)"), some("(2,2),(1,1)")]);
        for text in ["1,2", "{1,}", "{\"a}", "{\"a\"b}", "{{1,2}", "{1}}", "[0:1]{1}", "{,1}", ""] {
            assert!(array(text.as_bytes(), b',').is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_are_unquoted_and_may_be_null() {
        let parts = |text: &'static str| owned(composite(text.as_bytes()).unwrap());
        assert_eq!(parts("(1,\"x y\")"), [some("1"), some("x y")]);
        assert_eq!(parts("(,)"), [None, None]);
        assert_eq!(parts("()"), [None]);
        assert_eq!(parts("(\"\",a)"), [some(""), some("a")]);
        assert_eq!(parts(r#"("a""b\\c,(","(1,""2"")")"#), [some("a\"b\\c,("), some("(1,\"2\")")]);
        for text in ["", "1,2", "(\"a)", "(\"a\"b)"] {
            assert!(composite(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_have_bounds_or_none() {
        let bounds = |text: &'static str| {
            let range = range(text.as_bytes()).unwrap();
            let flags = (range.lower_inc, range.upper_inc, range.empty);
            (owned(vec![range.lower, range.upper]), flags)
        };
        assert_eq!(bounds("[1,5)"), (vec![some("1"), some("5")], (true, false, false)));
        assert_eq!(bounds("(,5]"), (vec![None, some("5")], (false, true, false)));
        assert_eq!(bounds("(,)"), (vec![None, None], (false, false, false)));
        assert_eq!(bounds("empty"), (vec![None, None], (false, false, true)));
        assert_eq!(bounds("[\"a,)\",\"\")"), (vec![some("a,)"), some("")], (true, false, false)));
        for text in ["", "[1,5", "1,5", "[1)", "[1,2,3)", "[\"1,2)"] {
            assert!(range(text.as_bytes()).is_err(), "{text}");
        }
        let ranges = |text: &'static str| multirange(text.as_bytes());
        assert_eq!(ranges("{}").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(ranges("{[1,3),[5,)}").unwrap(), [&b"[1,3)"[..], b"[5,)"]);
        assert_eq!(ranges("{[\"a)\",b)}").unwrap(), [&b"[\"a)\",b)"[..]]);
        for text in ["", "{[1,3)", "{1}", "{[1,3),}", "{[1,3)x}"] {
            assert!(ranges(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_are_unquoted() {
        let pairs = hstore(br#""a"=>"1", "b\"\\"=>NULL, ""=>"NULL""#).unwrap();
        let (keys, values): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|(key, value)| (Some(key), value)).unzip();
        assert_eq!(owned(keys), ["a", "b\"\\", ""].map(some));
        assert_eq!(owned(values), [some("1"), None, some("NULL")]);
        assert!(hstore(b"").unwrap().is_empty());
        for text in ["a=>1", "\"a\"", "\"a\"=>\"1\",\"b\"=>NULL", "\"a\"=>x"] {
            assert!(hstore(text.as_bytes()).is_err(), "{text}");
        }
    }
}
