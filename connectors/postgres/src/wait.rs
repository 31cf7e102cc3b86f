//! A wait for something that another session is about to do: asked again, ever more seldom.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest: what is waited for may come at any moment.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// A wait that somebody should know of.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// A wait under way.
#[derive(Debug)]
pub(crate) struct Wait {
    began: Instant,
    pause: Duration,
    told: bool,
}

impl Wait {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), pause: PAUSE_MIN, told: false }
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether it is so long that somebody should know of it; true once.
    pub(crate) fn is_to_be_told(&mut self) -> bool {
        let is_first = !self.told && self.elapsed() > LONG_WAIT;
        self.told |= is_first;
        is_first
    }

    /// Waits for a while, longer each time.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// How long to wait now, for those who do it themselves.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let next = (self.pause * 2).min(PAUSE_MAX);
        std::mem::replace(&mut self.pause, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_told_once() {
        let mut wait = Wait::begin();
        let mut told = Vec::new();
        while wait.elapsed() < 3 * LONG_WAIT {
            wait.pause().await;
            if wait.is_to_be_told() {
                told.push(wait.elapsed());
            }
        }
        assert!(matches!(told[..], [at] if at > LONG_WAIT && at < LONG_WAIT + 2 * PAUSE_MAX));
    }
}
