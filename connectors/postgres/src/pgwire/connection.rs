//! A connection that is logged in and runs one command after another.

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tokio::io::AsyncReadExt;

use super::authentication::{Answer, Authentication};
use super::frame::{Frame, WireError};
use super::transport::{self, Connected};
use crate::config::Endpoint;
use crate::fields::Fields;
use crate::session::{CONNECT_TIMEOUT, SETTINGS, UNSET_TRANSACTION_TIMEOUT};

/// Rows of one reply. Replication commands answer with one.
const REPLY_ROWS_MAX: usize = 100;

/// What the server lets a connection do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// SQL alone.
    Plain,
    /// Replication, of which the server allows so many, and SQL.
    Replication,
}

/// A connection that is logged in.
pub(super) struct Connection {
    pub(super) connected: Connected,
    /// What was read and not taken yet.
    pub(super) buffer: BytesMut,
    /// The process id of the server's side.
    pub(super) pid: u32,
}

/// A row of a reply.
pub(crate) type Row = Vec<Option<String>>;

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(
        endpoint: &Endpoint,
        application_name: &str,
        (mode, tls): (Mode, ClientConfig),
    ) -> Result<Self, WireError> {
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(CONNECT_TIMEOUT, Self::log_in(endpoint, application_name, (mode, tls)))
            .await
            .unwrap_or(Err(WireError::Io(late)))
    }

    async fn log_in(
        endpoint: &Endpoint,
        application_name: &str,
        (mode, tls): (Mode, ClientConfig),
    ) -> Result<Self, WireError> {
        let (connected, encryption) = transport::connect(endpoint, tls).await?;
        let mut connection = Self { connected, buffer: BytesMut::new(), pid: 0 };
        let mut startup = BytesMut::new();
        frontend::startup_message(parameters(endpoint, application_name, mode), &mut startup)?;
        connection.connected.send(&startup).await?;
        let mut authentication = Authentication::new(endpoint, encryption);
        loop {
            let frame = connection.frame().await?;
            match frame.tag {
                b'R' => {
                    if let Answer::Send(bytes) = authentication.answer(&frame.body)? {
                        connection.connected.send(&bytes).await?;
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

    /// Runs one command or query and returns its rows. That a publication was skipped is a failure.
    pub(super) async fn query(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        self.send(command).await?;
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

    /// Sends a command.
    pub(super) async fn send(&mut self, command: &str) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        Ok(self.connected.send(&out).await?)
    }

    /// The next message.
    pub(super) async fn frame(&mut self) -> Result<Frame, WireError> {
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

/// What the server is told first.
fn parameters<'a>(
    endpoint: &'a Endpoint,
    application_name: &'a str,
    mode: Mode,
) -> Vec<(&'a str, &'a str)> {
    let mut parameters = vec![
        ("user", endpoint.user.as_str()),
        ("database", &endpoint.database),
        ("application_name", application_name),
        ("client_encoding", "UTF8"),
    ];
    if mode == Mode::Replication {
        parameters.push(("replication", "database"));
    }
    parameters.extend(endpoint.sql.get_options().map(|options| ("options", options)));
    parameters.extend_from_slice(SETTINGS);
    parameters
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PostgresConfig;
    use bytes::Bytes;

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

    #[test]
    fn only_replication_takes_a_walsender_and_every_session_has_our_settings() {
        let url = "postgres://u@h/d?options=-c%20search_path%3Dx";
        let endpoint = PostgresConfig::new(url, vec![]).endpoint().unwrap();
        let plain = parameters(&endpoint, "us", Mode::Plain);
        let replicating = parameters(&endpoint, "us", Mode::Replication);
        assert!(replicating.contains(&("replication", "database")));
        assert!(plain.iter().all(|(name, _)| *name != "replication"));
        let ours = [("user", "u"), ("application_name", "us"), ("options", "-c search_path=x")];
        for parameter in ours.iter().chain(SETTINGS) {
            assert!(plain.contains(parameter) && replicating.contains(parameter), "{parameter:?}");
        }
    }
}
