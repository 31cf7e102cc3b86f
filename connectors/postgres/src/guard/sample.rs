//! What the server says of our slot at one moment.

use anabranch_core::{Lsn, Result};
use tokio_postgres::{Client, Row};

use super::report::{OldestPrepared, SpillReport};
use crate::error::Context;

/// One look at the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// `None` if there is none of that name.
    pub(super) slot: Option<SlotSample>,
    /// The end of the WAL.
    pub(super) wal_lsn: Option<Lsn>,
    pub(super) oldest_prepared: Option<OldestPrepared>,
    /// Connections under our `application_name`.
    pub(super) connections: u64,
}

/// The slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotSample {
    /// A pgoutput slot of this database.
    pub(super) ours: bool,
    pub(super) active: bool,
    pub(super) wal_status: Option<String>,
    /// Why the server invalidated it (17 and later).
    pub(super) invalidation: Option<String>,
    /// Bytes of WAL from its `restart_lsn` on.
    pub(super) retained: Option<u64>,
    /// Bytes of WAL from its `confirmed_flush_lsn` on.
    pub(super) unconfirmed: Option<u64>,
    /// Bytes that may be written before it is lost; `None` if the server has no limit.
    pub(super) safe_bytes: Option<i64>,
    pub(super) confirmed_flush: Option<Lsn>,
    /// Transactions since its `catalog_xmin`, which hold back vacuum in the catalog.
    pub(super) catalog_xmin_age: Option<u64>,
    pub(super) spill: SpillReport,
}

impl SlotSample {
    pub(super) fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation.is_some()
    }

    pub(super) fn is_unreserved(&self) -> bool {
        self.wal_status.as_deref() == Some("unreserved")
    }
}

// Columns that older servers lack are read through jsonb.
const SAMPLE: &str = "
    select s.slot_name is not null as present, w.lsn::text as wal_lsn,
           coalesce(s.plugin = 'pgoutput' and s.database = current_database(), false) as ours,
           s.active_pid is not null as active, s.wal_status, s.safe_wal_size,
           to_jsonb(s) ->> 'invalidation_reason' as invalidation,
           s.confirmed_flush_lsn::text as confirmed_flush,
           pg_wal_lsn_diff(w.lsn, s.restart_lsn)::int8 as retained,
           pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn)::int8 as unconfirmed,
           age(s.catalog_xmin)::int8 as catalog_xmin_age,
           p.gid, p.database, p.seconds,
           r.spill_txns, r.spill_bytes, r.stream_txns, r.stream_bytes, r.total_txns, r.total_bytes,
           (select count(*) from pg_stat_activity
            where application_name = $2 and datname = current_database()) as connections
    from (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                      else pg_current_wal_lsn() end) w(lsn)
    left join pg_replication_slots s on s.slot_name = $1
    left join pg_stat_replication_slots r on r.slot_name = s.slot_name
    left join (select gid, database::text, extract(epoch from now() - prepared)::int8 as seconds
               from pg_prepared_xacts order by prepared limit 1) p on true";

impl Sample {
    pub(super) async fn read(client: &Client, slot: &str, application_name: &str) -> Result<Self> {
        let action = || format!("look at the WAL that slot {slot} keeps");
        let row = client.query_one(SAMPLE, &[&slot, &application_name]).await.doing(action)?;
        sample(&row).doing(action)
    }
}

fn sample(row: &Row) -> Result<Sample, tokio_postgres::Error> {
    let wal_lsn: Option<&str> = row.try_get("wal_lsn")?;
    let present: bool = row.try_get("present")?;
    let gid: Option<String> = row.try_get("gid")?;
    let oldest_prepared = match gid {
        Some(gid) => Some(OldestPrepared {
            gid,
            database: row.try_get("database")?,
            seconds: row.try_get::<_, i64>("seconds")?.max(0).unsigned_abs(),
        }),
        None => None,
    };
    Ok(Sample {
        slot: if present { Some(slot(row)?) } else { None },
        wal_lsn: wal_lsn.and_then(|lsn| lsn.parse().ok()),
        oldest_prepared,
        connections: row.try_get::<_, i64>("connections")?.unsigned_abs(),
    })
}

fn slot(row: &Row) -> Result<SlotSample, tokio_postgres::Error> {
    let count = |column: &str| {
        let count: Option<i64> = row.try_get(column)?;
        // A slot is never behind itself; a clock of WAL that goes back is a restored server.
        Ok::<_, tokio_postgres::Error>(count.map(|count| count.max(0).unsigned_abs()))
    };
    let total = |column: &str| count(column).map(Option::unwrap_or_default);
    let confirmed_flush: Option<&str> = row.try_get("confirmed_flush")?;
    Ok(SlotSample {
        ours: row.try_get("ours")?,
        active: row.try_get("active")?,
        wal_status: row.try_get("wal_status")?,
        invalidation: row.try_get("invalidation")?,
        retained: count("retained")?,
        unconfirmed: count("unconfirmed")?,
        safe_bytes: row.try_get("safe_wal_size")?,
        confirmed_flush: confirmed_flush.and_then(|lsn| lsn.parse().ok()),
        catalog_xmin_age: count("catalog_xmin_age")?,
        spill: SpillReport {
            spilled_transactions: total("spill_txns")?,
            spilled_bytes: total("spill_bytes")?,
            streamed_transactions: total("stream_txns")?,
            streamed_bytes: total("stream_bytes")?,
            decoded_transactions: total("total_txns")?,
            decoded_bytes: total("total_bytes")?,
        },
    })
}
