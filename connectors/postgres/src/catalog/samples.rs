//! A table, for tests.

use super::query::{Access, Generated, RawColumn, RawIndex, RawTable};

pub(super) fn raw_column(attnum: i16, name: &str, type_oid: u32) -> RawColumn {
    RawColumn {
        attnum,
        name: name.into(),
        type_oid,
        typmod: -1,
        type_name: format!("type {type_oid}"),
        dropped: false,
        generated: Generated::No,
        is_text: type_oid == 25,
    }
}

/// Two columns, `id` and `note`, and the first is the key.
pub(crate) fn raw_orders() -> RawTable {
    RawTable {
        oid: 7,
        schema: "shop".into(),
        table: "orders".into(),
        kind: 'r',
        persistence: 'p',
        is_partition: false,
        replica_identity: 'd',
        primary_key: Some(RawIndex { attnums: vec![1], immediate: true }),
        identity_index: None,
        leaf_identities: vec![],
        access: Access::Full,
        append_only: false,
        columns: vec![raw_column(1, "id", 23), raw_column(2, "note", 25)],
        published: None,
    }
}
