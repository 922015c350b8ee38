//! Writers: what a replica writes to one session goes through one queue, a commit at a time.
//!
//! While a commit is under way, further actions gather; the next commit takes them all. So an idle session waits for
//! nothing, a busy one pays for one script where ten events came in, and two actions of one replica never conflict
//! with each other. The writer keeps a copy of the session's control state. It may be out of date: the store says so,
//! with the current one, and the rules run again.
//!
//! A refusal is as good as a write: it is answered only after a commit has confirmed the state it was decided on.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    id::{EntryId, Ms, Name},
    lock::lock,
    metrics::{Appended, METRICS},
    otlp,
    rules::{self, Action, Control, Effects, Limits, Refusal, Reply, command_key},
    store::{Commit, Outcome, Parted, Producer, Snapshot, Store, StoreError, Version, Versions, Window},
};

/// Actions in one commit.
const BATCH_ACTIONS: usize = 128;
/// Bytes of payload in one commit, beyond which no further action joins it: a script holds up all of Redis.
const BATCH_BYTES: usize = 512 * 1024;
/// Actions that may wait for one session. Each belongs to a request that waits for its answer.
const QUEUE_MAX: usize = 4096;
/// How often a commit is decided anew before the session counts as too contended.
const ATTEMPTS: usize = 64;
/// How far the time that new deadlines are made with may be from the store's, in milliseconds.
const CLOCK_TOLERANCE: Ms = 250;
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

/// What the writer believes the session to be.
struct Known {
    version: Option<Version>,
    /// When the session came to be, if there is one.
    created: Option<Ms>,
    control: Control,
    heard: Heard,
}

/// The session's time as the store last told it, and when it was asked and had answered: in between the store looked at its
/// clock.
#[derive(Clone, Copy)]
struct Heard {
    time: Ms,
    asked: Instant,
    answered: Instant,
}

impl Heard {
    fn now(time: Ms, asked: Instant) -> Self {
        Heard { time, asked, answered: Instant::now() }
    }

    /// The time that it is now at least: what is due by it is due.
    fn least(&self) -> Ms {
        self.time + self.answered.elapsed().as_millis() as Ms
    }

    /// The time that it is now at most: a deadline reckoned from it does not come too early.
    fn most(&self) -> Ms {
        self.time + self.asked.elapsed().as_millis() as Ms
    }
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

impl Known {
    fn absent(limits: Limits) -> Self {
        // Our own clock stands in until the store has told its own; nothing is due in a session that does not exist.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as Ms);
        Known { version: None, created: None, control: Control::new(limits), heard: Heard::now(now, Instant::now()) }
    }

    fn read(snapshot: &Snapshot, asked: Instant, limits: Limits) -> Result<Self, StoreError> {
        let heard = Heard::now(snapshot.now, asked);
        Ok(match &snapshot.state {
            Some(state) => Known {
                version: Some(state.version.clone()),
                created: Some(state.created),
                control: Control::read(state, limits)?,
                heard,
            },
            None => Known { heard, ..Known::absent(limits) },
        })
    }

    /// The commit happened.
    fn settle(&mut self, decided: &Decided, heard: Heard, parts: &[Parted]) {
        self.heard = heard;
        let (commit, now) = (&decided.commit, heard.time);
        let changed = !commit.changes.is_empty() || commit.closes;
        // Parts that were all refused have not brought a session into being.
        let begun = self.version.is_none() && parts.iter().any(|part| matches!(part, Parted::Appended { .. }));
        if changed || begun {
            self.created = self.created.or(Some(now));
            self.version = commit.version.clone();
        }
        let commands = commit.parts.iter().zip(parts).filter(|(part, _)| !part.commands.is_empty());
        let ids = commands.flat_map(|(part, parted)| {
            let from = match parted {
                Parted::Appended { commands_from, .. } => *commands_from,
                _ => 0,
            };
            (from..).take(part.commands.len()).map(|n| EntryId { ms: now, n })
        });
        for (id, entry) in decided.issued.iter().zip(ids) {
            self.control.set_entry(id, entry);
        }
        for run in commit.parts.iter().flat_map(|part| &part.touch) {
            self.control.touch(run, now);
        }
    }
}

/// A batch, decided on one state.
struct Decided {
    commit: Commit,
    issued: Vec<Name>,
    /// For each action of the batch: what the rules say, and which part is its own.
    verdicts: Vec<(Result<Reply, Refusal>, Option<usize>)>,
}

impl Decided {
    /// Whether no part was refused that was to renew a lease: the copy of the control state believes that it did.
    fn renews_as_decided(&self, parts: &[Parted]) -> bool {
        self.commit.parts.iter().zip(parts).all(|(part, parted)| part.touch.is_empty() || parted.is_stored())
    }
}

fn decide(copy: &mut Known, batch: &[Waiting], versions: &Versions) -> Decided {
    let (least, most) = (copy.heard.least(), copy.heard.most());
    let mut effects = Effects::default();
    rules::judge(&mut copy.control, least, &mut effects);
    // The first deadline that has been judged as not passed. Those that the actions add are no part of the judgement:
    // when they pass, before this commit or after, is judged at the next touch.
    let before = copy.control.next_due().map_or(Ms::MAX, |(at, _)| at);
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        let parts = effects.parts.len();
        let verdict = match &waiting.action {
            _ if waiting.wrote.is_some_and(|wrote| copy.created.is_none_or(|created| created > wrote)) => {
                Err(Refusal::SessionGone)
            }
            // That would bring it into being, closed.
            Action::Close if copy.version.is_none() && parts == 0 => Err(Refusal::UnknownSession),
            action => rules::apply(&mut copy.control, most, action, &mut effects),
        };
        verdicts.push((verdict, (effects.parts.len() > parts).then_some(parts)));
    }
    let changes = copy.control.take_changes();
    let not_before = if effects.judged { least } else { 0 };
    let mut window = Window { not_before, before: before.min(effects.before) };
    if !changes.is_empty() {
        // Records carry deadlines, made with a time that is only reckoned (or even our own clock's, where the store
        // has not told its own yet). If that is wrong, the store says so.
        window.not_before = window.not_before.max(least.saturating_sub(CLOCK_TOLERANCE));
        window.before = window.before.min(most.saturating_add(CLOCK_TOLERANCE));
    }
    let needed = copy.version.is_none() || effects.closes || !changes.is_empty();
    let commit = Commit {
        expect: copy.version.clone(),
        version: needed.then(|| versions.fresh()),
        window,
        untouched: effects.untouched,
        changes,
        issued: effects.issued.iter().map(command_key).collect(),
        closes: effects.closes,
        parts: effects.parts,
    };
    Decided { commit, issued: effects.issued, verdicts }
}

fn answer(batch: Vec<Waiting>, decided: Decided, control: &mut Control, now: Ms, parts: Vec<Parted>) {
    let due = control.next_due().map(|(at, _)| at);
    for (waiting, (verdict, part)) in batch.into_iter().zip(decided.verdicts) {
        let answer = match verdict {
            Err(refusal) => Err(refusal.into()),
            Ok(mut reply) => {
                bound_leases(&mut reply, now);
                done(reply, part.map(|at| (&decided.commit.parts[at], &parts[at])), control, now, due)
            }
        };
        // Whoever asked may have gone.
        let _ = waiting.done.send(answer);
    }
}

/// A lease is renewed to the store's time, which nobody knew when the reply was made: that had the latest that it could be.
fn bound_leases(reply: &mut Reply, now: Ms) {
    let views = match reply {
        Reply::Run(view) => std::slice::from_mut(view),
        Reply::Appended(views) => &mut views[..],
        Reply::Done | Reply::Accepted(_) | Reply::Known(_) => &mut [],
    };
    for view in views {
        view.lease_until = view.lease_until.map(|until| until.min(now + view.lease_ms));
    }
}

fn done(
    reply: Reply,
    part: Option<(&crate::store::Part, &Parted)>,
    control: &Control,
    now: Ms,
    due: Option<Ms>,
) -> Result<Done, WriteError> {
    let mut done = Done { reply, ids: Vec::new(), skipped: 0, duplicate: false, now, due };
    if let Reply::Accepted(id) | Reply::Known(id) = &done.reply {
        done.ids.extend(control.command(id).and_then(|command| command.entry));
        return Ok(done);
    }
    match part {
        None => {}
        Some((part, Parted::Appended { events_from, skipped, .. })) => {
            let count = (part.events.len() - skipped) as u64;
            done.skipped = *skipped;
            done.ids = (*events_from..events_from + count).map(|n| EntryId { ms: now, n }).collect();
        }
        Some((part, Parted::Duplicate(ids))) => {
            done.duplicate = true;
            done.skipped = part.events.len();
            done.ids = ids.clone().unwrap_or_default();
        }
        Some((_, refused)) => return Err(WriteError::Producer(refused.clone())),
    }
    Ok(done)
}
