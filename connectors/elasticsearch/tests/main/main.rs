//! The sink against a real server (`ANABRANCH_TEST_ELASTICSEARCH_URL`), and against a small one that
//! answers as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and own their helper threads"
)]

mod busy;
mod contract;
mod documents;
mod late;
mod refusals;
mod restore;
mod scripted;
mod server;
