//! Reads every row of an index as a user sees it: for tests, the demo and `verify`.

use anabranch_core::Result;
use serde_json::json;
use serde_json::value::RawValue;

use crate::ElasticsearchConfig;
use crate::client::Client;
use crate::error::Failure;
use crate::search::{Query, Scan, refresh};

/// Documents may be large, and a page of them is held in memory twice.
const PAGE_ROWS: usize = 1000;

/// A row as the index holds it.
#[derive(Clone, Debug)]
pub struct Document {
    /// `_id`: the key's text or its hash.
    pub id: String,
    /// `_source`, byte for byte: numbers are as exact as they were written.
    pub source: Box<RawValue>,
}

/// Every row that `alias` shows, in no order, once all that was written is visible.
///
/// # Errors
///
/// As a read of the index: an alias that does not exist is
/// [`anabranch_core::ErrorKind::Transient`], since the sink makes it when it first runs.
pub async fn read_all(config: &ElasticsearchConfig, alias: &str) -> Result<Vec<Document>> {
    let client = Client::new(config, "reader")?;
    let rows = read(&client, alias).await;
    rows.map_err(|failure| failure.during(&client.sink, format!("read alias {alias}")))
}

async fn read(client: &Client, alias: &str) -> Result<Vec<Document>, Failure> {
    refresh(client, alias).await?;
    let query = Query { query: json!({"match_all": {}}), with_source: true, page_size: PAGE_ROWS };
    let mut scan = Scan::open(client, alias, query).await?;
    let mut rows = Vec::new();
    loop {
        let page = scan.next().await?;
        if page.is_empty() {
            scan.close().await;
            return Ok(rows);
        }
        for hit in page {
            let missing = || Failure::Reply(format!("document {:?} without _source", hit.id));
            rows.push(Document { source: hit.source.ok_or_else(missing)?, id: hit.id });
        }
    }
}
