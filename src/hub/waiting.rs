//! Followers that wait, and how news reaches them.
//!
//! Waking a task for each of a thousand clients costs more than what it then does: write one frame that is there already.
//! So whoever brings the news gives it to the waiting followers' outlets itself, and wakes only those whose outlet
//! can't take it. One that waits is in the lane's list; its place in the log is its own, behind its own lock.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use super::{
    Item, Live, lock,
    ring::{Ring, Taken},
};
use crate::id::{EntryId, Lane};

/// Payload bytes in one batch of entries.
pub const BATCH_BYTES: usize = 64 * 1024;
/// Waiting followers that whoever brings the news serves itself. More are a task's work, or several tasks': others may
/// run meanwhile, on other cores.
const AT_ONCE: usize = 1;
/// Waiting followers that one such task serves.
const CROWD: usize = 64;

/// Where entries go while their follower waits.
pub trait Outlet: Send + Sync {
    /// Takes entries. `false`: not all of it could go out; the follower is woken, and goes on after them.
    fn take(&self, items: &[Arc<Item>]) -> bool;
}

/// A follower that waits.
pub struct Waiter {
    /// Takes what comes. Without one, the follower is woken.
    outlet: Option<Arc<dyn Outlet>>,
    place: Mutex<Place>,
}

struct Place {
    /// What the follower has had last.
    cursor: EntryId,
    epoch: u64,
    /// Over once and for all: to wait again takes another waiter.
    over: bool,
    waker: Option<Waker>,
}

impl Waiter {
    /// One that has had all up to this entry.
    pub fn new(cursor: EntryId, epoch: u64, outlet: Option<Arc<dyn Outlet>>) -> Arc<Self> {
        Arc::new(Waiter { outlet, place: Mutex::new(Place { cursor, epoch, over: false, waker: None }) })
    }

    /// Ready when the follower has something to do itself: with what it has had last.
    pub fn poll_over(&self, context: &mut Context<'_>) -> Poll<EntryId> {
        let mut place = lock(&self.place);
        if place.over {
            return Poll::Ready(place.cursor);
        }
        if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            place.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Gives the entries that are new to the outlet. `false`: it does not wait any more.
    fn serve(&self, looks: &mut Looks<'_>) -> bool {
        let mut place = lock(&self.place);
        while !place.over {
            let taken = looks.at(place.cursor, place.epoch);
            place.over = match (taken, &self.outlet) {
                (Taken::UpToDate { closed: false } | Taken::Wait, Some(_)) => return true,
                (Taken::Entries(items), Some(outlet)) => {
                    place.cursor = items.last().map_or(place.cursor, |last| last.id);
                    !outlet.take(items)
                }
                _ => true,
            };
        }
        let waker = place.waker.take();
        drop(place);
        waker.into_iter().for_each(Waker::wake);
        false
    }

    fn leave(&self) {
        lock(&self.place).over = true;
    }
}

/// What a ring has for cursors, looked up once for all that stand at the same.
struct Looks<'a> {
    ring: &'a Mutex<Ring>,
    known: Vec<(EntryId, u64, Taken)>,
}

impl Looks<'_> {
    fn at(&mut self, cursor: EntryId, epoch: u64) -> &Taken {
        let known = self.known.iter().position(|known| (known.0, known.1) == (cursor, epoch));
        let place = known.unwrap_or_else(|| {
            let taken = lock(self.ring).take(cursor, true, epoch, BATCH_BYTES);
            self.known.push((cursor, epoch, taken));
            self.known.len() - 1
        });
        &self.known[place].2
    }
}

/// The waiting followers of a lane.
#[derive(Default)]
pub struct Waiting(Mutex<List>);

#[derive(Default)]
struct List {
    waiters: Vec<Arc<Waiter>>,
    /// Counts the news.
    news: u64,
}

/// Some of them, taken out to be served with what is new as of a count.
struct Crowd {
    waiters: Vec<Arc<Waiter>>,
    news: u64,
}

impl Waiting {
    /// Lets one wait. It must look at the ring once more: it is told only of what comes from here on.
    pub fn enter(&self, waiter: Arc<Waiter>) {
        lock(&self.0).waiters.push(waiter);
    }

    /// Lets one wait no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        waiter.leave();
        let mut list = lock(&self.0);
        // If it is not there, whoever serves it finds that it has left.
        if let Some(place) = list.waiters.iter().rposition(|other| Arc::ptr_eq(other, waiter)) {
            list.waiters.swap_remove(place);
        }
    }

    /// Counts news, and takes out all that wait for it.
    fn news(&self) -> Crowd {
        let mut list = lock(&self.0);
        list.news += 1;
        Crowd { waiters: std::mem::take(&mut list.waiters), news: list.news }
    }

    /// Puts back those that still wait. `false`: there is more news.
    fn back(&self, crowd: &mut Crowd) -> bool {
        let mut list = lock(&self.0);
        if list.news != crowd.news {
            crowd.news = list.news;
            return false;
        }
        if list.waiters.is_empty() {
            list.waiters = std::mem::take(&mut crowd.waiters);
        } else {
            list.waiters.append(&mut crowd.waiters);
        }
        true
    }
}

impl Live {
    /// Brings the followers of a lane what is new in its ring.
    pub(super) fn news(self: &Arc<Self>, lane: Lane) {
        let mut all = self.feed(lane).waiting.news();
        while all.waiters.len() > AT_ONCE {
            let waiters = all.waiters.split_off(all.waiters.len().saturating_sub(CROWD));
            self.serve_apart(lane, Crowd { waiters, news: all.news });
        }
        if !all.waiters.is_empty() && !self.serve(lane, &mut all) {
            self.serve_apart(lane, all);
        }
    }

    fn serve_apart(self: &Arc<Self>, lane: Lane, mut crowd: Crowd) {
        let live = self.clone();
        tokio::spawn(async move {
            while !live.serve(lane, &mut crowd) {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Serves a crowd. `false`: there is more news for it.
    fn serve(&self, lane: Lane, crowd: &mut Crowd) -> bool {
        let feed = self.feed(lane);
        let mut looks = Looks { ring: &feed.ring, known: Vec::new() };
        crowd.waiters.retain(|waiter| waiter.serve(&mut looks));
        feed.waiting.back(crowd)
    }
}
