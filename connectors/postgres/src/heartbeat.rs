//! Messages in the WAL that measure how long a change is under way.
//!
//! ```text
//! pg_logical_emit_message ──▶ WAL ──▶ walsender ──▶ the stream ──▶ SourceStats: latency
//! ```
//!
//! Nothing depends on them: keepalives alone move an idle slot. A heartbeat is no transaction and no
//! event; only the process that reads the slot sends any, and it knows its own by a random id.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Result;
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::PostgresConfig;
use crate::error::Context;
use crate::server::Server;
use crate::session::Session;
use crate::stats::SourceStats;

/// The prefix of our messages, among those of others.
pub(crate) const PREFIX: &str = "anabranch";
/// How long the server may take to write one.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// A source that has heard nothing for this long is not reading: three statuses of a server.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// From this version on the message can be flushed at once; before, the WAL writer does it, within
/// three times its `wal_writer_delay`.
pub(crate) const FLUSH_VERSION: u32 = 170_000;

/// Sends heartbeats as `[source] heartbeat_ms` asks; without it, waits for ever. Cancel-safe.
pub async fn beat(config: &PostgresConfig, stats: &Arc<SourceStats>) {
    let Some(interval_ms) = config.heartbeat_ms else { return std::future::pending().await };
    let mut session = None;
    let mut told = false;
    loop {
        tokio::time::sleep(Duration::from_millis(interval_ms.get())).await;
        if stats.silence().is_none_or(|silence| silence > SILENCE_MAX) {
            continue;
        }
        let sent = timeout(ANSWER_WAIT_MAX, send(config, &mut session, stats)).await;
        let trouble = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.report()),
            Err(_elapsed) => Some("the server does not answer".to_owned()),
        };
        if let Some(trouble) = &trouble {
            session = None;
            if !told {
                tracing::warn!("no heartbeat: {trouble}");
            }
        }
        told = trouble.is_some();
    }
}

async fn send(
    config: &PostgresConfig,
    session: &mut Option<(Session, u32)>,
    stats: &SourceStats,
) -> Result<()> {
    let (open, version) = match session.take() {
        Some((open, version)) if !open.is_closed() => (open, version),
        Some(_) | None => {
            let open = Session::open(config).await?;
            let version = Server::read(&open).await?.version;
            (open, version)
        }
    };
    let id = Uuid::new_v4();
    let flush = if version >= FLUSH_VERSION { ", true" } else { "" };
    let query = format!("select pg_logical_emit_message(false, '{PREFIX}', '{id}'{flush})");
    stats.heartbeat_sent(id);
    open.batch_execute(&query).await.doing(|| "send a heartbeat".to_owned())?;
    *session = Some((open, version));
    Ok(())
}
