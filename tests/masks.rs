//! What is excluded or masked at the source is nowhere behind it; and rows without a key arrive.

use std::collections::BTreeSet;

use crate::support::log::{raw_records, topics};
use crate::support::services;
use crate::support::stores;
use crate::support::world::World;

const SCHEMA: &str = "
    CREATE TABLE people (id int PRIMARY KEY, ssn text, email text, note text, n int, card text);
    ALTER TABLE people ALTER card SET STORAGE EXTERNAL;
    INSERT INTO people SELECT g, 'SECRET' || g, 'SECRET' || g || '@example.org', 'to SECRET', 0,
        repeat('SECRET', 2000) FROM generate_series(1, 20) g;
    CREATE TABLE audit (what text, secret text);
    INSERT INTO audit SELECT 'twice', 'SECRET' FROM generate_series(1, 2)";

const RULES: &str = r#"hash_key = "pepper of the tests"
append_only = ["public.audit"]
[source.columns."public.people"]
exclude = ["ssn"]
hash = ["email", "card"]
truncate = { note = 3 }
[source.columns."public.audit"]
exclude = ["secret"]
"#;

const SINKS: [&str; 3] = ["search", "cache", "lake"];

/// Every sink has so many rows of each table.
async fn has_rows(world: &World, people: usize, audit: usize) -> bool {
    for sink in SINKS {
        for (table, count) in [("public.people", people), ("public.audit", audit)] {
            let rows = stores::rows(world, sink, table).await;
            if rows.map(|rows| rows.len()) != Ok(count) {
                return false;
            }
        }
    }
    true
}

#[tokio::test]
async fn an_excluded_or_masked_value_is_in_no_record_and_in_no_store() {
    let _turn = services::shared().await;
    let mut world = World::new(SCHEMA, &["public.people", "public.audit"]).await;
    let kafka = "\n[kafka]";
    world.toml = world.toml.replace(kafka, &format!("{RULES}{kafka}"));
    world.start();
    world.wait_until("the snapshot is everywhere", async || has_rows(&world, 20, 2).await).await;
    world
        .run(
            "UPDATE people SET n = 1; UPDATE people SET id = 100, ssn = 'SECRET new' WHERE id = 1;
             DELETE FROM people WHERE id = 2;
             INSERT INTO people VALUES (200, 'SECRET', NULL, 'é☃🦀 SECRET', 0, NULL);
             INSERT INTO audit VALUES ('twice', 'SECRET'); UPDATE audit SET what = 'changed'",
        )
        .await;
    world.wait_until("the changes are everywhere", async || has_rows(&world, 20, 3).await).await;
    let mut records = 0;
    for topic in topics(&world.name).await {
        for (key, value) in raw_records(&topic).await {
            for bytes in key.iter().chain([&value]) {
                let text = String::from_utf8_lossy(bytes);
                assert!(
                    !text.contains("SECRET") && !text.contains("example.org"),
                    "{topic}: {text}"
                );
                records += 1;
            }
        }
    }
    assert!(records > 40, "{records} keys and values");
    let mut shown = BTreeSet::new();
    for sink in SINKS {
        for table in ["public.people", "public.audit"] {
            let rows = stores::rows(&world, sink, table).await.unwrap();
            let text = format!("{rows:?}");
            assert!(!text.contains("SECRET") && !text.contains("ssn"), "{sink}: {text}");
            if table == "public.people" {
                let moved = &rows["100"];
                assert_eq!(moved["note"].as_deref(), Some("to "));
                assert_eq!(rows["200"]["note"].as_deref(), Some("é☃🦀"));
                shown.insert(moved["email"].clone());
            }
        }
    }
    assert_eq!(shown.len(), 1, "every store has the same: {shown:?}");
    assert_eq!(shown.iter().flatten().map(String::len).collect::<Vec<_>>(), [64]);
    assert!(!world.log().contains("SECRET"), "no log line shows it");
    world.stop().await;
}
