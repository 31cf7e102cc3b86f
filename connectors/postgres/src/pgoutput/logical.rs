//! Messages that somebody wrote into the WAL with `pg_logical_emit_message`.

use anabranch_core::Lsn;
use uuid::Uuid;

use crate::fields::Fields;
use crate::heartbeat::PREFIX;

/// One message; those of others mean nothing to us but that the WAL before them was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logical {
    /// It is part of its transaction, and comes only if that commits. Otherwise it comes at once,
    /// between transactions, whatever becomes of the one that wrote it.
    pub(crate) transactional: bool,
    /// Where it begins: what committed before was sent before it.
    pub(crate) lsn: Lsn,
    /// Which of our own heartbeats it is.
    pub(crate) heartbeat: Option<Uuid>,
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
    let heartbeat = is_ours.then(|| Uuid::try_parse_ascii(content).ok()).flatten();
    Some(Logical { transactional, lsn, heartbeat })
}
