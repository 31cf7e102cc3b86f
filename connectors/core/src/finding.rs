//! What `anabranch check` found.

use std::fmt;

use serde::Serialize;

use crate::Error;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was looked at: `source: wal_level`, `search: index shop-orders-1`.
    pub subject: String,
    /// What was seen, in a few words.
    pub seen: String,
    /// What to do about it; a sentence, SQL or a command. Empty if all is well.
    pub help: String,
}

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// It runs, but something can go wrong.
    Risk,
    /// It cannot run like this.
    Blocker,
}

impl Finding {
    /// All is well with `subject`.
    #[must_use]
    pub fn fine(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { level: Level::Fine, subject: subject.into(), seen: seen.into(), help: String::new() }
    }

    /// Something to mend: a [`Level::Risk`] or a [`Level::Blocker`].
    #[must_use]
    pub fn trouble(
        level: Level,
        subject: impl Into<String>,
        seen: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { level, subject: subject.into(), seen: seen.into(), help: help.into() }
    }

    /// What `error` says of `subject`; `help` is for one that says nothing of that itself.
    #[must_use]
    pub fn blocker(subject: impl Into<String>, error: &Error, help: &str) -> Self {
        let help = error.help().unwrap_or(help);
        Self::trouble(Level::Blocker, subject, error.chain(), help)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "fine",
            Self::Risk => "risk",
            Self::Blocker => "BLOCKER",
        })
    }
}
