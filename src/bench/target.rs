//! Where the gateway is that is loaded, and the way to it.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{BenchError, Dialect, wire::PATIENCE};

/// A gateway to load.
#[derive(Clone)]
pub struct Target {
    /// All that the name leads to: `localhost` may be two, and the gateway at one of them.
    addrs: Vec<SocketAddr>,
    host: String,
    /// What stands before every path.
    prefix: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
    /// What it speaks.
    pub dialect: Dialect,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never its token.
        write!(f, "{}{}", self.host, self.prefix)
    }
}

impl Target {
    /// From `http://host[:port][/prefix]`, or `https://`.
    pub async fn resolve(url: &str, token: Option<String>, dialect: Dialect) -> Result<Self, BenchError> {
        let bad = |why: &str| BenchError::Address(format!("{url}: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it takes the form http://host:port"))?;
        let secure = scheme.eq_ignore_ascii_case("https");
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return Err(bad("it takes the form http://host:port or https://host"));
        }
        let (host, prefix) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path.trim_end_matches('/')));
        // An IPv6 address has colons of its own, in brackets.
        let named = host.rsplit_once(']').map_or(host, |(_, port)| port).contains(':');
        let with_port = if named { host.to_owned() } else { format!("{host}:{}", if secure { 443 } else { 80 }) };
        let found = tokio::net::lookup_host(&with_port).await.map_err(|error| bad(&error.to_string()))?;
        let addrs: Vec<_> = found.collect();
        if addrs.is_empty() {
            return Err(bad("the name leads to no address"));
        }
        let tls = secure.then(|| {
            crate::tls::provide();
            let config = ClientConfig::with_platform_verifier().map_err(|error| bad(&error.to_string()))?;
            let name = with_port.rsplit_once(':').map_or(&*with_port, |(name, _)| name).trim_matches(['[', ']']);
            let name = ServerName::try_from(name.to_owned()).map_err(|error| bad(&error.to_string()))?;
            Ok::<_, BenchError>((TlsConnector::from(Arc::new(config)), name))
        });
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Target { addrs, host: host.to_owned(), prefix, tls: tls.transpose()?, token, dialect })
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.addrs.iter().all(|addr| addr.ip().is_loopback())
    }

    /// The beginning of a request's head, and `more` of it.
    pub(super) fn head(&self, method: &str, path: &str, more: &str) -> String {
        let Target { host, prefix, .. } = self;
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        format!("{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\n{token}{more}")
    }

    pub(super) async fn connect(&self) -> Result<Socket, BenchError> {
        let lost = |error| BenchError::Unreachable(self.host.clone(), error);
        let socket = TcpStream::connect(&*self.addrs).await.map_err(lost)?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Socket::Plain(socket)),
            Some((tls, name)) => {
                let secured = timeout(PATIENCE, tls.connect(name.clone(), socket)).await;
                let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                Ok(Socket::Tls(Box::new(secured.map_err(lost)?)))
            }
        }
    }
}

/// To a gateway, or to what speaks TLS before it.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub fn tcp(&self) -> socket2::SockRef<'_> {
        match self {
            Socket::Plain(socket) => socket.into(),
            Socket::Tls(socket) => socket.get_ref().0.into(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Socket::Tls(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(context),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_may_have_a_path_and_lead_to_another_port() {
        for (url, addr, line, secure) in [
            ("http://127.0.0.1:1234", "127.0.0.1:1234", "GET /v1 HTTP/1.1\r\nhost: 127.0.0.1:1234\r\n", false),
            ("HTTP://127.0.0.1/agents/", "127.0.0.1:80", "GET /agents/v1 HTTP/1.1\r\nhost: 127.0.0.1\r\n", false),
            ("http://[::1]/a/b", "[::1]:80", "GET /a/b/v1 HTTP/1.1\r\nhost: [::1]\r\n", false),
            ("https://127.0.0.1", "127.0.0.1:443", "GET /v1 HTTP/1.1\r\nhost: 127.0.0.1\r\n", true),
        ] {
            let target = Target::resolve(url, None, Dialect::Moorline).await.unwrap();
            assert_eq!((target.addrs[0].to_string().as_str(), target.tls.is_some()), (addr, secure), "{url}");
            assert_eq!(target.head("GET", "/v1", ""), line, "{url}");
        }
    }
}
