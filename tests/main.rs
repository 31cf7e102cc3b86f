//! One test binary.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "helpers of tests are tests, and clippy's in-tests options do not reach them"
)]

mod bad_input;
mod chaos;
mod conformance;
mod end_to_end;
mod failover;
mod guard;
mod handover;
mod kinds;
mod masks;
mod resume;
mod simulation;
mod snapshots;
mod support;
mod tidy;
