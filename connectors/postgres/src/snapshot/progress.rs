//! How far the copy of the tables is: for `status`, `/metrics` and the log.

use std::cmp::Reverse;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::slot;

/// The copy under way; whoever looks sees it grow.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    tables: Vec<TableProgress>,
}

#[derive(Debug)]
struct TableProgress {
    table: String,
    bytes_total: u64,
    bytes: AtomicU64,
    rows: AtomicU64,
    ranges_left: AtomicUsize,
}

/// How far the copy of the tables is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyFigures {
    /// Seconds since it began.
    pub seconds: f64,
    /// In the order in which they are copied: the largest first.
    pub tables: Vec<TableCopy>,
}

/// How far the copy of one table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCopy {
    /// `schema.name`.
    pub table: String,
    /// Rows that were read.
    pub rows: u64,
    /// Bytes on the server's disk of what is finished, without values that are kept apart (TOAST).
    pub bytes: u64,
    /// The same of all of the table.
    pub bytes_total: u64,
    /// Whether all of it was read.
    pub finished: bool,
}

impl Progress {
    /// Of tables by name, each with its bytes and the number of its ranges.
    pub(super) fn new(tables: impl IntoIterator<Item = (String, u64, usize)>) -> Self {
        let table = |(table, bytes_total, ranges)| TableProgress {
            table,
            bytes_total,
            bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            ranges_left: AtomicUsize::new(ranges),
        };
        Self { began: Instant::now(), tables: tables.into_iter().map(table).collect() }
    }

    /// Rows of the table at `place` were read.
    pub(super) fn rows(&self, place: usize, rows: u64) {
        if let Some(table) = self.tables.get(place) {
            table.rows.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// A range of the table at `place` was read; returns the rows of the table if it was the last.
    pub(super) fn range(&self, place: usize, bytes: u64) -> Option<u64> {
        let table = self.tables.get(place)?;
        table.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_last = table.ranges_left.fetch_sub(1, Ordering::AcqRel) == 1;
        is_last.then(|| table.rows.load(Ordering::Relaxed))
    }

    /// Everything, now.
    pub(crate) fn figures(&self) -> CopyFigures {
        let table = |table: &TableProgress| TableCopy {
            table: table.table.clone(),
            rows: table.rows.load(Ordering::Relaxed),
            bytes: table.bytes.load(Ordering::Relaxed),
            bytes_total: table.bytes_total,
            finished: table.ranges_left.load(Ordering::Acquire) == 0,
        };
        let mut tables: Vec<TableCopy> = self.tables.iter().map(table).collect();
        tables.sort_by_key(|table| Reverse(table.bytes_total));
        CopyFigures { seconds: self.began.elapsed().as_secs_f64(), tables }
    }
}

impl CopyFigures {
    /// Rows that were read.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes that are finished, and all of them.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let bytes = self.tables.iter().map(|table| table.bytes).sum();
        (bytes, self.tables.iter().map(|table| table.bytes_total).sum())
    }

    /// Tables that are finished.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.tables.iter().filter(|table| table.finished).count()
    }

    /// Seconds until it is finished at the speed so far; `None` before there is one.
    #[must_use]
    pub fn seconds_left(&self) -> Option<f64> {
        let (bytes, total) = self.bytes();
        let left = total.saturating_sub(bytes);
        let so_far = Duration::try_from_secs_f64(self.seconds).ok()?.as_millis();
        let millis = (so_far * u128::from(left)).checked_div(u128::from(bytes))?;
        Some(Duration::from_millis(u64::try_from(millis).ok()?).as_secs_f64())
    }
}

impl fmt::Display for CopyFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((bytes, total), rows) = (self.bytes(), self.rows());
        let (bytes, total) = (slot::bytes(bytes), slot::bytes(total));
        let (finished, tables) = (self.finished(), self.tables.len());
        write!(f, "{finished} of {tables} tables, {bytes} of {total}, {rows} rows")?;
        match self.seconds_left() {
            Some(left) => write!(f, ", about {left:.0} s left"),
            None => Ok(()),
        }
    }
}

/// Percents, drawn.
#[must_use]
pub fn bar(percent: u64) -> String {
    let done = usize::try_from(percent).unwrap_or(100).min(100) / 5;
    format!("{}{}", "█".repeat(done), "░".repeat(20 - done))
}

impl fmt::Display for TableCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, rows, bytes, bytes_total, .. } = self;
        let percent = bytes.saturating_mul(100).checked_div(*bytes_total).unwrap_or_default();
        let bar = bar(percent);
        write!(f, "{table:<34}  {bar}  {percent:>3} %  {rows:>12} rows")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_finished_with_its_last_range() {
        let progress =
            Progress::new([("public.small".to_owned(), 10, 1), ("public.large".to_owned(), 90, 2)]);
        assert_eq!(progress.figures().seconds_left(), None);
        progress.rows(1, 3);
        assert_eq!(progress.range(1, 40), None);
        progress.rows(1, 1);
        let CopyFigures { tables, .. } = progress.figures();
        let large = TableCopy {
            table: "public.large".to_owned(),
            rows: 4,
            bytes: 40,
            bytes_total: 90,
            finished: false,
        };
        assert_eq!(tables.first(), Some(&large));
        assert_eq!(progress.range(1, 50), Some(4));
        let figures = CopyFigures { seconds: 9.0, ..progress.figures() };
        assert_eq!((figures.rows(), figures.bytes(), figures.finished()), (4, (90, 100), 1));
        assert_eq!(figures.seconds_left(), Some(1.0));
        let line = "1 of 2 tables, 90 bytes of 100 bytes, 4 rows, about 1 s left";
        assert_eq!(figures.to_string(), line);
        assert!(large.to_string().contains("████████░░░░░░░░░░░░   44 %             4 rows"));
    }
}
