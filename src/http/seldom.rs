//! What is not worth a line in the log each time it happens.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Once in ten seconds: while the store is away, every request would say the same.
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub const fn new() -> Self {
        Seldom(Mutex::new(None))
    }

    /// Whether it is time to say it again.
    pub fn now(&self) -> bool {
        let mut last = lock(&self.0);
        let seldom = last.is_none_or(|last| last.elapsed() > Duration::from_secs(10));
        if seldom {
            *last = Some(Instant::now());
        }
        seldom
    }
}
