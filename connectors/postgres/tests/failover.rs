//! A standby takes over: the log goes on in another epoch, and what only the old primary knew is
//! read again, or the source refuses by name.

use anabranch_core::{Change, Epoch, ErrorKind, Event, Op, SourceCursor};
use anabranch_postgres::{Acceptance, OnLost, WayOn, diagnose};

use crate::support::{Cluster, DEADLINE, Database, Follower, Replica, truth};

const TABLES: &str = "
    create table t (id int primary key, n int, body text);
    alter table t alter column body set storage external;
    insert into t select g, 0, repeat('body ' || g, 1000) from generate_series(1, 20) g;
    create table u (id int, region text, at timestamptz, v text, primary key (region, id, at));
    insert into u select g, 'r' || g % 3, '2026-01-01', 'v' from generate_series(1, 300) g";

/// What a failover is rehearsed on.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    database: Database,
}

impl Pair {
    async fn new() -> Self {
        let primary = Cluster::new(&[]).await;
        let standby = primary.standby("second", &[("hot_standby_feedback", "on")]).await;
        let database = primary.database(TABLES, &["public.t", "public.u"]).await;
        Self { primary, standby, database }
    }

    /// The same, followed, with the slot on the standby.
    async fn followed() -> (Self, Follower) {
        let mut pair = Self::new().await;
        let mut follower = Follower::start(&pair.database, Replica::default()).await;
        carry(&pair.primary, &mut pair.standby, (&pair.database, &mut follower)).await;
        (pair, follower)
    }

    /// Waits until the standby has everything that was committed so far.
    async fn level(&self) {
        self.standby.has_replayed(&self.primary.position().await).await;
    }

    /// The primary dies, and the standby takes over.
    async fn fail_over(mut self) -> (Cluster, Database) {
        self.primary.kill().await;
        self.standby.promote().await;
        let database = self.database.on(&self.standby).await;
        (self.standby, database)
    }
}

/// Brings the slot onto a standby, while somebody follows.
async fn carry(
    primary: &Cluster,
    standby: &mut Cluster,
    (database, follower): (&Database, &mut Follower),
) {
    let slot = &database.config.slot;
    let carried = async {
        follower.catch_up(database).await;
        loop {
            if primary.syncs_slots().await {
                primary.run("select pg_log_standby_snapshot()").await;
                // Flushed without a transaction, so that the position is just behind the snapshot.
                primary.run("select pg_logical_emit_message(false, 'carried', '', true)").await;
            }
            let at = primary.position().await;
            follower.reach(at.parse().unwrap()).await;
            let confirmed = "confirmed_flush_lsn >= ";
            let slots = format!("from pg_replication_slots where slot_name = '{slot}'");
            primary.wait_for(&format!("select {confirmed} '{at}' {slots}")).await;
            standby.has_replayed(&at).await;
            if primary.carry_slot(slot, standby).await {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, carried).await.expect("the slot is carried over");
}

fn cursor(replica: &Replica) -> &SourceCursor {
    replica.cursor.as_ref().unwrap()
}

/// Follows to the end; the log has what the promoted server has, all of it in a later epoch.
async fn ends_equal(database: &Database, replica: Replica, epoch: u8) -> Follower {
    let mut follower = Follower::start(database, replica).await;
    reach(&mut follower, database, epoch).await;
    assert_eq!(cursor(&follower.replica).fork, None);
    assert_eq!(follower.replica.present(), truth(database).await);
    follower
}

/// Follows into this epoch first: LSNs of another timeline say nothing.
async fn reach(follower: &mut Follower, database: &Database, epoch: u8) {
    while cursor(&follower.replica).epoch != Epoch(epoch) {
        follower.step().await.unwrap();
    }
    follower.catch_up(database).await;
    assert_eq!(cursor(&follower.replica).epoch, Epoch(epoch));
}

const AFTER: &str = "
    insert into t values (500, 5, 'after'); update t set n = n + 1 where id in (4, 5);
    delete from t where id = 6; insert into u values (500, 'r9', '2026-02-02', 'after')";

#[tokio::test]
async fn a_standby_that_has_everything_takes_over() {
    let (pair, mut follower) = Pair::followed().await;
    pair.database.run("insert into t values (100, 1, 'x'); update t set n = 7 where id = 1").await;
    follower.catch_up(&pair.database).await;
    // This one is not delivered any more: the promoted server still has it.
    let replica = follower.kill();
    pair.database.run("insert into t values (101, 1, 'y')").await;
    pair.level().await;
    let delivered = replica.events.len();
    let (_server, database) = pair.fail_over().await;
    database.run(AFTER).await;
    let follower = ends_equal(&database, replica, 1).await;
    assert_eq!(follower.source.stats().repaired(), 0);
    let letters: String = follower.replica.letters();
    assert!(letters.ends_with("ccuudc"), "{letters}");
    let news = &follower.replica.events[delivered..];
    assert!(news.iter().all(|event| event.position.epoch == Epoch(1)));
}

/// Changes of every kind that the standby never got; all of them are in the log.
const BEYOND: &str = "
    insert into t values (100, 1, 'ghost'), (101, 1, 'ghost');
    update t set n = 99 where id = 1; update t set body = repeat('ghost', 3000) where id = 2;
    delete from t where id = 3; update t set id = 203 where id = 7;
    begin; update t set n = 98 where id = 8; delete from t where id = 8; commit;
    insert into u values (900, 'r1', '2026-03-03 10:00:00.5', 'ghost');
    delete from u where id = 5";

#[tokio::test]
async fn what_was_delivered_beyond_the_switch_point_is_read_again() {
    let (pair, mut follower) = Pair::followed().await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run(BEYOND).await;
    follower.catch_up(&pair.database).await;
    let replica = follower.kill();
    let (_server, database) = pair.fail_over().await;
    // One of the keys comes back with another row, another one does not.
    database.run("insert into t values (101, 2, 'real')").await;
    database.run(AFTER).await;
    let follower = ends_equal(&database, replica, 1).await;
    // Keys of t: 100, 101, 1, 2, 3, 7, 203, 8; of u: 900, 5.
    assert_eq!(follower.source.stats().repaired(), 10);
    let reads = follower.replica.events.iter().filter(|event| {
        let read = matches!(event.change, Change::Row { op: Op::Read, .. });
        event.position.epoch == Epoch(1) && read
    });
    assert_eq!(reads.count(), 7, "101, 1, 2, 3, 7, 8 and 5 are there");
}

#[tokio::test]
async fn a_table_that_was_truncated_beyond_the_switch_point_is_copied_again() {
    let (pair, mut follower) = Pair::followed().await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run("truncate u; insert into u values (1, 'r1', '2026-01-01', 'ghost')").await;
    pair.database.run("update t set n = 99 where id = 1").await;
    follower.catch_up(&pair.database).await;
    let replica = follower.kill();
    assert_eq!(replica.present().len(), 21);
    let (_server, database) = pair.fail_over().await;
    database.run(AFTER).await;
    let follower = ends_equal(&database, replica, 1).await;
    assert_eq!(follower.replica.present().len(), 20 + 301);
}

/// The standby has the change, but not the one after it, which a re-read has seen.
#[tokio::test]
async fn what_was_reread_beyond_the_switch_point_is_read_again() {
    let (mut pair, follower) = Pair::followed().await;
    let replica = follower.kill();
    pair.database.config.batch_bytes_max = 1_000;
    pair.database.run("update t set n = 1 where id = 1").await;
    pair.database.run("update t set n = 1 where id = 2").await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run("update t set body = repeat('ghost', 3000) where id = 1").await;
    let mut follower = Follower::start(&pair.database, replica).await;
    while !holds(&follower.replica.events, "ghostghost") {
        follower.step().await.unwrap();
    }
    let replica = follower.kill();
    let letters = replica.letters();
    assert_eq!(letters, "u", "the change that brought the value is not delivered");
    assert!(cursor(&replica).seen > cursor(&replica).confirm);
    let (_server, database) = pair.fail_over().await;
    let follower = ends_equal(&database, replica, 1).await;
    assert_eq!(follower.source.stats().repaired(), 1);
}

fn holds(events: &[Event], needle: &str) -> bool {
    events.iter().any(|event| match &event.change {
        Change::Row { after: Some(after), .. } => {
            after.windows(needle.len()).any(|window| window == needle.as_bytes())
        }
        Change::Row { .. } | Change::Truncate | Change::Sweep => false,
    })
}

/// Others have been found and handed over when the first such key fails.
#[tokio::test]
async fn a_table_whose_keys_are_no_values_any_more_is_copied_again() {
    keys_are_no_values_any_more(false).await;
}

/// What was handed over before the repair was killed has keys that are none after.
#[tokio::test]
async fn a_table_whose_keys_are_no_values_after_a_killed_repair_is_copied_again() {
    keys_are_no_values_any_more(true).await;
}

async fn keys_are_no_values_any_more(killed: bool) {
    let primary = Cluster::new(&[]).await;
    let standby = primary.standby("second", &[("hot_standby_feedback", "on")]).await;
    let sql = format!(
        "create type mood as enum ('calm', 'wild');
         create domain small as int check (value < 1000);
         create table s (id small primary key, n int);
         create table m (mood mood, id int, n int, primary key (mood, id));
         insert into s select g, 0 from generate_series(1, 20) g;
         insert into m select 'calm', g, 0 from generate_series(1, 600) g;
         insert into m select 'wild', g, 0 from generate_series(1, 10) g; {TABLES}"
    );
    let tables = ["public.m", "public.s", "public.t", "public.u"];
    let database = primary.database(&sql, &tables).await;
    let mut pair = Pair { primary, standby, database };
    let mut follower = Follower::start(&pair.database, Replica::default()).await;
    carry(&pair.primary, &mut pair.standby, (&pair.database, &mut follower)).await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run("update m set n = 99; delete from m where id = 7; update s set n = 9").await;
    pair.database.run("insert into m values ('wild', 700, 0); insert into s values (900, 0)").await;
    pair.database.run(BEYOND).await;
    follower.catch_up(&pair.database).await;
    let mut replica = follower.kill();
    pair.database.config.batch_bytes_max = 4_000;
    let (_server, database) = pair.fail_over().await;
    database.run("alter type mood rename value 'wild' to 'keen'").await;
    if killed {
        let mut follower = Follower::start(&database, replica).await;
        let of_m = |event: &Event| event.position.epoch == Epoch(1) && event.table.name == "m";
        while !follower.replica.events.iter().any(of_m) {
            follower.step().await.unwrap();
        }
        replica = follower.kill();
        assert_eq!(cursor(&replica).epoch, Epoch(1));
        assert!(cursor(&replica).fork.is_some(), "it is not finished");
        database.run("alter type mood rename value 'calm' to 'mild'").await;
    }
    // Nothing in the stream says that a label was renamed.
    database.run("update m set n = 1").await;
    database.run("alter domain small drop constraint small_check").await;
    database.run("alter domain small add check (value < 100)").await;
    database.run(AFTER).await;
    let follower = ends_equal(&database, replica, 1).await;
    let truncated = |event: &&Event| matches!(event.change, Change::Truncate);
    let tables = follower.replica.events.iter().filter(truncated).map(|event| &event.table.name);
    let mut tables: Vec<_> = tables.collect();
    tables.sort();
    assert_eq!(tables, ["m", "s"], "the others by their keys");
}

#[tokio::test]
async fn a_repair_that_is_killed_begins_again_in_the_same_epoch() {
    let (mut pair, mut follower) = Pair::followed().await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run("truncate t; insert into t values (1, 1, 'ghost')").await;
    pair.database.run("update u set v = 'ghost' where id % 2 = 0").await;
    pair.database.run("insert into u values (900, 'r1', '2026-03-03', 'ghost')").await;
    follower.catch_up(&pair.database).await;
    let mut replica = follower.kill();
    pair.database.config.batch_bytes_max = 4_000;
    let (_server, database) = pair.fail_over().await;
    let mut repaired = Vec::new();
    for round in 0..6 {
        let mut follower = Follower::start(&database, replica).await;
        // Killed after some batches, the last of which is not confirmed; changes go on meanwhile.
        for _ in 0..round {
            follower.step().await.unwrap();
        }
        follower.take().await.unwrap();
        replica = follower.kill();
        let at = cursor(&replica);
        assert_eq!((at.epoch, at.timeline), (Epoch(1), 2));
        repaired.push(at.fork.unwrap().rows);
        let id = 10 + round;
        database.run(&format!("update u set v = 'new {round}' where id = {}", 2 * id)).await;
    }
    assert!(repaired.is_sorted() && repaired[0] == 0 && repaired[5] > repaired[1], "{repaired:?}");
    ends_equal(&database, replica, 1).await;
}

#[tokio::test]
async fn a_second_failover_within_a_repair_repairs_both() {
    let (mut pair, mut follower) = Pair::followed().await;
    let mut third = pair.primary.standby("third", &[("hot_standby_feedback", "on")]).await;
    carry(&pair.primary, &mut third, (&pair.database, &mut follower)).await;
    pair.level().await;
    third.has_replayed(&pair.primary.position().await).await;
    third.cut_off().await;
    pair.standby.cut_off().await;
    pair.database.run("update u set v = 'ghost' where id <= 200; delete from t where id = 1").await;
    follower.catch_up(&pair.database).await;
    let replica = follower.kill();
    pair.database.config.batch_bytes_max = 4_000;
    let (second, database) = pair.fail_over().await;
    third.follow(&second).await;
    third.has_replayed(&second.position().await).await;
    third.cut_off().await;
    // Only the second server ever has this; the repair reads it.
    database.run("update u set v = 'ghost of the second' where id <= 200").await;
    let mut follower = Follower::start(&database, replica).await;
    while !holds(&follower.replica.events, "ghost of the second") {
        follower.step().await.unwrap();
    }
    let replica = follower.kill();
    assert!(cursor(&replica).fork.is_some(), "it is not finished");
    let pair = Pair { primary: second, standby: third, database };
    let (_server, database) = pair.fail_over().await;
    ends_equal(&database, replica, 2).await;
}

#[tokio::test]
async fn a_transaction_split_before_the_switch_point_goes_on() {
    let (mut pair, follower) = Pair::followed().await;
    let replica = follower.kill();
    pair.database.config.batch_bytes_max = 4_000;
    pair.database.run("update u set v = 'all of them'").await;
    pair.level().await;
    let replica = half_of_it(&pair.database, replica).await;
    let (_server, database) = pair.fail_over().await;
    let follower = ends_equal(&database, replica, 1).await;
    assert_eq!(follower.source.stats().repaired(), 0);
    assert_eq!(follower.replica.letters(), "u".repeat(300), "each of them once");
}

#[tokio::test]
async fn a_transaction_split_beyond_the_switch_point_is_taken_back() {
    let (mut pair, follower) = Pair::followed().await;
    let replica = follower.kill();
    pair.database.config.batch_bytes_max = 4_000;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run("update u set v = 'ghost'").await;
    let replica = half_of_it(&pair.database, replica).await;
    let begun = u64::try_from(replica.letters().len()).unwrap();
    let (_server, database) = pair.fail_over().await;
    let follower = ends_equal(&database, replica, 1).await;
    assert_eq!(follower.source.stats().repaired(), begun);
}

async fn half_of_it(database: &Database, replica: Replica) -> Replica {
    let mut follower = Follower::start(database, replica).await;
    while follower.replica.letters().len() < 100 {
        follower.step().await.unwrap();
    }
    assert!(cursor(&follower.replica).split.is_some());
    follower.kill()
}

#[tokio::test]
async fn a_standby_without_the_slot_is_refused_until_a_person_decides() {
    let pair = Pair::new().await;
    let mut follower = Follower::start(&pair.database, Replica::default()).await;
    follower.catch_up(&pair.database).await;
    pair.level().await;
    pair.standby.cut_off().await;
    pair.database.run(BEYOND).await;
    follower.catch_up(&pair.database).await;
    let replica = follower.kill();
    let (_server, database) = pair.fail_over().await;
    database.run(AFTER).await;
    let at = cursor(&replica).clone();
    let Some(refused) = Follower::try_start(&database, replica.twin()).await.err() else {
        panic!("it must not go on")
    };
    assert_eq!(refused.kind(), ErrorKind::Lost);
    let report = refused.report();
    for needle in ["promoted", "not synchronised", "of WAL", "anabranch source accept"] {
        assert!(report.contains(needle), "{needle}: {report}");
    }
    let found = diagnose(&database.config, &at, None).await.unwrap().unwrap();
    assert_eq!(found.gap.cause, "slot_not_carried");
    let accepted = vec![Acceptance { gap: found.gap, way: WayOn::Snapshot }];
    let mut follower = Follower::accepting(&database, replica, accepted).await.unwrap();
    reach(&mut follower, &database, 1).await;
    assert_eq!(follower.replica.present(), truth(&database).await);
}

#[tokio::test]
async fn by_policy_a_lost_slot_begins_a_snapshot() {
    let pair = Pair::new().await;
    let mut follower = Follower::start(&pair.database, Replica::default()).await;
    follower.catch_up(&pair.database).await;
    pair.level().await;
    let replica = follower.kill();
    let (_server, mut database) = pair.fail_over().await;
    database.run(AFTER).await;
    database.config.on_lost = OnLost::Snapshot;
    ends_equal(&database, replica, 1).await;
}

/// An asynchronous commit that a re-read has seen is lost by a crash: nothing of it was handed over.
#[tokio::test]
async fn a_commit_that_a_reread_saw_and_a_crash_took_back_is_not_in_the_log() {
    // Nobody flushes what nobody waits for.
    let quiet = [("autovacuum", "off"), ("bgwriter_lru_maxpages", "0")];
    let mut server = Cluster::new(&quiet).await;
    let mut database = server.database(TABLES, &["public.t", "public.u"]).await;
    let mut lost = 0;
    for round in 1..=20 {
        server.freeze("walwriter").await;
        database.config.application_name = format!("round {round}");
        let mut follower = Follower::start(&database, Replica::default()).await;
        follower.catch_up(&database).await;
        let replica = follower.kill();
        let slot = &database.config.slot;
        let free =
            format!("select not active from pg_replication_slots where slot_name = '{slot}'");
        database.wait_for(&free).await;
        let mut follower = Follower::start(&database, replica).await;
        // Flushed, and decoded soon; the other one is visible and nothing more.
        database.run("update t set n = n + 1 where id = 1").await;
        let sql =
            "set synchronous_commit = off; update t set body = repeat('ghost', 3000) where id = 1";
        database.run(sql).await;
        let soon = std::time::Duration::from_millis(25);
        let handed_over = tokio::time::timeout(soon, follower.take()).await;
        server.kill().await;
        server.start().await;
        database = database.on(&server).await;
        let was_lost =
            database.text("select body not like 'ghost%' from t where id = 1").await == "t";
        lost += usize::from(was_lost);
        let mut replica = follower.kill();
        assert!(handed_over.is_err() || !was_lost || !holds(&replica.events, "ghost"));
        replica.log.stands_at(replica.cursor.clone());
        let mut follower = Follower::start(&database, replica).await;
        follower.catch_up(&database).await;
        assert_eq!(follower.replica.present(), truth(&database).await);
        replica = follower.kill();
        drop(replica);
        for slot in [&database.config.slot, &database.other_config("truth").slot] {
            let slots = format!("from pg_replication_slots where slot_name = '{slot}' and active");
            database.wait_for(&format!("select not exists (select {slots})")).await;
        }
        for config in [&database.config, &database.other_config("truth")] {
            anabranch_postgres::teardown(config).await.unwrap();
        }
        database.run("update t set body = repeat('real', 3000) where id = 1").await;
        if lost >= 3 {
            return;
        }
    }
    panic!("no commit was lost in 20 crashes");
}
