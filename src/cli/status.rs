//! `anabranch status`: from the daemon, or without one from what Kafka holds.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::{Error, ErrorKind, Result};

use super::{print, print_json};
use crate::clock;
use crate::config::Config;
use crate::status::{Report, SinkReport};

/// The daemon answers from memory.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(config: &Config, json: bool, partitions: bool) -> Result<()> {
    let (report, note) = match daemon(config).await? {
        Some(report) => (report, ""),
        None => (offline(config).await?, "no daemon answers; this is what Kafka's groups say\n"),
    };
    match (json, partitions) {
        (true, _) => print_json(&report),
        (false, true) => print(&format!("{note}{report:#}")),
        (false, false) => print(&format!("{note}{report}")),
    }
}

/// What the daemon says; `None` if there is none.
pub(super) async fn daemon(config: &Config) -> Result<Option<Report>> {
    let url = format!("http://{}/status", config.admin.listen);
    let failed = |error: reqwest::Error| {
        Error::new(ErrorKind::Transient, format!("ask the daemon at {url}")).with_source(error)
    };
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WAIT_MAX).build();
    match client.map_err(failed)?.get(&url).send().await {
        Ok(answer) => answer.json().await.map(Some).map_err(failed),
        Err(error) if error.is_connect() => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

async fn offline(config: &Config) -> Result<Report> {
    let mut sinks = BTreeMap::new();
    for name in config.sinks.keys() {
        let units = anabranch_kafka::admin::lag(&config.kafka, name, 1).await?;
        sinks.insert(name.clone(), SinkReport::offline(units, clock::now_us()));
    }
    let repairs = anabranch_kafka::admin::repairs(&config.kafka).await?;
    let snapshots = anabranch_kafka::admin::snapshots(&config.kafka).await?;
    Ok(Report { source: None, sinks, repairs, snapshots })
}
