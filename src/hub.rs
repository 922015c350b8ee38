//! Live sessions: one subscription for each session that somebody follows here, however many follow it.
//!
//! A live session keeps the newest entries of each lane in a ring; every client is a [`Follower`], a cursor that
//! reads on from the ring as long as it can and from the store where it can't. The seam between the two is the heart
//! of Moorline:
//!
//! 1. subscribe, and wait for the acknowledgement;
//! 2. *then* read the newest entries (whatever is committed later is pushed, whatever was committed before is read);
//! 3. apply pushes in order of `n`, drop what was seen, and on a hole, a lost subscription or any other doubt read
//!    again from the last entry known;
//! 4. if that entry is no longer in the log, the log has been replaced: the ring begins a new *epoch*, and every
//!    follower has its own cursor verified by the store before it goes on.
//!
//! A follower that falls off the ring pages from the store, which bounds what a slow client costs.

mod budget;
mod follower;
mod item;
mod ring;
#[cfg(test)]
pub(crate) mod scripted;
mod waiting;

pub use follower::{Follower, Start, Update};
pub use item::Item;
pub use waiting::Outlet;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use crate::{
    id::{Lane, Name},
    lock::lock,
    metrics::{Held, METRICS},
    pause::Pause,
    rules::Action,
    store::{Push, ReadFrom, Store, StoreError, Subscription, Tail},
    writer::Writers,
};
use budget::Budget;
use ring::{Repair, Ring};
use waiting::Waiting;

/// A live session outlives its last follower by this, so that a client that reconnects finds it as it was.
const LINGER: Duration = Duration::from_secs(5);
/// Pauses between attempts to read from a store that does not answer.
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The live sessions of a replica.
pub struct Hub {
    store: Arc<dyn Store>,
    writers: Arc<Writers>,
    live: Mutex<HashMap<Name, Arc<Live>>>,
    budget: Arc<Budget>,
}

/// A session that somebody follows here.
struct Live {
    session: Name,
    store: Arc<dyn Store>,
    lanes: [Feed; 2],
    /// Those that are here, and all that ever came. Counted under the hub's lock.
    followers: AtomicUsize,
    joined: AtomicU64,
    status: watch::Sender<Status>,
    /// Wakes the task that waits for the session's deadlines: they have changed, or the session has ended.
    control: Arc<Notify>,
    budget: Arc<Budget>,
    subscription: Mutex<Option<Subscription>>,
    _counted: Held,
}

/// One lane of a live session.
#[derive(Default)]
struct Feed {
    ring: Mutex<Ring>,
    waiting: Waiting,
}

#[derive(Debug, Clone)]
enum Status {
    Starting,
    Ready,
    Failed(StoreError),
}

/// One follower's share in a live session.
struct Attachment {
    hub: Arc<Hub>,
    live: Arc<Live>,
}

impl Hub {
    /// A hub on this store.
    pub fn new(store: Arc<dyn Store>, writers: Arc<Writers>) -> Arc<Self> {
        Arc::new(Hub { store, writers, live: Default::default(), budget: Arc::new(Budget::new()) })
    }

    /// Begins to follow a lane. An error means that the store could not be asked.
    pub async fn follow(self: &Arc<Self>, session: &Name, lane: Lane, start: Start) -> Result<Follower, StoreError> {
        let attachment = self.attach(session).await?;
        Follower::new(attachment, lane, start).await
    }

    /// How many sessions are live here.
    pub fn live_sessions(&self) -> usize {
        lock(&self.live).len()
    }

    async fn attach(self: &Arc<Self>, session: &Name) -> Result<Attachment, StoreError> {
        let live = {
            let mut all = lock(&self.live);
            let live = all.entry(session.clone()).or_insert_with(|| {
                let live = Arc::new(Live::new(session.clone(), self.store.clone(), self.budget.clone()));
                tokio::spawn(start(self.clone(), live.clone()));
                live
            });
            live.followers.fetch_add(1, Ordering::Relaxed);
            live.joined.fetch_add(1, Ordering::Relaxed);
            live.clone()
        };
        let attachment = Attachment { hub: self.clone(), live };
        let mut status = attachment.live.status.subscribe();
        let settled = status.wait_for(|status| !matches!(status, Status::Starting)).await;
        match settled.as_deref() {
            Ok(Status::Ready) => {}
            Ok(Status::Failed(error)) => return Err(error.clone()),
            _ => return Err(StoreError::Fault("the live session ended".into())),
        }
        drop(settled);
        Ok(attachment)
    }

    /// Forgets a live session, if it is still this one.
    fn retire(&self, live: &Arc<Live>, when: impl FnOnce(&Live) -> bool) {
        let mut all = lock(&self.live);
        let same = all.get(&live.session).is_some_and(|current| Arc::ptr_eq(current, live));
        if same && when(live) {
            all.remove(&live.session);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let (left, joined) = {
            let _all = lock(&self.hub.live);
            let left = self.live.followers.fetch_sub(1, Ordering::Relaxed) - 1;
            (left, self.live.joined.load(Ordering::Relaxed))
        };
        if left == 0 {
            let (hub, live) = (self.hub.clone(), self.live.clone());
            // Outside of a runtime everything ends anyway.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    // Unless somebody has come since: then whoever leaves last waits anew.
                    hub.retire(&live, |live| live.joined.load(Ordering::Relaxed) == joined);
                });
            }
        }
    }
}

/// Subscribes, and from then on waits for the session's deadlines for as long as it lives.
async fn start(hub: Arc<Hub>, live: Arc<Live>) {
    let tail = Arc::new(TailEnd(Arc::downgrade(&live)));
    match hub.store.subscribe(&live.session, tail).await {
        Ok(subscription) => {
            *lock(&live.subscription) = Some(subscription);
            live.status.send_replace(Status::Ready);
            tokio::spawn(deadlines(Arc::downgrade(&live), live.control.clone(), hub.writers.clone()));
        }
        Err(error) => {
            hub.retire(&live, |_| true);
            live.status.send_replace(Status::Failed(error));
        }
    }
}

/// Lets leases, graces and expiries of a session that somebody watches come true on time. What is due is decided by
/// the rules and the store's clock; this only knocks.
///
/// Holds the session weakly, or it would never end.
async fn deadlines(live: Weak<Live>, control: Arc<Notify>, writers: Arc<Writers>) {
    /// A deadline further away than this is looked at again in between.
    const FAR: Duration = Duration::from_secs(60);
    let mut pause = Pause::new(RETRY_MIN, RETRY_MAX);
    loop {
        let Some(session) = live.upgrade().map(|live| live.session.clone()) else { return };
        let wait = match writers.act(&session, Action::Tick).await {
            Ok(done) => {
                pause.begin_anew();
                // A deadline holds from the start of its millisecond; one more, as the store's clock may run a little
                // slower than ours, and would say that it isn't due yet.
                done.due.map(|due| Duration::from_millis(due.saturating_sub(done.now) + 1).min(FAR))
            }
            Err(_) => Some(pause.next()),
        };
        match wait {
            Some(wait) => tokio::time::timeout(wait, control.notified()).await.unwrap_or_default(),
            None => control.notified().await,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.control.notify_one();
    }
}

/// What the store calls. Holds the session weakly: the session owns its subscription, not the other way round.
struct TailEnd(Weak<Live>);

impl Tail for TailEnd {
    fn push(&self, push: Push) {
        let Some(live) = self.0.upgrade() else { return };
        match push {
            Push::Entries { lane, first, payloads } => live.change(lane, |ring| ring.push(first, payloads)),
            Push::Doorbell { lane, last } => live.change(lane, |ring| ring.doorbell(last)),
            Push::Closed => Lane::ALL.into_iter().for_each(|lane| live.change(lane, Ring::close)),
            Push::Deleted => Lane::ALL.into_iter().for_each(|lane| live.change(lane, Ring::replaced)),
            Push::Control => live.control.notify_one(),
        }
    }

    fn doubt(&self) {
        let Some(live) = self.0.upgrade() else { return };
        Lane::ALL.into_iter().for_each(|lane| live.change(lane, Ring::doubt));
        live.control.notify_one();
    }
}

impl Live {
    fn new(session: Name, store: Arc<dyn Store>, budget: Arc<Budget>) -> Self {
        Live {
            session,
            store,
            lanes: Default::default(),
            followers: AtomicUsize::new(0),
            joined: AtomicU64::new(0),
            status: watch::Sender::new(Status::Starting),
            control: Default::default(),
            budget,
            subscription: Mutex::new(None),
            _counted: METRICS.live_sessions.hold(),
        }
    }

    fn feed(&self, lane: Lane) -> &Feed {
        &self.lanes[lane.index()]
    }

    /// Changes a ring. What is new goes to the lane's followers; if something is missing, it is read first.
    fn change(self: &Arc<Self>, lane: Lane, change: impl FnOnce(&mut Ring) -> Repair) {
        if !self.repair(lane, change) {
            self.news(lane);
        }
    }

    /// Changes a ring, and starts the repair that the change asks for, if any.
    fn repair(self: &Arc<Self>, lane: Lane, change: impl FnOnce(&mut Ring) -> Repair) -> bool {
        let repair = change(&mut lock(&self.feed(lane).ring)) == Repair::Start;
        if repair {
            tokio::spawn(mend(Arc::downgrade(self), lane));
        }
        repair
    }
}

/// Reads what a ring misses, until it is whole again.
async fn mend(live: Weak<Live>, lane: Lane) {
    let (mut pause, mut failing) = (Pause::new(RETRY_MIN, RETRY_MAX), None);
    loop {
        let Some(live) = live.upgrade() else { return };
        let (from, limit) = lock(&live.feed(lane).ring).reading();
        match live.store.read(&live.session, lane, from, limit).await {
            Ok(page) => {
                METRICS.repairs.add(u64::from(from != ReadFrom::Latest));
                failing = None;
                let whole = lock(&live.feed(lane).ring).mended(from, page);
                live.news(lane);
                if whole {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(session = %live.session, %error, "a repair waits for the store");
                lock(&live.feed(lane).ring).failed(*failing.get_or_insert_with(Instant::now), error);
                // Not every follower waits it out.
                live.news(lane);
                drop(live);
                pause.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::store::{Retention, memory::MemoryStore};

    #[tokio::test(start_paused = true)]
    async fn a_live_session_waits_anew_for_whoever_leaves_last() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Retention::default()));
        let hub = Hub::new(store.clone(), Writers::new(store, Default::default()));
        let session: Name = "s".parse().unwrap();
        for _ in 0..3 {
            let follower = hub.follow(&session, Lane::Events, Start::Now).await.unwrap();
            sleep(LINGER / 4).await;
            drop(follower);
            sleep(LINGER * 3 / 4).await;
            assert_eq!(hub.live_sessions(), 1);
        }
        sleep(LINGER / 2).await;
        assert_eq!(hub.live_sessions(), 0);
    }
}
