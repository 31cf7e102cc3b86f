//! What librdkafka says beside the answers to calls: log lines, and errors of its connections.
//!
//! A wrong password shows up only here, over and over, while every call runs into its time-out.
//! So the last such error is kept, and explains the time-out ([`crate::error::classify`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use crate::error;

/// How long an error explains a time-out: a client that is refused tries again more often.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

/// The last error of a connection that no retry mends, unless others came since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<(KafkaError, String, Instant)>>>);

impl Trouble {
    /// Takes note of an error event.
    pub(crate) fn note(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::PartitionEOF(_)) || error::is_partition_end(&error) {
            return;
        }
        tracing::debug!(target: "librdkafka", %error, reason);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if error::is_config(&error) {
            *last = Some((error, reason.to_owned(), Instant::now()));
        } else if error::is_unreachable(&error) {
            // A broker that restarts may refuse before it is gone.
            *last = None;
        }
    }

    /// The last error that a person must mend, and what librdkafka said of it.
    pub(crate) fn last(&self) -> Option<(KafkaError, String)> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.filter(|(.., at)| at.elapsed() < EXPLAINS_FOR).map(|(error, told, _)| (error, told))
    }
}

/// Passes a line of librdkafka's log on. What matters in it comes back as an error too, and is
/// logged where it is handled.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(target: "librdkafka", facility, "{line}");
        }
        RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning
        | RDKafkaLogLevel::Notice
        | RDKafkaLogLevel::Info
        | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{line}");
        }
    }
}

/// The context of a client with no callbacks of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quiet {
    pub(crate) trouble: Trouble,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.note(error, reason);
    }
}

impl ConsumerContext for Quiet {}
