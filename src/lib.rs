//! Moorline: durable sessions for AI agents, on the Redis that a team already runs. Runs on Unix.
//!
//! ```text
//! agent ──POST events──▶ http ─▶ ingest ─▶ writer ─▶ rules ─▶ store.commit ──▶ the log
//!                                                                                │ push
//! client ◀──SSE── sse ◀── hub: one ring a live session ◀─────────────────────────┘
//!                          └─ history and repairs: store.read
//! ```
//!
//! | module | what it is about |
//! |---|---|
//! | [`id`], [`event`], [`trace`] | names, entry ids, events, places in a trace: the text that crosses the border, parsed once |
//! | [`rules`] | what may happen in a session; pure |
//! | [`store`] | where sessions live: the contract, Redis, memory |
//! | [`auth`] | who may do what: tokens and what they grant |
//! | [`writer`] | one commit at a time for each session and replica |
//! | [`ingest`] | request bodies into appends |
//! | [`hub`] | live sessions: one subscription, one ring, followers that resume |
//! | [`sse`] | what streams look like |
//! | [`http`] | routes, problems, the server |
//! | [`metrics`] | what was done so far, in numbers |
//! | [`otlp`] | what became of each request, for a collector of traces |
//! | [`client`] | the client that reconnects by itself |
//! | [`bench`](mod@bench) | the load tool |
//! | [`audit`] | whether a streaming endpoint is in the single-connection trap |
//! | [`cli`] | the `moorline` program |
//! | `desk` | what the demo's agents reckon; pure |
//! | `descriptors` | how many sockets there may be |
//! | `lock` | locks that a panic does not spoil |
//! | `pause` | how long to wait before what failed is tried again |
//! | `tls` | what TLS is made with |
//! | `proc` | what the operating system knows of a process |
//! | [`quota`] | how much one token may do |
//! | [`config`] | everything that can be set |

pub mod audit;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
mod descriptors;
mod desk;
pub mod event;
pub mod http;
pub mod hub;
pub mod id;
pub mod ingest;
mod lock;
pub mod metrics;
pub mod otlp;
mod pause;
mod proc;
pub mod quota;
pub mod rules;
pub mod sse;
pub mod store;
mod tls;
pub mod trace;
pub mod writer;

use std::{io, sync::Arc};

use config::Config;
use http::{Server, Shared};
use store::{
    Store, StoreError,
    memory::MemoryStore,
    redis::{BadTls, RedisConfig, start},
};
use tokio::net::{TcpListener, TcpSocket};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address can't be listened on.
    #[error("can't listen on {addr}: {cause}")]
    Listen {
        /// The address asked for.
        addr: std::net::SocketAddr,
        /// What the operating system says.
        cause: io::Error,
    },
    /// The keys that tokens are checked with can't be used.
    #[error(transparent)]
    Auth(#[from] auth::KeyError),
    /// The origins of pages can't be allowed.
    #[error(transparent)]
    Cors(#[from] http::BadCors),
    /// The URL of Redis is none. It may hold a password, so it is not repeated.
    #[error(
        "--redis-url can't be understood: it takes the form redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for \
         TLS, or unix:///PATH; what is special in a password has to be %-encoded"
    )]
    RedisUrl,
    /// The files for TLS with Redis can't be used.
    #[error(transparent)]
    RedisTls(#[from] BadTls),
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StartError {
    /// Something was asked for that no gateway can do, here or elsewhere.
    pub fn is_usage(&self) -> bool {
        matches!(self, StartError::Cors(_) | StartError::RedisUrl | StartError::RedisTls(BadTls::NoTls(_)))
    }
}

/// Starts a gateway: connects to its store, then listens.
pub async fn serve(config: &Config) -> Result<Server, StartError> {
    let auth = config.auth.clone().map(auth::Verifier::open).transpose()?;
    let cors = config.cors.as_ref().map(http::cors).transpose()?;
    if config.redis_url.as_ref().is_some_and(|url| !store::redis::is_url(url)) {
        return Err(StartError::RedisUrl);
    }
    store::redis::check_tls(&config.redis_tls, config.redis_url.as_deref())?;
    let store: Arc<dyn Store> = match &config.redis_url {
        Some(url) => {
            let redis = RedisConfig {
                tls: config.redis_tls.clone(),
                prefix: config.redis_prefix.clone(),
                retention: config.retention,
                timeout: config.redis_timeout,
                durability: config.durability,
                ..RedisConfig::new(url.clone())
            };
            Arc::new(start::connect(redis, config.redis_wait).await?)
        }
        None => Arc::new(MemoryStore::new(config.retention)),
    };
    let listen = |addr| bind(addr).map_err(|cause| StartError::Listen { addr, cause });
    let listener = listen(config.listen)?;
    let metrics = config.metrics_listen.map(listen).transpose()?;
    let writers = writer::Writers::new(store.clone(), config.control);
    let hub = hub::Hub::new(store.clone(), writers.clone());
    let gateway = Arc::new(Shared {
        store,
        writers,
        hub,
        auth,
        cors,
        local: config.local_only.then(|| http::Local::new(config.cors.as_ref())),
        console: config.console,
        quota: quota::Quota::new(config.quotas),
        limits: config.limits,
        ending: http::Ending::default(),
    });
    Server::start(listener, metrics, gateway, config).map_err(|cause| StartError::Listen { addr: config.listen, cause })
}

/// Connections that may wait to be accepted; the system may allow less (`net.core.somaxconn`). When a replica dies its
/// clients come to the others within a second, and a connection that finds no room waits a second before it tries again,
/// then three, then seven.
const BACKLOG: u32 = 65_535;

/// What the system may hold of a body that the gateway has not read yet; else it is tens of megabytes a connection, and a
/// sender that is faster than Redis learns of it half a minute later. Enough for 2 MB/s over 100 ms of network.
const RECEIVE_BUFFER: u32 = 256 * 1024;

fn bind(addr: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections take it over.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    // A replica that comes back finds its address still in use by connections of before.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_take_the_receive_buffer_of_their_listener() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let size = |socket: socket2::SockRef<'_>| socket.recv_buffer_size().unwrap();
        // Systems round, double and cap the number.
        let asked = TcpSocket::new_v4().unwrap();
        asked.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        assert_eq!(size(socket2::SockRef::from(&accepted)), asked.recv_buffer_size().unwrap() as usize);
    }
}
