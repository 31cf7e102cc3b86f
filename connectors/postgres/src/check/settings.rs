//! `pg_settings`, as far as the source depends on it.

use std::collections::HashMap;

use anabranch_core::Result;
use tokio_postgres::Client;

use crate::error::Context;

const NAMES: &[&str] = &[
    "idle_replication_slot_timeout",
    "logical_decoding_work_mem",
    "max_slot_wal_keep_size",
    "synchronized_standby_slots",
    "wal_sender_timeout",
];

/// Settings in their base units; one that this server does not have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(HashMap<String, Setting>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    value: String,
    unit: Option<String>,
}

impl Settings {
    pub(super) async fn read(client: &Client) -> Result<Self> {
        let action = || "read the server's settings".to_owned();
        let query = "select name, setting, unit from pg_settings where name = any($1)";
        let rows = client.query(query, &[&NAMES]).await.doing(action)?;
        let read = |row: &tokio_postgres::Row| {
            Ok((row.try_get(0)?, Setting { value: row.try_get(1)?, unit: row.try_get(2)? }))
        };
        let pairs = rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>();
        pairs.map(Self).doing(action)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|setting| setting.value.as_str())
    }

    /// A size in bytes, or a time in milliseconds; what is negative means no limit.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        let setting = self.0.get(name)?;
        let value: i64 = setting.value.parse().ok()?;
        let factor = match setting.unit.as_deref() {
            Some("kB") => 1 << 10,
            Some("MB") => 1 << 20,
            Some("s") => 1_000,
            Some("min") => 60_000,
            Some(_) | None => 1,
        };
        Some(if value < 0 { value } else { value.saturating_mul(factor) })
    }

    #[cfg(test)]
    pub(super) fn of(settings: &[(&str, &str, &str)]) -> Self {
        let one = |(name, value, unit): &(&str, &str, &str)| {
            let unit = (!unit.is_empty()).then(|| (*unit).to_owned());
            ((*name).to_owned(), Setting { value: (*value).to_owned(), unit })
        };
        Self(settings.iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_applied_and_absent_is_absent() {
        let settings =
            Settings::of(&[("a", "2", "MB"), ("b", "-1", "MB"), ("c", "3", "s"), ("d", "x", "")]);
        assert_eq!(settings.number("a"), Some(2 << 20));
        assert_eq!(settings.number("b"), Some(-1));
        assert_eq!(settings.number("c"), Some(3_000));
        assert_eq!((settings.number("d"), settings.text("d")), (None, Some("x")));
        assert_eq!(settings.number("e"), None);
    }
}
