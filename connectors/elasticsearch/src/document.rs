//! A row as the JSON document of its key. Nothing here does I/O.
//!
//! ```text
//! {"_v":72057594037927937,"_p":3,"id":7,"name":"Ann","note":null}
//! ```

use anabranch_core::{Batch, Error, ErrorKind, Result, RowMeta, key, value};
use arrow_array::Array;

use crate::ElasticsearchConfig;
use crate::bulk::json_text;

/// Writes the rows of one batch.
#[derive(Debug)]
pub(crate) struct Documents<'a> {
    batch: &'a Batch,
    /// `{"_v":` and `,"_p":`.
    version: Vec<u8>,
    partition: Vec<u8>,
    columns: Vec<Column<'a>>,
}

#[derive(Debug)]
struct Column<'a> {
    /// `,"name":`.
    name: Vec<u8>,
    kind: &'a anabranch_core::ColumnType,
    values: &'a dyn Array,
}

impl<'a> Documents<'a> {
    pub(crate) fn new(batch: &'a Batch, config: &ElasticsearchConfig) -> Self {
        let columns = batch.table.columns.iter().zip(batch.rows.columns());
        Self {
            batch,
            version: field('{', &config.version_field),
            partition: field(',', &config.partition_field),
            columns: columns
                .map(|(column, values)| Column {
                    name: field(',', &column.name),
                    kind: &column.kind,
                    values: values.as_ref(),
                })
                .collect(),
        }
    }

    pub(crate) fn meta(&self, row: usize) -> Result<&'a RowMeta> {
        let table = || self.batch.table.full_name();
        let missing = || Error::new(ErrorKind::Bug, format!("find row {row} of {}", table()));
        self.batch.meta.get(row).ok_or_else(missing)
    }

    /// The text of the row's key.
    pub(crate) fn key(&self, row: usize) -> Result<String> {
        key::text(&self.batch.rows, row, &self.batch.table)
    }

    /// Appends the document: the version, the partition, then every column, nulls too.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let meta = self.meta(row)?;
        out.extend_from_slice(&self.version);
        out.extend_from_slice(meta.version.to_i64().to_string().as_bytes());
        out.extend_from_slice(&self.partition);
        out.extend_from_slice(meta.partition.to_string().as_bytes());
        for column in &self.columns {
            out.extend_from_slice(&column.name);
            value::json(out, column.values, row, column.kind)?;
        }
        out.push(b'}');
        Ok(())
    }
}

fn field(before: char, name: &str) -> Vec<u8> {
    let mut text = before.to_string().into_bytes();
    json_text(&mut text, name);
    text.push(b':');
    text
}

#[cfg(test)]
mod tests {
    use anabranch_core::memory::{batch, key};
    use anabranch_core::{Epoch, Lsn, RowOp, Version};

    use super::*;

    #[test]
    fn a_row_has_its_version_its_partition_and_its_nulls() {
        let version = Version::new(Epoch(255), Lsn(Lsn::VERSION_LIMIT.0 - 1), 255);
        let meta = RowMeta { op: RowOp::Upsert, partition: 3, version, key: key(7) };
        let batch = batch(&[(7, None)], vec![meta], Vec::new());
        let config = ElasticsearchConfig {
            version_field: "our \"v\"".to_owned(),
            ..ElasticsearchConfig::at("http://localhost")
        };
        let documents = Documents::new(&batch, &config);
        let mut out = Vec::new();
        documents.write(0, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"our \"v\"":9223372036854775807,"_p":3,"id":7,"value":null}"#
        );
        assert_eq!(documents.key(0).unwrap(), "7");
        assert!(documents.write(1, &mut Vec::new()).is_err());
    }
}
