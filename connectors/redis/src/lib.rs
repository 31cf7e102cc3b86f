//! Keeps a table in Redis equal to its topic in the log.
//!
//! ```text
//! batch ─▶ shares of units ─▶ chunks ─▶ one script each ─▶ rows     orders:7 {_v, _p, id, total}
//!                                                     └──▶ cursor   anabranch:cache:<topic>:3
//! ```
//!
//! **The invariant: rows and cursor are changed by scripts alone, and a script of anybody but the
//! unit's present owner, of an earlier attempt of it, or from another cursor than the one held,
//! changes nothing.** A unit is one partition of the topic; its key holds owner, attempt,
//! generation and cursor. What follows from that:
//!
//! * *Atomic.* Redis runs nothing else while a script runs, and hands its effects to the replicas
//!   and the append-only file together. A batch is several scripts, and only the last one of a unit
//!   moves its cursor. A script that ends half-way (`maxmemory` reached, a key in the way) leaves
//!   some rows newer than the cursor: harmless, for the same rows come again, with their versions.
//! * *Late writes.* A script that was sent and not answered may run later, even over a connection
//!   that is closed by now: after its retry, after the next batch has deleted the row it writes. So
//!   nothing is sent again before `cursor` has taken the units over with the next attempt, which
//!   voids it. Until then `apply` refuses. The same voids what a stopped worker still had under way
//!   when another took over; two that believe to own a unit take it from each other until the
//!   group's assignment decides, and neither does harm.
//! * *Versions* guard rows that are there. A deleted row leaves no version behind, and none is
//!   missed: an older upsert of it comes from a late write, which is void, or from a replay, which
//!   has the delete further on.
//! * *An older Redis* (a backup, a failover to a replica that lagged, an emptied one) has the cursor
//!   that belongs to its rows. `cursor` reads it; a worker that does not know yet is refused, since
//!   the cursor is not where it left it.
//! * *Delete-below* runs after every row of the batch is written and before the cursor moves: SCAN
//!   sees all keys that are there all the time, and a script deletes those of the partition with an
//!   older version. A cluster is refused: its scripts cannot reach the unit and the row together.

mod check;
mod chunk;
mod config;
mod connection;
mod error;
mod info;
mod keys;
mod plan;
mod read;
mod scan;
mod script;
mod sink;
mod writer;

pub use check::check;
pub use config::{RedisConfig, RowFormat};
pub use keys::{BadKeyTemplate, KeyTemplate};
pub use read::{StoredRow, clear, read_all, read_cursors};
pub use sink::RedisSink;
