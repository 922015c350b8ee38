//! A connection as hyper sees it: a TCP socket that gives a peer up which takes nothing of what is written to it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{head::Head, no_request::explained};

/// Has a connection reset when it is dropped: nobody takes that for the end of what was sent, and the kernel lets go of what
/// has not been. Closed as usual, it would be kept with some megabytes for as long as a peer that takes nothing says that it
/// is there.
pub fn reset_at_end(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Whether the last write has not gone out whole: then hyper still holds bytes.
pub type Blocked = Arc<AtomicBool>;

/// See above.
pub struct Socket {
    tcp: TcpStream,
    /// Read before hyper was there, and not given to it yet.
    first: Bytes,
    stall: Duration,
    /// Set while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    blocked: Blocked,
    head: Head,
}

impl Socket {
    pub fn new(tcp: TcpStream, first: Bytes, stall: Duration, blocked: Blocked, head: Head) -> Self {
        Socket { tcp, first, stall, stalled: None, blocked, head }
    }

    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// Minds a write of `size` bytes: it has to get on in time.
    fn mind(
        &mut self,
        context: &mut Context<'_>,
        size: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(result) => {
                self.stalled = None;
                self.blocked.store(!matches!(result, Ok(count) if count == size), Relaxed);
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.blocked.store(true, Relaxed);
                let stall = self.stall;
                ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(stall))).as_mut().poll(context));
                reset_at_end(&self.tcp);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let first = self.first.len().min(into.remaining());
        into.put_slice(&self.first.split_to(first));
        // hyper's first read brings as much as if nothing had been read before.
        let mut read = Poll::Ready(Ok(()));
        if into.remaining() > 0 {
            read = Pin::new(&mut self.tcp).poll_read(context, into);
        }
        if into.filled().len() > before {
            self.head.bytes();
            // Whatever became of the rest will be seen at the next read.
            read = Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // What is left of an answer may be anything.
        if !self.blocked.load(Relaxed)
            && let Some(refusal) = explained(bytes)
        {
            // Small enough to go out whole; the connection ends with it.
            return Pin::new(&mut self.tcp).poll_write(context, &refusal).map_ok(|_| bytes.len());
        }
        let written = Pin::new(&mut self.tcp).poll_write(context, bytes);
        self.mind(context, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [piece] = pieces {
            return self.poll_write(context, piece);
        }
        let size = pieces.iter().map(|piece| piece.len()).sum();
        let written = Pin::new(&mut self.tcp).poll_write_vectored(context, pieces);
        self.mind(context, size, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
