//! Where a store goes on in a partition: its own cursor, against the group's committed offset.
//!
//! ```text
//! cursor in the target ─┐
//! committed offset ─────┼─▶ resume() ─▶ go on there · take a reset · Lost
//! the log itself ───────┘
//! ```
//!
//! The target's cursor decides, for it moves with the data. The committed offset is the user's
//! handle: one without our mark was set by a person or a tool, and is a reset that must not get
//! lost, neither by a crash while it is taken over nor by a store restored to before it. Such a
//! store takes the reset again, but never skips what it does not hold: it goes on from its own
//! cursor where that is lower.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::{Error, ErrorKind, LastRecord, Result, UnitCursor};

/// What marks a committed offset as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The log it counts in.
    pub log: Uuid,
    /// The generation of the sink.
    pub generation: u32,
    /// How many resets had been taken when it was committed.
    pub resets: u32,
    /// The offset that the last of them asked for; 0 if there was none.
    pub reset_to: i64,
}

/// A group's committed offset in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// Our mark, or `None` if somebody else committed it.
    pub mark: Option<Mark>,
}

/// What is known of one partition of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition<'a> {
    /// Topic and partition, for messages.
    pub name: &'a str,
    /// The log's id.
    pub log: Uuid,
    /// The sink's generation.
    pub generation: u32,
    /// The first offset that is still there.
    pub start: i64,
    /// The offset after the last record.
    pub end: i64,
}

/// How a store goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At `next`, if the remembered record `check` is still the one at its offset.
    At {
        /// The next offset to apply.
        next: i64,
        /// The record to look at first, if it is still in the log.
        check: Option<LastRecord>,
    },
    /// Write `next` and `resets` into the target's cursor first, commit the mark, replay from there.
    Reset {
        /// The offset asked for, within the log.
        next: i64,
        /// The raised counter.
        resets: u32,
    },
}

/// Decides where a store goes on.
///
/// # Errors
///
/// [`ErrorKind::Lost`] if the cursor is of another log or generation, or the records after it
/// are gone.
pub fn resume(
    cursor: Option<&UnitCursor>,
    committed: Option<Committed>,
    partition: &Partition<'_>,
) -> Result<Resume> {
    if let Some(cursor) = cursor
        && (cursor.log, cursor.generation) != (partition.log, partition.generation)
    {
        let seen = format!(
            "it belongs to generation {} of log {}, and this is generation {} of log {}",
            cursor.generation, cursor.log, partition.generation, partition.log
        );
        let help = "empty the store of this table, its progress included (docs/operating.md, \"Filling one store \
                    anew\"), then run `anabranch resume SINK`";
        return Err(lost(partition, seen).with_help(help));
    }
    let held = cursor.map_or(0, |cursor| cursor.resets);
    let within = |offset: i64| offset.clamp(partition.start, partition.end);
    match committed {
        Some(Committed { offset, mark: None }) => {
            return Ok(Resume::Reset { next: within(offset), resets: held.saturating_add(1) });
        }
        Some(Committed { mark: Some(mark), .. })
            if (mark.log, mark.generation) == (partition.log, partition.generation)
                && mark.resets > held =>
        {
            let next = mark.reset_to.min(cursor.map_or(0, |cursor| cursor.next));
            present(next, partition)?;
            return Ok(Resume::Reset { next, resets: mark.resets });
        }
        Some(_) | None => {}
    }
    let (next, check) = cursor.map_or((0, None), |cursor| (cursor.next, cursor.last));
    present(next, partition)?;
    Ok(Resume::At { next, check: check.filter(|last| last.offset >= partition.start) })
}

/// Whether the log still holds everything from `next` on.
fn present(next: i64, partition: &Partition<'_>) -> Result<()> {
    if next < partition.start {
        return Err(lost(
            partition,
            format!(
                "offset {next} comes next, and the log begins at {}: {} offsets have expired",
                partition.start,
                partition.start - next
            ),
        ));
    }
    if next > partition.end {
        return Err(lost(
            partition,
            format!(
                "offset {next} comes next, and the log ends at {}: it was truncated or recreated",
                partition.end
            ),
        ));
    }
    Ok(())
}

fn lost(partition: &Partition<'_>, seen: String) -> Error {
    Error::new(ErrorKind::Lost, format!("go on in {}", partition.name)).with_source(seen).with_help(
        "the store needs a new snapshot: empty it, then run `anabranch teardown` and start again",
    )
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, generation, resets, reset_to } = self;
        write!(f, "anabranch/1 {log} {generation} {resets} {reset_to}")
    }
}

/// Commit metadata that is not our mark.
#[derive(Debug, thiserror::Error)]
#[error("not a mark of anabranch")]
pub struct NotOurs;

impl FromStr for Mark {
    type Err = NotOurs;

    fn from_str(metadata: &str) -> Result<Self, NotOurs> {
        let mut words = metadata.split(' ');
        let mut word = || words.next().ok_or(NotOurs);
        if word()? != "anabranch/1" {
            return Err(NotOurs);
        }
        let mark = Self {
            log: word()?.parse().map_err(|_| NotOurs)?,
            generation: word()?.parse().map_err(|_| NotOurs)?,
            resets: word()?.parse().map_err(|_| NotOurs)?,
            reset_to: word()?.parse().map_err(|_| NotOurs)?,
        };
        if words.next().is_some() { Err(NotOurs) } else { Ok(mark) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CURSOR_FORMAT;

    const LOG: Uuid = Uuid::from_u128(7);
    const PARTITION: Partition<'_> =
        Partition { name: "orders[0]", log: LOG, generation: 1, start: 10, end: 100 };

    fn cursor(next: i64, resets: u32) -> UnitCursor {
        UnitCursor { format: CURSOR_FORMAT, log: LOG, generation: 1, resets, next, last: None }
    }

    fn marked(offset: i64, resets: u32, reset_to: i64) -> Option<Committed> {
        let mark = Mark { log: LOG, generation: 1, resets, reset_to };
        Some(Committed { offset, mark: Some(mark) })
    }

    const fn unmarked(offset: i64) -> Option<Committed> {
        Some(Committed { offset, mark: None })
    }

    #[test]
    fn the_target_decides_unless_a_reset_would_get_lost() {
        let at = |next| Resume::At { next, check: None };
        let reset = |next, resets| Resume::Reset { next, resets };
        let cases = [
            (Some(cursor(50, 0)), None, at(50)),
            (Some(cursor(50, 0)), marked(40, 0, 0), at(50)),
            (Some(cursor(50, 2)), marked(60, 2, 10), at(50)),
            (Some(cursor(50, 0)), unmarked(20), reset(20, 1)),
            (Some(cursor(50, 3)), unmarked(0), reset(10, 4)),
            (Some(cursor(50, 3)), unmarked(1000), reset(100, 4)),
            // The store was restored to before the reset.
            (Some(cursor(50, 0)), marked(90, 1, 20), reset(20, 1)),
            (Some(cursor(15, 0)), marked(90, 1, 20), reset(15, 1)),
            // A mark of another life of this group says nothing.
            (
                Some(cursor(50, 0)),
                Some(Committed {
                    offset: 3,
                    mark: Some(Mark { log: Uuid::nil(), generation: 1, resets: 9, reset_to: 0 }),
                }),
                at(50),
            ),
            (Some(cursor(100, 0)), None, at(100)),
        ];
        for (cursor, committed, wanted) in cases {
            assert_eq!(resume(cursor.as_ref(), committed, &PARTITION).unwrap(), wanted);
        }
    }

    #[test]
    fn missing_history_is_lost() {
        let other = |log, generation| UnitCursor { log, generation, ..cursor(50, 0) };
        let cases = [
            Some(cursor(9, 0)),
            Some(cursor(101, 0)),
            None,
            Some(other(Uuid::nil(), 1)),
            Some(other(LOG, 2)),
        ];
        for cursor in cases {
            assert_eq!(
                resume(cursor.as_ref(), None, &PARTITION).unwrap_err().kind(),
                ErrorKind::Lost
            );
        }
        assert!(
            resume(None, marked(90, 1, 20), &PARTITION).is_err(),
            "an empty store needs all of it"
        );
        assert!(
            resume(Some(&other(Uuid::nil(), 1)), unmarked(20), &PARTITION).is_err(),
            "no reset mends it"
        );
    }

    #[test]
    fn marks_round_trip() {
        let mark = Mark { log: LOG, generation: 1, resets: 2, reset_to: 33 };
        assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
        for other in ["", "anabranch/2 x", "anabranch/1 1 2", &format!("{mark} 5")] {
            assert!(other.parse::<Mark>().is_err(), "{other}");
        }
    }
}
