//! What the log was given since some point of its history, read backwards from its topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::avro::write;
use anabranch_core::{Delivered, Epoch, LogHistory as _, Lsn, Sink as _};
use anabranch_kafka::{LogScan, LogSink};
use bytes::Bytes;

use crate::support::{Fake, Log, table};

fn keys(ids: impl IntoIterator<Item = i32>) -> Delivered {
    let key = |id: i32| {
        let mut key = Vec::new();
        write::int(&mut key, id);
        Bytes::from(key)
    };
    Delivered::Keys(ids.into_iter().map(key).collect::<BTreeSet<Bytes>>())
}

#[tokio::test]
async fn the_keys_since_a_commit_are_found_beyond_one_window() {
    let log = Log::new();
    let (mut fake, other) = (Fake::new(table("orders")), table("others"));
    let mut sink = LogSink::open(&log.kafka, &log.registry, "shop").unwrap();
    sink.cursor().await.unwrap();
    let (batch, upto) = fake.start();
    sink.apply(&batch, &upto).await.unwrap();
    let rows = |ids: std::ops::Range<i32>| ids.map(|id| (id, Some("x"))).collect::<Vec<_>>();
    let (batch, before) = fake.transaction(&rows(0..20_000));
    sink.apply(&batch, &before).await.unwrap();
    let mut last = before.clone();
    for (place, batch) in [rows(100..9_100), rows(5..9)].into_iter().enumerate() {
        let deleted = (30_000 + i32::try_from(place).unwrap(), None);
        let (batch, upto) = fake.transaction(&[batch, vec![deleted]].concat());
        sink.apply(&batch, &upto).await.unwrap();
        last = upto;
    }
    let scan = LogScan::new(&log.kafka);
    assert_eq!(scan.position().await.unwrap(), Some(last.clone()));
    let tables = [Arc::clone(&fake.table), other];
    let found = async |since: Lsn| scan.delivered(&tables, (Epoch(1), since)).await.unwrap();
    let all = (5..9).chain(100..9_100).chain(30_000..30_002);
    assert_eq!(found(before.confirm).await, [keys(all), Delivered::nothing()]);
    assert_eq!(found(last.confirm).await, [Delivered::nothing(), Delivered::nothing()]);
    let all = (0..20_000).chain(30_000..30_002);
    assert_eq!(found(Lsn(0)).await, [keys(all), Delivered::nothing()], "from the very beginning");
    let (batch, upto) = fake.truncate(&[1], &[2]);
    sink.apply(&batch, &upto).await.unwrap();
    assert_eq!(found(last.confirm).await, [Delivered::Unbounded, Delivered::nothing()]);
}
