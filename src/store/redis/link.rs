//! A connection that many commands are under way on at once, replaced as soon as it is of no use any more.
//!
//! It is of no use when it is lost; when it is *silent* (after a partition nothing says that the peer is gone, and TCP
//! alone would wait for a quarter of an hour); and when it leads to a server that *takes no writes* (after a failover the
//! old master is a replica, its connections stand, and only the name leads to the new one). The connection manager of
//! redis-rs knows the first case alone.
//!
//! Commands that find no connection wait for the next attempt to make one, and share its error if it fails. What was under
//! way on a connection that is replaced fails; whether it was done is unknown.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{lock::lock, pause::Pause, store::StoreError};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Commands or beats without an answer, with none answered in between, after which a connection counts as silent.
const UNANSWERED_MAX: u32 = 3;
/// A server that takes no writes is asked for by its name again after so long, and not at every write that it refuses.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A shared connection. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    stand: watch::Sender<Stand>,
    unanswered: AtomicU32,
    /// When the connection was made.
    since: Mutex<Instant>,
    /// Told whenever there is another one.
    renewed: Arc<Notify>,
    db: i64,
}

#[derive(Clone)]
enum Stand {
    /// An attempt is under way, or about to be.
    Connecting,
    Up(Line),
    /// The last attempt failed; the next follows after a pause.
    Failed(RedisError),
}

/// One connection, as long as it lasts.
#[derive(Clone)]
struct Line {
    connection: MultiplexedConnection,
    confirmations: Arc<Confirmations>,
}

/// Who waits for replicas, on one connection. WAIT stops a connection until it is answered, so one is under way at a
/// time, for all who have come before it was sent.
#[derive(Default)]
struct Confirmations {
    /// How many have come.
    come: AtomicU64,
    /// How many of them the last WAIT has spoken for, and what it said.
    last: tokio::sync::Mutex<(u64, u32)>,
}

impl Line {
    fn new(connection: MultiplexedConnection) -> Self {
        Line { connection, confirmations: Arc::default() }
    }

    fn is(&self, other: &Line) -> bool {
        Arc::ptr_eq(&self.confirmations, &other.confirmations)
    }

    /// How many replicas have what was written up to now.
    async fn confirm(&mut self, replicas: u32, patience: Duration) -> RedisResult<u32> {
        let Line { connection, confirmations } = self;
        let place = confirmations.come.fetch_add(1, Relaxed);
        let mut last = confirmations.last.lock().await;
        if last.0 <= place {
            let come = confirmations.come.load(Relaxed);
            let mut wait = redis::cmd("WAIT");
            wait.arg(replicas).arg(patience.as_millis() as u64);
            *last = (come, wait.query_async(connection).await?);
        }
        Ok(last.1)
    }
}

impl Link {
    /// Connects. Fails if that does not work now; what is lost later is made anew, and `renewed` is told.
    pub async fn start(
        client: Client,
        config: AsyncConnectionConfig,
        patience: Duration,
        renewed: Arc<Notify>,
    ) -> RedisResult<Self> {
        let connection = attempt(&client, &config, patience).await?;
        let shared = Arc::new(Shared {
            stand: watch::Sender::new(Stand::Up(Line::new(connection))),
            unanswered: AtomicU32::new(0),
            since: Mutex::new(Instant::now()),
            renewed,
            db: client.get_connection_info().redis_settings().db(),
        });
        tokio::spawn(keep(Arc::downgrade(&shared), shared.stand.subscribe(), client, config, patience));
        Ok(Link(shared))
    }

    /// A command got no answer in time, as whoever waited for it saw: what a connection counts itself it has not heard of.
    pub fn late(&self, timeout: Duration) -> StoreError {
        self.no_answer();
        super::late(timeout)
    }

    /// Something was sent over it, and no answer came.
    pub fn no_answer(&self) {
        if self.0.unanswered.fetch_add(1, Relaxed) + 1 >= UNANSWERED_MAX {
            self.replace("it is silent", None);
        }
    }

    /// The server takes no writes.
    pub fn takes_no_writes(&self) {
        let since = *lock(&self.0.since);
        if since.elapsed() > LOOK_AGAIN {
            self.replace("the server takes no writes", None);
        }
    }

    /// Something is wrong with Redis or the way to it.
    pub fn doubt(&self) {
        self.renew(None);
    }

    /// Returns when it is connected, or could not be.
    pub async fn up(&self) -> RedisResult<()> {
        self.line().await.map(drop)
    }

    fn replace(&self, why: &str, line: Option<&Line>) {
        if self.renew(line) {
            tracing::warn!(why, "a connection to Redis is replaced");
        }
    }

    /// Has this connection made anew, or whichever there is. What is late on one that was replaced must not end the next.
    fn renew(&self, line: Option<&Line>) -> bool {
        self.0.stand.send_if_modified(|stand| {
            let meant = matches!(stand, Stand::Up(now) if line.is_none_or(|line| now.is(line)));
            if meant {
                self.0.unanswered.store(0, Relaxed);
                *stand = Stand::Connecting;
            }
            meant
        })
    }

    /// Runs a command and, if it wrote, sees how many replicas have what it wrote (and all that was written before: WAIT speaks of
    /// everything up to the last command of its connection). On one connection, or the answer might come from another
    /// server than the one that wrote.
    pub async fn confirmed(
        &self,
        cmd: &Cmd,
        wrote: fn(&Value) -> bool,
        replicas: u32,
        patience: Duration,
    ) -> RedisResult<(Value, u32)> {
        let mut line = self.line().await?;
        let result = async {
            let value = cmd.query_async(&mut line.connection).await?;
            let confirmed = if wrote(&value) { line.confirm(replicas, patience).await? } else { replicas };
            Ok((value, confirmed))
        };
        let result = result.await;
        self.heed(&line, &result);
        result
    }

    async fn line(&self) -> RedisResult<Line> {
        if let Stand::Up(line) = &*self.0.stand.borrow() {
            return Ok(line.clone());
        }
        let mut stand = self.0.stand.subscribe();
        // It may have come up in between, and would not change again.
        if let Stand::Up(line) = &*stand.borrow() {
            return Ok(line.clone());
        }
        loop {
            // Not the failure of before we came: that of the next attempt.
            stand.changed().await.map_err(|_| RedisError::from((ErrorKind::Io, "the connection has ended")))?;
            match &*stand.borrow_and_update() {
                Stand::Up(line) => return Ok(line.clone()),
                Stand::Failed(error) => return Err(error.clone()),
                Stand::Connecting => {}
            }
        }
    }

    fn heed<T>(&self, line: &Line, result: &RedisResult<T>) {
        let is_up = || matches!(&*self.0.stand.borrow(), Stand::Up(now) if now.is(line));
        match result {
            Err(error) if error.is_timeout() && !is_up() => {}
            Err(error) if error.is_timeout() => self.no_answer(),
            Err(error) if error.is_unrecoverable_error() => self.replace("it is lost", Some(line)),
            // Any other error is an answer, too.
            _ if self.0.unanswered.load(Relaxed) > 0 => self.0.unanswered.store(0, Relaxed),
            _ => {}
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut line = self.line().await?;
            let result = line.connection.send_packed_command(cmd).await;
            self.heed(&line, &result);
            result
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut line = self.line().await?;
            let result = line.connection.send_packed_commands(pipeline, offset, count).await;
            self.heed(&line, &result);
            result
        })
    }

    fn get_db(&self) -> i64 {
        self.0.db
    }
}

async fn attempt(
    client: &Client,
    config: &AsyncConnectionConfig,
    patience: Duration,
) -> RedisResult<MultiplexedConnection> {
    let late = |_| RedisError::from((ErrorKind::Io, "no connection in time"));
    let connected = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        // Without a password that it now wants, Redis would drop the connection at the first long command.
        redis::cmd("PING").query_async::<Value>(&mut connection).await?;
        Ok(connection)
    };
    timeout(patience, connected).await.map_err(late)?
}

/// Makes a new connection whenever one is wanted, until nobody holds the link any more.
async fn keep(
    link: Weak<Shared>,
    mut wanted: watch::Receiver<Stand>,
    client: Client,
    config: AsyncConnectionConfig,
    patience: Duration,
) {
    let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        if wanted.wait_for(|stand| !matches!(stand, Stand::Up(_))).await.is_err() {
            return;
        }
        let attempt = attempt(&client, &config, patience).await;
        let Some(link) = link.upgrade() else { return };
        match attempt {
            Ok(connection) => {
                pause.begin_anew();
                *lock(&link.since) = Instant::now();
                // What had no connection to be answered on says nothing of this one.
                link.unanswered.store(0, Relaxed);
                link.stand.send_replace(Stand::Up(Line::new(connection)));
                link.renewed.notify_one();
            }
            Err(error) => {
                tracing::debug!(%error, "no connection to Redis yet");
                link.stand.send_replace(Stand::Failed(error));
                drop(link);
                pause.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Says PONG to whatever it is asked.
    async fn pong(listener: TcpListener) {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                    let commands = bytes[..count].iter().filter(|byte| **byte == b'*').count();
                    let _ = socket.write_all(&b"+PONG\r\n".repeat(commands)).await;
                }
            });
        }
    }

    #[tokio::test]
    async fn what_is_late_on_a_connection_that_was_replaced_does_not_end_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::open(format!("redis://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(pong(listener));
        let (config, renewed) = (AsyncConnectionConfig::new(), Arc::<Notify>::default());
        let link = Link::start(client, config, Duration::from_secs(20), renewed.clone()).await.unwrap();
        let lost = || RedisResult::<()>::Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
        let old = link.line().await.unwrap();
        link.heed(&old, &lost());
        renewed.notified().await;
        let new = link.line().await.unwrap();
        assert!(!new.is(&old));
        let late = || RedisResult::<()>::Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        link.heed(&old, &lost());
        (0..UNANSWERED_MAX).for_each(|_| link.heed(&old, &late()));
        assert!(matches!(&*link.0.stand.borrow(), Stand::Up(line) if line.is(&new)));
        // Its own failures do.
        (0..UNANSWERED_MAX).for_each(|_| link.heed(&new, &late()));
        assert!(matches!(&*link.0.stand.borrow(), Stand::Connecting));
    }
}
