//! Bodies of `_bulk`, sent two at a time to an index like the sink's.

use anabranch_core::{Batch, RowOp, key, value};
use anabranch_elasticsearch::bulk::{self, Chunk, ChunkWriter, Guard};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::Result;
use crate::scene::{PREFIX, Scene};
use crate::store::http;
use crate::usage::{Meter, Usage};

/// What the sink sends by default.
const BODY_BYTES: usize = 5 << 20;
const CONCURRENT: usize = 2;
const REPLY: &str = "items.*.status,items.*.error.type,items.*.error.reason";

/// Sends every change.
pub(super) async fn replay(scene: &Scene, batches: Vec<Batch>) -> Result<Usage> {
    let mut bodies = Vec::new();
    let mut writer = ChunkWriter::default();
    for batch in &batches {
        for place in 0..batch.meta.len() {
            write(&mut writer, batch, place)?;
            if writer.size() >= BODY_BYTES {
                bodies.push(writer.take());
            }
        }
    }
    bodies.push(writer.take());
    drop(batches);
    let (client, url) = (http()?, scene.elasticsearch_url());
    let index = create(&client, url, &scene.table()?.name).await?;
    let meter = Meter::start(scene.server_pid("elasticsearch"))?;
    let bulk = format!("{url}/{index}/_bulk?filter_path={REPLY}");
    let sends =
        bodies.iter().filter(|body| !body.is_empty()).map(|body| send(&client, &bulk, body));
    futures::stream::iter(sends).buffer_unordered(CONCURRENT).try_collect::<()>().await?;
    meter.stop()
}

fn write(writer: &mut ChunkWriter, batch: &Batch, place: usize) -> Result<()> {
    let id = key::text(&batch.rows, place, &batch.table)?;
    let meta = batch.meta.get(place).ok_or("a row without meta")?;
    if meta.op == RowOp::Delete {
        writer.delete(&id, meta.version, Guard::NotOlder);
        return Ok(());
    }
    writer.index(&id, meta.version, |out| {
        let start = format!("{{\"_v\":{},\"_p\":{}", meta.version.to_i64(), meta.partition);
        out.extend_from_slice(start.as_bytes());
        for (column, array) in batch.table.columns.iter().zip(batch.rows.columns()) {
            out.extend_from_slice(format!(",\"{}\":", column.name).as_bytes());
            value::json(out, array.as_ref(), place, &column.kind)?;
        }
        out.push(b'}');
        Ok::<(), anabranch_core::Error>(())
    })?;
    Ok(())
}

/// Makes an index with the mapping that the sink has made for the table.
async fn create(client: &reqwest::Client, url: &str, table: &str) -> Result<String> {
    let mapping = client.get(format!("{url}/{PREFIX}-{table}/_mapping")).send().await?;
    let mapping: Value = mapping.error_for_status()?.json().await?;
    let of_sink = mapping.as_object().and_then(|indices| indices.values().next());
    let of_sink = of_sink.and_then(|index| index.get("mappings"));
    let of_sink = of_sink.ok_or("the sink's index has no mapping")?;
    let index = format!("{PREFIX}-floor");
    let body = json!({"mappings": of_sink, "settings": {"number_of_shards": 1}});
    let created = client.put(format!("{url}/{index}")).json(&body).send().await?;
    created.error_for_status()?;
    Ok(index)
}

async fn send(client: &reqwest::Client, url: &str, body: &Chunk) -> Result<()> {
    let request = client.post(url).header("content-type", "application/x-ndjson");
    let reply = request.body(body.body()).send().await?.error_for_status()?.bytes().await?;
    let verdict = bulk::verdict(&reply, body.len())?;
    match verdict.refused {
        Some(refusal) => Err(format!("the server refuses an item: {}", refusal.kind).into()),
        None if verdict.again.is_empty() => Ok(()),
        None => Err("the server was too busy for a bulk request".into()),
    }
}
