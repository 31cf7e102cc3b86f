//! A program that reads a slot, and is not ours.

use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;

use super::Database;

/// The connection of a program that has started to read the slot of a database; it ends when this
/// is dropped.
pub(crate) struct Walsender {
    _connection: TcpStream,
}

impl Walsender {
    /// Starts on a private server, which asks for no password.
    pub(crate) async fn start(database: &Database, application_name: &str) -> Self {
        let config: tokio_postgres::Config = database.config.url.expose().parse().unwrap();
        let [Host::Tcp(host)] = config.get_hosts() else { panic!("one host") };
        let address = (host.as_str(), config.get_ports()[0]);
        let mut connection = TcpStream::connect(address).await.unwrap();
        let mut out = bytes::BytesMut::new();
        let parameters = [
            ("user", config.get_user().unwrap()),
            ("database", config.get_dbname().unwrap()),
            ("replication", "database"),
            ("application_name", application_name),
        ];
        frontend::startup_message(parameters, &mut out).unwrap();
        let slot = &database.config.slot;
        let command = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0
             (proto_version '1', publication_names 'anabranch')"
        );
        frontend::query(&command, &mut out).unwrap();
        connection.write_all(&out).await.unwrap();
        // CopyBothResponse: from here on the slot is taken.
        while read_frame(&mut connection).await != b'W' {}
        Self { _connection: connection }
    }
}

async fn read_frame(connection: &mut TcpStream) -> u8 {
    let tag = connection.read_u8().await.unwrap();
    let length = connection.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    connection.read_exact(&mut body).await.unwrap();
    assert_ne!(tag, b'E', "{}", String::from_utf8_lossy(&body));
    tag
}
