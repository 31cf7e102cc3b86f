//! The workload W2: rows of 7 columns and about 200 bytes, 1,000 changes a transaction, of which
//! 70 % inserts, 20 % updates and 10 % deletes.
//!
//! Every value follows from the id, so every run has the same rows; what must come out at the
//! other end is computed here, apart from what computes it there.

use anabranch_core::Lsn;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::Result;
use crate::scene::{DATABASE, Scene, TABLE};

/// Rows that a transaction inserts. It updates 200 older ones, and deletes 100 of the transaction
/// before, which the first one does not have.
const BLOCK: i64 = 700;
/// An id's remainder by this says what becomes of it.
const KINDS: i64 = 7;
const IS_UPDATED: [i64; 2] = [0, 1];
const IS_DELETED: i64 = 3;

/// The table, and the procedure that fills it.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE public.seq200 (
        id bigint PRIMARY KEY,
        revision integer NOT NULL,
        amount numeric(12,2) NOT NULL,
        created_at timestamptz NOT NULL,
        name text NOT NULL,
        note text,
        payload jsonb NOT NULL
    ) WITH (autovacuum_enabled = false);
    CREATE PROCEDURE public.load(transactions integer, INOUT last pg_lsn)
    LANGUAGE plpgsql AS $$
    BEGIN
        FOR t IN 0 .. transactions - 1 LOOP
            INSERT INTO public.seq200
            SELECT id, 0, id % 1000003 * 0.37,
                   timestamptz '2026-01-01 00:00:00Z' + id * interval '1.000137 s',
                   'customer ' || md5(id::text),
                   CASE WHEN id % 5 > 0 THEN 'leave it at door ' || id % 97 END,
                   jsonb_build_object('sku', 'A-' || id % 9973, 'quantity', id % 12,
                                      'tags', jsonb_build_array('new', 'gift'))
            FROM generate_series(t * 700::bigint, t * 700::bigint + 699) AS id;
            UPDATE public.seq200 SET revision = revision + 1, amount = amount + 0.01
            WHERE id BETWEEN t / 2 * 700::bigint AND t / 2 * 700::bigint + 699
              AND id % 7 IN (0, 1);
            DELETE FROM public.seq200
            WHERE id BETWEEN (t - 1) * 700::bigint AND (t - 1) * 700::bigint + 699 AND id % 7 = 3;
            -- After the last row and before the commit record.
            last := pg_current_wal_insert_lsn();
            COMMIT;
        END LOOP;
    END $$";

/// What comes out of a stage, whatever its form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Changes.
    pub(crate) events: u64,
    /// The sum of their ids.
    pub(crate) ids: i64,
}

/// What a store must hold at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Rows.
    pub(crate) rows: i64,
    /// The sum of their ids.
    pub(crate) ids: i64,
    /// The sum of their revisions: a row with an old value is missing from it.
    pub(crate) revisions: i64,
}

/// What the workload leaves behind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Truth {
    /// Every change.
    pub(crate) changes: Tally,
    /// Transactions.
    pub(crate) transactions: u64,
    /// The rows in the end.
    pub(crate) held: Held,
    /// A place in the WAL after the last row and before its commit record.
    pub(crate) end: Lsn,
}

/// Makes a database for the run, with `schema` in it, and removes one that an interrupted run has left.
pub(crate) async fn create(scene: &Scene, schema: &str) -> Result<()> {
    remove(scene).await?;
    let server = anabranch_postgres::connect(&scene.server()?).await?;
    server.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
    let database = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    database.batch_execute(schema).await?;
    Ok(())
}

/// Removes the database with its slots.
pub(crate) async fn remove(scene: &Scene) -> Result<()> {
    let server = anabranch_postgres::connect(&scene.server()?).await?;
    let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                 WHERE database = $1 AND NOT active";
    server.execute(slots, &[&DATABASE]).await?;
    let database = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
    server.batch_execute(&database).await?;
    Ok(())
}

/// Runs about `changes` changes.
pub(crate) async fn load(scene: &Scene, changes: u64) -> Result<Truth> {
    let transactions = changes.div_ceil(1000).max(2);
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let call = format!("CALL public.load({transactions}, NULL)");
    let answer = client.simple_query(&call).await?;
    let last = answer.iter().find_map(|message| {
        if let SimpleQueryMessage::Row(row) = message { row.get("last") } else { None }
    });
    let end = last.ok_or("the workload did not say where it ends")?.parse()?;
    let (changes, held) = (expected(i64::try_from(transactions)?)?, held(&client).await?);
    Ok(Truth { changes, transactions, held, end })
}

/// What a workload of so many transactions consists of.
fn expected(transactions: i64) -> Result<Tally> {
    let (mut events, mut ids) = (0, 0);
    let mut count = |block: i64, concerned: &dyn Fn(i64) -> bool| {
        for id in (block * BLOCK..(block + 1) * BLOCK).filter(|id| concerned(id % KINDS)) {
            events += 1;
            ids += id;
        }
    };
    for transaction in 0..transactions {
        count(transaction, &|_| true);
        count(transaction / 2, &|kind| IS_UPDATED.contains(&kind));
        if transaction > 0 {
            count(transaction - 1, &|kind| kind == IS_DELETED);
        }
    }
    Ok(Tally { events, ids })
}

/// What the source itself holds.
async fn held(client: &Client) -> Result<Held> {
    let sums = format!(
        "SELECT count(*), coalesce(sum(id), 0)::bigint, coalesce(sum(revision), 0)::bigint
         FROM {TABLE}"
    );
    let row = client.query_one(&sums, &[]).await?;
    Ok(Held { rows: row.try_get(0)?, ids: row.try_get(1)?, revisions: row.try_get(2)? })
}
