//! A transaction out of the spool, as if it had not been streamed.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::SpoolError;
use super::disk::SpoolFile;
use super::transaction::{HEADER_BYTES, Rest, Spooled};
use crate::fields::Fields;
use crate::pgoutput::{Begin, Message, StreamCommit, decode};

/// Bytes read from disk at once: enough that a call costs nothing beside the rows in it.
const READ_BYTES: usize = 256 << 10;

/// Gives the messages of a committed transaction.
#[derive(Debug)]
pub(crate) struct Replay {
    commit: StreamCommit,
    state: State,
    aborted: HashSet<u32>,
    file: Option<Arc<dyn SpoolFile>>,
    /// What of the file was not read yet.
    unread: std::ops::Range<u64>,
    /// Follows the file.
    memory: Bytes,
    /// Records that were read.
    buffer: Bytes,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begins,
    Goes,
    Ended,
}

impl Replay {
    pub(super) fn new(commit: StreamCommit, spooled: Spooled) -> Self {
        let Rest { file, file_bytes, memory, aborted } = spooled.into_rest();
        Self {
            commit,
            state: State::Begins,
            aborted,
            file,
            unread: 0..file_bytes,
            memory,
            buffer: Bytes::new(),
            reading: None,
        }
    }

    /// Whether the commit was given.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The next message; `None` if [`Self::fill`] must read it first, or after the last.
    pub(crate) fn buffered(&mut self) -> Result<Option<Message>, SpoolError> {
        match self.state {
            State::Begins => {
                self.state = State::Goes;
                let StreamCommit { xid, commit, commit_us } = self.commit;
                let begin = Begin { commit_lsn: commit.commit_lsn, commit_us, xid };
                return Ok(Some(Message::Begin(begin)));
            }
            State::Goes => {}
            State::Ended => return Ok(None),
        }
        loop {
            while let Some((xid, message)) = record(&mut self.buffer) {
                let is_relation = message.first() == Some(&b'R');
                if is_relation || !self.aborted.contains(&xid) {
                    return Ok(Some(decode(&message)?));
                }
            }
            if !self.unread.is_empty() {
                return Ok(None);
            }
            if self.memory.is_empty() {
                self.state = State::Ended;
                return Ok(Some(Message::Commit(self.commit.commit)));
            }
            self.buffer = std::mem::take(&mut self.memory);
        }
    }

    /// Reads on. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        let left = usize::try_from(self.unread.end - self.unread.start).unwrap_or(usize::MAX);
        // A record that is longer than that needs a few turns.
        let length = left.min(READ_BYTES.max(self.buffer.len()));
        let Some(file) = &self.file else { return Ok(()) };
        let reading = self.reading.get_or_insert_with(|| {
            let (file, start) = (Arc::clone(file), self.unread.start);
            tokio::task::spawn_blocking(move || file.read(start, length))
        });
        let outcome = reading.await.map_err(io::Error::other).flatten();
        self.reading = None;
        let read = outcome?;
        self.unread.start += u64::try_from(read.len()).unwrap_or(u64::MAX);
        if self.buffer.is_empty() {
            self.buffer = read.into();
        } else {
            let mut longer = BytesMut::with_capacity(self.buffer.len() + read.len());
            longer.extend_from_slice(&self.buffer);
            longer.extend_from_slice(&read);
            self.buffer = longer.freeze();
        }
        Ok(())
    }
}

/// Cuts a whole record off.
fn record(buffer: &mut Bytes) -> Option<(u32, Bytes)> {
    let mut fields = Fields::new(buffer);
    let xid = fields.u32()?;
    let length = fields.length()?;
    fields.take(length)?;
    let mut record = buffer.split_to(HEADER_BYTES + length);
    Some((xid, record.split_off(HEADER_BYTES)))
}
