//! Bodies that are answered before they were read to their end: what still comes is taken and thrown away, so that the
//! client gets to read its answer, instead of a connection that breaks under what it sends.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::head::{Head, OpenBody};

/// Bytes that are thrown away at most.
const MOST: usize = 4 * 1024 * 1024;
/// How long they are waited for.
const LONGEST: Duration = Duration::from_secs(2);

/// A request whose body is drained once nobody reads it any more. `head` learns that there is a body, and when it ends.
pub fn drained(request: Request<Incoming>, head: &Head) -> Request<Body> {
    request.map(|body| {
        if body.is_end_stream() { Body::empty() } else { Body::new(Drained { body: Some((body, head.body())) }) }
    })
}

/// A body that is drained when dropped. `None` once it has ended.
struct Drained {
    body: Option<(Incoming, OpenBody)>,
}

impl http_body::Body for Drained {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, _)) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some((mut body, open)) = self.body.take().filter(|(body, _)| !body.is_end_stream()) else { return };
        // Outside of a runtime everything ends anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut bytes = 0;
            let all = async {
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    if bytes > MOST {
                        break;
                    }
                }
            };
            // Either way the body is dropped, and with it the connection if it has not ended.
            tokio::time::timeout(LONGEST, all).await.unwrap_or_default();
            drop(open);
        });
    }
}
