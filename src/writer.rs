//! Writers: what a replica writes to one session goes through one queue, a commit at a time.
//!
//! While a commit is under way, further actions gather; the next commit takes them all. So an idle session waits for
//! nothing, a busy one pays for one script where ten events came in, and two actions of one replica never conflict
//! with each other. The writer keeps a copy of the session's control state. It may be out of date: the store says so,
//! with the current one, and the rules run again.
//!
//! A refusal is as good as a write: it is answered only after a commit has confirmed the state it was decided on.

mod decide;

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    id::{EntryId, Ms, Name},
    lock::lock,
    metrics::{Appended, METRICS},
    otlp,
    rules::{Action, Limits, Refusal, Reply},
    store::{Outcome, Parted, Producer, Store, StoreError, Versions},
};
use decide::{Heard, Known, answer, decide};

/// Actions in one commit.
const BATCH_ACTIONS: usize = 128;
/// Bytes of payload in one commit, beyond which no further action joins it: a script holds up all of Redis.
const BATCH_BYTES: usize = 512 * 1024;
/// Actions that may wait for one session. Each belongs to a request that waits for its answer.
const QUEUE_MAX: usize = 4096;
/// How often a commit is decided anew before the session counts as too contended.
const ATTEMPTS: usize = 64;
/// A commit that fails after so long has waited for the store in vain; one that fails sooner was told.
const SLOW: Duration = Duration::from_millis(200);
/// Writers that nobody used for so long are dropped, and with them their copy of the control state.
const IDLE: Duration = Duration::from_secs(60);

/// What an accepted action did.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What the rules answer.
    pub reply: Reply,
    /// The ids of the events it appended; of a duplicate, those of the first time if they are known.
    pub ids: Vec<EntryId>,
    /// How many of its events were stored before.
    pub skipped: usize,
    /// All of its events were stored before.
    pub duplicate: bool,
    /// The session's time; 0 where it was not asked for.
    pub now: Ms,
    /// When something is due next.
    pub due: Option<Ms>,
}

/// Why an action was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The producer's numbering says no.
    #[error("the producer's numbering does not fit: {0:?}")]
    Producer(Parted),
    /// The store could not; whether the action was done is unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too much is waiting already; the action was not done.
    #[error("too many writes wait for this session")]
    Overloaded,
}

/// The writers of a replica.
pub struct Writers {
    store: Arc<dyn Store>,
    limits: Limits,
    versions: Versions,
    by_session: Mutex<HashMap<Name, Arc<Writer>>>,
}

struct Writer {
    session: Name,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    /// Somebody is at work on the queue.
    running: bool,
    used: Option<Instant>,
    /// Taken by the running task.
    copy: Option<Known>,
}

struct Waiting {
    action: Action,
    /// When the request to which it belongs has written before: it is for the session that was there then.
    wrote: Option<Ms>,
    done: oneshot::Sender<Result<Done, WriteError>>,
}

impl Writers {
    /// The writers for this store. A task drops the idle ones, for as long as the result lives.
    pub fn new(store: Arc<dyn Store>, limits: Limits) -> Arc<Self> {
        let writers =
            Arc::new(Writers { store, limits, versions: Versions::default(), by_session: Default::default() });
        tokio::spawn(sweep(Arc::downgrade(&writers)));
        writers
    }

    /// Does one thing to a session. Once polled, it is done even if the caller goes away.
    pub async fn act(self: &Arc<Self>, session: &Name, action: Action) -> Result<Done, WriteError> {
        self.go_on(session, action, None).await
    }

    /// The same for a request that has written to the session before, at this time of the session. If it is another one by
    /// now, or none, the request is refused.
    pub async fn go_on(
        self: &Arc<Self>,
        session: &Name,
        action: Action,
        wrote: Option<Ms>,
    ) -> Result<Done, WriteError> {
        if !matches!(action, Action::Append(_)) {
            return self.queue(session, action, wrote).await;
        }
        let since = std::time::Instant::now();
        let answer = self.queue(session, action, wrote).await;
        METRICS.append(appended(&answer), since);
        answer
    }

    async fn queue(self: &Arc<Self>, session: &Name, action: Action, wrote: Option<Ms>) -> Result<Done, WriteError> {
        let (done, answer) = oneshot::channel();
        let numbered = match &action {
            Action::Append(append) => append.producer.clone().map(|producer| (producer, append.events.len())),
            _ => None,
        };
        let _step = otlp::step("commit");
        let work = {
            let mut by_session = lock(&self.by_session);
            let writer = by_session
                .entry(session.clone())
                .or_insert_with(|| Arc::new(Writer { session: session.clone(), state: Default::default() }));
            let mut state = lock(&writer.state);
            if state.queue.len() >= QUEUE_MAX {
                return Err(WriteError::Overloaded);
            }
            state.queue.push_back(Waiting { action, wrote, done });
            let idle = !std::mem::replace(&mut state.running, true);
            idle.then(|| Work::new(self.clone().run(writer.clone())))
        };
        let answer = match work {
            Some(work) => work.until(answer).await,
            None => answer.await,
        };
        let answer = answer.unwrap_or_else(|_| Err(StoreError::Fault("the writer ended".into()).into()));
        match (&answer, numbered) {
            (Err(WriteError::Refused(Refusal::RunEnded { .. } | Refusal::SessionClosed)), Some((producer, count))) => {
                let known = self.stored_before(session, &producer, count).await?;
                known.map_or(answer, Ok)
            }
            _ => answer,
        }
    }

    /// What is refused now may have been stored before its run or its session ended, and only the answer was lost: then
    /// the producer gets to know that.
    async fn stored_before(
        &self,
        session: &Name,
        producer: &Producer,
        count: usize,
    ) -> Result<Option<Done>, StoreError> {
        let state = self.store.producer(session, &producer.id).await?;
        let stored = state.is_some_and(|state| {
            state.epoch == producer.epoch && producer.seq.saturating_add(count as u64) <= state.next_seq
        });
        let reply = Reply::Appended(Vec::new());
        Ok(stored.then_some(Done { reply, ids: Vec::new(), skipped: count, duplicate: true, now: 0, due: None }))
    }

    async fn run(self: Arc<Self>, writer: Arc<Writer>) {
        let mut busy = Busy { writer: &writer, done: false };
        loop {
            let (batch, copy) = {
                let mut state = lock(&writer.state);
                let batch = state.next_batch();
                if batch.is_empty() {
                    state.running = false;
                    state.used = Some(Instant::now());
                    busy.done = true;
                    return;
                }
                (batch, state.copy.take())
            };
            let copy = self.commit(&writer, copy, batch).await;
            lock(&writer.state).copy = copy;
        }
    }

    /// Commits a batch and answers it. Gives the copy to go on with; `None` if nothing is known any more.
    async fn commit(&self, writer: &Writer, copy: Option<Known>, mut batch: Vec<Waiting>) -> Option<Known> {
        let mut copy = copy.unwrap_or_else(|| Known::absent(self.limits));
        for _ in 0..ATTEMPTS {
            let decided = decide(&mut copy, &batch, &self.versions);
            let asked = Instant::now();
            match self.store.commit(&writer.session, &decided.commit).await {
                Ok(Outcome::Committed { now, parts }) => {
                    METRICS.committed(&decided.commit, &parts);
                    copy.settle(&decided, Heard::now(now, asked), &parts);
                    let sure = decided.renews_as_decided(&parts);
                    answer(batch, decided, &mut copy.control, now, parts);
                    return sure.then_some(copy);
                }
                Ok(Outcome::Conflict(snapshot)) => {
                    METRICS.conflicts.add(1);
                    match Known::read(&snapshot, asked, self.limits) {
                        Ok(current) => copy = current,
                        Err(error) => return fail(batch, error),
                    }
                }
                Err(error) => {
                    // What has waited behind this must not wait for a row of others like it.
                    if asked.elapsed() >= SLOW && matches!(error, StoreError::Unavailable(_)) {
                        batch.extend(std::mem::take(&mut lock(&writer.state).queue));
                    }
                    return fail(batch, error);
                }
            }
        }
        fail(batch, StoreError::Unavailable("too many replicas write to this session's control state at once".into()))
    }
}

/// Somebody is at work on a queue. If that does not come to its end (it has panicked), those who wait are told, and the next
/// one begins anew.
struct Busy<'a> {
    writer: &'a Writer,
    done: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = lock(&self.writer.state);
            (state.running, state.used) = (false, Some(Instant::now()));
            state.queue.clear();
        }
    }
}

/// The work on a queue. Whoever finds the queue idle does it, for as long as it waits for its own answer: mostly that is
/// all there is, and no task has to be made and woken for it (3 to 4 % of the gateway's time for an append, measured). What
/// is left then, or if the caller goes away, is done by a task.
struct Work(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Work {
    fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Work(Some(Box::pin(work)))
    }

    async fn until<T>(mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        poll_fn(|context| {
            // Taken out meanwhile: what has panicked is not to be gone on with.
            self.0 = self.0.take().and_then(|mut work| work.as_mut().poll(context).is_pending().then_some(work));
            answer.as_mut().poll(context)
        })
        .await
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// How an append ended, for those who count.
fn appended(answer: &Result<Done, WriteError>) -> Appended {
    match answer {
        Ok(done) if done.duplicate => Appended::Duplicate,
        Ok(_) => Appended::Stored,
        Err(WriteError::Refused(_) | WriteError::Producer(_)) => Appended::Refused,
        Err(WriteError::Store(_) | WriteError::Overloaded) => Appended::Failed,
    }
}

fn fail(batch: Vec<Waiting>, error: StoreError) -> Option<Known> {
    for waiting in batch {
        // Whoever asked may have gone.
        let _ = waiting.done.send(Err(error.clone().into()));
    }
    None
}

async fn sweep(writers: Weak<Writers>) {
    let mut every = tokio::time::interval(IDLE / 2);
    loop {
        every.tick().await;
        let Some(writers) = writers.upgrade() else { return };
        lock(&writers.by_session).retain(|_, writer| {
            let state = lock(&writer.state);
            state.running || state.used.is_none_or(|used| used.elapsed() < IDLE)
        });
    }
}

impl State {
    fn next_batch(&mut self) -> Vec<Waiting> {
        let (mut batch, mut bytes) = (Vec::with_capacity(self.queue.len().min(BATCH_ACTIONS)), 0);
        while batch.len() < BATCH_ACTIONS && bytes < BATCH_BYTES {
            let Some(waiting) = self.queue.pop_front() else { break };
            if let Action::Append(append) = &waiting.action {
                bytes += append.events.iter().map(|event| event.payload.len()).sum::<usize>();
            }
            batch.push(waiting);
        }
        batch
    }
}
