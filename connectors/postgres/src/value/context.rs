//! What the writing of values needs beside them: the policies, and what came of them.

use anabranch_core::avro::write;

use super::ValueError;
use super::misfit::{Misfit, Policy, ValuePolicies};
use super::time::Moment;

/// The policies while the values of a column are written, and the misfits so far.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(super) policies: ValuePolicies,
    /// Keys must stay apart: nothing in them is changed.
    pub(super) in_key: bool,
    /// The last misfit that was clamped or nulled in this column, and how many there were.
    pub(super) changed: Option<(Misfit, usize)>,
    /// Texts are spelt here.
    pub(super) spelling: String,
}

impl Context {
    pub(crate) fn new(policies: ValuePolicies) -> Self {
        Self { policies, ..Self::default() }
    }

    /// Begins with the next column.
    pub(crate) fn enter(&mut self, in_key: bool) {
        self.in_key = in_key;
    }

    /// What was changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Option<(Misfit, usize)> {
        self.changed.take()
    }

    /// Whether `misfit` is to be replaced by the nearest value; counts it then.
    pub(super) fn clamps(&mut self, misfit: Misfit) -> bool {
        let clamps = !self.in_key && self.policies.of(misfit) == Policy::Clamp;
        if clamps {
            self.count(misfit);
        }
        clamps
    }

    /// Whether `misfit` is to be null; counts it then. A clamp that has no nearest value is one.
    pub(super) fn nulls(&mut self, misfit: Misfit) -> bool {
        let nulls =
            !self.in_key && matches!(self.policies.of(misfit), Policy::Null | Policy::Clamp);
        if nulls {
            self.count(misfit);
        }
        nulls
    }

    fn count(&mut self, misfit: Misfit) {
        let before = self.changed.map_or(0, |(_, count)| count);
        self.changed = Some((misfit, before.saturating_add(1)));
    }

    /// Runs `write` after the branch of a value; a value that does not fit may become a null.
    pub(super) fn optional(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Self, &mut Vec<u8>) -> Result<(), ValueError>,
    ) -> Result<(), ValueError> {
        let start = out.len();
        write::value_branch(out);
        match write(self, out) {
            Err(ValueError::Misfit(misfit)) if self.nulls(misfit) => {
                out.truncate(start);
                write::null_branch(out);
                Ok(())
            }
            result => result,
        }
    }

    /// A timestamp's microseconds since 1970.
    pub(super) fn micros(&mut self, moment: Moment) -> Result<i64, ValueError> {
        let (misfit, exact, nearest) = match moment {
            Moment::At(micros) => return Ok(micros),
            Moment::Infinity => (Misfit::Infinity, i64::MAX, i64::MAX - 1),
            Moment::MinusInfinity => (Misfit::Infinity, i64::MIN, i64::MIN + 1),
            Moment::Beyond => (Misfit::Timestamp, i64::MAX, i64::MAX - 1),
        };
        self.exact_or_nearest(misfit, exact, nearest)
    }

    /// A date's days since 1970; its ends are the infinities.
    pub(super) fn days(&mut self, days: i32) -> Result<i32, ValueError> {
        match days {
            i32::MAX => self.exact_or_nearest(Misfit::Infinity, days, i32::MAX - 1),
            i32::MIN => self.exact_or_nearest(Misfit::Infinity, days, i32::MIN + 1),
            days => Ok(days),
        }
    }

    /// A time's microseconds since midnight.
    pub(super) fn time_of_day(&mut self, micros: i64) -> Result<i64, ValueError> {
        const DAY: i64 = super::time::DAY_US;
        match micros {
            DAY => self.exact_or_nearest(Misfit::Midnight, DAY, DAY - 1),
            micros => Ok(micros),
        }
    }

    fn exact_or_nearest<T>(&mut self, misfit: Misfit, exact: T, near: T) -> Result<T, ValueError> {
        if self.policies.of(misfit) == Policy::Exact {
            Ok(exact)
        } else if self.clamps(misfit) {
            Ok(near)
        } else {
            Err(ValueError::Misfit(misfit))
        }
    }

    /// Appends text, which must be UTF-8.
    pub(super) fn string(&mut self, out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
        match std::str::from_utf8(text) {
            Ok(text) => write::string(out, text),
            Err(_) if self.clamps(Misfit::Encoding) => {
                write::string(out, &String::from_utf8_lossy(text));
            }
            Err(_) => return Err(ValueError::Misfit(Misfit::Encoding)),
        }
        Ok(())
    }
}
