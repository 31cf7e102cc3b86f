//! A member of a sink's group, as librdkafka calls back: partitions that come and go, commits
//! that are answered.
//!
//! librdkafka would begin to fetch at the committed offset, before the target was asked for its
//! cursor. So a partition is assigned at its end and paused; its source seeks and resumes it. (An
//! offset by name, such as "end", would be looked up later and could undo the seek.)

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::resume::Mark;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use crate::context::{self, Trouble};
use crate::lease::{Commit, Leases};
use crate::{error, reader};

/// How long a rebalance may wait for the ends of the new partitions.
const ENDS_TIMEOUT: Duration = Duration::from_secs(5);

/// The consumer of a member.
pub(crate) type MemberConsumer = BaseConsumer<Member>;

/// What the callbacks of a member's consumer work on.
pub(crate) struct Member {
    pub(crate) leases: Arc<Leases>,
    pub(crate) trouble: Trouble,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.note(error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let what = Code::from(what);
        let done = if what == Code::AssignPartitions {
            self.assign(consumer, partitions)
        } else if what == Code::RevokePartitions {
            self.revoke(consumer, partitions)
        } else {
            self.leases.end_all();
            consumer.unassign().and(Err(KafkaError::Rebalance(what)))
        };
        if let Err(e) = done {
            self.leases.fail(error::classify("rebalance a group", e, &self.trouble));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        for unit in offsets.elements() {
            let failed = result.clone().and(unit.error());
            let (Err(e), Offset::Offset(offset)) = (failed, unit.offset()) else { continue };
            let (topic, partition) = (unit.topic(), unit.partition());
            tracing::debug!(topic, partition, error = %e, "offset not committed, again later");
            let Ok(mark) = unit.metadata().parse::<Mark>() else { continue };
            if let Some(lease) = self.leases.of(topic)
                && lease.units.contains_key(&partition)
            {
                lease.commit_again(partition, Commit { offset, mark });
            }
        }
    }
}

impl Member {
    fn assign(&self, consumer: &MemberConsumer, new: &mut TopicPartitionList) -> KafkaResult<()> {
        let units = units(new);
        let wanted = units.iter().map(|(topic, partition)| (topic.as_str(), *partition));
        // Any offset that exists would do; if the ends are not to be had, it is the first one.
        let ends = reader::offsets(consumer, wanted, Offset::End, ENDS_TIMEOUT);
        let ends = ends.unwrap_or_else(|_| vec![0; units.len()]);
        for ((topic, partition), end) in units.iter().zip(ends) {
            new.set_partition_offset(topic, *partition, Offset::Offset(end))?;
        }
        consumer.incremental_assign(new)?;
        if units.is_empty() {
            return Ok(());
        }
        consumer.pause(new)?;
        tracing::info!(partitions = ?units, "assigned");
        self.leases.add(&units);
        Ok(())
    }

    fn revoke(&self, consumer: &MemberConsumer, gone: &TopicPartitionList) -> KafkaResult<()> {
        let units = units(gone);
        self.flush(consumer);
        self.leases.remove(&units);
        if !units.is_empty() {
            tracing::info!(partitions = ?units, "revoked");
        }
        consumer.incremental_unassign(gone)
    }

    /// Sends the commits that sources have asked for. One that is refused is sent again.
    pub(crate) fn flush(&self, consumer: &MemberConsumer) {
        if consumer.assignment_lost() {
            return; // Another member may have these partitions, or a person may reset them.
        }
        for lease in self.leases.live() {
            let pending = lease.take_pending();
            if pending.is_empty() {
                continue;
            }
            let mut offsets = TopicPartitionList::new();
            for (partition, commit) in &pending {
                let mut unit = offsets.add_partition(&lease.topic, *partition);
                unit.set_metadata(commit.mark.to_string());
                if let Err(e) = unit.set_offset(Offset::Offset(commit.offset)) {
                    tracing::debug!(topic = lease.topic, partition, error = %e, "no offset");
                }
            }
            if let Err(e) = consumer.commit(&offsets, CommitMode::Async) {
                tracing::debug!(topic = lease.topic, error = %e, "not committed, again later");
                for (partition, commit) in pending {
                    lease.commit_again(partition, commit);
                }
            }
        }
    }
}

fn units(partitions: &TopicPartitionList) -> Vec<(String, i32)> {
    let unit = |unit: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        (unit.topic().to_owned(), unit.partition())
    };
    partitions.elements().iter().map(unit).collect()
}
