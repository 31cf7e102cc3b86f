//! Plain SQL sessions: for the catalog, re-reads, the snapshot and the control schema.

use std::ops::Deref;
use std::time::Duration;

use anabranch_core::Result;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{PostgresConfig, SslMode};
use crate::error::Context;
use crate::tls;

/// How long a connection may take to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the kernel asks whether the peer is still there.
pub(crate) const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between two such questions.
pub(crate) const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the connection counts as dead.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// What every session of ours has set, so that values have one text form, and nothing that the
/// role or the database has set hides rows or cuts a long statement short.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("row_security", "off"),
    ("search_path", "pg_catalog"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("synchronous_commit", "local"),
    // A host of ours that is gone, cable and all, loses its lock and its slot within 12 seconds.
    ("tcp_keepalives_idle", "6"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];

/// The same for a setting that a server before version 17 would refuse by its name. It would end a
/// long copy, and the decoding of a long transaction.
pub(crate) const UNSET_TRANSACTION_TIMEOUT: &str =
    "select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'";

/// Opens a plain session on the source database, with the settings of the role.
///
/// The connection ends when the client is dropped.
///
/// # Errors
///
/// `Transient` if the server cannot be reached, `Config` if it refuses us.
pub async fn connect(config: &PostgresConfig) -> Result<Client> {
    let endpoint = config.endpoint()?;
    let (client, task) = open(config, endpoint.sql.clone(), CancellationToken::new()).await?;
    task.detach();
    Ok(client)
}

/// A session with [`SETTINGS`]; dropping it closes the connection at once, whatever runs on it.
pub(crate) struct Session {
    client: Client,
    closed: CancellationToken,
    _connection: AbortOnDropHandle<()>,
}

impl Session {
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Self> {
        let mut sql = config.endpoint()?.sql;
        let ours = SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}"));
        let theirs = sql.get_options().map(str::to_owned);
        sql.options(ours.chain(theirs).collect::<Vec<_>>().join(" "));
        let closed = CancellationToken::new();
        let (client, connection) = open(config, sql, closed.clone()).await?;
        client
            .batch_execute(UNSET_TRANSACTION_TIMEOUT)
            .await
            .doing(|| "prepare a session".to_owned())?;
        Ok(Self { client, closed, _connection: connection })
    }

    /// Returns when the connection has ended. Cancel-safe.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// When the open transaction began, by the server's clock: microseconds since 1970 UTC.
    pub(crate) async fn now_us(&self) -> Result<i64> {
        let query = "select (extract(epoch from now()) * 1000000)::int8";
        let row = self.client.query_one(query, &[]).await;
        row.and_then(|row| row.try_get(0)).doing(|| "look at the server's clock".to_owned())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle is owned and aborts on drop")]
async fn open(
    config: &PostgresConfig,
    mut sql: Config,
    closed: CancellationToken,
) -> Result<(Client, AbortOnDropHandle<()>)> {
    let endpoint = config.endpoint()?;
    let action = || format!("connect to PostgreSQL at {}", endpoint.name());
    sql.connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(TCP_KEEPALIVE_IDLE)
        .keepalives_interval(TCP_KEEPALIVE_INTERVAL)
        .tcp_user_timeout(TCP_USER_TIMEOUT);
    sql.ssl_mode(match endpoint.ssl {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            tokio_postgres::config::SslMode::Require
        }
    });
    let ended = closed.drop_guard();
    if endpoint.ssl == SslMode::Disable {
        let (client, connection) = sql.connect(NoTls).await.doing(action)?;
        let task = tokio::spawn(async move {
            end(connection.await);
            drop(ended);
        });
        return Ok((client, AbortOnDropHandle::new(task)));
    }
    let tls = tls::client_config(&endpoint, config.ca_file.as_deref())?;
    let (client, connection) = sql.connect(MakeRustlsConnect::new(tls)).await.doing(action)?;
    let task = tokio::spawn(async move {
        end(connection.await);
        drop(ended);
    });
    Ok((client, AbortOnDropHandle::new(task)))
}

/// Whoever uses the session gets the error too; here it is only a trace.
fn end(result: Result<(), tokio_postgres::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a session ended");
    }
}
