//! What `anabranch check` looks at.

use anabranch_core::{Finding, Level};
use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::RedisConfig;
use crate::connection::Server;
use crate::info::Info;

/// Looks at the server that sink `sink` is to write to. Nothing is written.
pub async fn check(config: &RedisConfig, sink: &str) -> Vec<Finding> {
    let blocker = |subject: String, error: anabranch_core::Error| {
        vec![Finding::blocker(subject, &error, "see that it runs and can be reached from here")]
    };
    if let Err(error) = config.validate(sink) {
        return blocker(format!("{sink}: settings"), error);
    }
    let mut server = match Server::new(config) {
        Ok(server) => server,
        Err(error) => return blocker(format!("{sink}: url"), error),
    };
    let name = server.name();
    let (connection, info) = match server.connect_and_look().await {
        Ok(connected) => connected,
        Err(error) => return blocker(format!("{sink}: {name}"), error),
    };
    let mut findings = vec![version(&info), role(&info), eviction(&info)];
    findings.push(persistence(&info, &save_points(connection).await));
    for finding in &mut findings {
        finding.subject = format!("{sink}: {name}: {}", finding.subject);
    }
    findings
}

/// The first version whose answers and scripts this was built for.
const VERSION_MIN: u32 = 7;

fn version(info: &Info) -> Finding {
    let seen = info.get("redis_version");
    if info.major_version() >= VERSION_MIN {
        return Finding::fine("version", seen);
    }
    Finding::trouble(Level::Risk, "version", seen, "use Redis 7 or newer: this one is not tested")
}

fn role(info: &Info) -> Finding {
    match info.get("role") {
        "slave" => Finding::trouble(
            Level::Blocker,
            "role",
            "replica",
            format!("a replica takes no writes: use its master, {}", info.get("master_host")),
        ),
        role => Finding::fine("role", role),
    }
}

fn eviction(info: &Info) -> Finding {
    match info.get("maxmemory_policy") {
        policy @ "noeviction" => Finding::fine("maxmemory-policy", policy),
        policy => Finding::trouble(
            Level::Risk,
            "maxmemory-policy",
            policy,
            "rows that Redis evicts are missing until their next change: CONFIG SET \
             maxmemory-policy noeviction",
        ),
    }
}

/// `save_points` is the setting `save`, or nothing if it may not be read.
fn persistence(info: &Info, save_points: &str) -> Finding {
    let broken = ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"]
        .into_iter()
        .find(|name| info.get(name) == "err");
    let trouble =
        |seen: String, help: &str| Finding::trouble(Level::Risk, "persistence", seen, help);
    match (broken, info.get("aof_enabled"), save_points) {
        (Some(name), _, _) => trouble(format!("{name}:err"), "see the log of Redis"),
        (None, "1", _) => Finding::fine("persistence", "append-only file"),
        (None, _, "") => trouble(
            "off".to_owned(),
            "after a restart Redis is empty, and everything is replayed from the log: CONFIG SET \
             appendonly yes",
        ),
        (None, _, points) => Finding::fine("persistence", format!("snapshots ({points})")),
    }
}

async fn save_points(mut connection: MultiplexedConnection) -> String {
    let mut get = cmd("CONFIG");
    let answer = get.arg("GET").arg("save").query_async::<Vec<String>>(&mut connection).await;
    // Managed servers do not allow CONFIG; they persist, or say so elsewhere.
    answer
        .map_or_else(|_| "not known".to_owned(), |pair| pair.into_iter().nth(1).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_rows_are_a_risk() {
        let info = |text: &str| Info::new(text.replace(' ', "\r\n"));
        let fine =
            info("redis_version:7.0.15 role:master maxmemory_policy:noeviction aof_enabled:1");
        assert_eq!(version(&fine).level, Level::Fine);
        assert_eq!(role(&fine).level, Level::Fine);
        assert_eq!(eviction(&fine).level, Level::Fine);
        assert_eq!(persistence(&fine, "").level, Level::Fine);
        let risky =
            info("redis_version:6.2.1 role:slave maxmemory_policy:allkeys-lru aof_enabled:0");
        assert_eq!(version(&risky).level, Level::Risk);
        assert_eq!(role(&risky).level, Level::Blocker);
        assert_eq!(eviction(&risky).level, Level::Risk);
        assert_eq!(persistence(&risky, "").level, Level::Risk);
        assert_eq!(persistence(&risky, "3600 1").level, Level::Fine);
        let broken = info("aof_enabled:1 aof_last_write_status:err");
        assert_eq!(persistence(&broken, "").level, Level::Risk);
    }
}
