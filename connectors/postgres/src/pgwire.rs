//! Our own connections: for replication, and to copy tables.
//!
//! ```text
//! transport ── frames ──▶ connection ─┬─ START_REPLICATION ──▶ stream ──▶ pgoutput
//!  TCP, TLS                startup,   │                          ▲
//!                          SCRAM      │       feedback task ─────┘ status, whatever downstream does
//!                                     └─ COPY .. TO STDOUT ──▶ rows, in the buffer that they were read into
//! ```
//!
//! The invariant: what is read stays in a buffer that the connection owns, so that any read can be
//! cancelled, and the write half belongs to one task, so that a message is never half written.

mod authentication;
mod connection;
mod copy;
mod feedback;
mod frame;
mod inflow;
mod replication;
mod stream;
mod transport;

pub(crate) use copy::CopyConnection;
pub(crate) use feedback::Durable;
#[cfg(test)]
pub(crate) use frame::ServerError;
pub(crate) use frame::WireError;
pub(crate) use replication::{Identity, ReplicationConnection};
pub(crate) use stream::{ReplicationStream, Streamed};
