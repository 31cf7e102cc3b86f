//! Faults drawn from a seed.

use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::lock;

/// How a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It works.
    None,
    /// It fails before anything is written.
    Before,
    /// It is written, and the answer is lost.
    LostAnswer,
    /// It times out here, and lands later.
    Late,
}

/// A shared, seeded run of faults.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: StdRng,
    rate: f64,
    fired: u64,
}

impl Faults {
    /// One request in `1 / rate` fails.
    #[must_use]
    pub fn seeded(seed: u64, rate: f64) -> Self {
        Self(Arc::new(Mutex::new(State { rng: StdRng::seed_from_u64(seed), rate, fired: 0 })))
    }

    /// No faults at all.
    #[must_use]
    pub fn none() -> Self {
        Self::seeded(0, 0.0)
    }

    /// From now on `rate`.
    pub fn set_rate(&self, rate: f64) {
        lock(&self.0).rate = rate;
    }

    /// How many have fired.
    #[must_use]
    pub fn fired(&self) -> u64 {
        lock(&self.0).fired
    }

    /// How the next request goes.
    #[must_use]
    pub fn draw(&self) -> Fault {
        let mut state = lock(&self.0);
        let rate = state.rate;
        if !state.rng.random_bool(rate) {
            return Fault::None;
        }
        state.fired += 1;
        match state.rng.random_range(0..3_u8) {
            0 => Fault::Before,
            1 => Fault::LostAnswer,
            _ => Fault::Late,
        }
    }

    /// Whether something that may be put off is put off now: half the time while there are faults.
    #[must_use]
    pub fn lags(&self) -> bool {
        let mut state = lock(&self.0);
        state.rate > 0.0 && state.rng.random_bool(0.5)
    }

    /// A number below `bound`, from the same seed.
    #[must_use]
    pub fn below(&self, bound: usize) -> usize {
        lock(&self.0).rng.random_range(0..bound.max(1))
    }
}
