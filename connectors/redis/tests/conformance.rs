//! What every store connector must do, in both formats and with small chunks.

use std::collections::BTreeMap;

use anabranch_core::conformance::{Harness, all};
use anabranch_redis::{RedisConfig, RedisSink, RowFormat};

use crate::support::{Space, open};

struct Server {
    change: fn(&mut RedisConfig),
    space: Space,
}

impl Server {
    fn new(change: fn(&mut RedisConfig)) -> Self {
        Self { change, space: Space::new() }
    }
}

impl Harness for Server {
    type Sink = RedisSink;

    async fn fresh(&mut self) {
        self.space.clean().await;
        self.space = Space::new();
        (self.change)(&mut self.space.config);
    }

    async fn open(&mut self, partitions: &[i32]) -> RedisSink {
        open(&self.space.config, partitions).await
    }

    async fn rows(&mut self) -> BTreeMap<i64, Option<i64>> {
        self.space.rows().await
    }
}

async fn run(change: fn(&mut RedisConfig)) {
    let mut server = Server::new(change);
    all(&mut server).await;
    server.space.clean().await;
}

#[tokio::test]
async fn hashes_conform() {
    run(|_| ()).await;
}

#[tokio::test]
async fn hashes_in_chunks_of_one_conform() {
    run(|config| config.chunk_rows_max = 1).await;
}

#[tokio::test]
async fn json_conforms() {
    run(|config| {
        config.format = RowFormat::Json;
        config.version_field = "my \"version\"".to_owned();
    })
    .await;
}
