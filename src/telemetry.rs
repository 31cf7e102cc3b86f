//! Logs on standard error: a line an event, for people in a terminal and for journals.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Begins to log. `ANABRANCH_LOG` takes the filter of `tracing-subscriber`; `info` by default.
pub fn start() {
    let filter = EnvFilter::try_from_env("ANABRANCH_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,refinery_core=warn,rdkafka=warn,librdkafka=warn,deltalake=warn")
    });
    // At its debug level it shows statements, and values of rows with them.
    let filter = match "tokio_postgres=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    // A second start in one process (tests) keeps the first one's settings.
    drop(started);
}
