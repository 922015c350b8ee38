//! The HTTP interface: the route table, and the server under it.
//!
//! | path | methods | file |
//! |---|---|---|
//! | `/v1/sessions/{session}/events` | POST, GET | `events.rs`, `follow.rs` |
//! | `/v1/sessions/{session}/commands` … | POST, GET | `commands.rs`, `follow.rs` |
//! | `/v1/sessions/{session}/runs` … | POST, PUT | `runs.rs` |
//! | `/v1/sessions/{session}/approvals` | POST | `approvals.rs` |
//! | `/v1/sessions/{session}` …  | GET, POST, DELETE | `sessions.rs` |
//! | `/livez`, `/readyz` | GET | `health.rs` |
//! | `/metrics` | GET | `metrics.rs` |
//! | `/console` …, if it is wanted | GET | `console.rs` |
//!
//! The interface itself is described in `docs/PROTOCOL.md`.

mod approvals;
mod auth;
mod brief;
mod commands;
mod console;
mod cors;
mod drain;
mod ending;
mod events;
mod extract;
mod follow;
mod head;
mod health;
mod local;
mod metrics;
mod no_request;
mod observe;
mod problem;
mod quota;
mod runs;
mod seldom;
mod server;
mod sessions;
mod socket;
mod stream;
mod watch;

pub use auth::Needs;
pub use cors::{BadCors, layer as cors};
pub use ending::Ending;
pub use local::Local;
pub use problem::Problem;
pub use server::Server;

use std::sync::{Arc, LazyLock};

use axum::{
    Extension, Router,
    http::{Method, StatusCode, Uri},
    middleware,
    routing::{MethodRouter, delete, get, post, put},
};

use self::local::Stranger;
use crate::{
    auth::{Right, Verifier},
    config::Limits,
    hub::Hub,
    quota::Quota,
    store::Store,
    writer::Writers,
};

/// What every request can reach.
pub struct Shared {
    /// Where sessions live.
    pub store: Arc<dyn Store>,
    /// What is written goes through here.
    pub writers: Arc<Writers>,
    /// What is followed comes from here.
    pub hub: Arc<Hub>,
    /// Judges tokens; `None`: everybody may do everything.
    pub auth: Option<Arc<Verifier>>,
    /// Answers browsers that ask for pages of other origins; `None`: nobody does.
    pub cors: Option<tower_http::cors::CorsLayer>,
    /// Refuses who does not sit at this machine; `None`: nobody is refused for that.
    pub local: Option<Local>,
    /// Whether it has a console.
    pub console: bool,
    /// Counts what tokens do, and streams.
    pub quota: Quota,
    /// Bounds of requests and connections.
    pub limits: Limits,
    /// Whether, and how far, the replica is going down.
    pub ending: Ending,
}

/// The state that handlers take.
pub type Gateway = Arc<Shared>;

/// A line of the route table.
pub struct Route {
    /// The method. `HEAD` goes where `GET` goes.
    pub method: Method,
    /// The path.
    pub path: &'static str,
    /// The rights of which a token needs one.
    pub needs: Needs,
    answer: MethodRouter<Gateway>,
}

/// The route table: what each route needs, and who answers. There is no other way to a handler, so none is unguarded.
#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    use Right::{Append, Command, Manage, Read};
    let route = |method, path, needs, answer| Route { method, path, needs, answer };
    vec![
        route(Method::POST, "/v1/sessions/{session}/events", &[Append], post(events::append)),
        route(Method::GET, "/v1/sessions/{session}/events", &[Read], get(follow::events)),
        route(Method::GET, "/v1/sessions/{session}/producers/{producer}", &[Append], get(sessions::producer)),
        route(Method::POST, "/v1/sessions/{session}/commands", &[Command], post(commands::issue)),
        route(Method::GET, "/v1/sessions/{session}/commands", &[Read, Append], get(follow::commands)),
        route(Method::POST, "/v1/sessions/{session}/commands/{command}/outcome", &[Append], post(commands::outcome)),
        route(Method::POST, "/v1/sessions/{session}/runs", &[Append], post(runs::start)),
        route(Method::PUT, "/v1/sessions/{session}/runs/{run}", &[Append], put(runs::body)),
        route(Method::POST, "/v1/sessions/{session}/runs/{run}/end", &[Append], post(runs::end)),
        route(Method::POST, "/v1/sessions/{session}/runs/{run}/heartbeat", &[Append], post(runs::heartbeat)),
        route(Method::POST, "/v1/sessions/{session}/approvals", &[Append], post(approvals::request)),
        route(Method::GET, "/v1/sessions/{session}", &[Read], get(sessions::show)),
        route(Method::POST, "/v1/sessions/{session}/close", &[Manage], post(sessions::close)),
        route(Method::DELETE, "/v1/sessions/{session}", &[Manage], delete(sessions::delete)),
        route(Method::GET, "/livez", &[], get(health::live)),
        route(Method::GET, "/readyz", &[], get(health::ready)),
        route(Method::GET, METRICS, &[], get(metrics::show)),
    ]
}

/// The path in the route table that a request's path goes to, whatever its method.
fn route_of(path: &str) -> Option<&'static str> {
    static PATHS: LazyLock<Vec<&'static str>> = LazyLock::new(|| routes().iter().map(|route| route.path).collect());
    let goes_to = |pattern: &&&str| {
        let (mut asked, mut named) = (path.split('/'), pattern.split('/'));
        let same =
            named.by_ref().all(|named| asked.next().is_some_and(|asked| named.starts_with('{') || asked == named));
        same && asked.next().is_none()
    };
    PATHS.iter().find(goes_to).copied()
}

/// What is served at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// All there is.
    All,
    /// All but the metrics, which have an address of their own.
    AllButMetrics,
    /// The metrics alone.
    Metrics,
}

impl Serves {
    fn has(self, path: &str) -> bool {
        match self {
            Serves::All => true,
            Serves::AllButMetrics => path != METRICS,
            Serves::Metrics => path == METRICS,
        }
    }
}

const METRICS: &str = "/metrics";

/// The routes of an address, each behind what it needs. What holds for every request is around them, in `server.rs` and `observe.rs`:
/// a layer here would cost each request two allocations.
pub fn router(gateway: Gateway, serves: Serves) -> Router {
    let mut router = Router::new();
    let console = if gateway.console { console::routes() } else { Vec::new() };
    let all = routes().into_iter().chain(console);
    for Route { path, needs, answer, .. } in all.filter(|route| serves.has(route.path)) {
        let answer = match auth::Guard::new(&gateway, needs) {
            Some(guard) => answer.route_layer(middleware::from_fn_with_state(guard, auth::guard)),
            None => answer,
        };
        router = router.route(path, answer);
    }
    let router = router.fallback(fallback).method_not_allowed_fallback(method_not_allowed).with_state(gateway.clone());
    match &gateway.cors {
        // The outermost: a page must be able to read refusals, too.
        Some(cors) => router.layer(cors.clone()),
        None => router,
    }
}

/// Where a request goes that is a stranger's, whatever it asks for.
const NOWHERE: &str = "/-";

async fn fallback(uri: Uri, stranger: Option<Extension<Stranger>>) -> Problem {
    match stranger {
        Some(Extension(stranger)) => stranger.problem(),
        None => unknown_path(uri).await,
    }
}

async fn unknown_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("there is nothing at {path}; see docs/PROTOCOL.md"))
}

async fn method_not_allowed() -> Problem {
    let detail = "this path takes other methods; see the Allow header and docs/PROTOCOL.md";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
