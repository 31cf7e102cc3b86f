//! One test binary.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::string_slice,
    reason = "helpers of tests are tests, and clippy's in-tests options do not reach them"
)]

mod conformance;
mod simulation;
