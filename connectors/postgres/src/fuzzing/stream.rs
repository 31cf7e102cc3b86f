//! Any sequence of messages is read, or refused; and what is read has positions that grow.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use anabranch_core::{Change, Event, Lsn, Op, Position, Result, Version};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

use super::script::Script;
use crate::batch::BatchBuilder;
use crate::batch::samples::cursor;
use crate::catalog::samples::raw_orders;
use crate::catalog::{Catalog, KnownTables, Types};
use crate::feed::{Fed, Feed};
use crate::fields::Fields;
use crate::pgoutput::Message;
use crate::pgwire::ReplicationStream;
use crate::spool::{FakeDisk, Spool};
use crate::transaction::{Assembler, Step};

/// More than any input becomes.
const STREAM_BYTES_MAX: usize = 8 << 20;

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> =
        RefCell::new(Builder::new_current_thread().enable_time().build().ok());
}

/// The first bytes choose the limits, the rest is what the server sends.
pub fn stream(data: &[u8]) {
    RUNTIME.with_borrow(|runtime| {
        if let Some(runtime) = runtime {
            runtime.block_on(read(data));
        }
    });
}

async fn read(data: &[u8]) {
    let mut fields = Fields::new(data);
    let (Some(memory), Some(batch)) = (fields.u8(), fields.u8()) else { return };
    let (ours, mut server) = tokio::io::duplex(STREAM_BYTES_MAX);
    let sent = Script::default().run(fields);
    if sent.len() > STREAM_BYTES_MAX || server.write_all(&sent).await.is_err() {
        return;
    }
    drop(server);
    let (disk, _) = FakeDisk::with_room(usize::MAX / 2);
    let spool = Spool::new(usize::from(memory) * 16, disk);
    let mut feed = Feed::new(ReplicationStream::over(ours, 0), spool, HashSet::from([7]));
    let Ok(mut reader) = Reader::new(usize::from(batch) * 16 + 1) else { return };
    while let Ok(fed) = feed.next().await {
        if reader.take(fed).is_err() {
            return;
        }
    }
}

/// What `Streaming` does, without a server and without a log.
struct Reader {
    catalog: Catalog,
    assembler: Assembler,
    builder: BatchBuilder,
    last: Option<(Position, bool)>,
    versions: BTreeMap<u32, Version>,
    confirmed: Lsn,
}

impl Reader {
    fn new(batch_bytes_max: usize) -> Result<Self> {
        let mut catalog = Catalog::new(Vec::new(), KnownTables::default());
        catalog.adopt(&raw_orders(), &Types::default())?;
        let cursor = cursor();
        Ok(Self {
            catalog,
            assembler: Assembler::new(cursor.epoch, cursor.confirm, None),
            confirmed: cursor.confirm,
            builder: BatchBuilder::new(cursor, batch_bytes_max),
            last: None,
            versions: BTreeMap::new(),
        })
    }

    fn take(&mut self, fed: Fed) -> Result<()> {
        match fed {
            Fed::Spooled => {}
            Fed::Keepalive { wal_end } => {
                if !self.assembler.is_open() {
                    self.assembler.require_nothing_before(wal_end)?;
                    self.builder.border(wal_end);
                }
            }
            Fed::Message(Message::Relation(relation)) => {
                if self.catalog.concerns(&relation) && !self.catalog.matches(&relation) {
                    self.catalog.adopt_message(&relation, None, &Types::default())?;
                }
            }
            Fed::Message(message) => {
                let drafts = &mut self.builder.drafts;
                match self.assembler.push(message, &self.catalog, drafts)? {
                    Step::More => {}
                    Step::Committed { end_lsn: lsn } | Step::Passed { lsn } => {
                        self.builder.border(lsn);
                    }
                }
                self.builder.count();
            }
        }
        if self.builder.is_ready() {
            self.hand_over();
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        let batch = self.builder.take(&mut self.assembler);
        assert!(batch.cursor.confirm >= self.confirmed, "the position goes back");
        self.confirmed = batch.cursor.confirm;
        batch.drafts.iter().for_each(|draft| self.check(&draft.event));
    }

    /// A position is above the one before, but for the halves of a key change and the tables of a
    /// TRUNCATE; the versions of a table never go down.
    fn check(&mut self, event: &Event) {
        let (created, pair) = match &event.change {
            Change::Row { op, .. } => (*op == Op::Create, *op == Op::Delete),
            Change::Truncate | Change::Sweep => (true, true),
        };
        if let Some((last, paired)) = self.last {
            let same = event.position == last && created && paired;
            assert!(event.position > last || same, "{last:?} is followed by {event:?}");
        }
        self.last = Some((event.position, pair));
        let version = self.versions.insert(event.table.oid, event.version());
        assert!(version <= Some(event.version()), "the version goes back: {event:?}");
    }
}
