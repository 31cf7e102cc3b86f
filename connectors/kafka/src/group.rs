//! A sink's consumer group, and this process's membership in it.
//!
//! ```text
//! Kafka ◀── poll ── thread ── Leases ──▶ Group::next() ─▶ Assigned(TopicSource) · Revoked
//!                     └─ commits, ends, new tables
//! ```
//!
//! One thread polls, always: a store that is slow or gone does not cost the membership, and a
//! rebalance is answered at once. It ends the runs of the topics whose partitions changed, and no
//! others.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use anabranch_core::{ErrorKind, Result};
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use tokio::sync::oneshot;

use crate::catalog::Catalog;
use crate::context::Trouble;
use crate::lease::{Leases, Told};
use crate::member::{Member, MemberConsumer};
use crate::source::{Limits, TopicSource};
use crate::stats::GroupStats;
use crate::{KafkaConfig, Names, error, reader, topics};

/// How long one poll waits: how soon a command to leave is noticed.
const POLL: Duration = Duration::from_millis(50);

/// Between two commits of offsets.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at where the partitions end, and whether there are new tables.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Between two looks at whether the log still is the same one, which offsets do not tell.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(30);

/// How long such a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a recorded topic may be unknown to a broker: the news of its creation is under way.
const MISSING_TIMEOUT: Duration = Duration::from_secs(30);

/// How long sources may keep the consumer after the end of their leases.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long leaving may take; after that the session runs out by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// A membership in the group of a sink. Dropping it leaves the group in the background.
pub struct Group {
    sink: String,
    generation: u32,
    limits: Limits,
    catalog: Arc<Catalog>,
    leases: Arc<Leases>,
    consumer: Arc<MemberConsumer>,
    leave: SyncSender<oneshot::Sender<()>>,
}

/// A change of what this process has to move.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few in the life of a membership")]
pub enum GroupEvent {
    /// Some partitions of a topic are ours: run this source into the store.
    Assigned(TopicSource),
    /// The topic's partitions have changed: end the run of its source. If some are still ours,
    /// they are assigned anew.
    Revoked {
        /// The topic.
        topic: String,
    },
}

impl Group {
    /// Joins the group of `sink` in this generation, from 1, for these tables of the log (as
    /// `schema.table`), or all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] while the source has not begun to write the log, or Kafka does
    /// not answer; [`ErrorKind::Config`] if the configuration does not fit the log.
    pub async fn join(
        kafka: &KafkaConfig,
        sink: &str,
        generation: u32,
        limits: Limits,
        tables: Option<Vec<String>>,
    ) -> Result<Self> {
        let config = kafka.clone();
        let catalog = Arc::new(crate::blocking(move || Catalog::read(&config, tables)).await?);
        let leases = Arc::new(Leases::default());
        let trouble = Trouble::default();
        let member = Member { leases: Arc::clone(&leases), trouble: trouble.clone() };
        let client = kafka.consumer(&Names::new(kafka).group(sink, generation));
        let consumer = MemberConsumer::from_config_and_context(&client, member)
            .map_err(|e| error::classify(format!("join the group of {sink}"), e, &trouble))?;
        let consumer = Arc::new(consumer);
        let (leave, asked_to_leave) = sync_channel(1);
        let poller = Poller {
            schemas: Names::new(kafka).schemas(),
            catalog: Arc::clone(&catalog),
            leases: Arc::clone(&leases),
            consumer: Arc::clone(&consumer),
            trouble,
            asked_to_leave,
            subscribed: Vec::new(),
            missing_since: None,
            look_at: Instant::now(),
            identify_at: Instant::now() + IDENTITY_INTERVAL,
            commit_at: Instant::now(),
        };
        std::thread::Builder::new()
            .name(format!("group {sink}"))
            .spawn(move || poller.run())
            .map_err(|e| error::transient("start a thread", e.to_string()))?;
        let sink = sink.to_owned();
        Ok(Self { sink, generation, limits, catalog, leases, consumer, leave })
    }

    /// The next change of what is ours. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Membership is over: drop the group. Join again if the error is transient.
    pub async fn next(&mut self) -> Result<GroupEvent> {
        loop {
            let changed = self.leases.changed.notified();
            if let Some(error) = self.leases.take_failure() {
                return Err(error);
            }
            match self.leases.tell() {
                Some(Told::Revoked(topic)) => return Ok(GroupEvent::Revoked { topic }),
                Some(Told::Assigned(lease)) => {
                    let Some(record) = self.catalog.newest(&lease.topic) else {
                        let action = format!("read topic {}", lease.topic);
                        return Err(error::bug(action, "it is assigned and not known"));
                    };
                    let source = TopicSource::new(
                        (self.sink.clone(), self.generation, self.limits),
                        (lease, record),
                        (Arc::clone(&self.catalog), Arc::clone(&self.consumer)),
                    );
                    return Ok(GroupEvent::Assigned(source));
                }
                None => changed.await,
            }
        }
    }

    /// How far the sink is, readable at any time.
    #[must_use]
    pub fn stats(&self) -> Arc<GroupStats> {
        Arc::clone(&self.leases.stats)
    }

    /// Ends the membership now, so that Kafka's tools can reset the group's offsets. What was
    /// confirmed is committed first. End the runs of its sources before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Transient`] if Kafka does not answer: the session then runs out by itself.
    pub async fn leave(self) -> Result<()> {
        let (left, done) = oneshot::channel();
        let Self { leave, sink, consumer, .. } = self;
        drop(consumer);
        // A thread that is gone has left.
        if leave.try_send(left).is_err() {
            return Ok(());
        }
        match tokio::time::timeout(LEAVE_TIMEOUT, done).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let action = format!("leave the group of {sink}");
                Err(error::transient(action, "Kafka does not answer"))
            }
        }
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("sink", &self.sink).finish_non_exhaustive()
    }
}

/// The thread of a member.
struct Poller {
    schemas: String,
    catalog: Arc<Catalog>,
    leases: Arc<Leases>,
    consumer: Arc<MemberConsumer>,
    trouble: Trouble,
    asked_to_leave: Receiver<oneshot::Sender<()>>,
    subscribed: Vec<String>,
    missing_since: Option<Instant>,
    look_at: Instant,
    identify_at: Instant,
    commit_at: Instant,
}

impl Poller {
    fn run(mut self) {
        let left = loop {
            match self.asked_to_leave.try_recv() {
                Ok(left) => break Some(left),
                Err(TryRecvError::Disconnected) => break None,
                Err(TryRecvError::Empty) => {}
            }
            if let Err(error) = self.turn() {
                self.leases.fail(error);
                break None;
            }
        };
        self.close();
        if let Some(left) = left {
            // Nobody waits any more if it took too long.
            left.send(()).unwrap_or_default();
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.poll()?;
        if self.commit_at <= Instant::now() {
            self.consumer.context().flush(&self.consumer);
            self.commit_at = Instant::now() + COMMIT_INTERVAL;
        }
        if self.look_at <= Instant::now() {
            self.look()?;
            self.look_at = Instant::now() + LOOK_INTERVAL;
        }
        Ok(())
    }

    fn poll(&self) -> Result<()> {
        match self.consumer.poll(POLL) {
            None => Ok(()),
            // Its source reads from a queue of its own, unless the partition was started after
            // the queue was split off.
            Some(Ok(record)) => {
                tracing::debug!(topic = record.topic(), "a record came past its queue");
                self.leases.renew(record.topic());
                Ok(())
            }
            Some(Err(e)) if error::is_partition_end(&e) => Ok(()),
            Some(Err(e)) => {
                let fatal = matches!(e, KafkaError::MessageConsumptionFatal(_));
                if fatal || error::is_config(&e) {
                    return Err(error::classify("read from Kafka", e, &self.trouble));
                }
                tracing::debug!(error = %e, "still reading");
                Ok(())
            }
        }
    }

    /// Looks at where the partitions end, and whether there are new tables.
    fn look(&mut self) -> Result<()> {
        let mut units: Vec<(String, i32)> = vec![(self.schemas.clone(), 0)];
        for lease in self.leases.live() {
            units.extend(lease.units.keys().map(|partition| (lease.topic.clone(), *partition)));
        }
        let wanted = units.iter().map(|(topic, partition)| (topic.as_str(), *partition));
        let ends = match reader::offsets(&*self.consumer, wanted, Offset::End, LOOK_TIMEOUT) {
            Ok(ends) => ends,
            Err(e) if error::is_config(&e) || self.trouble.last().is_some() => {
                return Err(error::classify("look at the ends of the log", e, &self.trouble));
            }
            Err(e) => {
                tracing::debug!(error = %e, "the ends of the log are not known");
                return if error::is_leaderless(&e) { self.verify().map(drop) } else { Ok(()) };
            }
        };
        let is_news = ends.first().is_some_and(|end| *end != self.catalog.end());
        let ends = units.into_iter().zip(ends).map(|((topic, unit), end)| (topic, unit, end));
        self.leases.stats.ends(ends);
        if is_news || self.identify_at <= Instant::now() {
            self.identify_at = Instant::now() + IDENTITY_INTERVAL;
            match self.catalog.refresh() {
                Err(e) if e.kind() != ErrorKind::Transient => return Err(e),
                Err(e) => tracing::debug!(error = e.report(), "tables not read, again later"),
                Ok(()) => self.catalog.check_same()?,
            }
        }
        self.subscribe()
    }

    /// Subscribes to the topics of all tables, once they are as they were recorded.
    fn subscribe(&mut self) -> Result<()> {
        let records = self.catalog.all();
        let topics: Vec<&str> = records.iter().map(|record| record.topic.as_str()).collect();
        if topics == self.subscribed {
            return Ok(());
        }
        if !self.verify()? {
            return Ok(());
        }
        self.consumer
            .subscribe(&topics)
            .map_err(|e| error::classify("subscribe to the topics of the log", e, &self.trouble))?;
        self.subscribed = topics.into_iter().map(str::to_owned).collect();
        Ok(())
    }

    /// Whether all topics are there, as they were recorded. One that is missing for long is lost.
    fn verify(&mut self) -> Result<bool> {
        for record in self.catalog.all() {
            match reader::partitions(&*self.consumer, &record.topic, &self.trouble)? {
                None => {
                    let since = *self.missing_since.get_or_insert_with(Instant::now);
                    let late = since.elapsed() > MISSING_TIMEOUT;
                    return if late { Err(topics::missing(&record.topic)) } else { Ok(false) };
                }
                Some(found) if found != record.partitions => {
                    return Err(topics::wrong_count(&record.topic, record.partitions, found));
                }
                Some(_) => {}
            }
        }
        self.missing_since = None;
        Ok(true)
    }

    /// Commits what was confirmed and leaves the group.
    fn close(self) {
        self.consumer.context().flush(&self.consumer);
        self.leases.end_all();
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        while Arc::strong_count(&self.consumer) > 1 && Instant::now() < deadline {
            drop(self.consumer.poll(POLL));
        }
        let consumer = match Arc::try_unwrap(self.consumer) {
            // Dropping the last one leaves the group.
            Ok(consumer) => return drop(consumer),
            Err(consumer) => consumer,
        };
        if let Err(e) = consumer.close_queue() {
            tracing::debug!(error = %e, "not a member any more");
            return;
        }
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while !consumer.closed() && Instant::now() < deadline {
            // What comes now is the revocation, which the poll answers.
            drop(consumer.poll(POLL));
        }
    }
}
