//! Followers that wait, and how news reaches them.
//!
//! Waking a task for each of a thousand clients costs more than what it then does: write one frame that is there already.
//! So whoever brings the news gives it to the waiting followers' outlets itself, and wakes only those whose outlet
//! can't take it. One that waits is in the lane's list; its place in the log is its own, behind its own lock.
//!
//! Several who follow one lane are served at a pace where that takes much of the machine. A write to a socket costs the
//! same for one event and for ten, and is most of what a crowd costs; hardly a screen shows more than one frame in 10 ms.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Item, Live,
    follower::GIVE_UP,
    ring::{self, Ring, Taken},
};
use crate::{
    id::{EntryId, Lane},
    lock::lock,
};

/// Payload bytes in one batch of entries.
pub const BATCH_BYTES: usize = 64 * 1024;
/// Waiting followers that whoever brings the news serves itself. More are a task's work, or several tasks': others may
/// run meanwhile, on other cores.
const AT_ONCE: usize = 1;
/// Waiting followers that one such task serves.
const CROWD: usize = 64;
/// What comes so soon after what a crowd was served last goes to it together, once the budget is spent.
const PACE: Duration = Duration::from_millis(10);
/// Unless so many bytes have come: large events in a row would push the crowd off the ring while it is held back.
const HURRY: usize = ring::BYTES_MAX / 2;

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
            let ring = looks.ring;
            let taken = looks.at(place.cursor, place.epoch);
            place.over = match (taken, &self.outlet) {
                (Taken::UpToDate { closed: false }, Some(_)) => return true,
                (Taken::Wait, Some(_)) if lock(ring).trouble(GIVE_UP).is_none() => return true,
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

    fn is_over(&self) -> bool {
        lock(&self.place).over
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
pub struct Waiting {
    list: Mutex<List>,
    /// Ends the pauses of those that are served at a pace.
    hurry: Notify,
}

#[derive(Default)]
struct List {
    waiters: Vec<Arc<Waiter>>,
    /// Counts the news.
    news: u64,
    /// What had come into the ring when pauses were ended last.
    hurried: usize,
    /// When a crowd was served last.
    served: Option<Instant>,
}

/// Some of them, taken out to be served with what is new as of a count.
struct Crowd {
    waiters: Vec<Arc<Waiter>>,
    news: u64,
    /// When it was served last, if it is one that has a pace.
    served: Option<Instant>,
}

impl Waiting {
    /// Lets one wait. It must look at the ring once more: it is told only of what comes from here on.
    pub fn enter(&self, waiter: Arc<Waiter>) {
        lock(&self.list).waiters.push(waiter);
    }

    /// Lets one wait no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        // Before the list is locked, never while it is: whoever puts a crowd back looks at places under the list's lock.
        waiter.leave();
        let mut list = lock(&self.list);
        // If it is not there, it is taken out to be served: whoever serves it, or puts it back, finds that it has left.
        if let Some(place) = list.waiters.iter().rposition(|other| Arc::ptr_eq(other, waiter)) {
            list.waiters.swap_remove(place);
        }
    }

    /// Counts news, and takes out all that wait for it. So many bytes have ever come.
    fn news(&self, came: usize) -> Crowd {
        let mut list = lock(&self.list);
        list.news += 1;
        if came.wrapping_sub(list.hurried) > HURRY {
            list.hurried = came;
            self.hurry.notify_waiters();
        }
        Crowd { waiters: std::mem::take(&mut list.waiters), news: list.news, served: list.served }
    }

    /// Puts back those that still wait. `false`: there is more news.
    fn back(&self, crowd: &mut Crowd) -> bool {
        // Dropped when the list is free again: with one its socket may be closed.
        let _gone: Vec<_>;
        let mut list = lock(&self.list);
        if list.news != crowd.news {
            crowd.news = list.news;
            return false;
        }
        // Some may have left after they were served, while others still were. In the list they would keep their sockets
        // open until there is news again.
        _gone = crowd.waiters.extract_if(.., |waiter| waiter.is_over()).collect();
        list.served = crowd.served.or(list.served);
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
        let feed = self.feed(lane);
        let came = lock(&feed.ring).came();
        let mut all = feed.waiting.news(came);
        while all.waiters.len() > AT_ONCE {
            let waiters = all.waiters.split_off(all.waiters.len().saturating_sub(CROWD));
            self.serve_apart(lane, Crowd { waiters, ..all });
        }
        if !all.waiters.is_empty() && !self.serve(lane, &mut all) {
            self.serve_apart(lane, all);
        }
    }

    fn serve_apart(self: &Arc<Self>, lane: Lane, mut crowd: Crowd) {
        let live = self.clone();
        tokio::spawn(async move {
            loop {
                if let Some(served) = crowd.served
                    && live.budget.is_spent()
                {
                    tokio::select! {
                        () = tokio::time::sleep_until(served + PACE) => {}
                        () = live.feed(lane).waiting.hurry.notified() => {}
                    }
                }
                if live.serve(lane, &mut crowd) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }

    /// Serves a crowd. `false`: there is more news for it.
    fn serve(&self, lane: Lane, crowd: &mut Crowd) -> bool {
        let begun = (crowd.waiters.len() > AT_ONCE).then(|| (Instant::now(), std::time::Instant::now()));
        crowd.served = begun.map(|(at, _)| at);
        let feed = self.feed(lane);
        let mut looks = Looks { ring: &feed.ring, known: Vec::new() };
        crowd.waiters.retain(|waiter| waiter.serve(&mut looks));
        if let Some((_, begun)) = begun {
            self.budget.spend(begun.elapsed());
        }
        feed.waiting.back(crowd)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    use super::*;
    use crate::{
        event::{Defaults, Event},
        hub::{Follower, Hub, Start, Update, ring::Repair, scripted::Scripted},
        id::Name,
        rules::{Action, Append, Limits},
        store::{Retention, StoreError, memory::MemoryStore},
        writer::Writers,
    };

    #[derive(Default)]
    struct Inbox {
        numbers: Mutex<Vec<u64>>,
        takes: AtomicUsize,
        stuck: AtomicBool,
    }

    impl Outlet for Inbox {
        fn take(&self, items: &[Arc<Item>]) -> bool {
            lock(&self.numbers).extend(items.iter().map(|item| item.id.n));
            self.takes.fetch_add(1, SeqCst);
            !self.stuck.load(SeqCst)
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    struct World {
        hub: Arc<Hub>,
        writers: Arc<Writers>,
        session: Name,
    }

    impl World {
        fn new() -> Self {
            let store = Arc::new(MemoryStore::new(Retention::default()));
            let writers = Writers::new(store.clone(), Limits::default());
            World { hub: Hub::new(store, writers.clone()), writers, session: "s".parse().unwrap() }
        }

        async fn append(&self) {
            let event = Event::from_json(r#"{"data":1}"#, &Defaults::default(), 1000).unwrap();
            let append = Append { events: vec![event], ..Default::default() };
            self.writers.act(&self.session, Action::Append(append)).await.unwrap();
        }

        /// A follower that has caught up.
        async fn follower(&self, inbox: &Arc<Inbox>) -> Follower {
            let mut follower = self.hub.follow(&self.session, Lane::Events, Start::Now).await.unwrap();
            follower.deliver_to(inbox.clone());
            while !matches!(follower.next().await.unwrap(), Update::CaughtUp(_)) {}
            follower
        }
    }

    #[tokio::test]
    async fn one_that_waits_is_served_asleep_and_woken_when_its_outlet_is_stuck() {
        let (world, inbox, wakes) = (World::new(), Arc::new(Inbox::default()), Arc::new(Wakes::default()));
        world.append().await;
        let mut follower = world.follower(&inbox).await;
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        {
            let mut next = Box::pin(follower.next());
            assert!(next.as_mut().poll(&mut context).is_pending());
            for _ in 0..5 {
                world.append().await;
            }
            assert_eq!(*lock(&inbox.numbers), [2, 3, 4, 5, 6]);
            assert_eq!(wakes.0.load(SeqCst), 0);
            inbox.stuck.store(true, SeqCst);
            world.append().await;
            // It has had enough for now.
            world.append().await;
            assert_eq!((lock(&inbox.numbers).last().copied(), wakes.0.load(SeqCst)), (Some(7), 1));
            assert!(matches!(next.as_mut().poll(&mut context), Poll::Ready(Ok(Update::Delivered))));
        }
        match follower.next().await.unwrap() {
            Update::Entries(items) => assert_eq!(items.iter().map(|item| item.id.n).collect::<Vec<_>>(), [8]),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn one_that_waits_gives_up_a_store_that_can_t_be_read_for_too_long() {
        let (world, inbox) = (World::new(), Arc::new(Inbox::default()));
        world.append().await;
        let mut follower = world.follower(&inbox).await;
        let live = lock(&world.hub.live)[&world.session].clone();
        let ring = &live.feed(Lane::Events).ring;
        let mut context = Context::from_waker(Waker::noop());
        let mut next = Box::pin(follower.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
        // A repair that nobody makes here.
        assert_eq!(lock(ring).doubt(), Repair::Start);
        let ago = |time| std::time::Instant::now().checked_sub(time).unwrap();
        for (since, over) in [(ago(GIVE_UP / 2), false), (ago(GIVE_UP), true)] {
            lock(ring).failed(since, StoreError::Unavailable("away".into()));
            live.news(Lane::Events);
            assert_eq!(
                next.as_mut().poll(&mut context).map(|update| update.is_err()),
                if over { Poll::Ready(true) } else { Poll::Pending }
            );
        }
    }

    #[tokio::test]
    async fn one_that_has_left_is_forgotten() {
        let (world, inbox) = (World::new(), Arc::new(Inbox::default()));
        world.append().await;
        let mut follower = world.follower(&inbox).await;
        {
            let mut next = Box::pin(follower.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(follower);
        world.append().await;
        assert!(lock(&inbox.numbers).is_empty());
        assert_eq!(Arc::strong_count(&inbox), 1);
    }

    /// An outlet whose client is served after another one, which hangs up meanwhile.
    struct Parting(Mutex<Option<Follower>>);

    impl Outlet for Parting {
        fn take(&self, _: &[Arc<Item>]) -> bool {
            drop(lock(&self.0).take());
            true
        }
    }

    #[tokio::test]
    async fn one_that_leaves_while_others_are_served_is_forgotten() {
        let world = World::new();
        world.append().await;
        let (inbox, parting) = (Arc::new(Inbox::default()), Arc::new(Parting(Mutex::default())));
        let mut leaves = world.follower(&inbox).await;
        let mut stays = world.hub.follow(&world.session, Lane::Events, Start::Now).await.unwrap();
        stays.deliver_to(parting.clone());
        while !matches!(stays.next().await.unwrap(), Update::CaughtUp(_)) {}
        let mut context = Context::from_waker(Waker::noop());
        assert!(Box::pin(leaves.next()).as_mut().poll(&mut context).is_pending());
        let mut next = Box::pin(stays.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
        *lock(&parting.0) = Some(leaves);
        world.append().await;
        while lock(&parting.0).is_some() {
            tokio::task::yield_now().await;
        }
        // It was served before it left, and is not kept until there is news again.
        assert_eq!((lock(&inbox.numbers).len(), Arc::strong_count(&inbox)), (1, 1));
        assert!(next.as_mut().poll(&mut context).is_pending());
        world.append().await;
        assert_eq!(lock(&inbox.numbers).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_soon_after_another_goes_to_a_busy_crowd_together_and_else_at_once() {
        for (crowd, busy) in [(3, true), (3, false), (1, true)] {
            let together = crowd > 1 && busy;
            let world = World::new();
            let spend = || world.hub.budget.spend(if busy { Duration::from_secs(3600) } else { Duration::ZERO });
            world.append().await;
            let inboxes: Vec<Arc<Inbox>> = (0..crowd).map(|_| Default::default()).collect();
            let mut followers = Vec::new();
            for inbox in &inboxes {
                followers.push(world.follower(inbox).await);
            }
            let mut next: Vec<_> = followers.iter_mut().map(|follower| Box::pin(follower.next())).collect();
            for next in &mut next {
                assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            // The clock stands still while there is something to do.
            let taken = async |by: &Inbox| {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                lock(&by.numbers).len()
            };
            world.append().await;
            for inbox in &inboxes {
                assert_eq!(taken(inbox).await, 1);
            }
            spend();
            for _ in 0..4 {
                world.append().await;
            }
            for inbox in &inboxes {
                assert_eq!(taken(inbox).await, if together { 1 } else { 5 });
            }
            tokio::time::sleep(PACE).await;
            for inbox in &inboxes {
                assert_eq!(taken(inbox).await, 5);
                assert!(!together || inbox.takes.load(SeqCst) == 2);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_crowd_is_not_held_back_until_it_falls_off_the_ring() {
        let (store, hub) = Scripted::new();
        store.set(|script| script.append(5, 1, 10));
        let inboxes: Vec<Arc<Inbox>> = (0..3).map(|_| Default::default()).collect();
        let mut followers = Vec::new();
        for inbox in &inboxes {
            let mut follower = hub.follow(&"s".parse().unwrap(), Lane::Events, Start::Now).await.unwrap();
            follower.deliver_to(inbox.clone());
            while !matches!(follower.next().await.unwrap(), Update::CaughtUp(_)) {}
            followers.push(follower);
        }
        let mut next: Vec<_> = followers.iter_mut().map(|follower| Box::pin(follower.next())).collect();
        for next in &mut next {
            assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        // The clock stands still: no pause comes to its own end.
        store.set(|script| script.append(6, 9, 50 * 1024));
        for (n, taken) in [(2, 1), (3, 1), (4, 3), (5, 3), (6, 3), (7, 6)] {
            hub.budget.spend(Duration::from_secs(3600));
            store.push(n..=n);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            for inbox in &inboxes {
                assert_eq!(lock(&inbox.numbers).len(), taken, "{n}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_gets_everything_once_and_in_order() {
        const ENTRIES: u64 = 200;
        let world = World::new();
        world.append().await;
        let inboxes: Vec<Arc<Inbox>> = (0..3 * CROWD + 5).map(|_| Default::default()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for inbox in &inboxes {
            let mut follower = world.follower(inbox).await;
            let inbox = inbox.clone();
            tasks.spawn(async move {
                loop {
                    match follower.next().await.unwrap() {
                        Update::Entries(items) => drop(inbox.take(&items)),
                        Update::History(page) => lock(&inbox.numbers).extend(page.iter().map(|entry| entry.id.n)),
                        _ => {}
                    }
                }
            });
        }
        for _ in 0..ENTRIES {
            world.append().await;
        }
        let all: Vec<u64> = (2..ENTRIES + 2).collect();
        for inbox in &inboxes {
            let whole = async {
                while lock(&inbox.numbers).len() < all.len() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), whole).await.unwrap();
            assert_eq!(*lock(&inbox.numbers), all);
        }
    }
}
