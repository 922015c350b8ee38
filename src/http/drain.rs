//! Bodies that are answered before they were read to their end: what still comes is taken and thrown away, so that the
//! client gets to read its answer, instead of a connection that breaks under what it sends.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// Bytes that are thrown away at most.
const MOST: usize = 4 * 1024 * 1024;
/// How long they are waited for.
const LONGEST: Duration = Duration::from_secs(2);

/// Has a request's body drained once nobody reads it any more.
pub async fn drained(request: Request) -> Request {
    request.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::new(Drained { body, ended: false }),
    })
}

/// A body that is drained when dropped.
struct Drained {
    body: Body,
    ended: bool,
}

impl http_body::Body for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if self.ended || self.body.is_end_stream() {
            return;
        }
        let mut body = std::mem::take(&mut self.body);
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
        });
    }
}
