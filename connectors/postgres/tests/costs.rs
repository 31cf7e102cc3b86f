//! What the source costs its server, and how long a change is under way.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use anabranch_postgres::{SourceStats, beat};

use crate::support::{DEADLINE, Database, Follower, Replica, truth};

#[tokio::test]
async fn rereads_keep_their_bound_and_the_server_is_answered_meanwhile() {
    let sql = "create table t (id int primary key, n int, body text);
               alter table t alter body set storage external;
               insert into t select n, 0, repeat(n::text, 4000) from generate_series(1, 100) n";
    let mut database = Database::new(sql, &["public.t"]).await;
    database.config.reread_rows_per_second_max = NonZeroU32::new(25);
    // A reader that is silent for a second is cut off.
    let name = database.text("select current_database()").await;
    database.run(&format!("alter database {name} set wal_sender_timeout = '1s'")).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("update t set n = 1").await;
    follower.catch_up(&database).await;
    let figures = follower.source.stats().figures();
    assert_eq!((figures.reread_rows, figures.marked_rows), (100, 0));
    // 100 rows but for a burst of 25 and the last slice of 6, at 25 a second.
    assert!(figures.reread_seconds >= 2.7, "{figures:?}");
    assert!(figures.reread_waited_seconds > 0.5, "{figures:?}");
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn heartbeats_measure_the_way_and_are_no_events() {
    let sql = "create table t (id int primary key); insert into t values (1)";
    let mut database = Database::new(sql, &["public.t"]).await;
    database.config.heartbeat_ms = NonZeroU64::new(50);
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let stats = follower.source.stats();
    assert_eq!(stats.figures().heartbeats, 0);
    let events = follower.replica.events.len();
    let (config, beating) = (database.config.clone(), Arc::clone(&stats));
    let own = tokio::spawn(async move { beat(&config, &beating).await });
    // A process that does not read the slot sends none.
    let (config, idle) = (database.config.clone(), Arc::new(SourceStats::default()));
    let watching = Arc::clone(&idle);
    let other = tokio::spawn(async move { beat(&config, &watching).await });
    let step = async {
        while stats.figures().heartbeats < 3 {
            follower.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, step).await.expect("heartbeats arrive");
    let latency = stats.figures().heartbeat_latency_seconds.unwrap();
    assert!((0.0..10.0).contains(&latency), "{latency}");
    assert_eq!(idle.figures().heartbeats, 0);
    assert_eq!(follower.replica.events.len(), events, "no event");
    assert_eq!(stats.figures().rows, 0, "and no row");
    own.abort();
    other.abort();
    database.run("insert into t values (2)").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}
