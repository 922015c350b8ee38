//! The time that a request's head may take from its first byte on. hyper has one timeout for that and for the rest between
//! requests, which must be longer than load balancers rest; a peer that sends a head a byte a minute has no such excuse.
//! (Bytes of a head that come together with the end of the request before are not seen here: the next ones are.)

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
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
    /// A request has no answer yet: what comes belongs to its body, or waits.
    answering: AtomicBool,
    /// Bodies that have not ended. One at most goes on; that of a request before may not have been told of its end yet.
    bodies: AtomicUsize,
}

/// A body that has not ended. When it is dropped, it has.
#[derive(Debug)]
pub struct OpenBody(Arc<State>);

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.0.bodies.fetch_sub(1, Relaxed);
    }
}

impl Head {
    /// Bytes have come.
    pub fn bytes(&self) {
        if !self.0.answering.load(Relaxed) && self.0.bodies.load(Relaxed) == 0 {
            self.0.begun.store(true, Relaxed);
        }
    }

    /// A head is complete.
    pub fn complete(&self) {
        self.0.begun.store(false, Relaxed);
        self.0.answering.store(true, Relaxed);
    }

    /// A body begins. It may go on after the answer, which says then that nobody wants the rest of it.
    pub fn body(&self) -> OpenBody {
        self.0.bodies.fetch_add(1, Relaxed);
        OpenBody(self.0.clone())
    }

    /// The request has its answer.
    pub fn answered(&self) {
        self.0.answering.store(false, Relaxed);
    }

    /// Whether a head takes too long. It can't while the answer before it is `going_out`, since nobody reads on meanwhile.
    /// `timer` runs only while there is half a head, which hardly ever is the case when a connection has been polled: most
    /// heads come in one piece.
    pub fn is_late(
        &self,
        going_out: bool,
        timer: &mut Option<Pin<Box<Sleep>>>,
        limit: Duration,
        context: &mut Context<'_>,
    ) -> bool {
        if going_out || !self.0.begun.load(Relaxed) {
            *timer = None;
            return false;
        }
        timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Whether the time of a head runs.
    fn runs(head: &Head, going_out: bool) -> bool {
        let mut timer = None;
        let late = head.is_late(going_out, &mut timer, Duration::MAX, &mut Context::from_waker(Waker::noop()));
        assert!(!late);
        timer.is_some()
    }

    #[tokio::test]
    async fn the_time_of_a_head_runs_while_there_is_half_of_one() {
        let head = Head::default();
        assert!(!runs(&head, false), "a connection that rests");
        head.bytes();
        assert!(runs(&head, false), "half a head");
        assert!(!runs(&head, true), "one behind an answer that is still going out");
        head.complete();
        head.bytes();
        assert!(!runs(&head, false), "a request under way");
        let body = head.body();
        head.answered();
        head.bytes();
        assert!(!runs(&head, false), "the rest of a body after its answer");
        drop(body);
        assert!(!runs(&head, false), "nothing since");
        head.bytes();
        assert!(runs(&head, false), "half of the next head");
    }
}
