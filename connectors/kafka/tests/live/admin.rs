//! What commands see without a daemon.

use anabranch_core::{ErrorKind, Level, Sink as _, Source as _};
use anabranch_kafka::{Limits, admin};

use crate::support::{Log, Store, assigned};

#[tokio::test]
async fn position_tables_and_lag_are_readable_without_a_daemon() {
    let log = Log::new();
    assert_eq!(admin::read_position(&log.kafka).await.unwrap(), None);
    assert!(admin::tables(&log.kafka).await.unwrap().is_empty());
    let (mut fake, mut sink) = log.begun().await;
    let rows: Vec<(i32, Option<&str>)> = (0..40).map(|id| (id, Some("x"))).collect();
    let (batch, upto) = fake.transaction(&rows);
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(admin::read_position(&log.kafka).await.unwrap(), Some(upto));
    let tables = admin::tables(&log.kafka).await.unwrap();
    assert_eq!((tables.len(), tables[0].partitions), (1, 4));

    let lag = admin::lag(&log.kafka, "search", 1).await.unwrap();
    assert_eq!(lag.len(), 4);
    assert!(lag.iter().all(|unit| !unit.caught_up && unit.next == 0 && unit.events > 0));
    let mut group = log.join(Limits::default()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    Store::default().run_until(&mut source, |store| store.rows.len() == 40).await;
    drop(source);
    group.leave().await.unwrap();
    let lag = admin::lag(&log.kafka, "search", 1).await.unwrap();
    let caught_up = |unit: &anabranch_kafka::UnitLag| unit.caught_up && unit.next == unit.end;
    assert!(lag.iter().all(caught_up), "the markers are passed, too: {lag:?}");
}

#[tokio::test]
async fn a_teardown_removes_what_was_recorded_and_a_new_log_can_begin() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let (batch, upto) = fake.transaction(&[(1, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    drop(sink);
    let mut group = log.join(Limits::default()).await;
    let mut source = assigned(&mut group).await;
    source.seek(None).await.unwrap();
    Store::default().run_until(&mut source, |store| store.rows.len() == 1).await;

    let sinks = ["search".to_owned(), "never".to_owned()];
    let plan = admin::plan_teardown(&log.kafka, &sinks).await.unwrap();
    assert_eq!(plan.groups, [log.names().group("search", 1)]);
    assert_eq!(plan.topics, [log.names().topic(&fake.table)]);
    assert_eq!(plan.internal.len(), 3);
    let error = admin::teardown(&log.kafka, &log.registry, &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "the group has a member: {error:?}");
    drop(source);
    group.leave().await.unwrap();
    admin::teardown(&log.kafka, &log.registry, &plan).await.unwrap();

    let plan = admin::plan_teardown(&log.kafka, &sinks).await.unwrap();
    assert_eq!(plan, admin::Teardown::default(), "nothing is left");
    log.begun().await;
}

#[tokio::test]
async fn a_leftover_of_another_log_is_refused() {
    let log = Log::new();
    let (mut fake, mut sink) = log.begun().await;
    let (batch, upto) = fake.transaction(&[(1, Some("x"))]);
    sink.apply(&batch, &upto).await.unwrap();
    // Somebody wipes the position record by hand, and the source starts from nothing.
    let progress = log.names().progress();
    let options = rdkafka::admin::AdminOptions::new();
    log.admin().delete_topics(&[&progress], &options).await.unwrap();
    let gone = async || admin::read_position(&log.kafka).await.is_ok_and(|found| found.is_none());
    crate::support::eventually("the topic is gone", gone).await;
    let fake = crate::support::Fake::new(crate::support::table("orders"));
    assert_eq!(sink.cursor().await.unwrap(), None);
    let (batch, upto) = fake.start();
    let error = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("another log"), "{error:?}");
}

#[tokio::test]
async fn check_tells_what_to_do() {
    let mut log = Log::new();
    let findings = admin::check(&log.kafka, &log.registry).await;
    assert!(findings.iter().all(|finding| finding.level == Level::Fine), "{findings:?}");
    assert!(
        log.admin()
            .inner()
            .fetch_metadata(Some(&log.names().progress()), crate::support::PATIENCE)
            .unwrap()
            .topics()[0]
            .partitions()
            .is_empty(),
        "nothing is made"
    );

    log.kafka.replication = 3;
    log.registry.url = "http://127.0.0.1:1".to_owned();
    let findings = admin::check(&log.kafka, &log.registry).await;
    let blockers: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.level == Level::Blocker && !finding.help.is_empty())
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(blockers, ["kafka: replication", "registry: url"]);
}
