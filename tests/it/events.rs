//! The events lane through HTTP, on both stores: what is appended, how it is followed and paged, and how it ends.

mod appending;
mod endings;
mod pages;
mod producers;
mod streams;
mod watched;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::support::gateway::{Answer, Session, answer};

/// A request whose body the test sends piece by piece.
struct Endless {
    pieces: mpsc::Sender<String>,
    answer: tokio::task::JoinHandle<Answer>,
}

impl Endless {
    /// The body ends when the result is [ended](Endless::end).
    fn post(session: &Session, path: &str, content_type: &str) -> Self {
        Self::send(session.http.post(session.url(path)).header("content-type", content_type))
    }

    fn send(request: reqwest::RequestBuilder) -> Self {
        let (pieces, came) = mpsc::channel::<String>(1);
        let body = stream::unfold(came, |mut came| async move {
            let piece = came.recv().await?;
            Some((Ok::<_, std::io::Error>(Bytes::from(piece)), came))
        });
        let request = request.body(reqwest::Body::wrap_stream(body));
        Endless { pieces, answer: tokio::spawn(answer(request)) }
    }

    async fn piece(&self, text: impl Into<String>) {
        self.pieces.send(text.into()).await.expect("a request under way");
    }

    /// A piece for a request that may have been answered by now.
    async fn piece_if_taken(&self, text: impl Into<String>) {
        self.pieces.send(text.into()).await.unwrap_or_default();
    }

    async fn end(self) -> Answer {
        drop(self.pieces);
        self.answer.await.expect("an answer")
    }

    /// The answer that comes although the body has not ended.
    async fn answered(self) -> Answer {
        self.answer.await.expect("an answer")
    }
}
