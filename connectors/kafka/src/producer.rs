//! The transactional producer: everything sent between `begin` and `commit` is in the log, or
//! nothing is.
//!
//! Sending copies a record into librdkafka's bounded queue and does not block; the calls that
//! wait for a broker run on a thread where blocking is allowed. After any failure a producer is
//! dropped, for whether its transaction was committed is unknown: only the log can tell, once
//! the next producer has fenced this one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch_core::{Error, ErrorKind, Result};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::context::{self, Trouble};
use crate::{KafkaConfig, Names, error};

/// How long the broker may take to make this the only producer: it first ends the transaction of
/// an earlier one.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a transaction may take to reach the brokers; they abort it after a minute.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(55);

/// How long to try to end a transaction that failed. The next producer ends it anyway.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at a queue that is full, or not yet empty.
const QUEUE_POLL: Duration = Duration::from_millis(1);

/// A record on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    /// `None` deletes the record of this key.
    pub(crate) value: Option<&'a [u8]>,
    /// The value of the header `anabranch`, which control records have.
    pub(crate) control: Option<&'static str>,
}

/// The one producer of a transactional id, once it is made.
pub(crate) struct Producer {
    /// `None` only while it is dropped.
    inner: Option<Arc<ThreadedProducer<Deliveries>>>,
}

/// What becomes of the records that were sent.
#[derive(Clone, Debug, Default)]
struct Deliveries {
    trouble: Trouble,
    /// The first record of the transaction that could not be delivered.
    failure: Arc<Mutex<Option<Failure>>>,
}

#[derive(Clone, Debug)]
struct Failure {
    error: KafkaError,
    record: String,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.note(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            let record = describe(record.topic(), record.partition(), record.key());
            let failure = Failure { error: error.clone(), record };
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
    }
}

impl Producer {
    /// Makes the only producer of the source: an earlier one is fenced, and its transaction ended.
    pub(crate) async fn open(config: &KafkaConfig) -> Result<Self> {
        let id = Names::new(config).transactional_id();
        let client = config.producer(&id);
        crate::blocking(move || {
            let action = || format!("become the producer {id}");
            let context = Deliveries::default();
            let trouble = context.trouble.clone();
            let inner: ThreadedProducer<Deliveries> =
                ThreadedProducer::from_config_and_context(&client, context)
                    .map_err(|e| error::classify(action(), e, &trouble))?;
            let producer = Self { inner: Some(Arc::new(inner)) };
            producer
                .inner()?
                .init_transactions(INIT_TIMEOUT)
                .map_err(|e| error::classify(action(), e, &trouble))?;
            Ok(producer)
        })
        .await
    }

    /// Begins a transaction.
    pub(crate) fn begin(&self) -> Result<()> {
        self.inner()?.begin_transaction().map_err(|e| self.classify("begin a Kafka transaction", e))
    }

    /// Puts a record into the queue; waits while it is full.
    pub(crate) async fn send(&self, record: Outgoing<'_>) -> Result<()> {
        loop {
            match self.inner()?.send(record.to_base()) {
                Ok(()) => return Ok(()),
                Err((e, _)) if error::is_queue_full(&e) => {
                    self.delivered()?;
                    tokio::time::sleep(QUEUE_POLL).await;
                }
                Err((e, _)) => {
                    let record = describe(record.topic, record.partition, record.key);
                    return Err(self.failed(Failure { error: e, record }));
                }
            }
        }
    }

    /// Makes what was sent since [`Producer::begin`] durable. Dropping the future leaves that open.
    pub(crate) async fn commit(self) -> Result<Self> {
        crate::blocking(move || {
            let deadline = Instant::now() + COMMIT_TIMEOUT;
            if let Err(error) = self.wait_until_sent(deadline) {
                self.abort();
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.inner()?
                .commit_transaction(left.max(ABORT_TIMEOUT))
                .map_err(|e| self.classify("commit a Kafka transaction", e))?;
            Ok(self)
        })
        .await
    }

    /// Waits until brokers have every record; rdkafka's own flush looks every 100 ms only.
    fn wait_until_sent(&self, deadline: Instant) -> Result<()> {
        while self.inner()?.in_flight_count() > 0 && Instant::now() < deadline {
            self.delivered()?;
            std::thread::sleep(QUEUE_POLL);
        }
        self.delivered()
    }

    /// Ends the transaction if that is still possible, so that readers need not wait for its
    /// time-out, and drops the producer.
    pub(crate) async fn abandon(self) {
        let ended = crate::blocking(move || {
            self.abort();
            Ok(())
        });
        ended.await.unwrap_or_default();
    }

    fn abort(&self) {
        let aborted = self.inner().map(|inner| inner.abort_transaction(ABORT_TIMEOUT));
        if let Ok(Err(error)) = aborted {
            tracing::debug!(%error, "the next producer will end the transaction");
        }
    }

    fn inner(&self) -> Result<&Arc<ThreadedProducer<Deliveries>>> {
        self.inner.as_ref().ok_or_else(|| error::bug("use the Kafka producer", "it was dropped"))
    }

    /// An error as soon as a record could not be delivered.
    fn delivered(&self) -> Result<()> {
        let failure = self.inner()?.client().context().failure();
        failure.map_or(Ok(()), |failure| Err(self.failed(failure)))
    }

    fn failed(&self, Failure { error, record }: Failure) -> Error {
        let classified = self.classify(format!("write {record}"), error);
        if classified.kind() == ErrorKind::Rejected {
            let mib = crate::RECORD_BYTES_MAX >> 20;
            return classified.with_help(format!("a row and its old image may take {mib} MiB"));
        }
        classified
    }

    fn classify(&self, action: impl Into<String>, error: KafkaError) -> Error {
        let client = self.inner.as_ref().map(|inner| inner.client());
        let trouble = client.map(|client| client.context().trouble.clone());
        // What follows a fatal error (records purged, a wrong state) hides the cause.
        let fatal = client.and_then(rdkafka::client::Client::fatal_error);
        let error = fatal.map_or(error, |(code, _)| KafkaError::Global(code));
        error::classify(action, error, &trouble.unwrap_or_default())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Its threads are waited for, which no asynchronous task should do.
        if let Some(inner) = self.inner.take() {
            std::thread::spawn(move || drop(inner));
        }
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Producer")
    }
}

impl Deliveries {
    fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<'a> Outgoing<'a> {
    fn to_base(self) -> BaseRecord<'a, [u8], [u8]> {
        use rdkafka::message::Header;
        let mut record = BaseRecord::to(self.topic).partition(self.partition);
        if let Some(value) = self.value {
            record = record.payload(value);
        }
        if let Some(key) = self.key {
            record = record.key(key);
        }
        match self.control {
            Some(value) => {
                let header = Header { key: crate::CONTROL_HEADER, value: Some(value) };
                record.headers(OwnedHeaders::new_with_capacity(1).insert(header))
            }
            None => record,
        }
    }
}

/// Names a record without showing what is in it.
fn describe(topic: &str, partition: i32, key: Option<&[u8]>) -> String {
    let key = key.map_or_else(|| "none".to_owned(), crate::hash);
    format!("a record to {topic}[{partition}], key hash {key}")
}
