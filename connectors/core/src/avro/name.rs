//! PostgreSQL's names as Avro can spell them: `[A-Za-z_][A-Za-z0-9_]*`.
//!
//! A character that is not allowed becomes `_xHH_`, its code point in lower-case hex; so does an
//! underscore that would otherwise read as the start of one. The mapping is injective: two columns
//! of a table never share a name.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The longest code point is `10ffff`.
const HEX_DIGITS_MAX: usize = 6;

/// Spells `name` for Avro: `unit price` is `unit_x20_price`, `2nd` is `_x32_nd`.
///
/// An empty name, which PostgreSQL does not have, is spelt like U+0000, which it does not have
/// either.
#[must_use]
pub fn escape(name: &str) -> Cow<'_, str> {
    let is_legal = |(at, character): (usize, char)| is_allowed(at, character);
    if !name.is_empty() && name.char_indices().all(is_legal) && !name.contains("_x") {
        return Cow::Borrowed(name);
    }
    if name.is_empty() {
        return Cow::Borrowed("_x0_");
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for (at, character) in name.char_indices() {
        let after = name.get(at + character.len_utf8()..).unwrap_or_default();
        let kept = is_allowed(at, character) && !(character == '_' && reads_as_escape(after));
        if kept {
            escaped.push(character);
        } else {
            // Writing to a string cannot fail.
            write!(escaped, "_x{:x}_", u32::from(character)).unwrap_or_default();
        }
    }
    Cow::Owned(escaped)
}

fn is_allowed(at: usize, character: char) -> bool {
    character == '_' || character.is_ascii_alphabetic() || (at > 0 && character.is_ascii_digit())
}

/// Whether an underscore before `after` would start an escape once `after` is escaped itself: its
/// digits may end at an underscore or at a character whose escape begins with one.
fn reads_as_escape(after: &str) -> bool {
    let Some(after) = after.strip_prefix('x') else { return false };
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let digits = after.chars().take_while(|c| digit(*c)).count();
    let end = after.chars().nth(digits);
    let ends = end.is_some_and(|c| c == '_' || !is_allowed(1, c));
    (1..=HEX_DIGITS_MAX).contains(&digits) && ends
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The inverse, which only this test needs.
    fn unescape(mut escaped: &str) -> String {
        let mut name = String::new();
        while let Some(first) = escaped.chars().next() {
            let code = escaped.strip_prefix("_x").and_then(|rest| rest.split_once('_'));
            let valid = |digits: &str| {
                (1..=HEX_DIGITS_MAX).contains(&digits.len())
                    && digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
            };
            match code {
                Some((digits, rest)) if valid(digits) => {
                    let code = u32::from_str_radix(digits, 16).unwrap();
                    name.push(char::from_u32(code).unwrap());
                    escaped = rest;
                }
                _ => {
                    name.push(first);
                    escaped = escaped.strip_prefix(first).unwrap();
                }
            }
        }
        name
    }

    #[test]
    fn ordinary_names_stay() {
        for name in ["id", "unit_price", "_v", "CamelCase", "is_xml", "tax_x_rate", "a_xfe"] {
            assert_eq!(escape(name), name);
        }
        assert_eq!(escape("unit price"), "unit_x20_price");
        assert_eq!(escape("2nd"), "_x32_nd");
        assert_eq!(escape("größe"), "gr_xf6__xdf_e");
        assert_eq!(escape("a_xfee_b"), "a_x5f_xfee_b");
        assert_eq!(escape("a_xab-"), "a_x5f_xab_x2d_");
    }

    proptest! {
        #[test]
        fn names_are_legal_and_injective(name in "[a-f0-9x_é -]{1,12}|\\PC{1,8}") {
            let escaped = escape(&name);
            prop_assert!(escaped.char_indices().all(|(at, c)| is_allowed(at, c)), "{escaped}");
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
