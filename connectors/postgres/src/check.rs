//! What `anabranch check` finds at the source.
//!
//! ```text
//! connection ─▶ server · capacity · pooler ─▶ tables ─▶ publications ─▶ slot · log · failover
//!                                  each: facts read by SQL ─▶ judged, without I/O ─▶ findings
//! ```
//!
//! The invariant: nothing is changed, and one question that fails hides no other: it becomes a
//! finding itself. Every trouble comes with the SQL or the command that mends it.

mod capacity;
mod failover;
mod log;
mod pooler;
mod privileges;
mod publication;
mod server;
mod settings;
mod slot;
mod tables;

use std::sync::Arc;

use anabranch_core::{Error, Finding, Level, Result, SourceCursor, Table};

use crate::catalog::{KnownTables, load_by_name};
use crate::config::PostgresConfig;
use crate::scope::{self, Logged, Scope, Unfit};
use crate::server::Server;
use crate::session::Session;
use settings::Settings;

/// What the log has, which a slot and tables are to fit to.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// How far it is; `None` if nobody has written to it.
    pub position: Option<SourceCursor>,
    /// Its tables, in any number of versions.
    pub tables: Vec<Arc<Table>>,
}

/// Looks at everything that a source needs, and changes nothing. Without `log` nothing is said about
/// whether the slot fits to it.
pub async fn check(config: &PostgresConfig, log: Option<&LogState>) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Err(error) = look(config, log, &mut findings).await {
        findings.blocker("connection", &error);
    }
    findings.0
}

/// What every subject needs.
struct Facts<'a> {
    config: &'a PostgresConfig,
    log: Option<&'a LogState>,
    /// Its tables, if it was given.
    known: KnownTables,
    session: Session,
    server: Server,
    settings: Settings,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, subject: impl AsRef<str>, seen: impl Into<String>) {
        self.0.push(Finding::fine(named(subject), seen));
    }

    fn risk(&mut self, subject: impl AsRef<str>, seen: impl Into<String>, help: impl Into<String>) {
        self.0.push(Finding::trouble(Level::Risk, named(subject), seen, help));
    }

    fn block(
        &mut self,
        subject: impl AsRef<str>,
        seen: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Finding::trouble(Level::Blocker, named(subject), seen, help));
    }

    fn blocker(&mut self, subject: impl AsRef<str>, error: &Error) {
        self.0.push(Finding::blocker(named(subject), error, ""));
    }

    fn each(&mut self, subject: &str, obstacles: &[Error], fine: impl Into<String>) {
        if obstacles.is_empty() {
            self.fine(subject, fine);
        }
        obstacles.iter().for_each(|error| self.blocker(subject, error));
    }

    /// A question that failed is a finding.
    fn take<T>(&mut self, subject: &str, asked: Result<T>) -> Option<T> {
        asked.map_err(|error| self.blocker(subject, &error)).ok()
    }
}

fn named(subject: impl AsRef<str>) -> String {
    format!("source: {}", subject.as_ref())
}

async fn look(
    config: &PostgresConfig,
    log: Option<&LogState>,
    findings: &mut Findings,
) -> Result<()> {
    config.validate()?;
    let session = Session::open(config).await.map_err(pooler::explain)?;
    findings.fine("connection", config.endpoint()?.name());
    let server = Server::read(&session).await?;
    let settings = Settings::read(&session).await?;
    let known = KnownTables::default();
    log.into_iter().flat_map(|log| &log.tables).for_each(|table| known.logged(Arc::clone(table)));
    let position = log.and_then(|log| log.position.as_ref());
    let logged = Logged::new(&known, position, server.system_id);
    let scope = scope::resolve(&session, config, &logged).await;
    let scope = findings.take("tables", scope);
    let config = scope.as_ref().map_or(config, |scope| &scope.config);
    if let Some(scope) = &scope {
        judge_scope(scope, position.is_none(), findings);
    }
    let facts = Facts { config, log, known, session, server, settings };
    server::judge(&facts.server, &facts.settings, config, findings);
    let looked = capacity::look(&facts, findings).await;
    findings.take("capacity", looked);
    let looked = pooler::look(&facts, findings).await;
    findings.take("pooler", looked);
    let loaded = load_by_name(&facts.session, config).await;
    let (tables, types) = findings.take("tables", loaded).unwrap_or_default();
    let looked = tables::look(&facts, (&tables, &types), findings).await;
    findings.take("tables", looked);
    let looked = privileges::look(&facts, &tables, findings).await;
    findings.take("privileges", looked);
    let looked = publication::look(&facts, &tables, findings).await;
    findings.take("publication", looked);
    let looked = slot::look(&facts, findings).await;
    findings.take("slot", looked);
    let looked = log::look(&facts, &tables, findings).await;
    findings.take("log", looked);
    let looked = failover::look(&facts, findings).await;
    findings.take("failover", looked);
    Ok(())
}

/// What is left out of schemas that are taken in.
fn judge_scope(scope: &Scope, begins: bool, findings: &mut Findings) {
    if begins {
        findings.take("tables", scope.require_some());
    }
    for Unfit { name, why, .. } in &scope.unfit {
        let finding = Finding::blocker(named(format!("table {name}, left out")), why, "");
        findings.0.push(Finding { level: Level::Risk, ..finding });
    }
    let help = "look whether it is written right; what comes later is taken in then";
    scope.strays.iter().for_each(|stray| findings.risk("tables", stray.clone(), help));
}
