//! Something that answers in the server's place, as far as a source can tell.

use std::net::SocketAddr;

use anabranch_core::Level;
use anabranch_postgres::{PostgresConfig, check};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{TABLE, finds};
use crate::support::Database;

/// How a pooler shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pooler {
    /// It passes everything on, but announces a key of its own.
    OwnKey,
    /// It knows no startup parameter `options`.
    NoOptions,
}

/// Listens, and passes connections on to `server`.
async fn listen(server: SocketAddr, kind: Pooler) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            connections.spawn(pass_on(client, server, kind));
        }
    });
    (port, tasks)
}

async fn pass_on(mut client: TcpStream, server: SocketAddr, kind: Pooler) {
    if kind == Pooler::NoOptions {
        let length = client.read_u32().await.unwrap_or(4);
        let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
        fill(&mut client, &mut startup).await;
        let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        client.write_u8(b'E').await.ok();
        client.write_u32(u32::try_from(fields.len()).unwrap() + 4).await.ok();
        client.write_all(fields).await.ok();
        return;
    }
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let answers = async {
        // Frame by frame until the server is ready; then as it comes.
        loop {
            let Ok(tag) = from_server.read_u8().await else { return };
            let length = from_server.read_u32().await.unwrap();
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            fill(&mut from_server, &mut body).await;
            if tag == b'K' {
                body[..4].copy_from_slice(&[0, 0, 0, 1]);
            }
            to_client.write_u8(tag).await.ok();
            to_client.write_u32(length).await.ok();
            to_client.write_all(&body).await.ok();
            if tag == b'Z' {
                break;
            }
        }
        copy(&mut from_server, &mut to_client).await.ok();
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}

async fn fill(from: &mut (impl AsyncRead + Send + Unpin), buffer: &mut [u8]) {
    let mut read = 0;
    while read < buffer.len() {
        match from.read(&mut buffer[read..]).await {
            Ok(0) | Err(_) => return,
            Ok(more) => read += more,
        }
    }
}

/// The database by way of `port`, without TLS.
fn through(database: &Database, port: u16) -> (SocketAddr, PostgresConfig) {
    let url: url::Url = database.config.url.expose().parse().unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let mut proxied = url;
    proxied.set_host(Some("127.0.0.1")).unwrap();
    proxied.set_port(Some(port)).unwrap();
    proxied.set_query(Some("sslmode=disable"));
    let url = proxied.to_string().into();
    (server.parse().unwrap(), PostgresConfig { url, ..database.config.clone() })
}

#[tokio::test]
async fn one_in_the_way_is_named() {
    let database = Database::new(TABLE, &["public.t"]).await;
    let (server, _) = through(&database, 0);
    for (kind, level, subject) in
        [(Pooler::OwnKey, Level::Risk, "pooler"), (Pooler::NoOptions, Level::Blocker, "connection")]
    {
        let (port, _tasks) = listen(server, kind).await;
        let (_, config) = through(&database, port);
        finds(&check(&config, None).await, (level, subject), "PgBouncer");
    }
    database.drop().await;
}
