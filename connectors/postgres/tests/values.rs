//! Every type, at its edges, from the snapshot and from the stream; `apache-avro` reads it back.

use anabranch_core::avro::schema::envelope_schema;
use anabranch_core::{Change, ErrorKind, Table};
use anabranch_postgres::{Policy, ValuePolicies};
use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum};

use crate::support::{Database, Follower, Replica};

const TYPES: &str = "
    create type mood as enum ('sad', 'ok'); create domain price as numeric(8,2);
    create type pair as (a int, b text);
    create table v (
      id int primary key, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric(20,5),
      free numeric, t text, c char(5), by bytea, u uuid, d date, tm time, ts timestamp,
      tz timestamptz, j json, jb jsonb, ai int[], at text[], an numeric(6,2)[], m mood, p price,
      iv interval, ip inet, pr pair, bi bit(3), am mood[], twice int generated always as (id * 2) stored)";

const ROWS: &[&str] = &[
    "(1, true, -32768, -9223372036854775808, 0.1, '-0', -1.10, 1e-20, 'é☃🦀', 'ab', '\\x00ff27',
      'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '0001-01-01 BC', '24:00:00',
      '4713-01-01 00:00:00 BC', '10000-01-01 00:00:00+00', '{\"a\":1, \"a\":2 ,\"n\":9007199254740993}',
      '{\"x\": 1.10}', '{1,NULL,3}', '{\"a,b\",\"NULL\",\"q\\\"\"}', '{1.5,-2}', 'ok', 12.5,
      '1 year 2 mons -3 days 04:05:06.789', '10.1.2.3/24', '(1,\"x y\")', '101', '{ok,sad}')",
    "(2, false, 0, 0, 'NaN', 5e-324, 123456789012345.12345, 'NaN', '', '', '', null,
      '5874897-12-31', '00:00:00', 'infinity', '-infinity', 'null', 'null', '{}', '{\"\"}', null,
      null, null, null, null, null, null, null)",
    "(3, null, null, null, 'Infinity', 'NaN', null, 'Infinity', null, null, null, null, 'infinity',
      null, '294247-01-10 04:00:54.775806', null, null, null, null, null, null, null, null, null,
      null, null, null, null)",
];

const COLUMNS: &str =
    "id, b, i2, i8, f4, f8, n, free, t, c, by, u, d, tm, ts, tz, j, jb, ai, at, an,
    m, p, iv, ip, pr, bi, am";

/// The Avro record of a row, by the schema that the log is written with.
fn read(table: &Table, row: &[u8]) -> Vec<(String, Value)> {
    let envelope: serde_json::Value =
        serde_json::from_str(&envelope_schema(table, "test.v")).unwrap();
    let record = envelope["fields"][0]["type"][1].clone();
    let schema = Schema::parse(&record).unwrap();
    let mut rest = row;
    let Value::Record(fields) = from_avro_datum(&schema, &mut rest, None).unwrap() else {
        panic!("not a record")
    };
    assert!(rest.is_empty());
    fields
}

fn rows(replica: &Replica) -> Vec<Vec<(String, Value)>> {
    let after = |event: &anabranch_core::Event| match &event.change {
        Change::Row { after: Some(after), .. } => Some(read(&event.table, after)),
        Change::Row { .. } | Change::Truncate | Change::Sweep => None,
    };
    replica.events.iter().filter_map(after).collect()
}

fn shown(row: &[(String, Value)], name: &str) -> String {
    let (_, value) = row.iter().find(|(field, _)| field == name).unwrap();
    let Value::Union(branch, inner) = value else { return format!("{value:?}") };
    if *branch == 0 { "null".to_owned() } else { format!("{inner:?}") }
}

#[tokio::test]
async fn every_type_survives() {
    let insert = format!("insert into v ({COLUMNS}) values {}", ROWS.join(", "));
    let database = Database::new(&format!("{TYPES}; {insert}"), &["public.v"]).await;
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    database.run("delete from v").await;
    database.run(&insert).await;
    follower.catch_up(&database).await;
    let rows = rows(&follower.replica);
    let text = |rows: &[Vec<(String, Value)>]| format!("{rows:?}");
    assert_eq!(text(&rows[..3]), text(&rows[3..]), "the snapshot and the stream agree");
    let expected = [
        ("id", "Int(1)"),
        ("b", "Boolean(true)"),
        ("i2", "Int(-32768)"),
        ("i8", "Long(-9223372036854775808)"),
        ("f4", "Float(0.1)"),
        ("f8", "Double(-0.0)"),
        ("free", "String(\"0.00000000000000000001\")"),
        ("t", "String(\"é☃🦀\")"),
        ("c", "String(\"ab   \")"),
        ("by", "Bytes([0, 255, 39])"),
        ("d", "Date(-719528)"),
        ("tm", "TimeMicros(86400000000)"),
        ("ts", "LocalTimestampMicros(-210863520000000000)"),
        ("tz", "TimestampMicros(253402300800000000)"),
        ("j", "String(\"{\\\"a\\\":1, \\\"a\\\":2 ,\\\"n\\\":9007199254740993}\")"),
        ("jb", "String(\"{\\\"x\\\": 1.10}\")"),
        ("ai", "Array([Union(1, Int(1)), Union(0, Null), Union(1, Int(3))])"),
        ("m", "String(\"ok\")"),
        (
            "iv",
            "Record([(\"months\", Int(14)), (\"days\", Int(-3)), (\"micros\", Long(14706789000))])",
        ),
        ("ip", "String(\"10.1.2.3/24\")"),
        ("pr", "Record([(\"a\", Union(1, Int(1))), (\"b\", Union(1, String(\"x y\")))])"),
        ("bi", "String(\"101\")"),
        ("am", "Array([Union(1, String(\"ok\")), Union(1, String(\"sad\"))])"),
    ];
    for (name, expected) in expected {
        assert_eq!(shown(&rows[0], name), expected, "{name}");
    }
    let expected = [
        ("f4", "Float(NaN)"),
        ("f8", "Double(5e-324)"),
        ("free", "String(\"NaN\")"),
        ("t", "String(\"\")"),
        ("by", "Bytes([])"),
        ("u", "null"),
        ("d", "Date(2145042905)"),
        ("ts", "LocalTimestampMicros(9223372036854775807)"),
        ("tz", "TimestampMicros(-9223372036854775808)"),
        ("j", "String(\"null\")"),
        ("ai", "Array([])"),
    ];
    for (name, expected) in expected {
        assert_eq!(shown(&rows[1], name), expected, "{name}");
    }
    assert_eq!(shown(&rows[2], "d"), "Date(2147483647)");
    assert_eq!(shown(&rows[2], "jb"), "null");
    assert!(rows[0].iter().all(|(name, _)| name != "twice"), "generated columns are left out");
    drop(follower);
    database.drop().await;
}

#[tokio::test]
async fn a_value_that_cannot_be_held_is_rejected_by_name_where_it_must_be() {
    let create = "create table v (id int primary key, n numeric(5,2), a int[], ts timestamp)";
    let cases = [
        ("n", "'NaN'"),
        ("a", "'{{1,2},{3,4}}'"),
        ("a", "'[0:1]={1,2}'"),
        ("ts", "'294276-12-31 23:59:59.999999'"),
    ];
    for (column, value) in cases {
        let mut database = Database::new(create, &["public.v"]).await;
        let reject = Policy::Reject;
        let values = ValuePolicies { numbers: reject, arrays: reject, ..ValuePolicies::default() };
        database.config.values = ValuePolicies { timestamps: reject, ..values };
        let mut follower = Follower::start(&database, Replica::default()).await;
        follower.catch_up(&database).await;
        database.run(&format!("insert into v (id, {column}) values (41, {value})")).await;
        let error = loop {
            if let Err(error) = follower.step().await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error:?}");
        let named = format!("column {column} of public.v with key (41)");
        assert!(error.report().contains(&named), "{error:?}");
        drop(follower);
        database.drop().await;
    }
}
