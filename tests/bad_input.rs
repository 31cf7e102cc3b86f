//! What a user gets wrong: one clear line that says what to do, an exit code, nothing half made.

use std::process::Output;

use crate::support::log::topics;
use crate::support::services;
use crate::support::world::{World, connect, database_url};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (id int)";

/// The one line that is not a log line.
fn line(done: &Output) -> String {
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("anabranch: ")).collect();
    assert_eq!(lines.len(), 1, "one line: {text}");
    lines[0].to_owned()
}

async fn refused(world: &World, arguments: &[&str], code: i32, words: &[&str]) {
    let done = world.anabranch(arguments).await;
    let line = line(&done);
    assert_eq!(done.status.code(), Some(code), "{line}");
    for word in words {
        assert!(line.contains(word), "{word} in {line}");
    }
    assert!(!line.contains("secret"), "a password shows: {line}");
}

async fn assert_nothing_made(world: &World) {
    let query = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{0}')
        + (SELECT count(*) FROM pg_publication WHERE pubname = '{0}')",
        world.name
    );
    assert_eq!(world.number(&query).await, 0, "a slot or a publication was made");
    // A broker forgets a topic a moment after it was deleted.
    let none = async || topics(&world.name).await.is_empty();
    world.wait_until("no topics are there", none).await;
}

#[tokio::test]
async fn a_malformed_configuration_is_refused() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let good = world.toml.clone();
    let cases = [
        (good.replace("[kafka]", "[kafka"), "line"),
        (good.replace("brokers", "broker"), "broker"),
        (good.replace("secret", "${ANABRANCH_NO_SUCH_VARIABLE}"), "ANABRANCH_NO_SUCH_VARIABLE"),
        (good.replace("\"public.t\"", "\"t\""), "schema.table"),
        (good.replace("kind = \"redis\"", "kind = \"rediss\""), "kind"),
    ];
    for (toml, word) in cases {
        world.toml = toml;
        refused(&world, &["run"], 2, &[word]).await;
    }
    world.toml = good;
    assert_nothing_made(&world).await;
}

#[tokio::test]
async fn a_wrong_password_a_missing_table_and_a_keyless_table_are_refused() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let good = world.toml.clone();
    world.toml = good.replacen(":secret@", ":wrong@", 1);
    refused(&world, &["run"], 2, &["password", "[source] url"]).await;
    world.toml = good.replace("public.t\"", "public.missing\"");
    refused(&world, &["run", "source"], 2, &["public.missing"]).await;
    world.toml = good.replace("public.t\"", "public.keyless\"");
    refused(&world, &["run", "source"], 2, &["public.keyless", "REPLICA IDENTITY"]).await;
    world.toml = good;
    assert_nothing_made(&world).await;
    refused(&world, &["run", "sink", "nosuch"], 2, &["nosuch", "cache, lake, search"]).await;
}

#[tokio::test]
async fn check_names_what_is_unreachable_and_finds_the_rest_fine() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let done = world.anabranch(&["check"]).await;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{text}");
    world.toml = world.toml.replace("http://127.0.0.1:", "http://127.0.0.1:1");
    let done = world.anabranch(&["check"]).await;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(text.contains("BLOCKER"), "{text}");
}

/// What `check` says, whether it finds anything that blocks, and that it makes nothing.
async fn checked(world: &World, code: i32, words: &[&str]) {
    let done = world.anabranch(&["check"]).await;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains("secret"), "a password shows: {text}");
}

/// Requests need a database that can be reached, and a schema that the role may make there.
#[tokio::test]
async fn check_and_run_agree_about_the_control_schema() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    let (good, role) = (world.toml.clone(), format!("{}_role", world.name));
    let control = |url: String| format!("{good}\n[control]\nurl = \"{url}?sslmode=disable\"\n");
    world.toml = control(database_url("no_such_database"));
    checked(&world, 2, &["control", "no_such_database", "[control] url"]).await;
    refused(&world, &["run"], 2, &["no_such_database", "[control] url"]).await;
    world.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await;
    let url = database_url(&world.name).replacen("postgres:secret", &format!("{role}:secret"), 1);
    world.toml = control(url);
    let grant = format!("GRANT CREATE ON DATABASE {} TO {role};", world.name);
    checked(&world, 2, &["role", &role, &grant]).await;
    refused(&world, &["run"], 2, &["anabranch check", "[control] url"]).await;
    assert_nothing_made(&world).await;
    world.run(&grant).await;
    checked(&world, 0, &["`run` makes it"]).await;
    world.must(&["migrate"]).await;
    world.run(&format!("REVOKE CREATE ON DATABASE {} FROM {role}", world.name)).await;
    checked(&world, 0, &["up to date"]).await;
    // What is there already needs no right to create.
    world.must(&["migrate"]).await;
    world.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// The configuration, the slot and the log are compared before a start, as a start does.
#[tokio::test]
async fn check_foresees_what_keeps_a_source_from_going_on() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.run("ALTER TABLE keyless ADD PRIMARY KEY (id); INSERT INTO t VALUES (1)").await;
    checked(&world, 0, &["nothing was written to it yet"]).await;
    world.start();
    world.wait_equal().await;
    checked(&world, 0, &["the slot is being read"]).await;
    world.stop().await;
    checked(&world, 0, &["and the slot fits to it"]).await;
    let good = world.toml.clone();
    let foreseen = async |world: &World, code, words: &[&str]| {
        checked(world, 2, words).await;
        refused(world, &["run", "source"], code, words).await;
    };
    let one = "tables = [\"public.t\"]";
    world.toml = good.replacen(one, "tables = [\"public.t\", \"public.keyless\"]", 1);
    world.run(&format!("ALTER PUBLICATION {} ADD TABLE keyless", world.name)).await;
    checked(&world, 0, &["public.keyless", "it is new to the log"]).await;
    world.toml = good.replacen(&format!("slot = \"{}\"", world.name), "slot = \"another\"", 1);
    foreseen(&world, 2, &["slot another", "set [source] slot back"]).await;
    world.toml = good.clone();
    world.run(&format!("SELECT pg_drop_replication_slot('{}')", world.name)).await;
    foreseen(&world, 3, &["the slot does not exist", "anabranch source accept"]).await;
}

/// A slot advanced or dropped by hand: named with what is lost, exit code 3.
#[tokio::test]
async fn a_slot_advanced_or_dropped_by_hand_is_lost_history() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.start();
    world.run("INSERT INTO t VALUES (1)").await;
    world.wait_equal().await;
    world.stop().await;
    world.run("INSERT INTO t VALUES (2)").await;
    let name = world.name.clone();
    let server = connect(&name).await;
    server
        .execute(
            "SELECT pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())",
            &[&name],
        )
        .await
        .unwrap();
    refused(&world, &["run", "source"], 3, &["slot", &name, "anabranch source accept"]).await;
    server.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&name]).await.unwrap();
    refused(&world, &["run", "source"], 3, &["slot", &name, "anabranch source accept"]).await;
    // The daemon parks the source and goes on with the sinks.
    world.start();
    world
        .wait_status("the source is parked", |report| {
            report.source.as_ref().is_some_and(|source| source.state.word() == "PARKED")
        })
        .await;
    world.stop().await;
}

/// Teardown is the way out: it removes everything, and a new start snapshots again.
#[tokio::test]
async fn teardown_removes_everything_and_a_new_start_begins_anew() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.t"]).await;
    world.run("INSERT INTO t VALUES (1), (2)").await;
    world.start();
    world.wait_equal().await;
    world.stop().await;
    let plan = world.must(&["teardown"]).await;
    assert!(plan.contains(&world.name) && plan.contains("--yes"), "{plan}");
    assert_eq!(
        world
            .number(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = current_database()"
            )
            .await,
        1
    );
    world.must(&["teardown", "--yes"]).await;
    assert_nothing_made(&world).await;
    assert_eq!(
        world.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'anabranch'").await,
        0
    );
    // The stores still follow the old log, and say so instead of mixing two.
    world.start();
    world
        .wait_status("the stores are parked", |report| {
            report
                .sinks
                .values()
                .all(|sink| sink.tables.values().any(|table| table.state.word() == "PARKED"))
        })
        .await;
    world.stop().await;
}
