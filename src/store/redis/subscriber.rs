//! The connection for pushes: channels are asked for on it, and what is published in them is read where it lies (`reply.rs`).
//!
//! It speaks RESP2, where a confirmation and a message are arrays of three alike, in the order in which Redis did them.

use bytes::{Bytes, BytesMut};
use redis::Cmd;
use tokio::time::Instant;

use super::{
    reply::{Awaited, Replies},
    unreadable,
    wire::{Wire, room_for},
};
use crate::store::StoreError;

/// Room for what comes, at least.
const ROOM: usize = 16 * 1024;

/// The connection.
pub struct Subscriber {
    wire: Wire,
    /// What has come and was not heard yet.
    bytes: BytesMut,
    /// When something came last.
    heard: Instant,
}

/// What comes over it.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// Something was published. The bytes are of a buffer that more stands in: who keeps them should copy them.
    Message { channel: Bytes, payload: Bytes },
    /// A channel is subscribed, or not any more.
    Confirmed,
}

impl Subscriber {
    pub fn new(wire: Wire) -> Self {
        Subscriber { wire, bytes: BytesMut::new(), heard: Instant::now() }
    }

    /// When something came last; at first, when it was connected.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Asks for channels (SUBSCRIBE), or no longer for them (UNSUBSCRIBE). Each is confirmed on its own.
    pub async fn ask(&mut self, command: &str, channels: &[&str]) -> Result<(), StoreError> {
        let mut cmd = Cmd::new();
        cmd.arg(command).arg(channels);
        self.wire.send(&cmd.get_packed_command()).await
    }

    /// The next that comes. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Heard, StoreError> {
        loop {
            if let Some(heard) = self.come()? {
                return Ok(heard);
            }
            self.wire.read(&mut self.bytes).await?;
            self.heard = Instant::now();
        }
    }

    /// The next, if it has come already.
    pub fn come(&mut self) -> Result<Option<Heard>, StoreError> {
        let mut awaited = Awaited::replies(1);
        match awaited.missing(&self.bytes)? {
            0 => heard(&mut Replies::new(self.bytes.split_to(awaited.size()).freeze())).map(Some),
            missing => {
                self.bytes.reserve(room_for(missing.max(ROOM)));
                Ok(None)
            }
        }
    }
}

fn heard(reply: &mut Replies) -> Result<Heard, StoreError> {
    reply.array_of(3)?;
    match &reply.string()?[..] {
        b"message" => Ok(Heard::Message { channel: reply.string()?, payload: reply.string()? }),
        b"subscribe" | b"unsubscribe" => Ok(Heard::Confirmed),
        _ => Err(unreadable("what came over a subscriber connection", reply)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";

    fn message(payload: &str) -> String {
        format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${}\r\n{payload}\r\n", payload.len())
    }

    #[tokio::test]
    async fn what_comes_in_pieces_or_at_once_is_heard_in_its_order() {
        let large = "x".repeat(3 * ROOM);
        let all = [SUBSCRIBED, &message("a"), &message(&large), &message("b")].concat();
        for piece in [1, 7, 1000, all.len()] {
            let (ours, mut redis) = tokio::io::duplex(all.len());
            let mut subscriber = Subscriber::new(Wire::over(ours, Duration::from_secs(9)));
            subscriber.ask("SUBSCRIBE", &["c"]).await.unwrap();
            let mut asked = [0; 26];
            redis.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, *b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n");
            let all = all.clone();
            tokio::spawn(async move {
                for piece in all.as_bytes().chunks(piece) {
                    redis.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            assert_eq!(subscriber.next().await.unwrap(), Heard::Confirmed);
            for payload in ["a", &large, "b"] {
                let (channel, payload) = ("c".into(), Bytes::copy_from_slice(payload.as_bytes()));
                assert_eq!(subscriber.next().await.unwrap(), Heard::Message { channel, payload });
            }
            assert!(matches!(subscriber.next().await, Err(StoreError::Unavailable(_))), "it has ended");
        }
    }

    #[tokio::test]
    async fn room_is_made_for_what_comes_not_for_what_is_announced() {
        let (ours, mut redis) = tokio::io::duplex(99);
        let mut subscriber = Subscriber::new(Wire::over(ours, Duration::from_secs(9)));
        redis.write_all(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4000000000000000000\r\na").await.unwrap();
        drop(redis);
        assert!(matches!(subscriber.next().await, Err(StoreError::Unavailable(_))), "it has ended");
        assert!(subscriber.bytes.capacity() < 4 * 1024 * 1024);
    }

    #[test]
    fn confirmations_and_messages_are_told_apart() {
        let heard = |text: &'static str| heard(&mut Replies::new(Bytes::from_static(text.as_bytes())));
        assert_eq!(heard(SUBSCRIBED).unwrap(), Heard::Confirmed);
        assert_eq!(heard("*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n").unwrap(), Heard::Confirmed);
        let message = heard("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\ne\r\n1\r\n");
        assert_eq!(message.unwrap(), Heard::Message { channel: "c".into(), payload: "e\r\n1".into() });
        for other in ["*2\r\n$4\r\npong\r\n$0\r\n\r\n", "*3\r\n$4\r\nkind\r\n$0\r\n\r\n$0\r\n\r\n", "+PONG\r\n"] {
            assert!(matches!(heard(other), Err(StoreError::Fault(_))), "{other:?}");
        }
        assert!(matches!(heard("-NOPERM no channels\r\n"), Err(StoreError::Denied(_))));
    }
}
