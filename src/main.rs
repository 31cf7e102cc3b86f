//! Keeps Elasticsearch, Redis and Delta Lake equal to PostgreSQL, through Kafka.

use std::process::ExitCode;

use anabranch::{cli, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    telemetry::start();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failed(&cli::no_runtime(error)),
    };
    let code = runtime.block_on(cli::run(arguments));
    // A call that blocks, such as a commit to a Kafka that is gone, is not waited for.
    runtime.shutdown_background();
    code
}
