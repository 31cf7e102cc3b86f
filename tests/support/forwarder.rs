//! An address that leads to one server, and later to another, as a name or a virtual address does.
//!
//! ```text
//! daemon ──▶ Forwarder ──▶ the server of the last `lead_to`
//!                │
//!                └ freeze · thaw_until(text): what is under way stays where it is
//! ```
//!
//! It has a thread of its own, so that it also serves while a test waits for something else.

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::world::SETTLE;

const CHUNK_BYTES: usize = 64 * 1024;

/// Whether bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Frozen,
    /// Until somebody sends this text; then it is frozen, and the text is not sent.
    Until(&'static str),
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct State {
    flow: Flow,
    port: u16,
    /// Each ends the connections there are.
    moves: usize,
}

type Shared = watch::Sender<State>;

/// The address. It is gone when it is dropped.
pub struct Forwarder {
    port: u16,
    shared: Shared,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// An address that leads to the server at `url`.
    pub fn to(url: &str) -> Self {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared::new(State { flow: Flow::Open, port: port_of(url), moves: 0 });
        let its = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, its));
        });
        Self { port, shared, thread: Some(thread) }
    }

    /// The server's URL, by this address.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Leads to another server from here on.
    pub fn lead_to(&self, url: &str) {
        let port = port_of(url);
        self.shared.send_modify(|state| {
            *state = State { flow: Flow::Open, port, moves: state.moves + 1 };
        });
    }

    /// No byte passes any more.
    pub fn freeze(&self) {
        self.set(Flow::Frozen);
    }

    /// Everything passes until somebody sends `text`; returns once it is frozen before that.
    pub async fn thaw_until(&self, text: &'static str) {
        let mut state = self.shared.subscribe();
        self.set(Flow::Until(text));
        let frozen = state.wait_for(|state| state.flow == Flow::Frozen);
        let frozen = tokio::time::timeout(SETTLE, frozen).await;
        assert!(frozen.is_ok(), "nobody sends {text}");
    }

    fn set(&self, flow: Flow) {
        self.shared.send_modify(|state| state.flow = flow);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.set(Flow::Ended);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn port_of(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

async fn serve(listener: StdListener, shared: Shared) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut state = shared.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = state.wait_for(|state| state.flow == Flow::Ended) => return,
            client = listener.accept() => {
                connections.spawn(forward(client.unwrap().0, shared.clone()));
            }
        }
    }
}

/// Carries bytes both ways until one side ends, or the address moves.
async fn forward(client: TcpStream, shared: Shared) {
    let mut state = shared.subscribe();
    let State { port, moves, .. } = *state.borrow_and_update();
    // Nobody there: the client is hung up on.
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        _ = pump(from_client, to_server, &shared) => {}
        _ = pump(from_server, to_client, &shared) => {}
        _ = state.wait_for(|state| state.moves != moves) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut state = shared.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        let chunk = &buffer[..bytes];
        if chunk.is_empty() {
            return Ok(());
        }
        stop_at(shared, chunk);
        drop(state.wait_for(|state| state.flow != Flow::Frozen).await);
        to.write_all(chunk).await?;
    }
}

/// Freezes everything if this is what it was to go on until.
fn stop_at(shared: &Shared, chunk: &[u8]) {
    shared.send_if_modified(|state| {
        let Flow::Until(text) = state.flow else { return false };
        let found = chunk.windows(text.len()).any(|window| window == text.as_bytes());
        state.flow = if found { Flow::Frozen } else { state.flow };
        found
    });
}
