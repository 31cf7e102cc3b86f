//! What `anabranch check` looks at: the server, and the indexes that a sink has made there.

use anabranch_core::{Finding, Level};

use crate::ElasticsearchConfig;
use crate::client::Client;
use crate::error::Failure;
use crate::index::describe;
use crate::search::{Server, server};

/// The first releases that sort a point in time by `_shard_doc`.
const ELASTICSEARCH_MIN: (u32, u32) = (7, 12);
const OPENSEARCH_MIN: (u32, u32) = (3, 3);

/// Looks at the server and at the indexes of the sink of that name. Changes nothing.
pub async fn check(config: &ElasticsearchConfig, sink: &str) -> Vec<Finding> {
    let client = match Client::new(config, sink) {
        Ok(client) => client,
        Err(error) => {
            let help = error.help().unwrap_or_default().to_owned();
            return vec![Finding::trouble(
                Level::Blocker,
                format!("{sink}: config"),
                error.to_string(),
                help,
            )];
        }
    };
    let subject = format!("{sink}: server {}", config.url);
    match server(&client).await {
        Ok(server) => {
            let mut findings = vec![judge(subject, &server)];
            findings.extend(indexes(&client, config).await);
            findings
        }
        Err(failure) => vec![unreachable(&client, subject, failure)],
    }
}

fn unreachable(client: &Client, subject: String, failure: Failure) -> Finding {
    let error = failure.during_setup(&client.sink, "read");
    Finding::blocker(subject, &error, &format!("check [sinks.{}] url", client.sink))
}

fn judge(subject: String, server: &Server) -> Finding {
    let name = server.distribution.as_deref().unwrap_or("elasticsearch");
    let least = if name == "opensearch" { OPENSEARCH_MIN } else { ELASTICSEARCH_MIN };
    let seen = format!("{name} {}", server.number);
    let mut parts = server.number.split('.').map_while(|part| part.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= least {
        return Finding::fine(subject, seen);
    }
    let help = format!("use {name} {}.{} or newer", least.0, least.1);
    Finding::trouble(Level::Blocker, subject, seen, help)
}

async fn indexes(client: &Client, config: &ElasticsearchConfig) -> Vec<Finding> {
    let pattern = format!("{}*", config.index_prefix);
    let found = match describe(client, &pattern, client.deadline()).await {
        Ok(found) => found,
        Err(failure) => {
            let subject = format!("{}: indexes {pattern}", client.sink);
            return vec![unreachable(client, subject, failure)];
        }
    };
    let mut findings: Vec<_> = found
        .iter()
        .filter(|(_, index)| index.is_of(&client.sink))
        .map(|(name, index)| {
            let subject = format!("{}: index {name}", client.sink);
            match index.weakness() {
                None => Finding::fine(subject, "durable"),
                Some((seen, help)) => {
                    Finding::trouble(Level::Blocker, subject, seen, help.replace("INDEX", name))
                }
            }
        })
        .collect();
    findings.sort_by(|a, b| a.subject.cmp(&b.subject));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(distribution: Option<&str>, number: &str) -> Level {
        let distribution = distribution.map(str::to_owned);
        judge("search".to_owned(), &Server { distribution, number: number.to_owned() }).level
    }

    #[test]
    fn old_servers_are_blockers() {
        assert_eq!(level(None, "9.5.3"), Level::Fine);
        assert_eq!(level(None, "7.12.0"), Level::Fine);
        assert_eq!(level(None, "7.11.2"), Level::Blocker);
        assert_eq!(level(None, "10.0.0-SNAPSHOT"), Level::Fine);
        assert_eq!(level(Some("opensearch"), "3.8.0"), Level::Fine);
        assert_eq!(level(Some("opensearch"), "2.19.0"), Level::Blocker);
        assert_eq!(level(None, "?"), Level::Blocker);
    }
}
