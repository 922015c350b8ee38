//! What is read: pages, what a session holds, where a producer stands. Each question is one transaction on a pooled
//! connection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{Pool, PoolError, TimeoutType},
};
use redis::Pipeline;
use tokio::sync::Notify;

use super::{
    Keys, RedisConfig, commit,
    reply::Replies,
    wire::{Wire, Wires},
};
use crate::{
    id::{EntryId, Lane, Ms, Name},
    metrics::{Asked, METRICS},
    otlp,
    store::{Entry, Extent, Lost, Page, ProducerState, ReadFrom, Stat, StoreError},
};

/// Asks on behalf of anybody.
#[derive(Clone)]
pub struct Pages {
    keys: Keys,
    pool: Pool<Wires>,
    timeout: Duration,
    /// An answer did not come in time.
    late: Arc<Notify>,
}

impl Pages {
    pub fn new(keys: Keys, wires: Wires, config: &RedisConfig) -> Result<Self, StoreError> {
        let pool = Pool::builder(wires)
            .max_size(config.page_connections.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(config.timeout * 5))
            .create_timeout(Some(config.timeout))
            .build()
            .map_err(|error| StoreError::Fault(error.to_string()))?;
        Ok(Pages { keys, pool, timeout: config.timeout, late: Arc::default() })
    }

    /// The same for sessions under other keys.
    pub fn of(&self, keys: Keys) -> Self {
        Pages { keys, ..self.clone() }
    }

    /// Drops the connections that wait for a question: they may lead nowhere.
    pub fn renew(&self) {
        self.pool.retain(|_, _| false);
    }

    pub async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        let key = self.keys.lane(session, lane);
        let last_field = if lane == Lane::Events { "e" } else { "c" };
        let mut pipe = Pipeline::new();
        pipe.cmd("HMGET").arg(self.keys.meta(session)).arg(&["at", "x", last_field]);
        pipe.cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(1);
        match from {
            ReadFrom::Start => pipe.cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(limit),
            // From the cursor itself on: its presence is the proof that the log still continues it.
            ReadFrom::After(id) => {
                pipe.cmd("XRANGE").arg(&key).arg(id.to_string()).arg("+").arg("COUNT").arg(limit.saturating_add(1))
            }
            ReadFrom::At(id) => pipe.cmd("XRANGE").arg(&key).arg(id.to_string()).arg("+").arg("COUNT").arg(limit),
            ReadFrom::Latest => pipe.cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(limit),
        };
        let mut replies = self.transaction(session, pipe).await?;
        replies.array_of(3)?;
        let (created, closed) = (replies.optional::<Ms>()?, replies.optional::<Ms>()?);
        let last = replies.optional()?.unwrap_or_default();
        let extent = Extent { first: first(replies.entries()?), last };
        let (exists, closed, mut entries) = (created.is_some(), closed.is_some(), replies.entries()?);
        match from {
            ReadFrom::Latest => entries.reverse(),
            ReadFrom::After(EntryId::ZERO) if extent.is_whole() => entries.truncate(limit),
            ReadFrom::After(id) if first_is(&entries, id) => drop(entries.remove(0)),
            ReadFrom::After(id) => {
                let start = Box::pin(self.read(session, lane, ReadFrom::Start, limit)).await?;
                return Ok(Page { lost: Some(Lost::why(id, created, extent)), ..start });
            }
            ReadFrom::Start | ReadFrom::At(_) => {}
        }
        Ok(Page { exists, closed, extent, lost: None, entries })
    }

    pub async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError> {
        let mut pipe = Pipeline::new();
        pipe.cmd("TIME");
        pipe.cmd("HGETALL").arg(self.keys.meta(session));
        for lane in Lane::ALL {
            pipe.cmd("XRANGE").arg(self.keys.lane(session, lane)).arg("-").arg("+").arg("COUNT").arg(1);
        }
        let mut replies = self.transaction(session, pipe).await?;
        replies.array_of(2)?;
        let (seconds, micros): (Ms, Ms) = (replies.parsed()?, replies.parsed()?);
        let fields = replies.pairs()?;
        let mut extent = |last_field: &str| -> Result<Extent, StoreError> {
            let last = fields.iter().find(|(field, _)| field == last_field);
            let last = last.map(|(_, id)| super::reply::parse(id)).transpose()?.unwrap_or_default();
            Ok(Extent { first: first(replies.entries()?), last })
        };
        let lanes = [extent("e")?, extent("c")?];
        let now = (seconds * 1000 + micros / 1000).max(lanes[0].last.ms).max(lanes[1].last.ms);
        let mut snapshot = commit::snapshot(now, fields)?;
        snapshot.now = now.max(snapshot.state.as_ref().map_or(0, |state| state.created));
        Ok(snapshot.state.is_some().then_some(Stat { snapshot, lanes }))
    }

    pub async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        let mut pipe = Pipeline::new();
        pipe.cmd("HGET").arg(self.keys.meta(session)).arg(format!("p.{producer}"));
        let Some(life) = self.transaction(session, pipe).await?.optional::<String>()? else { return Ok(None) };
        let mut numbers = life.split(' ').map(|part| part.parse::<u64>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(epoch), Some(next_seq)) => Ok(Some(ProducerState { epoch, next_seq })),
            _ => Err(StoreError::Fault(format!("a producer reads {life:?}"))),
        }
    }

    /// Runs commands about a session that only read, at one instant; gives their replies.
    async fn transaction(&self, session: &Name, mut commands: Pipeline) -> Result<Replies, StoreError> {
        let (since, _step) = (Instant::now(), otlp::step("read"));
        let answer = self.transact(session, commands.atomic()).await;
        METRICS.asked(Asked::Read, since, &answer);
        answer
    }

    async fn transact(&self, session: &Name, commands: &Pipeline) -> Result<Replies, StoreError> {
        let wire = tokio::select! {
            biased;
            wire = self.pool.get() => wire,
            // What has waited behind a question without an answer must not wait for a row of others like it.
            () = self.late.notified() => return Err(super::late(self.timeout)),
        };
        if matches!(wire, Err(PoolError::Timeout(TimeoutType::Create))) {
            self.late.notify_waiters();
        }
        let mut wire = wire.map_err(|error| match error {
            PoolError::Backend(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        })?;
        let asked = Instant::now();
        let replies = wire.ask(&commands.get_packed_pipeline(), commands.len() + 2).await;
        if replies.is_err() && asked.elapsed() >= self.timeout {
            self.late.notify_waiters();
        }
        let mut replies = replies?;
        // MULTI, and each command as it was queued. What refuses one of them says more than that EXEC is refused then.
        let queued = (0..=commands.len()).map(|_| replies.status()).collect::<Vec<_>>();
        match queued.into_iter().find_map(Result::err) {
            // When its memory is full Redis queues no commands for a transaction, but a script may still read. Not the
            // usual way: a page that passes through Lua costs more.
            Some(StoreError::Unavailable(why)) if why.starts_with("OOM") => {
                replies = self.through_a_script(session, commands, &mut wire).await?;
            }
            Some(error) => return Err(error),
            None => {}
        }
        replies.array_of(commands.len())?;
        Ok(replies)
    }

    async fn through_a_script(
        &self,
        session: &Name,
        commands: &Pipeline,
        wire: &mut Wire,
    ) -> Result<Replies, StoreError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(include_str!("read.lua")).arg(1).arg(self.keys.meta(session));
        for command in commands.cmd_iter() {
            let words = command.args_iter().filter_map(|word| match word {
                redis::Arg::Simple(word) => Some(word),
                _ => None,
            });
            let words: Vec<&[u8]> = words.collect();
            eval.arg(words.len()).arg(words);
        }
        wire.ask(&eval.get_packed_command(), 1).await
    }
}

fn first(entries: Vec<Entry>) -> Option<EntryId> {
    entries.first().map(|entry| entry.id)
}

fn first_is(entries: &[Entry], id: EntryId) -> bool {
    entries.first().is_some_and(|entry| entry.id == id)
}
