//! What becomes of the values of a table as they come in, before anything else sees them.
//!
//! ```text
//! values as sent ── Intake ──▶ [a key of our own] · values kept · values masked     (the rest is gone)
//! ```
//!
//! The invariant: behind it there is no value that must not leave the source, whether it came
//! through the stream, the copy of a snapshot, or a re-read; and what is made of a value depends
//! on its text alone, so that equal values stay equal.

use std::borrow::Cow;
use std::fmt;

use anabranch_core::{Column, ColumnType, Error, ErrorKind, Position, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::columns::{Rule, TableRules};
use crate::pgoutput::{Tuple, TupleBuilder, Value};

/// The number of a column that is not the source's. PostgreSQL's own begin at 1.
pub(crate) const APPEND_ATTNUM: i16 = 0;

/// Makes hashes that nobody can look up who lacks the key.
#[derive(Clone)]
pub(crate) struct Hasher {
    keyed: Hmac<Sha256>,
}

/// What a value is turned into.
#[derive(Clone, Debug)]
enum Mask {
    Hash(Hasher),
    Truncate(usize),
}

/// What becomes of one value.
#[derive(Clone, Debug)]
enum Fate {
    Keep,
    Mask(Mask),
    Drop,
}

/// What becomes of the values of a table.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    /// Rows get a key made of their position.
    append_only: bool,
    /// One for each value that is sent.
    fates: Vec<Fate>,
    /// For each of the source's columns that stay, its place among those that are sent.
    kept: Vec<usize>,
}

impl Hasher {
    pub(crate) fn new(key: &str) -> Self {
        let keyed = Hmac::new_from_slice(key.as_bytes());
        Self { keyed: keyed.expect("a key may have any length") }
    }

    fn hash(&self, text: &[u8]) -> String {
        let digest = self.keyed.clone().chain_update(text).finalize();
        hex::encode(digest.into_bytes())
    }

    /// Tells one key from another, and nothing else about it.
    fn check_value(&self) -> String {
        const HEX_DIGITS: usize = 8;
        let mut value = self.hash(b"anabranch check value");
        value.truncate(HEX_DIGITS);
        value
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Mask {
    fn apply<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::Hash(hasher) => Cow::Owned(hasher.hash(text).into_bytes()),
            Self::Truncate(count) => Cow::Borrowed(first(text, *count)),
        }
    }
}

/// The first `count` characters. What is no UTF-8 ends the text.
fn first(text: &[u8], count: usize) -> &[u8] {
    let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let end = valid.char_indices().nth(count).map_or(valid.len(), |(end, _)| end);
    text.get(..end).unwrap_or(text)
}

impl Intake {
    /// `None` if every value is taken as it is. `rules` has one for each of `columns`, which the
    /// server sends; those that stay, as they are from here on, are returned.
    pub(crate) fn new(
        of_table: &TableRules,
        rules: &[Option<Rule>],
        columns: Vec<Column>,
    ) -> Result<(Option<Self>, Vec<Column>)> {
        let append_only = of_table.append_key.is_some();
        if !append_only && rules.iter().all(Option::is_none) {
            return Ok((None, columns));
        }
        let mut intake = Self { append_only, fates: Vec::new(), kept: Vec::new() };
        let mut stay: Vec<Column> =
            of_table.append_key.iter().map(|name| append_column(name)).collect();
        for (place, column) in columns.into_iter().enumerate() {
            let fate = match rules.get(place).copied().flatten() {
                None => Fate::Keep,
                Some(Rule::Exclude) => Fate::Drop,
                Some(Rule::Hash) => Fate::Mask(Mask::Hash(hasher(of_table, &column)?)),
                Some(Rule::Truncate(count)) if column.kind == ColumnType::Text => {
                    Fate::Mask(Mask::Truncate(count))
                }
                Some(Rule::Truncate(_)) => return Err(no_text(&column)),
            };
            if !matches!(fate, Fate::Drop) {
                intake.kept.push(place);
                stay.push(fate.describe(column));
            }
            intake.fates.push(fate);
        }
        if let Some(key) = &of_table.append_key
            && stay.iter().skip(1).any(|column| column.name == *key)
        {
            return Err(key_taken("follow the inserts of an append-only table", key));
        }
        Ok((Some(intake), stay))
    }

    /// Only inserts and TRUNCATEs are followed.
    pub(crate) fn is_append_only(&self) -> bool {
        self.append_only
    }

    /// Whether no value is masked by its text.
    pub(crate) fn keeps_values(&self) -> bool {
        !self.fates.iter().any(|fate| matches!(fate, Fate::Mask(_)))
    }

    /// The tuple of a row at `position`; `None` if it has another number of values, or one to mask
    /// in binary format, of which a mask can make nothing that equals what it makes of the text.
    pub(crate) fn admit(&self, tuple: &Tuple, position: Position) -> Option<Tuple> {
        if tuple.len() != self.fates.len() {
            return None;
        }
        let mut out = TupleBuilder::default();
        if self.append_only {
            out.push(Value::Text(append_key(position).as_bytes()));
        }
        for (value, fate) in tuple.values().zip(&self.fates) {
            match (value, fate) {
                (_, Fate::Drop) => {}
                (Value::Text(text), Fate::Mask(mask)) => out.push(Value::Text(&mask.apply(text))),
                (Value::Binary(_), Fate::Mask(_)) => return None,
                (value, Fate::Keep | Fate::Mask(_)) => out.push(value),
            }
        }
        Some(out.finish())
    }

    /// The value of the column at `place` of the table, read from the table itself.
    pub(crate) fn mask<'a>(&self, place: usize, text: &'a [u8]) -> Cow<'a, [u8]> {
        match self.sent_place(place).and_then(|place| self.fates.get(place)) {
            Some(Fate::Mask(mask)) => mask.apply(text),
            Some(Fate::Keep | Fate::Drop) | None => Cow::Borrowed(text),
        }
    }

    /// Where the value at `place` of the table is among those that are sent.
    pub(crate) fn sent_place(&self, place: usize) -> Option<usize> {
        let place = if self.append_only { place.checked_sub(1)? } else { place };
        self.kept.get(place).copied()
    }
}

impl Fate {
    /// The column as the log has it. What it is masked with is part of its description, so that
    /// another mask makes another version of the table.
    fn describe(&self, column: Column) -> Column {
        let of = &column.source_type;
        match self {
            Self::Mask(Mask::Hash(hasher)) => Column {
                source_type: format!("{of}{HASHED}{}", hasher.check_value()),
                kind: ColumnType::Text,
                ..column
            },
            Self::Mask(Mask::Truncate(count)) => {
                Column { source_type: format!("{of}, first {count} characters"), ..column }
            }
            Self::Keep | Self::Drop => column,
        }
    }
}

/// Between a column's type and what tells the key of its hash.
const HASHED: &str = ", hashed with key ";

/// What tells the key that a column is hashed with; `None` if it is not hashed.
pub(crate) fn hash_of(column: &Column) -> Option<&str> {
    column.source_type.rsplit_once(HASHED).map(|(_, check_value)| check_value)
}

/// What tells the rows of an append-only table apart: their place in the source's history.
pub(crate) fn append_key(position: Position) -> String {
    let Position { epoch, commit_lsn, ordinal } = position;
    format!("{:02x}-{:016x}-{ordinal:016x}", epoch.0, commit_lsn.0)
}

fn append_column(name: &str) -> Column {
    Column {
        attnum: APPEND_ATTNUM,
        name: name.to_owned(),
        source_type: "position of the insert".to_owned(),
        kind: ColumnType::Text,
    }
}

fn hasher(rules: &TableRules, column: &Column) -> Result<Hasher> {
    rules.hasher.clone().ok_or_else(|| {
        Error::new(ErrorKind::Config, format!("hash column {}", column.name))
            .with_help("set [source] hash_key to a secret of your own")
    })
}

/// The key of our own would have the name of a column that the table has, from the start or since.
pub(crate) fn key_taken(action: impl Into<String>, key: &str) -> Error {
    Error::new(ErrorKind::Config, action)
        .with_source(format!("it has a column {key} of its own"))
        .with_help(
            "rename the column, or exclude it in [source.columns]; before the first start another \
             name in [source] append_key will do",
        )
}

fn no_text(column: &Column) -> Error {
    Error::new(ErrorKind::Config, format!("truncate column {}", column.name))
        .with_source(format!("it is {} now, and no text", column.source_type))
        .with_help("exclude it, or hash it, in [source.columns]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_core::{Epoch, Lsn};

    #[test]
    fn a_hash_is_hmac_sha_256() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Hasher::new("Jefe").hash(b"what do ya want for nothing?"), expected);
        assert_eq!(format!("{:?}", Hasher::new("Jefe")), "***");
        assert_ne!(Hasher::new("a").check_value(), Hasher::new("b").check_value());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let cases: [(&[u8], usize, &[u8]); 6] = [
            (b"abc", 2, b"ab"),
            (b"abc", 3, b"abc"),
            (b"", 3, b""),
            ("é☃🦀x".as_bytes(), 2, "é☃".as_bytes()),
            ("é☃🦀x".as_bytes(), 3, "é☃🦀".as_bytes()),
            (b"ab\xFFcd", 5, b"ab"),
        ];
        for (text, count, expected) in cases {
            assert_eq!(first(text, count), expected, "{text:?}");
        }
    }

    #[test]
    fn keys_of_appended_rows_are_in_the_order_of_their_positions() {
        let key = |epoch, lsn, ordinal| {
            append_key(Position { epoch: Epoch(epoch), commit_lsn: Lsn(lsn), ordinal })
        };
        let keys = [key(0, 0x10, 9), key(0, 0x10, 10), key(0, 0x1_0000_0000, 1), key(1, 0, 0)];
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert_eq!(keys[1], "00-0000000000000010-000000000000000a");
    }

    #[test]
    fn values_are_left_out_masked_and_numbered() {
        let column = |attnum, name: &str| Column {
            attnum,
            name: name.into(),
            source_type: "text".into(),
            kind: ColumnType::Text,
        };
        let rules = TableRules {
            append_key: Some("_row".into()),
            hasher: Some(Hasher::new("k")),
            ..TableRules::default()
        };
        let each = [None, Some(Rule::Exclude), Some(Rule::Hash), Some(Rule::Truncate(1))];
        let columns = ["a", "b", "c", "d"].iter().zip(1..).map(|(name, n)| column(n, name));
        let columns: Vec<Column> = columns.collect();
        let (intake, stay) = Intake::new(&rules, &each, columns.clone()).unwrap();
        let intake = intake.unwrap();
        let names: Vec<&str> = stay.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["_row", "a", "c", "d"]);
        assert!(hash_of(&stay[2]).is_some() && hash_of(&stay[3]).is_none());
        let mut sent = TupleBuilder::default();
        for value in [Value::Null, Value::Text(b"secret"), Value::Text(b"x"), Value::Text(b"yz")] {
            sent.push(value);
        }
        let got = intake.admit(&sent.finish(), Position::default()).unwrap();
        let hash = Hasher::new("k").hash(b"x");
        let key = append_key(Position::default());
        let expected = [
            Value::Text(key.as_bytes()),
            Value::Null,
            Value::Text(hash.as_bytes()),
            Value::Text(b"y"),
        ];
        assert_eq!(got.values().collect::<Vec<_>>(), expected);
        assert_eq!(*intake.mask(2, b"x"), *hash.as_bytes(), "as the stream has it");
        assert_eq!((intake.sent_place(0), intake.sent_place(3)), (None, Some(3)));
        assert!(intake.admit(&TupleBuilder::default().finish(), Position::default()).is_none());
        for (taken, is_refused) in [("a", true), ("b", false), ("c", true)] {
            let rules = TableRules { append_key: Some(taken.into()), ..rules.clone() };
            let refused = Intake::new(&rules, &each, columns.clone()).is_err();
            assert_eq!(refused, is_refused, "{taken}: only what is excluded leaves its name free");
        }
    }
}
