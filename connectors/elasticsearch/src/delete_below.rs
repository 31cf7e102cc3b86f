//! Removes the rows of a partition below a version (TRUNCATE, the sweep after a snapshot).
//!
//! ```text
//! refresh ─▶ point in time over _p = p, _v < V ─▶ delete each with version V ─┐ until none is left
//!    ▲                                                                        │
//!    └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The deletes carry V itself with `version_type=external`, so that they hit versions below V and
//! nothing else, and leave tombstones of V:
//!
//! * A row of V, written after the TRUNCATE in the same transaction, stays, however late a delete
//!   arrives; and it may be written over the tombstone, for `external_gte` takes an equal version.
//! * A late write of a row below V is refused by the tombstone. (A tombstone of V − 1 with
//!   `external_gte` would let the rows back in that the same transaction wrote just before the
//!   TRUNCATE: their version is V − 1.)
//!
//! So a delete is right at any time, and needs no deadline: a large table takes as long as it
//! takes. Rows are found however rarely the index refreshes by itself, since each round refreshes.

use anabranch_core::DeleteBelow;
use serde_json::json;

use crate::ElasticsearchConfig;
use crate::bulk::{ChunkWriter, Guard};
use crate::client::Client;
use crate::error::Failure;
use crate::names::Names;
use crate::search::{Query, Scan, refresh};
use crate::write::Writer;

/// The first round finds all rows but those that a stopped worker's late request adds; more than a
/// few such requests there are not.
const ROUNDS_MAX: usize = 16;
/// The server's own limit for a page.
const PAGE_ROWS: usize = 10_000;

/// Returns once no such row is left.
pub(crate) async fn delete_below(
    client: &Client,
    names: &Names,
    config: &ElasticsearchConfig,
    below: DeleteBelow,
) -> Result<(), Failure> {
    for _ in 0..ROUNDS_MAX {
        refresh(client, &names.index).await?;
        if round(client, names, config, below).await? == 0 {
            return Ok(());
        }
    }
    Err(Failure::Endless(ROUNDS_MAX))
}

/// How many rows were found, and deleted unless they had become newer meanwhile.
async fn round(
    client: &Client,
    names: &Names,
    config: &ElasticsearchConfig,
    below: DeleteBelow,
) -> Result<usize, Failure> {
    let query = json!({"bool": {"filter": [
        {"term": {&config.partition_field: below.partition}},
        {"range": {&config.version_field: {"lt": below.version.to_i64()}}},
    ]}});
    let query = Query { query, with_source: false, page_size: PAGE_ROWS };
    let mut scan = Scan::open(client, &names.index, query).await?;
    let mut found = 0;
    loop {
        let page = scan.next().await?;
        if page.is_empty() {
            break;
        }
        found += page.len();
        let mut chunk = ChunkWriter::default();
        for hit in &page {
            chunk.delete(&hit.id, below.version, Guard::Newer);
        }
        let writer = Writer { client, alias: &names.write, deadline: client.deadline() };
        writer.write(chunk.take()).await?;
    }
    scan.close().await;
    Ok(found)
}
