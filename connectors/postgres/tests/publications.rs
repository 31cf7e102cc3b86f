//! Publications that change under a source.

use std::time::{Duration, Instant};

use anabranch_core::ErrorKind;

use crate::support::{Cluster, Database, Follower, Replica};

const TABLES: &str = "create table t (id int primary key); create table u (id int primary key)";

async fn followed() -> (Database, Follower) {
    let database = Database::new(TABLES, &["public.t"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

const MADE_AGAIN: &str = "drop publication anabranch; insert into t values (1);
    create publication anabranch for table t; insert into t values (2)";

/// E6. The slot cannot pass the place where the publication was missing, also when it is there
/// again: that is said at once, and not tried for ever.
#[tokio::test]
async fn a_publication_made_again_while_it_is_read_is_lost() {
    let (database, mut follower) = followed().await;
    database.run(MADE_AGAIN).await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let report = error.report();
    assert!(
        report.contains("publication") && report.contains("source accept --snapshot"),
        "{report}"
    );
    database.drop().await;
}

/// E6, while nobody reads: at the start everything looks right.
#[tokio::test]
async fn a_publication_made_again_while_nobody_reads_is_lost() {
    let (database, follower) = followed().await;
    let replica = follower.kill();
    database.run(MADE_AGAIN).await;
    let error = match Follower::try_start(&database, replica).await {
        Ok(mut follower) => follower.failure().await,
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("publication"), "{error:?}");
    database.drop().await;
}

/// E7. A table that the publication has and the configuration has not is left alone.
#[tokio::test]
async fn a_table_added_to_the_publication_changes_nothing() {
    let (database, mut follower) = followed().await;
    database
        .run(
            "insert into u values (1); alter publication anabranch add table u;
             insert into u values (2); insert into t values (1); truncate u",
        )
        .await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "c");
    assert!(follower.replica.events.iter().all(|event| event.table.name == "t"));
    drop(follower);
    database.drop().await;
}

/// E7. A table that is taken out of the publication sends nothing any more: the source must not go
/// on as if nothing was written to it.
#[tokio::test]
async fn a_table_taken_out_of_the_publication_is_noticed() {
    let (database, mut follower) = followed().await;
    database.run("insert into t values (1)").await;
    follower.catch_up(&database).await;
    database
        .run("alter publication anabranch add table u; alter publication anabranch drop table t")
        .await;
    database.run("insert into t values (2)").await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("does not publish public.t"), "{error:?}");
    // While it is out that is said at a start, too; and once it is in again, that there is a gap.
    let replica = follower.kill();
    let error = Follower::try_start(&database, replica.twin()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("ADD TABLE \"public\".\"t\""), "{error:?}");
    database.run("alter publication anabranch add table t").await;
    let error = Follower::try_start(&database, replica).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("source accept --gap"), "{error:?}");
    database.drop().await;
}

/// From PostgreSQL 16 on a look at the publication opens its tables: a migration that takes long holds
/// back its own table, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_being_altered_holds_no_other_back() {
    let server = Cluster::new(&[]).await;
    let sql = "create table a (id int primary key); create table b (id int primary key)";
    let database = server.database(sql, &["public.a", "public.b"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let migration = database.connect().await;
    migration.batch_execute("begin; alter table b add column x int").await.unwrap();
    let began = Instant::now();
    let mut rows = 0;
    // Beyond two looks.
    while began.elapsed() < Duration::from_secs(12) {
        rows += 1;
        database.run(&format!("insert into a values ({rows})")).await;
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.letters().len(), rows);
    }
    migration.batch_execute("commit").await.unwrap();
    // And a look is taken again.
    database.run("alter publication anabranch drop table b").await;
    let error = follower.failure().await;
    assert!(error.report().contains("public.b"), "{error:?}");
}
