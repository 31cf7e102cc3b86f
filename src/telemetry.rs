//! Logs on standard error: a line an event, for people in a terminal and for journals.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

/// Begins to log. `ANABRANCH_LOG` takes the filter of `tracing-subscriber`; `info` by default.
pub fn start() {
    let filter = EnvFilter::try_from_env("ANABRANCH_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,rdkafka=warn,librdkafka=warn,deltalake=warn"));
    let writer = std::io::stderr.with_max_level(tracing::Level::TRACE);
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        .try_init();
    // A second start in one process (tests) keeps the first one's settings.
    drop(started);
}
