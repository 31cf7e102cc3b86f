//! What the end-to-end tests use: a world of one's own, what stores hold, the comparison.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    missing_debug_implementations,
    unreachable_pub,
    reason = "the modules belong to the tests, and the demo needs a part of them"
)]

#[path = "../../tests/support/compare.rs"]
pub mod compare;
#[path = "../../tests/support/services.rs"]
pub mod services;
#[path = "../../tests/support/stores.rs"]
pub mod stores;
#[path = "../../tests/support/world.rs"]
pub mod world;
