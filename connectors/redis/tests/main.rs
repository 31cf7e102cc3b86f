//! The sink against real servers: the one at `ANABRANCH_TEST_REDIS_URL`, each test under a key
//! prefix of its own, and ones that a test starts itself.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test that panics has failed, as it should"
)]

mod conformance;
mod histories;
mod late;
mod proxy;
mod refusals;
mod restore;
mod rows;
mod support;
