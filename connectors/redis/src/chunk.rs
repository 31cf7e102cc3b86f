//! Rows as the arguments of a script.
//!
//! ```text
//! hash: orders:7 ── {_v: 000000…1f00, _p: 3, id: 7, total: 12.50}       null: no field
//! json: orders:7 ── {"_v":"000000…1f00","_p":3,"id":7,"total":12.50}    null: null
//! ```

use std::collections::BTreeMap;

use anabranch_core::{
    Batch, Column, Error, ErrorKind, Result, RowMeta, RowOp, Table, Version, key, value,
};
use arrow_array::Array;

use crate::keys::KeyTemplate;
use crate::script::Args;
use crate::{RedisConfig, RowFormat};

/// Bytes of rows after which a script ends: it holds them three times over while it runs.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// How the rows of one table look in Redis.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// What the keys of its rows begin with.
    pub(crate) start: String,
    pub(crate) format: RowFormat,
    version_field: String,
    partition_field: String,
    /// What the scripts find the version by: the field, or what stands before it in the JSON.
    version: String,
    /// The same for the partition.
    partition: String,
}

impl Layout {
    pub(crate) fn new(config: &RedisConfig, table: &Table) -> Self {
        let (version_field, partition_field) =
            (config.version_field.clone(), config.partition_field.clone());
        let (version, partition) = match config.format {
            RowFormat::Hash => (version_field.clone(), partition_field.clone()),
            RowFormat::Json => {
                let (version, partition) = (quoted(&version_field), quoted(&partition_field));
                (format!("{{{version}:\""), format!("\",{partition}:"))
            }
        };
        let start = KeyTemplate::rows_of(&config.key, table);
        Self { start, format: config.format, version_field, partition_field, version, partition }
    }

    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the table has a column named as one of our fields.
    pub(crate) fn check(&self, table: &Table) -> Result<()> {
        let ours =
            |column: &&Column| [&self.version_field, &self.partition_field].contains(&&column.name);
        table.columns.iter().find(ours).map_or(Ok(()), |column| {
            let action = format!("store column {:?} of {}", column.name, table.full_name());
            Err(Error::new(ErrorKind::Config, action).with_help(
                "the sink has a field of that name: set [sinks] version_field or partition_field",
            ))
        })
    }

    /// Whether these fields are those of a row of ours.
    pub(crate) fn has_own_fields(&self, fields: &BTreeMap<String, String>) -> bool {
        [&self.version_field, &self.partition_field].iter().all(|name| fields.contains_key(*name))
    }

    /// What the scripts must know: format, version, partition.
    pub(crate) fn words(&self) -> [&str; 3] {
        let format = match self.format {
            RowFormat::Hash => "hash",
            RowFormat::Json => "json",
        };
        [format, &self.version, &self.partition]
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What one script writes.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The key of the unit, then those of the rows.
    pub(crate) keys: Args,
    /// For each row: version, number of arguments (-1 for a delete), arguments.
    pub(crate) rows: Args,
}

/// Cuts the rows of a batch into chunks.
#[derive(Debug)]
pub(crate) struct Chunker<'a> {
    layout: &'a Layout,
    batch: &'a Batch,
    rows_max: usize,
    /// For JSON: `,"name":` of each column.
    names: Vec<String>,
}

impl<'a> Chunker<'a> {
    pub(crate) fn new(layout: &'a Layout, batch: &'a Batch, rows_max: usize) -> Self {
        let columns = &batch.table.columns;
        let names = columns.iter().map(|column| format!(",{}:", quoted(&column.name))).collect();
        Self { layout, batch, rows_max, names }
    }

    /// Takes rows from the front of `places` until the chunk is full, for the unit at `unit`.
    pub(crate) fn next(&self, unit: &str, places: &mut &[usize]) -> Result<Chunk> {
        let mut chunk = Chunk { keys: Args::new([unit]), rows: Args::default() };
        let mut json = Vec::new();
        while let Some((place, rest)) = places.split_first() {
            if chunk.keys.len() > self.rows_max || chunk.rows.bytes() >= CHUNK_BYTES_MAX {
                break;
            }
            let Some(meta) = self.batch.meta.get(*place) else { break };
            let key = key::text(&self.batch.rows, *place, &self.batch.table)?;
            chunk.keys.push_with(|text| {
                text.push_str(&self.layout.start);
                text.push_str(&key);
            });
            chunk.rows.push(&meta.version.to_string());
            match (meta.op, self.layout.format) {
                (RowOp::Delete, _) => chunk.rows.push("-1"),
                (RowOp::Upsert, RowFormat::Hash) => self.fields(*place, &mut chunk.rows)?,
                (RowOp::Upsert, RowFormat::Json) => {
                    json.clear();
                    self.object(*place, meta, &mut json)?;
                    chunk.rows.push("1");
                    chunk.rows.push(&String::from_utf8_lossy(&json));
                }
            }
            *places = rest;
        }
        Ok(chunk)
    }

    fn cells(&self) -> impl Iterator<Item = (&Column, &dyn Array)> {
        let arrays = self.batch.rows.columns().iter().map(AsRef::as_ref);
        self.batch.table.columns.iter().zip(arrays)
    }

    /// Names and texts of the columns that are not null.
    fn fields(&self, place: usize, out: &mut Args) -> Result<()> {
        let there = |(_, array): &(&Column, &dyn Array)| array.is_valid(place);
        let count = 2 * self.cells().filter(there).count();
        out.push(&count.to_string());
        for (column, array) in self.cells().filter(there) {
            out.push(&column.name);
            out.push_with(|text| value::text(text, array, place, &column.kind))?;
        }
        Ok(())
    }

    fn object(&self, place: usize, meta: &RowMeta, out: &mut Vec<u8>) -> Result<()> {
        let head = |version: Version, partition: i32| {
            format!("{}{version}{}{partition}", self.layout.version, self.layout.partition)
        };
        out.extend_from_slice(head(meta.version, meta.partition).as_bytes());
        for (name, (column, array)) in self.names.iter().zip(self.cells()) {
            out.extend_from_slice(name.as_bytes());
            value::json(out, array, place, &column.kind)?;
        }
        out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::memory::{batch, key, table};
    use anabranch_core::{Epoch, Lsn};

    use super::*;

    const VERSION: &str = "0000000000001000";

    fn rows(values: &[(i64, Option<i64>, RowOp)]) -> Batch {
        let version = Version::new(Epoch(0), Lsn(0x200), 0);
        let meta = values.iter().map(|(id, _, op)| RowMeta {
            op: *op,
            partition: 3,
            version,
            key: key(*id),
        });
        let values: Vec<_> = values.iter().map(|(id, value, _)| (*id, *value)).collect();
        batch(&values, meta.collect(), Vec::new())
    }

    fn chunks(config: &RedisConfig, batch: &Batch) -> Vec<(Vec<String>, Vec<String>)> {
        let layout = Layout::new(config, &table());
        let chunker = Chunker::new(&layout, batch, config.chunk_rows_max);
        let places = batch.last_of_each_key();
        let mut left = places.as_slice();
        let mut chunks = Vec::new();
        let texts = |args: &Args| args.iter().map(str::to_owned).collect();
        while !left.is_empty() {
            let chunk = chunker.next("unit", &mut left).unwrap();
            chunks.push((texts(&chunk.keys), texts(&chunk.rows)));
        }
        chunks
    }

    #[test]
    fn a_hash_has_no_field_for_a_null() {
        let batch = rows(&[
            (1, Some(10), RowOp::Upsert),
            (2, None, RowOp::Upsert),
            (-3, None, RowOp::Delete),
        ]);
        let (keys, rows) = chunks(&RedisConfig::at(""), &batch).remove(0);
        assert_eq!(keys, ["unit", "t:1", "t:2", "t:-3"]);
        assert_eq!(
            rows,
            [VERSION, "4", "id", "1", "value", "10", VERSION, "2", "id", "2", VERSION, "-1"]
        );
    }

    #[test]
    fn json_begins_with_version_and_partition() {
        let mut config = RedisConfig::at("");
        config.format = RowFormat::Json;
        config.partition_field = "a\"b".to_owned();
        let batch = rows(&[(1, None, RowOp::Upsert), (2, None, RowOp::Delete)]);
        let (_, rows) = chunks(&config, &batch).remove(0);
        let object = format!(r#"{{"_v":"{VERSION}","a\"b":3,"id":1,"value":null}}"#);
        assert_eq!(rows, [VERSION, "1", object.as_str(), VERSION, "-1"]);
        serde_json::from_str::<serde_json::Value>(&object).unwrap();
        let layout = Layout::new(&config, &table());
        assert_eq!(layout.words(), ["json", "{\"_v\":\"", "\",\"a\\\"b\":"]);
    }

    #[test]
    fn chunks_end_by_rows_and_keep_the_order() {
        let mut config = RedisConfig::at("");
        config.chunk_rows_max = 2;
        let all: Vec<_> = (1..=5).map(|id| (id, Some(id), RowOp::Upsert)).collect();
        let keys: Vec<_> = chunks(&config, &rows(&all)).into_iter().map(|(keys, _)| keys).collect();
        let wanted: [&[&str]; 3] =
            [&["unit", "t:1", "t:2"], &["unit", "t:3", "t:4"], &["unit", "t:5"]];
        assert_eq!(keys, wanted);
    }

    #[test]
    fn a_column_with_the_name_of_a_field_is_refused() {
        let mut config = RedisConfig::at("");
        assert!(Layout::new(&config, &table()).check(&table()).is_ok());
        config.version_field = "value".to_owned();
        let error = Layout::new(&config, &table()).check(&table()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.report().contains("version_field"));
    }
}
