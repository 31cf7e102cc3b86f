//! Sends chunks until each item is done, refused, or out of time.
//!
//! ```text
//! chunk ─▶ _bulk ─▶ busy items ─▶ wait ─▶ again ─┐
//!            ▲                                   │   until the deadline of the batch
//!            └───────────────────────────────────┘
//! ```
//!
//! The invariant: no attempt is sent after the deadline, so a stopped worker's write is never
//! later than that; the server keeps tombstones far longer ([`crate::mapping::GC_DELETES`]).

use std::time::Duration;

use elasticsearch::http::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::bulk::{Chunk, ROWS_FILTER, Refusal, verdict};
use crate::client::{Client, Request};
use crate::error::Failure;

/// The first wait before busy items are sent again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait: a queue of the server that has room again is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Smaller bodies are read by every server.
const SUSPECT_BYTES: usize = 1 << 20;

/// Writes through one alias until one deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) client: &'a Client,
    /// The write alias.
    pub(crate) alias: &'a str,
    pub(crate) deadline: Instant,
}

impl Writer<'_> {
    /// Returns once every item is written, or found to be older than what is there.
    pub(crate) async fn write(&self, chunk: Chunk) -> Result<(), Failure> {
        let mut waiting = vec![chunk];
        let mut backoff = Backoff::default();
        while let Some(chunk) = waiting.pop() {
            if chunk.is_empty() {
                continue;
            }
            match self.attempt(&chunk).await {
                Ok(None) => backoff = Backoff::default(),
                Ok(Some((rest, answer))) => {
                    waiting.push(rest);
                    backoff.pause(self.deadline, &answer).await?;
                }
                Err(failure) if failure.is_busy() => {
                    waiting.push(chunk);
                    backoff.pause(self.deadline, &failure.to_string()).await?;
                }
                Err(failure) => {
                    let failure = self.explain(failure, &chunk).await;
                    if !failure.is_too_large() {
                        return Err(failure);
                    }
                    let (first, second) = halves(&chunk, failure)?;
                    waiting.extend([second, first]);
                }
            }
        }
        Ok(())
    }

    /// Sends a chunk once. Returns what has to be sent again, if anything, and why.
    async fn attempt(&self, chunk: &Chunk) -> Result<Option<(Chunk, String)>, Failure> {
        let reply = self.bulk(chunk, ROWS_FILTER).await?;
        let verdict =
            verdict(&reply, chunk.len()).map_err(|error| Failure::Reply(error.to_string()))?;
        if let Some(refusal) = verdict.refused {
            return Err(refused(chunk, refusal));
        }
        let busy = verdict.again.len();
        let rest = (busy > 0).then(|| chunk.only(verdict.again));
        Ok(rest.map(|rest| (rest, format!("busy, {busy} of {} items rejected", chunk.len()))))
    }

    /// A server that refuses a body for its size may close the connection before it has read the
    /// body, and then nobody reads its answer (413): whether it was that, its settings say.
    async fn explain(&self, failure: Failure, chunk: &Chunk) -> Failure {
        if !matches!(failure, Failure::Transport(_)) || chunk.body().len() < SUSPECT_BYTES {
            return failure;
        }
        match body_limit(self.client, self.deadline).await {
            Some(limit) if chunk.body().len() > limit => Failure::Answer {
                status: 413,
                kind: String::new(),
                reason: format!("http.max_content_length is {limit}"),
            },
            Some(_) | None => failure,
        }
    }

    /// One request, one reply.
    pub(crate) async fn bulk(&self, chunk: &Chunk, filter: &str) -> Result<bytes::Bytes, Failure> {
        let path = format!("{}/_bulk", self.alias);
        // The server gives up waiting for a shard no later than we do.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let request = Request::new(Method::Post, &path)
            .query("require_alias", "true")
            .query("timeout", format!("{}ms", left.as_millis().max(1)))
            .query("filter_path", filter)
            .lines(chunk.body());
        self.client.call(request, self.deadline).await
    }
}

/// The largest body that every node reads; `None` if that cannot be found out.
async fn body_limit(client: &Client, deadline: Instant) -> Option<usize> {
    let answer: Value = client.ask(Request::get("_nodes/http"), deadline).await.ok()?;
    let nodes = answer.get("nodes")?.as_object()?.values();
    let limit = |node: &Value| node.pointer("/http/max_content_length_in_bytes")?.as_u64();
    nodes.filter_map(limit).min()?.try_into().ok()
}

/// The waits between attempts.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    /// Waits before the next attempt, unless that would be after the deadline: then it fails with
    /// what was last heard of the server.
    pub(crate) async fn pause(&mut self, deadline: Instant, heard: &str) -> Result<(), Failure> {
        if Instant::now() + self.0 >= deadline {
            return Err(Failure::Deadline(heard.to_owned()));
        }
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// A refusal of the request as a whole (index gone, no privilege) is not the document's.
pub(crate) fn refused(chunk: &Chunk, refusal: Refusal) -> Failure {
    let of_the_document = refusal.is_of_the_document();
    let Refusal { place, status, kind, reason } = refusal;
    if of_the_document {
        Failure::Refused { id: chunk.id(place), status, kind, reason }
    } else {
        Failure::Answer { status, kind, reason }
    }
}

/// The server reads no body that large: two smaller ones, down to a single document.
fn halves(chunk: &Chunk, failure: Failure) -> Result<(Chunk, Chunk), Failure> {
    if chunk.len() > 1 {
        return Ok(chunk.halves());
    }
    let reason = format!("it takes {} bytes; {failure}", chunk.body().len());
    Err(Failure::Refused { id: chunk.id(0), status: 413, kind: "too large".to_owned(), reason })
}
