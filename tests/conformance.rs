//! The stores in memory keep the contract that the real ones are held to in their own crates.

use std::collections::BTreeMap;

use anabranch_core::conformance::{self, Harness};
use anabranch_core::memory::{Faults, MemorySink, MemoryStore, Protocol};

struct Memory {
    protocol: Protocol,
    store: MemoryStore,
}

impl Harness for Memory {
    type Sink = MemorySink;

    async fn fresh(&mut self) {
        self.store = MemoryStore::new(self.protocol);
    }

    async fn open(&mut self, partitions: &[i32]) -> MemorySink {
        MemorySink::new(self.store.clone(), partitions.to_vec(), Faults::none())
    }

    async fn rows(&mut self) -> BTreeMap<i64, Option<i64>> {
        self.store.rows()
    }
}

#[tokio::test]
async fn stores_in_memory_conform() {
    for protocol in [Protocol::Token, Protocol::Version, Protocol::Commit] {
        conformance::all(&mut Memory { protocol, store: MemoryStore::new(protocol) }).await;
    }
}
