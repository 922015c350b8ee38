//! Connections whose replies are read where they lie (`reply.rs`): those for pages, one request at a time, and the one for
//! pushes (`subscriber.rs`).

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::FutureExt;
use redis::{ConnectionAddr, ConnectionInfo, Pipeline};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Tls, late,
    reply::{Awaited, Replies},
};
use crate::store::StoreError;

/// Room for replies, at least.
const ROOM_MIN: usize = 4 * 1024;
/// Room that is made before anything has come to fill it.
const ROOM_MAX: usize = 1024 * 1024;
/// All of the replies may take so many times as long as the first byte of them: a page may be megabytes.
const WHOLE: u32 = 5;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    /// Nothing is under way.
    idle: bool,
    /// How large the last replies were: the next ones will hardly be smaller while somebody reads a history.
    size: usize,
    timeout: Duration,
}

impl Wire {
    #[cfg(test)]
    pub fn over(stream: impl Stream + 'static, timeout: Duration) -> Self {
        Wire { stream: Box::new(stream), idle: true, size: 0, timeout }
    }

    /// Sends packed commands and reads so many replies. If it fails, or is dropped before its end, the connection is of no use
    /// any more.
    pub async fn ask(&mut self, commands: &[u8], count: usize) -> Result<Replies, StoreError> {
        self.idle = false;
        let patience = self.timeout;
        let replies = timeout(patience * WHOLE, async {
            self.send(commands).await?;
            let mut bytes = BytesMut::with_capacity(self.size.clamp(ROOM_MIN, ROOM_MAX));
            timeout(patience, self.read(&mut bytes)).await.map_err(|_| late(patience))??;
            let mut awaited = Awaited::replies(count);
            loop {
                match awaited.missing(&bytes)? {
                    0 => return Ok(bytes),
                    missing => bytes.reserve(room_for(missing)),
                }
                self.read(&mut bytes).await?;
            }
        });
        let bytes = replies.await.unwrap_or_else(|_| Err(late(patience * WHOLE)))?;
        (self.idle, self.size) = (true, bytes.len());
        Ok(Replies::new(bytes.freeze()))
    }

    /// Sends packed commands.
    pub async fn send(&mut self, commands: &[u8]) -> Result<(), StoreError> {
        let sent = async {
            self.stream.write_all(commands).await?;
            self.stream.flush().await
        };
        timeout(self.timeout, sent).await.map_err(|_| late(self.timeout))?.map_err(broken)
    }

    /// Reads what there is. Dropping the future loses nothing.
    pub async fn read(&mut self, bytes: &mut BytesMut) -> Result<(), StoreError> {
        match self.stream.read_buf(bytes).await.map_err(broken)? {
            0 => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Whether it can be used again: nothing is under way, and the peer has neither closed it nor said anything unasked.
    fn is_good(&mut self) -> bool {
        let silent = |stream: &mut Box<dyn Stream>| stream.read_u8().now_or_never().is_none();
        self.idle && silent(&mut self.stream)
    }
}

/// Room to make where so many bytes are missing: what is only announced is no reason to ask for gigabytes.
pub fn room_for(missing: usize) -> usize {
    missing.clamp(ROOM_MIN, ROOM_MAX)
}

fn broken(error: io::Error) -> StoreError {
    StoreError::Unavailable(format!("a connection to Redis: {error}"))
}

/// Makes connections, for the pool and for the subscriber.
#[derive(Clone)]
pub struct Wires {
    info: ConnectionInfo,
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Wires {
    pub fn new(info: ConnectionInfo, tls: &Tls, timeout: Duration) -> Result<Self, StoreError> {
        let secured = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let tls = secured.then(|| tls.client()).transpose().map_err(|bad| StoreError::Fault(bad.to_string()))?;
        Ok(Wires { info, tls: tls.map(|config: Arc<ClientConfig>| config.into()), timeout })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Wire, StoreError> {
        let stream: Box<dyn Stream> = match (self.info.addr(), &self.tls) {
            (ConnectionAddr::Tcp(host, port), _) => Box::new(tcp(host, *port).await?),
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| StoreError::Fault(error.to_string()))?;
                Box::new(tls.connect(name, tcp(host, *port).await?).await.map_err(broken)?)
            }
            (ConnectionAddr::Unix(path), _) => Box::new(UnixStream::connect(path).await.map_err(broken)?),
            (other, _) => return Err(StoreError::Fault(format!("can't connect to {other}"))),
        };
        let mut wire = Wire { stream, idle: true, size: 0, timeout: self.timeout };
        let (mut hello, settings) = (Pipeline::new(), self.info.redis_settings());
        if let Some(password) = settings.password() {
            hello.cmd("AUTH").arg(settings.username()).arg(password);
        }
        if settings.db() != 0 {
            hello.cmd("SELECT").arg(settings.db());
        }
        if !hello.is_empty() {
            let mut replies = wire.ask(&hello.get_packed_pipeline(), hello.len()).await?;
            for _ in 0..hello.len() {
                replies.status()?;
            }
        }
        Ok(wire)
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, StoreError> {
    let tcp = TcpStream::connect((host, port)).await.map_err(broken)?;
    tcp.set_nodelay(true).map_err(broken)?;
    Ok(tcp)
}

impl managed::Manager for Wires {
    type Type = Wire;
    type Error = StoreError;

    async fn create(&self) -> Result<Wire, StoreError> {
        self.connect().await
    }

    /// Without a question to Redis: that would double the time of each page.
    async fn recycle(&self, wire: &mut Wire, _: &Metrics) -> RecycleResult<StoreError> {
        if wire.is_good() { Ok(()) } else { Err(RecycleError::message("closed, or given up before its answer")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_made_for_what_comes_not_for_what_is_announced() {
        let (ours, mut redis) = tokio::io::duplex(99);
        let mut wire = Wire::over(ours, Duration::from_secs(9));
        redis.write_all(b"$4000000000000000000\r\na").await.unwrap();
        let (mut asked, mut buffer) = (Box::pin(wire.ask(b"PING", 1)), [0; 4]);
        tokio::select! {
            _ = &mut asked => unreachable!("the reply is not whole"),
            read = redis.read_exact(&mut buffer) => drop(read.unwrap()),
        }
        drop(redis);
        assert!(matches!(asked.await, Err(StoreError::Unavailable(_))), "it has ended");
    }
}
