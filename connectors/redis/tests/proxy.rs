//! A proxy that keeps back what a client sends, and delivers it when the client is long gone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How many more reads from a client pass: `None` for all of them.
type Gate = Option<usize>;

const ANSWER_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Proxy {
    address: SocketAddr,
    /// Of the connections so far.
    gates: Arc<Mutex<Vec<watch::Sender<Gate>>>>,
    late: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(server: (&'static str, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gates: Arc<Mutex<Vec<watch::Sender<Gate>>>> = Arc::default();
        let (answers, late) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        let all = Arc::clone(&gates);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (gate, watched) = watch::channel(None);
                all.lock().unwrap().push(gate);
                connections.spawn(connection(client, server, watched, answers.clone()));
            }
        });
        Self { address, gates, late, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on, only `reads` more pieces pass on the connections that are there and not held
    /// yet; new ones are not concerned.
    pub(crate) fn hold_after(&self, reads: usize) {
        for gate in self.gates.lock().unwrap().iter().filter(|gate| gate.borrow().is_none()) {
            gate.send_replace(Some(reads));
        }
    }

    /// Delivers what was kept back of the oldest connection.
    pub(crate) fn release_oldest(&self) {
        let gates = self.gates.lock().unwrap();
        gates.iter().find(|gate| gate.borrow().is_some()).unwrap().send_replace(None);
    }

    /// Delivers everything that was kept back, and no longer keeps back.
    pub(crate) fn release(&self) {
        for gate in self.gates.lock().unwrap().iter() {
            gate.send_replace(None);
        }
    }

    /// What the server answered to what was delivered late. Waits for the first of it.
    pub(crate) async fn late_answer(&mut self) -> String {
        let late = tokio::time::timeout(ANSWER_MAX, self.late.recv()).await;
        late.expect("the server answers to what was delivered late").unwrap()
    }
}

async fn connection(
    client: TcpStream,
    server: (&'static str, u16),
    gate: watch::Receiver<Gate>,
    answers: mpsc::Sender<String>,
) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let is_gone = AtomicBool::new(false);
    tokio::join!(
        forward(from_client, to_server, (gate, &is_gone)),
        back(from_server, to_client, (answers, &is_gone)),
    );
}

/// Passes bytes on while the gate lets them; the rest, and the end of the stream, wait for it.
async fn forward(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    (mut gate, is_gone): (watch::Receiver<Gate>, &AtomicBool),
) {
    let mut kept = Vec::new();
    let (mut is_open, mut passed) = (true, 0);
    while is_open {
        let mut piece = [0; 4096];
        // Reading first: what was sent before a gate closed is counted against it.
        tokio::select! {
            biased;
            read = client.read(&mut piece) => {
                let count = read.unwrap_or(0);
                kept.extend_from_slice(&piece[..count]);
                is_open = count > 0;
                passed = if gate.borrow().is_some() { passed + 1 } else { 0 };
            }
            changed = gate.changed() => match changed {
                Ok(()) => passed = 0,
                Err(_) => return,
            },
        }
        let is_held = gate.borrow().is_some_and(|reads| passed > reads);
        if !is_held && server.write_all(&std::mem::take(&mut kept)).await.is_err() {
            return;
        }
    }
    is_gone.store(true, Ordering::SeqCst);
    // The gate opens, or the proxy ends.
    gate.wait_for(Option::is_none).await.ok();
    server.write_all(&kept).await.ok();
    server.shutdown().await.ok();
}

async fn back(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    (late, is_gone): (mpsc::Sender<String>, &AtomicBool),
) {
    let mut piece = vec![0; 65_536];
    while let Ok(count) = server.read(&mut piece).await
        && count > 0
    {
        if is_gone.load(Ordering::SeqCst) {
            late.try_send(String::from_utf8_lossy(&piece[..count]).into_owned()).ok();
        } else {
            client.write_all(&piece[..count]).await.ok();
        }
    }
}
