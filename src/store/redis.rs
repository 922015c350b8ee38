//! The Redis store: a script for every write, pooled connections for pages, one subscription connection a replica.
//!
//! | what | over which connection | why |
//! |---|---|---|
//! | commits | one, shared, pipelined | its calls take many commits (`append.rs`), and a session's writes keep their order |
//! | pages, stats | a pool of their own (`pages.rs`) | a long page must not delay a token |
//! | pushes | one of its own | a connection in subscriber mode takes no other commands |
//!
//! Keys, all on one cluster slot: `<prefix>{<session>}:meta`, `:events`, `:commands`, and the channel `:tail`.

mod append;
mod clock;
mod commit;
mod link;
mod pages;
mod reply;
mod script;
pub mod start;
mod subscriber;
mod tail;
mod tls;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError, Value};

use link::Link;
use pages::Pages;
use tokio::sync::Notify;
use wire::Wires;

pub use script::Durability;
pub use tls::{BadTls, Tls};

use super::{
    Commit, Outcome, Page, Part, ProducerState, ReadFrom, Retention, Stat, Store, StoreError, Subscription, Tail,
};
use crate::{
    id::{Lane, Name},
    metrics::{Asked, METRICS},
};

/// How to reach Redis, and how to use it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://`, `rediss://` or `unix://`, with user, password and database number.
    pub url: String,
    /// Files for `rediss://`.
    pub tls: Tls,
    /// What every key begins with.
    pub prefix: String,
    /// How long sessions are kept.
    pub retention: Retention,
    /// How long to wait for an answer before a request is refused.
    pub timeout: Duration,
    /// When a write counts as done.
    pub durability: Durability,
    /// Connections for pages.
    pub page_connections: usize,
    /// The largest push in bytes; larger commits ring a doorbell and are read.
    pub push_max: usize,
}

impl RedisConfig {
    /// The defaults, for this URL.
    pub fn new(url: impl Into<String>) -> Self {
        RedisConfig {
            url: url.into(),
            tls: Tls::default(),
            prefix: "moorline:".into(),
            retention: Retention::default(),
            timeout: Duration::from_secs(2),
            durability: Durability::default(),
            page_connections: 16,
            push_max: 64 * 1024,
        }
    }
}

/// Whether this leads to a Redis, by its form.
pub fn is_url(url: &str) -> bool {
    url.into_connection_info().is_ok()
}

/// Whether the files for TLS can be used, and there is a Redis to use them for.
pub fn check_tls(tls: &Tls, url: Option<&str>) -> Result<(), BadTls> {
    let info = url.and_then(|url| url.into_connection_info().ok());
    tls.check(info.is_some_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. })))
}

/// Sessions in Redis.
pub struct RedisStore {
    keys: Keys,
    config: RedisConfig,
    appender: append::Appender,
    commit: script::Script,
    erase: script::Script,
    /// The connection for commits, which the appender shares.
    commits: Link,
    pages: Pages,
    tails: tail::Tails,
}

/// The answer of `delete.lua` that asks to be asked again.
const NOT_NOW: Value = Value::Int(-1);

/// The names of a session's keys.
#[derive(Debug, Clone)]
struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    fn lane(&self, session: &Name, lane: Lane) -> String {
        self.of(session, lane.as_str())
    }

    fn meta(&self, session: &Name) -> String {
        self.of(session, "meta")
    }

    fn channel(&self, session: &Name) -> String {
        self.of(session, "tail")
    }

    /// Made of one piece of memory; `format!` would let it grow in four.
    fn of(&self, session: &Name, what: &str) -> String {
        [&*self.prefix, "{", session.as_str(), "}:", what].concat()
    }
}

impl RedisStore {
    /// Connects. Fails if Redis is not there now or does not let us in; later losses are repaired in the background.
    pub async fn connect(config: RedisConfig) -> Result<Self, StoreError> {
        let fault = |e: RedisError| StoreError::Fault(e.to_string());
        crate::tls::provide();
        let info = config.url.as_str().into_connection_info().map_err(fault)?;
        // Off by default in redis-rs 1.x: Nagle's algorithm would hold small commits back.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let client = match config.tls.read().map_err(|bad| StoreError::Fault(bad.to_string()))? {
            Some(certificates) => Client::build_with_tls(info, certificates).map_err(fault)?,
            None => Client::open(info).map_err(fault)?,
        };
        let info = client.get_connection_info().clone();

        let link = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.timeout))
            .set_response_timeout(Some(config.timeout));
        let renewed = Arc::new(Notify::new());
        let commits = Link::start(client, link, config.timeout, renewed.clone()).await.map_err(store_error)?;

        let appender = append::Appender::start(commits.clone(), &config);
        let keys = Keys { prefix: config.prefix.as_str().into() };
        let wires = Wires::new(info, &config.tls, config.timeout)?;
        let pages = Pages::new(keys.clone(), wires.clone(), &config)?;
        let tails = tail::Tails::start(wires, commits.clone(), renewed, pages.clone(), &config).await?;
        Ok(RedisStore {
            keys,
            appender,
            commit: commit::script(&config),
            erase: script::Script::new(include_str!("redis/delete.lua").to_owned(), config.durability, config.timeout),
            commits,
            pages,
            tails,
            config,
        })
    }

    /// Does once what it will have to do, or an operator's mistake would show at the first event: in a session beside those of clients,
    /// which is gone again afterwards.
    pub async fn try_out(&self) -> Result<(), StoreError> {
        let mut connection = self.commits.clone();
        let mut two = redis::cmd("EXISTS");
        two.arg(&[self.config.prefix.clone() + "{a}", self.config.prefix.clone() + "{b}"]);
        match two.query_async::<Value>(&mut connection).await {
            Err(error) if refused(&error, &["CROSSSLOT"]) => {
                let why = "this is a Redis Cluster; Moorline takes a single Redis, with replicas and Sentinel if you like, since \
                           one call carries events of many sessions";
                return Err(StoreError::Fault(why.into()));
            }
            answer => answer.map_err(store_error)?,
        };
        let keys = Keys { prefix: format!("{}try-out:", self.config.prefix).into() };
        let session = "s".parse::<Name>().map_err(|e| StoreError::Fault(e.to_string()))?;
        let commit = |expect: Option<&str>| Commit {
            expect: expect.map(Into::into),
            version: Some("1".into()),
            parts: vec![Part { events: vec![Bytes::from_static(b"{}")], ..Part::default() }],
            ..Commit::default()
        };
        // It may be there still, from a start that failed.
        self.erase(&keys, &session).await?;
        self.write(&keys, &session, &commit(None)).await?;
        self.write(&keys, &session, &commit(Some("1"))).await?;
        let pages = self.pages.of(keys.clone());
        pages.stat(&session).await?;
        pages.producer(&session, &session).await?;
        for from in [ReadFrom::Start, ReadFrom::Latest] {
            pages.read(&session, Lane::Events, from, 1).await?;
        }
        self.erase(&keys, &session).await.map(drop)
    }

    async fn write(&self, keys: &Keys, session: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        if let Some(outcome) = self.appender.commit(keys, session, commit).await? {
            return Ok(outcome);
        }
        let arguments = commit::Arguments { keys, session, config: &self.config, commit };
        let mut connection = self.commits.clone();
        let committed = commit::run(&self.commit, &mut connection, &arguments);
        // The connection's own timeout does not cover a reconnect that it waits for. Boxed, so that commits that never come
        // here don't make room for it.
        let timeout = self.config.timeout;
        Box::pin(tokio::time::timeout(timeout, committed)).await.unwrap_or_else(|_| Err(self.commits.late(timeout)))
    }

    async fn erase(&self, keys: &Keys, session: &Name) -> Result<bool, StoreError> {
        // A write, so over a connection that is replaced where a server takes none.
        let mut connection = self.commits.clone();
        let arguments = |cmd: &mut Cmd| {
            cmd.arg(3).arg(keys.meta(session));
            for lane in Lane::ALL {
                cmd.arg(keys.lane(session, lane));
            }
            cmd.arg(keys.channel(session));
        };
        // Also where there was nothing to erase: an earlier attempt may have done it, and not be replicated yet.
        let told = |reply: &Value| *reply != NOT_NOW;
        let erased = async {
            loop {
                let reply = self.erase.run(&mut connection, arguments, told).await.map_err(store_error);
                self.heed(&reply);
                match reply? {
                    script::Reply { value: NOT_NOW, .. } => tokio::time::sleep(Duration::from_millis(1)).await,
                    script::Reply { unconfirmed: Some(unconfirmed), .. } => return Err(unconfirmed),
                    script::Reply { value: Value::Int(erased), .. } => return Ok(erased == 1),
                    script::Reply { value, .. } => return Err(unreadable("a deletion's answer", &value)),
                }
            }
        };
        let timeout = self.config.timeout;
        tokio::time::timeout(timeout, erased).await.unwrap_or_else(|_| Err(self.commits.late(timeout)))
    }

    /// Sees from the outcome of a write whether the server takes any.
    fn heed<T>(&self, outcome: &Result<T, StoreError>) {
        if matches!(outcome, Err(StoreError::Unavailable(why)) if why.contains("READONLY")) {
            self.commits.takes_no_writes();
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn commit(&self, session: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        commit.check()?;
        let since = std::time::Instant::now();
        let outcome = self.write(&self.keys, session, commit).await;
        METRICS.asked(Asked::Commit, since, &outcome);
        self.heed(&outcome);
        outcome
    }

    async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        self.pages.read(session, lane, from, limit).await
    }

    async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError> {
        self.pages.stat(session).await
    }

    async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        self.pages.producer(session, producer).await
    }

    async fn delete(&self, session: &Name) -> Result<bool, StoreError> {
        self.erase(&self.keys, session).await
    }

    async fn subscribe(&self, session: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        self.tails.subscribe(self.keys.channel(session), tail).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        let mut connection = self.commits.clone();
        let ping = redis::cmd("PING");
        tokio::time::timeout(self.config.timeout, ping.query_async::<Value>(&mut connection))
            .await
            .map_err(|_| StoreError::Unavailable(format!("no answer to a ping within {:?}", self.config.timeout)))?
            .map_err(store_error)?;
        if !self.appender.alive() {
            return Err(StoreError::Fault("the task that appends has ended; restart this replica".into()));
        }
        if !self.tails.alive() {
            return Err(StoreError::Unavailable("the subscription to Redis is down".into()));
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        "redis"
    }
}

/// Whether Redis refused a command with one of these codes. Of a pipeline or an aborted transaction, any of its commands.
fn refused(error: &RedisError, codes: &[&str]) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| codes.contains(&error.code())))
}

fn late(timeout: Duration) -> StoreError {
    StoreError::Unavailable(format!("no answer within {timeout:?}"))
}

/// Codes of errors that pass.
const PASSING: [&str; 9] =
    ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"];

/// Codes of errors that say that we may not.
const DENYING: [&str; 3] = ["NOAUTH", "NOPERM", "WRONGPASS"];

/// What passes is `Unavailable`; what an operator has to mend is `Denied` or a `Fault`.
fn store_error(error: RedisError) -> StoreError {
    // In Redis's own words; redis-rs has others for some codes.
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    if matches!(error.kind(), ErrorKind::Io | ErrorKind::ClusterConnectionNotFound) || refused(&error, &PASSING) {
        StoreError::Unavailable(text)
    } else if error.kind() == ErrorKind::AuthenticationFailed || refused(&error, &DENYING) {
        StoreError::Denied(text)
    } else {
        without_code(text)
    }
}

/// The same for an error as a text, which begins with its code; that of a transaction that was discarded is in the middle.
fn script_error(error: &str) -> StoreError {
    let why = error.split_once("discarded because of: ").map_or(error, |(_, why)| why);
    let code = why.split(' ').next().unwrap_or_default().trim_start_matches('-');
    let text = error.to_owned();
    match code {
        _ if PASSING.contains(&code) => StoreError::Unavailable(text),
        _ if DENYING.contains(&code) => StoreError::Denied(text),
        _ => without_code(text),
    }
}

/// Redis 7 has no code of its own for some errors.
fn without_code(text: String) -> StoreError {
    if text.contains("The user executing the script can't") {
        StoreError::Denied(text)
    } else if text.contains("max number of clients reached") {
        StoreError::Unavailable(text)
    } else {
        StoreError::Fault(text)
    }
}

fn unreadable(what: &str, reply: &dyn std::fmt::Debug) -> StoreError {
    StoreError::Fault(format!("{what} reads {reply:?}").chars().take(200).collect())
}

fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        // Errors inside of a transaction come as values.
        Value::ServerError(error) => Err(StoreError::Fault(error.to_string())),
        other => Err(unreadable("an array", &other)),
    }
}

fn bulk(value: Value) -> Result<Bytes, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        other => Err(unreadable("a string", &other)),
    }
}

fn text(value: Value) -> Result<String, StoreError> {
    String::from_utf8(bulk(value)?.into()).map_err(|e| unreadable("a text", &e))
}

fn pairs(value: Value) -> Result<Vec<(String, Bytes)>, StoreError> {
    let mut values = match value {
        Value::Map(pairs) => return pairs.into_iter().map(|(k, v)| Ok((text(k)?, bulk(v)?))).collect(),
        other => array(other)?.into_iter(),
    };
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        pairs.push((text(key)?, bulk(value)?));
    }
    Ok(pairs)
}
