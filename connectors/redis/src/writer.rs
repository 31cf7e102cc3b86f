//! Sends the shares of one batch.
//!
//! ```text
//! unit 0: chunk ▶ chunk ▶ chunk + cursor
//! unit 1: chunk ▶ chunk ─┐
//! unit 2: chunk ─────────┴▶ SCAN, delete below ▶ cursor 1 · cursor 2
//! ```
//!
//! The invariant: a unit's cursor moves after every other script of the unit was answered well.

use anabranch_core::{Error, Result};
use futures::future::try_join_all;
use redis::aio::MultiplexedConnection;

use crate::chunk::{Chunk, Chunker, Layout};
use crate::error::Failure;
use crate::plan::{Share, Unit};
use crate::scan::Scan;
use crate::script::{Args, Scripts, run};

/// What every script of a worker is told about it.
#[derive(Debug)]
pub(crate) struct Token {
    /// Drawn once for the life of the worker.
    pub(crate) owner: String,
    /// Counts the take-overs of the worker; scripts of earlier attempts are void.
    pub(crate) attempt: u64,
    /// The generation of the sink.
    pub(crate) generation: u32,
}

impl Token {
    /// Owner, attempt, generation.
    pub(crate) fn words(&self) -> [String; 3] {
        [self.owner.clone(), self.attempt.to_string(), self.generation.to_string()]
    }
}

/// What it takes to write one batch.
pub(crate) struct Writer<'a> {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) scripts: &'a Scripts,
    pub(crate) layout: &'a Layout,
    pub(crate) chunker: Chunker<'a>,
    pub(crate) token: [String; 3],
    /// What is being done, for messages.
    pub(crate) action: String,
}

impl Writer<'_> {
    /// Rows first, then what is below a bound, then the cursors of the units that have one.
    pub(crate) async fn write(&self, shares: &[(Share, &Unit)]) -> Result<()> {
        // Side by side: what is under way at the same time is never more than the batch.
        try_join_all(shares.iter().map(|(share, unit)| self.rows(share, unit))).await?;
        let bounded = || shares.iter().filter(|(share, _)| share.bound.is_some());
        if bounded().next().is_some() {
            self.delete_below(bounded()).await?;
            let cursors = bounded().map(|(share, unit)| async {
                let chunk = Chunk { keys: Args::new([&*unit.key]), rows: Args::default() };
                self.chunk(share, unit, (&chunk, &share.cursor)).await
            });
            try_join_all(cursors).await?;
        }
        Ok(())
    }

    /// Writes the rows of a unit; the last chunk moves the cursor, unless a bound comes first.
    async fn rows(&self, share: &Share, unit: &Unit) -> Result<()> {
        let mut places = share.places.as_slice();
        if places.is_empty() && share.bound.is_some() {
            return Ok(());
        }
        loop {
            let chunk = self.chunker.next(&unit.key, &mut places)?;
            let is_last = places.is_empty();
            let cursor = if is_last && share.bound.is_none() { &*share.cursor } else { "" };
            self.chunk(share, unit, (&chunk, cursor)).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn chunk(
        &self,
        share: &Share,
        unit: &Unit,
        (chunk, cursor): (&Chunk, &str),
    ) -> Result<()> {
        let partition = share.partition.to_string();
        let words = [&*unit.cursor, cursor];
        let words = self.token.iter().map(String::as_str).chain(words);
        let head = Args::new(words.chain(self.layout.words()).chain([&*partition]));
        let mut connection = self.connection.clone();
        let args = [&head, &chunk.rows];
        run(&mut connection, &self.scripts.write, &chunk.keys, &args)
            .await
            .map(|_| ())
            .map_err(|failure| self.failed(failure))
    }

    /// One scan for all units. Rows that are there from its beginning to its end are seen, and
    /// nobody but this worker, which waits, adds rows of these units.
    async fn delete_below<'s>(
        &self,
        bounded: impl Iterator<Item = &'s (Share, &'s Unit)>,
    ) -> Result<()> {
        let (mut units, mut bounds, mut gone) = (Args::default(), Args::default(), 0_u64);
        for (share, unit) in bounded {
            units.push(&unit.key);
            bounds.push(&unit.cursor);
            bounds.push(&share.partition.to_string());
            bounds.push(&share.bound.unwrap_or_default().to_string());
        }
        let count = units.len().to_string();
        let words = self.token.iter().map(String::as_str).chain(self.layout.words());
        let head = Args::new(words.chain([&*count]));
        let mut scan = Scan::new(self.connection.clone(), &self.layout.start);
        while let Some(page) = scan.page().await.map_err(|failure| self.failed(failure))? {
            let mut keys = units.clone();
            page.iter().for_each(|key| keys.push(key));
            let mut connection = self.connection.clone();
            let script = &self.scripts.delete_below;
            let answer = run(&mut connection, script, &keys, &[&head, &bounds]).await;
            let answer = answer.map_err(|failure| self.failed(failure))?;
            gone += answer.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
        tracing::debug!(action = self.action, rows = gone, "deleted rows below a bound");
        Ok(())
    }

    fn failed(&self, failure: Failure) -> Error {
        failure.at(&*self.action)
    }
}
