//! The contract of every sink.

use std::collections::BTreeMap;

use anabranch_core::conformance::{self, Harness};
use anabranch_elasticsearch::ElasticsearchSink;

use crate::server::Server;

struct Indexes {
    shards: u32,
    server: Server,
}

impl Indexes {
    fn new(shards: u32) -> Self {
        Self { shards, server: Server::new() }
    }
}

impl Harness for Indexes {
    type Sink = ElasticsearchSink;

    async fn fresh(&mut self) {
        self.server = Server::new();
        self.server.config.shards = self.shards;
    }

    async fn open(&mut self, partitions: &[i32]) -> ElasticsearchSink {
        self.server.open(partitions)
    }

    async fn rows(&mut self) -> BTreeMap<i64, Option<i64>> {
        self.server.values().await.into_iter().collect()
    }
}

#[tokio::test]
async fn one_shard_keeps_the_contract() {
    conformance::all(&mut Indexes::new(1)).await;
}

#[tokio::test]
async fn three_shards_keep_the_contract() {
    conformance::all(&mut Indexes::new(3)).await;
}
