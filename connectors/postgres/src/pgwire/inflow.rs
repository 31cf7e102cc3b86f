//! Reads from the server: in large pieces while there is a backlog, and at once otherwise.
//!
//! ```text
//! walsender ── a message at a time ──▶ receive buffer ── at the mark, or after WAIT_MAX ──▶ buffer
//! ```
//!
//! A walsender sends message by message, and a reader that is woken for each slows both. So while
//! bytes come at the rate of a backlog, the socket's low-water mark (`SO_RCVLOWAT`) keeps the reader
//! asleep until there is enough for a large read.
//!
//! The invariant: no byte waits for others longer than [`WAIT_MAX`]. A wait that long lowers the
//! mark, and only the rate of a backlog raises it again, so a message on a quiet connection never
//! waits.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use socket2::Socket;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::time::{Instant, timeout_at};

use super::transport::Transport;

/// Bytes asked of the socket at once, and its mark while there is a backlog: what a walsender sends
/// in about 3 ms.
const READ_BYTES: usize = 256 << 10;
/// How long bytes below the mark may wait.
const WAIT_MAX: Duration = Duration::from_millis(3);
/// The time over which the rate is taken.
const WINDOW: Duration = Duration::from_millis(2);
/// The rate of a backlog, in bytes a microsecond (or MB/s): some 20,000 small rows a second, far
/// from what a walsender can send and above what most databases write.
const BACKLOG_RATE: u128 = 4;

/// The reading half of a connection.
pub(super) struct Inflow {
    reader: ReadHalf<Box<dyn Transport>>,
    /// Set by [`Inflow::new`], and `None` once the mark cannot be set.
    socket: Option<Socket>,
    /// Until when to wait for the mark; `None` while it is one byte.
    marked_until: Option<Instant>,
    window_began: Instant,
    window_bytes: usize,
}

impl Inflow {
    /// Reads from `reader`; `socket` is what is below it, if that is TCP.
    pub(super) fn new(reader: ReadHalf<Box<dyn Transport>>, socket: Option<Socket>) -> Self {
        let window_began = Instant::now();
        Self { reader, socket, marked_until: None, window_began, window_bytes: 0 }
    }

    /// Reads more into `buffer`; 0 at the end. Cancel-safe: what was read is in the buffer.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        buffer.reserve(READ_BYTES);
        let waited = match self.marked_until {
            Some(until) => timeout_at(until, self.reader.read_buf(buffer)).await.ok(),
            None => None,
        };
        let read = match waited {
            Some(read) => read?,
            None => {
                self.mark(None);
                self.reader.read_buf(buffer).await?
            }
        };
        self.count(read);
        Ok(read)
    }

    /// Counts what was read, and looks at the rate now and then.
    fn count(&mut self, read: usize) {
        self.window_bytes += read;
        let now = Instant::now();
        let elapsed = now - self.window_began;
        if elapsed >= WINDOW {
            let rate = u128::try_from(self.window_bytes).unwrap_or_default() / elapsed.as_micros();
            (self.window_began, self.window_bytes) = (now, 0);
            self.mark((rate >= BACKLOG_RATE).then_some(now + WAIT_MAX));
        } else if self.marked_until.is_some() {
            self.marked_until = Some(now + WAIT_MAX);
        }
    }

    /// Wakes the reader at the mark or `until` then; or, with `None`, at any byte.
    fn mark(&mut self, until: Option<Instant>) {
        if self.marked_until.is_some() != until.is_some() {
            let bytes = if until.is_some() { READ_BYTES } else { 1 };
            if let Some(socket) = &self.socket
                && let Err(error) = set_mark(socket, bytes)
            {
                // It only makes reads larger.
                tracing::debug!(%error, "the low-water mark cannot be set");
                self.socket = None;
            }
        }
        self.marked_until = until.filter(|_| self.socket.is_some());
    }
}

#[cfg(target_os = "linux")]
fn set_mark(socket: &Socket, bytes: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    use uapi::c::{SO_RCVLOWAT, SOL_SOCKET, c_int};
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    Ok(uapi::setsockopt(socket.as_raw_fd(), SOL_SOCKET, SO_RCVLOWAT, &bytes)?)
}

/// Elsewhere a reader may be woken below the mark, or a poll may not know of it.
#[cfg(not(target_os = "linux"))]
fn set_mark(_: &Socket, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::io::Write;
    use std::net::TcpStream as Server;
    use tokio::io::WriteHalf;
    use tokio::net::{TcpListener, TcpStream};

    /// Long for a byte that is there. One that waits for others waits for ever.
    const AT_ONCE: Duration = Duration::from_secs(2);

    async fn connected() -> (Inflow, WriteHalf<Box<dyn Transport>>, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (ours, server) = (ours.unwrap(), server.unwrap().0.into_std().unwrap());
        server.set_nonblocking(false).unwrap();
        let socket = SockRef::from(&ours).try_clone().unwrap();
        let transport: Box<dyn Transport> = Box::new(ours);
        let (reader, writer) = tokio::io::split(transport);
        (Inflow::new(reader, Some(socket)), writer, server)
    }

    /// Reads `bytes` bytes; returns whether the mark was raised meanwhile.
    async fn drain(inflow: &mut Inflow, bytes: usize) -> bool {
        let (mut buffer, mut left, mut raised) = (BytesMut::new(), bytes, false);
        while left > 0 {
            let read = tokio::time::timeout(AT_ONCE, inflow.read(&mut buffer)).await;
            left -= read.expect("what was sent does not wait").unwrap();
            raised |= inflow.marked_until.is_some() && mark(inflow) == READ_BYTES;
            buffer.clear();
        }
        raised
    }

    /// The mark as the socket has it.
    fn mark(inflow: &Inflow) -> usize {
        use std::os::fd::AsRawFd;
        let mut bytes = 0_i32;
        let socket = inflow.socket.as_ref().unwrap().as_raw_fd();
        uapi::getsockopt(socket, uapi::c::SOL_SOCKET, uapi::c::SO_RCVLOWAT, &mut bytes).unwrap();
        usize::try_from(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_short_message_after_a_backlog_is_read_at_once() {
        let (mut inflow, _writer, mut server) = connected().await;
        for tail in [0, 1, 777, READ_BYTES - 1, READ_BYTES + 1] {
            let bytes = 128 * READ_BYTES + tail;
            let mut sender = server.try_clone().unwrap();
            let sent = std::thread::spawn(move || sender.write_all(&vec![7; bytes]).unwrap());
            assert!(drain(&mut inflow, bytes).await, "the mark is raised in a backlog");
            sent.join().unwrap();
            // The first may still be taken for the end of the backlog.
            for bytes in [1, 50, 1] {
                server.write_all(&vec![7; bytes]).unwrap();
                drain(&mut inflow, bytes).await;
                tokio::time::sleep(2 * WINDOW).await;
            }
            assert_eq!((inflow.marked_until, mark(&inflow)), (None, 1), "after a tail of {tail}");
        }
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_while_it_waits_for_the_mark_loses_nothing() {
        let (mut inflow, _writer, mut server) = connected().await;
        inflow.mark(Some(Instant::now() + WAIT_MAX));
        server.write_all(b"below the mark").unwrap();
        let mut buffer = BytesMut::new();
        let began = Instant::now();
        while buffer.is_empty() {
            assert!(began.elapsed() < AT_ONCE, "it waits no longer for being asked again");
            let read = inflow.read(&mut buffer);
            tokio::time::timeout(Duration::from_millis(1), read).await.ok();
        }
        assert_eq!(&buffer[..], b"below the mark");
    }
}
