//! Columns that leave the source masked, or not at all.

use anabranch_core::{Change, ErrorKind, Event, Level, Secret, Source};
use anabranch_postgres::{ColumnRules, PostgresSource, check};

use crate::support::{Database, Follower, Replica, truth};

/// Every value with this in it must stay where it is.
const SECRET: &[u8] = b"SECRET";

const PEOPLE: &str = "
    create table people (id int primary key, ssn text, email text, note varchar(200), n int,
                         card text);
    alter table people alter column ssn set storage external;
    alter table people alter column email set storage external;
    alter table people alter column card set storage external;
    insert into people
    select n, 'SECRET ssn ' || n, 'SECRET' || n || '@example.org', 'é☃🦀 SECRET', 0, null
    from generate_series(1, 5) n;
    insert into people
    values (6, repeat('SECRET ssn', 2000), repeat('SECRET email', 2000), null, 0,
            repeat('SECRET card', 2000)),
           (7, null, null, '', 0, null)";

fn rules(exclude: &[&str], hash: &[&str], truncate: &[(&str, usize)]) -> ColumnRules {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    ColumnRules {
        exclude: names(exclude),
        hash: names(hash),
        truncate: truncate.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
    }
}

async fn database(sql: &str, table: &str, rules: ColumnRules) -> Database {
    let mut database = Database::new(sql, &[table]).await;
    database.config.columns.insert(table.to_owned(), rules);
    database.config.hash_key = Some(Secret::from("a key of our own".to_owned()));
    database
}

fn people() -> ColumnRules {
    rules(&["ssn"], &["email", "card"], &[("note", 4)])
}

/// Nothing that a batch holds shows a secret.
fn shows_nothing(event: &Event) {
    let Change::Row { key, before, after, unchanged, .. } = &event.change else { return };
    let bytes = [Some(key), before.as_ref(), after.as_ref()].into_iter().flatten();
    for bytes in bytes {
        let shown = String::from_utf8_lossy(bytes);
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "{shown}");
        assert!(!shown.contains("example.org"), "{shown}");
    }
    assert!(unchanged.is_empty(), "{event:?}");
}

/// Each is followed before the next, so that every row is there to be read again.
const CHANGES: [&str; 4] = [
    "update people set n = 1",
    "update people set id = 100, n = 2 where id = 6",
    "update people set note = 'short' where id = 1;
     update people set email = 'SECRET2@example.org', ssn = 'SECRET too' where id = 2;
     insert into people values (8, 'SECRET', 'SECRET8@example.org', 'é☃🦀 SECRET', 0, '')",
    "delete from people where id in (3, 100)",
];

async fn follows_and_shows_nothing(database: Database) {
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    let at_first = follower.replica.present();
    assert_eq!(at_first.len(), 7);
    for sql in CHANGES {
        database.run(sql).await;
        follower.catch_up(&database).await;
    }
    follower.replica.events.iter().for_each(shows_nothing);
    // The rows of a snapshot and those of the stream are masked alike.
    assert_eq!(follower.replica.present(), truth(&database).await);
    let table = follower.replica.tables.values().next_back().unwrap();
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "email", "note", "n", "card"]);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn no_byte_of_a_secret_is_in_any_batch() {
    follows_and_shows_nothing(database(PEOPLE, "public.people", people()).await).await;
}

#[tokio::test]
async fn nor_is_it_in_the_old_rows_of_replica_identity_full() {
    let sql = format!("{PEOPLE}; alter table people replica identity full");
    follows_and_shows_nothing(database(&sql, "public.people", people()).await).await;
}

/// The key is hashed, and rows are found by what it really is.
#[tokio::test]
async fn a_key_may_be_hashed() {
    let sql = "
        create table users (email text, tenant int, n int, body text, primary key (tenant, email));
        alter table users alter column body set storage external;
        insert into users select 'SECRET' || n, n % 2, 0, repeat('b', 20000)
        from generate_series(1, 4) n";
    let database = database(sql, "public.users", rules(&[], &["email"], &[])).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    for sql in [
        "update users set n = n + 1",
        "update users set email = 'SECRET new' where email = 'SECRET3'",
        "delete from users where email = 'SECRET1'",
    ] {
        database.run(sql).await;
        follower.catch_up(&database).await;
    }
    assert_eq!(follower.replica.letters(), "uuuudcd");
    follower.replica.events.iter().for_each(shows_nothing);
    assert_eq!(follower.source.stats().marked(), 0);
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// By its name at first, by its number from then on; and by its old name while the stream is behind.
#[tokio::test]
async fn an_excluded_column_that_is_renamed_stays_out() {
    let mut database = database(PEOPLE, "public.people", people()).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("alter table people rename column ssn to social").await;
    database.run("update people set n = 5, social = 'SECRET again' where id = 1").await;
    follower.catch_up(&database).await;
    let replica = follower.kill();
    database.run("update people set n = 6 where id = 1").await;
    database.run("alter table people rename column social to number").await;
    database.run("update people set n = 7 where id = 1").await;
    let renamed = PostgresSource::open(database.config.clone()).await;
    let error = renamed.unwrap().seek(replica.cursor.clone()).await.unwrap_err();
    assert!(error.report().contains("there is no column ssn"), "{error:?}");
    database.config.columns.get_mut("public.people").unwrap().exclude = vec!["number".into()];
    let mut follower = Follower::start(&database, replica).await;
    follower.catch_up(&database).await;
    follower.replica.events.iter().for_each(shows_nothing);
    assert_eq!(follower.replica.letters(), "uuu");
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_changed_mask_is_another_version_of_the_table() {
    let mut database = database(PEOPLE, "public.people", people()).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    for (rules, versions) in
        [(people(), 1), (rules(&["ssn", "note"], &["email", "card"], &[]), 2), (people(), 3)]
    {
        let replica = follower.kill();
        database.config.columns.insert("public.people".into(), rules);
        follower = Follower::start(&database, replica).await;
        database.run("update people set n = n + 1 where id = 1").await;
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.tables.len(), versions);
    }
    follower.replica.events.iter().for_each(shows_nothing);
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn rules_that_cannot_be_kept_are_refused() {
    let sql = format!("{PEOPLE}; alter table people add column tags text[], add column ok bool");
    let mut database = database(&sql, "public.people", ColumnRules::default()).await;
    let cases = [
        (rules(&["sn"], &[], &[]), "there is no column sn"),
        (rules(&["id"], &[], &[]), "part of the key"),
        (rules(&[], &[], &[("id", 3)]), "part of the key"),
        (rules(&[], &[], &[("n", 3)]), "no text"),
        (rules(&[], &["tags"], &[]), "hash of column tags"),
        (rules(&[], &["ok"], &[]), "hash of column ok"),
        (rules(&["ssn"], &["ssn"], &[]), "two rules"),
    ];
    for (rules, needle) in cases {
        database.config.columns.insert("public.people".into(), rules);
        let error = match PostgresSource::open(database.config.clone()).await {
            Ok(mut source) => source.seek(None).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.report().contains(needle) && error.help().is_some(), "{error:?}");
        let findings = check(&database.config, None).await;
        let blocks = |f: &anabranch_core::Finding| f.level == Level::Blocker;
        let text = |f: &anabranch_core::Finding| format!("{} {}", f.subject, f.seen);
        assert!(findings.iter().any(|f| blocks(f) && text(f).contains(needle)), "{findings:?}");
    }
    database.drop().await;
}
