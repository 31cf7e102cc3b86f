//! One sink: a member of its consumer group, and a loop for each topic it is assigned.

use std::collections::HashMap;

use anabranch_core::{Error, ErrorKind, Result};
use anabranch_kafka::{Group, GroupEvent, TopicSource};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::keep::Attempt;
use super::{Context, Requests, asked, keep};
use crate::config::{SinkConfig, StoreConfig};
use crate::pipeline::Report;
use crate::status::{Part, State};
use crate::worker;

/// There is one generation until reprocessing exists.
const GENERATION: u32 = 1;

/// Keeps a sink in its group until the process stops.
pub(super) async fn keep_sink(context: Context, name: String) -> Result<()> {
    let config = context.config.sink(&name)?.clone();
    let stop = context.stop.clone();
    let part = Part::Sink(name.clone());
    let attempt = SinkAttempt { context: &context, name: &name, config: &config };
    keep::keep(&context, part, &name, &stop, attempt).await
}

struct SinkAttempt<'a> {
    context: &'a Context,
    name: &'a str,
    config: &'a SinkConfig,
}

impl Attempt for SinkAttempt<'_> {
    async fn run(&mut self, stop: &CancellationToken, report: Report<'_>) -> Result<()> {
        while !stop.is_cancelled() {
            paused(self.context, self.name).await;
            if !stop.is_cancelled() {
                member(self.context, self.name, self.config, report).await?;
            }
        }
        Ok(())
    }
}

struct TableAttempt {
    store: StoreConfig,
    source: TopicSource,
}

impl Attempt for TableAttempt {
    async fn run(&mut self, stop: &CancellationToken, report: Report<'_>) -> Result<()> {
        worker::run_table(&self.store, &mut self.source, stop, report).await
    }
}

/// Waits for as long as the sink is to stand still, or nobody knows whether it is: its store may
/// be in somebody's hands.
async fn paused(context: &Context, name: &str) {
    let may_go = |all: &Option<Requests>| all.as_ref().is_some_and(|all| !asked(all, name).paused);
    if may_go(&context.requests.borrow()) {
        return;
    }
    if context.request(name).paused {
        context.status.set(&Part::Sink(name.to_owned()), State::Paused);
        tracing::info!(part = name, "paused");
    } else {
        tracing::warn!(
            part = name,
            "waiting for the control schema, which says whether it is paused"
        );
    }
    let mut requests = context.requests.clone();
    let going = requests.wait_for(may_go);
    tokio::select! {
        biased;
        () = context.stop.cancelled() => {}
        going = going => drop(going),
    }
}

/// Is a member of the group until the sink is paused, the process stops or something fails.
async fn member(
    context: &Context,
    name: &str,
    config: &SinkConfig,
    report: Report<'_>,
) -> Result<()> {
    let limits = worker::limits(&config.store);
    let joining =
        Group::join(&context.config.kafka, name, GENERATION, limits, config.tables.clone());
    let mut group = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Ok(()),
        group = joining => group?,
    };
    context.status.set_group(name, Some(group.stats()));
    report(None);
    let mut runs = Runs { context, name, config, tasks: JoinSet::new(), running: HashMap::new() };
    let mut requests = context.requests.clone();
    let ended = loop {
        let pausing = async {
            drop(
                requests
                    .wait_for(|all| all.as_ref().is_some_and(|all| asked(all, name).paused))
                    .await,
            );
        };
        // Stopping and pausing before new work.
        tokio::select! {
            biased;
            () = context.stop.cancelled() => break Ok(()),
            () = pausing => break Ok(()),
            Some(done) = runs.tasks.join_next() => match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(error),
                Err(panicked) => {
                    break Err(Error::new(ErrorKind::Bug, "go on after a panic").with_source(panicked));
                }
            },
            event = group.next() => match event {
                Ok(GroupEvent::Assigned(source)) => runs.start(source),
                Ok(GroupEvent::Revoked { topic }) => runs.end(&topic).await,
                Err(error) => break Err(error),
            },
        }
    };
    runs.end_all().await;
    context.status.set_group(name, None);
    let left = group.leave().await;
    ended.and(left)
}

/// The loops of a sink, one for each topic.
struct Runs<'a> {
    context: &'a Context,
    name: &'a str,
    config: &'a SinkConfig,
    tasks: JoinSet<Result<()>>,
    running: HashMap<String, Run>,
}

/// A loop under way.
struct Run {
    stop: CancellationToken,
    /// Cancelled when it has come to its end.
    ended: CancellationToken,
}

impl Runs<'_> {
    fn start(&mut self, source: TopicSource) {
        let assignment = source.assignment();
        let topic = assignment.topic;
        tracing::info!(part = %format!("{}/{topic}", self.name), partitions = ?assignment.partitions, "assigned");
        let stop = self.context.stop.child_token();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        self.running.insert(topic.clone(), Run { stop: stop.clone(), ended });
        let (context, sink) = (self.context.clone(), self.name.to_owned());
        let attempt = TableAttempt { store: self.config.store.clone(), source };
        self.tasks.spawn(async move {
            let _ended = guard;
            let part = Part::Table { sink: sink.clone(), topic };
            keep::keep(&context, part, &sink, &stop, attempt).await
        });
    }

    /// Ends the loop of `topic` and waits for it, so that its next owner is alone.
    async fn end(&mut self, topic: &str) {
        let Some(run) = self.running.remove(topic) else { return };
        run.stop.cancel();
        run.ended.cancelled().await;
        self.context.status.forget_table(self.name, topic);
    }

    async fn end_all(&mut self) {
        let topics: Vec<_> = self.running.keys().cloned().collect();
        self.running.values().for_each(|run| run.stop.cancel());
        for topic in topics {
            self.end(&topic).await;
        }
    }
}
