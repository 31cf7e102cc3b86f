//! The same values read in text and in binary format: the same bytes, whatever they are.

use anabranch_core::{Change, ErrorKind, Event, Source};
use anabranch_postgres::{BinaryFormat, Misfit, PostgresConfig, PostgresSource};

use crate::support::{Database, Follower, Replica};

/// A column for each type that is read in binary, and values at its edges.
const EDGES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647", "0"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    ("oid", &["0", "4294967295"]),
    ("xid", &["4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_lsn", &["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"]),
    ("float4", &["0.1", "-0", "NaN", "Infinity", "1e-45", "3.4028235e+38"]),
    ("float8", &["0.1", "-0", "NaN", "-Infinity", "5e-324", "1e+308", "1e23"]),
    (
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "0.000",
            "1e-20",
            "1.10",
            "-1e40",
            "1e-16383",
            "123456789012345678901234567890123456789012345678901234567890",
            "10000",
            "9999.00010000",
        ],
    ),
    ("numeric(20,5)", &["0", "-1.10", "123456789012345.12345", "0.00001", "NaN"]),
    ("numeric(38,0)", &["99999999999999999999999999999999999999", "-1"]),
    (
        "numeric(76,10)",
        &[
            "999999999999999999999999999999999999999999999999999999999999999999.9999999999",
            "-0.0000000001",
            "12345678901234567890123456789012345678901",
        ],
    ),
    ("money", &["-92233720368547758.08", "92233720368547758.07", "0", "1234567.89"]),
    ("text", &["", "é☃🦀", "a\"b\\c,{}()\n\t"]),
    ("varchar(20)", &["v"]),
    ("char(5)", &["ab"]),
    ("name", &["pg_type"]),
    ("xml", &["<a>1</a>", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><é/>"]),
    ("mood", &["sad", "o,k"]),
    ("bytea", &["\\x00ff27", "\\x"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("date", &["0001-01-01 BC", "4713-01-01 BC", "5874897-12-31", "infinity", "-infinity"]),
    ("time", &["00:00:00", "24:00:00", "04:05:06.789"]),
    ("timetz", &["00:00:00-15:59:59", "24:00:00+00", "04:05:06.789+05:45", "23:59:59.999999-07"]),
    (
        "timestamp",
        &[
            "4713-01-01 00:00:00 BC",
            "infinity",
            "-infinity",
            "1969-12-31 23:59:59.999999",
            "294247-01-10 04:00:54.775806",
            "294276-12-31 23:59:59.999999",
        ],
    ),
    ("timestamptz", &["10000-01-01 00:00:00+00", "-infinity", "0044-03-15 12:00:00+00 BC"]),
    (
        "interval",
        &[
            "1 year 2 mons -3 days +04:05:06.789",
            "-178000000 years",
            "0",
            "-1 mon",
            "-00:00:00.000001",
            "2147483647:59:59.999999",
            "-2147483647:59:59.999999",
        ],
    ),
    ("json", &["{\"a\":1, \"a\":2 ,\"n\":9007199254740993}", "null", "\"\\u0000\""]),
    ("jsonb", &["{\"x\": 1.10, \"a\": [1, null]}", "null", "1e400"]),
    (
        "inet",
        &[
            "10.1.2.3/24",
            "10.1.2.3",
            "::1",
            "::",
            "::1.2.3.4",
            "::ffff:1.2.3.4/120",
            "2001:db8::1:0:0:1/64",
            "1::",
            "0:0:1::",
        ],
    ),
    ("cidr", &["10.1.2.0/24", "10.1.2.3/32", "2001:db8::/32", "::1/128"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:ff:fe:01:02:03"]),
    ("bit(3)", &["101"]),
    ("varbit", &["", "1", "0000000011111111101"]),
    ("citext", &["MiXeD"]),
    ("hstore", &["\"a\"=>\"1\", \"b\"=>NULL, \"\"=>\"NULL\", \"q\\\"\"=>\"x=>y\"", ""]),
    ("price", &["12.5", "NaN"]),
    ("pair", &["(1,\"a,b\")", "(,)", "(1,\"\")", "(2,\"a\"\"b\\\\c\")"]),
    ("nest", &["(\"(1,\"\"a,b\"\")\",\"{1,2}\",\"[1,5)\")", "(,,)"]),
    ("int[]", &["{1,NULL,3}", "{}", "{{1,2},{3,NULL}}", "[0:1]={1,2}", "{{{1}}}"]),
    ("text[]", &["{\"a,b\",\"NULL\",NULL,\"q\\\"\",\"\",\"{x}\"}"]),
    ("numeric(6,2)[]", &["{1.5,-2,NaN}"]),
    ("mood[]", &["{\"o,k\",sad}"]),
    ("pair[]", &["{\"(1,\\\"a,b\\\")\",NULL}"]),
    ("price[]", &["{1.5}"]),
    ("interval[]", &["{1 day,PT1S}"]),
    ("int4range", &["[1,5)", "empty", "(,5)", "[1,)", "(,)"]),
    ("numrange", &["[1.10,NaN]", "(-5,5)"]),
    ("tsrange", &["[2026-01-01,infinity)", "[2026-01-01 10:00:00.5,)", "(,294276-12-31)"]),
    ("daterange", &["[0044-03-15 BC,)"]),
    ("texts", &["[\"\\\"\",\"a,)\"]"]),
    ("int4multirange", &["{[1,3),[5,)}", "{}"]),
    ("int4range[]", &["{\"[1,2)\",NULL,empty}"]),
];

const TYPES: &str = "
    create extension hstore; create extension citext;
    create type mood as enum ('sad', 'o,k'); create domain price as numeric(8,2);
    create type pair as (a int, b text);
    create type nest as (p pair, ints int[], r int4range);
    create type texts as range (subtype = text);";

/// The table `v` of all types, and SQL that fills a row for each edge.
fn schema() -> (String, String) {
    let columns: Vec<String> =
        EDGES.iter().enumerate().map(|(place, (kind, _))| format!("c{place} {kind}")).collect();
    let rows = EDGES.iter().map(|(_, values)| values.len()).max().unwrap();
    let row = |row: usize| {
        let value = |(kind, values): &(&str, &[&str])| match values.get(row) {
            Some(value) => format!("'{}'::{kind}", value.replace('\'', "''")),
            None => "null".to_owned(),
        };
        format!("({row}, {})", EDGES.iter().map(value).collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    let table = format!("create table v (id int primary key, {})", columns.join(", "));
    (format!("{TYPES} {table}"), format!("insert into v values {}", rows.join(", ")))
}

/// A source of `database` in one format, with a slot of its own.
fn config(database: &Database, binary: BinaryFormat, suffix: &str) -> PostgresConfig {
    PostgresConfig { binary, ..database.other_config(suffix) }
}

async fn follow(database: &Database, config: PostgresConfig) -> Follower {
    let mut source = PostgresSource::open(config).await.unwrap();
    source.seek(None).await.unwrap();
    let mut follower = Follower::of(source, Replica::default());
    follower.catch_up(database).await;
    follower
}

/// Key, old and new row of each change.
fn rows(events: &[Event]) -> Vec<[Vec<u8>; 3]> {
    let images = |event: &Event| match &event.change {
        Change::Row { key, before, after, .. } => Some([
            key.to_vec(),
            before.as_ref().map(|row| row.to_vec()).unwrap_or_default(),
            after.as_ref().map(|row| row.to_vec()).unwrap_or_default(),
        ]),
        Change::Truncate | Change::Sweep => None,
    };
    events.iter().filter_map(images).collect()
}

async fn is_binary(database: &Database, slot: &str) -> bool {
    let asked = |condition: &str| {
        format!(
            "select query like '{condition}' from pg_stat_activity a
             join pg_replication_slots s on s.active_pid = a.pid where s.slot_name = '{slot}'"
        )
    };
    // The copy may have been all that there was to catch up with.
    database.wait_for(&asked("START\\_REPLICATION%")).await;
    database.text(&asked("%binary ''true''%")).await == "t"
}

#[tokio::test]
async fn both_formats_of_every_edge_are_the_same_bytes() {
    let (create, insert) = schema();
    let database = Database::new(&format!("{create}; {insert}"), &["public.v"]).await;
    database.run("alter table v replica identity full").await;
    let slots = [(BinaryFormat::Always, "b"), (BinaryFormat::Never, "t")];
    let mut followers = Vec::new();
    for (format, suffix) in slots {
        let config = config(&database, format, suffix);
        let slot = config.slot.clone();
        followers.push(follow(&database, config).await);
        assert_eq!(is_binary(&database, &slot).await, format == BinaryFormat::Always);
    }
    database.run(&format!("update v set id = id + 1000; {insert}; delete from v")).await;
    for follower in &mut followers {
        follower.catch_up(&database).await;
    }
    let [binary, text] = [&followers[0], &followers[1]].map(|f| rows(&f.replica.events));
    let count = text.len();
    assert!(count > 50, "{count} changes");
    assert_eq!(binary.len(), count);
    for (binary, text) in binary.iter().zip(&text) {
        assert_eq!(binary, text);
    }
    for follower in &followers {
        let stats = follower.source.stats();
        let changed = |misfit| stats.changed_values(misfit);
        assert!(changed(Misfit::Number) > 0 && changed(Misfit::Array) > 0, "nothing is silent");
        assert!(changed(Misfit::Timestamp) > 0 && changed(Misfit::Infinity) == 0);
    }
    drop(followers);
    database.drop().await;
}

/// Random values, made by the server.
#[tokio::test]
async fn both_formats_of_random_values_are_the_same_bytes() {
    let create = "create table v (id serial primary key, f4 float4, f8 float8, n numeric,
        nn numeric(38,9), w numeric(70,20), d date, t time, ts timestamp, tz timestamptz, iv interval,
        ip inet, tt timetz, b bytea, bits varbit, m money, a float8[], r numrange, c char(9))";
    let insert = "insert into v (f4, f8, n, nn, w, d, t, ts, tz, iv, ip, tt, b, bits, m, a, r, c)
        select x, x * 10 ^ (random() * 300), trim_scale((x::numeric * 10 ^ p)::numeric),
          round((x * 1e9)::numeric, p::int % 10), (x::numeric * 10 ^ (p % 40)),
          date '0001-01-01' + (random() * 3000000)::int, time '00:00' + random() * interval '1 day',
          timestamp '4000-01-01 BC' + random() * interval '9000 years',
          timestamptz '0001-01-01 BC' + random() * interval '9000 years',
          make_interval(months => (x * 1000)::int, days => (random() * 99)::int, secs => x * 1e6),
          (case when p % 2 = 0 then '10.0.0.0'::inet else '2001:db8::'::inet end)
            + (random() * 1e9)::int8, (time '00:00' + random() * interval '1 day')::timetz
              at time zone make_interval(mins => (x * 700)::int),
          decode(md5(x::text), 'hex'), (p * 1234567)::int::bit(27)::varbit, (x * 1e6)::numeric::money,
          array[x, null, random()], numrange(least(x, 0)::numeric, 1e3), left(md5(x::text), 7)
        from (select random() * 2 - 1 as x, g % 60 as p from generate_series(1, 500) g) g";
    let database = Database::new(create, &["public.v"]).await;
    let mut binary = follow(&database, config(&database, BinaryFormat::Auto, "b")).await;
    let mut text = follow(&database, config(&database, BinaryFormat::Never, "t")).await;
    database.run(insert).await;
    binary.catch_up(&database).await;
    text.catch_up(&database).await;
    let [binary_rows, text_rows] = [&binary, &text].map(|f| rows(&f.replica.events));
    assert_eq!(text_rows.len(), 500);
    for (binary, text) in binary_rows.iter().zip(&text_rows) {
        assert_eq!(binary, text);
    }
    // The snapshot has them in either.
    let newest = |follower: &Follower| follower.replica.present().into_values().collect::<Vec<_>>();
    for (format, slot) in [(BinaryFormat::Always, "sb"), (BinaryFormat::Never, "st")] {
        let copied = follow(&database, config(&database, format, slot)).await;
        assert_eq!(newest(&copied), newest(&binary), "{format:?}");
    }
    drop((binary, text));
    database.drop().await;
}

/// A type that cannot be read in binary appears while the stream is in binary: it goes on in text.
#[tokio::test]
async fn a_type_without_a_binary_form_turns_the_stream_to_text() {
    let create = "create table v (id int primary key, at timestamp);
                  create table other (id int primary key, acl aclitem[])";
    let database = Database::new(create, &["public.v"]).await;
    let mut config = config(&database, BinaryFormat::Auto, "b");
    let slot = config.slot.clone();
    config.tables.push("public.v".to_owned());
    let mut follower = follow(&database, config).await;
    assert!(is_binary(&database, &slot).await);
    database.run("insert into v values (1, '2026-01-01')").await;
    database.run("alter table v add words tsvector; insert into v values (2, null, 'a b')").await;
    database.run("update v set words = 'c' where id = 1").await;
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.report().contains("public.v has a column"), "{error:?}");
    let cursor = follower.replica.cursor.clone();
    follower.source.seek(cursor).await.unwrap();
    follower.catch_up(&database).await;
    assert!(!is_binary(&database, &slot).await);
    assert_eq!(follower.replica.letters(), "ccu", "each once");
    drop(follower);
    database.drop().await;
}

/// The stream sends every table of the publication, ours or not. The daemon makes another source for each
/// attempt, which must not fail in the same way.
#[tokio::test]
async fn another_source_does_not_try_the_format_that_failed() {
    let create = "create table v (id int primary key, at timestamp);
                  create table other (id int primary key, acl aclitem[])";
    let database = Database::new(create, &["public.v"]).await;
    let config = config(&database, BinaryFormat::Auto, "b");
    let mut follower = follow(&database, config.clone()).await;
    assert!(is_binary(&database, &config.slot).await);
    database
        .run(
            "alter publication anabranch add table other;
             insert into other values (1, array[makeaclitem(10, 10, 'SELECT', false)]);
             insert into v values (1, '2026-01-01')",
        )
        .await;
    let error = follower.failure().await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let stats = follower.source.stats();
    let replica = follower.kill();
    let mut source = PostgresSource::open_with(config.clone(), stats).await.unwrap();
    source.know(replica.tables.values().cloned());
    let cursor = replica.cursor.clone();
    let mut follower = Follower::of(source, replica);
    follower.source.seek(cursor).await.unwrap();
    follower.catch_up(&database).await;
    assert!(!is_binary(&database, &config.slot).await);
    assert_eq!(follower.replica.letters(), "c");
    drop(follower);
    database.drop().await;
}

/// Unchanged values are read again by a key that came in binary.
#[tokio::test]
async fn rows_are_found_again_by_binary_keys() {
    let keys = [
        ("int8", "-5"),
        ("numeric(20,5)", "-1.10"),
        ("numeric", "1.100"),
        ("text", "a'b\\c"),
        ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("bytea", "\\x00ff27"),
        ("date", "0044-03-15 BC"),
        ("timestamp", "0044-03-15 12:00:00.5 BC"),
        ("timestamptz", "10000-01-01 00:00:00+00"),
        ("time", "24:00:00"),
        ("timetz", "04:05:06.789+05:45"),
        ("float8", "1e-300"),
        ("inet", "10.1.2.3/24"),
        ("bool", "true"),
    ];
    let mut tables = Vec::new();
    let mut create = String::new();
    for (place, (kind, value)) in keys.iter().enumerate() {
        let value = value.replace('\'', "''");
        create.push_str(&format!(
            "create table k{place} (k {kind} primary key, n int, body text);
             alter table k{place} alter body set storage external;
             insert into k{place} values ('{value}', 1, repeat('x', 9000));"
        ));
        tables.push(format!("public.k{place}"));
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let database = Database::new(&create, &names).await;
    let mut follower = follow(&database, config(&database, BinaryFormat::Always, "b")).await;
    for place in 0..keys.len() {
        database.run(&format!("update k{place} set n = 2")).await;
    }
    follower.catch_up(&database).await;
    let updates = &follower.replica.events[keys.len()..];
    assert_eq!(updates.len(), keys.len());
    for (event, key) in updates.iter().zip(keys) {
        let Change::Row { after: Some(after), unchanged, .. } = &event.change else {
            panic!("{key:?} has no row")
        };
        assert!(unchanged.is_empty() && after.len() > 9000, "{key:?} was not found");
    }
    drop(follower);
    database.drop().await;
}
