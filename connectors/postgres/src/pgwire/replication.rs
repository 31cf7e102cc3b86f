//! A connection in replication mode, before replication starts.

use anabranch_core::Lsn;
use postgres_protocol::escape::escape_identifier;
use rustls::ClientConfig;
use socket2::Socket;

use super::connection::{Connection, Mode, Row};
use super::feedback::Durable;
use super::frame::WireError;
use super::stream::ReplicationStream;
use crate::config::Endpoint;

/// A connection with `replication=database`.
pub(crate) struct ReplicationConnection {
    connection: Connection,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
    /// The server's flush position.
    pub(crate) flushed: Lsn,
}

impl ReplicationConnection {
    /// Connects and logs in.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        application_name: &str,
        tls: ClientConfig,
    ) -> Result<Self, WireError> {
        let connection = Connection::open(endpoint, application_name, (Mode::Replication, tls));
        Ok(Self { connection: connection.await? })
    }

    /// The process id of the walsender, as it was announced.
    pub(crate) fn pid(&self) -> u32 {
        self.connection.pid
    }

    /// The socket below the connection, for whoever may have to close it from outside.
    pub(crate) fn socket(&self) -> Result<Option<Socket>, WireError> {
        Ok(self.connection.connected.socket.as_ref().map(Socket::try_clone).transpose()?)
    }

    /// Runs one command or query and returns its rows. That a publication was skipped is a failure.
    pub(crate) async fn query(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        self.connection.query(command).await
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
        self.connection.send(&command).await?;
        loop {
            let frame = self.connection.frame().await?;
            match frame.tag {
                b'W' => break,
                b'E' => return Err(WireError::Server(Box::new(frame.server_error()))),
                b'N' | b'S' => {}
                _ => return Err(frame.unexpected("START_REPLICATION")),
            }
        }
        let Connection { connected, buffer, .. } = self.connection;
        Ok(ReplicationStream::new(connected, buffer, durable, timeout_ms))
    }
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

    #[test]
    fn times_are_read_with_their_units() {
        let cases =
            [("0", 0), ("1min", 60_000), ("2s", 2_000), ("1500ms", 1_500), ("1h", 3_600_000)];
        for (text, expected) in cases {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
