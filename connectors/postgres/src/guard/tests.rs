//! The guard over simulated time: samples in, states and actions out.

use super::*;

const GB: u64 = 1_000_000_000;

fn guard(config: WalGuardConfig) -> Guard {
    Guard::new(config, "s".to_owned())
}

fn slot(retained: u64) -> SlotSample {
    SlotSample {
        ours: true,
        active: true,
        wal_status: Some("reserved".to_owned()),
        retained: Some(retained),
        unconfirmed: Some(retained),
        ..SlotSample::default()
    }
}

fn sample(slot: SlotSample) -> Sample {
    Sample { slot: Some(slot), ..Sample::default() }
}

/// A server with `max_slot_wal_keep_size` of 10 GB.
fn on_server(retained: u64) -> Sample {
    let safe = i64::try_from(10 * GB).unwrap() - i64::try_from(retained).unwrap();
    sample(SlotSample { safe_bytes: Some(safe), ..slot(retained) })
}

/// Feeds a sample every five seconds; returns the states that were told, with the second.
fn run(guard: &mut Guard, samples: impl IntoIterator<Item = Sample>) -> Vec<(u64, GuardState)> {
    let mut told = Vec::new();
    for (second, sample) in (0_u64..).step_by(5).zip(samples) {
        let (report, actions) = guard.observe(Duration::from_secs(second), &sample);
        let crossed = |action: &Action| matches!(action, Action::Tell { .. });
        told.extend(
            actions.iter().filter(|action| crossed(action)).map(|_| (second, report.state)),
        );
    }
    told
}

#[test]
fn a_source_that_stands_still_is_told_of_once_a_crossing() {
    let config = WalGuardConfig { warn_seconds: 0, ..WalGuardConfig::default() };
    // 100 MB a sample: the limit after 500 s.
    let told = run(&mut guard(config), (0..=100).map(|n| on_server(n * GB / 10)));
    let expected = [
        (0, GuardState::Calm),
        (250, GuardState::Warn),
        (375, GuardState::Pause),
        (500, GuardState::Full),
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_time_that_is_left_warns_before_the_share_does() {
    // 20 MB/s with 10 GB of room are 500 s in all, less than half an hour from the start on.
    let told = run(&mut guard(WalGuardConfig::default()), (0..20).map(|n| on_server(n * GB / 10)));
    assert_eq!(told, [(0, GuardState::Calm), (50, GuardState::Warn)], "from 10 % on");
}

#[test]
fn a_figure_that_sways_around_a_threshold_is_one_crossing() {
    let config = WalGuardConfig { warn_seconds: 0, ..WalGuardConfig::default() };
    let sway = (0..40).map(|n| on_server(if n % 2 == 0 { 49 * GB / 10 } else { 51 * GB / 10 }));
    let told = run(&mut guard(config.clone()), sway);
    assert_eq!(told, [(0, GuardState::Calm), (5, GuardState::Warn)]);
    let limits = [10 * GB, 97 * GB / 10, 10 * GB, 94 * GB / 10];
    let told = run(&mut guard(config.clone()), limits.map(on_server));
    assert_eq!(told, [(0, GuardState::Full), (15, GuardState::Pause)]);
    let mut guard = guard(config);
    run(&mut guard, [on_server(6 * GB)]);
    let (report, actions) = guard.observe(Duration::from_secs(5), &on_server(GB));
    assert_eq!((report.state, actions), (GuardState::Calm, vec![Action::Tell { worse: false }]));
    assert_eq!(report.help, None);
}

#[test]
fn without_any_limit_it_only_counts() {
    let told = run(&mut guard(WalGuardConfig::default()), (0..100).map(|n| sample(slot(n * GB))));
    assert_eq!(told, [(0, GuardState::Calm)]);
}

#[test]
fn the_nearer_limit_counts() {
    let config = WalGuardConfig { retained_bytes_max: Some(4 * GB), ..WalGuardConfig::default() };
    let (report, _) = guard(config).observe(Duration::ZERO, &on_server(3 * GB));
    assert_eq!((report.limit, report.used_percent), (Some(Limit::Configured), Some(75)));
    let config = WalGuardConfig { retained_bytes_max: Some(40 * GB), ..WalGuardConfig::default() };
    let (report, _) = guard(config).observe(Duration::ZERO, &on_server(3 * GB));
    assert_eq!((report.limit, report.used_percent), (Some(Limit::Server), Some(30)));
}

#[test]
fn a_slot_is_dropped_by_explicit_policy_alone() {
    let limit = WalGuardConfig { retained_bytes_max: Some(GB), ..WalGuardConfig::default() };
    let policy = WalGuardConfig {
        retained_bytes_max: Some(GB),
        drop_slot: true,
        ..WalGuardConfig::default()
    };
    let drops = |config: &WalGuardConfig, sample: &Sample| {
        let (_, actions) = guard(config.clone()).observe(Duration::ZERO, sample);
        actions.contains(&Action::DropSlot)
    };
    assert!(!drops(&limit, &sample(slot(2 * GB))));
    assert!(drops(&policy, &sample(slot(GB))));
    assert!(!drops(&policy, &sample(slot(GB - 1))));
    let ended = SlotSample { wal_status: Some("lost".to_owned()), ..slot(2 * GB) };
    assert!(!drops(&policy, &sample(ended)), "it keeps nothing more");
    let elsewhere = SlotSample { ours: false, ..slot(2 * GB) };
    assert!(!drops(&policy, &sample(elsewhere)), "somebody else's");
    let lost = SlotSample { wal_status: Some("lost".into()), retained: None, ..slot(0) };
    assert!(!drops(&policy, &sample(lost)), "it keeps nothing any more");
    // The server's own limit is the server's to act on.
    let server = WalGuardConfig { retained_bytes_max: Some(20 * GB), ..policy };
    assert!(!drops(&server, &on_server(10 * GB)));
}

#[test]
fn what_was_dropped_stays_dropped_until_there_is_a_slot_again() {
    let mut guard = guard(WalGuardConfig::default());
    run(&mut guard, [sample(slot(1))]);
    guard.dropped();
    let told = run(&mut guard, [Sample::default(), Sample::default(), sample(slot(1))]);
    assert_eq!(told, [(10, GuardState::Calm)]);
}

#[test]
fn a_slot_that_the_server_gave_up_is_lost() {
    let unreserved = SlotSample { wal_status: Some("unreserved".into()), ..slot(GB) };
    let lost = SlotSample { wal_status: Some("lost".into()), retained: None, ..slot(0) };
    let samples = [
        sample(slot(GB)),
        sample(SlotSample { safe_bytes: Some(1_000_000_000), ..unreserved }),
        sample(lost),
    ];
    let told = run(&mut guard(WalGuardConfig::default()), samples);
    let states: Vec<GuardState> = told.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [GuardState::Calm, GuardState::Pause, GuardState::Lost]);
}

#[test]
fn the_help_names_what_holds_the_slot_back() {
    let help = |sample: Sample| {
        guard(WalGuardConfig::default()).observe(Duration::ZERO, &sample).0.help.unwrap()
    };
    let at = |slot: SlotSample| sample(SlotSample { safe_bytes: Some(1_000_000), ..slot });
    assert!(help(at(slot(GB))).contains("max_slot_wal_keep_size = '1910MB'"));
    assert!(help(at(SlotSample { active: false, ..slot(GB) })).contains("resume source"));
    let running = SlotSample { unconfirmed: Some(GB / 10), ..slot(GB) };
    assert!(help(at(running)).contains("pg_stat_activity"));
    let prepared = OldestPrepared { gid: "it's".into(), database: "d".into(), seconds: 900 };
    let forgotten = Sample { oldest_prepared: Some(prepared), ..at(slot(GB)) };
    assert!(help(forgotten).contains("ROLLBACK PREPARED 'it''s'"));
}

#[test]
fn a_forgotten_prepared_transaction_is_told_of_once() {
    let mut guard = guard(WalGuardConfig::default());
    let mut news = Vec::new();
    for seconds in (0_u64..1_500).step_by(100) {
        let prepared = OldestPrepared { gid: "g".into(), database: "d".into(), seconds };
        let sample = Sample { oldest_prepared: Some(prepared), ..sample(slot(1)) };
        let (_, actions) = guard.observe(Duration::from_secs(seconds), &sample);
        news.extend(actions.contains(&Action::TellPrepared).then_some(seconds));
    }
    assert_eq!(news, [600]);
}
