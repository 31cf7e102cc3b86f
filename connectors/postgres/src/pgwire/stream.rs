//! The replication stream: what the server sends once replication has started.

use anabranch_core::Lsn;
use bytes::{Buf, Bytes, BytesMut};
use tokio_util::task::AbortOnDropHandle;

use super::feedback::{self, Durable};
use super::frame::{Frame, WireError};
use super::inflow::Inflow;
use super::transport::Connected;
use crate::fields::Fields;

/// Messages of the server, and the task that answers it.
pub(crate) struct ReplicationStream {
    inflow: Inflow,
    buffer: BytesMut,
    durable: Durable,
    /// Ends when the connection fails.
    _feedback: AbortOnDropHandle<()>,
}

/// A message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Streamed {
    /// One message of the output plugin.
    Data(Bytes),
    /// Nothing that is published lies before `wal_end` but what was sent already.
    Keepalive { wal_end: Lsn },
}

impl ReplicationStream {
    #[expect(clippy::disallowed_methods, reason = "the handle is owned and aborts on drop")]
    pub(super) fn new(
        connected: Connected,
        buffer: BytesMut,
        durable: Durable,
        wal_sender_timeout_ms: u64,
    ) -> Self {
        let (reader, writer) = tokio::io::split(connected.transport);
        let inflow = Inflow::new(reader, connected.socket);
        let answers = durable.clone();
        let feedback = tokio::spawn(async move {
            let error = feedback::run(writer, answers, wal_sender_timeout_ms).await;
            // The reader sees the same failure and reports it.
            tracing::debug!(%error, "feedback ended");
        });
        Self { inflow, buffer, durable, _feedback: AbortOnDropHandle::new(feedback) }
    }

    /// A stream from a server that a test plays.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn over(server: tokio::io::DuplexStream, wal_sender_timeout_ms: u64) -> Self {
        let connected = Connected { transport: Box::new(server), socket: None };
        Self::new(connected, BytesMut::new(), Durable::default(), wal_sender_timeout_ms)
    }

    /// The next message. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Streamed, WireError> {
        loop {
            if let Some(streamed) = self.buffered()? {
                return Ok(streamed);
            }
            if self.inflow.read(&mut self.buffer).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    /// The next message, if it was read already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Streamed>, WireError> {
        while let Some(frame) = Frame::take(&mut self.buffer)? {
            if let Some(streamed) = self.understand(frame)? {
                return Ok(Some(streamed));
            }
        }
        Ok(None)
    }

    fn understand(&self, frame: Frame) -> Result<Option<Streamed>, WireError> {
        match frame.tag {
            b'd' => self.copy_data(frame.body).map(Some),
            b'E' => Err(WireError::Server(Box::new(frame.server_error()))),
            b'N' => {
                tracing::debug!(notice = %frame.server_error(), "the server says");
                frame.skipped_publication().map_or(Ok(None), Err)
            }
            b'S' => Ok(None),
            b'c' | b'C' | b'Z' => Err(WireError::Ended),
            _ => Err(frame.unexpected("replication")),
        }
    }

    fn copy_data(&self, mut body: Bytes) -> Result<Streamed, WireError> {
        let mut fields = Fields::new(&body);
        match fields.u8() {
            Some(b'w') => {
                const HEADER_BYTES: usize = 1 + 3 * 8;
                let (Some(start), true) = (fields.u64(), body.len() >= HEADER_BYTES) else {
                    return Err(WireError::Malformed("XLogData"));
                };
                self.durable.received(Lsn(start));
                body.advance(HEADER_BYTES);
                Ok(Streamed::Data(body))
            }
            Some(b'k') => {
                let (Some(wal_end), Some(_clock), Some(reply)) =
                    (fields.u64(), fields.i64(), fields.u8())
                else {
                    return Err(WireError::Malformed("keepalive"));
                };
                self.durable.received(Lsn(wal_end));
                if reply == 1 {
                    self.durable.answer_now();
                }
                Ok(Streamed::Keepalive { wal_end: Lsn(wal_end) })
            }
            Some(_) | None => Err(WireError::Malformed("CopyData")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::NOT_IN_STATE;
    use super::super::frame::tests::frame;
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn data(body: &[u8]) -> Vec<u8> {
        frame(b'd', &[b"w", &[0; 24][..], body].concat())
    }

    fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
        let wal_end = wal_end.to_be_bytes();
        frame(b'd', &[b"k", &wal_end[..], &[0; 8], &[reply]].concat())
    }

    fn stream() -> (ReplicationStream, DuplexStream) {
        let (ours, server) = duplex(1 << 20);
        let durable = Durable::default();
        let connected = Connected { transport: Box::new(ours), socket: None };
        (ReplicationStream::new(connected, BytesMut::new(), durable, 0), server)
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut stream, mut server) = stream();
        let bytes = [data(b"one"), keepalive(7, 0), data(b"two")].concat();
        let mut got = Vec::new();
        for byte in bytes {
            server.write_all(&[byte]).await.unwrap();
            // Polled once and dropped, in the middle of a message as often as not.
            while let Some(message) = stream.next().now_or_never() {
                got.push(message.unwrap());
            }
        }
        let expected = [
            Streamed::Data(Bytes::from_static(b"one")),
            Streamed::Keepalive { wal_end: Lsn(7) },
            Streamed::Data(Bytes::from_static(b"two")),
        ];
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn a_question_is_answered_at_once() {
        let (mut stream, mut server) = stream();
        let mut status = [0; 39];
        let mut answers = 0;
        server.write_all(&keepalive(9, 1)).await.unwrap();
        stream.next().await.unwrap();
        // One as replication starts, and at least one for the question, long before the timer.
        while answers < 2 {
            let mut read = 0;
            while read < status.len() {
                read += server.read(&mut status[read..]).await.unwrap();
            }
            answers += 1;
        }
        assert_eq!(status[13], 9, "what was received");
        assert_eq!(status[21], 0, "and nothing that is not durable");
    }

    #[tokio::test]
    async fn a_skipped_publication_is_fatal_and_other_notices_are_not() {
        let notice =
            |code: &str| frame(b'N', format!("VWARNING\0C{code}\0Mskipped\0\0").as_bytes());
        let (mut stream, mut server) = stream();
        server.write_all(&[notice("01000"), data(b"x")].concat()).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), Streamed::Data(Bytes::from_static(b"x")));
        server.write_all(&notice(NOT_IN_STATE)).await.unwrap();
        let error = stream.next().await.unwrap_err();
        assert!(matches!(error, WireError::PublicationSkipped(_)), "{error}");
    }

    #[tokio::test]
    async fn the_end_and_nonsense_are_errors() {
        let cases = [
            frame(b'E', b"C57P01\0Mshutting down\0\0"),
            frame(b'C', b"COPY 0\0"),
            frame(b'd', b""),
            frame(b'd', b"w123"),
            frame(b'd', b"k123"),
            frame(b'd', b"?"),
            frame(b'Q', b""),
        ];
        for case in cases {
            let (mut stream, mut server) = stream();
            server.write_all(&case).await.unwrap();
            assert!(stream.next().await.is_err(), "{case:?}");
        }
        let (mut stream, server) = stream();
        drop(server);
        assert!(matches!(stream.next().await, Err(WireError::Closed | WireError::Io(_))));
    }
}
