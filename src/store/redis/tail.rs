//! Pushes from Redis: one subscriber connection a replica, whatever happens to it.
//!
//! A task owns the connection. It connects, subscribes every channel that somebody watches, and tells those watchers
//! that pushes may have been missed; then it passes messages on until the connection ends or falls silent. A beat
//! published once a second through the commit connection comes back here: a connection on which it does not is as
//! good as lost, even if TCP has not noticed.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{JoinHandle, coop::consume_budget},
    time::{Instant, sleep_until, timeout},
};

use super::{
    RedisConfig,
    link::Link,
    pages::Pages,
    store_error,
    subscriber::{Heard, Subscriber},
    wire::Wires,
};
use crate::{
    id::{EntryId, Lane},
    lock::lock,
    metrics::METRICS,
    pause::Pause,
    store::{Push, StoreError, Subscription, Tail},
};

const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Three beats missed.
const SILENT_AFTER: Duration = Duration::from_millis(3500);
const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
const SUBSCRIBE: &str = "SUBSCRIBE";
/// Channels in one SUBSCRIBE.
const BATCH: usize = 1000;

/// The subscriptions of this replica.
pub struct Tails {
    shared: Arc<Shared>,
    /// Unbounded, but what is given up while there is no connection is taken out, and the rest waits for an HTTP request
    /// or follows one.
    operations: mpsc::UnboundedSender<Operation>,
    timeout: Duration,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    channels: Mutex<HashMap<String, Watch>>,
    alive: AtomicBool,
}

/// A subscription's own pointer to its tail, which tells it from another one of the same tail.
type Watch = Arc<Arc<dyn Tail>>;

impl Shared {
    fn channels(&self) -> MutexGuard<'_, HashMap<String, Watch>> {
        lock(&self.channels)
    }
}

enum Operation {
    Subscribe(String, oneshot::Sender<()>),
    Unsubscribe(String),
}

impl Tails {
    /// Connects, and starts the tasks that keep it so.
    pub async fn start(
        wires: Wires,
        commits: Link,
        renewed: Arc<Notify>,
        pages: Pages,
        config: &RedisConfig,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::default());
        let (operations, receiver) = mpsc::unbounded_channel();
        let beat = format!("{}beat:{:016x}", config.prefix, fastrand::u64(..));
        let mut keeper = Keeper {
            wires,
            shared: shared.clone(),
            operations: receiver,
            beat: beat.clone(),
            timeout: config.timeout,
            commits: commits.clone(),
            renewed,
            pages,
        };
        let connection = keeper.connect().await?;
        let tasks = vec![
            tokio::spawn(keeper.run(connection)),
            tokio::spawn(beats(commits.clone(), beat)),
            tokio::spawn(super::clock::keep(commits)),
        ];
        Ok(Tails { shared, operations, timeout: config.timeout, tasks })
    }

    /// Whether pushes come. (A task ends before its store does only if it has panicked.)
    pub fn alive(&self) -> bool {
        self.shared.alive.load(Ordering::Relaxed) && !self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Returns when Redis has confirmed the subscription: what is committed from then on is pushed.
    pub async fn subscribe(&self, channel: String, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        let (done, confirmed) = oneshot::channel();
        let watch = Watch::new(tail);
        self.shared.channels().insert(channel.clone(), watch.clone());
        let ended = || StoreError::Unavailable("the subscriptions have ended".into());
        self.operations.send(Operation::Subscribe(channel.clone(), done)).map_err(|_| ended())?;
        let (shared, operations) = (self.shared.clone(), self.operations.clone());
        let subscription = Subscription::new(move || {
            let mut channels = shared.channels();
            // A later watcher of the channel may have taken the place already; then it stays subscribed.
            if channels.get(&channel).is_some_and(|current| Arc::ptr_eq(current, &watch)) {
                channels.remove(&channel);
                let _ = operations.send(Operation::Unsubscribe(channel));
            }
        });
        match timeout(self.timeout, confirmed).await {
            Ok(Ok(())) => Ok(subscription),
            Ok(Err(_)) => {
                Err(StoreError::Unavailable("the connection for pushes was lost, and is being made anew".into()))
            }
            Err(_) => Err(StoreError::Unavailable(format!("no subscription within {:?}", self.timeout))),
        }
    }
}

impl Drop for Tails {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Publishes the beat over the commit connection: if that is dead, it is found and replaced before it is needed.
async fn beats(mut commits: Link, channel: String) {
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(channel).arg("b");
    let mut every = tokio::time::interval(BEAT_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // A beat that fails is seen as silence by the keeper, who reports it.
        if timeout(BEAT_EVERY, publish.query_async::<redis::Value>(&mut commits)).await.is_err() {
            commits.no_answer();
        }
    }
}

struct Keeper {
    wires: Wires,
    shared: Arc<Shared>,
    operations: mpsc::UnboundedReceiver<Operation>,
    beat: String,
    timeout: Duration,
    commits: Link,
    /// Commits go over a new connection, to what may be another server: what it publishes need not come this way.
    renewed: Arc<Notify>,
    pages: Pages,
}

/// Why a connection is given up.
enum End {
    Lost(String),
    /// Commits go over a new connection.
    Renewed,
    /// Nobody holds the store any more.
    Over,
}

impl Keeper {
    async fn connect(&mut self) -> Result<Subscriber, StoreError> {
        // First, or it would all be done again when they come.
        self.commits.up().await.map_err(store_error)?;
        // What is renewed from here on is too new for this connection; what was before is not.
        let _ = self.renewed.notified().now_or_never();
        let connected = async {
            let mut subscriber = Subscriber::new(self.wires.connect().await?);
            self.ask(&mut subscriber, SUBSCRIBE, &[&self.beat]).await?;
            Ok(subscriber)
        };
        let late = |_| StoreError::Unavailable(format!("no subscriber connection within {:?}", self.timeout));
        let subscriber = timeout(self.timeout, connected).await.map_err(late)??;
        self.shared.alive.store(true, Ordering::Relaxed);
        METRICS.subscribed.set(1);
        Ok(subscriber)
    }

    async fn run(mut self, mut subscriber: Subscriber) {
        let mut kept = Vec::new();
        loop {
            let why = match self.serve(subscriber, std::mem::take(&mut kept)).await {
                End::Over => return,
                End::Renewed => "commits go over a new connection".into(),
                End::Lost(why) => {
                    // Whatever it was may have met it, too, and it takes a command to notice.
                    self.commits.doubt();
                    why
                }
            };
            self.shared.alive.store(false, Ordering::Relaxed);
            METRICS.subscribed.set(0);
            METRICS.subscription_losses.add(1);
            // They may lead to the same dead end, and a repair must not read from a server that is none any more.
            self.pages.renew();
            tracing::warn!(why, "lost the subscription to Redis; streams wait and catch up when it is back");
            let (lost, mut pause) = (Instant::now(), Pause::new(RECONNECT_MIN, RECONNECT_MAX));
            subscriber = loop {
                let connected = self.connect().await;
                // A new connection has nothing to unsubscribe, and who has given up waits for nothing.
                kept.extend(std::iter::from_fn(|| self.operations.try_recv().ok()));
                kept.retain(|operation| matches!(operation, Operation::Subscribe(_, done) if !done.is_closed()));
                match connected {
                    Ok(subscriber) => break subscriber,
                    Err(error) => tracing::debug!(%error, "no subscriber connection yet"),
                }
                pause.wait().await;
            };
            tracing::info!(down_ms = lost.elapsed().as_millis() as u64, "the subscription to Redis is back");
        }
    }

    /// Serves one connection until it ends. `operations` have waited for it.
    async fn serve(&mut self, mut subscriber: Subscriber, mut operations: Vec<Operation>) -> End {
        let channels: Vec<(String, Watch)> =
            self.shared.channels().iter().map(|(c, t)| (c.clone(), t.clone())).collect();
        for batch in channels.chunks(BATCH) {
            let names: Vec<&str> = batch.iter().map(|(channel, _)| channel.as_str()).collect();
            if let Err(error) = self.ask(&mut subscriber, SUBSCRIBE, &names).await {
                return End::Lost(error.to_string());
            }
            // Only now: what they read from here on is continued by pushes.
            batch.iter().for_each(|(_, tail)| tail.doubt());
        }
        // Not to hold tails that nobody watches any more for as long as this connection lasts.
        drop(channels);
        if let Err(error) = self.operate(&mut subscriber, &mut operations).await {
            return End::Lost(error.to_string());
        }
        let mut silent = pin!(sleep_until(subscriber.heard() + SILENT_AFTER));
        loop {
            tokio::select! {
                next = subscriber.next() => {
                    if let Err(error) = self.pass_on(&mut subscriber, next).await {
                        return End::Lost(error.to_string());
                    }
                }
                count = self.operations.recv_many(&mut operations, BATCH) => {
                    if count == 0 {
                        return End::Over;
                    }
                    if let Err(error) = self.operate(&mut subscriber, &mut operations).await {
                        return End::Lost(error.to_string());
                    }
                }
                () = self.renewed.notified() => return End::Renewed,
                () = &mut silent => {
                    if subscriber.heard().elapsed() >= SILENT_AFTER {
                        return End::Lost(format!("silent for {SILENT_AFTER:?}"));
                    }
                    silent.as_mut().reset(subscriber.heard() + SILENT_AFTER);
                }
            }
        }
    }

    /// Passes on what has come, and all that came with it.
    async fn pass_on(&self, subscriber: &mut Subscriber, heard: Result<Heard, StoreError>) -> Result<(), StoreError> {
        let mut next = Some(heard?);
        while let Some(heard) = next {
            self.dispatch(heard);
            // Each may be a write to a client: others must have their turn in between, however much has come.
            consume_budget().await;
            next = subscriber.come()?;
        }
        Ok(())
    }

    /// Runs operations in their order, neighbours of one kind as one command.
    async fn operate(&self, subscriber: &mut Subscriber, operations: &mut Vec<Operation>) -> Result<(), StoreError> {
        let mut operations = operations.drain(..).peekable();
        while let Some(operation) = operations.next() {
            match operation {
                Operation::Subscribe(channel, done) => {
                    let (mut channels, mut waiting) = (vec![channel], vec![done]);
                    while let Some(Operation::Subscribe(channel, done)) =
                        operations.next_if(|o| matches!(o, Operation::Subscribe(..)))
                    {
                        channels.push(channel);
                        waiting.push(done);
                    }
                    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
                    self.ask(subscriber, SUBSCRIBE, &names).await?;
                    // Whoever gave up waiting has dropped the receiver.
                    waiting.into_iter().for_each(|done| done.send(()).unwrap_or_default());
                }
                Operation::Unsubscribe(channel) => {
                    let mut channels = vec![channel];
                    while let Some(Operation::Unsubscribe(channel)) =
                        operations.next_if(|o| matches!(o, Operation::Unsubscribe(_)))
                    {
                        channels.push(channel);
                    }
                    // Watched again in the meantime? Then the subscription stays, and the operation that asks for it,
                    // further back in the queue, finds it so.
                    channels.retain(|channel| !self.shared.channels().contains_key(channel));
                    if !channels.is_empty() {
                        let names: Vec<&str> = channels.iter().map(String::as_str).collect();
                        self.ask(subscriber, "UNSUBSCRIBE", &names).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks for channels, or no longer for them, and passes on what comes until all of that is confirmed.
    async fn ask(&self, subscriber: &mut Subscriber, command: &str, channels: &[&str]) -> Result<(), StoreError> {
        let confirmed = async {
            subscriber.ask(command, channels).await?;
            let mut unconfirmed = channels.len();
            while unconfirmed > 0 {
                match subscriber.next().await? {
                    Heard::Confirmed => unconfirmed -= 1,
                    message => self.dispatch(message),
                }
            }
            Ok(())
        };
        let late = |_| StoreError::Unavailable(format!("no answer to a subscription within {:?}", self.timeout));
        timeout(self.timeout, confirmed).await.map_err(late)?
    }

    fn dispatch(&self, heard: Heard) {
        let Heard::Message { channel, payload } = heard else { return };
        let Ok(channel) = str::from_utf8(&channel) else { return };
        let tail = self.shared.channels().get(channel).cloned();
        let Some(tail) = tail else { return };
        match push(payload) {
            Some(push) => tail.push(push),
            // Something else than a gateway publishes here: look at the log instead.
            None => tail.doubt(),
        }
    }
}

/// Reads a message of `commit.lua`.
fn push(message: Bytes) -> Option<Push> {
    let kind = *message.first()?;
    let lane = if kind.eq_ignore_ascii_case(&b'e') { Lane::Events } else { Lane::Commands };
    match kind {
        b'*' => Some(Push::Control),
        b'x' => Some(Push::Closed),
        b'd' => Some(Push::Deleted),
        b'E' | b'C' => Some(Push::Doorbell { lane, last: id(&message[1..])? }),
        b'e' | b'c' => {
            let mut lines = memchr::memchr_iter(b'\n', &message);
            let mut at = lines.next()?;
            let first = id(&message[1..at])?;
            let mut payloads = Vec::new();
            for end in lines.chain([message.len()]) {
                payloads.push(message.slice(at + 1..end));
                at = end;
            }
            Some(Push::Entries { lane, first, payloads })
        }
        _ => None,
    }
}

fn id(text: &[u8]) -> Option<EntryId> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_of_the_script_are_read() {
        let first = EntryId { ms: 5, n: 7 };
        let payloads = vec![Bytes::from("{\"a\":1}"), Bytes::from("{}")];
        assert_eq!(push("e5-7\n{\"a\":1}\n{}".into()), Some(Push::Entries { lane: Lane::Events, first, payloads }));
        assert_eq!(push("C5-7".into()), Some(Push::Doorbell { lane: Lane::Commands, last: first }));
        assert_eq!(push("d".into()), Some(Push::Deleted));
        for other in ["", "e", "e5-7", "e5\n{}", "q", "E", "Ex"] {
            assert_eq!(push(other.into()), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(message: Vec<u8>, kind in "[ecECxd*]") {
            let _ = push(message.clone().into());
            let _ = push([kind.as_bytes(), &message].concat().into());
        }
    }
}
