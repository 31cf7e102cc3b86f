//! `anabranch teardown`: a forgotten slot fills somebody's disk.

use anabranch_core::Result;

use super::print;
use crate::config::Config;
use crate::control::Control;

/// Says what it would remove; with `yes`, removes it: the slot first, since it is what does harm.
pub(super) async fn run(config: &Config, yes: bool) -> Result<()> {
    let sinks: Vec<String> = config.sinks.keys().cloned().collect();
    let source = anabranch_postgres::teardown_plan(&config.source).await?;
    let log = anabranch_kafka::admin::plan_teardown(&config.kafka, &sinks).await?;
    for line in &source {
        print(&format!("{line}\n"))?;
    }
    print(&format!("{log}drop schema anabranch (control)\n"))?;
    if !yes {
        return print("nothing was removed; `anabranch teardown --yes` removes all of this\n");
    }
    anabranch_postgres::teardown(&config.source).await?;
    anabranch_kafka::admin::teardown(&config.kafka, &config.registry, &log).await?;
    Control::drop_schema(config).await?;
    print("removed; the stores keep their data: empty them before a new start\n")
}
