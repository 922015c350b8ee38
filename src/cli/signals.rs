//! The signals by which a gateway is told to end.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What it is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// Signals within so long are one: whoever sends one to a process and then to its group (`timeout` does) means it once.
const ONCE: Duration = Duration::from_millis(200);

/// The signals that end a gateway, heard from the start on. `None`: that one can't be had, and ends it as the system does.
pub struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Signals {
    pub fn new() -> Self {
        let heard = |kind| signal(kind).ok();
        Signals { terminate: heard(SignalKind::terminate()), interrupt: heard(SignalKind::interrupt()) }
    }

    pub async fn told(&mut self) -> Told {
        tokio::select! {
            () = next(&mut self.terminate) => Told::Terminate,
            () = next(&mut self.interrupt) => Told::Interrupt,
        }
    }

    /// By another signal than that of just now.
    pub async fn told_again(&mut self) {
        let since = Instant::now();
        while since.elapsed() < ONCE {
            self.told().await;
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
