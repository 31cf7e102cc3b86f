//! `anabranch check`: every finding, and what to do about it.

use std::process::ExitCode;

use anabranch_core::{ErrorKind, Finding, Level, Result};

use super::{print, print_json};
use crate::config::{Config, StoreConfig};

/// Exits with 2 if anything blocks.
pub(super) async fn run(config: &Config, json: bool) -> Result<ExitCode> {
    let findings = findings(config).await?;
    if json {
        print_json(&findings)?;
    } else {
        print(&table(&findings))?;
    }
    let blocked = findings.iter().any(|finding| finding.level == Level::Blocker);
    Ok(if blocked { ExitCode::from(ErrorKind::Config.exit_code()) } else { ExitCode::SUCCESS })
}

async fn findings(config: &Config) -> Result<Vec<Finding>> {
    let mut all = named("source", anabranch_postgres::check(&config.source).await);
    all.extend(named(
        "kafka",
        anabranch_kafka::admin::check(&config.kafka, &config.registry).await,
    ));
    for (name, sink) in &config.sinks {
        let found = match &sink.store {
            StoreConfig::Elasticsearch(store) => anabranch_elasticsearch::check(store, name).await,
            StoreConfig::Redis(store) => anabranch_redis::check(store, name).await,
            StoreConfig::Delta(store) => anabranch_delta::check(store).await?,
        };
        all.extend(named(name, found));
    }
    Ok(all)
}

/// The findings of `part`, which most connectors name themselves.
fn named(part: &str, mut findings: Vec<Finding>) -> Vec<Finding> {
    let prefix = format!("{part}: ");
    for finding in findings.iter_mut().filter(|finding| !finding.subject.starts_with(&prefix)) {
        finding.subject.insert_str(0, &prefix);
    }
    findings
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let line = |Finding { level, subject, seen, help }: &Finding| {
        let level = level.to_string();
        let help = if help.is_empty() { String::new() } else { format!("{:9}{help}\n", "") };
        format!("{level:<8} {subject:<width$}  {seen}\n{help}")
    };
    findings.iter().map(line).collect()
}
