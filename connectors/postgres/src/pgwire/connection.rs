//! A connection in replication mode, before replication starts.

use anabranch_core::Lsn;
use bytes::BytesMut;
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use socket2::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::authentication::{Answer, Authentication};
use super::feedback::Durable;
use super::frame::{Frame, WireError};
use super::stream::ReplicationStream;
use super::transport::{self, Connected};
use crate::config::Endpoint;
use crate::fields::Fields;
use crate::session::{CONNECT_TIMEOUT, SETTINGS, UNSET_TRANSACTION_TIMEOUT};

/// Rows of one reply. Replication commands answer with one.
const REPLY_ROWS_MAX: usize = 100;

/// A connection with `replication=database`.
pub(crate) struct ReplicationConnection {
    connected: Connected,
    buffer: BytesMut,
    /// The process id of the walsender.
    pub(crate) pid: u32,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
    /// The server's flush position.
    pub(crate) flushed: Lsn,
}

/// A row of a reply.
pub(crate) type Row = Vec<Option<String>>;

impl ReplicationConnection {
    /// Connects and logs in.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        application_name: &str,
        tls: ClientConfig,
    ) -> Result<Self, WireError> {
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(CONNECT_TIMEOUT, Self::log_in(endpoint, application_name, tls))
            .await
            .unwrap_or(Err(WireError::Io(late)))
    }

    async fn log_in(
        endpoint: &Endpoint,
        application_name: &str,
        tls: ClientConfig,
    ) -> Result<Self, WireError> {
        let (connected, encryption) = transport::connect(endpoint, tls).await?;
        let mut connection = Self { connected, buffer: BytesMut::new(), pid: 0 };
        let mut parameters = vec![
            ("user", endpoint.user.as_str()),
            ("database", &endpoint.database),
            ("replication", "database"),
            ("application_name", application_name),
            ("client_encoding", "UTF8"),
        ];
        parameters.extend(endpoint.sql.get_options().map(|options| ("options", options)));
        parameters.extend_from_slice(SETTINGS);
        let mut startup = BytesMut::new();
        frontend::startup_message(parameters, &mut startup)?;
        connection.connected.transport.write_all(&startup).await?;
        let mut authentication = Authentication::new(endpoint, encryption);
        loop {
            let frame = connection.frame().await?;
            match frame.tag {
                b'R' => {
                    if let Answer::Send(bytes) = authentication.answer(&frame.body)? {
                        connection.connected.transport.write_all(&bytes).await?;
                    }
                }
                b'K' => {
                    let pid = Fields::new(&frame.body).u32();
                    connection.pid = pid.ok_or(WireError::Malformed("backend key"))?;
                }
                b'Z' => break,
                b'E' => return Err(WireError::Server(Box::new(frame.server_error()))),
                b'S' | b'N' | b'v' => {}
                _ => return Err(frame.unexpected("startup")),
            }
        }
        connection.query(UNSET_TRANSACTION_TIMEOUT).await?;
        Ok(connection)
    }

    /// The socket below the connection, for whoever may have to close it from outside.
    pub(crate) fn socket(&self) -> Result<Option<Socket>, WireError> {
        Ok(self.connected.socket.as_ref().map(Socket::try_clone).transpose()?)
    }

    /// Runs one command or query and returns its rows. That a publication was skipped is a failure.
    pub(crate) async fn query(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        self.connected.transport.write_all(&out).await?;
        let (mut rows, mut failure, mut skipped) = (Vec::new(), None, None);
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'D' if rows.len() < REPLY_ROWS_MAX => rows.push(row(&frame)?),
                b'E' => failure = Some(frame.server_error()),
                b'Z' => break,
                b'N' => skipped = skipped.or(frame.skipped_publication()),
                b'C' | b'I' | b'S' | b'T' => {}
                _ => return Err(frame.unexpected("a query")),
            }
        }
        let failure = failure.map(|error| WireError::Server(Box::new(error))).or(skipped);
        failure.map_or(Ok(rows), Err)
    }

    pub(crate) async fn identify(&mut self) -> Result<Identity, WireError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let field = |place: usize| rows.first()?.get(place)?.as_deref();
        let identity = || {
            Some(Identity {
                system_id: field(0)?.parse().ok()?,
                timeline: field(1)?.parse().ok()?,
                flushed: field(2)?.parse().ok()?,
            })
        };
        identity().ok_or(WireError::Malformed("IDENTIFY_SYSTEM"))
    }

    /// The history file of the server's `timeline`: where the timelines ended that it descends from.
    pub(crate) async fn timeline_history(&mut self, timeline: u32) -> Result<String, WireError> {
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
        content.ok_or(WireError::Malformed("TIMELINE_HISTORY"))
    }

    /// Creates `slot` and exports the snapshot of its consistent point, which lives until the next
    /// command on this connection. Returns the point and the snapshot's name.
    pub(crate) async fn create_slot(
        &mut self,
        slot: &str,
        server_version: u32,
    ) -> Result<(Lsn, String), WireError> {
        // A slot that a standby may take over is to be had from 17 on; options in parentheses from 15.
        let options = match server_version {
            170_000.. => "(SNAPSHOT 'export', FAILOVER true)",
            150_000.. => "(SNAPSHOT 'export')",
            _ => "EXPORT_SNAPSHOT",
        };
        let slot = escape_identifier(slot);
        let command = format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput {options}");
        let rows = self.query(&command).await?;
        let field = |place: usize| rows.first()?.get(place)?.as_deref();
        let reply = || Some((field(1)?.parse().ok()?, field(2)?.to_owned()));
        reply().ok_or(WireError::Malformed("reply to CREATE_REPLICATION_SLOT"))
    }

    /// Starts replication, with the plugin's `options`. The server sends every transaction that
    /// committed at or after `from`.
    pub(crate) async fn start(
        mut self,
        (slot, options): (&str, &str),
        from: Lsn,
        durable: Durable,
    ) -> Result<ReplicationStream, WireError> {
        let timeout = self.query("SHOW wal_sender_timeout").await?;
        let timeout = timeout.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
        let timeout_ms = milliseconds(timeout);
        let slot = escape_identifier(slot);
        let command = format!("START_REPLICATION SLOT {slot} LOGICAL {from} {options}");
        let mut out = BytesMut::new();
        frontend::query(&command, &mut out)?;
        self.connected.transport.write_all(&out).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'W' => break,
                b'E' => return Err(WireError::Server(Box::new(frame.server_error()))),
                b'N' | b'S' => {}
                _ => return Err(frame.unexpected("START_REPLICATION")),
            }
        }
        Ok(ReplicationStream::new(self.connected, self.buffer, durable, timeout_ms))
    }

    async fn frame(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer)? {
                return Ok(frame);
            }
            if self.connected.transport.read_buf(&mut self.buffer).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }
}

fn row(frame: &Frame) -> Result<Row, WireError> {
    let mut fields = Fields::new(&frame.body);
    let parse = |fields: &mut Fields<'_>| {
        let count = fields.u16()?;
        (0..count)
            .map(|_| match fields.i32()? {
                -1 => Some(None),
                length => {
                    let text = fields.take(usize::try_from(length).ok()?)?;
                    Some(Some(String::from_utf8(text.to_vec()).ok()?))
                }
            })
            .collect::<Option<Row>>()
    };
    parse(&mut fields).ok_or(WireError::Malformed("row"))
}

/// Reads a time as `SHOW` prints it: a number with a unit, or 0.
fn milliseconds(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match text.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "d" => 86_400_000,
        "h" => 3_600_000,
        "min" => 60_000,
        "s" => 1_000,
        _ => 1,
    };
    digits.parse::<u64>().unwrap_or(0).saturating_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn times_are_read_with_their_units() {
        let cases =
            [("0", 0), ("1min", 60_000), ("2s", 2_000), ("1500ms", 1_500), ("1h", 3_600_000)];
        for (text, expected) in cases {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn rows_are_read_and_short_ones_refused() {
        let body = Bytes::from_static(b"\0\x02\0\0\0\x01a\xFF\xFF\xFF\xFF");
        assert_eq!(
            row(&Frame { tag: b'D', body: body.clone() }).unwrap(),
            [Some("a".into()), None]
        );
        for end in 0..body.len() {
            assert!(row(&Frame { tag: b'D', body: body.slice(..end) }).is_err());
        }
    }
}
