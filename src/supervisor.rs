//! Keeps the parts running: the source, each sink, each of its tables.
//!
//! ```text
//! run ─┬─ control: what people ask, every second
//!      ├─ source: one loop, tried again
//!      ├─ guard:  how much WAL the slot keeps
//!      └─ sink:   a consumer group ─┬─ table: one loop, tried again
//!                                   └─ table: …
//! ```
//!
//! A part that fails for a while is tried again; one that cannot go on is parked, named in the
//! status, and tried again when told. The others never notice. Only a process that was asked to
//! run a single part ends with it.

mod keep;
mod sink;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};
use anabranch_postgres::SnapshotRequests;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::keep::Attempt;
use crate::config::Config;
use crate::control::{Control, Request};
use crate::pipeline::Report;
use crate::status::{Part, Status};
use crate::{admin, guard, worker};

/// How often the control schema is asked.
const POLL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Which parts a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// The source alone.
    Source,
    /// One sink alone.
    Sink(String),
}

/// What every part needs.
#[derive(Clone, Debug)]
struct Context {
    config: Arc<Config>,
    status: Arc<Status>,
    /// What people ask; `None` until the control schema was read for the first time.
    requests: watch::Receiver<Option<Requests>>,
    /// Which snapshots of single tables they ask for.
    snapshots: watch::Receiver<SnapshotRequests>,
    stop: CancellationToken,
    /// Whether the process was asked for one part, and ends with it.
    alone: bool,
}

impl Context {
    fn request(&self, name: &str) -> Request {
        self.requests.borrow().as_ref().map(|all| asked(all, name)).unwrap_or_default()
    }
}

/// What is asked of each part, by name.
type Requests = BTreeMap<String, Request>;

fn asked(all: &Requests, name: &str) -> Request {
    all.get(name).copied().unwrap_or_default()
}

/// Runs until `stop`, or until the one part that was asked for cannot go on.
///
/// # Errors
///
/// Bad configuration, found before anything is started or created; or what ended the one part.
pub async fn run(config: Config, which: Which, stop: CancellationToken) -> Result<()> {
    let names: Vec<String> = match &which {
        Which::All => config.sinks.keys().cloned().collect(),
        Which::Source => Vec::new(),
        Which::Sink(name) => config.sink(name).map(|_| vec![name.clone()])?,
    };
    let control = first_contact(&config).await?;
    let requests = match &control {
        Some(control) => control.requests().await.ok(),
        None => None,
    };
    let (sender, requests) = watch::channel(requests);
    let (snapshot_sender, snapshots) = watch::channel(SnapshotRequests::default());
    let context = Context {
        alone: which != Which::All,
        config: Arc::new(config),
        status: Arc::new(Status::default()),
        requests,
        snapshots,
        stop,
    };
    let listener = admin::bind(&context.config.admin).await;
    let listener = match listener {
        // Several `run sink` on one machine share a configuration: the first one serves.
        Err(error) if context.alone => {
            tracing::warn!("{}; this process goes on without HTTP", error.report());
            None
        }
        listener => Some(listener?),
    };
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, watch_control(context.clone(), control, (sender, snapshot_sender)));
    if let Some(listener) = listener {
        spawn(
            &mut tasks,
            admin::serve(listener, Arc::clone(&context.status), context.stop.clone()),
        );
    }
    if matches!(which, Which::All | Which::Source) {
        spawn(&mut tasks, keep_source(context.clone()));
        spawn(&mut tasks, keep_guard(context.clone()));
    }
    for name in names {
        spawn(&mut tasks, sink::keep_sink(context.clone(), name));
    }
    let ended = first_failure(&mut tasks, &context.stop).await;
    context.stop.cancel();
    while tasks.join_next().await.is_some() {}
    ended
}

/// The control schema at start: a wrong password or a missing right is said at once; a database
/// that does not answer is tried again later.
async fn first_contact(config: &Config) -> Result<Option<Control>> {
    match Control::open(config).await {
        Ok(control) => Ok(Some(control)),
        Err(error) if error.kind() == ErrorKind::Transient => {
            tracing::warn!("{}; trying again", error.report());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn spawn(tasks: &mut JoinSet<Result<()>>, task: impl Future<Output = Result<()>> + Send + 'static) {
    tasks.spawn(task);
}

/// Waits for `stop`, or for a task that ends with an error.
async fn first_failure(tasks: &mut JoinSet<Result<()>>, stop: &CancellationToken) -> Result<()> {
    loop {
        // Stopping first, so that errors of ending are not taken for the cause.
        let done = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            done = tasks.join_next() => done,
        };
        match done {
            None | Some(Ok(Ok(()))) if tasks.is_empty() => return Ok(()),
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(panicked)) => {
                return Err(Error::new(ErrorKind::Bug, "go on after a panic").with_source(panicked));
            }
        }
    }
}

async fn keep_source(context: Context) -> Result<()> {
    let stop = context.stop.clone();
    keep::keep(&context, Part::Source, SOURCE, &stop, SourceAttempt(&context)).await
}

/// Beside the source and not within it: a source that is parked, or waits as standby, keeps its
/// slot, and that is when somebody must watch.
async fn keep_guard(context: Context) -> Result<()> {
    guard::run(&context.config, &context.status, &context.stop).await;
    Ok(())
}

/// What `resume` calls the source.
pub const SOURCE: &str = "source";

struct SourceAttempt<'a>(&'a Context);

impl Attempt for SourceAttempt<'_> {
    async fn run(&mut self, stop: &CancellationToken, report: Report<'_>) -> Result<()> {
        let Context { config, status, snapshots, .. } = self.0;
        worker::run_source(config, status, snapshots.clone(), (stop, report)).await
    }
}

/// What people ask of sinks, and of tables.
type Senders = (watch::Sender<Option<Requests>>, watch::Sender<SnapshotRequests>);

fn publish<T: PartialEq>(sender: &watch::Sender<T>, now: T) {
    sender.send_if_modified(|known| {
        let news = *known != now;
        *known = now;
        news
    });
}

/// Keeps the requests up to date for as long as the process runs.
async fn watch_control(
    context: Context,
    control: Option<Control>,
    mut senders: Senders,
) -> Result<()> {
    let mut control = control;
    let watching = async {
        loop {
            tokio::time::sleep(POLL).await;
            // Whatever becomes of the control schema.
            let held = context.status.holds_snapshots();
            let known = senders.1.borrow().clone();
            publish(&senders.1, SnapshotRequests { held, ..known });
            let Ok(()) =
                tokio::time::timeout(ANSWER_WAIT_MAX, poll(&context, &mut control, &mut senders))
                    .await
            else {
                tracing::warn!(
                    "the control schema does not answer; going on with what was asked before"
                );
                control = None;
                continue;
            };
        }
    };
    tokio::select! {
        biased;
        () = context.stop.cancelled() => Ok(()),
        () = watching => Ok(()),
    }
}

/// Asks once, over a new connection if there is none.
async fn poll(
    context: &Context,
    control: &mut Option<Control>,
    (requests, snapshots): &mut Senders,
) {
    let Some(open) = control else {
        *control = Control::open(&context.config).await.ok();
        return;
    };
    let asked = async {
        publish(requests, Some(open.requests().await?));
        let asked = open.snapshots(&context.config.source.slot).await?;
        let known = snapshots.borrow().clone();
        publish(snapshots, SnapshotRequests { requests: Some(asked), ..known });
        Ok::<_, Error>(())
    };
    if let Err(error) = asked.await {
        tracing::warn!("{}; going on with what was asked before", error.report());
        *control = None;
    }
}
