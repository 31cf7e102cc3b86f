//! Tells the server how far we are, from a task of its own.
//!
//! The task owns the write half. It sends a status on a timer, at once when the server asks, and
//! when the durable position moved, whether or not anybody reads: a blocked downstream must never
//! look like a dead client. It claims only what [`Durable::confirm`] was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::Lsn;
use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::transport::send;

/// The longest time between two statuses.
const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// The shortest: a server with a tiny timeout must not be flooded.
const STATUS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The shortest time between two statuses that only say that the durable position moved.
const MOVED_INTERVAL: Duration = Duration::from_secs(1);
/// Statuses in one `wal_sender_timeout`.
const STATUSES_PER_TIMEOUT: u64 = 3;

/// How far the target durably is; shared by whoever confirms and the task that tells the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable(Arc<State>);

#[derive(Debug, Default)]
struct State {
    received: AtomicU64,
    durable: AtomicU64,
    asked: AtomicBool,
    changed: Notify,
}

impl Durable {
    /// Everything before `lsn` is durable downstream, together with the record that says so.
    pub(crate) fn confirm(&self, lsn: Lsn) {
        if self.0.durable.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0 {
            self.0.changed.notify_one();
        }
    }

    /// Something was received; for the lag that the server shows.
    pub(super) fn received(&self, lsn: Lsn) {
        self.0.received.fetch_max(lsn.0, Ordering::Relaxed);
    }

    /// The server wants an answer now.
    pub(super) fn answer_now(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }

    fn status(&self, out: &mut BytesMut) {
        let durable = self.0.durable.load(Ordering::Acquire);
        let received = self.0.received.load(Ordering::Relaxed).max(durable);
        out.put_u8(b'd');
        out.put_u32(4 + 1 + 4 * 8 + 1);
        out.put_u8(b'r');
        out.put_u64(received);
        out.put_u64(durable);
        out.put_u64(durable);
        // The clock is for the server's lag display only, and ours may be off: it is left at 0.
        out.put_i64(0);
        out.put_u8(0);
    }
}

/// Sends statuses until the connection fails.
pub(super) async fn run<W: AsyncWrite + Send + Unpin>(
    mut writer: W,
    durable: Durable,
    wal_sender_timeout_ms: u64,
) -> std::io::Error {
    let mut timer = tokio::time::interval(interval(wal_sender_timeout_ms));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut out = BytesMut::new();
    loop {
        out.clear();
        durable.status(&mut out);
        if let Err(error) = send(&mut writer, &out).await {
            return error;
        }
        let moved_at = Instant::now() + MOVED_INTERVAL;
        wait(&durable, &mut timer, moved_at).await;
    }
}

/// Waits for the next reason to send. Both branches are cancel-safe, and the question of the
/// server comes first because it cannot wait.
async fn wait(durable: &Durable, timer: &mut tokio::time::Interval, moved_at: Instant) {
    let mut moved = false;
    loop {
        tokio::select! {
            biased;
            () = durable.0.changed.notified() => {
                if durable.0.asked.swap(false, Ordering::AcqRel) {
                    return;
                }
                moved = true;
            }
            () = tokio::time::sleep_until(moved_at), if moved => return,
            _ = timer.tick() => return,
        }
    }
}

/// A third of the server's timeout, within limits; 0 means that it has none.
fn interval(wal_sender_timeout_ms: u64) -> Duration {
    match wal_sender_timeout_ms {
        0 => STATUS_INTERVAL_MAX,
        timeout => Duration::from_millis(timeout / STATUSES_PER_TIMEOUT)
            .clamp(STATUS_INTERVAL_MIN, STATUS_INTERVAL_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn a_status_claims_only_what_is_durable() {
        let durable = Durable::default();
        durable.confirm(Lsn(7));
        durable.confirm(Lsn(5));
        durable.received(Lsn(9));
        let mut out = BytesMut::new();
        durable.status(&mut out);
        let expected = [&b"d\0\0\0\x26r"[..], &[0, 0, 0, 0, 0, 0, 0, 9], &[0, 0, 0, 0, 0, 0, 0, 7]];
        assert_eq!(out[..22], expected.concat());
        assert_eq!(out.len(), 39);
    }

    #[test]
    fn the_interval_follows_the_servers_timeout() {
        let cases = [(0, 10_000), (60_000, 10_000), (2_000, 666), (10, 100)];
        for (timeout, expected) in cases {
            assert_eq!(interval(timeout), Duration::from_millis(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_answers_at_once_and_says_moves_once_a_second() {
        let (ours, mut server) = tokio::io::duplex(4096);
        let durable = Durable::default();
        let task = tokio::task::JoinSet::from_iter([run(ours, durable.clone(), 0)]);
        let mut status = vec![0; 39];
        let began = Instant::now();
        let mut at = async |expected_ms: u64| {
            let mut seen = 0;
            while seen < status.len() {
                seen += server.read(&mut status[seen..]).await.unwrap();
            }
            assert_eq!(began.elapsed().as_millis(), u128::from(expected_ms));
            status.clone()
        };
        at(0).await;
        at(0).await; // an interval ticks at once
        durable.answer_now();
        at(0).await;
        durable.confirm(Lsn(1));
        durable.confirm(Lsn(2));
        assert_eq!(at(1_000).await[21], 2);
        at(10_000).await;
        at(20_000).await;
        drop(task);
    }
}
