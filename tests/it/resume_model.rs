//! Guarantee 2 at the hub: whatever happens to a session and to its clients, each client gets every later entry exactly
//! once, in order, or a reset that has a reason.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use moorline::{
    event::{Defaults, Event},
    hub::{Follower, Hub, Item, Outlet, Start, Update},
    id::{EntryId, Lane, Name},
    rules::{Action, Append, Limits},
    store::{Lost, Retention, Store, redis::RedisConfig},
    writer::Writers,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::sync::Notify;

use crate::{
    store_contract::{Backend, connect},
    support::{redis::RedisServer, unique},
};

/// Small, so that histories are cut while clients are away.
const CAP: u64 = 12;
const CLIENTS: usize = 3;
const CASES: u32 = 40;
/// A client that waits for so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Step {
    /// One append of so many events.
    Append(usize),
    Delete,
    /// The client's connection is gone; at its next turn it resumes.
    Cut(usize),
    /// The client takes a few updates, if there are any.
    Take(usize, usize),
    /// The client reads until it has everything.
    Sync(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (1..8usize).prop_map(Step::Append),
        1 => Just(Step::Delete),
        4 => (0..CLIENTS).prop_map(Step::Cut),
        6 => (0..CLIENTS, 1..4usize).prop_map(|(client, count)| Step::Take(client, count)),
        5 => (0..CLIENTS).prop_map(Step::Sync),
    ];
    prop::collection::vec(step, 1..50)
}

struct World {
    store: Arc<dyn Store>,
    writers: Arc<Writers>,
    /// Two replicas: clients resume on either.
    hubs: [Arc<Hub>; 2],
    session: Name,
    /// Everything ever appended: what it says, and in which life of the session.
    said: HashMap<EntryId, (Bytes, usize)>,
    life: usize,
    last: Option<EntryId>,
    counted: usize,
}

/// What comes to a client while it waits.
#[derive(Default)]
struct Inbox {
    items: Mutex<Vec<Arc<Item>>>,
    came: Notify,
    takes: AtomicUsize,
}

impl Outlet for Inbox {
    fn take(&self, items: &[Arc<Item>]) -> bool {
        self.items.lock().expect("the items").extend(items.iter().cloned());
        self.came.notify_one();
        // Now and then it is stuck, as a socket is.
        !self.takes.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    }
}

#[derive(Default)]
struct Client {
    follower: Option<Follower>,
    inbox: Arc<Inbox>,
    connections: usize,
    /// The last entry seen.
    last: Option<EntryId>,
    /// Where the log is said to begin, after a reset.
    first: Option<EntryId>,
}

impl World {
    fn new(stores: [Arc<dyn Store>; 2]) -> Self {
        let writers = Writers::new(stores[0].clone(), Limits::default());
        let hubs = stores.each_ref().map(|store| Hub::new(store.clone(), writers.clone()));
        let [store, _] = stores;
        let session = unique("s").parse().expect("a name");
        World { store, writers, hubs, session, said: HashMap::new(), life: 0, last: None, counted: 0 }
    }

    async fn append(&mut self, count: usize) {
        let event =
            |n: usize| Event::from_json(&format!("{{\"data\":{n}}}"), &Defaults::default(), 1000).expect("an event");
        let events: Vec<_> = (self.counted..self.counted + count).map(event).collect();
        self.counted += count;
        let payloads: Vec<Bytes> = events.iter().map(|event| event.payload.clone()).collect();
        let append = Action::Append(Append { events, ..Default::default() });
        let done = self.writers.act(&self.session, append).await.expect("an append");
        for (id, payload) in done.ids.iter().zip(payloads) {
            assert!(self.said.insert(*id, (payload, self.life)).is_none(), "{id} was given out twice");
        }
        self.last = done.ids.last().copied();
    }

    async fn delete(&mut self) {
        assert_eq!(self.store.delete(&self.session).await.expect("a deletion"), self.last.is_some());
        self.life += 1;
        self.last = None;
    }

    /// Whether a client that has seen this entry has a right to a reset, for this reason.
    async fn justifies(&self, seen: Option<EntryId>, reason: Lost) -> bool {
        let Some(seen) = seen else { return false };
        let life = self.said[&seen].1;
        match reason {
            Lost::Deleted => life < self.life,
            Lost::Unknown => false,
            Lost::Trimmed => {
                let stat = self.store.stat(&self.session).await.expect("a stat").expect("a session");
                // Cut long ago in another life: the number alone may tell.
                stat.lanes[Lane::Events.index()].first.is_some_and(|first| seen.n < first.n)
            }
        }
    }
}

impl Client {
    /// The next update, checked. `None`: there is none for now.
    async fn take(&mut self, world: &World, patience: Duration) -> Option<()> {
        if self.follower.is_none() {
            let start = self.last.map_or(Start::Beginning, Start::After);
            let hub = &world.hubs[self.connections % 2];
            self.connections += 1;
            let mut follower = hub.follow(&world.session, Lane::Events, start).await.expect("a follower");
            self.inbox = Default::default();
            follower.deliver_to(self.inbox.clone());
            self.follower = Some(follower);
        }
        let follower = self.follower.as_mut()?;
        let next = async {
            tokio::select! {
                update = follower.next() => Some(update.expect("an update")),
                () = self.inbox.came.notified() => None,
            }
        };
        let update = tokio::time::timeout(patience, next).await.ok()?;
        // What came while it waited came before that.
        let items = std::mem::take(&mut *self.inbox.items.lock().expect("the items"));
        items.iter().for_each(|item| self.read(world, item.id, item.payload()));
        match update {
            None | Some(Update::Delivered) => {}
            Some(update) => self.see(world, update).await,
        }
        Some(())
    }

    async fn see(&mut self, world: &World, update: Update) {
        match update {
            Update::Entries(items) => items.iter().for_each(|item| self.read(world, item.id, item.payload())),
            Update::History(page) => page.iter().for_each(|entry| self.read(world, entry.id, &entry.payload)),
            Update::Reset { reason, first } => {
                assert!(world.justifies(self.last, reason).await, "a reset, {reason:?}, without need: {:?}", self.last);
                (self.last, self.first) = (None, first);
            }
            Update::CaughtUp(at) => {
                if let Some(last) = self.last {
                    assert_eq!(at, last, "caught up elsewhere");
                }
            }
            Update::Delivered | Update::Closed => panic!("{update:?}"),
        }
    }

    fn read(&mut self, world: &World, id: EntryId, said: &[u8]) {
        let (payload, life) = world.said.get(&id).expect("an entry that was appended");
        assert_eq!(payload, said, "what {id} says");
        if let Some(last) = self.last {
            assert_eq!(id.n, last.n + 1, "a gap or a duplicate after {last}");
            assert_eq!(*life, world.said[&last].1, "{id} does not continue the log of {last}");
        }
        if let Some(first) = self.first.take() {
            assert_eq!(id, first, "the log begins elsewhere than the reset said");
        }
        self.last = Some(id);
    }

    /// Reads until it has what the world has.
    async fn sync(&mut self, world: &World) {
        while self.last != world.last {
            self.take(world, PATIENCE).await.unwrap_or_else(|| panic!("stuck at {:?} of {:?}", self.last, world.last));
        }
    }
}

async fn live_through(stores: [Arc<dyn Store>; 2], steps: Vec<Step>) {
    let mut world = World::new(stores);
    let mut clients: [Client; CLIENTS] = Default::default();
    for step in steps {
        match step {
            Step::Append(count) => world.append(count).await,
            Step::Delete => world.delete().await,
            Step::Cut(client) => {
                clients[client].follower = None;
                // It begins anew, wherever the log then does.
                clients[client].first = None;
            }
            Step::Take(client, count) => {
                for _ in 0..count {
                    // Only what is there: nobody knows how much the client has seen.
                    if clients[client].take(&world, Duration::from_millis(2)).await.is_none() {
                        break;
                    }
                }
            }
            Step::Sync(client) => clients[client].sync(&world).await,
        }
    }
    for client in &mut clients {
        client.sync(&world).await;
    }
}

fn run(stores: impl AsyncFn() -> [Arc<dyn Store>; 2]) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let stores = runtime.block_on(stores());
    // Every failure waits for its client in vain: few attempts at a smaller one.
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(live_through(stores.clone(), steps));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn memory_clients_miss_nothing_and_see_nothing_twice() {
    run(async || {
        let store = Backend::Memory.store(Retention { cap: CAP, ..Retention::default() }).await;
        [store.clone(), store]
    });
}

#[test]
fn redis_clients_miss_nothing_and_see_nothing_twice() {
    // Redis cuts whole nodes of a stream: small ones, so that it does.
    let server = RedisServer::start_with(&["--stream-node-max-entries", "4"]);
    let prefix = unique("resume") + ":";
    let replica = async || {
        let configure = |config: &mut RedisConfig| {
            config.retention.cap = CAP;
            config.prefix = prefix.clone();
        };
        Arc::new(connect(&server, configure).await) as Arc<dyn Store>
    };
    run(async || [replica().await, replica().await]);
}
