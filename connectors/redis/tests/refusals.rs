//! What Redis refuses, and what the worker says then.

use std::sync::Arc;

use anabranch_core::memory::table;
use anabranch_core::{Assignment, ErrorKind, Level, Sink};
use anabranch_redis::{RedisConfig, RedisSink, RowFormat, check};

use crate::support::{OwnServer, Space, assignment, below, command, step, upto, values, worker};

async fn refused(config: &RedisConfig) -> anabranch_core::Error {
    RedisSink::open(config, assignment(table(), &[0, 1])).await.unwrap_err()
}

#[tokio::test]
async fn a_wrong_password_is_for_a_person_to_mend() {
    let server = OwnServer::start(&["--requirepass", "right"]).await;
    let port = server.address().1;
    for url in [
        format!("redis://:wr0ng@127.0.0.1:{port}"),
        format!("redis://somebody:wr0ng@127.0.0.1:{port}/3"),
        server.url(),
    ] {
        let error = refused(&RedisConfig::at(&*url)).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.report().contains("password"), "{error:?}");
        assert!(!error.report().contains("wr0ng"), "{error:?}");
        let findings = check(&RedisConfig::at(url), "cache").await;
        assert_eq!(findings[0].level, Level::Blocker);
    }
    let right = Space::at(format!("redis://:right@127.0.0.1:{port}/3"));
    let (mut sink, _) = worker(&right.config).await;
    sink.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();
    assert_eq!(right.rows().await, values(&[(1, 10)]));
    let mut first = Space::at(format!("redis://:right@127.0.0.1:{port}"));
    first.config.key = right.config.key.clone();
    assert_eq!(first.rows().await, values(&[]), "the rows are in database 3");
}

#[tokio::test]
async fn an_unreachable_server_is_transient() {
    let server = OwnServer::start(&[]).await;
    let config = RedisConfig::at(server.url());
    drop(server);
    let error = refused(&config).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let findings = check(&config, "cache").await;
    assert_eq!(findings[0].level, Level::Blocker);
    assert!(findings[0].subject.contains("cache: Redis at 127.0.0.1:"), "{findings:?}");
}

#[tokio::test]
async fn a_url_of_another_kind_is_refused() {
    for url in ["localhost", "http://localhost", "redis://"] {
        assert_eq!(refused(&RedisConfig::at(url)).await.kind(), ErrorKind::Config, "{url}");
    }
}

#[tokio::test]
async fn a_user_without_rights_is_for_a_person_to_mend() {
    let server = OwnServer::start(&[]).await;
    let mut admin = Space::at(server.url()).admin().await;
    let rights = ["ACL", "SETUSER", "little", "on", ">pw", "~*", "+info", "+get"];
    command::<()>(&mut admin, &rights).await;
    let space = Space::at(format!("redis://little:pw@127.0.0.1:{}", server.address().1));
    let mut sink = RedisSink::open(&space.config, assignment(table(), &[0])).await.unwrap();
    let error = sink.cursor().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("ACL"), "{error:?}");

    // What the help says is enough.
    let rights = ["ACL", "SETUSER", "little", "+@read", "+@write", "+@scripting", "+select"];
    command::<()>(&mut admin, &rights).await;
    sink.cursor().await.unwrap();
    let mut truncate = step(&[(2, Some(20), 1)]);
    truncate.delete_below = vec![below(0, 1)];
    let upto = upto(1).into_iter().filter(|(unit, _)| *unit == 0).collect();
    sink.apply(&truncate, &upto).await.unwrap();
    assert_eq!(space.rows().await, values(&[(2, 20)]));
}

/// A string, or a hash without our fields, where a row must go.
#[tokio::test]
async fn a_key_of_the_users_in_the_way_is_named_and_spared() {
    for format in [RowFormat::Hash, RowFormat::Json] {
        let mut space = Space::new();
        space.config.format = format;
        let mut admin = space.admin().await;
        command::<()>(&mut admin, &["SET", &space.row(1), "mine"]).await;
        command::<()>(&mut admin, &["HSET", &space.row(2), "mine", "too"]).await;
        for id in [1, 2] {
            let (mut sink, _) = worker(&space.config).await;
            let error = sink.apply(&step(&[(id, Some(10), 1)]), &upto(1)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
            assert!(error.report().contains(&space.row(id)), "{error:?}");
        }
        let (mut sink, held) = worker(&space.config).await;
        let other = held.into_iter().flatten().filter(|(_, unit)| unit.next != 1).count();
        assert_eq!(other, 0, "a refused unit's cursor has not moved");
        let mut gone = step(&[(1, None, 2), (2, None, 2)]);
        gone.delete_below = vec![below(0, 9), below(1, 9)];
        sink.apply(&gone, &upto(2)).await.unwrap();
        assert_eq!(command::<String>(&mut admin, &["GET", &space.row(1)]).await, "mine");
        assert_eq!(command::<String>(&mut admin, &["HGET", &space.row(2), "mine"]).await, "too");
        assert_eq!(space.rows().await, values(&[]));
        space.clean().await;
    }
}

#[tokio::test]
async fn a_full_redis_is_waited_for() {
    let server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let mut admin = space.admin().await;
    command::<()>(&mut admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let batch = step(&[(1, Some(10), 1), (2, Some(20), 1)]);
    let error = sink.apply(&batch, &upto(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("maxmemory"), "{error:?}");
    command::<()>(&mut admin, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(sink.cursor().await.unwrap(), None);
    sink.apply(&batch, &upto(1)).await.unwrap();
    assert_eq!(space.rows().await, values(&[(1, 10), (2, 20)]));
}

#[tokio::test]
async fn a_replica_is_waited_for_and_found_by_check() {
    let server = OwnServer::start(&[]).await;
    let space = Space::at(server.url());
    let (mut sink, _) = worker(&space.config).await;
    let mut admin = space.admin().await;
    command::<()>(&mut admin, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = sink.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let findings = check(&space.config, "cache").await;
    assert!(findings.iter().any(|f| f.level == Level::Blocker && f.seen == "replica"));
    command::<()>(&mut admin, &["REPLICAOF", "NO", "ONE"]).await;
    sink.cursor().await.unwrap();
    sink.apply(&step(&[(1, Some(10), 1)]), &upto(1)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_is_refused() {
    let server = OwnServer::start(&["--cluster-enabled", "yes"]).await;
    let config = RedisConfig::at(server.url());
    let error = refused(&config).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("cluster"), "{error:?}");
    assert_eq!(check(&config, "cache").await[0].level, Level::Blocker);
}

#[tokio::test]
async fn check_finds_what_can_lose_rows() {
    let server = OwnServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let config = RedisConfig::at(server.url());
    let risks = |findings: Vec<anabranch_core::Finding>| -> Vec<String> {
        assert!(findings.iter().all(|finding| finding.level != Level::Blocker));
        findings.into_iter().filter(|f| f.level == Level::Risk).map(|f| f.subject).collect()
    };
    let found = risks(check(&config, "cache").await);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("maxmemory-policy") && found[1].contains("persistence"));
    let mut admin = Space::at(server.url()).admin().await;
    command::<()>(&mut admin, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    command::<()>(&mut admin, &["CONFIG", "SET", "appendonly", "yes"]).await;
    assert_eq!(risks(check(&config, "cache").await), Vec::<String>::new());
}

#[tokio::test]
async fn an_older_generation_is_refused() {
    let space = Space::new();
    let open = async |generation| {
        let assignment = Assignment { generation, ..assignment(table(), &[0]) };
        RedisSink::open(&space.config, assignment).await.unwrap()
    };
    let (mut old, mut new) = (open(9).await, open(10).await);
    old.cursor().await.unwrap();
    new.cursor().await.unwrap();
    let upto = upto(1).into_iter().filter(|(unit, _)| *unit == 0).collect();
    let error = old.apply(&step(&[(2, Some(20), 1)]), &upto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(old.cursor().await.unwrap_err().kind(), ErrorKind::Config);
    new.apply(&step(&[(2, Some(21), 2)]), &upto).await.unwrap();
    space.clean().await;
}

#[tokio::test]
async fn a_column_named_as_a_field_is_refused() {
    let mut table = (*table()).clone();
    table.columns[1].name = "_p".to_owned();
    let space = Space::new();
    let opened = RedisSink::open(&space.config, assignment(Arc::new(table), &[0])).await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Config);
}
