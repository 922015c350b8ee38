//! A Lua script, run by its digest; and what has to be true before its writes are answered.

use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};

use super::{link::Link, refused};
use crate::store::StoreError;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When Redis has answered: as durable as it is configured to be.
    #[default]
    Redis,
    /// When so many of its replicas have it in their memory, too.
    Replicated(u32),
}

/// A script and its digest.
pub struct Script {
    body: String,
    sha: String,
    durability: Durability,
    /// How long replicas are waited for.
    patience: Duration,
}

/// What a script gave.
pub struct Reply {
    pub value: Value,
    /// Why what it wrote is not as durable as it should be.
    pub unconfirmed: Option<StoreError>,
}

impl Script {
    pub fn new(body: String, durability: Durability, timeout: Duration) -> Self {
        let sha = redis::Script::new(&body).get_hash().to_owned();
        // A write may have to wait for a WAIT that is under way and then for its own, within the time that an answer may
        // take; and what is decided for a time must not wait for long (`CLOCK_TOLERANCE` of the writers is a second).
        Script { body, sha, durability, patience: (timeout / 4).min(Duration::from_millis(500)) }
    }

    /// Runs the script by its digest, and by its text where Redis does not have it (a first use, a flush, a restart).
    /// `arguments` begin with the number of keys; `wrote` tells from the reply whether there is anything to confirm.
    pub async fn run(
        &self,
        link: &mut Link,
        arguments: impl Fn(&mut Cmd),
        wrote: fn(&Value) -> bool,
    ) -> RedisResult<Reply> {
        let command = |name: &str, script: &str| {
            let mut cmd = redis::cmd(name);
            cmd.arg(script);
            arguments(&mut cmd);
            cmd
        };
        match self.confirmed(link, command("EVALSHA", &self.sha), wrote).await {
            Err(error) if unknown(&error) => self.confirmed(link, command("EVAL", &self.body), wrote).await,
            reply => reply,
        }
    }

    async fn confirmed(&self, link: &mut Link, command: Cmd, wrote: fn(&Value) -> bool) -> RedisResult<Reply> {
        let Durability::Replicated(replicas) = self.durability else {
            return Ok(Reply { value: command.query_async(link).await?, unconfirmed: None });
        };
        let (value, confirmed) = link.confirmed(&command, wrote, replicas, self.patience).await?;
        let unconfirmed = (confirmed < replicas).then_some(StoreError::Unconfirmed { confirmed, wanted: replicas });
        Ok(Reply { value, unconfirmed })
    }
}

fn unknown(error: &RedisError) -> bool {
    refused(error, &["NOSCRIPT"])
}
