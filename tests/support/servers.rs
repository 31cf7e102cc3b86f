//! PostgreSQL servers of a test's own: those of the connector's tests.
#![allow(dead_code, reason = "the connector's tests need all of it, and these a part")]

#[path = "../../connectors/postgres/tests/support/cluster.rs"]
mod cluster;
#[path = "../../connectors/postgres/tests/support/sql.rs"]
mod sql;

use std::time::Duration;

pub(crate) use cluster::Cluster;

/// A wait that never ends is a failure, and says so after this long.
const DEADLINE: Duration = Duration::from_secs(60);
