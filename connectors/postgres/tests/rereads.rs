//! The rule of re-reads in all its cases: a value is right, or its event is marked and mended.

use std::time::Duration;

use anabranch_core::{Change, ErrorKind, Event, Op, RepairReason, partition};

use crate::support::{Cluster, Database, Follower, Replica, truth};

const DOCUMENTS: &str = "
    create table documents (id int primary key, n int, body text);
    alter table documents alter column body set storage external;
    insert into documents select n, 0, repeat('body ' || n, 2000) from generate_series(1, 5) n";

pub(crate) const PARTITIONED: &str = "
    create table m (id int primary key, n int, body text) partition by range (id);
    create table m_1 partition of m for values from (0) to (100);
    create table m_2 partition of m for values from (100) to (200);
    alter table m_1 alter column body set storage external;
    alter table m_2 alter column body set storage external;
    insert into m select n, 0, repeat('body ' || n, 2000) from generate_series(99, 101) n";

async fn follow(sql: &str, table: &str) -> (Database, Follower) {
    let database = Database::new(sql, &[table]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

/// The changes since the snapshot.
fn changes(replica: &Replica) -> impl Iterator<Item = &Event> {
    replica.events.iter().filter(|event| event.transaction.xid != 0)
}

/// How many of them say that a value could not be had.
fn marked(replica: &Replica) -> usize {
    let is_marked = |event: &&Event| match &event.change {
        Change::Row { unchanged, .. } => !unchanged.is_empty(),
        Change::Truncate | Change::Sweep => false,
    };
    changes(replica).filter(is_marked).count()
}

fn reasons(replica: &Replica) -> Vec<(RepairReason, bool)> {
    replica.repairs.iter().map(|repair| (repair.reason, repair.key.is_some())).collect()
}

async fn end(database: Database, follower: Follower) {
    drop(follower);
    database.drop().await;
}

async fn is_version(database: &Database, version: u32) -> bool {
    let query = format!("select current_setting('server_version_num')::int >= {version}");
    database.text(&query).await == "t"
}

/// E22, E23: an insert and an update of the same key that leaves a value alone, in one batch.
#[tokio::test]
async fn an_insert_and_a_partial_update_keep_the_value() {
    let (database, mut follower) = follow(DOCUMENTS, "public.documents").await;
    database
        .run(
            "begin; insert into documents values (9, 0, repeat('nine', 5000));
             update documents set n = 1 where id = 9; commit;
             update documents set n = 2 where id = 1",
        )
        .await;
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("cuu", 0));
    assert_eq!(follower.replica.present(), truth(&database).await);
    end(database, follower).await;
}

/// E24: the new key has the value, though it lies in another partition of the log.
#[tokio::test]
async fn a_value_moves_with_its_row_to_another_key() {
    let (database, mut follower) = follow(DOCUMENTS, "public.documents").await;
    for id in 1..=5 {
        database
            .run(&format!("update documents set id = {id} + 1000, n = 1 where id = {id}"))
            .await;
    }
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("dcdcdcdcdc", 0));
    let keys: Vec<i32> = changes(&follower.replica)
        .filter_map(|event| match &event.change {
            Change::Row { key, .. } => Some(partition(key, 8)),
            Change::Truncate | Change::Sweep => None,
        })
        .collect();
    assert!(keys.chunks(2).any(|pair| pair[0] != pair[1]), "{keys:?}");
    assert_eq!(follower.replica.present(), truth(&database).await);
    assert!(follower.replica.repairs.is_empty());
    end(database, follower).await;
}

/// A row that is gone: its delete follows, so there is nothing to mend.
#[tokio::test]
async fn a_deleted_row_needs_no_repair() {
    let (database, mut follower) = follow(PARTITIONED, "public.m").await;
    database
        .run("begin; update m set n = 1 where id = 99; delete from m where id = 99; commit")
        .await;
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("ud", 1));
    assert!(follower.replica.repairs.is_empty(), "{:?}", follower.replica.repairs);
    end(database, follower).await;
}

/// The row is not found under its root, and no delete will follow: it is in a table of its own.
#[tokio::test]
async fn a_row_that_left_with_its_partition_is_repaired() {
    for leave in ["alter table m detach partition m_2", "drop table m_2"] {
        let (database, follower) = follow(PARTITIONED, "public.m").await;
        let replica = follower.kill();
        database.run("update m set n = 1").await;
        database.run(leave).await;
        let mut follower = Follower::start(&database, replica).await;
        follower.catch_up(&database).await;
        assert!(follower.replica.letters().starts_with("uuu"));
        assert_eq!(marked(&follower.replica), 2);
        assert_eq!(reasons(&follower.replica), [(RepairReason::PartitionGone, true); 2]);
        let asked: Vec<_> = follower.replica.repairs.iter().map(|repair| &repair.table).collect();
        assert_eq!(asked, ["public.m", "public.m"]);
        follower.mend().await;
        assert_eq!(follower.replica.letters(), "uuudd", "they are gone");
        assert_eq!(follower.replica.present(), truth(&database).await);
        // Once its changes are read, a partition that is gone raises no doubt about another row.
        let sql = "begin; update m set n = 2 where id = 99; delete from m where id = 99; commit";
        database.run(sql).await;
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.letters(), "uuuddud");
        assert_eq!(follower.replica.repairs.len(), 2);
        end(database, follower).await;
    }
}

/// The delete of a row that is gone is not published.
#[tokio::test]
async fn a_row_whose_delete_does_not_come_is_repaired() {
    let (database, mut follower) = follow(DOCUMENTS, "public.documents").await;
    database.run("alter publication anabranch set (publish = 'insert, update, truncate')").await;
    let sql = "begin; update documents set n = 1 where id = 1; delete from documents where id = 1;
               commit";
    database.run(sql).await;
    follower.catch_up(&database).await;
    assert_eq!(marked(&follower.replica), 1);
    assert_eq!(reasons(&follower.replica), [(RepairReason::DeleteUnpublished, true)]);
    follower.mend().await;
    assert_eq!((follower.replica.letters().as_str(), follower.replica.present().len()), ("ud", 4));
    end(database, follower).await;
}

#[tokio::test]
async fn a_value_of_another_type_is_repaired() {
    let (database, follower) = follow(DOCUMENTS, "public.documents").await;
    let replica = follower.kill();
    database.run("update documents set n = 1 where id < 3").await;
    database.run("alter table documents alter column body type bytea using body::bytea").await;
    // These have the type that it has now, though they are looked at together with those.
    database.run("update documents set n = 2 where id > 2").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(marked(&follower.replica), 2);
    assert_eq!(reasons(&follower.replica), [(RepairReason::TypeChanged, true); 2]);
    follower.mend().await;
    assert_eq!(follower.replica.present(), truth(&database).await);
    end(database, follower).await;
}

/// A row cannot be asked for by a key that is written differently by now.
#[tokio::test]
async fn a_key_that_cannot_be_asked_for_is_repaired_with_its_table() {
    let sql = "create type mood as enum ('sad', 'ok');
        create table moods (m mood primary key, n int, body text);
        alter table moods alter column body set storage external;
        insert into moods values ('sad', 0, repeat('x', 20000)), ('ok', 0, repeat('y', 20000))";
    let (database, follower) = follow(sql, "public.moods").await;
    let replica = follower.kill();
    database.run("update moods set n = 1 where m = 'sad'").await;
    database.run("alter type mood rename value 'sad' to 'low'").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(marked(&follower.replica), 1);
    assert_eq!(reasons(&follower.replica), [(RepairReason::KeyChanged, false)]);
    follower.mend().await;
    assert_eq!(follower.replica.present(), truth(&database).await, "no row is under its old key");
    end(database, follower).await;
}

/// A table that is dropped leaves nothing to mend; a column that is dropped leaves a null.
#[tokio::test]
async fn what_is_dropped_needs_no_repair() {
    let (database, mut follower) = follow(DOCUMENTS, "public.documents").await;
    let sql = "begin; update documents set n = 1 where id = 1;
               alter table documents drop column body; commit";
    database.run(sql).await;
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("u", 0));
    let sql = "alter table documents add column body text;
        alter table documents alter column body set storage external;
        update documents set body = repeat('again', 5000) where id = 2;
        begin; update documents set n = 3 where id = 2; drop table documents; commit";
    database.run(sql).await;
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("uuu", 1));
    assert!(follower.replica.repairs.is_empty());
    end(database, follower).await;
}

/// E35: rows that enter and leave the filter, between the change and the look at them, too.
#[tokio::test]
async fn a_row_filter_does_not_hide_a_row_from_the_look_at_it() {
    let sql = format!("{DOCUMENTS}; insert into documents values (500, 0, repeat('far', 5000))");
    let database = Database::new(&sql, &["public.documents"]).await;
    if !is_version(&database, 150_000).await {
        return database.drop().await;
    }
    database.run("create publication anabranch for table documents where (id < 100)").await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 5);
    // Its value is not sent as the row enters.
    database.run("update documents set id = 50 where id = 500").await;
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("c", 0));
    // It has left by the time that it is looked at, under the key that it had.
    let sql = "begin; update documents set n = 7 where id = 50;
               update documents set id = 501 where id = 50; commit";
    database.run(sql).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "cud");
    assert!(follower.replica.repairs.is_empty());
    assert_eq!(follower.replica.present(), truth(&database).await);
    end(database, follower).await;
}

/// Policies that would hide rows are an error by name, at the start and later.
#[tokio::test]
async fn row_level_security_is_an_error_and_not_an_absence() {
    let sql = format!("{DOCUMENTS}; create publication anabranch for table documents");
    let mut database = Database::new(&sql, &["public.documents"]).await;
    let role = database.config.slot.clone();
    let sql = format!(
        "create role {role} login replication password 'p'; grant select on documents to {role}"
    );
    database.run(&sql).await;
    let (_, server) = database.config.url.expose().rsplit_once('@').unwrap();
    database.config.url = format!("postgres://{role}:p@{server}").into();
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("alter table documents enable row level security").await;
    database.run("update documents set n = 1 where id = 1").await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.report().contains("row-level security") && error.report().contains("documents"));
    let replica = follower.kill();
    assert_eq!(replica.letters(), "");
    let error = Follower::try_start(&database, replica).await.err().unwrap();
    assert!(error.help().unwrap().contains("BYPASSRLS"), "{error:?}");
    database.run(&format!("drop owned by {role}; alter role {role} nologin")).await;
    database.drop().await;
}

/// A look at rows stands in no line for a lock, or the server would end a migration to untie the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_two_tables_does_not_fall_over_a_look_at_them() {
    let server = Cluster::new(&[]).await;
    let sql = format!("{DOCUMENTS}; {}", DOCUMENTS.replace("documents", "others"));
    let database = server.database(&sql, &["public.documents", "public.others"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    server.freeze("walsender").await;
    database.run("update documents set n = 1; update others set n = 1").await;
    let migration = database.connect().await;
    migration.batch_execute("begin; alter table others add column x int").await.unwrap();
    server.thaw("walsender").await;
    let looking = tokio::time::timeout(Duration::from_secs(2), follower.catch_up(&database)).await;
    assert!(looking.is_err(), "it waits for the table");
    let sql = "alter table documents add column x int; commit";
    migration.batch_execute(sql).await.expect("it is in nobody's way");
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().len(), marked(&follower.replica)), (10, 0));
}

/// A transaction is decoded before others may see it: the look at its rows waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_not_visible_yet_is_waited_for() {
    let server = Cluster::new(&[]).await;
    let database = server.database(DOCUMENTS, &["public.documents"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    server.set(&[("synchronous_standby_names", "'nobody'")]).await;
    server.wait_for("select current_setting('synchronous_standby_names') = 'nobody'").await;
    let client = database.connect().await;
    let update = client.batch_execute("update documents set n = 1, id = 100 where id = 1");
    let follow = async {
        server
            .wait_for("select exists (select from pg_stat_activity where wait_event = 'SyncRep')")
            .await;
        let soon = async {
            while follower.replica.letters().is_empty() {
                follower.step().await.unwrap();
            }
        };
        let early = tokio::time::timeout(Duration::from_secs(2), soon).await;
        assert!(early.is_err(), "what nobody sees is not looked up");
        server.set(&[("synchronous_standby_names", "''")]).await;
    };
    let (updated, ()) = tokio::join!(update, follow);
    updated.unwrap();
    follower.catch_up(&database).await;
    assert_eq!((follower.replica.letters().as_str(), marked(&follower.replica)), ("dc", 0));
    assert_eq!(follower.replica.present(), truth(&database).await);
}

/// The commit waits for us, and we for the commit: refused, at the start and when it comes later.
#[tokio::test(flavor = "multi_thread")]
async fn being_a_synchronous_standby_is_refused() {
    let server = Cluster::new(&[]).await;
    let database = server.database(DOCUMENTS, &["public.documents"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    server.set(&[("synchronous_standby_names", "'anabranch'")]).await;
    server.wait_for("select current_setting('synchronous_standby_names') = 'anabranch'").await;
    let client = database.connect().await;
    let update = client.batch_execute("update documents set n = 1 where id = 1");
    let follow = async {
        let error = loop {
            if let Err(error) = follower.step().await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.report().contains("synchronous_standby_names"), "{error:?}");
        let replica = follower.kill();
        assert!(
            !replica
                .events
                .iter()
                .any(|event| matches!(event.change, Change::Row { op: Op::Update, .. }))
        );
        let again = Follower::try_start(&database, replica).await.err().unwrap();
        assert!(again.help().unwrap().contains("synchronous_standby_names"), "{again:?}");
        server.set(&[("synchronous_standby_names", "''")]).await;
    };
    let (updated, ()) = tokio::join!(update, follow);
    updated.unwrap();
}
