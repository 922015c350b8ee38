//! The server under the routes: hyper's HTTP/1.1, with the bounds that keep a slow or hostile peer from costing much, and
//! the hand-over of sockets to streams.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, response::Response};
use futures_util::FutureExt;
use hyper::{Request, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tower_service::Service as _;

use super::{
    Gateway, Serves,
    auth::hide_token,
    brief::{self, Bounds, Next},
    drain::drained,
    ending::watch_store,
    head::Head,
    observe::{Observed, Observing},
    router,
    seldom::Seldom,
    socket::{Blocked, Socket},
    stream::{self, Asked, Handover, Pace, Taken},
};
use crate::{
    config::{Config, Drain},
    lock::lock,
    metrics::METRICS,
};

/// Peers that vanish without a word are noticed by the kernel after about a minute and a half.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, mostly) a pause lets some connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening gateway.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where it serves its metrics, if not there.
    pub metrics: Option<SocketAddr>,
    gateway: Gateway,
    stop: watch::Sender<bool>,
    /// One for each address.
    accepting: Vec<JoinHandle<Ended>>,
}

/// Every connection holds the other end: there is nothing more to receive when the last one has ended.
type Ended = mpsc::Receiver<std::convert::Infallible>;

impl Server {
    /// Begins to accept connections: for everything, or for everything else than `metrics`.
    pub fn start(
        listener: TcpListener,
        metrics: Option<TcpListener>,
        gateway: Gateway,
        config: &Config,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let metrics_addr = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
        let (patience, spread) = (config.redis_patience, config.drain.spread);
        tokio::spawn(watch_store(Arc::downgrade(&gateway), patience, spread));
        let (stop, stopped) = watch::channel(false);
        let public = if metrics.is_some() { Serves::AllButMetrics } else { Serves::All };
        let listeners = metrics.map(|metrics| (metrics, Serves::Metrics)).into_iter().chain([(listener, public)]);
        let accepting = listeners
            .map(|(listener, serves)| tokio::spawn(accept(listener, serves, gateway.clone(), stopped.clone())))
            .collect();
        Ok(Server { addr, metrics: metrics_addr, gateway, stop, accepting })
    }

    /// Goes down in the steps of `ending.rs`: streams are cut for their clients to go on elsewhere, then no more
    /// connections are taken, and requests under way finish.
    pub async fn shutdown(self, drain: Drain) {
        self.gateway.ending.go(drain).await;
        self.stop.send_replace(true);
        let ended = async {
            for accepting in self.accepting {
                if let Ok(mut ended) = accepting.await {
                    ended.recv().await;
                }
            }
        };
        if tokio::time::timeout(drain.finish, ended).await.is_err() {
            tracing::warn!(finish_ms = drain.finish.as_millis() as u64, "ended with requests still under way");
        }
    }
}

async fn accept(listener: TcpListener, serves: Serves, gateway: Gateway, mut stop: watch::Receiver<bool>) -> Ended {
    let limits = gateway.limits;
    let pace = Pace { heartbeat: limits.heartbeat, stall: limits.stall_timeout };
    let bounds = Bounds { idle: limits.idle_timeout, stall: limits.stall_timeout, headers: limits.headers };
    let routes = Observed::new(gateway.clone(), router(gateway, serves), serves != Serves::Metrics);
    let mut http = hyper::server::conn::http1::Builder::new();
    // A write goes on though its client hangs up: hyper must not look out for that while a request is under way.
    http.half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes.max(8192));
    // No `pipeline_flush`: it holds an answer back for as long as bytes of a next request are there but not all of it.
    let (open, ended) = mpsc::channel(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Those that the kernel has accepted are served: to the peer they are open.
            _ = stop.wait_for(|stop| *stop) => match listener.accept().now_or_never() {
                Some(accepted) => accepted,
                None => return ended,
            },
        };
        match accepted {
            Ok((tcp, _)) => {
                let held = (open.clone(), METRICS.connections.hold());
                METRICS.accepted.add(1);
                let serving = serve(http.clone(), tcp, routes.clone(), stop.clone(), bounds, limits.head_timeout);
                tokio::spawn(async move {
                    match serving.await {
                        // A task of its own: this one has been as large as a request's.
                        Ok(Some((tcp, taken))) => drop(tokio::spawn(stream::run(tcp, taken, pace, held))),
                        Ok(None) => {}
                        // A peer that went away or broke the protocol: its own affair, answered if it can be.
                        Err(error) => {
                            METRICS.slow_cuts.add(u64::from(took_nothing(&error)));
                            tracing::trace!(%error, "a connection ended");
                        }
                    }
                });
            }
            Err(error) => {
                static LAST: Seldom = Seldom::new();
                if LAST.now() {
                    tracing::warn!(%error, "could not accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves the requests of a connection, until it ends or a stream takes its socket.
async fn serve(
    http: hyper::server::conn::http1::Builder,
    mut tcp: TcpStream,
    mut routes: Observed<Router>,
    mut stop: watch::Receiver<bool>,
    bounds: Bounds,
    head_timeout: Duration,
) -> Result<Option<(TcpStream, Taken)>, Broken> {
    // Tokens are small and must not wait for each other. Neither setting is worth refusing a connection for.
    let _ = tcp.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    let first = match brief::serve(&mut tcp, &mut routes, bounds, stop.clone()).await? {
        Next::Ended => return Ok(None),
        Next::Other(first) => first,
    };
    let (slot, blocked, head) = (Slot::default(), Blocked::default(), Head::default());
    let socket = TokioIo::new(Socket::new(tcp, first, bounds.stall, blocked.clone(), head.clone()));
    let mut connection = http.serve_connection(socket, Service { routes, slot: slot.clone(), head: head.clone() });
    let mut stopped = pin!(async move { drop(stop.wait_for(|stop| *stop).await) });
    let (mut stopping, mut timer) = (false, None);
    let taken = poll_fn(|context| {
        if !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(ended.map(|()| None));
        }
        if head.is_late(blocked.load(Relaxed), &mut timer, head_timeout, context) {
            return Poll::Ready(Ok(None));
        }
        // Not before earlier answers have left hyper.
        match lock(&slot).take_if(|_| !blocked.load(Relaxed)) {
            Some(taken) => Poll::Ready(Ok(Some(taken))),
            None => Poll::Pending,
        }
    })
    .await?;
    Ok(taken.map(|taken| (connection.into_parts().io.into_inner().into_tcp(), taken)))
}

/// Why a connection ended that its peer did not close.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Whether a connection was cut since its peer took nothing of what was written.
fn took_nothing(broken: &Broken) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match broken {
        Broken::Socket(error) => Some(error),
        Broken::Http(error) => std::error::Error::source(error),
    };
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::TimedOut;
        }
        cause = error.source();
    }
    false
}

/// Where the answer is put that takes the connection's socket.
type Slot = Arc<Mutex<Option<Taken>>>;

/// The routes, for one connection.
struct Service {
    routes: Observed<Router>,
    slot: Slot,
    head: Head,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.head.complete();
        let asked = Asked::of(&request);
        // First of all: what comes after never sees a token in an address.
        let request = drained(hide_token(request), &self.head);
        // Routes are always ready.
        let answer = self.routes.clone().call(request);
        Answering { answer, asked: Some(asked), slot: self.slot.clone(), head: self.head.clone() }
    }
}

pin_project! {
    /// An answer under way. If it is a stream, it goes into the slot and hyper never gets to see it.
    struct Answering {
        #[pin]
        answer: Observing<<Router as tower_service::Service<axum::extract::Request>>::Future>,
        // Gone once the answer is a stream.
        asked: Option<Asked>,
        slot: Slot,
        head: Head,
    }
}

impl Future for Answering {
    type Output = Result<Response, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(asked) = this.asked else { return Poll::Pending };
        let mut answer = ready!(this.answer.poll(context))?;
        match answer.extensions_mut().remove::<Handover>().and_then(Handover::take) {
            Some(streaming) if asked.wants_body => {
                let (parts, _) = answer.into_parts();
                *lock(this.slot) = Some(Taken::new(asked, &parts, streaming));
                *this.asked = None;
                // Whoever polls the connection looks into the slot.
                Poll::Pending
            }
            _ => {
                this.head.answered();
                Poll::Ready(Ok(answer))
            }
        }
    }
}
