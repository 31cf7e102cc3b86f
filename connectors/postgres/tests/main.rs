//! The source against a real PostgreSQL, named by `ANABRANCH_TEST_POSTGRES_URL`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and own its tasks"
)]

mod absent;
mod bad_input;
mod check;
mod clusters;
mod columns;
mod connection;
mod costs;
mod failover;
mod formats;
mod guard;
mod handover;
mod incremental;
mod keys;
mod lost;
mod memberships;
mod messages;
mod order;
mod own_work;
mod partitions;
mod positions;
mod property;
mod publications;
mod rereads;
mod schemas;
mod slots;
mod streamed;
mod support;
mod toast;
mod transactions;
mod values;
mod watchdog;
