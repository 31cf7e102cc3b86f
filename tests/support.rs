//! What tests of the whole thing share: services, a world of one's own, what stores hold.

pub mod backup;
pub mod compare;
pub mod forwarder;
pub mod load;
pub mod log;
pub mod servers;
pub mod services;
pub mod stores;
pub mod world;
