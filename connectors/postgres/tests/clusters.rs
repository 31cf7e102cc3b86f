//! The private servers of the other tests do what these rely on.

use crate::support::{Cluster, Follower, Replica, truth};

const TABLE: &str = "create table t (id int primary key); insert into t values (1)";

#[tokio::test]
async fn a_standby_follows_and_its_promotion_begins_a_timeline() {
    let mut primary = Cluster::new(&[]).await;
    let standby = primary.standby("second", &[("hot_standby_feedback", "on")]).await;
    let database = primary.database(TABLE, &["public.t"]).await;
    standby.has_replayed(&primary.position().await).await;
    assert_eq!(standby.text("select pg_is_in_recovery()").await, "t");
    assert_eq!(primary.text("select application_name from pg_stat_replication").await, "second");
    primary.kill().await;
    standby.promote().await;
    assert_eq!(standby.timeline().await, 2);
    let database = database.on(&standby).await;
    assert_eq!(database.text("select count(*) from t").await, "1");
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
}

#[tokio::test]
async fn a_server_that_was_killed_or_stopped_comes_back_with_its_settings() {
    let mut server = Cluster::new(&[("max_slot_wal_keep_size", "64MB")]).await;
    let database = server.database(TABLE, &["public.t"]).await;
    server.kill().await;
    server.set(&[("max_connections", "30")]).await;
    server.start().await;
    server.stop().await;
    server.start().await;
    let database = database.on(&server).await;
    assert_eq!(database.text("select count(*) from t").await, "1");
    server.set(&[("work_mem", "'1MB'")]).await;
    server.wait_for("select current_setting('work_mem') = '1MB'").await;
    let settings = "select current_setting('max_connections') || ' '
        || current_setting('max_slot_wal_keep_size')";
    assert_eq!(server.text(settings).await, "30 64MB");
}
