//! Tables that were not published for a while, although they are now: no look at the publication
//! shows that by itself, and nothing in the stream does.

use std::time::Duration;

use anabranch_core::{Epoch, ErrorKind, Phase, Source as _};
use anabranch_postgres::{Acceptance, OnLost, WayOn, diagnose};

use crate::lost::{accepted, follow, from_slot, lost_until_snapshot, moved, named, refused};
use crate::support::{Database, Follower, Replica, truth};

const TABLES: &str = "create table t (id int primary key); insert into t values (1);
    create table u (id int primary key); create table v (id int primary key)";
const OUT_AND_IN: &str = "alter publication anabranch drop table t; insert into t values (2);
    alter publication anabranch add table only t";
const OTHER_KINDS: &str = "alter publication anabranch set (publish = 'insert');
    delete from t where id = 1;
    alter publication anabranch set (publish = 'insert, update, delete, truncate')";
/// Longer than the time between two looks.
const LOOK: Duration = Duration::from_secs(6);

async fn followed() -> (Database, Replica) {
    follow(Database::new(TABLES, &["public.t", "public.u"]).await).await
}

/// Reads for longer than a look takes to come.
async fn looked(follower: &mut Follower) {
    let reading = async {
        loop {
            follower.step().await.unwrap();
        }
    };
    tokio::time::timeout(LOOK, reading).await.unwrap_err();
}

/// E7, while nobody reads: at the start everything looks right.
#[tokio::test]
async fn a_table_that_was_out_for_a_while_is_lost_until_a_gap_is_accepted() {
    let (database, replica) = followed().await;
    database.run(OUT_AND_IN).await;
    let why = "public.t was taken out of publication anabranch and added again";
    let found = named(&database, &replica, "publication_changed", why).await;
    assert_eq!(found.ways, [WayOn::Snapshot, WayOn::Gap]);
    database.run("insert into t values (3)").await;
    let replica = accepted(&database, replica, &found, WayOn::Gap).await;
    assert_eq!(replica.letters(), "c", "only row 3 came");
    assert_eq!(replica.present().len() + 1, truth(&database).await.len(), "row 2 is missing");
    database.drop().await;
}

#[tokio::test]
async fn a_table_that_was_out_for_a_while_is_lost_until_a_snapshot() {
    let (database, replica) = followed().await;
    database.run(OUT_AND_IN).await;
    lost_until_snapshot(database, replica, "publication_changed", "public.t was taken out").await;
}

/// E7, between two looks, with a position in the log that has passed the gap.
#[tokio::test]
async fn a_table_that_was_out_between_two_looks_is_lost() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    database.run(OUT_AND_IN).await;
    database.run("insert into t values (3)").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "c", "row 3 and not row 2");
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("public.t was taken out"), "{error:?}");
    let replica = follower.release(&database).await;
    lost_until_snapshot(database, replica, "publication_changed", "public.t was taken out").await;
}

#[tokio::test]
async fn a_table_that_was_out_during_the_copy_is_lost() {
    let database = Database::new(TABLES, &["public.t", "public.u"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.cursor.as_ref().is_none_or(|at| at.phase != Phase::Snapshot) {
        follower.step().await.unwrap();
    }
    database.run(OUT_AND_IN).await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("public.t was taken out"), "{error:?}");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn kinds_of_changes_that_were_out_for_a_while_are_lost() {
    let (database, replica) = followed().await;
    database.run(OTHER_KINDS).await;
    let why = "publication anabranch was altered";
    lost_until_snapshot(database, replica, "publication_changed", why).await;
}

#[tokio::test]
async fn kinds_of_changes_that_were_out_between_two_looks_are_lost() {
    let (database, replica) = followed().await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    database.run(OTHER_KINDS).await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("publication anabranch was altered"), "{error:?}");
    assert!(follower.replica.letters().is_empty(), "the delete is missing");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn rows_that_were_filtered_for_a_while_are_lost() {
    let (database, replica) = followed().await;
    // Row filters came with PostgreSQL 15.
    if database.version().await >= 15 {
        database
            .run(
                "alter publication anabranch set table only t where (id > 100), only u;
                 insert into t values (2);
                 alter publication anabranch set table only t, only u",
            )
            .await;
        named(&database, &replica, "publication_changed", "another row filter").await;
    }
    database.drop().await;
}

/// E6 without a change in between, which the slot can pass.
#[tokio::test]
async fn a_publication_made_again_is_lost_until_a_gap_is_accepted() {
    let (database, replica) = followed().await;
    database.run("drop publication anabranch").await;
    database.run("create publication anabranch for table only t, only u").await;
    let why = "publication anabranch was dropped and created again";
    let found = named(&database, &replica, "publication_changed", why).await;
    database.run("insert into t values (2)").await;
    let replica = accepted(&database, replica, &found, WayOn::Gap).await;
    assert_eq!(replica.present(), truth(&database).await);
    database.drop().await;
}

/// E6 with a change in between, which the slot cannot pass.
#[tokio::test]
async fn a_publication_that_the_slot_cannot_pass_leaves_only_a_snapshot() {
    let (database, replica) = followed().await;
    database.run("drop publication anabranch; insert into t values (2)").await;
    database.run("create publication anabranch for table only t, only u").await;
    let error = refused(&database, replica.twin()).await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    let found = diagnose(&database.config, replica.cursor.as_ref().unwrap(), None).await.unwrap();
    let found = found.expect("there is something to accept");
    assert_eq!(found.gap.cause, "publication_missing");
    assert_eq!(found.ways, [WayOn::Snapshot]);
    let replica = accepted(&database, replica, &found, WayOn::Snapshot).await;
    assert_eq!(replica.present(), truth(&database).await);
    database.drop().await;
}

/// The catalog does not tell it from what loses something; so the message does, and the gap that is
/// accepted is none.
#[tokio::test]
async fn another_owner_is_named_and_loses_nothing() {
    let (database, replica) = followed().await;
    // All of it in one transaction: other tests share the server's roles.
    database
        .run(
            "create role anabranch_owner superuser;
             alter publication anabranch owner to anabranch_owner;
             reassign owned by anabranch_owner to current_user; drop role anabranch_owner;
             insert into t values (2)",
        )
        .await;
    let found =
        named(&database, &replica, "publication_changed", "OWNER TO and RENAME look the same")
            .await;
    let replica = accepted(&database, replica, &found, WayOn::Gap).await;
    assert_eq!(replica.present(), truth(&database).await);
    database.drop().await;
}

/// What people do beside a source, while it reads and while it does not: nothing of it is a loss.
#[tokio::test]
async fn what_leaves_the_tables_published_is_no_loss() {
    let tables = "create table t (id int primary key, note text);
        create table m (id int primary key) partition by range (id);
        create table m0 partition of m for values from (0) to (10);
        create table m1 (id int primary key); create table v (id int primary key)";
    let (database, replica) = follow(Database::new(tables, &["public.t", "public.m"]).await).await;
    let changes = [
        "alter publication anabranch add table v",
        "insert into v values (1); alter publication anabranch drop table v",
        "alter table m attach partition m1 for values from (10) to (20)",
        "insert into m values (1), (11)",
        "alter table m detach partition m1; drop table m1",
        "alter table t add extra int",
        "alter table t alter note type varchar(100)",
        "alter table t rename to other; alter table other rename to t",
        "alter publication anabranch set table only t, m",
        "comment on publication anabranch is 'ours'",
        "vacuum full pg_publication",
        "vacuum (freeze) pg_publication_rel",
        "create publication another for table t; alter publication another set (publish = 'insert')",
    ];
    let mut follower = Follower::start(&database, replica).await;
    for change in changes {
        let replica = follower.release(&database).await;
        database.run(change).await;
        follower = Follower::start(&database, replica).await;
        follower.catch_up(&database).await;
    }
    for change in ["alter publication anabranch add table v", "insert into t values (1)"] {
        database.run(change).await;
    }
    looked(&mut follower).await;
    let at = follower.replica.cursor.clone().unwrap();
    assert_eq!(at.epoch, Epoch(0));
    let membership = at.membership.expect("it is in the record");
    let begun = follower.replica.tables.keys().map(|(oid, _)| membership.tables.get(*oid));
    assert!(begun.into_iter().all(|mark| mark.is_some()), "{membership:?}");
    drop(follower);
    database.drop().await;
}

/// A record of an earlier release says nothing: what is found is as it was.
#[tokio::test]
async fn a_record_that_says_nothing_takes_what_is_found() {
    let (database, replica) = followed().await;
    let old = moved(replica, |cursor| cursor.membership = None);
    database.run(OUT_AND_IN).await;
    let mut follower = Follower::start(&database, old).await;
    follower.step().await.unwrap();
    let at = follower.replica.cursor.as_ref().unwrap();
    assert!(at.membership.is_some(), "it is in the record before anything else");
    let replica = follower.release(&database).await;
    database.run("alter publication anabranch drop table u").await;
    database.run("alter publication anabranch add table only u").await;
    named(&database, &replica, "publication_changed", "public.u was taken out").await;
    database.drop().await;
}

/// Whole schemas, and all tables.
#[tokio::test]
async fn a_schema_that_was_out_for_a_while_is_lost() {
    let database = Database::new(TABLES, &["public.t", "public.u"]).await;
    // Schemas can be published from PostgreSQL 15 on.
    if database.version().await >= 15 {
        database.run("create publication anabranch for tables in schema public").await;
        let (database, replica) = follow(database).await;
        let (database, replica) = follow_on(database, replica).await;
        database.run("alter publication anabranch drop tables in schema public").await;
        database.run("insert into t values (2)").await;
        database.run("alter publication anabranch add tables in schema public").await;
        let why = "public.t, public.u were taken out of publication anabranch";
        lost_until_snapshot(database, replica, "publication_changed", why).await;
    } else {
        database.drop().await;
    }
}

#[tokio::test]
async fn a_publication_of_all_tables_made_again_is_lost() {
    let database = Database::new(TABLES, &["public.t", "public.u"]).await;
    database.run("create publication anabranch for all tables").await;
    let (database, replica) = follow(database).await;
    let (database, replica) = follow_on(database, replica).await;
    database.run("drop publication anabranch").await;
    database.run("create publication anabranch for all tables").await;
    lost_until_snapshot(database, replica, "publication_changed", "dropped and created").await;
}

/// Goes on where nothing happened.
async fn follow_on(database: Database, replica: Replica) -> (Database, Replica) {
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    let replica = follower.release(&database).await;
    (database, replica)
}

#[tokio::test]
async fn an_append_only_table_that_was_out_for_a_while_is_lost() {
    let mut database = Database::new(TABLES, &["public.t", "public.v"]).await;
    database.config.append_only = vec!["public.v".to_owned()];
    let (database, replica) = follow(database).await;
    let (database, replica) = follow_on(database, replica).await;
    database
        .run(
            "alter publication anabranch_append drop table v; insert into v values (2);
             alter publication anabranch_append add table only v",
        )
        .await;
    let why = "public.v was taken out of publication anabranch_append";
    let found = named(&database, &replica, "publication_changed", why).await;
    database.run("insert into v values (3)").await;
    let replica = accepted(&database, replica, &found, WayOn::Gap).await;
    assert_eq!(replica.letters(), "c", "row 3 and not row 2");
    database.drop().await;
}

/// The policy decides as well where a loss shows only while the source reads: the attempt after it
/// begins anew.
#[tokio::test]
async fn the_policy_covers_what_is_found_while_reading() {
    let missing = "drop publication anabranch; insert into t values (2);
        create publication anabranch for table only t, only u";
    for change in [OUT_AND_IN, missing] {
        let (mut database, replica) = followed().await;
        database.config.on_lost = OnLost::Snapshot;
        let mut follower = Follower::start(&database, replica).await;
        follower.catch_up(&database).await;
        database.run(change).await;
        let error = follower.failure().await;
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
        assert!(error.report().contains("publication"), "{error:?}");
        follower.source.seek(follower.replica.cursor.clone()).await.unwrap();
        while follower.replica.cursor.as_ref().unwrap().epoch != Epoch(1) {
            follower.step().await.unwrap();
        }
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.present(), truth(&database).await);
        drop(follower);
        database.drop().await;
    }
}

/// What was accepted of the slot says nothing of the publication.
#[tokio::test]
async fn a_gap_of_the_slot_does_not_cover_one_of_the_publication() {
    let (database, replica) = followed().await;
    database.run("insert into t values (9)").await;
    let advance = "select pg_replication_slot_advance(slot_name, pg_current_wal_lsn())";
    database.run(&format!("{advance} {}", from_slot(&database))).await;
    database.run(OUT_AND_IN).await;
    let found = named(&database, &replica, "slot_ahead", "beyond the log's position").await;
    let all = vec![Acceptance { gap: found.gap.clone(), way: WayOn::Gap }];
    let mut follower = Follower::accepting(&database, replica, all).await.unwrap();
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    assert!(error.report().contains("public.t was taken out"), "{error:?}");
    let replica = follower.release(&database).await;
    assert_eq!(replica.cursor.as_ref().unwrap().epoch, Epoch(1));
    lost_until_snapshot(database, replica, "publication_changed", "public.t was taken out").await;
}
