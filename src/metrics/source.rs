//! The figures of the source and of its slot.

use anabranch_postgres::{GuardReport, GuardState, SourceFigures};

use super::Family;
use crate::status::SourceReport;

/// What a source of this process can be doing.
const STATES: [&str; 4] = ["starting", "running", "retrying", "parked"];
/// `pg_replication_slots.wal_status`.
const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

pub(super) fn families(source: &SourceReport) -> Vec<Family> {
    let mut families = vec![Family::state(
        ("source_state", "state"),
        "What the source is doing: 1 for the state that holds.",
        STATES,
        Some(&source.state.word().to_lowercase()),
    )];
    families.extend(stream(&source.figures));
    families.extend(copying(&source.figures));
    families.extend(source.wal_guard.iter().flat_map(slot));
    families
}

fn stream(figures: &SourceFigures) -> Vec<Family> {
    vec![
        Family::gauge(
            "source_received_lsn",
            "End of the last transaction read, in bytes of WAL.",
            Some(figures.received_lsn.0),
        ),
        Family::gauge(
            "source_durable_lsn",
            "What is durable in the log, in bytes of WAL.",
            Some(figures.durable_lsn.0),
        ),
        Family::gauge(
            "source_keepalive_age_seconds",
            "Time since the server was last heard of.",
            figures.silence_seconds,
        ),
        Family::counter(
            "source_transactions",
            "Transactions read from the slot.",
            figures.transactions,
        ),
        Family::counter("source_rows", "Changes of rows read from the slot.", figures.rows),
        Family::counter(
            "source_reread_rows",
            "Rows looked up again for values that the stream left out.",
            figures.reread_rows,
        ),
        Family::counter(
            "source_reread_seconds",
            "Time that took, the waits for its bound included.",
            figures.reread_seconds,
        ),
        Family::counter(
            "source_reread_waited_seconds",
            "Waits for reread_rows_per_second_max.",
            figures.reread_waited_seconds,
        ),
        Family::gauge(
            "source_heartbeat_latency_seconds",
            "From sending the last heartbeat to reading it; absent without heartbeat_ms.",
            figures.heartbeat_latency_seconds,
        ),
        Family::gauge(
            "source_spool_memory_bytes",
            "Transactions in progress that are kept in memory.",
            Some(figures.spool_memory_bytes),
        ),
        Family::gauge(
            "source_spool_disk_bytes",
            "Transactions in progress that are kept on disk.",
            Some(figures.spool_disk_bytes),
        ),
        Family::counter(
            "source_marked_rows",
            "Events that leave an unchanged value out.",
            figures.marked_rows,
        ),
        Family::counter(
            "source_changed_values",
            "Values that did not fit their column, and are another value or null in the log.",
            figures.changed_values,
        ),
    ]
}

fn copying(figures: &SourceFigures) -> Vec<Family> {
    let copy = figures.copy.as_ref();
    vec![
        Family::counter(
            "source_snapshot_rows",
            "Rows copied by the initial snapshot.",
            figures.snapshot_rows,
        ),
        Family::gauge(
            "source_copy_bytes",
            "Bytes of the tables that the initial snapshot has copied; absent when there is none.",
            copy.map(|copy| copy.bytes().0),
        ),
        Family::gauge(
            "source_copy_size_bytes",
            "Bytes of the tables that it copies.",
            copy.map(|copy| copy.bytes().1),
        ),
    ]
}

/// What the last look of the guard brought.
fn slot(guard: &GuardReport) -> Vec<Family> {
    let prepared = guard.oldest_prepared.as_ref().map(|prepared| prepared.seconds);
    let mut families = vec![
        Family::state(
            ("wal_guard_state", "state"),
            "How it stands with the WAL that the slot keeps: 1 for the state that holds.",
            GuardState::ALL.map(GuardState::word),
            Some(guard.state.word()),
        ),
        Family::gauge(
            "wal_guard_age_seconds",
            "Time since the guard could look at the server.",
            guard.age_seconds,
        ),
        Family::gauge(
            "slot_oldest_prepared_transaction_seconds",
            "Age of the oldest prepared transaction, which holds back every slot; 0 without one.",
            guard.age_seconds.map(|_| prepared.unwrap_or_default()),
        ),
        Family::gauge(
            "source_connections",
            "Connections to the database under our application_name, of every instance.",
            guard.age_seconds.map(|_| guard.connections),
        ),
    ];
    if guard.wal_status.is_some() {
        families.extend(kept(guard));
        families.extend(decoding(guard));
    }
    families
}

fn kept(guard: &GuardReport) -> Vec<Family> {
    vec![
        Family::state(
            ("slot_wal_status", "status"),
            "What the server says of the slot's WAL: 1 for the status that holds.",
            WAL_STATUSES,
            guard.wal_status.as_deref(),
        ),
        Family::gauge("slot_active", "Whether the slot is read.", Some(guard.active)),
        Family::gauge(
            "slot_retained_bytes",
            "WAL that the server keeps for the slot.",
            guard.retained_bytes,
        ),
        Family::gauge(
            "slot_unconfirmed_bytes",
            "WAL that was not confirmed yet.",
            guard.unconfirmed_bytes,
        ),
        Family::gauge(
            "slot_safe_wal_bytes",
            "WAL that may be written before the slot is lost; absent without a limit.",
            guard.safe_wal_bytes,
        ),
        Family::gauge("slot_limit_bytes", "The nearest limit on retained WAL.", guard.limit_bytes),
        Family::gauge(
            "slot_growth_bytes_per_second",
            "How fast the retained WAL grows.",
            guard.growth_bytes_per_second,
        ),
        Family::gauge(
            "slot_full_in_seconds",
            "When the limit is reached if that goes on; absent if it is not.",
            guard.full_in_seconds,
        ),
        Family::gauge(
            "slot_confirmed_flush_lsn",
            "What was confirmed to the server, in bytes of WAL.",
            guard.confirmed_flush_lsn.map(|lsn| lsn.0),
        ),
        Family::gauge("slot_wal_lsn", "End of the server's WAL.", guard.wal_lsn.map(|lsn| lsn.0)),
        Family::gauge(
            "slot_catalog_xmin_age_transactions",
            "Transactions since the slot's catalog_xmin, which holds back vacuum.",
            guard.catalog_xmin_age,
        ),
    ]
}

/// Gauges, since `pg_stat_reset_replication_slot` sets them back.
fn decoding(guard: &GuardReport) -> Vec<Family> {
    let spill = &guard.spill;
    vec![
        Family::gauge(
            "slot_logical_decoding_spill_transactions",
            "Transactions that did not fit into logical_decoding_work_mem.",
            Some(spill.spilled_transactions),
        ),
        Family::gauge(
            "slot_logical_decoding_spill_bytes",
            "What they wrote to the server's disk.",
            Some(spill.spilled_bytes),
        ),
        Family::gauge(
            "slot_logical_decoding_stream_bytes",
            "Bytes sent before their commit.",
            Some(spill.streamed_bytes),
        ),
        Family::gauge(
            "slot_logical_decoding_bytes",
            "Bytes decoded in all.",
            Some(spill.decoded_bytes),
        ),
    ]
}
