//! `anabranch run [source | sink NAME]`.

use anabranch_core::{Error, ErrorKind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::RunPart;
use crate::config::Config;
use crate::supervisor::{self, Which};

/// Runs until SIGINT or SIGTERM; a second one ends at once.
pub(super) async fn run(config: Config, part: Option<RunPart>) -> Result<()> {
    let which = match part {
        None => Which::All,
        Some(RunPart::Source) => Which::Source,
        Some(RunPart::Sink { name }) => Which::Sink(name),
    };
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let mut running = Box::pin(supervisor::run(config, which, stop.clone()));
    loop {
        tokio::select! {
            biased;
            outcome = &mut running => return outcome,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        tracing::info!("stopping; once more ends at once");
        stop.cancel();
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::new(ErrorKind::Bug, "listen to signals").with_source(error))
}
