//! The primary dies, and another server answers in its place: log and stores end equal to that one.
//!
//! ```text
//! daemon ──▶ Forwarder ──▶ primary ──▶ standby, cut off before the last changes
//!                    └ after the failover ──▶ standby, promoted
//! ```

use crate::support::forwarder::Forwarder;
use crate::support::log::{raw_records, read_topic, topics};
use crate::support::servers::Cluster;
use crate::support::services;
use crate::support::world::{World, parked};

const TABLES: [&str; 2] = ["public.t", "public.u"];
const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, body text);
    ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
    INSERT INTO t SELECT g, 0, repeat('body ' || g, 1000) FROM generate_series(1, 20) g;
    CREATE TABLE u (id int PRIMARY KEY, v text);
    INSERT INTO u SELECT g, 'v' || g FROM generate_series(1, 50) g";

/// Changes of every kind that the standby never gets.
const BEYOND: &str = "
    INSERT INTO t VALUES (100, 1, 'ghost'), (101, 1, 'ghost');
    UPDATE t SET n = 99 WHERE id = 1; UPDATE t SET body = repeat('ghost', 3000) WHERE id = 2;
    DELETE FROM t WHERE id = 3; UPDATE t SET id = 203 WHERE id = 7;
    TRUNCATE u; INSERT INTO u VALUES (1, 'ghost'), (900, 'ghost')";

const AFTER: &str = "
    INSERT INTO t VALUES (101, 2, 'real'), (500, 5, 'after'); UPDATE t SET n = 4 WHERE id IN (4, 5);
    DELETE FROM t WHERE id = 6; INSERT INTO u VALUES (900, 'after')";

/// Two servers, and the daemon between them and its stores.
struct Pair {
    world: World,
    address: Forwarder,
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    /// The daemon has begun.
    async fn new() -> Self {
        let primary = Cluster::new(&[]).await;
        let standby = primary.standby("second", &[("hot_standby_feedback", "on")]).await;
        let address = Forwarder::to(&primary.url());
        let mut world = World::on(&address.url(), SCHEMA, &TABLES).await;
        // The slot follows an idle server soon.
        world.toml = world.toml.replace("idle_position_ms = 1000", "idle_position_ms = 100");
        world.start();
        Self { world, address, primary, standby }
    }

    /// Brings the slot onto the standby, once the daemon reads it: it is there before the tables are
    /// copied, and a TRUNCATE before that makes another one.
    async fn carry_slot(&mut self) {
        self.world.wait_equal_in(&["cache"]).await;
        let Self { world, primary, standby, .. } = self;
        let carried = async || {
            if primary.syncs_slots().await {
                primary.run("SELECT pg_log_standby_snapshot()").await;
            }
            let at = primary.position().await;
            let slots = format!("FROM pg_replication_slots WHERE slot_name = '{}'", world.name);
            primary.wait_for(&format!("SELECT confirmed_flush_lsn >= '{at}' {slots}")).await;
            standby.has_replayed(&at).await;
            primary.carry_slot(&world.name, standby).await
        };
        world.wait_until("the slot is carried over", carried).await;
    }

    /// Changes that are in every store when the primary dies, and that the standby never got.
    async fn die_with(&mut self, changes: &str) {
        self.standby.has_replayed(&self.primary.position().await).await;
        self.standby.cut_off().await;
        self.world.run(changes).await;
        self.world.wait_equal().await;
        self.primary.kill().await;
        self.standby.promote().await;
    }
}

async fn ops(world: &World, table: &str) -> String {
    let records = read_topic(&format!("{}.{table}", world.name)).await;
    records.into_iter().map(|record| record.op).collect()
}

#[tokio::test]
async fn stores_end_equal_to_a_promoted_standby_that_never_got_what_they_have() {
    let _turn = services::shared().await;
    let mut pair = Pair::new().await;
    pair.carry_slot().await;
    pair.die_with(BEYOND).await;
    let Pair { world, address, standby, .. } = &mut pair;
    // The daemon goes on by itself: its database is back, as another server.
    address.lead_to(&standby.url());
    world.look_at(&standby.url()).await;
    world.run(AFTER).await;
    world.wait_equal().await;
    let (t, u) = (ops(world, "public.t").await, ops(world, "public.u").await);
    assert!(!t.contains('t'), "its rows were read again by their keys: {t}");
    // The copy; then 101, 1, 2, 3 and 7. 100 and 203 are not there.
    assert_eq!(t.matches('r').count(), 20 + 5, "{t}");
    assert_eq!(u.matches('r').count(), 50 + 51, "copied again, after its TRUNCATE: {u}");
    world.stop().await;
}

/// The daemon is stopped, and its configuration names the other server: the way without an address
/// that moves.
#[tokio::test]
async fn a_promoted_standby_without_the_slot_is_refused_until_a_person_decides() {
    let _turn = services::shared().await;
    let mut pair = Pair::new().await;
    pair.world.wait_equal_in(&["cache"]).await;
    pair.die_with(BEYOND).await;
    let Pair { world, standby, .. } = &mut pair;
    world.stop().await;
    world.move_to(&standby.url()).await;
    world.run(AFTER).await;
    world.start();
    let report = world.wait_status("it is refused", |report| parked(report).is_some()).await;
    let error = parked(&report).unwrap();
    let named = ["was promoted", "timeline 1 ended at", "the slot is not here", "not synchronised"];
    for needle in named.into_iter().chain(["anabranch source accept --snapshot"]) {
        assert!(error.contains(needle), "{needle}: {error}");
    }
    let found = world.must(&["source", "accept"]).await;
    assert!(found.contains("was promoted") && found.contains("--snapshot  begins"), "{found}");
    let refused = world.status().await;
    assert!(refused.as_ref().and_then(parked).is_some(), "looking changes nothing: {refused:?}");
    world.must(&["source", "accept", "--snapshot", "--yes"]).await;
    world.wait_equal().await;
    world.run("UPDATE u SET v = 'and goes on' WHERE id = 900").await;
    world.wait_equal_in(&["search", "cache"]).await;
    world.stop().await;
}

/// The change that a re-read belongs to is flushed, the newer one that it sees is not. The server
/// crashes just when the daemon asks how far it has flushed.
#[tokio::test]
async fn a_commit_that_a_reread_saw_and_a_crash_took_back_is_nowhere() {
    let _turn = services::shared().await;
    // Nobody but the WAL writer flushes anything without being asked to, and that one is frozen.
    let quiet = [("autovacuum", "off"), ("bgwriter_lru_maxpages", "0")];
    let mut server = Cluster::new(&quiet).await;
    let address = Forwarder::to(&server.url());
    let mut world = World::on(&address.url(), SCHEMA, &TABLES).await;
    world.start();
    world.wait_equal().await;
    server.freeze("walwriter").await;
    address.freeze();
    world.look_at(&server.url()).await;
    world.run("UPDATE t SET n = 1 WHERE id = 1").await;
    let ghost = "UPDATE t SET body = repeat('ghost', 3000) WHERE id = 1";
    world.run(&format!("BEGIN; SET LOCAL synchronous_commit = off; {ghost}; COMMIT")).await;
    address.thaw_until("ghostghost").await;
    address.thaw_until("pg_current_wal_insert_lsn()::text").await;
    let ghosts = "SELECT count(*) FROM t WHERE body LIKE 'ghost%'";
    assert_eq!(world.number(ghosts).await, 1, "it is committed");
    server.kill().await;
    server.start().await;
    address.lead_to(&server.url());
    world.look_at(&server.url()).await;
    assert_eq!(world.number(ghosts).await, 0, "it is lost");
    assert_eq!(world.number("SELECT count(*) FROM t WHERE n = 1").await, 1, "this one is not");
    world.run(AFTER).await;
    world.wait_equal().await;
    for topic in topics(&world.name).await {
        for (_, value) in raw_records(&topic).await {
            assert!(!String::from_utf8_lossy(&value).contains("ghost"), "{topic}");
        }
    }
    world.stop().await;
}
