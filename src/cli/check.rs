//! `anabranch check`: every finding, and what to do about it.

use std::process::ExitCode;
use std::sync::Arc;

use anabranch_core::{ErrorKind, Finding, Level, Result};
use anabranch_postgres::LogState;

use super::{print, print_json};
use crate::config::{Config, StoreConfig};
use crate::control;

/// Subjects that are longer are not aligned: one table's name must not push all else away.
const SUBJECT_WIDTH_MAX: usize = 44;

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
    let kafka = anabranch_kafka::admin::check(&config.kafka, &config.registry).await;
    let (log, unread) = match is_reachable(&kafka).then(|| log_state(config)) {
        None => (None, None),
        Some(reading) => match reading.await {
            Ok(log) => (Some(log), None),
            Err(error) => (None, Some(Finding::blocker("position", &error, "see what Kafka logs"))),
        },
    };
    let source = anabranch_postgres::check(&config.source, log.as_ref()).await;
    let mut all = named("source", source);
    all.extend(named("control", control::check(config).await));
    all.extend(named("kafka", kafka.into_iter().chain(unread).collect()));
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

/// Whether there is any point in reading the log.
fn is_reachable(kafka: &[Finding]) -> bool {
    kafka.iter().all(|finding| finding.level != Level::Blocker)
}

async fn log_state(config: &Config) -> Result<LogState> {
    let position = anabranch_kafka::admin::read_position(&config.kafka).await?;
    let tables = anabranch_kafka::admin::tables(&config.kafka).await?;
    let tables = tables.iter().map(|record| Arc::clone(&record.table)).collect();
    Ok(LogState { position, tables })
}

/// The findings of `part`, which most connectors name themselves.
fn named(part: &str, mut findings: Vec<Finding>) -> Vec<Finding> {
    let prefix = format!("{part}: ");
    for finding in findings.iter_mut().filter(|finding| !finding.subject.starts_with(&prefix)) {
        finding.subject.insert_str(0, &prefix);
    }
    findings
}

/// A group for each part, with subjects aligned, and a line that sums up.
fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for group in findings.chunk_by(|a, b| part(a).0 == part(b).0) {
        let (name, _) = group.first().map(part).unwrap_or_default();
        let width = group.iter().map(|finding| part(finding).1.len()).max().unwrap_or(0);
        text.push_str(&format!("{name}\n"));
        text.extend(group.iter().map(|finding| line(finding, width.min(SUBJECT_WIDTH_MAX))));
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    text.push_str(&match (count(Level::Blocker), count(Level::Risk)) {
        (0, 0) => "all is fine\n".to_owned(),
        (0, risks) => format!("nothing blocks; risks: {risks}\n"),
        (blockers, risks) => format!("blockers: {blockers}; risks: {risks}\n"),
    });
    text
}

fn line(finding: &Finding, width: usize) -> String {
    let Finding { level, seen, help, .. } = finding;
    let (level, (_, subject)) = (level.to_string(), part(finding));
    let help = if help.is_empty() { String::new() } else { format!("{:11}{help}\n", "") };
    format!("  {level:<8} {subject:<width$}  {seen}\n{help}")
}

/// The part that a finding is about, and what of it.
fn part(finding: &Finding) -> (&str, &str) {
    finding.subject.split_once(": ").unwrap_or(("", &finding.subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_aligned_and_summed_up() {
        let findings = [
            Finding::fine("source: connection", "db:5432/shop"),
            Finding::trouble(Level::Risk, "source: slot", "it is slow", "hurry up"),
            Finding::fine("kafka: brokers", "3 brokers"),
        ];
        let expected = "source\n  fine     connection  db:5432/shop\n  risk     slot        it is \
                        slow\n           hurry up\nkafka\n  fine     brokers  3 brokers\nnothing \
                        blocks; risks: 1\n";
        assert_eq!(table(&findings), expected);
        let blocked = [Finding::trouble(Level::Blocker, "source: slot", "it is gone", "begin")];
        assert!(table(&blocked).ends_with("blockers: 1; risks: 0\n"));
        assert!(table(&findings[..1]).ends_with("all is fine\n"));
    }
}
