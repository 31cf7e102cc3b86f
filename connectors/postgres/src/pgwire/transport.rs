//! TCP, and TLS over it as `sslmode` says.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::frame::WireError;
use crate::config::{Endpoint, SslMode};
use crate::session::{TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL, TCP_USER_TIMEOUT};

/// A byte stream to the server.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Transport for T {}

/// A byte stream, and the socket at its bottom.
pub(super) struct Connected {
    pub(super) transport: Box<dyn Transport>,
    pub(super) socket: Option<Socket>,
}

impl Connected {
    /// Sends all of `bytes` at once.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(&mut self.transport, bytes).await
    }
}

/// Sends all of `bytes` at once. TLS keeps what it cannot send in the same moment, until it is told to
/// send it; and a task that has had its share of the runtime can send nothing in that moment.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Connects, and encrypts if both sides will.
pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: ClientConfig,
) -> Result<(Connected, Encryption), WireError> {
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    configure(&tcp)?;
    let socket = Some(SockRef::from(&tcp).try_clone()?);
    let (transport, encryption) = encrypt(tcp, endpoint, tls).await?;
    Ok((Connected { transport, socket }, encryption))
}

async fn encrypt(
    mut tcp: TcpStream,
    endpoint: &Endpoint,
    tls: ClientConfig,
) -> Result<(Box<dyn Transport>, Encryption), WireError> {
    if endpoint.ssl == SslMode::Disable {
        return Ok((Box::new(tcp), Encryption::None));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    // One byte at most: what follows an acceptance belongs to TLS.
    let mut answer = [0];
    if tcp.read(&mut answer).await? == 0 {
        return Err(WireError::Closed);
    }
    match (answer, endpoint.ssl) {
        ([b'S'], _) => {
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|error| WireError::Authentication(error.to_string()))?;
            let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
            Ok((Box::new(tls), Encryption::Tls))
        }
        ([_], SslMode::Prefer) => Ok((Box::new(tcp), Encryption::None)),
        ([_], _) => Err(WireError::TlsRefused),
    }
}

/// Whether others can read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    None,
    Tls,
}

fn configure(tcp: &TcpStream) -> Result<(), WireError> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(TCP_KEEPALIVE_IDLE).with_interval(TCP_KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}
