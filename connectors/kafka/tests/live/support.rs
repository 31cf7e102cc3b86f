//! A prefix of its own for each test, and a small stand-in for the PostgreSQL side.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::avro::write;
use anabranch_core::{
    Batch, CURSOR_FORMAT, Change, Column, ColumnType, Epoch, Event, LogBatch, Lsn, Op, Phase,
    Position, Rereads, RowOp, Sink as _, Source as _, SourceCursor, StoreCursor, Table,
    Transaction, Version,
};
use anabranch_kafka::{
    Group, GroupEvent, KafkaConfig, Limits, LogSink, Names, Registry, RegistryConfig, TopicSource,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A log of its own, deleted at the end.
pub(crate) struct Log {
    pub(crate) kafka: KafkaConfig,
    pub(crate) registry: RegistryConfig,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `eval \"$(compose/services up)\"` in the checkout first")
    })
}

impl Log {
    pub(crate) fn new() -> Self {
        let mut kafka = KafkaConfig::new(variable("ANABRANCH_TEST_KAFKA"));
        kafka.prefix = format!("test-{}", Uuid::new_v4().simple());
        kafka.partitions = 4;
        let url = variable("ANABRANCH_TEST_REGISTRY_URL");
        let registry = RegistryConfig { url, username: None, password: None };
        Self { kafka, registry }
    }

    pub(crate) fn names(&self) -> Names {
        Names::new(&self.kafka)
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.brokers);
        config
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    /// Every committed record of a topic, as any consumer sees them: by partition and offset.
    pub(crate) fn read(&self, topic: &str) -> Vec<Seen> {
        let mut config = self.client();
        config
            .set("group.id", format!("{}.oracle", self.kafka.prefix))
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let count = metadata.topics()[0].partitions().len() as i32;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..count {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let (mut seen, mut ended) = (Vec::new(), 0);
        let deadline = std::time::Instant::now() + PATIENCE;
        while ended < count {
            assert!(std::time::Instant::now() < deadline, "{topic} does not end");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => seen.push(Seen {
                    partition: record.partition(),
                    offset: record.offset(),
                    key: record.key().map(<[u8]>::to_vec),
                    value: record.payload().unwrap_or_default().to_vec(),
                    control: record.headers().map(|headers| {
                        String::from_utf8(headers.get(0).value.unwrap_or_default().to_vec())
                            .unwrap()
                    }),
                }),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => {}
            }
        }
        seen.sort_by_key(|seen| (seen.partition, seen.offset));
        seen
    }
}

/// A record as any consumer sees it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) control: Option<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let admin = self.admin();
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        let prefix = format!("{}.", self.kafka.prefix);
        let topics: Vec<&str> = metadata
            .topics()
            .iter()
            .map(rdkafka::metadata::MetadataTopic::name)
            .filter(|name| name.starts_with(&prefix))
            .collect();
        let registry = Registry::new(&self.registry).unwrap();
        let clean = async {
            let options = AdminOptions::new();
            if !topics.is_empty() {
                admin.delete_topics(&topics, &options).await.unwrap();
            }
            for topic in &topics {
                registry.delete(&format!("{topic}-key")).await.unwrap();
                registry.delete(&format!("{topic}-value")).await.unwrap();
            }
            // A member that was dropped a moment ago may still be there.
            drop(admin.delete_groups(&[&self.names().group("search", 1)], &options).await);
        };
        // A drop may be inside of a runtime, which must not be blocked on itself.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build().unwrap().block_on(clean);
            });
        });
    }
}

/// `public.<name> (id int4 primary key, note text)`.
pub(crate) fn table(name: &str) -> Arc<Table> {
    let column = |attnum: i16, name: &str, kind| Column {
        attnum,
        name: name.to_owned(),
        source_type: String::new(),
        kind,
    };
    let columns = vec![column(1, "id", ColumnType::Int32), column(2, "note", ColumnType::Text)];
    let (schema, name) = ("public".to_owned(), name.to_owned());
    Arc::new(Table { oid: 16_384, version: 1, schema, name, columns, key: vec![0] })
}

/// The same table with a column more.
pub(crate) fn wider(table: &Table) -> Arc<Table> {
    let mut table = table.clone();
    table.version += 1;
    table.columns.push(Column {
        attnum: 3,
        name: "extra".to_owned(),
        source_type: String::new(),
        kind: ColumnType::Int64,
    });
    Arc::new(table)
}

/// Makes the changes of one source, transaction after transaction.
pub(crate) struct Fake {
    pub(crate) table: Arc<Table>,
    pub(crate) log: Uuid,
    lsn: u64,
}

impl Fake {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table, log: Uuid::new_v4(), lsn: 0x0100_0000 }
    }

    /// Goes on with a log that somebody else began.
    pub(crate) fn after(table: Arc<Table>, position: &SourceCursor) -> Self {
        Self { table, log: position.log, lsn: position.confirm.0 }
    }

    /// The position record before the first change.
    pub(crate) fn start(&self) -> (LogBatch, SourceCursor) {
        (LogBatch { tables: vec![Arc::clone(&self.table)], ..LogBatch::default() }, self.cursor())
    }

    /// Where the source is now.
    pub(crate) fn cursor(&self) -> SourceCursor {
        SourceCursor {
            format: CURSOR_FORMAT,
            log: self.log,
            slot: "anabranch".to_owned(),
            epoch: Epoch(1),
            system_id: 7,
            timeline: 1,
            phase: Phase::Streaming,
            confirm: Lsn(self.lsn),
            seen: Lsn(0),
            split: None,
            rereads: Rereads::default(),
            fork: None,
            membership: None,
        }
    }

    /// One transaction: `Some(note)` upserts the id, `None` deletes it.
    pub(crate) fn transaction(&mut self, rows: &[(i32, Option<&str>)]) -> (LogBatch, SourceCursor) {
        self.lsn += 0x100;
        let commit = Lsn(self.lsn);
        self.lsn += 0x40;
        let events = rows.iter().enumerate().map(|(place, (id, note))| {
            let op = if note.is_some() { Op::Create } else { Op::Delete };
            self.event(commit, place as u64 + 1, 0, self.change(op, *id, *note))
        });
        (LogBatch { events: events.collect(), ..LogBatch::default() }, self.cursor())
    }

    /// One transaction of INSERT, TRUNCATE, INSERT.
    pub(crate) fn truncate(&mut self, before: &[i32], after: &[i32]) -> (LogBatch, SourceCursor) {
        self.lsn += 0x100;
        let commit = Lsn(self.lsn);
        self.lsn += 0x40;
        let mut changes: Vec<(u8, Change)> = Vec::new();
        changes.extend(before.iter().map(|id| (0, self.change(Op::Create, *id, Some("before")))));
        changes.push((anabranch_core::TRUNCATE_PARTS, Change::Truncate));
        changes.extend(after.iter().map(|id| {
            (anabranch_core::TRUNCATE_PARTS, self.change(Op::Create, *id, Some("after")))
        }));
        let events = changes
            .into_iter()
            .enumerate()
            .map(|(place, (part, change))| self.event(commit, place as u64 + 1, part, change));
        (LogBatch { events: events.collect(), ..LogBatch::default() }, self.cursor())
    }

    fn event(&self, commit_lsn: Lsn, ordinal: u64, part: u8, change: Change) -> Event {
        let transaction = Transaction { xid: 5, commit_lsn, commit_us: 1_700_000_000_000_000 };
        Event {
            table: Arc::clone(&self.table),
            position: Position { epoch: Epoch(1), commit_lsn, ordinal },
            part,
            transaction: Arc::new(transaction),
            change,
        }
    }

    fn change(&self, op: Op, id: i32, note: Option<&str>) -> Change {
        let mut key = Vec::new();
        write::int(&mut key, id);
        let image = |note: Option<&str>| {
            let mut row = key.clone();
            match note {
                Some(note) => {
                    write::value_branch(&mut row);
                    write::string(&mut row, note);
                }
                None => write::null_branch(&mut row),
            }
            for _ in 2..self.table.columns.len() {
                write::null_branch(&mut row);
            }
            row.into()
        };
        let (before, after) = match op {
            Op::Delete => (Some(image(None)), None),
            Op::Create | Op::Update | Op::Read => (None, Some(image(note))),
        };
        Change::Row { op, key: key.clone().into(), before, after, unchanged: Vec::new() }
    }
}

/// A store in memory: what a sink would hold, and its cursor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// By key bytes: version and partition of each row that is there.
    pub(crate) rows: std::collections::BTreeMap<Vec<u8>, (Version, i32)>,
    pub(crate) cursor: Option<StoreCursor>,
    /// Upserts applied so far.
    pub(crate) upserts: usize,
    pub(crate) batches: usize,
}

impl Store {
    pub(crate) fn apply(&mut self, batch: &Batch, upto: &StoreCursor) {
        assert_eq!(batch.rows.num_rows(), batch.meta.len());
        for place in batch.last_of_each_key() {
            let meta = &batch.meta[place];
            match meta.op {
                RowOp::Upsert => {
                    self.upserts += 1;
                    self.rows.insert(meta.key.to_vec(), (meta.version, meta.partition));
                }
                RowOp::Delete => drop(self.rows.remove(meta.key.as_ref())),
            }
        }
        for below in &batch.delete_below {
            self.rows.retain(|_, (version, partition)| {
                *partition != below.partition || *version >= below.version
            });
        }
        self.batches += 1;
        self.cursor = Some(upto.clone());
    }

    /// Runs a source into this store until every partition it owns is applied to `ends`.
    pub(crate) async fn run_until(
        &mut self,
        source: &mut TopicSource,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        while !done(self) {
            // Of each batch: how many there are is up to who writes, and how fast that is.
            let next = tokio::time::timeout(PATIENCE, source.next());
            let (batch, upto) = next.await.expect("no batch came").unwrap().expect("it ended");
            self.apply(&batch, &upto);
            source.confirm(upto).await.unwrap();
        }
    }

    /// The ids of the rows that are there.
    pub(crate) fn ids(&self) -> Vec<i32> {
        let mut ids: Vec<i32> = self.rows.keys().map(|key| id(key)).collect();
        ids.sort_unstable();
        ids
    }
}

/// The id in a key: a zigzag varint.
fn id(key: &[u8]) -> i32 {
    let raw = key.iter().rev().fold(0_u64, |id, byte| id << 7 | u64::from(byte & 0x7F));
    ((raw >> 1) as i64 ^ -((raw & 1) as i64)) as i32
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(std::time::Instant::now() < deadline, "{what}: not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next source of a group; its revocations before that are passed over.
pub(crate) async fn assigned(group: &mut Group) -> TopicSource {
    loop {
        let event = tokio::time::timeout(PATIENCE, group.next());
        match event.await.expect("nothing was assigned").unwrap() {
            GroupEvent::Assigned(source) => return source,
            GroupEvent::Revoked { .. } => {}
        }
    }
}

impl Log {
    /// A log with these changes of one table: its source, and the sink that writes it.
    pub(crate) async fn begun(&self) -> (Fake, LogSink) {
        let fake = Fake::new(table("orders"));
        let mut sink = LogSink::open(&self.kafka, &self.registry, "shop").unwrap();
        sink.cursor().await.unwrap();
        let (batch, upto) = fake.start();
        sink.apply(&batch, &upto).await.unwrap();
        (fake, sink)
    }

    pub(crate) async fn join(&self, limits: Limits) -> Group {
        Group::join(&self.kafka, "search", 1, limits, None).await.unwrap()
    }

    /// Sets the group's offsets, as Kafka's own tool does: without metadata, and only while the
    /// group has no member.
    pub(crate) fn reset(&self, topic: &str, offsets: &[(i32, i64)]) {
        let group = self.names().group("search", 1);
        let mut config = self.client();
        config.set("group.id", &group).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let members = consumer.fetch_group_list(Some(&group), PATIENCE).unwrap();
        for group in members.groups() {
            assert!(group.members().is_empty(), "the group is still active: {}", group.state());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
        }
        consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
    }

    /// Resets the group's offsets with Kafka's own tool, which refuses while there are members.
    pub(crate) fn reset_by_tool(&self, topic: &str, to: &str) {
        let done = std::process::Command::new(variable("ANABRANCH_TEST_KAFKA_TOOL"))
            .args(["consumer-groups", "--bootstrap-server", &self.kafka.brokers])
            .args(["--group", &self.names().group("search", 1), "--topic", topic])
            .args(["--reset-offsets", to, "--execute"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && told.contains(topic), "{told} {done:?}");
    }

    /// The group's committed offsets and their metadata.
    pub(crate) fn committed(&self, topic: &str) -> Vec<(i32, Offset, String)> {
        let mut config = self.client();
        config.set("group.id", self.names().group("search", 1));
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, self.kafka.partitions - 1);
        let committed = consumer.committed_offsets(list, PATIENCE).unwrap();
        let unit = |unit: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            (unit.partition(), unit.offset(), unit.metadata().to_owned())
        };
        committed.elements().iter().map(unit).collect()
    }
}
