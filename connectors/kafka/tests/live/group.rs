//! Members that come and go.

use std::time::Duration;

use anabranch_core::{ErrorKind, Sink as _, Source as _};
use anabranch_kafka::{Group, GroupEvent, Limits, LogSink};

use crate::support::{Fake, Log, PATIENCE, Store, assigned, eventually, table};

#[tokio::test]
async fn a_log_that_nobody_writes_yet_is_waited_for() {
    let log = Log::new();
    let error = Group::join(&log.kafka, "search", 1, Limits::default(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
}

#[tokio::test]
async fn two_members_share_a_topic_and_the_rest_goes_on() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let rows: Vec<(i32, Option<&str>)> = (0..100).map(|id| (id, Some("x"))).collect();
    let (batch, upto) = fake.transaction(&rows);
    sink.apply(&batch, &upto).await.unwrap();

    let mut one = log.join(Limits::default()).await;
    let mut alone = assigned(&mut one).await;
    assert_eq!(alone.assignment().partitions, [0, 1, 2, 3]);
    alone.seek(None).await.unwrap();
    let mut store = Store::default();
    store.run_until(&mut alone, |store| store.rows.len() == 100).await;

    let mut two = log.join(Limits::default()).await;
    let event = tokio::time::timeout(PATIENCE, one.next()).await.unwrap().unwrap();
    assert!(matches!(event, GroupEvent::Revoked { .. }), "{event:?}");
    assert!(alone.next().await.unwrap().is_none(), "a revoked source ends");
    let mut of_one = assigned(&mut one).await;
    let mut of_two = assigned(&mut two).await;
    let mut all = of_one.assignment().partitions.clone();
    all.extend(&of_two.assignment().partitions);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "each partition has one owner");

    // Both go on from what the store holds of their partitions.
    let (batch, upto) = fake.transaction(&(100..200).map(|id| (id, Some("y"))).collect::<Vec<_>>());
    sink.apply(&batch, &upto).await.unwrap();
    let mut rows = 0;
    for source in [&mut of_one, &mut of_two] {
        let mut share = Store::default();
        let mut cursor = store.cursor.clone().unwrap();
        let partitions = source.assignment().partitions.clone();
        cursor.retain(|partition, _| partitions.contains(partition));
        source.seek(Some(cursor)).await.unwrap();
        let mut expected = 0;
        for id in 100..200 {
            let mut key = Vec::new();
            anabranch_core::avro::write::int(&mut key, id);
            expected += usize::from(partitions.contains(&anabranch_core::partition(&key, 4)));
        }
        share.run_until(source, |share| share.rows.len() == expected).await;
        rows += share.upserts;
    }
    assert_eq!(rows, 100);

    // When one goes, the other has it all.
    drop(of_two);
    two.leave().await.unwrap();
    let again = assigned(&mut one).await;
    assert_eq!(again.assignment().partitions, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_new_table_is_assigned_without_touching_the_others() {
    let log = Log::new();
    let (_, mut sink) = log.begun().await;
    let mut group = log.join(Limits::default()).await;
    let mut orders = assigned(&mut group).await;
    orders.seek(None).await.unwrap();

    let mut more = Fake::new(table("customers"));
    more.log = orders.assignment().log;
    let (batch, upto) = more.transaction(&[(1, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, group.next()).await.unwrap().unwrap();
    let GroupEvent::Assigned(mut customers) = event else { panic!("{event:?}") };
    assert_eq!(customers.assignment().table, more.table);
    customers.seek(None).await.unwrap();
    let mut store = Store::default();
    store.run_until(&mut customers, |store| store.ids() == [1]).await;
    let idle = tokio::time::timeout(Duration::from_millis(300), orders.next()).await;
    assert!(idle.is_err(), "it was not revoked");
}

#[tokio::test]
async fn rebalances_lose_and_repeat_nothing_of_the_other_topics() {
    const TABLES: i32 = 6;
    const ROWS: i32 = 400;
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let mut group = log.join(Limits { wait: Duration::ZERO, ..Limits::default() }).await;
    let mut orders = assigned(&mut group).await;
    orders.seek(None).await.unwrap();
    let write = async {
        for round in 0..TABLES {
            let mut more = Fake::new(table(&format!("more{round}")));
            more.log = fake.log;
            let (mut batch, mut upto) = more.start();
            sink.apply(&batch, &upto).await.unwrap();
            for row in 0..ROWS {
                (batch, upto) = fake.transaction(&[(round * ROWS + row, Some("x"))]);
                sink.apply(&batch, &upto).await.unwrap();
            }
        }
    };
    // Each new table is a rebalance.
    let mut assignments = 0;
    let members = async {
        while assignments < TABLES {
            if let GroupEvent::Assigned(source) = group.next().await.unwrap() {
                assert_ne!(source.assignment().topic, orders_topic(&log), "it was not touched");
                assignments += 1;
            }
        }
    };
    let mut store = Store::default();
    let all = usize::try_from(TABLES * ROWS).unwrap();
    let read = store.run_until(&mut orders, |store| store.rows.len() == all);
    tokio::join!(write, members, read);
    assert_eq!(store.upserts, all, "each row once");
}

fn orders_topic(log: &Log) -> String {
    log.names().topic(&table("orders"))
}

#[tokio::test]
async fn leaving_frees_the_group_at_once() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let (batch, upto) = fake.transaction(&[(1, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    let mut group = log.join(Limits::default()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let began = std::time::Instant::now();
    group.leave().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "no session ran out");
    assert!(source.next().await.unwrap().is_none());
    let topic = log.names().topic(&fake.table);
    log.reset_by_tool(&topic, "--to-earliest");
    let committed = log.committed(&topic);
    assert!(committed.iter().all(|(.., metadata)| metadata.is_empty()), "{committed:?}");
}

#[tokio::test]
async fn a_topic_with_more_partitions_than_recorded_is_refused() {
    let log = Log::new();
    let (fake, _sink) = log.begun().await;
    let topic = log.names().topic(&fake.table);
    let more = rdkafka::admin::NewPartitions::new(&topic, 6);
    log.admin().create_partitions([&more], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    let mut group = log.join(Limits::default()).await;
    let error = tokio::time::timeout(PATIENCE, group.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("created with 4 partitions and has 6"), "{error:?}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_transient() {
    let mut log = Log::new();
    let real = std::mem::replace(&mut log.kafka.brokers, "127.0.0.1:1".to_owned());
    log.kafka.options.insert("socket.timeout.ms".to_owned(), "1000".to_owned().into());
    let joined = Group::join(&log.kafka, "search", 1, Limits::default(), None).await;
    let opened = LogSink::open(&log.kafka, &log.registry, "shop").unwrap().cursor().await;
    log.kafka.brokers = real;
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Transient);
}

#[tokio::test]
async fn a_log_begun_anew_ends_the_membership_and_is_lost_to_the_old_store() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let (batch, upto) = fake.transaction(&[(1, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    let mut group = log.join(Limits::default()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    let mut store = Store::default();
    store.run_until(&mut source, |store| store.ids() == [1]).await;

    // Somebody deletes the topics under the running processes, and a new source begins.
    drop(sink);
    let names = log.names();
    let topic = names.topic(&fake.table);
    let wiped = [topic.as_str(), &names.progress(), &names.schemas()].map(str::to_owned);
    let wiped: Vec<&str> = wiped.iter().map(String::as_str).collect();
    let options = rdkafka::admin::AdminOptions::new();
    log.admin().delete_topics(&wiped, &options).await.unwrap();
    let gone = async || {
        let metadata = log.admin().inner().fetch_metadata(Some(&topic), PATIENCE).unwrap();
        metadata.topics()[0].partitions().is_empty()
    };
    eventually("the topic is gone", gone).await;
    let (mut other, mut sink) = log.begun().await;
    let rows: Vec<(i32, Option<&str>)> = (0..50).map(|id| (id, Some("y"))).collect();
    let (batch, upto) = other.transaction(&rows);
    sink.apply(&batch, &upto).await.unwrap();
    let ended = async {
        loop {
            if let Err(error) = group.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    drop((source, group));

    let mut group = log.join(Limits::default()).await;
    let mut source = assigned(&mut group).await;
    assert_eq!(source.assignment().log, other.log);
    let error = source.seek(store.cursor.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
}
