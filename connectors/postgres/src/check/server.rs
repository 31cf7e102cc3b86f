//! The server and its settings.

use crate::config::PostgresConfig;
use crate::hosting::Effect;
use crate::server::Server;
use crate::slot::bytes;

use super::Findings;
use super::settings::Settings;

/// The newest server that the tests run on.
const SERVER_VERSION_TESTED: u32 = 18;
/// A `wal_sender_timeout` below this ends connections for a slow network.
const WAL_SENDER_TIMEOUT_MS_MIN: i64 = 10_000;
/// Less is used up by one bulk load while the source is restarted.
const KEEP_BYTES_MIN: i64 = 1 << 30;
/// Below this nearly every transaction of more than a few rows goes through the server's disk.
const WORK_MEM_BYTES_MIN: i64 = 16 << 20;

pub(super) fn judge(
    server: &Server,
    settings: &Settings,
    config: &PostgresConfig,
    findings: &mut Findings,
) {
    let major = server.version / 10_000;
    let place = server.hosting.name().map(|name| format!(" on {name}")).unwrap_or_default();
    let seen = format!("version {major}{place}, wal_level {}", server.wal_level);
    findings.each("server", &server.obstacles(&config.application_name), seen);
    if major > SERVER_VERSION_TESTED {
        let seen = format!("{major} is newer than what this release was tested with");
        findings.risk("version", seen, format!("it was tested with 14 to {SERVER_VERSION_TESTED}"));
    }
    keep_size(server, settings, config, findings);
    sender_timeout(server, settings, findings);
    idle_timeout(server, settings, findings);
    work_mem(server, settings, findings);
}

fn keep_size(
    server: &Server,
    settings: &Settings,
    config: &PostgresConfig,
    findings: &mut Findings,
) {
    let subject = "max_slot_wal_keep_size";
    let Some(keep) = settings.number(subject) else { return };
    let help = server.hosting.set_help(subject, "50GB", Effect::Reload);
    let policy = config.wal_guard.retained_bytes_max.filter(|_| config.wal_guard.drop_slot);
    match (u64::try_from(keep), policy) {
        (Ok(keep), _) if keep < KEEP_BYTES_MIN.unsigned_abs() => {
            let seen = format!("{}: a short stop of the source loses it", megabytes(keep));
            findings.risk(subject, seen, help);
        }
        (Ok(keep), _) => findings.fine(subject, megabytes(keep)),
        (Err(_), Some(limit)) => {
            let seen = format!("not set; the WAL guard drops the slot at {}", bytes(limit));
            findings.fine(subject, seen);
        }
        (Err(_), None) => {
            let seen = "not set: a source that stands still fills the disk";
            findings.risk(subject, seen, help);
        }
    }
}

fn sender_timeout(server: &Server, settings: &Settings, findings: &mut Findings) {
    let subject = "wal_sender_timeout";
    let help = server.hosting.set_help(subject, "60s", Effect::Reload);
    match settings.number(subject) {
        Some(0) => findings.risk(
            subject,
            "off: a reader whose machine is gone holds the slot for hours",
            help,
        ),
        Some(timeout) if timeout < WAL_SENDER_TIMEOUT_MS_MIN => {
            let seen = format!("{timeout} ms: a moment's pause of the network ends the connection");
            findings.risk(subject, seen, help);
        }
        Some(timeout) => findings.fine(subject, format!("{} s", timeout / 1_000)),
        None => {}
    }
}

/// From PostgreSQL 18 on.
fn idle_timeout(server: &Server, settings: &Settings, findings: &mut Findings) {
    let subject = "idle_replication_slot_timeout";
    match settings.number(subject) {
        Some(0) => findings.fine(subject, "off"),
        Some(timeout) => {
            let seen =
                format!("a source that is stopped for {} min loses its slot", timeout / 60_000);
            findings.risk(subject, seen, server.hosting.set_help(subject, "0", Effect::Reload));
        }
        None => {}
    }
}

fn work_mem(server: &Server, settings: &Settings, findings: &mut Findings) {
    let subject = "logical_decoding_work_mem";
    let Some(memory) = settings.number(subject) else { return };
    let size = megabytes(memory.unsigned_abs());
    if memory < WORK_MEM_BYTES_MIN {
        let seen = format!("{size}: the server spills most transactions to its disk");
        findings.risk(subject, seen, server.hosting.set_help(subject, "64MB", Effect::Reload));
    } else {
        findings.fine(subject, size);
    }
}

/// As the server itself shows it.
fn megabytes(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{}kB", bytes >> 10) } else { format!("{}MB", bytes >> 20) }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Level;

    use super::*;
    use crate::hosting::Hosting;

    fn server() -> Server {
        Server {
            version: 180_004,
            system_id: 1,
            timeline: 1,
            is_standby: false,
            wal_level: "logical".into(),
            synchronous_standby_names: String::new(),
            role: "r".into(),
            role_replicates: true,
            hosting: Hosting::Plain,
        }
    }

    fn config() -> PostgresConfig {
        PostgresConfig::new("postgres://u@h/d", vec!["public.t".into()])
    }

    /// The level and help of `subject`.
    fn judged(server: &Server, settings: &Settings, subject: &str) -> (Level, String) {
        let mut findings = Findings::default();
        judge(server, settings, &config(), &mut findings);
        let name = format!("source: {subject}");
        let found = findings.0.into_iter().find(|finding| finding.subject == name);
        found.map(|finding| (finding.level, finding.help)).expect("a finding")
    }

    #[test]
    fn settings_that_lose_a_slot_or_a_connection_are_risks() {
        let cases = [
            ("max_slot_wal_keep_size", "-1", "MB", Level::Risk),
            ("max_slot_wal_keep_size", "100", "MB", Level::Risk),
            ("max_slot_wal_keep_size", "51200", "MB", Level::Fine),
            ("wal_sender_timeout", "0", "ms", Level::Risk),
            ("wal_sender_timeout", "2000", "ms", Level::Risk),
            ("wal_sender_timeout", "60000", "ms", Level::Fine),
            ("idle_replication_slot_timeout", "0", "s", Level::Fine),
            ("idle_replication_slot_timeout", "86400", "s", Level::Risk),
            ("logical_decoding_work_mem", "64", "kB", Level::Risk),
            ("logical_decoding_work_mem", "65536", "kB", Level::Fine),
        ];
        for (name, value, unit, expected) in cases {
            let settings = Settings::of(&[(name, value, unit)]);
            let (level, help) = judged(&server(), &settings, name);
            assert_eq!(level, expected, "{name} = {value}");
            let mends = format!("ALTER SYSTEM SET {name} = ");
            assert_eq!(help.starts_with(&mends), level == Level::Risk, "{help}");
        }
    }

    #[test]
    fn a_guard_that_drops_the_slot_is_a_limit_as_good_as_the_servers() {
        let mut config = config();
        config.wal_guard.retained_bytes_max = Some(50_000_000_000);
        config.wal_guard.drop_slot = true;
        let settings = Settings::of(&[("max_slot_wal_keep_size", "-1", "MB")]);
        let mut findings = Findings::default();
        judge(&server(), &settings, &config, &mut findings);
        assert!(findings.0.iter().all(|finding| finding.level == Level::Fine), "{:?}", findings.0);
    }

    #[test]
    fn a_managed_service_is_told_its_own_switches() {
        let rds = Server { wal_level: "replica".into(), hosting: Hosting::Rds, ..server() };
        let (level, help) = judged(&rds, &Settings::default(), "server");
        assert_eq!(level, Level::Blocker);
        assert!(help.contains("rds.logical_replication"), "{help}");
        let settings = Settings::of(&[("max_slot_wal_keep_size", "-1", "MB")]);
        let (_, help) = judged(&rds, &settings, "max_slot_wal_keep_size");
        assert!(help.contains("parameter group"), "{help}");
    }

    #[test]
    fn a_version_that_nobody_tested_is_a_risk() {
        let newer = Server { version: 190_000, ..server() };
        assert_eq!(judged(&newer, &Settings::default(), "version").0, Level::Risk);
    }
}
