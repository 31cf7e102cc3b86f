//! Targets that cannot be written: one clear line each, and nothing half-created.

use anabranch_core::{ErrorKind, Level, Sink};

use super::support::{Record, World, beginning};
use crate::{DeltaConfig, DeltaSink, check};

fn at_a_file(world: &World) -> DeltaConfig {
    let file = world.path().join("file");
    std::fs::write(&file, b"").unwrap();
    DeltaConfig { root: file.join("lake").display().to_string(), index_dir: None }
}

#[tokio::test]
async fn a_root_below_a_file_is_refused() {
    let mut world = World::new(1);
    world.append(Record::Put(1));
    let config = at_a_file(&world);
    let mut sink = DeltaSink::open(&config, super::support::assignment(&[0])).unwrap();
    let (batch, upto) = world.batch(&beginning(&[0], 0), 1);
    let refused = sink.apply(&batch, &upto).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused:?}");
    assert!(refused.help().is_some_and(|help| help.contains("right to read and write")));
    let findings = check(&config).await.unwrap();
    assert_eq!(findings[0].level, Level::Blocker, "{findings:?}");
    assert_eq!(findings[1].level, Level::Fine, "{findings:?}");
}

#[tokio::test]
async fn a_root_that_can_be_written_is_fine_and_stays_as_it_is() {
    let world = World::new(1);
    let findings = check(&world.config()).await.unwrap();
    assert!(findings.iter().all(|finding| finding.level == Level::Fine), "{findings:?}");
    assert_eq!(std::fs::read_dir(world.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_data_file_that_is_gone_is_named() {
    let mut world = World::new(1);
    (0..4).for_each(|id| world.append(Record::Put(id)));
    let (batch, upto) = world.batch(&beginning(&[0], 0), 2);
    world.open(&[0]).apply(&batch, &upto).await.unwrap();
    let state = world.log().load(None).await.unwrap().unwrap();
    let path = state.adds.keys().next().unwrap();
    std::fs::remove_file(world.url().to_file_path().unwrap().join(path)).unwrap();
    let (batch, upto) = world.batch(&upto, 2);
    let refused = world.open(&[0]).apply(&batch, &upto).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let report = refused.report();
    assert!(report.contains(path.as_str()) && report.contains("put the file back"), "{report}");
    assert_eq!(world.log().load(None).await.unwrap().unwrap().version, state.version);
}

#[tokio::test]
async fn a_feature_that_is_not_known_is_named() {
    let mut world = World::new(1);
    world.append(Record::Put(1));
    let (batch, upto) = world.batch(&beginning(&[0], 0), 1);
    let mut sink = world.open(&[0]);
    sink.apply(&batch, &upto).await.unwrap();
    let action = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":
        ["deletionVectors"],"writerFeatures":["deletionVectors","rowTracking","domainMetadata"]}}"#;
    let action = action.replace('\n', " ").into_bytes();
    world.log().storage().write_commit(2, action).await.unwrap();
    for error in [sink.cursor().await.unwrap_err(), world.open(&[0]).cursor().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.report().contains("rowTracking"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_partition_of_somebody_else_is_a_bug() {
    let mut world = World::new(2);
    world.append(Record::Put(1));
    let (batch, upto) = world.batch(&beginning(&[0, 1], 0), 1);
    let refused = world.open(&[0]).apply(&batch, &upto).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Bug);
    assert!(!world.url().to_file_path().unwrap().exists());
}
