//! What tells rows apart: every replica identity, and none.

use anabranch_core::{Change, ErrorKind, Level};
use anabranch_postgres::{check, teardown, teardown_plan};

use crate::support::{Database, Follower, Replica, truth};

async fn follow(sql: &str, tables: &[&str], append_only: &[&str]) -> (Database, Follower) {
    let mut database = Database::new(sql, tables).await;
    database.config.append_only = append_only.iter().map(|name| (*name).to_owned()).collect();
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

async fn equal(database: Database, mut follower: Follower, letters: &str) {
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), letters);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E26: under FULL every column is flagged as a key, and the key is the primary key all the same.
#[tokio::test]
async fn under_full_the_primary_key_tells_rows_apart() {
    let sql = "create table a (id int primary key, n int, body text);
               alter table a alter column body set storage external;
               alter table a replica identity full;
               insert into a values (1, 1, repeat('x', 20000)), (2, 2, null)";
    let (database, follower) = follow(sql, &["public.a"], &[]).await;
    assert_eq!(follower.replica.tables.values().next().unwrap().key, [0]);
    database.run("update a set n = 9 where id = 1; update a set id = 10 where id = 1").await;
    database.run("delete from a where id = 2").await;
    let stats = follower.source.stats();
    equal(database, follower, "udcd").await;
    assert_eq!(stats.rereads(), 0, "the old row has what is unchanged");
}

/// E27: an update of the primary key that leaves the identity index alone is an update of one row.
#[tokio::test]
async fn an_identity_by_index_is_the_key() {
    let sql = "create table i (id int primary key, code text not null unique, n int);
               alter table i replica identity using index i_code_key;
               insert into i values (1, 'a', 1), (2, 'b', 2)";
    let (database, follower) = follow(sql, &["public.i"], &[]).await;
    assert_eq!(follower.replica.tables.values().next().unwrap().key, [1]);
    database.run("update i set id = 7 where id = 1; delete from i where id = 2").await;
    database.run("update i set code = 'c' where id = 7").await;
    equal(database, follower, "uddc").await;
}

/// E28: the application's UPDATE fails as soon as the table is in a publication of updates; we never
/// make such a one, and `check` finds those of others.
#[tokio::test]
async fn tables_whose_updates_a_publication_would_refuse_are_found() {
    let sql = "create table fine (id int primary key);
        create table keyless (id int); create table late (id int primary key deferrable);
        create table nothing (id int primary key); alter table nothing replica identity nothing;
        create table gone (id int not null unique, n int);
        alter table gone replica identity using index gone_id_key; drop index gone_id_key;
        create table m (id int) partition by hash (id);
        create table m_0 partition of m for values with (modulus 1, remainder 0);
        insert into keyless values (1); insert into late values (1); insert into nothing values (1);
        insert into gone values (1); insert into m values (1)";
    let sql = sql.replace(
        "alter table gone replica identity using index gone_id_key; drop index gone_id_key;",
        "alter table gone replica identity using index gone_id_key;
         alter table gone drop constraint gone_id_key;",
    );
    let mut database = Database::new(&sql, &["public.fine"]).await;
    for table in ["keyless", "late", "nothing", "gone", "m"] {
        database.config.tables = vec!["public.fine".into(), format!("public.{table}")];
        let error = Follower::try_start(&database, Replica::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.report().contains(table) && error.help().unwrap().contains("ALTER TABLE"));
    }
    assert_eq!(database.text("select count(*) from pg_publication").await, "0");
    database.config.tables = vec!["public.fine".into()];
    let all = "create publication everything for all tables
               with (publish_via_partition_root = true)";
    database.run(all).await;
    for table in ["keyless", "late", "nothing", "gone", "m"] {
        let update = format!("update {table} set id = 2");
        assert!(database.client.batch_execute(&update).await.is_err(), "{table}");
    }
    database.config.publication = "everything".into();
    let findings = check(&database.config, None).await;
    for table in ["keyless", "late", "nothing", "gone", "m_0"] {
        let found = findings.iter().any(|finding| {
            finding.level == Level::Risk
                && finding.seen.contains("UPDATE and DELETE fail on")
                && finding.seen.contains(&format!("public.{table}"))
                && finding.help.contains("ADD PRIMARY KEY")
        });
        assert!(found, "{table}: {findings:?}");
    }
    assert!(!findings.iter().any(|finding| finding.seen.contains("public.fine")));
    database.drop().await;
}

/// E29: rows that nothing tells apart are refused, unless only their inserts are followed; then two
/// equal ones are two.
#[tokio::test]
async fn equal_rows_of_an_append_only_table_are_two() {
    let sql = "create table bag (a int, b int); alter table bag replica identity full;
               insert into bag values (1, 1), (1, 1)";
    let mut database = Database::new(sql, &["public.bag"]).await;
    let error = Follower::try_start(&database, Replica::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.help().unwrap().contains("append_only"), "{error:?}");
    database.config.append_only = vec!["public.bag".into()];
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 2);
    database.run("insert into bag values (1, 1), (1, 1)").await;
    database.run("delete from bag where ctid = '(0,1)'").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "cc", "a delete is not followed");
    assert_eq!(follower.replica.present().len(), 4);
    database.run("begin; insert into bag values (2, 2); truncate bag; insert into bag values (3, 3); commit").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 1);
    drop(follower);
    database.drop().await;
}

/// The application goes on to update and delete; the main tables are not touched by any of it.
#[tokio::test]
async fn an_append_only_table_stays_as_it_is_for_the_application() {
    let sql = "create table audit (at timestamptz, what text);
               create table orders (id int primary key, n int);
               insert into audit select now(), 'before ' || n from generate_series(1, 3) n;
               insert into orders values (1, 1)";
    let tables = ["public.audit", "public.orders"];
    let (database, mut follower) = follow(sql, &tables, &["public.audit"]).await;
    database.run("update audit set what = 'changed'; delete from audit").await;
    database.run("insert into audit values (now(), 'after'); update orders set n = 2").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "cu");
    let published = "select string_agg(pubname || ' ' || tablename, ', ' order by pubname)
                     from pg_publication_tables";
    let expected = "anabranch orders, anabranch_append audit";
    assert_eq!(database.text(published).await, expected);
    let findings = check(&database.config, None).await;
    assert!(findings.iter().all(|finding| finding.level < Level::Blocker), "{findings:?}");
    drop(follower);
    let plan = teardown_plan(&database.config).await.unwrap();
    assert!(plan.iter().any(|line| line.contains("publication anabranch_append")), "{plan:?}");
    // The server needs a moment to notice that its reader is gone.
    let free = format!(
        "select not active from pg_replication_slots where slot_name = '{}'",
        database.config.slot
    );
    database.wait_for(&free).await;
    teardown(&database.config).await.unwrap();
    assert_eq!(database.text("select count(*) from pg_publication").await, "0");
    database.drop().await;
}

fn keys(replica: &Replica) -> Vec<Vec<u8>> {
    let key = |event: &anabranch_core::Event| match &event.change {
        Change::Row { key, .. } => Some(key.to_vec()),
        Change::Truncate | Change::Sweep => None,
    };
    replica.events.iter().filter_map(key).collect()
}

/// Killed and started again in a transaction that is split, the same rows have the same keys.
#[tokio::test]
async fn keys_of_appended_rows_survive_restarts_and_splits() {
    let sql = "create table log (line text); insert into log values ('first'), ('second')";
    let mut database = Database::new(sql, &["public.log"]).await;
    database.config.append_only = vec!["public.log".into()];
    database.config.batch_bytes_max = 2_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let replica = follower.kill();
    database.run("insert into log select 'line ' || n from generate_series(1, 200) n").await;
    let mut follower = Follower::start(&database, replica).await;
    for _ in 0..3 {
        follower.take().await.unwrap();
    }
    assert!(follower.replica.cursor.as_ref().unwrap().split.is_some());
    let mut follower = Follower::start(&database, follower.kill()).await;
    follower.catch_up(&database).await;
    let keys = keys(&follower.replica);
    assert_eq!(keys.len(), 202);
    let mut distinct = keys.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 202, "each row came once, under a key of its own");
    assert!(keys.is_sorted(), "in the order of the history");
    assert_eq!(follower.replica.present().len(), 202);
    // A name of one's own, and one that is taken.
    drop(follower);
    database.config.append_key = "line".into();
    let findings = check(&database.config, None).await;
    assert!(findings.iter().any(|finding| finding.help.contains("append_key")), "{findings:?}");
    database.drop().await;
}

/// An unfinished snapshot is taken back before the next one gives its rows other keys.
#[tokio::test]
async fn an_unfinished_snapshot_of_an_append_only_table_leaves_nothing_behind() {
    let sql = "create table log (line text);
               insert into log select repeat('x', 100) from generate_series(1, 2000) n";
    let mut database = Database::new(sql, &["public.log"]).await;
    database.config.append_only = vec!["public.log".into()];
    database.config.batch_bytes_max = 50_000;
    let mut follower = Follower::start(&database, Replica::default()).await;
    while follower.replica.rows.len() < 500 {
        follower.step().await.unwrap();
    }
    let mut follower = Follower::start(&database, follower.kill()).await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.present().len(), 2000);
    drop(follower);
    database.drop().await;
}

/// A publication that would refuse the application's updates is refused itself.
#[tokio::test]
async fn publications_that_do_not_fit_append_only_tables_are_refused() {
    let sql = "create table audit (what text); create table t (id int primary key);
               create publication p for table t, audit with (publish = 'insert, update, delete, truncate');
               create publication q for table t; create publication q_append for table audit;
               create publication r for table t";
    let mut database = Database::new(sql, &["public.t", "public.audit"]).await;
    database.config.append_only = vec!["public.audit".into()];
    for (publication, sql) in [
        ("p", "ALTER PUBLICATION \"p\" DROP TABLE public.audit;"),
        ("q", "ALTER PUBLICATION \"q_append\" SET (publish = 'insert, truncate');"),
    ] {
        database.config.publication = publication.into();
        let error = Follower::try_start(&database, Replica::default()).await.err().unwrap();
        assert!(error.help().unwrap().contains(sql), "{error:?}");
        let findings = check(&database.config, None).await;
        assert!(findings.iter().any(|finding| finding.help.contains(sql)), "{findings:?}");
    }
    // What is missing is made.
    database.run("drop publication p; drop publication q; drop publication q_append").await;
    database.config.publication = "r".into();
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("insert into audit values ('x'); update audit set what = 'y'").await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "c");
    drop(follower);
    database.drop().await;
}

/// E30: rows under another key cannot be told from those before.
#[tokio::test]
async fn a_changed_primary_key_stops_by_name() {
    let sql = "create table a (id int primary key, k2 int not null); insert into a values (1, 10)";
    let (database, mut follower) = follow(sql, &["public.a"], &[]).await;
    database.run("alter table a drop constraint a_pkey; alter table a add primary key (k2)").await;
    database.run("update a set k2 = 11").await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.report().contains("public.a") && error.report().contains("its key was (id)"));
    assert_eq!(follower.replica.letters(), "", "not a row under the other key");
    drop(follower);
    database.drop().await;
}
