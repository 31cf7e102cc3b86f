//! The services under test: where they are, and who may disturb them.

use std::process::Command;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests share the services; one that stops or freezes a service has them alone.
static TURN: RwLock<()> = RwLock::const_new(());

/// Waits until nobody disturbs the services.
pub async fn shared() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// Waits until nobody uses the services.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// An address from the environment.
pub fn address(name: &str) -> String {
    let variable = format!("ANABRANCH_TEST_{name}");
    std::env::var(&variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with `make test`, or after `eval \"$(compose/services up)\"`")
    })
}

/// Asks the script that runs the services: `stop`, `start`, `pause`, `unpause`.
pub async fn ask(verb: &str, service: &str) {
    let (verb, service) = (verb.to_owned(), service.to_owned());
    let done = tokio::task::spawn_blocking(move || {
        Command::new(address("SERVICES")).args([&verb, &service]).output().unwrap()
    });
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Makes sure that a service frozen or stopped by a test runs again, whatever became of the test.
pub struct Back(&'static str, &'static str);

impl Back {
    /// `verb` is `start` or `unpause`.
    pub fn with(verb: &'static str, service: &'static str) -> Self {
        Self(verb, service)
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        let done = Command::new(address("SERVICES")).args([self.0, self.1]).output();
        drop(done);
    }
}
