//! Writers that change rows of their own until told to stop, and remember what they committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::memory::Faults;
use tokio::task::JoinHandle;

use super::world::connect;

/// The table that [`Load`] writes to.
pub const SCHEMA: &str = "
    CREATE SEQUENCE revs;
    CREATE TABLE orders (id bigint PRIMARY KEY, rev bigint, note text, tags text[]);
    CREATE TABLE events (id bigint PRIMARY KEY, rev bigint);
    ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;";

/// Rows that one writer plays with.
const KEYS: usize = 200;

/// What the writers committed.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The `rev` of each insert and update, in the order of its writer.
    pub revs: Vec<i64>,
    /// Deleted rows, and the old halves of key changes.
    pub deletes: usize,
}

/// Writers under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Committed>>,
}

impl Load {
    /// Starts `writers` of them on database `name`.
    pub fn start(name: &str, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |number| {
            let (stop, name) = (Arc::clone(&stop), name.to_owned());
            #[expect(clippy::disallowed_methods, reason = "finish() waits for it")]
            tokio::task::spawn(write(name, number, stop))
        };
        let writers = (0..writers).map(one).collect();
        Self { stop, writers }
    }

    /// Stops them, and says what they committed.
    pub async fn finish(self) -> Vec<Committed> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in self.writers {
            all.push(writer.await.unwrap());
        }
        all
    }
}

async fn write(name: String, number: usize, stop: Arc<AtomicBool>) -> Committed {
    let client = connect(&name).await;
    let rng = Faults::seeded(number as u64 + 1, 0.0);
    let mut committed = Committed::default();
    while !stop.load(Ordering::Relaxed) {
        client.batch_execute("BEGIN").await.unwrap();
        for _ in 0..=rng.below(5) {
            let id = (number * KEYS + rng.below(KEYS)) as i64;
            change(&client, &rng, id, &mut committed).await;
        }
        client.batch_execute("COMMIT").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    committed
}

async fn change(client: &tokio_postgres::Client, rng: &Faults, id: i64, committed: &mut Committed) {
    let (query, moves) = match rng.below(10) {
        0 => {
            let deleted = client.execute("DELETE FROM orders WHERE id = $1", &[&id]).await.unwrap();
            committed.deletes += deleted as usize;
            return;
        }
        // The large column is left alone: its value must be found.
        1..=4 => ("UPDATE orders SET rev = nextval('revs') WHERE id = $1::bigint RETURNING rev", 0),
        // To a key that no writer has.
        5 => ("UPDATE orders SET id = id + 1000000, rev = nextval('revs')
               WHERE id = $1::bigint AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = $1::bigint + 1000000) RETURNING rev", 1),
        _ => ("INSERT INTO orders VALUES ($1::bigint, nextval('revs'), repeat('n' || $1::bigint, 1000), ARRAY['a', NULL])
               ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, note = 'short' RETURNING rev", 0),
    };
    if let Some(row) = client.query_opt(query, &[&id]).await.unwrap() {
        committed.revs.push(row.get(0));
        committed.deletes += moves;
    }
}
