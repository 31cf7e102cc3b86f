//! What the catalog and a Relation message say of a table, together.

use super::*;
use crate::columns::ColumnRules;
use crate::config::PostgresConfig;
use crate::pgoutput::RelationColumn;
use crate::row::tests::orders;
use query::{Generated, RawIndex};
use samples::raw_column;
pub(crate) use samples::raw_orders;

/// The same with one more column.
pub(crate) fn raw_wider_orders() -> RawTable {
    let mut raw = raw_orders();
    raw.columns.push(raw_column(3, "price", 20));
    raw
}

fn catalog() -> Catalog {
    let names = vec![TableName { schema: "shop".into(), name: "orders".into() }];
    let mut catalog = Catalog::new(names, KnownTables::default());
    catalog.adopt(&raw_orders(), &Types::default()).unwrap();
    catalog
}

fn message(columns: &[(&str, u32, bool)]) -> pgoutput::Relation {
    let column = |(name, type_oid, identity): &(&str, u32, bool)| RelationColumn {
        identity: *identity,
        name: (*name).into(),
        type_oid: *type_oid,
        typmod: -1,
    };
    pgoutput::Relation {
        oid: 7,
        schema: "shop".into(),
        name: "orders".into(),
        replica_identity: 'd',
        columns: columns.iter().map(column).collect(),
    }
}

fn adopt(
    catalog: &mut Catalog,
    message: &pgoutput::Relation,
    raw: &RawTable,
) -> Result<Option<Arc<Table>>> {
    catalog.adopt_message(message, Some(raw), &Types::default())
}

#[test]
fn a_relation_as_known_changes_nothing() {
    let catalog = catalog();
    assert!(catalog.matches(&message(&[("id", 23, true), ("note", 25, false)])));
    assert!(catalog.matches(&message(&[("id", 23, true), ("note", 25, true)])), "FULL");
    assert!(!catalog.matches(&message(&[("id", 23, true)])));
    assert!(!catalog.matches(&message(&[("id", 20, true), ("note", 25, false)])));
    assert!(!catalog.matches(&message(&[("id", 23, false), ("note", 25, true)])));
}

#[test]
fn columns_that_come_and_go_make_versions() {
    let mut catalog = catalog();
    let mut raw = raw_orders();
    raw.columns.push(raw_column(3, "price", 20));
    let wider = message(&[("id", 23, true), ("note", 25, false), ("price", 20, false)]);
    let table = adopt(&mut catalog, &wider, &raw).unwrap().unwrap();
    assert_eq!((table.version, table.columns[2].attnum), (2, 3));
    assert!(catalog.matches(&wider));
    assert!(adopt(&mut catalog, &wider, &raw).unwrap().is_none(), "known by now");

    raw.columns[1] = RawColumn { dropped: true, ..raw_column(2, "..pg.dropped.2..", 0) };
    let narrower = message(&[("id", 23, true), ("price", 20, false)]);
    let table = adopt(&mut catalog, &narrower, &raw).unwrap().unwrap();
    assert_eq!((table.version, table.columns[1].attnum, table.key.as_slice()), (3, 3, &[0][..]));
}

#[test]
fn the_messages_view_wins_over_a_later_catalog() {
    let mut catalog = catalog();
    // The catalog is read later: `note` was dropped and `price` renamed to `cost` since.
    let mut raw = raw_orders();
    raw.columns[1] = RawColumn { dropped: true, ..raw_column(2, "..pg.dropped.2..", 0) };
    raw.columns.push(raw_column(3, "cost", 20));
    let then = message(&[("id", 23, true), ("note", 25, false), ("price", 23, false)]);
    let table = adopt(&mut catalog, &then, &raw).unwrap().unwrap();
    let attnums: Vec<i16> = table.columns.iter().map(|column| column.attnum).collect();
    assert_eq!(attnums, [1, 2, 3]);
    assert_eq!(table.columns[2].kind, anabranch_core::ColumnType::Int32, "as it was then");
    // The table itself is gone.
    assert!(catalog.adopt_message(&then, None, &Types::default()).unwrap().is_none());
}

#[test]
fn a_changed_key_is_named() {
    let mut catalog = catalog();
    let rekeyed = message(&[("id", 23, false), ("note", 25, true)]);
    let error = adopt(&mut catalog, &rekeyed, &raw_orders()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.report().contains("shop.orders"), "{error:?}");
}

#[test]
fn a_table_created_again_is_another_table() {
    let mut catalog = catalog();
    let again = pgoutput::Relation { oid: 8, ..message(&[("id", 23, true)]) };
    assert!(catalog.concerns(&again));
    assert_eq!(adopt(&mut catalog, &again, &raw_orders()).unwrap_err().kind(), ErrorKind::Lost);
    let other = pgoutput::Relation { name: "other".into(), ..again };
    assert!(!catalog.concerns(&other));
}

#[test]
fn versions_go_on_from_what_the_log_knows() {
    let known = Arc::new(Table { version: 4, ..orders(&[0]) });
    let tables = KnownTables::default();
    tables.logged(known);
    let mut catalog = Catalog::new(vec![], tables.clone());
    let relation = catalog.adopt(&raw_orders(), &Types::default()).unwrap();
    assert_eq!(relation.table.version, 5);
    assert_eq!(catalog.unlogged().len(), 1);
    tables.logged(Arc::clone(&relation.table));
    assert!(catalog.unlogged().is_empty());
    let mut catalog = Catalog::new(vec![], tables);
    assert_eq!(catalog.adopt(&raw_orders(), &Types::default()).unwrap().table.version, 5);
}

#[test]
fn a_stream_goes_on_with_the_schema_that_the_log_knows() {
    let tables = KnownTables::default();
    let mut first = Catalog::new(vec![], tables.clone());
    first.adopt(&raw_orders(), &Types::default()).unwrap();
    let mut catalog = Catalog::new(vec![], tables);
    let types = Types::default();
    assert!(!catalog.resume(&RawTable { oid: 8, ..raw_orders() }, &types));
    let then = message(&[("id", 23, true), ("note", 25, false)]);
    assert!(catalog.resume(&raw_orders(), &types));
    assert!(catalog.matches(&then), "the catalog has it as the log does");
    // A column was added while nobody read; the rows of before come first.
    let mut raw = raw_orders();
    raw.columns.push(raw_column(3, "price", 20));
    assert!(catalog.resume(&raw, &types));
    assert!(!catalog.matches(&then), "what the types were is not known");
    assert!(adopt(&mut catalog, &then, &raw).unwrap().is_none(), "it is the version of the log");
    assert!(catalog.matches(&then));
    let now = message(&[("id", 23, true), ("note", 25, false), ("price", 20, false)]);
    assert_eq!(adopt(&mut catalog, &now, &raw).unwrap().unwrap().version, 2);
}

#[test]
fn generated_and_unpublished_columns_are_left_out() {
    let mut raw = raw_orders();
    raw.columns.push(RawColumn { generated: Generated::Never, ..raw_column(3, "sum", 23) });
    assert_eq!(raw.published_columns().len(), 2);
    raw.columns.push(RawColumn { generated: Generated::IfListed, ..raw_column(4, "twice", 23) });
    assert_eq!(raw.published_columns().len(), 2, "nothing lists it");
    let all = ["id", "note", "sum", "twice"].map(str::to_owned).to_vec();
    raw.published = Some(query::Published { columns: all, ..query::Published::default() });
    assert_eq!(raw.published_columns().len(), 3);
    raw.published =
        Some(query::Published { columns: vec!["note".into()], ..query::Published::default() });
    assert_eq!(raw.published_columns().len(), 1);
    let mut catalog = Catalog::new(vec![], KnownTables::default());
    let error = catalog.adopt(&raw, &Types::default()).unwrap_err();
    assert!(error.report().contains("not published"), "{error:?}");
}

#[test]
fn tables_without_identity_are_refused() {
    let deferrable = Some(RawIndex { attnums: vec![1], immediate: false });
    let index = Some(RawIndex { attnums: vec![2], immediate: true });
    let cases = [
        (RawTable { primary_key: None, ..raw_orders() }, false),
        (RawTable { primary_key: deferrable, ..raw_orders() }, false),
        (RawTable { replica_identity: 'n', ..raw_orders() }, false),
        (RawTable { replica_identity: 'i', ..raw_orders() }, false),
        (RawTable { replica_identity: 'i', identity_index: index, ..raw_orders() }, true),
        (RawTable { replica_identity: 'f', ..raw_orders() }, true),
        (RawTable { leaf_identities: vec!['d', 'f'], ..raw_orders() }, true),
        (RawTable { leaf_identities: vec!['d', 'n'], ..raw_orders() }, false),
    ];
    for (raw, usable) in cases {
        assert_eq!(identity_of(&raw).is_ok(), usable, "{raw:?}");
    }
}

fn ruled(config: &PostgresConfig) -> Catalog {
    let names = vec![TableName { schema: "shop".into(), name: "orders".into() }];
    Catalog::new(names, KnownTables::default()).with_rules(RuleBook::new(config))
}

fn with_rules(rules: ColumnRules, append_only: bool) -> PostgresConfig {
    let name = || "shop.orders".to_owned();
    let mut config = PostgresConfig::new("postgres://u@h/x", vec![name()]);
    config.hash_key = Some(anabranch_core::Secret::from("k".to_owned()));
    config.append_only.extend(append_only.then(name));
    config.columns.insert(name(), rules);
    config
}

#[test]
fn an_excluded_column_stays_out_under_any_name() {
    let rules = ColumnRules { exclude: vec!["note".into()], ..ColumnRules::default() };
    let mut catalog = ruled(&with_rules(rules, false));
    let mut raw = raw_orders();
    let relation = catalog.adopt(&raw, &Types::default()).unwrap();
    assert_eq!(relation.table.columns.len(), 1);
    let sent = message(&[("id", 23, true), ("note", 25, false)]);
    assert!(catalog.matches(&sent));
    raw.columns[1].name = "remark".into();
    let renamed = message(&[("id", 23, true), ("remark", 25, false)]);
    assert!(adopt(&mut catalog, &renamed, &raw).unwrap().is_none(), "the log sees no change");
    assert_eq!(catalog.relation(7).unwrap().table.columns.len(), 1);
    // The same while the catalog is ahead of the stream.
    raw.columns[1].name = "memo".into();
    assert!(adopt(&mut catalog, &renamed, &raw).unwrap().is_none());
}

#[test]
fn another_mask_is_another_version_and_of_a_key_another_history() {
    let hash = |name: &str| ColumnRules { hash: vec![name.into()], ..ColumnRules::default() };
    let mut plain = ruled(&with_rules(ColumnRules::default(), false));
    plain.adopt(&raw_orders(), &Types::default()).unwrap();
    let known = plain.known.clone();
    let mut config = with_rules(hash("note"), false);
    let next = |config: &PostgresConfig, known: &KnownTables| {
        let catalog = Catalog::new(vec![], known.clone()).with_rules(RuleBook::new(config));
        { catalog }.adopt(&raw_orders(), &Types::default())
    };
    assert_eq!(next(&config, &known).unwrap().table.version, 2);
    assert_eq!(next(&config, &known).unwrap().table.version, 2);
    config.hash_key = Some(anabranch_core::Secret::from("another".to_owned()));
    assert_eq!(next(&config, &known).unwrap().table.version, 3);
    let error = next(&with_rules(hash("id"), false), &known).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.report().contains("hashed"), "{error:?}");
}

#[test]
fn rows_of_an_append_only_table_need_no_key() {
    let mut catalog = ruled(&with_rules(ColumnRules::default(), true));
    let raw = RawTable { primary_key: None, append_only: true, ..raw_orders() };
    assert!(raw.obstacle().is_none());
    let table = Arc::clone(&catalog.adopt(&raw, &Types::default()).unwrap().table);
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!((names.as_slice(), table.key.as_slice()), (&["_row", "id", "note"][..], &[0][..]));
    let sent = message(&[("id", 23, false), ("note", 25, false)]);
    assert!(catalog.matches(&sent));
    let wider = message(&[("id", 23, false), ("note", 25, false), ("price", 20, false)]);
    let table = adopt(&mut catalog, &wider, &raw_wider_orders()).unwrap().unwrap();
    assert_eq!((table.version, table.columns.len()), (2, 4));
}

#[test]
fn rules_that_cannot_be_kept_are_named() {
    let exclude = |name: &str| ColumnRules { exclude: vec![name.into()], ..ColumnRules::default() };
    let hash = |name: &str| ColumnRules { hash: vec![name.into()], ..ColumnRules::default() };
    let truncate = |name: &str| ColumnRules {
        truncate: [(name.to_owned(), 3)].into(),
        ..ColumnRules::default()
    };
    let mut raw = raw_wider_orders();
    raw.columns.push(raw_column(4, "paid", 16));
    let cases = [
        (exclude("nte"), "its columns are id, note, price, paid"),
        (exclude("id"), "part of the key"),
        (truncate("id"), "part of the key"),
        (truncate("price"), "no text"),
        (hash("paid"), "exclude it"),
        (hash("id"), ""),
        (truncate("note"), ""),
    ];
    for (rules, needle) in cases {
        let book = RuleBook::new(&with_rules(rules, false));
        let reports: Vec<String> =
            book.obstacles(&raw, &Types::default()).iter().map(Error::report).collect();
        let found = reports.iter().any(|report| report.contains(needle));
        assert!(if needle.is_empty() { reports.is_empty() } else { found }, "{reports:?}");
    }
    let mut config = with_rules(exclude("id"), true);
    assert!(RuleBook::new(&config).obstacles(&raw, &Types::default()).is_empty());
    config.append_key = "note".into();
    assert_eq!(RuleBook::new(&config).obstacles(&raw, &Types::default()).len(), 1);
}
