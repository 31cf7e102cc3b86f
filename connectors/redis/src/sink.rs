//! The sink: takes units over, and applies batches to them.

use std::collections::BTreeMap;

use anabranch_core::{
    Assignment, Batch, CURSOR_FORMAT, Error, Result, Sink, StoreCursor, UnitCursor,
};
use futures::future::try_join_all;
use uuid::Uuid;

use crate::RedisConfig;
use crate::chunk::{Chunker, Layout};
use crate::connection::Server;
use crate::error::Failure;
use crate::plan::{Share, Unit, shares};
use crate::script::{Args, Scripts, run};
use crate::writer::{Token, Writer};

/// The format number of a unit's key (`docs/formats.md`).
const UNIT_FORMAT: &str = "1";

/// A worker that writes one table's rows to Redis: see the crate's documentation.
#[derive(Debug)]
pub struct RedisSink {
    server: Server,
    scripts: Scripts,
    layout: Layout,
    chunk_rows_max: usize,
    /// The table's name, for messages.
    table: String,
    token: Token,
    units: BTreeMap<i32, Unit>,
    /// Whether every script that was sent has been answered well since the last take-over.
    settled: bool,
}

impl RedisSink {
    /// Connects to Redis. Nothing is written there before [`Sink::cursor`].
    ///
    /// # Errors
    ///
    /// `Config` if a setting is wrong, the table has a column named as one of ours, Redis refuses
    /// the user, or is a cluster; `Transient` if it cannot be reached.
    pub async fn open(config: &RedisConfig, assignment: Assignment) -> Result<Self> {
        config.validate(&assignment.sink)?;
        let layout = Layout::new(config, &assignment.table);
        layout.check(&assignment.table)?;
        let unit = |partition: &i32| {
            let key = config.key.unit(&assignment.sink, &assignment.topic, *partition);
            (*partition, Unit { key, cursor: String::new() })
        };
        let mut sink = Self {
            server: Server::new(config)?,
            scripts: Scripts::new(),
            layout,
            chunk_rows_max: config.chunk_rows_max,
            table: assignment.table.full_name(),
            token: Token {
                owner: Uuid::new_v4().to_string(),
                attempt: 0,
                generation: assignment.generation,
            },
            units: assignment.partitions.iter().map(unit).collect(),
            settled: false,
        };
        sink.server.connection().await?;
        Ok(sink)
    }

    /// Takes every unit over, and notes the cursors that are there.
    async fn take_over(&mut self) -> Result<StoreCursor> {
        self.token.attempt += 1;
        let connection = self.server.connection().await?;
        let token = self.token.words();
        let args = Args::new([UNIT_FORMAT].into_iter().chain(token.iter().map(String::as_str)));
        let script = &self.scripts.take_over;
        let takes = self.units.values().map(|unit| {
            let (mut connection, args) = (connection.clone(), &args);
            async move {
                let action = || format!("take over {}", unit.key);
                let keys = Args::new([unit.key.as_str()]);
                let held = run(&mut connection, script, &keys, &[args]).await;
                let held = held.map_err(|failure| failure.at(action()))?.unwrap_or_default();
                let cursor = parse(&held).map_err(|failure| failure.at(action()))?;
                Ok::<_, Error>((held, cursor))
            }
        });
        let held = try_join_all(takes).await?;
        let mut cursors = StoreCursor::new();
        for ((partition, unit), (text, cursor)) in self.units.iter_mut().zip(held) {
            unit.cursor = text;
            cursors.extend(cursor.map(|cursor| (*partition, cursor)));
        }
        Ok(cursors)
    }

    async fn write(&mut self, batch: &Batch, shares: Vec<Share>) -> Result<()> {
        let connection = self.server.connection().await?;
        let writer = Writer {
            connection,
            scripts: &self.scripts,
            layout: &self.layout,
            chunker: Chunker::new(&self.layout, batch, self.chunk_rows_max),
            token: self.token.words(),
            action: self.action(),
        };
        let unit = |share: Share| Some((self.units.get(&share.partition)?, share));
        let shares: Vec<_> =
            shares.into_iter().filter_map(unit).map(|(unit, share)| (share, unit)).collect();
        writer.write(&shares).await?;
        let moved: Vec<_> =
            shares.into_iter().map(|(share, _)| (share.partition, share.cursor)).collect();
        for (partition, cursor) in moved {
            if let Some(unit) = self.units.get_mut(&partition) {
                unit.cursor = cursor;
            }
        }
        Ok(())
    }

    fn action(&self) -> String {
        format!("write {} to {}", self.table, self.server.name())
    }
}

impl Sink<Batch, StoreCursor> for RedisSink {
    async fn cursor(&mut self) -> Result<Option<StoreCursor>> {
        self.settled = false;
        let taken = self.take_over().await;
        match &taken {
            Ok(_) => self.settled = true,
            Err(_) => self.server.hang_up(),
        }
        taken.map(|cursors| (!cursors.is_empty()).then_some(cursors))
    }

    async fn apply(&mut self, batch: &Batch, upto: &StoreCursor) -> Result<()> {
        self.layout.check(&batch.table)?;
        if !self.settled {
            return Err(Failure::InDoubt.at(self.action()));
        }
        let shares = shares(batch, upto, &self.units)?;
        // Stays so if this fails or is dropped: what was sent may still arrive.
        self.settled = false;
        let written = self.write(batch, shares).await;
        match &written {
            Ok(()) => self.settled = true,
            Err(_) => self.server.hang_up(),
        }
        written
    }
}

/// Reads a cursor as a unit's key holds it; empty if there is none.
pub(crate) fn parse(text: &str) -> Result<Option<UnitCursor>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let cursor: UnitCursor = serde_json::from_str(text)?;
    if cursor.format == CURSOR_FORMAT {
        Ok(Some(cursor))
    } else {
        Err(Failure::Format(cursor.format.to_string()))
    }
}
