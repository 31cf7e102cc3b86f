//! The keys that begin with some text, in pages.

use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::error::Failure;
use crate::keys::beginning_with;

/// How many keys Redis looks at for a page, whether they fit or not: about a millisecond.
const PAGE_KEYS: usize = 1000;

/// An iteration by `SCAN`: keys that are there from its beginning to its end come at least once.
pub(crate) struct Scan {
    connection: MultiplexedConnection,
    pattern: String,
    /// Where Redis goes on; `None` at the end.
    at: Option<u64>,
}

impl Scan {
    pub(crate) fn new(connection: MultiplexedConnection, start: &str) -> Self {
        Self { connection, pattern: beginning_with(start), at: Some(0) }
    }

    /// The next page that is not empty, or `None` at the end. Keys that are no UTF-8 are none of
    /// ours, and left out.
    pub(crate) async fn page(&mut self) -> Result<Option<Vec<String>>, Failure> {
        while let Some(at) = self.at {
            let mut scan = cmd("SCAN");
            scan.arg(at).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(PAGE_KEYS);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection).await?;
            self.at = (next != 0).then_some(next);
            let keys: Vec<_> =
                keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect();
            if !keys.is_empty() {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }
}
