//! The log against a real broker and a real registry: `ANABRANCH_TEST_KAFKA` and
//! `ANABRANCH_TEST_REGISTRY_URL` say where.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test says what it expects, and fails where it is not so"
)]

mod admin;
mod group;
mod registry;
mod scan;
mod sink;
mod source;
mod support;
