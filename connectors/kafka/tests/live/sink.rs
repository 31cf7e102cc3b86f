//! What goes into the log, and what is known about it afterwards.

use std::sync::Arc;

use anabranch_core::{ErrorKind, LogBatch, Repair, RepairReason, Sink as _};
use anabranch_kafka::{LogSink, RECORD_BYTES_MAX};

use crate::support::{Fake, Log, table, wider};

fn open(log: &Log) -> LogSink {
    LogSink::open(&log.kafka, &log.registry, "shop").unwrap()
}

#[tokio::test]
async fn a_batch_and_its_position_are_durable_together() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    assert_eq!(sink.cursor().await.unwrap(), None, "nobody wrote to this log yet");
    let (batch, upto) = fake.start();
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(sink.tables().collect::<Vec<_>>(), [&fake.table]);
    let rows: Vec<(i32, Option<&str>)> = (0..100).map(|id| (id, Some("x"))).collect();
    let (batch, upto) = fake.transaction(&rows);
    sink.apply(&batch, &upto).await.unwrap();

    let mut again = open(&log);
    assert_eq!(again.cursor().await.unwrap(), Some(upto));
    assert_eq!(again.tables().collect::<Vec<_>>(), [&fake.table]);
    let seen = log.read(&log.names().topic(&fake.table));
    assert_eq!(seen.len(), 100);
    for record in &seen {
        let key = record.key.as_ref().unwrap();
        assert_eq!(record.partition, anabranch_core::partition(&key[5..], 4));
        assert_eq!((key[0], record.value[0]), (0, 0), "Confluent's header");
    }
    let partitions: std::collections::BTreeSet<i32> = seen.iter().map(|r| r.partition).collect();
    assert_eq!(partitions.len(), 4);
}

#[tokio::test]
async fn repairs_are_pending_with_the_batch_that_asks_for_them() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.start();
    sink.apply(&batch, &upto).await.unwrap();
    assert!(sink.repairs().by_table().is_empty());
    let repair = |oid, key: Option<&'static [u8]>, reason| Repair {
        oid,
        table: format!("shop.t{oid}"),
        key: key.map(bytes::Bytes::from_static),
        reason,
    };
    let (mut batch, upto) = fake.transaction(&[(1, Some("x"))]);
    batch.repairs = vec![
        repair(1, Some(b"a"), RepairReason::PartitionGone),
        repair(1, Some(b"b"), RepairReason::PartitionGone),
        repair(2, None, RepairReason::KeyChanged),
    ];
    sink.apply(&batch, &upto).await.unwrap();
    let pending = sink.repairs().by_table();
    assert_eq!(pending.iter().map(|table| table.rows).collect::<Vec<_>>(), [Some(2), None]);
    // Many position records later they are still there, for the next instance and for commands.
    for id in 0..20 {
        let (batch, upto) = fake.transaction(&[(id, None)]);
        sink.apply(&batch, &upto).await.unwrap();
    }
    let mut again = open(&log);
    again.cursor().await.unwrap();
    assert_eq!(again.repairs().by_table(), pending);
    assert_eq!(anabranch_kafka::admin::repairs(&log.kafka).await.unwrap(), pending);
}

#[tokio::test]
async fn a_truncate_reaches_every_partition() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.truncate(&[1, 2, 3], &[4]);
    sink.apply(&batch, &upto).await.unwrap();
    let seen = log.read(&log.names().topic(&fake.table));
    let controls: Vec<i32> = seen
        .iter()
        .filter(|record| record.key.is_none())
        .inspect(|record| assert_eq!(record.control.as_deref(), Some("truncate")))
        .map(|record| record.partition)
        .collect();
    assert_eq!(controls, [0, 1, 2, 3]);
    assert_eq!(seen.len(), 4 + 4);
}

/// Stops a sink in the middle of a transaction, after its events were handed to the producer.
async fn drop_in_the_middle(
    mut sink: LogSink,
    batch: &LogBatch,
    upto: &anabranch_core::SourceCursor,
) {
    let applying = sink.apply(batch, upto);
    tokio::pin!(applying);
    // The first turn is given up after a few hundred events.
    let polled = futures_poll(applying.as_mut()).await;
    assert!(!polled, "the transaction must be under way");
}

async fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    let mut future = Some(future);
    std::future::poll_fn(|context| {
        let ready = future.take().unwrap().poll(context).is_ready();
        std::task::Poll::Ready(ready)
    })
    .await
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing_behind() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, first) = fake.transaction(&[(1, Some("a"))]);
    sink.apply(&batch, &first).await.unwrap();
    let rows: Vec<(i32, Option<&str>)> = (0..1000).map(|id| (id, Some("b"))).collect();
    let (batch, upto) = fake.transaction(&rows);
    drop_in_the_middle(sink, &batch, &upto).await;

    let mut sink = open(&log);
    assert_eq!(sink.cursor().await.unwrap(), Some(first));
    sink.apply(&batch, &upto).await.unwrap();
    let seen = log.read(&log.names().topic(&fake.table));
    assert_eq!(seen.len(), 1 + 1000, "each change once");
}

#[tokio::test]
async fn a_fenced_instance_writes_nothing_and_finds_out() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let (mut old, mut new) = (open(&log), open(&log));
    old.cursor().await.unwrap();
    let (batch, first) = fake.transaction(&[(1, Some("a"))]);
    old.apply(&batch, &first).await.unwrap();
    let (batch, upto) = fake.transaction(&[(2, Some("b"))]);

    assert_eq!(new.cursor().await.unwrap(), Some(first));
    let error = old.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("another instance"), "{error:?}");
    new.apply(&batch, &upto).await.unwrap();
    // The old one tries the same batch again, and hears that it is durable.
    old.apply(&batch, &upto).await.unwrap();
    let seen = log.read(&log.names().topic(&fake.table));
    assert_eq!(seen.len(), 2, "each change once");

    // The new one is fenced by that. It had written more than the old one knows.
    new.cursor().await.unwrap();
    let (batch, upto) = fake.transaction(&[(3, Some("c"))]);
    new.apply(&batch, &upto).await.unwrap();
    let (batch, upto) = fake.transaction(&[(4, Some("d"))]);
    old.apply(&batch, &upto).await.unwrap_err();
    let error = old.apply(&batch, &upto).await.unwrap_err();
    assert!(error.report().contains("written by another instance"), "{error:?}");
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_no_second_copy() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.start();
    sink.apply(&batch, &upto).await.unwrap();
    // Let go at every point of an apply, the commit included; then do it again.
    for round in 0..12 {
        let rows = [(round, Some("x")), (round + 100, Some("y"))];
        let (batch, upto) = fake.transaction(&rows);
        let patience = std::time::Duration::from_millis(u64::try_from(round).unwrap());
        drop(tokio::time::timeout(patience, sink.apply(&batch, &upto)).await);
        sink.apply(&batch, &upto).await.unwrap();
    }
    let seen = log.read(&log.names().topic(&fake.table));
    assert_eq!(seen.len(), 24, "each change once");
}

#[tokio::test]
async fn a_record_too_large_is_rejected_and_named() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.start();
    sink.apply(&batch, &upto).await.unwrap();
    let large = "x".repeat(RECORD_BYTES_MAX + 1);
    let (batch, after) = fake.transaction(&[(1, Some(&large))]);
    let error = sink.apply(&batch, &after).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
    assert!(error.report().contains("orders") && error.report().contains("key hash"), "{error:?}");
    assert_eq!(sink.cursor().await.unwrap(), Some(upto));
}

#[tokio::test]
async fn tables_change_and_topics_stay_what_they_were() {
    let log = Log::new();
    let mut fake = Fake::new(table("orders"));
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.transaction(&[(1, Some("a"))]);
    sink.apply(&batch, &upto).await.unwrap();
    fake.table = wider(&fake.table);
    let (batch, upto) = fake.transaction(&[(2, Some("b"))]);
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(sink.tables().collect::<Vec<_>>(), [&fake.table]);
    assert_eq!(log.read(&log.names().schemas()).len(), 2);

    let mut other_key = (*fake.table).clone();
    other_key.key = vec![1];
    other_key.version += 1;
    let other = Arc::new(other_key);
    let batch = LogBatch { tables: vec![other], ..LogBatch::default() };
    let error = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");

    let topic = log.names().topic(&fake.table);
    let more = rdkafka::admin::NewPartitions::new(&topic, 6);
    let options = rdkafka::admin::AdminOptions::new();
    log.admin().create_partitions([&more], &options).await.unwrap();
    let mut sink = open(&log);
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.transaction(&[(3, Some("c"))]);
    let error = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("4 partitions and has 6"), "{error:?}");
}
