//! What a snapshot sees, and where the WAL ends that it was made from.

use anabranch_core::{Lsn, Result};
use tokio_postgres::Client;

use crate::error::{Context, bug};

/// `pg_current_snapshot()`, with 64-bit transaction ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every lower one has ended.
    pub(crate) xmin: u64,
    /// No higher one, nor this, was in use.
    pub(crate) xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// The snapshot of the open transaction, which it takes if there is none yet.
    pub(crate) async fn take(client: &Client) -> Result<Self> {
        let action = || "take a snapshot".to_owned();
        let row =
            client.query_one("select pg_current_snapshot()::text", &[]).await.doing(action)?;
        let text: &str = row.try_get(0).doing(action)?;
        Self::parse(text).ok_or_else(|| bug(action(), "the server's snapshot cannot be read"))
    }

    /// Reads `xmin:xmax:id,id,..`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let running = match parts.next()? {
            "" => Vec::new(),
            ids => ids.split(',').map(|id| id.parse().ok()).collect::<Option<_>>()?,
        };
        Some(Self { xmin, xmax, running })
    }

    /// Whether the changes of the committed transaction `xid` are in it.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        let xid = widen(self.xmax, xid);
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }
}

/// The 64-bit id whose lower half is `xid` and that is nearest to `here`: ids in use are never
/// further apart than half of the 32-bit range.
pub(crate) fn widen(here: u64, xid: u32) -> u64 {
    const HALF: u64 = 1 << 31;
    const WHOLE: u64 = 1 << 32;
    let near = here & !(WHOLE - 1) | u64::from(xid);
    if near > here + HALF {
        near.saturating_sub(WHOLE)
    } else if near + HALF < here {
        near + WHOLE
    } else {
        near
    }
}

/// The end of the last record before the insert position `inserted`.
///
/// At the start of a page that position lies behind the page's header, and the flush position,
/// which ends with the record before it, never gets there while nothing is written.
pub(crate) fn end_of_records(inserted: Lsn, segment_bytes: u64) -> Lsn {
    const PAGE_BYTES: u64 = 8192;
    const HEADER_BYTES: u64 = 24;
    const SEGMENT_HEADER_BYTES: u64 = 40;
    let in_page = inserted.0 % PAGE_BYTES;
    let page = inserted.0 - in_page;
    let begins_segment = page.checked_rem(segment_bytes) == Some(0);
    let header = if begins_segment { SEGMENT_HEADER_BYTES } else { HEADER_BYTES };
    Lsn(if in_page <= header { page } else { inserted.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_and_later_transactions_are_not_seen() {
        let snapshot = Snapshot::parse("100:110:100,105").unwrap();
        let seen: Vec<u32> = (98..112).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [98, 99, 101, 102, 103, 104, 106, 107, 108, 109]);
        assert!(Snapshot::parse("7:7:").unwrap().running.is_empty());
        for bad in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert!(Snapshot::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ids_are_widened_across_the_wraparound() {
        let second_round = Snapshot::parse("4294967300:4294967310:").unwrap();
        assert!(second_round.sees(4_294_967_290), "of the round before");
        assert!(second_round.sees(3));
        assert!(!second_round.sees(14));
        let first_round = Snapshot::parse("4294967290:4294967295:").unwrap();
        assert!(!first_round.sees(2), "of the round to come");
        assert!(Snapshot::parse("10:10:").unwrap().sees(3));
    }

    #[test]
    fn an_insert_position_behind_a_page_header_ends_with_the_page_before() {
        const SEGMENT: u64 = 16 << 20;
        let cases = [
            (SEGMENT + 40, SEGMENT),
            (SEGMENT + 48, SEGMENT + 48),
            (SEGMENT + 8192 + 24, SEGMENT + 8192),
            (SEGMENT + 8192 + 40, SEGMENT + 8192 + 40),
            (SEGMENT + 100, SEGMENT + 100),
        ];
        for (inserted, expected) in cases {
            assert_eq!(end_of_records(Lsn(inserted), SEGMENT), Lsn(expected));
        }
    }
}
