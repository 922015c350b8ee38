//! Guarantees 3 and 4 on both stores: whatever agents and users do to a session through several replicas at once, its
//! log tells one consistent story, and the control state is what that story implies.
//!
//! A history is made of rounds. What is done in one round is done at the same time, by different replicas; between
//! rounds time passes. The store is slow in places, and sometimes does a thing and loses the answer. Then the log is
//! read from its beginning and held to the rules, which [`log`] states once more, in another form.

mod log;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use moorline::{
    event::{Defaults, Event},
    id::{EntryId, Lane, Ms, Name},
    rules::{
        Action, Append, ApprovalRequest, CommandRequest, Control, Decision, EndStatus, Limits, OutcomeRequest, Reply,
        Reported, RunRequest, Verdict,
    },
    store::{
        Commit, Outcome, Page, ProducerState, ReadFrom, Retention, Stat, Store, StoreError, Subscription, Tail,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
    writer::{WriteError, Writers},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{json, value::to_raw_value};

use crate::support::{redis::RedisServer, unique};

const REPLICAS: usize = 3;
const RUNS: u8 = 5;
const AGENTS: u8 = 2;
const APPROVALS: u8 = 4;

/// Histories on the memory store; MOORLINE_MODEL_CASES for more. On Redis time is real and costs some, so a tenth.
const CASES: u32 = 300;

#[derive(Debug, Clone)]
enum Op {
    Start { run: u8, agent: u8, parent: Option<u8>, lease: i64, takeover: bool },
    Append { run: u8, attempt: Claim, events: usize },
    End { run: u8, attempt: Claim, status: EndStatus },
    Heartbeat { run: u8, attempt: Claim },
    Stop { run: Option<u8>, agent: Option<u8>, tree: bool, grace: i64, ttl: Option<i64> },
    Steer { run: Option<u8>, ttl: Option<i64> },
    Report { command: prop::sample::Index, consumed: bool },
    Ask { approval: u8, run: Option<u8>, expires: i64 },
    Decide { approval: u8, verdict: Verdict },
    Close,
    Tick,
}

/// Which attempt a request says that it comes from.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Silent,
    /// The newest that anybody was told of.
    Newest,
    /// The one before.
    Older,
}

#[derive(Debug, Clone)]
struct Round {
    /// Who does what at the same time.
    ops: Vec<(usize, Op)>,
    /// What passes afterwards. Longer than a lease at times: a crash is an agent that just stops.
    pause: Ms,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let run = || 0..RUNS;
    let claim = || prop_oneof![3 => Just(Claim::Silent), 3 => Just(Claim::Newest), 1 => Just(Claim::Older)];
    let ending = prop::sample::select(vec![EndStatus::Completed, EndStatus::Failed, EndStatus::Cancelled]);
    let verdict = prop::sample::select(vec![Verdict::Approve, Verdict::Deny]);
    let grace = prop::sample::select(vec![0, 0, 1, 10, 60, 200]);
    let op = prop_oneof![
        10 => (run(), 0..AGENTS, prop::option::of(run()), 100..250i64, any::<bool>())
            .prop_map(|(run, agent, parent, lease, takeover)| Op::Start { run, agent, parent, lease, takeover }),
        20 => (run(), claim(), 1..4usize).prop_map(|(run, attempt, events)| Op::Append { run, attempt, events }),
        3 => (run(), claim(), ending).prop_map(|(run, attempt, status)| Op::End { run, attempt, status }),
        3 => (run(), claim()).prop_map(|(run, attempt)| Op::Heartbeat { run, attempt }),
        6 => (prop::option::weighted(0.8, run()), prop::option::of(0..AGENTS), any::<bool>(), grace,
              prop::option::weighted(0.3, 1..100i64))
            .prop_map(|(run, agent, tree, grace, ttl)| Op::Stop { run, agent, tree: tree && run.is_some(), grace, ttl }),
        4 => (prop::option::of(run()), prop::option::of(1..100i64)).prop_map(|(run, ttl)| Op::Steer { run, ttl }),
        4 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(command, consumed)| Op::Report { command, consumed }),
        3 => (0..APPROVALS, prop::option::of(run()), 1..200i64)
            .prop_map(|(approval, run, expires)| Op::Ask { approval, run, expires }),
        4 => (0..APPROVALS, verdict).prop_map(|(approval, verdict)| Op::Decide { approval, verdict }),
        1 => Just(Op::Tick),
    ];
    let pause = prop_oneof![4 => Just(0), 4 => 1..30u64, 1 => 30..300u64];
    // Agents at work and nothing else, for longer than their leases: replicas learn nothing from each other.
    let sign = prop_oneof![
        4 => (run(), claim(), 1..4usize).prop_map(|(run, attempt, events)| Op::Append { run, attempt, events }),
        1 => (run(), claim()).prop_map(|(run, attempt)| Op::Heartbeat { run, attempt }),
        2 => Just(Op::Tick),
    ];
    let at_work = (prop::collection::vec((0..REPLICAS, sign), 1..4), 20..80u64);
    let at_work = at_work.prop_map(|(ops, pause)| Round { ops, pause });
    let round = (prop::collection::vec((0..REPLICAS, op), 1..7), pause).prop_map(|(ops, pause)| Round { ops, pause });
    let round = prop_oneof![
        3 => round.prop_map(|round| vec![round]),
        1 => prop::collection::vec(at_work, 1..8),
    ];
    // Some sessions are closed in the middle of it all.
    let close = prop::option::weighted(0.2, (any::<prop::sample::Index>(), 0..REPLICAS));
    (prop::collection::vec(round, 1..30), close).prop_map(|(rounds, close)| {
        let mut rounds = rounds.concat();
        if let Some((at, replica)) = close {
            let at = at.index(rounds.len());
            rounds[at].ops.push((replica, Op::Close));
        }
        rounds
    })
}

/// A store that takes its time, and now and then does what it was told and fails to say so.
struct Troubled {
    store: Arc<dyn Store>,
    /// Moved on while a commit is under way, where time is ours.
    clock: Option<Arc<AtomicU64>>,
    lossy: bool,
}

#[async_trait]
impl Store for Troubled {
    async fn commit(&self, session: &Name, commit: &Commit) -> Result<Outcome, StoreError> {
        self.dawdle().await;
        let outcome = self.store.commit(session, commit).await;
        self.dawdle().await;
        if self.lossy && fastrand::u32(..40) == 0 {
            return Err(StoreError::Unavailable("the answer was lost".into()));
        }
        outcome
    }

    async fn read(&self, session: &Name, lane: Lane, from: ReadFrom, limit: usize) -> Result<Page, StoreError> {
        self.store.read(session, lane, from, limit).await
    }

    async fn stat(&self, session: &Name) -> Result<Option<Stat>, StoreError> {
        self.store.stat(session).await
    }

    async fn producer(&self, session: &Name, producer: &Name) -> Result<Option<ProducerState>, StoreError> {
        self.store.producer(session, producer).await
    }

    async fn delete(&self, session: &Name) -> Result<bool, StoreError> {
        self.store.delete(session).await
    }

    async fn subscribe(&self, session: &Name, tail: Arc<dyn Tail>) -> Result<Subscription, StoreError> {
        self.store.subscribe(session, tail).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }

    fn kind(&self) -> &'static str {
        self.store.kind()
    }
}

impl Troubled {
    async fn dawdle(&self) {
        for _ in 0..fastrand::u32(..4) {
            tokio::task::yield_now().await;
            if let Some(clock) = &self.clock {
                clock.fetch_add(fastrand::u64(..2), Ordering::Relaxed);
            }
        }
    }
}

/// What became of an append, for the log to be compared with.
#[derive(Debug)]
struct Sent {
    /// The number that each of its events carries.
    number: usize,
    events: usize,
    /// `None`: nobody knows.
    ids: Option<Vec<EntryId>>,
}

/// A session and the replicas that write to it.
struct Scene {
    session: Name,
    replicas: Vec<Arc<Writers>>,
    clock: Option<Arc<AtomicU64>>,
    counted: AtomicU64,
}

/// What the agents and users know after a number of rounds.
#[derive(Debug, Default)]
struct Known {
    /// The newest attempt of each run that anybody was told of.
    attempts: BTreeMap<Name, u32>,
    commands: Vec<Name>,
    sent: Vec<Sent>,
    /// The times of accepted heartbeats; `None` where the answer was lost.
    heartbeats: Vec<(Name, Option<Ms>)>,
}

fn name(text: String) -> Name {
    text.parse().expect("a name")
}

fn run_name(run: u8) -> Name {
    name(format!("r{run}"))
}

impl Scene {
    async fn play(&self, rounds: &[Round]) -> Known {
        let mut known = Known::default();
        for round in rounds {
            let acts = round.ops.iter().map(|(replica, op)| self.act(*replica, op, &known));
            for learnt in join_all(acts).await {
                known.add(learnt);
            }
            match &self.clock {
                Some(clock) => drop(clock.fetch_add(round.pause, Ordering::Relaxed)),
                None => tokio::time::sleep(Duration::from_millis(round.pause)).await,
            }
        }
        known
    }

    /// Does one thing and gives what it taught.
    async fn act(&self, replica: usize, op: &Op, known: &Known) -> Known {
        let number = self.counted.fetch_add(1, Ordering::Relaxed) as usize;
        let Some(action) = action(op, number, known) else { return Known::default() };
        let mut learnt = Known::default();
        if let Action::Command(request) = &action {
            learnt.commands.push(request.id.clone());
        }
        let result = self.replicas[replica].act(&self.session, action).await;
        match (op, result) {
            (Op::Start { run, .. }, Ok(done)) => {
                let Reply::Run(view) = done.reply else { panic!("{:?}", done.reply) };
                learnt.attempts.insert(run_name(*run), view.attempt);
            }
            (Op::Heartbeat { run, .. }, Ok(done)) => learnt.heartbeats.push((run_name(*run), Some(done.now))),
            (Op::Heartbeat { run, .. }, Err(WriteError::Store(_))) => learnt.heartbeats.push((run_name(*run), None)),
            (Op::Append { events, .. }, result) => {
                let ids = match result {
                    Ok(done) => Some(done.ids),
                    Err(WriteError::Store(StoreError::Unavailable(_))) => None,
                    Err(WriteError::Refused(_)) => Some(Vec::new()),
                    Err(error) => panic!("{op:?}: {error}"),
                };
                learnt.sent.push(Sent { number, events: *events, ids });
            }
            (_, Err(WriteError::Store(StoreError::Fault(fault)))) => panic!("{op:?}: {fault}"),
            _ => {}
        }
        learnt
    }
}

impl Known {
    fn add(&mut self, learnt: Known) {
        for (run, attempt) in learnt.attempts {
            let newest = self.attempts.entry(run).or_default();
            *newest = attempt.max(*newest);
        }
        self.commands.extend(learnt.commands);
        self.sent.extend(learnt.sent);
        self.heartbeats.extend(learnt.heartbeats);
    }
}

/// An operation as the rules know it. `None`: it is about something that does not exist.
fn action(op: &Op, number: usize, known: &Known) -> Option<Action> {
    let claimed = |run: u8, claim: &Claim| {
        let newest = known.attempts.get(&run_name(run)).copied().unwrap_or(1);
        match claim {
            Claim::Silent => None,
            Claim::Newest => Some(newest),
            Claim::Older => Some(newest.saturating_sub(1).max(1)),
        }
    };
    let command = |kind: &str| CommandRequest {
        id: name(format!("c{number}")),
        kind: kind.into(),
        agent: None,
        run: None,
        data: None,
        ttl_ms: None,
        grace_ms: None,
        tree: false,
        decision: None,
        by: None,
        traceparent: None,
    };
    Some(match op {
        Op::Start { run, agent, parent, lease, takeover } => Action::Start(RunRequest {
            run: run_name(*run),
            agent: Some(name(format!("a{agent}"))),
            parent: parent.map(run_name),
            lease_ms: Some(*lease),
            takeover: *takeover,
            speaker: None,
        }),
        Op::Append { run, attempt, events } => {
            let attempt = claimed(*run, attempt);
            let event =
                |k| json!({"type": "said", "run": run_name(*run), "data": {"op": number, "k": k, "attempt": attempt}});
            let event = |k| Event::from_json(&event(k).to_string(), &Defaults::default(), 1_000).expect("an event");
            Action::Append(Append { events: (0..*events).map(event).collect(), attempt, ..Append::default() })
        }
        Op::End { run, attempt, status } => Action::End {
            run: run_name(*run),
            attempt: claimed(*run, attempt),
            status: *status,
            reason: None,
            speaker: None,
        },
        Op::Heartbeat { run, attempt } => {
            Action::Heartbeat { run: run_name(*run), attempt: claimed(*run, attempt), speaker: None }
        }
        Op::Stop { run, agent, tree, grace, ttl } => Action::Command(CommandRequest {
            run: run.map(run_name),
            agent: agent.map(|agent| name(format!("a{agent}"))),
            tree: *tree,
            grace_ms: Some(*grace),
            ttl_ms: *ttl,
            ..command("stop")
        }),
        Op::Steer { run, ttl } => {
            Action::Command(CommandRequest { run: run.map(run_name), ttl_ms: *ttl, ..command("steer") })
        }
        Op::Report { command, consumed } => {
            let commands = &known.commands;
            let command = commands.get(command.index(commands.len().max(1)))?.clone();
            let outcome = if *consumed { Reported::Consumed } else { Reported::Rejected };
            Action::Outcome(OutcomeRequest { command, outcome, reason: None, attempt: None, speaker: None })
        }
        Op::Ask { approval, run, expires } => Action::Approval(ApprovalRequest {
            approval: name(format!("ask{approval}")),
            agent: None,
            run: run.map(run_name),
            attempt: None,
            prompt: to_raw_value("sure?").expect("JSON"),
            expires_ms: Some(*expires),
            on_expiry: Verdict::Deny,
            speaker: None,
        }),
        Op::Decide { approval, verdict } => {
            let data = to_raw_value(&json!({"decision": verdict})).expect("JSON");
            let decision = Decision { approval: name(format!("ask{approval}")), verdict: *verdict, data };
            Action::Command(CommandRequest { decision: Some(decision), ..command("decide") })
        }
        Op::Close => Action::Close,
        Op::Tick => Action::Tick,
    })
}

/// All entries of a lane.
async fn entries(store: &Arc<dyn Store>, session: &Name, lane: Lane) -> Vec<(EntryId, serde_json::Value)> {
    let page = store.read(session, lane, ReadFrom::Start, 100_000).await.expect("a page");
    let entry = |entry: &moorline::store::Entry| (entry.id, serde_json::from_slice(&entry.payload).expect("JSON"));
    page.entries.iter().map(entry).collect()
}

/// Plays a history and compares log, answers and control state.
async fn hold(
    store: Arc<dyn Store>,
    replicas: Vec<Arc<dyn Store>>,
    clock: Option<Arc<AtomicU64>>,
    lossy: bool,
    rounds: &[Round],
) -> Result<(), TestCaseError> {
    let replica = |store| {
        Writers::new(Arc::new(Troubled { store, clock: clock.clone(), lossy }), Limits { runs: 4, ..Limits::default() })
    };
    let session = name(unique("s"));
    let scene = Scene {
        session: session.clone(),
        replicas: replicas.into_iter().map(replica).collect(),
        clock: clock.clone(),
        counted: AtomicU64::new(0),
    };
    let known = scene.play(rounds).await;

    let Some(stat) = store.stat(&session).await.expect("a stat") else { return Ok(()) };
    let state = stat.snapshot.state.expect("a session");
    let events = entries(&store, &session, Lane::Events).await;
    let commands = entries(&store, &session, Lane::Commands).await;
    let story = log::replay(&events, &known.heartbeats)?;
    for sent in &known.sent {
        let found: Vec<_> = events.iter().filter(|(_, e)| e["data"]["op"] == sent.number).map(|(id, _)| *id).collect();
        match &sent.ids {
            Some(ids) => prop_assert_eq!(&found, ids, "{:?} was answered otherwise", sent),
            None => {
                prop_assert!(found.is_empty() || found.len() == sent.events, "{:?} is half there: {:?}", sent, found)
            }
        }
    }
    let control = Control::read(&state, Limits::default()).expect("readable records");
    story.agrees_with(&control, &commands)?;
    Ok(())
}

fn cases(of: u32) -> u32 {
    let asked = std::env::var("MOORLINE_MODEL_CASES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(CASES) / of
}

fn check(cases: u32, hold: impl Fn(Vec<Round>) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let hold = |(rounds, seed)| {
        // The store's troubles are the same when a history is played again, to shrink it.
        fastrand::seed(seed);
        hold(rounds)
    };
    TestRunner::new(config).run(&(rounds(), any::<u64>()), hold).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_history_in_memory_tells_one_story() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    check(cases(1), |rounds| {
        // The replicas' own clocks are far off, and only the store's counts.
        let clock = Arc::new(AtomicU64::new(5_000_000));
        let tell = clock.clone();
        let memory = MemoryStore::with_clock(Retention::default(), Arc::new(move || tell.load(Ordering::Relaxed)));
        let store: Arc<dyn Store> = Arc::new(memory);
        runtime.block_on(hold(store.clone(), vec![store; REPLICAS], Some(clock), true, &rounds))
    });
}

#[test]
fn every_history_in_redis_tells_one_story() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let replicas: Vec<Arc<dyn Store>> = runtime.block_on(async {
        let prefix = unique("model") + ":";
        let connect = || async {
            let config = RedisConfig { prefix: prefix.clone(), ..RedisConfig::new(RedisServer::shared().url()) };
            Arc::new(RedisStore::connect(config).await.expect("a connection to Redis")) as Arc<dyn Store>
        };
        join_all((0..REPLICAS).map(|_| connect())).await
    });
    check(cases(10), |rounds| runtime.block_on(hold(replicas[0].clone(), replicas.clone(), None, true, &rounds)));
}
