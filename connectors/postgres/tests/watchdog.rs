//! Keepalives go on while the reader waits, for whatever, and stop when it is dead.

use std::sync::{Mutex, mpsc};

use anabranch_core::ErrorKind;
use anabranch_postgres::WatchdogConfig;
use tokio::sync::oneshot;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{DEADLINE, Database, Follower, Replica, truth};

const STALL_MS: u64 = 3_000;
const STUCK: &str = "public.stuck";

async fn followed(table: &str) -> (Database, Follower) {
    let sql = format!("create table {table} (id int primary key, v text)");
    let mut database = Database::new(&sql, &[table]).await;
    database.config.batch_bytes_max = 100_000;
    database.config.watchdog = WatchdogConfig { stall_ms_max: STALL_MS };
    let mut follower = Follower::start(&database, Replica::default()).await;
    follower.catch_up(&database).await;
    (database, follower)
}

/// E12, and the half of E13 that says "only then": nobody takes a batch for twice as long as a dead
/// reader has.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_for_room_keeps_its_connection() {
    let (database, mut follower) = followed("public.waits").await;
    let reader = database.reader().await;
    let sql = "insert into waits select n, repeat('x', 1000) from generate_series(1, 30000) n";
    database.run(sql).await;
    let began = database.text("select clock_timestamp()").await;
    let later =
        format!("clock_timestamp() > '{began}'::timestamptz + interval '{STALL_MS} ms' * 2");
    let lives = format!("active_pid is not distinct from {reader}");
    let slot = &database.config.slot;
    let cut_off_or_later = format!(
        "select not ({lives}) or {later} from pg_replication_slots where slot_name = '{slot}'"
    );
    database.wait_for(&cut_off_or_later).await;
    follower.catch_up(&database).await;
    assert_eq!(database.reader().await, reader, "cut off while it waited");
    assert_eq!(follower.replica.present(), truth(&database).await);
    drop(follower);
    database.drop().await;
}

/// E13. The decoder is stuck, in the middle of a message: the slot is given up, and the source says
/// so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_is_stuck_gives_the_slot_up() {
    let ((reached, reach), (release, released)) = (oneshot::channel(), mpsc::channel());
    let hold = Hold(Mutex::new(Some((reached, released))));
    tracing::subscriber::set_global_default(hold).unwrap();
    let (database, mut follower) = followed(STUCK).await;
    database.run("alter table stuck add n int; insert into stuck values (1, 'a', 1)").await;
    tokio::time::timeout(DEADLINE, reach).await.unwrap().unwrap();
    let error = loop {
        if let Err(error) = follower.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Bug, "{error:?}");
    assert!(error.report().contains("no sign of life for 3 s"), "{error:?}");
    let slot = &database.config.slot;
    let free = format!("select not active from pg_replication_slots where slot_name = '{slot}'");
    database.wait_for(&free).await;
    // Another reader has it while the first is still stuck.
    let mut replica = follower.kill();
    replica.events.clear();
    let mut second = Follower::start(&database, replica).await;
    drop(release);
    second.catch_up(&database).await;
    assert_eq!(second.replica.letters(), "c");
    drop(second);
    database.drop().await;
}

/// Holds up whoever says that the table [`STUCK`] changed: the first time, in the reader's task.
struct Hold(Mutex<Option<(oneshot::Sender<()>, mpsc::Receiver<()>)>>);

impl Subscriber for Hold {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "anabranch_postgres::streaming"
    }

    fn event(&self, event: &Event<'_>) {
        let mut stuck = Names(false);
        event.record(&mut stuck);
        let first = if stuck.0 { self.0.lock().unwrap().take() } else { None };
        if let Some((reached, released)) = first {
            reached.send(()).unwrap();
            // Until the other end is dropped.
            released.recv().unwrap_err();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Whether an event names the table.
struct Names(bool);

impl Visit for Names {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0 |= value == STUCK;
    }

    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= format!("{value:?}").contains(STUCK);
    }
}
