//! The time that a request's head may take from its first byte on. hyper has one timeout for that and for the rest between
//! requests, which must be longer than load balancers rest; a peer that sends a head a byte a minute has no such excuse.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Context,
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// What is known of a connection's current head, shared by its socket (bytes come), its requests (a head is complete) and
/// whoever polls both.
#[derive(Debug, Clone, Default)]
pub struct Head(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Some of a head has come, and not all.
    begun: AtomicBool,
    /// A request is under way: what comes belongs to its body.
    answering: AtomicBool,
}

impl Head {
    /// Bytes have come.
    pub fn bytes(&self) {
        if !self.0.answering.load(Relaxed) {
            self.0.begun.store(true, Relaxed);
        }
    }

    /// A head is complete.
    pub fn complete(&self) {
        self.0.begun.store(false, Relaxed);
        self.0.answering.store(true, Relaxed);
    }

    /// Whether what is written now is no answer of ours: half a head has come, and no request is under way.
    pub fn is_half(&self) -> bool {
        self.0.begun.load(Relaxed)
    }

    /// Its request has its answer. What comes now begins another one; or it is a rest of its body, that nobody waits for.
    pub fn answered(&self) {
        self.0.answering.store(false, Relaxed);
    }

    /// Whether a head takes too long. `timer` runs only while there is half a head, which hardly ever is the case when a
    /// connection has been polled: most heads come in one piece.
    pub fn is_late(&self, timer: &mut Option<Pin<Box<Sleep>>>, limit: Duration, context: &mut Context<'_>) -> bool {
        if !self.0.begun.load(Relaxed) {
            *timer = None;
            return false;
        }
        timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context).is_ready()
    }
}
