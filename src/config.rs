//! Everything that can be set, its defaults, and the limits. The command line names the same defaults, and a test holds it to them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    rules,
    store::{Durability, Retention, Tls},
};

/// The port that Moorline listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4770;

/// What a gateway is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/metrics` is served, alone and nowhere else; `None`: beside all the rest.
    pub metrics_listen: Option<SocketAddr>,
    /// The Redis to use; `None`: the embedded store.
    pub redis_url: Option<String>,
    /// Files for `rediss://`.
    pub redis_tls: Tls,
    /// What every Redis key begins with.
    pub redis_prefix: String,
    /// How long Redis may take to answer before a request is refused.
    pub redis_timeout: Duration,
    /// When a write counts as done.
    pub durability: Durability,
    /// How long Redis may be away before streams are cut, for their clients to go on elsewhere.
    pub redis_patience: Duration,
    /// How long to wait for Redis at the start.
    pub redis_wait: Duration,
    /// How long sessions are kept.
    pub retention: Retention,
    /// Which tokens are accepted; `None`: everybody may do everything.
    pub auth: Option<Auth>,
    /// Which pages of other origins may use the gateway; `None`: none.
    pub cors: Option<Cors>,
    /// Whether only this machine is answered: no request for another host than `localhost` and its like, and none by a
    /// page of another origin that is not allowed. For gateways that listen on loopback and ask for no token.
    pub local_only: bool,
    /// Whether there is a page at `/console` to watch and steer sessions.
    pub console: bool,
    /// How much one token may do, and how many streams there may be.
    pub quotas: Quotas,
    /// Bounds of requests and connections.
    pub limits: Limits,
    /// Bounds of a session's control state.
    pub control: rules::Limits,
    /// How the gateway goes down.
    pub drain: Drain,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            metrics_listen: None,
            redis_url: None,
            redis_tls: Tls::default(),
            redis_prefix: "moorline:".into(),
            redis_timeout: Duration::from_secs(2),
            durability: Durability::default(),
            redis_patience: Duration::from_secs(30),
            redis_wait: Duration::from_secs(30),
            retention: Retention::default(),
            auth: None,
            cors: None,
            local_only: false,
            console: false,
            quotas: Quotas::default(),
            limits: Limits::default(),
            control: rules::Limits::default(),
            drain: Drain::default(),
        }
    }
}

/// Which tokens are accepted: those that a key of these files has signed. At least one is named.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Holds the secret of HS256.
    pub secret_file: Option<PathBuf>,
    /// Each holds a public key in PEM, for RS256, ES256 or EdDSA.
    pub public_key_files: Vec<PathBuf>,
    /// Holds a set of public keys (JWKS).
    pub jwks_file: Option<PathBuf>,
    /// Tokens must be for this audience. `None`: for none.
    pub audience: Option<String>,
    /// Tokens must be from this issuer. `None`: from any.
    pub issuer: Option<String>,
    /// How far the clocks of issuers and replicas may differ.
    pub leeway: Duration,
}

impl Auth {
    /// Without a key: [`Auth::files`] is empty.
    pub const NONE: Auth = Auth {
        secret_file: None,
        public_key_files: Vec::new(),
        jwks_file: None,
        audience: None,
        issuer: None,
        leeway: Duration::from_secs(30),
    };

    /// All the files with keys.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let public = self.public_key_files.iter();
        self.secret_file.iter().chain(public).chain(&self.jwks_file).map(PathBuf::as_path)
    }
}

/// How long the steps of going down take. Together they must stay below the patience of the supervisor, who kills after
/// it: 10 s for Docker, 30 s for Kubernetes, 90 s for systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// `/readyz` fails, and all else goes on, for load balancers to notice. HAProxy's example asks once a second, and
    /// believes the second failure.
    pub wait: Duration,
    /// Open streams are cut, each at a moment of its own within this.
    pub spread: Duration,
    /// Requests under way may take so much longer.
    pub finish: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        let (wait, spread) = (Duration::from_millis(2_500), Duration::from_secs(3));
        Drain { wait, spread, finish: Duration::from_secs(3) }
    }
}

impl Drain {
    /// Where nobody else could take over: no waiting.
    pub fn at_once(self) -> Self {
        Drain { wait: Duration::ZERO, spread: Duration::ZERO, ..self }
    }
}

/// Which pages of other origins may use the gateway.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Their origins, as browsers write them; `*` for all.
    pub origins: Vec<String>,
    /// Whether their requests may carry cookies (a proxy's, mostly: the gateway knows none).
    pub credentials: bool,
    /// How long browsers may remember that.
    pub max_age: Duration,
}

/// How much one token may do, counted by its subject, and how many streams there may be: on each replica. Of all of them
/// 0 means any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quotas {
    /// Events and other writes of one token a second.
    pub events_per_second: u32,
    /// Sessions that one token may bring into being a minute.
    pub new_sessions_per_minute: u32,
    /// Open streams.
    pub streams: usize,
    /// Open streams of one session.
    pub streams_per_session: usize,
    /// Open streams of one token.
    pub streams_per_token: usize,
}

impl Quotas {
    /// Whether there is any bound to open streams.
    pub fn counts_streams(&self) -> bool {
        self.streams > 0 || self.streams_per_session > 0 || self.streams_per_token > 0
    }

    /// Whether anything is counted by token.
    pub fn counts_tokens(&self) -> bool {
        self.events_per_second > 0 || self.new_sessions_per_minute > 0 || self.streams_per_token > 0
    }
}

/// Bounds of requests and connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one event in the log.
    pub event_bytes: usize,
    /// Bytes of a bounded body.
    pub body_bytes: usize,
    /// Events in one array.
    pub batch_events: usize,
    /// Silence in the middle of a body's event, or anywhere in a bounded body, after which the request is given up.
    pub body_timeout: Duration,
    /// The time that a request's head may take from its first byte on.
    pub head_timeout: Duration,
    /// How long a connection may rest before its first request and between requests: longer than load balancers keep
    /// theirs, or they would send requests into connections that are about to close.
    pub idle_timeout: Duration,
    /// Headers in a request.
    pub headers: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// The pause between heartbeat comments on a stream.
    pub heartbeat: Duration,
    /// A client that takes nothing for so long is cut.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            event_bytes: 256 * 1024,
            body_bytes: 4 * 1024 * 1024,
            batch_events: 1_000,
            body_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            headers: 100,
            head_bytes: 64 * 1024,
            heartbeat: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
        }
    }
}
