//! Messages that somebody wrote into the WAL with `pg_logical_emit_message`.

use anabranch_core::Lsn;
use uuid::Uuid;

use super::Message;
use crate::fields::Fields;
use crate::heartbeat::PREFIX;

/// One message; those of others mean nothing to us but that the WAL before them was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logical {
    /// It is part of its transaction, and comes only if that commits. Otherwise it comes at once,
    /// between transactions, whatever becomes of the one that wrote it.
    pub(crate) transactional: bool,
    /// Where its record ends, and the next one, which may be a commit, begins. What committed before was
    /// sent before it.
    pub(crate) lsn: Lsn,
    /// What it is of our own.
    pub(crate) ours: Option<Ours>,
}

/// A message of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ours {
    /// With the id of a heartbeat.
    Heartbeat(Uuid),
    /// An edge of a chunk.
    Chunk(ChunkEdge),
}

/// Where in the WAL a chunk of a snapshot begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkEdge {
    /// Whoever reads the chunk.
    pub(crate) reader: Uuid,
    /// The reader's count of its chunks.
    pub(crate) number: u64,
    pub(crate) edge: Edge,
}

/// The two edges of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// The chunk is read after this.
    Low,
    /// The chunk was read before this.
    High,
}

impl Message {
    /// What it is of our own.
    pub(crate) fn ours(&self) -> Option<Ours> {
        if let Self::Logical(logical) = self { logical.ours } else { None }
    }
}

impl Ours {
    fn parse(content: &[u8]) -> Option<Self> {
        if let Ok(id) = Uuid::try_parse_ascii(content) {
            return Some(Self::Heartbeat(id));
        }
        let mut words = std::str::from_utf8(content).ok()?.split(' ');
        let edge = match words.next()? {
            "low" => Edge::Low,
            "high" => Edge::High,
            _ => return None,
        };
        let (reader, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self::Chunk(ChunkEdge { reader, number, edge }))
    }
}

impl std::fmt::Display for ChunkEdge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let edge = match self.edge {
            Edge::Low => "low",
            Edge::High => "high",
        };
        write!(f, "{edge} {} {}", self.reader, self.number)
    }
}

pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Logical> {
    let transactional = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let lsn = Lsn(fields.u64()?);
    let is_ours = fields.terminated()? == PREFIX.as_bytes();
    let length = fields.length()?;
    let content = fields.take(length)?;
    let ours = is_ours.then(|| Ours::parse(content)).flatten();
    Some(Logical { transactional, lsn, ours })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_reads_as_it_is_written() {
        for edge in [Edge::Low, Edge::High] {
            let edge = ChunkEdge { reader: Uuid::from_u128(7), number: 3, edge };
            assert_eq!(Ours::parse(edge.to_string().as_bytes()), Some(Ours::Chunk(edge)));
        }
        let id = Uuid::from_u128(9);
        assert_eq!(Ours::parse(id.to_string().as_bytes()), Some(Ours::Heartbeat(id)));
        for other in ["flush", "low", "high 7 3", "low 00000000-0000-0000-0000-000000000007 x"] {
            assert_eq!(Ours::parse(other.as_bytes()), None, "{other}");
        }
    }
}
