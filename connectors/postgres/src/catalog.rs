//! The tables that are read, as `pg_catalog` and the stream describe them.
//!
//! ```text
//! pg_catalog ── Catalog::load ──▶ Relation ◀── matches? ── Relation message of the stream
//!                                    │              no: read again, the message's view wins
//!                                    └──▶ Table, one version per shape, known to the log
//! ```
//!
//! The invariant: a row is encoded with the columns that its own Relation message listed, whatever
//! the catalog says by now.

mod identity;
mod known;
mod leaves;
mod query;
mod type_query;
mod types;

#[cfg(any(test, fuzzing))]
pub(crate) mod samples;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::{Column, ColumnType, Error, ErrorKind, Result, Table};

use crate::columns::{RuleBook, SentColumn, TableRules};
use crate::config::TableName;
use crate::error::lost;
use crate::intake::{APPEND_ATTNUM, Intake, hash_of};
use crate::pgoutput;
use crate::row::RowLayout;
use crate::value::Codec;
use identity::{identity_of, unfit_key};
use known::Known;
pub(crate) use known::KnownTables;
pub(crate) use leaves::Leaves;
#[cfg(test)]
pub(crate) use query::Published;
pub(crate) use query::{Access, Generated, RawColumn, RawTable, load_by_name, load_by_oid};
pub(crate) use types::Types;

/// A table with what its rows need.
#[derive(Debug)]
pub(crate) struct Relation {
    /// The version of the schema that its rows are encoded with.
    pub(crate) table: Arc<Table>,
    pub(crate) layout: RowLayout,
    /// `None` if all values are taken as they are sent.
    pub(crate) intake: Option<Intake>,
    /// What the Relation message lists.
    wire: Vec<WireColumn>,
}

/// A column as a Relation message shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WireColumn {
    /// Not in the message, but found.
    attnum: i16,
    name: String,
    type_oid: u32,
    typmod: i32,
}

/// Every table that is read, by oid.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    relations: HashMap<u32, Arc<Relation>>,
    known: KnownTables,
    names: Vec<TableName>,
    book: RuleBook,
    rules: HashMap<u32, Arc<TableRules>>,
    /// Partitions that changes came from.
    pub(crate) leaves: Leaves,
}

/// A table as the server sends it: columns and wire columns, place by place.
struct Sent {
    name: TableName,
    oid: u32,
    columns: Vec<Column>,
    codecs: Vec<Codec>,
    wire: Vec<WireColumn>,
    /// Whether the number of each column was found, and not guessed.
    certain: Vec<bool>,
}

/// A table as the log is to hold it, and what makes its rows out of those that are sent.
type Shape = (Table, Vec<Codec>, Option<Intake>, Vec<WireColumn>);

impl Catalog {
    /// A catalog of the tables `names`. `known` is what the log holds: its versions go on.
    pub(crate) fn new(mut names: Vec<TableName>, known: KnownTables) -> Self {
        names.sort();
        Self { names, known, ..Self::default() }
    }

    /// The same, with rules for their columns.
    pub(crate) fn with_rules(self, book: RuleBook) -> Self {
        Self { book, ..self }
    }

    /// The table with this oid; `None` if it is published but not configured.
    pub(crate) fn relation(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.relations.get(&oid)
    }

    /// All tables, in the order of their oids.
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        let mut tables: Vec<_> =
            self.relations.values().map(|relation| Arc::clone(&relation.table)).collect();
        tables.sort_by_key(|table| table.oid);
        tables
    }

    /// Tables that the log may not hold in this version: announced again, they are there for sure.
    pub(crate) fn unlogged(&self) -> Vec<Arc<Table>> {
        let mut tables = self.tables();
        tables.retain(|table| !self.known.is_logged(table));
        tables
    }

    /// Takes notice of what the next message says of partitions.
    pub(crate) fn observe(&mut self, message: &pgoutput::Message) {
        let relations = &self.relations;
        self.leaves.observe(message, |oid| relations.contains_key(&oid));
    }

    /// What the log has.
    pub(crate) fn known(&self) -> &KnownTables {
        &self.known
    }

    /// Whether a Relation message is about one of our tables, by oid or by name.
    pub(crate) fn concerns(&self, message: &pgoutput::Relation) -> bool {
        let name = (message.schema.as_str(), message.name.as_str());
        let place = |one: &TableName| (one.schema.as_str(), one.name.as_str()).cmp(&name);
        self.relations.contains_key(&message.oid) || self.names.binary_search_by(place).is_ok()
    }

    /// Whether rows that follow `message` can be encoded with what is known.
    pub(crate) fn matches(&self, message: &pgoutput::Relation) -> bool {
        self.relations.get(&message.oid).is_some_and(|relation| relation.matches(message))
    }

    /// Takes a table as the catalog has it.
    pub(crate) fn adopt(&mut self, raw: &RawTable, types: &Types) -> Result<Arc<Relation>> {
        let (sent, key) = self.sent(raw, types)?;
        self.adopt_table(sent, &key)
    }

    /// A table as the server would send it if the catalog is right, and its key.
    fn sent(&mut self, raw: &RawTable, types: &Types) -> Result<(Sent, Vec<i16>)> {
        let rules = self.rules_of(raw);
        let columns = raw.published_columns();
        let codec = |column: &&RawColumn| types.codec(column.type_oid, column.typmod);
        let codecs: Vec<Codec> = columns.iter().map(codec).collect();
        let column = |(column, codec): (&&RawColumn, &Codec)| Column {
            attnum: column.attnum,
            name: column.name.clone(),
            source_type: column.type_name.clone(),
            kind: codec.kind(),
        };
        let sent = Sent {
            name: raw.name(),
            oid: raw.oid,
            columns: columns.iter().zip(&codecs).map(column).collect(),
            codecs,
            wire: columns.iter().map(|column| column.wire()).collect(),
            certain: vec![true; columns.len()],
        };
        let key = if rules.append_key.is_some() {
            vec![APPEND_ATTNUM]
        } else {
            identity_of(raw).map_err(|reason| reason.error(&raw.full_name()))?.attnums
        };
        Ok((sent, key))
    }

    /// Goes on with a table as the log knows it, whatever the catalog says by now: the rows to come
    /// may be older than that. Their Relation message says more, and is looked up unless the
    /// catalog has the table still as the log does. `false` if the log does not know it.
    pub(crate) fn resume(&mut self, raw: &RawTable, types: &Types) -> bool {
        let sent = self.sent(raw, types);
        let Some(table) = self.known.get(raw.oid) else { return false };
        let wire = sent.ok().and_then(|(sent, key)| self.shape(sent, &key).ok());
        let wire = wire.filter(|(fresh, ..)| same_shape(&table, fresh));
        // Without its columns it matches no message, so no row is taken before one was read.
        let (codecs, intake, wire) =
            wire.map(|(_, codecs, intake, wire)| (codecs, intake, wire)).unwrap_or_default();
        let layout = RowLayout::new(Arc::clone(&table), codecs);
        let relation = Relation { table, layout, intake, wire };
        self.relations.insert(raw.oid, Arc::new(relation));
        true
    }

    /// Rules are found by name once, and hold for what was found.
    fn rules_of(&mut self, raw: &RawTable) -> Arc<TableRules> {
        let rules = self.rules.entry(raw.oid).or_insert_with(|| Arc::new(self.book.of(raw)));
        Arc::clone(rules)
    }

    /// Takes a table as a Relation message has it; `raw` is the catalog's view of the same oid,
    /// `None` if it was dropped since. Returns it if its schema version is new; not one that is dropped,
    /// and that nobody has read since the start: it is let go of.
    pub(crate) fn adopt_message(
        &mut self,
        message: &pgoutput::Relation,
        raw: Option<&RawTable>,
        types: &Types,
    ) -> Result<Option<Arc<Table>>> {
        let name = TableName { schema: message.schema.clone(), name: message.name.clone() };
        let Some(before) = self.relations.get(&message.oid).cloned() else {
            if raw.is_none() {
                return Ok(None);
            }
            return Err(lost(
                format!("go on with {name}"),
                "it was dropped and created again, or published only now",
            ));
        };
        let numbered = attnums(message, raw, &before);
        let wire = message.columns.iter().zip(&numbered);
        let wire: Vec<WireColumn> =
            wire.map(|(c, (attnum, _))| WireColumn::of(c, *attnum)).collect();
        let codec = |c: &pgoutput::RelationColumn| types.codec(c.type_oid, c.typmod);
        let codecs: Vec<Codec> = message.columns.iter().map(codec).collect();
        let column = |((column, codec), (attnum, _)): (
            (&pgoutput::RelationColumn, &Codec),
            &(i16, bool),
        )| {
            let kind = codec.kind();
            let now = raw
                .and_then(|raw| raw.column(*attnum))
                .filter(|raw| (raw.type_oid, raw.typmod) == (column.type_oid, column.typmod))
                .map(|raw| &raw.type_name);
            let then =
                || before.table.columns.iter().find(|c| c.attnum == *attnum && c.kind == kind);
            let source_type = now.or_else(|| then().map(|column| &column.source_type));
            Column {
                attnum: *attnum,
                name: column.name.clone(),
                source_type: source_type.cloned().unwrap_or_else(|| types.name(column.type_oid)),
                kind,
            }
        };
        let columns = message.columns.iter().zip(&codecs).zip(&numbered).map(column).collect();
        let key = key_attnums(&before.table);
        let flags = message.columns.iter().zip(&numbered);
        let flagged: Vec<i16> =
            flags.filter_map(|(column, (attnum, _))| column.identity.then_some(*attnum)).collect();
        let full = flagged.len() == message.columns.len();
        let mut sorted = key.clone();
        sorted.sort_unstable();
        if flagged != sorted && !full && key != [APPEND_ATTNUM] {
            return Err(changed_key(&before.table, &flagged));
        }
        let newest = self.known.get(message.oid).map(|table| table.version);
        let certain = numbered.iter().map(|(_, is_certain)| *is_certain).collect();
        let sent = Sent { name, oid: message.oid, columns, codecs, wire, certain };
        let relation = self.adopt_table(sent, &key)?;
        Ok((Some(relation.table.version) != newest).then(|| Arc::clone(&relation.table)))
    }

    /// What the log is to hold of a table, in version 1, and how its rows get there.
    fn shape(&self, sent: Sent, key: &[i16]) -> Result<Shape> {
        let rules = self.rules.get(&sent.oid).cloned().unwrap_or_default();
        let each = rules.of(&sent.each());
        let Sent { name, oid, columns, codecs, wire, .. } = sent;
        let sent_codecs: HashMap<i16, Codec> =
            columns.iter().map(|column| column.attnum).zip(codecs).collect();
        let (intake, columns) = Intake::new(&rules, &each, columns)?;
        let codecs = columns.iter().map(|column| codec_of(column, &sent_codecs)).collect();
        let place = |attnum: &i16| columns.iter().position(|column| column.attnum == *attnum);
        let places = key.iter().map(place).collect::<Option<Vec<usize>>>();
        let Some(key) = places.filter(|key| !key.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Config,
                format!("read {}.{}: a column of its key is not published", name.schema, name.name),
            )
            .with_help("publish every column of the replica identity"));
        };
        let unfit = key.iter().filter_map(|place| columns.get(*place));
        if let Some(column) = unfit.into_iter().find(|column| !column.kind.can_be_key()) {
            return Err(unfit_key(&name, column));
        }
        let fresh = Table { oid, version: 1, schema: name.schema, name: name.name, columns, key };
        Ok((fresh, codecs, intake, wire))
    }

    fn adopt_table(&mut self, sent: Sent, key: &[i16]) -> Result<Arc<Relation>> {
        let oid = sent.oid;
        let (fresh, codecs, intake, wire) = self.shape(sent, key)?;
        let table = match self.known.get(oid) {
            Some(known) if same_shape(&known, &fresh) => known,
            Some(known) if key_attnums(&known) != key_attnums(&fresh) => {
                return Err(changed_key(&known, &key_attnums(&fresh)));
            }
            Some(known) if key_hashes(&known) != key_hashes(&fresh) => {
                return Err(changed_hash(&known));
            }
            Some(known) => Arc::new(Table { version: known.version.saturating_add(1), ..fresh }),
            None => Arc::new(fresh),
        };
        if self.known.get(oid).as_ref() != Some(&table) {
            self.known.insert(Known::new(Arc::clone(&table), false));
        }
        let layout = RowLayout::new(Arc::clone(&table), codecs);
        let relation = Arc::new(Relation { table, layout, intake, wire });
        self.relations.insert(oid, Arc::clone(&relation));
        Ok(relation)
    }
}

impl Relation {
    fn matches(&self, message: &pgoutput::Relation) -> bool {
        let is_key =
            |wire: &WireColumn| self.table.key_columns().any(|column| column.attnum == wire.attnum);
        let key = |(wire, column): (&WireColumn, &pgoutput::RelationColumn)| {
            column.identity == is_key(wire)
        };
        let any = self.is_append_only() || message.columns.iter().all(|column| column.identity);
        self.table.schema == message.schema
            && self.table.name == message.name
            && self.wire.len() == message.columns.len()
            && self.wire.iter().zip(&message.columns).all(|(wire, column)| wire.is(column))
            && (any || self.wire.iter().zip(&message.columns).all(key))
    }

    /// Only inserts and TRUNCATEs are followed.
    pub(crate) fn is_append_only(&self) -> bool {
        self.intake.as_ref().is_some_and(Intake::is_append_only)
    }

    /// Whether the log has the key as the source does.
    pub(crate) fn has_plain_key(&self) -> bool {
        let plain = |column: &Column| column.attnum != APPEND_ATTNUM && hash_of(column).is_none();
        self.table.key_columns().all(plain)
    }

    /// What may be seen of a value that was read from the table itself.
    pub(crate) fn mask<'a>(&self, place: usize, text: &'a [u8]) -> Cow<'a, [u8]> {
        let as_it_is = Cow::Borrowed(text);
        self.intake.as_ref().map_or(as_it_is, |intake| intake.mask(place, text))
    }

    /// Whether the column `attnum` had this type when the rows were written. A modifier matters
    /// only to numbers of a declared precision.
    pub(crate) fn has_type(&self, attnum: i16, type_oid: u32, typmod: Option<i32>) -> bool {
        let kind = self.table.columns.iter().find(|column| column.attnum == attnum);
        let declared = |column: &Column| {
            matches!(column.kind, ColumnType::Decimal { .. } | ColumnType::Array(_))
        };
        let plain = !kind.is_some_and(declared);
        self.wire.iter().filter(|wire| wire.attnum == attnum).any(|wire| {
            let same = plain || typmod.is_none_or(|typmod| typmod == wire.typmod);
            wire.type_oid == type_oid && same
        })
    }
}

impl Sent {
    fn each(&self) -> Vec<SentColumn<'_>> {
        let columns = self.columns.iter().zip(&self.certain);
        columns
            .map(|(column, is_certain)| SentColumn {
                name: &column.name,
                attnum: column.attnum,
                is_certain: *is_certain,
            })
            .collect()
    }
}

impl WireColumn {
    fn of(column: &pgoutput::RelationColumn, attnum: i16) -> Self {
        let name = column.name.clone();
        Self { attnum, name, type_oid: column.type_oid, typmod: column.typmod }
    }

    fn is(&self, column: &pgoutput::RelationColumn) -> bool {
        self.name == column.name && self.type_oid == column.type_oid && self.typmod == column.typmod
    }
}

/// How the column is read, once what may be seen of it is made of what was sent.
fn codec_of(column: &Column, sent: &HashMap<i16, Codec>) -> Codec {
    let sent = sent.get(&column.attnum).filter(|codec| codec.kind() == column.kind);
    sent.cloned().unwrap_or(Codec::Text)
}

fn key_attnums(table: &Table) -> Vec<i16> {
    table.key_columns().map(|column| column.attnum).collect()
}

/// What the columns of the key are hashed with.
fn key_hashes(table: &Table) -> Vec<Option<&str>> {
    table.key_columns().map(hash_of).collect()
}

fn same_shape(known: &Table, fresh: &Table) -> bool {
    known.columns == fresh.columns
        && known.key == fresh.key
        && known.schema == fresh.schema
        && known.name == fresh.name
}

fn changed_key(table: &Table, attnums: &[i16]) -> Error {
    let names: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    lost(
        format!("go on with {}", table.full_name()),
        format!(
            "its key was ({}), and is now made of attributes {attnums:?}: rows of the two cannot \
             be told apart",
            names.join(", ")
        ),
    )
}

fn changed_hash(table: &Table) -> Error {
    lost(
        format!("go on with {}", table.full_name()),
        "a column of its key is hashed in another way than before: rows of the two cannot be told \
         apart",
    )
}

/// The attribute numbers of the columns of `message`, and whether they are certain: by name from the catalog, else from the
/// version before, else the lowest that is free, since a message lists them in ascending order.
fn attnums(
    message: &pgoutput::Relation,
    raw: Option<&RawTable>,
    before: &Relation,
) -> Vec<(i16, bool)> {
    let by_name = |name: &str| {
        let now = raw.and_then(|raw| raw.columns.iter().find(|c| !c.dropped && c.name == name));
        let then = || before.table.columns.iter().find(|column| column.name == name);
        now.map(|column| column.attnum).or_else(|| then().map(|column| column.attnum))
    };
    let found: Vec<Option<i16>> =
        message.columns.iter().map(|column| by_name(&column.name)).collect();
    let mut last = 0_i16;
    let mut attnums = Vec::with_capacity(found.len());
    for attnum in &found {
        let free = |candidate: &i16| !found.contains(&Some(*candidate));
        let next = || (last.saturating_add(1)..i16::MAX).find(free).unwrap_or(i16::MAX);
        let number = attnum.unwrap_or_else(next);
        attnums.push((number, attnum.is_some()));
        last = number;
    }
    attnums
}

#[cfg(test)]
pub(crate) mod tests;
