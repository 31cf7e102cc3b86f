//! Reads all that a query finds, page by page, at one point in time.
//!
//! ```text
//! open a point in time ─▶ _search, sorted by _shard_doc, after the last hit ─▶ … ─▶ close it
//! ```
//!
//! The invariant: a page is either complete over all shards or an error.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::error::Failure;

/// How long the server keeps the point in time from one page to the next.
const KEEP_ALIVE: &str = "2m";

/// A document that was found.
#[derive(Debug, Deserialize)]
pub(crate) struct Hit {
    #[serde(rename = "_id")]
    pub(crate) id: String,
    #[serde(rename = "_source")]
    pub(crate) source: Option<Box<RawValue>>,
    #[serde(default)]
    sort: Vec<Value>,
}

/// What a scan looks for.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) query: Value,
    /// Whether hits bring their documents along.
    pub(crate) with_source: bool,
    pub(crate) page_size: usize,
}

/// A scan under way.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    client: &'a Client,
    query: Query,
    point: String,
    is_opensearch: bool,
    after: Vec<Value>,
}

#[derive(Deserialize)]
struct Opened {
    #[serde(alias = "pit_id")]
    id: String,
}

#[derive(Deserialize)]
struct Page {
    pit_id: Option<String>,
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
pub(crate) struct Shards {
    failed: u64,
}

impl Shards {
    pub(crate) fn all_answered(&self) -> Result<(), Failure> {
        if self.failed == 0 { Ok(()) } else { Err(Failure::Shards(self.failed)) }
    }
}

impl<'a> Scan<'a> {
    /// Begins at the state that the last refresh of `index` made visible.
    pub(crate) async fn open(
        client: &'a Client,
        index: &str,
        query: Query,
    ) -> Result<Self, Failure> {
        let (path, is_opensearch) = match server(client).await?.distribution.as_deref() {
            Some("opensearch") => (format!("{index}/_search/point_in_time"), true),
            Some(_) | None => (format!("{index}/_pit"), false),
        };
        let request = Request::new(Method::Post, &path).query("keep_alive", KEEP_ALIVE);
        let opened: Opened = client.ask(request, client.deadline()).await?;
        Ok(Self { client, query, point: opened.id, is_opensearch, after: Vec::new() })
    }

    /// The next page; empty at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<Hit>, Failure> {
        let mut body = json!({
            "size": self.query.page_size,
            "query": self.query.query,
            "_source": self.query.with_source,
            "track_total_hits": false,
            "pit": {"id": self.point, "keep_alive": KEEP_ALIVE},
            "sort": [{"_shard_doc": "asc"}],
        });
        if let (Some(body), false) = (body.as_object_mut(), self.after.is_empty()) {
            body.insert("search_after".to_owned(), Value::from(self.after.clone()));
        }
        let request = Request::new(Method::Post, "_search")
            .query("allow_partial_search_results", "false")
            .json(&body);
        let page: Page = self.client.ask(request, self.client.deadline()).await?;
        page.shards.all_answered()?;
        if page.timed_out {
            return Err(Failure::Reply("the search was cut short".to_owned()));
        }
        self.point = page.pit_id.unwrap_or_else(|| std::mem::take(&mut self.point));
        if let Some(last) = page.hits.hits.last() {
            self.after.clone_from(&last.sort);
        }
        Ok(page.hits.hits)
    }

    /// Frees the point in time. The server does so by itself after [`KEEP_ALIVE`].
    pub(crate) async fn close(self) {
        let (path, body) = if self.is_opensearch {
            ("_search/point_in_time", json!({"pit_id": [self.point]}))
        } else {
            ("_pit", json!({"id": self.point}))
        };
        let request = Request::new(Method::Delete, path).json(&body);
        if let Err(failure) = self.client.call(request, self.client.deadline()).await {
            tracing::debug!(error = %failure, "a point in time is left to expire");
        }
    }
}

/// What answers at `/`.
#[derive(Debug, Deserialize)]
pub(crate) struct Server {
    /// `elasticsearch` has none, `opensearch` names itself.
    pub(crate) distribution: Option<String>,
    pub(crate) number: String,
}

/// Asks the server what it is.
pub(crate) async fn server(client: &Client) -> Result<Server, Failure> {
    #[derive(Deserialize)]
    struct Root {
        version: Server,
    }
    let root: Root = client.ask(Request::get(""), client.deadline()).await?;
    Ok(root.version)
}

/// Makes all that was written to `index` so far visible to searches.
pub(crate) async fn refresh(client: &Client, index: &str) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Refreshed {
        #[serde(rename = "_shards")]
        shards: Shards,
    }
    let path = format!("{index}/_refresh");
    let request = Request::new(Method::Post, &path);
    let refreshed: Refreshed = client.ask(request, client.deadline()).await?;
    refreshed.shards.all_answered()
}
