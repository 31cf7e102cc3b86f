//! The contract of every store.

use std::collections::BTreeMap;

use anabranch_core::Assignment;
use anabranch_core::conformance::{Harness, LOG, all};
use anabranch_core::memory::table;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use tempfile::TempDir;

use crate::{DeltaConfig, DeltaSink, read_table};

struct Folder(TempDir);

impl Folder {
    fn config(&self) -> DeltaConfig {
        let root = self.0.path().join("lake").display().to_string();
        DeltaConfig { root, index_dir: Some(self.0.path().join("index")) }
    }
}

impl Harness for Folder {
    type Sink = DeltaSink;

    async fn fresh(&mut self) {
        self.0 = tempfile::tempdir().unwrap();
    }

    async fn open(&mut self, partitions: &[i32]) -> DeltaSink {
        let assignment = Assignment {
            sink: "lake".to_owned(),
            topic: "memory.public.t".to_owned(),
            table: table(),
            partitions: partitions.to_vec(),
            log: LOG,
            generation: 1,
        };
        DeltaSink::open(&self.config(), assignment).unwrap()
    }

    async fn rows(&mut self) -> BTreeMap<i64, Option<i64>> {
        let mut rows = BTreeMap::new();
        for batch in read_table(&self.config(), &table()).await.unwrap() {
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
            let values = batch.column_by_name("value").unwrap();
            let values = values.as_primitive::<Int64Type>();
            for (id, value) in ids.values().iter().zip(values) {
                assert_eq!(rows.insert(*id, value), None, "row {id} is there twice");
            }
        }
        rows
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_a_store() {
    all(&mut Folder(tempfile::tempdir().unwrap())).await;
}
