//! Values that the stream leaves out because they did not change.

use anabranch_core::{Change, Event, Op};

use crate::support::{Database, Follower, Replica, truth};

const DOCUMENTS: &str = "
    create table documents (id int primary key, n int, body text, extra text);
    alter table documents alter column body set storage external;
    alter table documents alter column extra set storage external;
    insert into documents
    select n, 0, repeat('body ' || n, 2000), repeat('extra ' || n, 1000)
    from generate_series(1, 20) n";

async fn follow(sql: &str) -> (Database, Follower) {
    let database = Database::new(&format!("{DOCUMENTS}; {sql}"), &["public.documents"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

/// The columns that could not be had, of each event since the snapshot.
fn unchanged(replica: &Replica) -> Vec<Vec<String>> {
    replica
        .events
        .iter()
        .filter(|event| event.transaction.xid != 0)
        .map(|event| match &event.change {
            Change::Row { unchanged, .. } => unchanged.clone(),
            Change::Truncate | Change::Sweep => Vec::new(),
        })
        .collect()
}

async fn all_equal(database: Database, mut follower: Follower, letters: &str) {
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), letters);
    for (place, event) in follower.replica.events.iter().enumerate() {
        assert!(is_complete(event) || goes_later(&follower.replica, place), "{event:?}");
    }
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

fn is_complete(event: &Event) -> bool {
    match &event.change {
        Change::Row { unchanged, .. } => unchanged.is_empty(),
        Change::Truncate | Change::Sweep => true,
    }
}

/// Whether the row of the event at `place` is deleted by a later one.
fn goes_later(replica: &Replica, place: usize) -> bool {
    let Change::Row { key: gone, .. } = &replica.events[place].change else { return false };
    replica.events[place..].iter().any(|event| match &event.change {
        Change::Row { op: Op::Delete, key, .. } => key == gone,
        Change::Row { .. } | Change::Truncate | Change::Sweep => false,
    })
}

const CHANGES: &str = "
    update documents set n = 1 where id = 1;
    update documents set id = 100 where id = 2;
    begin; update documents set n = 2 where id = 3; update documents set id = 300 where id = 3;
    update documents set n = 3 where id = 300; commit;
    begin; insert into documents select 500, 0, repeat('new', 3000), null;
    update documents set n = 9 where id = 500; commit;
    update documents set body = 'short' where id = 4;
    update documents set n = 4 where id = 4";

#[tokio::test]
async fn they_are_read_again() {
    let (database, follower) = follow("").await;
    database.run(CHANGES).await;
    assert_eq!(follower.source.stats().rereads(), 0);
    let stats = follower.source.stats();
    all_equal(database, follower, "udcudcucuuu").await;
    assert!(stats.rereads() > 0);
}

#[tokio::test]
async fn under_replica_identity_full_the_old_row_has_them() {
    let (database, follower) = follow("alter table documents replica identity full").await;
    database.run(CHANGES).await;
    let stats = follower.source.stats();
    all_equal(database, follower, "udcudcucuuu").await;
    assert_eq!(stats.rereads(), 0);
}

#[tokio::test]
async fn under_an_index_the_key_is_the_index() {
    let (database, follower) = follow(
        "alter table documents add column code text not null default gen_random_uuid()::text;
         create unique index by_code on documents (code);
         alter table documents replica identity using index by_code",
    )
    .await;
    database.run("update documents set id = id + 1000").await;
    database.run("update documents set code = 'c' || id, n = 1 where id < 1010").await;
    database.run("delete from documents where id = 1005").await;
    let letters = format!("{}{}d", "u".repeat(20), "dc".repeat(9));
    all_equal(database, follower, &letters).await;
}

#[tokio::test]
async fn a_key_of_its_own_type_and_an_odd_name_is_found() {
    let sql = "create type mood as enum ('sad', 'o''k\\');
         create domain code as varchar(10);
         create table \"Odd \"\"one\" (m mood, c code, d numeric(6,2), \"select\" text,
           primary key (c, m, d));
         insert into \"Odd \"\"one\" values ('o''k\\', 'it''s \\', 1.50, repeat('x', 20000));
         alter table \"Odd \"\"one\" alter column \"select\" set storage external;
         update \"Odd \"\"one\" set \"select\" = repeat('y', 20000);
         alter table \"Odd \"\"one\" add column n int";
    let database = Database::new(sql, &["public.Odd \"one"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("update \"Odd \"\"one\" set n = 1").await;
    all_equal(database, follower, "u").await;
}

#[tokio::test]
async fn a_row_that_is_gone_by_then_is_marked_and_its_delete_follows() {
    let (database, mut follower) = follow("").await;
    database
        .run(
            "begin; update documents set n = 1 where id = 1; commit;
             begin; delete from documents where id = 1; commit;
             begin; update documents set id = 200 where id = 2; commit;
             begin; update documents set id = 201 where id = 200; commit",
        )
        .await;
    follower.catch_up(&database).await;
    assert_eq!(follower.replica.letters(), "uddcdc");
    let both = vec!["body".to_owned(), "extra".to_owned()];
    // All of it came in one batch or not: what is marked is followed by a delete in any case.
    let marked = unchanged(&follower.replica);
    assert!(marked.iter().all(|names| names.is_empty() || *names == both), "{marked:?}");
    assert_eq!(marked[0], both);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn names_and_columns_may_change_before_they_are_read_again() {
    let (database, follower) = follow("").await;
    let replica = follower.kill();
    database.run("update documents set n = 1 where id = 1").await;
    database
        .run(
            "alter table documents drop column extra;
             alter table documents rename column body to text;
             alter table documents rename column id to number",
        )
        .await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(unchanged(&follower.replica), [Vec::<String>::new()], "dropped is null");
    let event = follower.replica.events.last().unwrap();
    assert_eq!(event.table.columns.len(), 4, "as it was when it was written");
    let Change::Row { after: Some(after), .. } = &event.change else { panic!("{event:?}") };
    let body = "body 1".repeat(2000);
    assert!(after.windows(body.len()).any(|window| window == body.as_bytes()));
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_value_of_another_type_by_then_is_marked() {
    let (database, follower) = follow("").await;
    let replica = follower.kill();
    database.run("update documents set n = 1 where id = 1").await;
    database.run("alter table documents alter column extra type bytea using extra::bytea").await;
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    assert_eq!(unchanged(&follower.replica), [["extra".to_owned()]]);
    assert_eq!(follower.source.stats().marked(), 1);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn partitions_are_read_through_their_table() {
    let database = Database::new(
        "create table m (id int primary key, n int, body text) partition by hash (id);
         create table m_0 partition of m for values with (modulus 2, remainder 0);
         create table m_1 partition of m for values with (modulus 2, remainder 1);
         alter table m alter column body set storage external;
         alter table m_0 alter column body set storage external;
         alter table m_1 alter column body set storage external;
         insert into m select n, 0, repeat('m' || n, 3000) from generate_series(1, 10) n",
        &["public.m"],
    )
    .await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("update m set n = 1").await;
    all_equal(database, follower, &"u".repeat(10)).await;
}

/// E49: what is null stays null where the column has a default, in the copy, the stream and a re-read.
#[tokio::test]
async fn a_null_is_not_the_default_of_its_column() {
    let (database, mut follower) = follow(
        "alter table documents add column state text default 'new', add column big text default 'B';
         alter table documents alter column big set storage external;
         update documents set state = null, big = null where id = 1",
    )
    .await;
    database.run("insert into documents (id, state, big) values (900, null, null), (901, default, default)").await;
    database.run("update documents set n = 5 where id in (1, 900, 901)").await;
    database.run("update documents set state = null, big = null where id = 901").await;
    follower.catch_up(&database).await;
    let newest = follower.replica.tables.values().last().unwrap();
    let envelope = anabranch_core::avro::schema::envelope_schema(newest, "documents");
    assert!(!envelope.contains("\"new\""), "no default of the source's");
    all_equal(database, follower, "ccuuuu").await;
}
