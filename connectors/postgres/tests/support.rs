//! A database of its own for each test, and a log in memory that follows it; or a server of its own.

mod cluster;
mod database;
mod follower;
mod log;
mod sql;
mod walsender;

pub(crate) use cluster::Cluster;
pub(crate) use database::Database;
pub(crate) use follower::{Follower, Replica, assert_equal, key, truth};
pub(crate) use walsender::Walsender;

use std::time::Duration;

/// A wait that never ends is a failure, and says so after this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
