//! What comes out of the log, and where it goes on.

use std::time::Duration;

use anabranch_core::{CURSOR_FORMAT, ErrorKind, Sink as _, Source as _, UnitCursor};
use anabranch_kafka::Limits;
use rdkafka::Offset;
use uuid::Uuid;

use crate::support::{Fake, Log, PATIENCE, Store, assigned, eventually, table, wider};

fn quick() -> Limits {
    Limits { wait: Duration::from_millis(20), ..Limits::default() }
}

#[tokio::test]
async fn every_change_arrives_once_and_in_order() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    for round in 0..10 {
        let rows: Vec<(i32, Option<&str>)> = (0..100).map(|id| (id, Some("x"))).collect();
        let (batch, upto) = fake.transaction(&rows);
        sink.apply(&batch, &upto).await.unwrap();
        let (batch, upto) = fake.transaction(&[(round, None)]);
        sink.apply(&batch, &upto).await.unwrap();
    }
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    assert_eq!(source.assignment().partitions, [0, 1, 2, 3]);
    assert_eq!(source.assignment().log, fake.log);
    source.seek(None).await.unwrap();
    let mut store = Store::default();
    store
        .run_until(&mut source, |store| {
            store.ids()
                == [&[0; 0][..], &(0..9).collect::<Vec<_>>(), &(10..100).collect::<Vec<_>>()]
                    .concat()
        })
        .await;

    // It goes on from the cursor alone, and reports no lag at the end.
    let before = store.clone();
    source.seek(store.cursor.clone()).await.unwrap();
    let (batch, upto) = fake.transaction(&[(1000, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    store.run_until(&mut source, |store| store.ids().contains(&1000)).await;
    assert_eq!(store.upserts, before.upserts + 1);
    let stats = group.stats();
    let caught_up = async || {
        // Whoever waits for the next batch also learns that there is none.
        drop(tokio::time::timeout(Duration::from_millis(10), source.next()).await);
        stats.units().iter().all(|unit| unit.caught_up && unit.events == 0)
    };
    eventually("no lag", caught_up).await;
    assert_eq!(stats.units().len(), 4);
    assert!(stats.age().is_some_and(|age| age < PATIENCE));
    group.leave().await.unwrap();
}

#[tokio::test]
async fn a_batch_never_ends_inside_of_a_transaction() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    for round in 0..20 {
        // Every transaction touches all keys twice.
        let rows: Vec<(i32, Option<&str>)> =
            (0..40).map(|row| (row % 20, (round % 3 != row / 20).then_some("x"))).collect();
        let (batch, upto) = fake.transaction(&rows);
        sink.apply(&batch, &upto).await.unwrap();
    }
    let limits = Limits { rows: 7, wait: Duration::ZERO, ..Limits::default() };
    let mut group = log.join(limits).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let mut versions = std::collections::BTreeSet::new();
    let mut rows = 0;
    while rows < 20 * 40 {
        let next = tokio::time::timeout(PATIENCE, source.next());
        let (batch, _) = next.await.unwrap().unwrap().unwrap();
        rows += batch.meta.len();
        let in_batch: std::collections::BTreeSet<_> =
            batch.meta.iter().map(|meta| (meta.partition, meta.version)).collect();
        for unit in in_batch {
            assert!(versions.insert(unit), "{unit:?} was cut in two");
        }
    }
}

#[tokio::test]
async fn a_truncate_ends_the_partition_of_a_batch() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    for id in 0..5 {
        let (batch, upto) = fake.truncate(&[id, id + 10, id + 20, id + 30], &[id + 40]);
        sink.apply(&batch, &upto).await.unwrap();
    }
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let mut store = Store::default();
    let mut seen = 0;
    while seen < 5 * 4 {
        let (batch, upto) = source.next().await.unwrap().unwrap();
        for below in &batch.delete_below {
            let later = batch.meta.iter().filter(|meta| meta.partition == below.partition);
            assert!(later.into_iter().all(|meta| meta.version < below.version));
        }
        seen += batch.delete_below.len();
        store.apply(&batch, &upto);
    }
    store.run_until(&mut source, |store| store.ids() == [44]).await;
}

#[tokio::test]
async fn a_new_schema_begins_a_new_batch() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let (batch, upto) = fake.transaction(&[(1, Some("a")), (2, Some("b"))]);
    sink.apply(&batch, &upto).await.unwrap();
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let mut store = Store::default();
    // The group has read the schemas by now, and must learn of the new one.
    let old = std::sync::Arc::clone(&fake.table);
    fake.table = wider(&fake.table);
    let (batch, upto) = fake.transaction(&[(3, Some("c")), (4, Some("d"))]);
    sink.apply(&batch, &upto).await.unwrap();
    while store.ids() != [1, 2, 3, 4] {
        let (batch, upto) = source.next().await.unwrap().unwrap();
        assert_eq!(batch.rows.num_columns(), batch.table.columns.len());
        assert!(batch.table == old || batch.table == fake.table);
        store.apply(&batch, &upto);
    }
}

/// Runs what is there into `store`, from its cursor, in a new member that leaves at the end.
async fn run(log: &Log, store: &mut Store, done: impl FnMut(&Store) -> bool) {
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(store.cursor.clone()).await.unwrap();
    store.run_until(&mut source, done).await;
    drop(source);
    group.leave().await.unwrap();
}

/// A log with 100 rows, and a store that holds them.
async fn settled(log: &Log) -> (Store, String) {
    let (mut fake, mut sink) = log.begun().await;
    for id in 0..100 {
        if id % 10 == 0 {
            let rows: Vec<(i32, Option<&str>)> = (id..id + 10).map(|id| (id, Some("x"))).collect();
            let (batch, upto) = fake.transaction(&rows);
            sink.apply(&batch, &upto).await.unwrap();
        }
    }
    let mut store = Store::default();
    run(log, &mut store, |store| store.rows.len() == 100).await;
    (store, log.names().topic(&fake.table))
}

const ALL: [(i32, i64); 4] = [(0, 0), (1, 0), (2, 0), (3, 0)];

#[tokio::test]
async fn leaving_commits_what_was_confirmed_with_our_mark() {
    let log = Log::new();
    let (store, topic) = settled(&log).await;
    let cursor = store.cursor.unwrap();
    for (partition, offset, metadata) in log.committed(&topic) {
        let unit = &cursor[&partition];
        assert_eq!(offset, Offset::Offset(unit.next));
        assert_eq!(metadata, format!("anabranch/1 {} 1 0 0", unit.log));
    }
}

#[tokio::test]
async fn a_reset_is_written_to_the_target_then_marked_then_replayed() {
    let log = Log::new();
    let (mut store, topic) = settled(&log).await;
    log.reset(&topic, &ALL);
    let held = store.upserts;

    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(store.cursor.clone()).await.unwrap();
    let (batch, upto) = source.next().await.unwrap().unwrap();
    assert_eq!(batch.meta.len(), 0, "the target's cursor comes first");
    assert!(upto.values().all(|unit| (unit.next, unit.resets, unit.last) == (0, 1, None)));
    // Killed before the target wrote it, and killed before the mark was committed.
    for cursor in [store.cursor.clone(), Some(upto)] {
        source.seek(cursor).await.unwrap();
        let (batch, again) = source.next().await.unwrap().unwrap();
        assert_eq!(batch.meta.len(), 0);
        assert!(again.values().all(|unit| unit.next == 0 && unit.resets >= 1));
        store.cursor = Some(again);
    }
    drop((source, group));

    run(&log, &mut store, |store| store.upserts == held + 100).await;
    let marks = log.committed(&topic);
    assert!(marks.iter().all(|(.., mark)| mark.starts_with("anabranch/1 ")), "{marks:?}");
    // It was one reset, however often it was begun: nothing is replayed now.
    let cursor = store.cursor.clone().unwrap();
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(store.cursor.clone()).await.unwrap();
    let idle = tokio::time::timeout(Duration::from_millis(500), source.next()).await;
    assert!(idle.is_err(), "{idle:?} after {cursor:?}");
}

#[tokio::test]
async fn a_store_restored_to_before_a_reset_takes_it_again() {
    let log = Log::new();
    let (mut store, topic) = settled(&log).await;
    let backup = store.clone();
    log.reset(&topic, &ALL);
    let held = store.upserts;
    run(&log, &mut store, |store| store.upserts == held + 100).await;
    let mut restored = backup;
    run(&log, &mut restored, |store| store.upserts == held + 100).await;
    assert!(restored.cursor.unwrap().values().all(|unit| unit.resets == 1));
}

#[tokio::test]
async fn a_cursor_of_another_log_is_lost() {
    let log = Log::new();
    let (store, _) = settled(&log).await;
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    let mut cursor = store.cursor.clone().unwrap();
    for unit in cursor.values_mut() {
        unit.log = Uuid::new_v4();
    }
    let error = source.seek(Some(cursor)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");

    // The same offsets with other records: the topic was recreated under the same log id.
    let mut cursor = store.cursor.unwrap();
    for unit in cursor.values_mut() {
        let last = unit.last.as_mut().unwrap();
        last.version = last.version.below();
    }
    source.seek(Some(cursor.clone())).await.unwrap();
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    for unit in cursor.values_mut() {
        unit.next += 1000;
    }
    let error = source.seek(Some(cursor)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
}

#[tokio::test]
async fn expired_history_is_lost_and_never_skipped() {
    let log = Log::new();
    let (store, topic) = settled(&log).await;
    let mut offsets = rdkafka::TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 2, Offset::Offset(5)).unwrap();
    let options = rdkafka::admin::AdminOptions::new();
    log.admin().delete_records(&offsets, &options).await.unwrap();
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    let error = source.seek(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("[2]") && error.report().contains("begins at 5"), "{error:?}");
    let mut cursor = store.cursor.clone().unwrap();
    cursor.get_mut(&2).unwrap().next = 4;
    let error = source.seek(Some(cursor)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    // A store that has them all goes on.
    source.seek(store.cursor).await.unwrap();
}

#[tokio::test]
async fn a_store_that_holds_everything_outlives_its_history() {
    let log = Log::new();
    let (mut store, topic) = settled(&log).await;
    let mut offsets = rdkafka::TopicPartitionList::new();
    for partition in 0..4 {
        offsets.add_partition_offset(&topic, partition, Offset::End).unwrap();
    }
    let options = rdkafka::admin::AdminOptions::new();
    log.admin().delete_records(&offsets, &options).await.unwrap();
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(store.cursor.clone()).await.unwrap();
    let mut sink = anabranch_kafka::LogSink::open(&log.kafka, &log.registry, "shop").unwrap();
    let position = sink.cursor().await.unwrap().unwrap();
    let mut fake = Fake::after(table("orders"), &position);
    let (batch, upto) = fake.transaction(&[(500, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    store.run_until(&mut source, |store| store.ids().contains(&500)).await;
}

/// What somebody else writes to partition 0 of a topic; returns its offset.
async fn intrude(log: &Log, topic: &str, key: &[u8], value: &[u8]) -> i64 {
    use rdkafka::producer::{FutureProducer, FutureRecord};
    let producer: FutureProducer = log.client().create().unwrap();
    let record = FutureRecord::to(topic).partition(0).key(key).payload(value);
    producer.send(record, PATIENCE).await.unwrap().offset
}

#[tokio::test]
async fn records_of_others_are_named() {
    let log = Log::new();
    let (store, topic) = settled(&log).await;
    let mut group = log.join(quick()).await;
    let mut source = assigned(&mut group).await;
    source.seek(store.cursor.clone()).await.unwrap();
    let offset = intrude(&log, &topic, &[0, 0, 0, 0, 1, 2], b"not Avro").await;
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    assert!(error.report().contains(&format!("{topic}[0]@{offset}")), "{error:?}");

    let mut cursor = store.cursor.unwrap();
    cursor.get_mut(&0).unwrap().next = offset + 1;
    cursor.get_mut(&0).unwrap().last = None;
    source.seek(Some(cursor)).await.unwrap();
    intrude(&log, &topic, &[0, 0, 0, 0, 1, 2], &[0, 0x7F, 0, 0, 0, 1]).await;
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("ALERT"), "{error:?}");
}

#[tokio::test]
async fn a_batch_that_failed_leaves_nothing_to_the_next() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    for _ in 0..2 {
        let rows: Vec<(i32, Option<&str>)> = (0..40).map(|id| (id, Some("x"))).collect();
        let (batch, upto) = fake.transaction(&rows);
        sink.apply(&batch, &upto).await.unwrap();
    }
    // An older record with a key that is none: found only while the batch is made.
    let topic = log.names().topic(&fake.table);
    let (first, others): (Vec<_>, Vec<_>) =
        log.read(&topic).into_iter().partition(|seen| seen.partition == 0);
    let offset = intrude(&log, &topic, &[0, 0, 0, 0, 1], &first[0].value).await;
    // Long enough for all of it to come into one batch.
    let mut group = log.join(Limits { wait: Duration::from_secs(3), ..Limits::default() }).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    assert!(error.report().contains(&format!("{topic}[0]@{offset}")), "{error:?}");

    let unit = UnitCursor {
        format: CURSOR_FORMAT,
        log: fake.log,
        generation: 1,
        resets: 0,
        next: offset + 1,
        last: None,
    };
    source.seek(Some([(0, unit)].into())).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < others.len() {
        let (batch, _) = source.next().await.unwrap().unwrap();
        for meta in &batch.meta {
            assert_ne!(meta.partition, 0, "a row of the batch that failed");
            assert!(seen.insert((meta.key.clone(), meta.version)), "twice");
        }
    }
}
