//! Whether PostgreSQL itself answers, or a pooler in front of it.
//!
//! Through a pooler that hands out another server connection for each transaction, settings, locks
//! and snapshots of a session are lost between two statements.

use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::error::Context;
use crate::pgwire::{ReplicationConnection, WireError};
use crate::tls;

use super::{Facts, Findings};

/// Statements that must all run in one server process.
const QUESTIONS: usize = 5;
const HELP: &str = "point [source] url at PostgreSQL itself (usually port 5432), not at PgBouncer \
                    or another pooler";
/// What poolers say of a startup packet that they do not pass on.
const REFUSALS: [&str; 3] =
    ["unsupported startup parameter", "replication is not supported", "pooler"];

const TOO_MANY_CONNECTIONS: &str = "53300";

/// What is in front of the server, as far as it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// The server processes that answered one session.
    pids: Vec<i32>,
    /// Whether the session has the settings that it asked for.
    has_settings: bool,
    /// The process that a replication connection was announced, and the one that answered.
    replication_pids: Option<(i32, i32)>,
}

pub(super) async fn look(facts: &Facts<'_>, findings: &mut Findings) -> Result<()> {
    let mut signs = Signs::default();
    for _ in 0..QUESTIONS {
        let (pid, has_settings) = ask(&facts.session).await?;
        signs.pids.push(pid);
        signs.has_settings = has_settings;
    }
    if facts.server.role_replicates {
        match replication_pids(facts).await {
            Ok(pids) => signs.replication_pids = pids,
            Err(error) => {
                findings.blocker("replication connection", &explain(error));
                return Ok(());
            }
        }
    }
    judge(&signs, findings);
    Ok(())
}

async fn ask(client: &Client) -> Result<(i32, bool)> {
    let action = || "look for a pooler".to_owned();
    let query = "
        select pg_backend_pid(), current_setting('IntervalStyle') = 'iso_8601'
                                 and current_setting('row_security') = 'off'";
    let row = client.query_one(query, &[]).await.doing(action)?;
    Ok((row.try_get(0).doing(action)?, row.try_get(1).doing(action)?))
}

/// A pooler announces a key of its own for cancelling. `None` if that cannot be seen now.
async fn replication_pids(facts: &Facts<'_>) -> Result<Option<(i32, i32)>> {
    let endpoint = facts.config.endpoint()?;
    let action = || format!("connect to PostgreSQL at {} for replication", endpoint.name());
    let tls = tls::client_config(&endpoint, facts.config.ca_file.as_deref())?;
    let name = &facts.config.application_name;
    let mut connection = match ReplicationConnection::open(&endpoint, name, tls).await {
        // Every one is taken, perhaps by the source that runs: that is no pooler's doing.
        Err(WireError::Server(error)) if error.code == TOO_MANY_CONNECTIONS => return Ok(None),
        opened => opened.doing(action)?,
    };
    let rows = connection.query("SELECT pg_backend_pid()").await.doing(action)?;
    let pid = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    Ok(pid.map(|pid| (connection.pid().cast_signed(), pid)))
}

fn judge(signs: &Signs, findings: &mut Findings) {
    let subject = "pooler";
    let changes = signs.pids.windows(2).any(|pair| pair.first() != pair.last());
    if changes {
        findings.block(subject, "each statement is answered by another server process", HELP);
    } else if !signs.has_settings {
        findings.block(subject, "settings of the session do not reach the server", HELP);
    } else if signs.replication_pids.is_some_and(|(announced, answers)| announced != answers) {
        let seen = "something between us and the server answers for it";
        findings.risk(subject, seen, HELP);
    } else {
        findings.fine(subject, "none: PostgreSQL itself answers");
    }
}

/// An error of connecting that a pooler is the likely cause of says so.
pub(super) fn explain(error: Error) -> Error {
    let report = error.report();
    if !REFUSALS.iter().any(|refusal| report.contains(refusal)) {
        return error;
    }
    Error::new(ErrorKind::Config, "talk to PostgreSQL itself").with_source(error).with_help(HELP)
}

#[cfg(test)]
mod tests {
    use anabranch_core::Level;

    use super::*;

    fn level(signs: &Signs) -> Level {
        let mut findings = Findings::default();
        judge(signs, &mut findings);
        findings.0.first().expect("a finding").level
    }

    #[test]
    fn a_session_that_is_not_one_is_a_pooler() {
        let direct =
            || Signs { pids: vec![7; 5], has_settings: true, replication_pids: Some((9, 9)) };
        assert_eq!(level(&direct()), Level::Fine);
        let pooled = Signs { pids: vec![7, 7, 8, 7, 7], ..direct() };
        assert_eq!(level(&pooled), Level::Blocker);
        let stripped = Signs { has_settings: false, ..direct() };
        assert_eq!(level(&stripped), Level::Blocker);
        let passed_on = Signs { replication_pids: Some((1, 9)), ..direct() };
        assert_eq!(level(&passed_on), Level::Risk);
    }

    #[test]
    fn what_a_pooler_refuses_is_named() {
        let refused = Error::new(ErrorKind::Transient, "connect to PostgreSQL at h:6432/d")
            .with_source("FATAL: unsupported startup parameter: options".to_owned());
        let error = explain(refused);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.report().contains("PgBouncer"), "{error:?}");
        let other = Error::new(ErrorKind::Transient, "connect").with_source("refused".to_owned());
        assert_eq!(explain(other).kind(), ErrorKind::Transient);
    }
}
