//! Keeps Elasticsearch, Redis and Delta Lake equal to PostgreSQL, through Kafka.

use std::process::ExitCode;

use anabranch::{cli, telemetry};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    telemetry::start();
    cli::run(arguments).await
}
