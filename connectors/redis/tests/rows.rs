//! What rows look like, and whose they are.

use std::sync::Arc;

use anabranch_core::memory::{key, table};
use anabranch_core::{Batch, Column, ColumnType, RowMeta, RowOp, Sink, Table};
use anabranch_redis::{RedisSink, RowFormat, clear, read_all, read_cursors};
use arrow_array::{Decimal128Array, Int64Array, RecordBatch, StringArray};

use crate::support::{
    Space, assignment, below, command, open, step, unit_cursor, upto, values, version, worker,
};

fn orders() -> Arc<Table> {
    let column = |attnum, name: &str, kind| Column {
        attnum,
        name: name.to_owned(),
        source_type: String::new(),
        kind,
    };
    Arc::new(Table {
        columns: vec![
            column(1, "shop", ColumnType::Text),
            column(2, "id", ColumnType::Int64),
            column(3, "total", ColumnType::Decimal { precision: 20, scale: 2 }),
            column(4, "note", ColumnType::Json),
        ],
        key: vec![0, 1],
        schema: "sales".to_owned(),
        name: "orders".to_owned(),
        ..(*table()).clone()
    })
}

fn order(table: &Arc<Table>, note: Option<&str>, lsn: u64) -> Batch {
    let total = Decimal128Array::from(vec![900_719_925_474_099_310])
        .with_precision_and_scale(20, 2)
        .unwrap();
    let rows = RecordBatch::try_new(
        table.arrow(),
        vec![
            Arc::new(StringArray::from(vec!["a:b"])),
            Arc::new(Int64Array::from(vec![7])),
            Arc::new(total),
            Arc::new(StringArray::from(vec![note])),
        ],
    );
    let meta = RowMeta { op: RowOp::Upsert, partition: 0, version: version(lsn), key: key(7) };
    Batch {
        table: Arc::clone(table),
        rows: rows.unwrap(),
        meta: vec![meta],
        delete_below: Vec::new(),
    }
}

#[tokio::test]
async fn a_hash_has_the_columns_as_text_and_drops_what_became_null() {
    let space = Space::new();
    let table = orders();
    let assignment = assignment(Arc::clone(&table), &[0]);
    let mut sink = RedisSink::open(&space.config, assignment).await.unwrap();
    sink.cursor().await.unwrap();
    let cursor = |next| [(0, unit_cursor(next, 0))].into();
    sink.apply(&order(&table, Some("{\"k\": [1,  2]}"), 1), &cursor(1)).await.unwrap();
    let rows = read_all(&space.config, &table).await.unwrap();
    let (key, fields) = &rows[0];
    assert_eq!((rows.len(), key.as_str()), (1, "a\\:b:7"));
    let fields: Vec<_> = fields.iter().map(|(name, text)| (&**name, &**text)).collect();
    let (held, note) = (version(1).to_string(), "{\"k\": [1,  2]}");
    let total = ("total", "9007199254740993.10");
    let wanted = [("_p", "0"), ("_v", &*held), ("id", "7"), ("note", note), ("shop", "a:b"), total];
    assert_eq!(fields, wanted);

    sink.apply(&order(&table, None, 2), &cursor(2)).await.unwrap();
    let rows = read_all(&space.config, &table).await.unwrap();
    assert!(!rows[0].1.contains_key("note"), "{rows:?}");
    assert_eq!(rows[0].1["_v"], version(2).to_string());
    space.clean().await;
}

#[tokio::test]
async fn json_is_one_string_with_numbers_kept() {
    let mut space = Space::new();
    space.config.format = RowFormat::Json;
    let table = orders();
    let assignment = assignment(Arc::clone(&table), &[0]);
    let mut sink = RedisSink::open(&space.config, assignment).await.unwrap();
    sink.cursor().await.unwrap();
    let cursor = [(0, unit_cursor(1, 0))].into();
    sink.apply(&order(&table, Some("{\"k\":1}"), 1), &cursor).await.unwrap();
    let key = space.row(0).replace("t:0", "sales.orders:a\\:b:7");
    let text: String = command(&mut space.admin().await, &["GET", &key]).await;
    let wanted = format!(
        r#"{{"_v":"{}","_p":0,"shop":"a:b","id":7,"total":9007199254740993.10,"note":{{"k":1}}}}"#,
        version(1)
    );
    assert_eq!(text, wanted);
    let rows = read_all(&space.config, &table).await.unwrap();
    assert_eq!(rows[0].1["total"], "9007199254740993.10");
    space.clean().await;
}

/// More keys than a page of SCAN, and a table whose name is a pattern that fits another's.
#[tokio::test]
async fn delete_below_sees_every_row_of_its_table_and_no_other() {
    let space = Space::new();
    let mut pattern = (*table()).clone();
    pattern.name = "t*".to_owned();
    let other = Arc::new(Table { name: "tt".to_owned(), ..pattern.clone() });
    let pattern = Arc::new(pattern);
    let many: Vec<_> = (1..=3000).map(|id| (id, Some(id), 1 + id as u64 % 2)).collect();
    for table in [&other, &pattern] {
        let mut assignment = assignment(Arc::clone(table), &[0, 1]);
        assignment.topic = table.full_name();
        let mut sink = RedisSink::open(&space.config, assignment).await.unwrap();
        sink.cursor().await.unwrap();
        let mut batch = step(&many);
        batch.table = Arc::clone(table);
        sink.apply(&batch, &upto(1)).await.unwrap();
        assert_eq!(read_all(&space.config, table).await.unwrap().len(), 3000);
        // Odd ids are in partition 1 with version 2, even ones in partition 0 with version 1.
        let mut truncate = step(&[]);
        truncate.table = Arc::clone(table);
        truncate.delete_below = vec![below(0, 2), below(1, 2), below(0, 1)];
        sink.apply(&truncate, &upto(2)).await.unwrap();
        assert_eq!(read_all(&space.config, table).await.unwrap().len(), 1500);
        if Arc::ptr_eq(table, &pattern) {
            truncate.delete_below = vec![below(1, 3)];
            sink.apply(&truncate, &upto(3)).await.unwrap();
            assert_eq!(sink.cursor().await.unwrap(), Some(upto(3)));
        }
    }
    assert_eq!(read_all(&space.config, &pattern).await.unwrap().len(), 0);
    assert_eq!(read_all(&space.config, &other).await.unwrap().len(), 1500);
    space.clean().await;
}

#[tokio::test]
async fn cursors_are_read_without_taking_over_and_cleared_with_the_rows() {
    for format in [RowFormat::Hash, RowFormat::Json] {
        let mut space = Space::new();
        space.config.format = format;
        let all = assignment(table(), &[0, 1]);
        assert!(read_cursors(&space.config, &all).await.unwrap().is_empty());
        let (mut sink, _) = worker(&space.config).await;
        sink.apply(&step(&[(1, Some(10), 1), (2, Some(20), 1)]), &upto(1)).await.unwrap();
        assert_eq!(read_cursors(&space.config, &all).await.unwrap(), upto(1));
        sink.apply(&step(&[(1, Some(11), 2)]), &upto(2)).await.unwrap();

        let users = space.row(9);
        command::<()>(&mut space.admin().await, &["SET", &users, "mine"]).await;
        assert_eq!(clear(&space.config, &all).await.unwrap(), 2);
        assert_eq!(space.rows().await, values(&[]));
        assert_eq!(command::<String>(&mut space.admin().await, &["GET", &users]).await, "mine");
        sink.apply(&step(&[(1, Some(12), 3)]), &upto(3)).await.unwrap_err();
        assert_eq!(worker(&space.config).await.1, None);
        space.clean().await;
    }
}

/// A batch that says nothing of a unit leaves it alone.
#[tokio::test]
async fn a_worker_of_one_unit_leaves_the_others() {
    let space = Space::new();
    let mut zero = open(&space.config, &[0]).await;
    let mut one = open(&space.config, &[1]).await;
    zero.cursor().await.unwrap();
    one.cursor().await.unwrap();
    zero.apply(&step(&[(2, Some(20), 1)]), &[(0, unit_cursor(1, 0))].into()).await.unwrap();
    one.apply(&step(&[(1, Some(10), 1)]), &[(1, unit_cursor(5, 0))].into()).await.unwrap();
    let mut truncate = step(&[]);
    truncate.delete_below = vec![below(0, 9)];
    zero.apply(&truncate, &[(0, unit_cursor(2, 0))].into()).await.unwrap();
    assert_eq!(space.rows().await, values(&[(1, 10)]));
    space.clean().await;
}
