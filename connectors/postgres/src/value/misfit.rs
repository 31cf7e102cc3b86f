//! Values that the type of their column cannot hold, and what becomes of them.
//!
//! ```text
//! value ── does not fit ──▶ Policy of its class ──▶ exact · clamp · null · reject
//!                                                     └─ counted ─┘
//! ```
//!
//! The invariant: no value is changed or dropped without being counted, and none in a key at all.

use serde::Deserialize;

/// Why a value does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Misfit {
    /// A number that is NaN or infinite, or has too many digits, in a column of a declared precision.
    #[error("a number that is NaN, infinite or too wide for its column")]
    Number,
    /// A timestamp beyond 64 bits of microseconds since 1970.
    #[error("a timestamp too far from 1970 for 64 bits of microseconds")]
    Timestamp,
    /// An infinite date or timestamp.
    #[error("an infinite date or timestamp")]
    Infinity,
    /// The time `24:00:00`.
    #[error("the time 24:00:00")]
    Midnight,
    /// An array with several dimensions, or one that does not begin at 1.
    #[error("an array of several dimensions, or that does not begin at 1")]
    Array,
    /// A composite of other attributes than its type had when it was looked up.
    #[error("a composite whose type has other attributes by now")]
    Composite,
    /// Text that is not UTF-8, as a database in SQL_ASCII may hold.
    #[error("text that is not UTF-8")]
    Encoding,
}

/// What becomes of such a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It travels as a value that stands for it. Only infinities and 24:00 have one.
    Exact,
    /// Columns of that type travel as text.
    Text,
    /// The nearest value that fits, counted; null where there is none.
    Clamp,
    /// Null, counted.
    Null,
    /// The source stops at it.
    Reject,
}

impl Misfit {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Number,
        Self::Timestamp,
        Self::Infinity,
        Self::Midnight,
        Self::Array,
        Self::Composite,
        Self::Encoding,
    ];

    /// The setting in `[source.values]`, and the name of its counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "numbers",
            Self::Timestamp => "timestamps",
            Self::Infinity => "infinities",
            Self::Midnight => "midnight",
            Self::Array => "arrays",
            Self::Composite => "composites",
            Self::Encoding => "encoding",
        }
    }
}

/// `[source.values]`: the policy of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValuePolicies {
    /// Of [`Misfit::Number`].
    pub numbers: Policy,
    /// Of [`Misfit::Timestamp`].
    pub timestamps: Policy,
    /// Of [`Misfit::Infinity`].
    pub infinities: Policy,
    /// Of [`Misfit::Midnight`].
    pub midnight: Policy,
    /// Of [`Misfit::Array`].
    pub arrays: Policy,
    /// Of [`Misfit::Composite`].
    pub composites: Policy,
    /// Of [`Misfit::Encoding`].
    pub encoding: Policy,
}

impl Default for ValuePolicies {
    fn default() -> Self {
        Self {
            numbers: Policy::Null,
            timestamps: Policy::Clamp,
            infinities: Policy::Exact,
            midnight: Policy::Exact,
            arrays: Policy::Null,
            composites: Policy::Null,
            encoding: Policy::Clamp,
        }
    }
}

impl ValuePolicies {
    /// The policy of a class.
    #[must_use]
    pub fn of(&self, misfit: Misfit) -> Policy {
        match misfit {
            Misfit::Number => self.numbers,
            Misfit::Timestamp => self.timestamps,
            Misfit::Infinity => self.infinities,
            Misfit::Midnight => self.midnight,
            Misfit::Array => self.arrays,
            Misfit::Composite => self.composites,
            Misfit::Encoding => self.encoding,
        }
    }

    /// The first class whose policy cannot be.
    pub(crate) fn impossible(&self) -> Option<Misfit> {
        let has_exact = |misfit| matches!(misfit, Misfit::Infinity | Misfit::Midnight);
        Misfit::ALL.into_iter().find(|misfit| match self.of(*misfit) {
            Policy::Exact => !has_exact(*misfit),
            // There is no other type to give the text.
            Policy::Text => *misfit == Misfit::Encoding,
            Policy::Clamp | Policy::Null | Policy::Reject => false,
        })
    }
}
