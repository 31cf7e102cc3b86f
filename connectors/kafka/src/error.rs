//! What went wrong with Kafka, and what to do next: the one place of this crate that classifies.

use anabranch_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;

use crate::context::Trouble;

/// The configuration, or the rights it gives, must change first.
const CONFIG: [Code; 25] = [
    Code::Authentication,
    Code::SSL,
    Code::SaslAuthenticationFailed,
    Code::UnsupportedSASLMechanism,
    Code::IllegalSASLState,
    Code::TopicAuthorizationFailed,
    Code::GroupAuthorizationFailed,
    Code::ClusterAuthorizationFailed,
    Code::TransactionalIdAuthorizationFailed,
    Code::SecurityDisabled,
    Code::InvalidArgument,
    Code::InvalidConfig,
    Code::InvalidGroupId,
    Code::InvalidPartitions,
    Code::InvalidReplicationFactor,
    Code::InvalidSessionTimeout,
    Code::InvalidTopic,
    Code::InvalidTransactionTimeout,
    Code::InconsistentGroupProtocol,
    Code::NotImplemented,
    Code::PolicyViolation,
    Code::UnsupportedCompressionType,
    Code::UnsupportedFeature,
    Code::UnsupportedForMessageFormat,
    Code::UnsupportedVersion,
];

/// The record is what Kafka refuses.
const REJECTED: [Code; 4] = [
    Code::MessageSizeTooLarge,
    Code::InvalidMessageSize,
    Code::InvalidRecord,
    Code::MessageBatchTooLarge,
];

/// The history that comes next is gone.
const LOST: [Code; 3] = [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::LogTruncation];

/// Another holder of the transactional id has taken over.
const FENCED: [Code; 4] = [
    Code::Fenced,
    Code::ProducerFenced,
    Code::InvalidProducerEpoch,
    Code::InvalidProducerIdMapping,
];

/// Turns an error of librdkafka into one that says what to do. `action` names the thing.
pub(crate) fn classify(action: impl Into<String>, error: KafkaError, trouble: &Trouble) -> Error {
    let kind = kind(&error);
    if kind == ErrorKind::Transient
        && let Some((cause, reason)) = trouble.last()
    {
        let facts = format!("{cause}: {reason}");
        return Error::new(ErrorKind::Config, action).with_source(facts).with_help(help(&cause));
    }
    if is_fenced(&error) {
        return fenced(action).with_source(error);
    }
    let help = help(&error);
    let classified = Error::new(kind, action).with_source(error);
    if help.is_empty() { classified } else { classified.with_help(help) }
}

/// Another instance writes to the log now.
pub(crate) fn fenced(action: impl Into<String>) -> Error {
    Error::new(ErrorKind::Transient, action).with_help(
        "another instance has taken the source over, or the transaction ran into its time-out; \
         this one waits as standby until it gets the source back",
    )
}

/// Whether it says that a newer producer has the transactional id.
pub(crate) fn is_fenced(error: &KafkaError) -> bool {
    code(error).is_some_and(|code| FENCED.contains(&code))
}

/// Whether a person must change something first.
pub(crate) fn is_config(error: &KafkaError) -> bool {
    kind(error) == ErrorKind::Config
}

/// Whether a broker cannot be reached at all.
pub(crate) fn is_unreachable(error: &KafkaError) -> bool {
    code(error).is_some_and(|code| [Code::BrokerTransportFailure, Code::Resolve].contains(&code))
}

/// Whether it is no error but the end of a partition.
pub(crate) fn is_partition_end(error: &KafkaError) -> bool {
    matches!(error, KafkaError::PartitionEOF(_)) || code(error) == Some(Code::PartitionEOF)
}

/// Whether a partition has no leader that is known, which passes.
pub(crate) fn is_leaderless(error: &KafkaError) -> bool {
    const PASSING: [Code; 7] = [
        Code::FencedLeaderEpoch,
        Code::OffsetNotAvailable,
        Code::UnknownLeaderEpoch,
        Code::NotLeaderForPartition,
        Code::LeaderNotAvailable,
        Code::UnknownTopicOrPartition,
        Code::UnknownPartition,
    ];
    code(error).is_some_and(|code| PASSING.contains(&code))
}

/// Whether the queue of the producer is full: wait, then go on.
pub(crate) fn is_queue_full(error: &KafkaError) -> bool {
    code(error) == Some(Code::QueueFull)
}

/// How many partitions `metadata` says that `topic` has; `None` if there is no such topic.
pub(crate) fn topic_partitions(
    metadata: &Metadata,
    topic: &str,
) -> Result<Option<i32>, KafkaError> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    match found.error().map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => Ok(None),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
        None => Ok(Some(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))),
    }
}

/// What `error` asks of whoever handles it.
pub(crate) fn kind(error: &KafkaError) -> ErrorKind {
    if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
        return ErrorKind::Config;
    }
    match code(error) {
        Some(code) if CONFIG.contains(&code) => ErrorKind::Config,
        Some(code) if REJECTED.contains(&code) => ErrorKind::Rejected,
        Some(code) if LOST.contains(&code) => ErrorKind::Lost,
        Some(_) | None => ErrorKind::Transient,
    }
}

fn code(error: &KafkaError) -> Option<Code> {
    if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() }
}

fn help(error: &KafkaError) -> &'static str {
    match code(error) {
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => "grant the user of [kafka] options what `anabranch check` lists",
        Some(code) if CONFIG.contains(&code) => "check [kafka] brokers and options",
        Some(Code::InvalidPartitions | Code::InvalidReplicationFactor) => {
            "check [kafka] partitions and replication"
        }
        Some(_) => "",
        None if is_config(error) => "check [kafka] options",
        None => "",
    }
}

/// Kafka did not do what its protocol promises.
pub(crate) fn bug(action: impl Into<String>, seen: impl Into<String>) -> Error {
    Error::new(ErrorKind::Bug, action).with_source(seen.into())
}

/// A person must change something first.
pub(crate) fn config(
    action: impl Into<String>,
    seen: impl Into<String>,
    help: impl Into<String>,
) -> Error {
    Error::new(ErrorKind::Config, action).with_source(seen.into()).with_help(help)
}

/// It may pass by itself.
pub(crate) fn transient(action: impl Into<String>, seen: impl Into<String>) -> Error {
    Error::new(ErrorKind::Transient, action).with_source(seen.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_what_to_do() {
        let cases = [
            (KafkaError::Global(Code::AllBrokersDown), ErrorKind::Transient),
            (KafkaError::MetadataFetch(Code::OperationTimedOut), ErrorKind::Transient),
            (KafkaError::MessageProduction(Code::MessageSizeTooLarge), ErrorKind::Rejected),
            (KafkaError::MessageConsumption(Code::AutoOffsetReset), ErrorKind::Lost),
            (KafkaError::AdminOp(Code::TopicAuthorizationFailed), ErrorKind::Config),
            (KafkaError::ClientCreation("no such option".to_owned()), ErrorKind::Config),
        ];
        for (error, wanted) in cases {
            assert_eq!(kind(&error), wanted, "{error}");
        }
    }

    #[test]
    fn a_wrong_password_explains_a_time_out() {
        let trouble = Trouble::default();
        let time_out = || KafkaError::MetadataFetch(Code::OperationTimedOut);
        let kind = |error: Error| error.kind();
        assert_eq!(kind(classify("list topics", time_out(), &trouble)), ErrorKind::Transient);
        trouble.note(KafkaError::Global(Code::AllBrokersDown), "2/2 brokers are down");
        assert_eq!(kind(classify("list topics", time_out(), &trouble)), ErrorKind::Transient);
        trouble.note(KafkaError::Global(Code::Authentication), "invalid credentials");
        assert_eq!(kind(classify("list topics", time_out(), &trouble)), ErrorKind::Config);
        trouble.note(KafkaError::Global(Code::BrokerTransportFailure), "connection refused");
        assert_eq!(kind(classify("list topics", time_out(), &trouble)), ErrorKind::Transient);
    }
}
