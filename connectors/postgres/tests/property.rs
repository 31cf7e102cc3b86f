//! Any value of any type comes back equal, through the snapshot and the stream, in text and in
//! binary; `apache-avro` reads what is in the log, and the server says what it should be.

#![expect(clippy::future_not_send, reason = "proptest's strategies stay on one thread")]

mod kinds;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anabranch_core::avro::schema::envelope_schema;
use anabranch_core::{Change, Source};
use anabranch_postgres::{BinaryFormat, PostgresSource};
use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio_postgres::SimpleQueryMessage;

use crate::support::{Database, Follower, Replica};
use kinds::{PREPARATION, Type, expected, is_same, types};

/// How long rounds with new tables are begun.
const WALL_CLOCK: Duration = Duration::from_secs(10);
const COLUMNS_MAX: usize = 9;
/// Rows of a table: half of them are there before the snapshot.
const ROWS: usize = 12;

/// A table with columns `c_0` and so on.
struct Table {
    name: String,
    columns: Vec<Type>,
}

/// All types, dealt to tables at random.
fn tables(random: &mut StdRng) -> Vec<Table> {
    let mut types = types();
    types.shuffle(random);
    let mut tables = Vec::new();
    while !types.is_empty() {
        let count = random.random_range(1..=COLUMNS_MAX).min(types.len());
        let columns = types.split_off(types.len() - count);
        tables.push(Table { name: format!("t_{}", tables.len()), columns });
    }
    tables
}

impl Table {
    fn create(&self) -> String {
        let columns: Vec<String> = (self.columns.iter().enumerate())
            .map(|(place, column)| format!(", c_{place} {}", column.sql))
            .collect();
        format!("create table {} (id int primary key{});", self.name, columns.concat())
    }

    fn insert(&self, id: usize, runner: &mut TestRunner) -> String {
        let value = |column: &Type| {
            let value = proptest::option::weighted(0.85, column.literal.clone());
            let value = value.new_tree(runner).unwrap().current();
            value.map_or_else(|| ", null".to_owned(), |value| format!(", {value}"))
        };
        let values: Vec<String> = self.columns.iter().map(value).collect();
        format!("insert into {} values ({id}{});", self.name, values.concat())
    }

    /// What the server has, by id.
    async fn expected(&self, database: &Database) -> BTreeMap<i32, Vec<serde_json::Value>> {
        let columns: Vec<String> = (self.columns.iter().enumerate())
            .map(|(place, column)| expected(&column.kind, &format!("c_{place}")))
            .collect();
        let sql = format!("select id, json_build_array({}) from {}", columns.join(", "), self.name);
        let messages = database.client.simple_query(&sql).await.unwrap();
        let row = |message: &SimpleQueryMessage| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            let id = row.get(0).unwrap().parse().unwrap();
            Some((id, serde_json::from_str(row.get(1).unwrap()).unwrap()))
        };
        messages.iter().filter_map(row).collect()
    }

    /// What the log has, by id.
    fn actual(&self, replica: &Replica) -> BTreeMap<i32, Vec<Value>> {
        let mut rows = BTreeMap::new();
        for event in replica.events.iter().filter(|event| event.table.name == self.name) {
            let Change::Row { after: Some(after), .. } = &event.change else { panic!("{event:?}") };
            let envelope = envelope_schema(&event.table, "test.t");
            let envelope: serde_json::Value = serde_json::from_str(&envelope).unwrap();
            let schema = Schema::parse(&envelope["fields"][0]["type"][1]).unwrap();
            let mut rest = &after[..];
            let row = from_avro_datum(&schema, &mut rest, None).unwrap();
            let Value::Record(fields) = row else { panic!("not a record") };
            assert!(rest.is_empty());
            let mut values = fields.into_iter().map(|(_, value)| value);
            let Some(Value::Int(id)) = values.next() else { panic!("no id") };
            assert!(rows.insert(id, values.collect()).is_none(), "once");
        }
        rows
    }

    async fn check(&self, database: &Database, replica: &Replica, how: &str) {
        let (expected, actual) = (self.expected(database).await, self.actual(replica));
        assert_eq!((expected.len(), actual.len()), (ROWS, ROWS), "{how}");
        for (id, expected) in expected {
            let actual = &actual[&id];
            assert_eq!(expected.len(), actual.len(), "{how}");
            for ((column, expected), actual) in self.columns.iter().zip(&expected).zip(actual) {
                assert!(
                    is_same(&column.kind, expected, actual),
                    "{how}, row {id}: a {} is {expected} in the server and {actual:?} in the log",
                    column.sql
                );
            }
        }
    }
}

async fn follow(database: &Database, binary: BinaryFormat) -> Follower {
    let mut config = database.other_config(if binary == BinaryFormat::Never { "t" } else { "b" });
    config.binary = binary;
    let mut source = PostgresSource::open(config).await.unwrap();
    source.seek(None).await.unwrap();
    let mut follower = Follower::of(source, Replica::default());
    follower.catch_up(database).await;
    follower
}

async fn round(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tables = tables(&mut random);
    let create: String = tables.iter().map(Table::create).collect();
    let names: Vec<String> = tables.iter().map(|table| format!("public.{}", table.name)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let database = Database::new(&format!("{PREPARATION}; {create}"), &names).await;
    let mut inserts = async |ids: std::ops::Range<usize>| {
        for id in ids {
            for table in &tables {
                let insert = table.insert(id, &mut runner);
                let done = database.client.batch_execute(&insert).await;
                done.unwrap_or_else(|error| panic!("seed {seed}: {insert}: {error:?}"));
            }
        }
    };
    inserts(0..ROWS / 2).await;
    let mut text = follow(&database, BinaryFormat::Never).await;
    let mut binary = follow(&database, BinaryFormat::Always).await;
    inserts(ROWS / 2..ROWS).await;
    text.catch_up(&database).await;
    binary.catch_up(&database).await;
    for table in &tables {
        table.check(&database, &text.replica, &format!("seed {seed}, text")).await;
        table.check(&database, &binary.replica, &format!("seed {seed}, binary")).await;
    }
    drop((text, binary));
    database.drop().await;
}

/// Another seed each time; `ANABRANCH_TEST_SEED` is one that failed.
#[tokio::test(flavor = "multi_thread")]
async fn any_value_of_any_type_comes_back_equal() {
    let given = std::env::var("ANABRANCH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let began = Instant::now();
    let mut seed = given.unwrap_or_else(rand::random::<u64>);
    while began.elapsed() < WALL_CLOCK {
        round(seed).await;
        seed = seed.wrapping_add(1);
    }
}
