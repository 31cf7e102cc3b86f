//! `[source.wal_guard]`.

use anabranch_core::{Error, ErrorKind, Result};
use serde::Deserialize;

/// Milliseconds between two looks: a disk of a hundred gigabytes does not fill in a few seconds,
/// and the query costs the server a fraction of a millisecond.
const DEFAULT_INTERVAL_MS: u64 = 5_000;
/// The shortest interval; below it the guard itself would be a load.
const INTERVAL_MS_MIN: u64 = 20;
/// Half of the limit: whoever is told has as much time left as it took so far.
const DEFAULT_WARN_PERCENT: u8 = 50;
/// What is left must do for the change that is under way, so nothing is begun any more.
const DEFAULT_PAUSE_PERCENT: u8 = 75;
/// Half an hour: what a person who is woken needs to act.
const DEFAULT_WARN_SECONDS: u64 = 1_800;

/// How much WAL the slot may keep on the server, and what is done about it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalGuardConfig {
    /// Milliseconds between two looks at the server.
    pub interval_ms: u64,
    /// Bytes of WAL that the slot may keep; beside `max_slot_wal_keep_size`, which the server has.
    pub retained_bytes_max: Option<u64>,
    /// From this share of the nearer limit on: a warning.
    pub warn_percent: u8,
    /// From this share on: the state that snapshots beside the stream wait for the end of.
    pub pause_percent: u8,
    /// A warning, too, if the limit will be reached within this time.
    pub warn_seconds: u64,
    /// Drops the slot when it keeps `retained_bytes_max`: the source is lost, and its server saved.
    pub drop_slot: bool,
}

impl Default for WalGuardConfig {
    fn default() -> Self {
        Self {
            interval_ms: DEFAULT_INTERVAL_MS,
            retained_bytes_max: None,
            warn_percent: DEFAULT_WARN_PERCENT,
            pause_percent: DEFAULT_PAUSE_PERCENT,
            warn_seconds: DEFAULT_WARN_SECONDS,
            drop_slot: false,
        }
    }
}

impl WalGuardConfig {
    /// Whether the settings go together.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |what: &str, help: &str| {
            Err(Error::new(ErrorKind::Config, format!("use [source.wal_guard] {what}"))
                .with_help(help))
        };
        if self.interval_ms < INTERVAL_MS_MIN {
            return refuse("interval_ms below 20", "leave it out for 5000");
        }
        if self.warn_percent == 0 || self.warn_percent > self.pause_percent {
            return refuse("warn_percent", "it is at least 1, and at most pause_percent");
        }
        if self.pause_percent > 100 {
            return refuse("pause_percent above 100", "leave it out for 75");
        }
        if self.retained_bytes_max == Some(0) {
            return refuse("retained_bytes_max = 0", "leave it out for no limit of our own");
        }
        if self.drop_slot && self.retained_bytes_max.is_none() {
            return refuse(
                "drop_slot without retained_bytes_max",
                "say at how many bytes the slot is dropped: retained_bytes_max = 50000000000",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let good = WalGuardConfig::default();
        good.validate().unwrap();
        let dropping = WalGuardConfig {
            drop_slot: true,
            retained_bytes_max: Some(1),
            ..WalGuardConfig::default()
        };
        dropping.validate().unwrap();
        let bad = [
            WalGuardConfig { interval_ms: 0, ..good.clone() },
            WalGuardConfig { warn_percent: 0, ..good.clone() },
            WalGuardConfig { warn_percent: 80, ..good.clone() },
            WalGuardConfig { pause_percent: 101, ..good.clone() },
            WalGuardConfig { retained_bytes_max: Some(0), ..good.clone() },
            WalGuardConfig { drop_slot: true, ..good },
        ];
        for config in bad {
            let error = config.validate().unwrap_err();
            assert!(error.report().contains("[source.wal_guard]"), "{error:?}");
        }
    }
}
