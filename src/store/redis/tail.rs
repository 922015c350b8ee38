//! Pushes from Redis: one subscriber connection a replica, whatever happens to it.
//!
//! A task owns the connection. It connects, subscribes every channel that somebody watches, and tells those watchers
//! that pushes may have been missed; then it passes messages on until the connection ends or falls silent. A beat
//! published once a second through the commit connection comes back here: a connection on which it does not is as
//! good as lost, even if TCP has not noticed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use redis::{
    Client, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{RedisConfig, link::Link, pages::Pages, store_error};
use crate::{
    id::{EntryId, Lane},
    metrics::METRICS,
    store::{Push, StoreError, Subscription, Tail},
};

const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Three beats missed.
const SILENT_AFTER: Duration = Duration::from_millis(3500);
const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Channels in one SUBSCRIBE.
const BATCH: usize = 1000;

/// The subscriptions of this replica.
pub struct Tails {
    shared: Arc<Shared>,
    /// Unbounded, but it never holds more than one operation for each session that comes or goes, and both wait for or
    /// follow an HTTP request.
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
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Operation {
    Subscribe(String, oneshot::Sender<()>),
    Unsubscribe(String),
}

impl Tails {
    /// Connects, and starts the tasks that keep it so.
    pub async fn start(
        client: Client,
        commits: Link,
        renewed: Arc<Notify>,
        pages: Pages,
        config: &RedisConfig,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::default());
        let (operations, receiver) = mpsc::unbounded_channel();
        let beat = format!("{}beat:{:016x}", config.prefix, fastrand::u64(..));
        let mut keeper = Keeper {
            client,
            shared: shared.clone(),
            operations: receiver,
            beat: beat.clone(),
            timeout: config.timeout,
            commits: commits.clone(),
            renewed,
            pages,
        };
        let connection = keeper.connect().await.map_err(store_error)?;
        let tasks = vec![
            tokio::spawn(keeper.run(connection)),
            tokio::spawn(beats(commits.clone(), beat)),
            tokio::spawn(super::clock::keep(commits)),
        ];
        Ok(Tails { shared, operations, timeout: config.timeout, tasks })
    }

    pub fn alive(&self) -> bool {
        self.shared.alive.load(Ordering::Relaxed)
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
            Ok(Err(_)) => Err(ended()),
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
    client: Client,
    shared: Arc<Shared>,
    operations: mpsc::UnboundedReceiver<Operation>,
    beat: String,
    timeout: Duration,
    commits: Link,
    /// Commits go over a new connection, to what may be another server: what it publishes need not come this way.
    renewed: Arc<Notify>,
    pages: Pages,
}

type Connection = (PubSubSink, PubSubStream);

/// Why a connection is given up.
enum End {
    Lost(String),
    /// Commits go over a new connection.
    Renewed,
    /// Nobody holds the store any more.
    Over,
}

impl Keeper {
    async fn connect(&mut self) -> RedisResult<Connection> {
        // First, or it would all be done again when they come.
        self.commits.up().await?;
        // What is renewed from here on is too new for this connection; what was before is not.
        let _ = self.renewed.notified().now_or_never();
        let late = |_| redis::RedisError::from((redis::ErrorKind::Io, "no subscriber connection in time"));
        let connection = timeout(self.timeout, self.client.get_async_pubsub()).await.map_err(late)??;
        let (mut sink, stream) = connection.split();
        timeout(self.timeout, sink.subscribe(&self.beat)).await.map_err(late)??;
        self.shared.alive.store(true, Ordering::Relaxed);
        METRICS.subscribed.set(1);
        Ok((sink, stream))
    }

    async fn run(mut self, mut connection: Connection) {
        loop {
            let why = match self.serve(connection).await {
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
            let (lost, mut pause) = (Instant::now(), RECONNECT_MIN);
            connection = loop {
                match self.connect().await {
                    Ok(connection) => break connection,
                    Err(error) => tracing::debug!(%error, "no subscriber connection yet"),
                }
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                pause = (pause * 2).min(RECONNECT_MAX);
            };
            tracing::info!(down_ms = lost.elapsed().as_millis() as u64, "the subscription to Redis is back");
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, (mut sink, mut stream): Connection) -> End {
        let channels: Vec<(String, Watch)> =
            self.shared.channels().iter().map(|(c, t)| (c.clone(), t.clone())).collect();
        for batch in channels.chunks(BATCH) {
            let names: Vec<&str> = batch.iter().map(|(channel, _)| channel.as_str()).collect();
            if let Err(end) = self.subscribe(&mut sink, &names).await {
                return end;
            }
            // Only now: what they read from here on is continued by pushes.
            batch.iter().for_each(|(_, tail)| tail.doubt());
        }
        // Not to hold tails that nobody watches any more for as long as this connection lasts.
        drop(channels);
        let mut operations = Vec::new();
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => {
                        heard = Instant::now();
                        self.dispatch(&message);
                    }
                    None => return End::Lost("the connection ended".into()),
                },
                count = self.operations.recv_many(&mut operations, BATCH) => {
                    if count == 0 {
                        return End::Over;
                    }
                    if let Err(end) = self.operate(&mut sink, &mut operations).await {
                        return end;
                    }
                }
                () = self.renewed.notified() => return End::Renewed,
                () = tokio::time::sleep_until(heard + SILENT_AFTER) => {
                    return End::Lost(format!("silent for {SILENT_AFTER:?}"));
                }
            }
        }
    }

    /// Runs operations in their order, neighbours of one kind as one command.
    async fn operate(&self, sink: &mut PubSubSink, operations: &mut Vec<Operation>) -> Result<(), End> {
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
                    self.subscribe(sink, &channels).await?;
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
                        self.answered(sink.unsubscribe(&channels)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn subscribe<C: AsRef<str>>(&self, sink: &mut PubSubSink, channels: &[C]) -> Result<(), End> {
        let channels: Vec<&str> = channels.iter().map(AsRef::as_ref).collect();
        self.answered(sink.subscribe(&channels)).await
    }

    async fn answered(&self, request: impl Future<Output = RedisResult<()>>) -> Result<(), End> {
        match timeout(self.timeout, request).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Lost(error.to_string())),
            Err(_) => Err(End::Lost(format!("no answer to a subscription within {:?}", self.timeout))),
        }
    }

    fn dispatch(&self, message: &redis::Msg) {
        let tail = self.shared.channels().get(message.get_channel_name()).cloned();
        let Some(tail) = tail else { return };
        match push(Bytes::copy_from_slice(message.get_payload_bytes())) {
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
