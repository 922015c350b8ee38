//! The server under the routes: hyper's HTTP/1.1, with the bounds that keep a slow or hostile peer from costing much.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use axum::Router;
use futures_util::FutureExt;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_io_timeout::TimeoutStream;

use super::{Gateway, observe::Observed, router};
use crate::{config::Drain, metrics::METRICS};

/// Peers that vanish without a word are noticed by the kernel after about a minute and a half.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, mostly) a pause lets some connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening gateway.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    gateway: Gateway,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<GracefulShutdown>,
}

impl Server {
    /// Begins to accept connections.
    pub fn start(listener: TcpListener, gateway: Gateway) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, gateway.clone(), stopped));
        Ok(Server { addr, gateway, stop, accepting })
    }

    /// Goes down in the steps of `ending.rs`: streams are cut for their clients to go on elsewhere, then no more
    /// connections are taken, and requests under way finish.
    pub async fn shutdown(self, drain: Drain) {
        self.gateway.ending.go(drain).await;
        self.stop.send_replace(true);
        if let Ok(open) = self.accepting.await
            && tokio::time::timeout(drain.finish, open.shutdown()).await.is_err()
        {
            tracing::warn!(finish_ms = drain.finish.as_millis() as u64, "ended with requests still under way");
        }
    }
}

async fn accept(listener: TcpListener, gateway: Gateway, mut stop: watch::Receiver<bool>) -> GracefulShutdown {
    let limits = gateway.limits;
    let service = Observed::new(gateway.clone(), router(gateway));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes.max(8192));
    // No `pipeline_flush`: it holds an answer back for as long as bytes of a next request are there but not all of it.
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Those that the kernel has accepted are served: to the peer they are open.
            _ = stop.wait_for(|stop| *stop) => match listener.accept().now_or_never() {
                Some(accepted) => accepted,
                None => return open,
            },
        };
        match accepted {
            Ok((socket, _)) => {
                let serving = serve(&http, socket, service.clone(), limits.stall_timeout);
                let watched = open.watch(serving);
                let counted = METRICS.connections.hold();
                METRICS.accepted.add(1);
                // An error is a peer that went away or broke the protocol: its own affair, answered if it can be.
                tokio::spawn(async move {
                    let _counted = counted;
                    if let Err(error) = watched.await {
                        METRICS.slow_cuts.add(u64::from(took_nothing(&error)));
                        tracing::trace!(%error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a connection was cut since its peer took nothing of what was written.
fn took_nothing(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::TimedOut;
        }
        cause = error.source();
    }
    false
}

type Io = TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>;
type Serving = hyper::server::conn::http1::Connection<Io, TowerToHyperService<Observed<Router>>>;

fn serve(
    http: &hyper::server::conn::http1::Builder,
    socket: TcpStream,
    service: Observed<Router>,
    stall: Duration,
) -> Serving {
    // Tokens are small and must not wait for each other. Neither setting is worth refusing a connection for.
    let _ = socket.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let _ = socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive);
    let mut stream = TimeoutStream::new(socket);
    // A client that takes nothing for so long is cut; it can resume.
    stream.set_write_timeout(Some(stall));
    http.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(service))
}
