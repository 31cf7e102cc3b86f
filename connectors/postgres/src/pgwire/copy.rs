//! A connection that copies tables.
//!
//! ```text
//! server ── CopyData, CopyData, .. ──▶ buffer ── fill: once for many rows ──▶ row: a slice of it, each
//! ```
//!
//! Copying a row costs little more than to look where the next one begins: it is not moved, it has no
//! memory of its own, and nobody is woken for it.
//!
//! Source: the PostgreSQL manual, "Message Flow", "COPY Operations".

use bytes::{Buf, BytesMut};
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tokio::io::WriteHalf;

use super::connection::{Connection, Mode};
use super::frame::{Frame, HEADER_BYTES, Header, WireError};
use super::inflow::Inflow;
use super::transport::{Transport, send};
use crate::config::Endpoint;

/// What a row comes in.
const COPY_DATA: u8 = b'd';

/// A connection without replication. Dropping it closes it, whatever runs on it, and an error ends it:
/// what may follow the error is not read.
pub(crate) struct CopyConnection {
    inflow: Inflow,
    writer: WriteHalf<Box<dyn Transport>>,
    buffer: BytesMut,
    /// The bytes at the front of the buffer that were handed out.
    taken: usize,
}

/// The rows of a `COPY .. TO STDOUT`, which have to be read to the end.
pub(crate) struct CopyOut<'a>(&'a mut CopyConnection);

impl CopyConnection {
    /// Connects and logs in.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        application_name: &str,
        tls: ClientConfig,
    ) -> Result<Self, WireError> {
        Connection::open(endpoint, application_name, (Mode::Plain, tls)).await.map(Self::over)
    }

    fn over(connection: Connection) -> Self {
        let Connection { connected, buffer, .. } = connection;
        let (reader, writer) = tokio::io::split(connected.transport);
        let inflow = Inflow::new(reader, connected.socket);
        Self { inflow, writer, buffer, taken: 0 }
    }

    /// Runs statements that nobody wants a row of.
    pub(crate) async fn execute(&mut self, sql: &str) -> Result<(), WireError> {
        self.send(sql).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'Z' => return Ok(()),
                b'C' | b'D' | b'I' | b'T' => {}
                _ => pass(&frame, "a statement")?,
            }
        }
    }

    /// Begins a `COPY .. TO STDOUT`.
    pub(crate) async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, WireError> {
        self.send(sql).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'H' => return Ok(CopyOut(self)),
                _ => pass(&frame, "the start of COPY")?,
            }
        }
    }

    async fn send(&mut self, sql: &str) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        Ok(send(&mut self.writer, &out).await?)
    }

    async fn frame(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer)? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), WireError> {
        match self.inflow.read(&mut self.buffer).await? {
            0 => Err(WireError::Closed),
            _ => Ok(()),
        }
    }
}

impl CopyOut<'_> {
    /// Waits until there is a row to take; `false` if there are no more, and the connection is free for
    /// the next statement. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn fill(&mut self) -> Result<bool, WireError> {
        let Self(connection) = self;
        connection.buffer.advance(std::mem::take(&mut connection.taken));
        loop {
            let buffer = &mut connection.buffer;
            let header = Header::of(buffer)?;
            if header.is_some_and(|h| h.tag == COPY_DATA && h.bytes <= buffer.len()) {
                return Ok(true);
            }
            match Frame::take(buffer)? {
                None => connection.read().await?,
                Some(frame) => match frame.tag {
                    b'Z' => return Ok(false),
                    b'c' | b'C' => {}
                    _ => pass(&frame, "COPY")?,
                },
            }
        }
    }

    /// The next of the rows that were read; `None` if more has to be read first.
    #[inline]
    pub(crate) fn row(&mut self) -> Result<Option<&[u8]>, WireError> {
        let Self(connection) = self;
        let unread = connection.buffer.get(connection.taken..).unwrap_or_default();
        match Header::of(unread)? {
            Some(Header { tag: COPY_DATA, bytes }) => {
                let row = unread.get(HEADER_BYTES..bytes);
                connection.taken += row.map_or(0, |_| bytes);
                Ok(row)
            }
            Some(_) | None => Ok(None),
        }
    }
}

/// What may come at any time, and what must not.
fn pass(frame: &Frame, during: &'static str) -> Result<(), WireError> {
    match frame.tag {
        b'E' => Err(WireError::Server(Box::new(frame.server_error()))),
        b'N' => {
            tracing::debug!(notice = %frame.server_error(), "the server says");
            Ok(())
        }
        b'S' => Ok(()),
        _ => Err(frame.unexpected(during)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::frame;
    use super::super::transport::Connected;
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};

    /// What the server says to a copy of `rows`.
    fn copy(rows: &[&[u8]]) -> Vec<u8> {
        let mut said = frame(b'H', b"\0\0\0");
        said.extend(rows.iter().flat_map(|row| frame(b'd', row)));
        said.extend([frame(b'c', b""), frame(b'C', b"COPY 2\0"), frame(b'Z', b"T")].concat());
        said
    }

    fn connected() -> (CopyConnection, DuplexStream) {
        let (ours, server) = duplex(1 << 20);
        // As TLS may, it keeps what is sent until it is flushed.
        let connected = Connected { transport: Box::new(BufStream::new(ours)), socket: None };
        (CopyConnection::over(Connection { connected, buffer: BytesMut::new(), pid: 0 }), server)
    }

    #[tokio::test]
    async fn rows_are_slices_and_one_statement_follows_another() {
        let (mut connection, mut server) = connected();
        let notice = frame(b'N', b"VNOTICE\0C00000\0Mhow fine\0\0");
        let large = vec![7; 300 << 10];
        let rows: [&[u8]; 4] = [b"one", b"", b"two", &large];
        let done = [notice, frame(b'C', b"SAVEPOINT\0"), frame(b'Z', b"T")].concat();
        server.write_all(&[done, copy(&rows), copy(&[])].concat()).await.unwrap();
        connection.execute("savepoint range").await.unwrap();
        let mut out = connection.copy_out("copy t to stdout").await.unwrap();
        let mut read = Vec::new();
        while out.fill().await.unwrap() {
            while let Some(row) = out.row().unwrap() {
                read.push(row.to_vec());
            }
        }
        assert_eq!(read, rows);
        assert!(!connection.copy_out("copy t to stdout").await.unwrap().fill().await.unwrap());
        let mut sent = vec![0; 21];
        server.read_buf(&mut sent.as_mut_slice()).await.unwrap();
        assert_eq!(sent, frame(b'Q', b"savepoint range\0"));
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut connection, mut server) = connected();
        server.write_all(&frame(b'H', b"\0\0\0")).await.unwrap();
        let mut out = connection.copy_out("copy t to stdout").await.unwrap();
        let mut read = Vec::new();
        for byte in copy(&[b"one", b"two"]).split_off(8) {
            server.write_all(&[byte]).await.unwrap();
            // Polled once and dropped, in the middle of a row as often as not.
            if let Some(filled) = out.fill().now_or_never() {
                filled.unwrap();
                while let Some(row) = out.row().unwrap() {
                    read.push(row.to_vec());
                }
            }
        }
        assert_eq!(read, [b"one", b"two"]);
    }

    #[tokio::test]
    async fn the_end_and_nonsense_are_errors() {
        let begun = frame(b'H', b"\0\0\0");
        let cases = [
            (frame(b'E', b"C57P01\0Mshutting down\0\0"), "shutting down"),
            ([begun.clone(), frame(b'E', b"C57P01\0Mshut down\0\0")].concat(), "shut down"),
            ([begun.clone(), frame(b'd', b"1"), frame(b'Q', b"")].concat(), "'Q' during COPY"),
            ([begun.clone(), b"d\0\0\0\x03".to_vec()].concat(), "malformed"),
            ([begun.clone(), b"d\xff\xff\xff\xff".to_vec()].concat(), "a message of"),
            // The server is gone.
            ([begun.clone(), b"d\0\0\0\x09one".to_vec()].concat(), "closed"),
            (begun, "closed"),
            (Vec::new(), "closed"),
        ];
        for (case, expected) in cases {
            let (mut connection, mut server) = connected();
            server.write_all(&case).await.unwrap();
            // It says nothing more, and still listens.
            server.shutdown().await.unwrap();
            let read = async {
                let mut out = connection.copy_out("copy t to stdout").await?;
                while out.fill().await? {
                    while out.row()?.is_some() {}
                }
                Ok::<(), WireError>(())
            };
            let error = read.await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
