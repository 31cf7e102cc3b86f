//! The sink on real tables in temporary folders.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod columns;
mod conformance;
mod history;
mod restored;
mod support;
mod trouble;
mod workers;
