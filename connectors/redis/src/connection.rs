//! The connection to Redis, made again after any failure.
//!
//! No connection manager: it would make a new connection behind our back, perhaps to a server
//! that holds an older state, while an earlier script is still on its way.

use std::time::Duration;

use anabranch_core::Result;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, RedisConnectionInfo, RedisError, cmd,
};

use crate::RedisConfig;
use crate::error::Failure;
use crate::info::Info;

/// A server, and the connection to it while there is one.
pub(crate) struct Server {
    client: Client,
    /// Sent by us rather than by the crate, which hides what the server answers.
    login: RedisConnectionInfo,
    timeout: Duration,
    connection: Option<MultiplexedConnection>,
}

/// What is written to the socket in one piece: a chunk is some hundred kilobytes.
const WRITE_BUFFER: usize = 256 << 10;

impl Server {
    /// Nothing is sent yet.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self> {
        let parse = || -> Result<(Client, RedisConnectionInfo), RedisError> {
            let info = config.url.expose().into_connection_info()?;
            let login = info.redis_settings().clone();
            let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
            let bare = bare.set_protocol(login.protocol());
            Ok((Client::open(info.set_redis_settings(bare))?, login))
        };
        let (client, login) = parse().map_err(|error| Failure::from(error).at("read the url"))?;
        Ok(Self { client, login, timeout: config.request_timeout(), connection: None })
    }

    /// `Redis at host:port`, for messages.
    pub(crate) fn name(&self) -> String {
        format!("Redis at {}", self.client.get_connection_info().addr())
    }

    /// The connection; a new one if there is none.
    pub(crate) async fn connection(&mut self) -> Result<MultiplexedConnection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        Ok(self.connect_and_look().await?.0)
    }

    /// A new connection, and what the server says of itself.
    pub(crate) async fn connect_and_look(&mut self) -> Result<(MultiplexedConnection, Info)> {
        let connecting = tokio::time::timeout(self.timeout, self.connect());
        let connected = match connecting.await {
            Ok(connected) => connected,
            Err(late) => Err(RedisError::from(std::io::Error::from(late))),
        };
        let action = || format!("connect to {}", self.name());
        let (connection, info) = connected.map_err(|error| Failure::from(error).at(action()))?;
        if info.is_cluster() {
            return Err(Failure::Cluster.at(action()));
        }
        self.connection = Some(connection.clone());
        Ok((connection, info))
    }

    /// Closes the connection, after anything that leaves it in doubt.
    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Info), RedisError> {
        install_crypto();
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_write_backpressure_boundary(WRITE_BUFFER);
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&settings).await?;
        if let Some(password) = self.login.password() {
            let mut auth = cmd("AUTH");
            auth.arg(self.login.username()).arg(password);
            auth.query_async::<()>(&mut connection).await?;
        }
        if self.login.db() != 0 {
            cmd("SELECT").arg(self.login.db()).query_async::<()>(&mut connection).await?;
        }
        let info: String = cmd("INFO").query_async(&mut connection).await?;
        Ok((connection, Info::new(info)))
    }
}

/// For `rediss://`: two providers are linked, so rustls cannot choose by itself. Has no effect
/// where the program has chosen.
fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        rustls::crypto::ring::default_provider().install_default().ok();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.name()).finish_non_exhaustive()
    }
}
