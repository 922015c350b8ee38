//! A crowd of agents and clients that goes on whatever happens to replicas, connections and Redis, and then holds each
//! other to account: what was acknowledged is in the log once, and what every client saw is the log.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use moorline::{id::EntryId, sse::decode::Decoder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::http;

/// How large the crowd is, and where it goes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Gateways, or load balancers before them; a request that fails is tried at the next.
    pub urls: Vec<String>,
    pub sessions: usize,
    pub agents: usize,
    pub clients: usize,
    /// Between two appends of an agent.
    pub pause: Duration,
    /// How often in a row the same append may fail.
    pub retries: usize,
    /// A client or agent that gets nowhere for so long is stuck.
    pub patience: Duration,
}

/// The crowd at work.
pub struct Crowd {
    shared: Arc<Shared>,
    agents: Vec<JoinHandle<u64>>,
    clients: Vec<JoinHandle<Vec<EntryId>>>,
}

struct Shared {
    plan: Plan,
    http: reqwest::Client,
    stop: AtomicBool,
    /// The last entry of each session, once nothing comes after it.
    last: Mutex<HashMap<usize, EntryId>>,
    tally: Tally,
}

/// What the crowd went through.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: AtomicUsize,
    pub retries: AtomicUsize,
    pub most_retries: AtomicUsize,
    pub duplicates: AtomicUsize,
    pub resumes: AtomicUsize,
    /// Streams that were answered.
    pub streams: AtomicUsize,
    /// The longest time between an append's first try and its acknowledgement, in milliseconds.
    pub slowest_ms: AtomicUsize,
}

impl Crowd {
    pub fn start(plan: Plan) -> Self {
        let (agents, clients) = (plan.agents, plan.clients);
        let shared = Arc::new(Shared {
            plan,
            http: http(),
            stop: AtomicBool::new(false),
            last: Mutex::default(),
            tally: Tally::default(),
        });
        Crowd {
            agents: (0..agents).map(|n| tokio::spawn(agent(shared.clone(), n))).collect(),
            clients: (0..clients).map(|n| tokio::spawn(client(shared.clone(), n))).collect(),
            shared,
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Lets the agents finish what they are at, waits for every client to have all of it, and compares.
    pub async fn settle(self) {
        let Crowd { shared, agents, clients } = self;
        shared.stop.store(true, Relaxed);
        let mut counts = Vec::new();
        for agent in agents {
            counts.push(agent.await.expect("an agent that comes to its end"));
        }
        let mut logs = Vec::new();
        for session in 0..shared.plan.sessions {
            let log = shared.log(session).await;
            shared.check(session, &log, &counts);
            let ids: Vec<EntryId> = log.into_iter().map(|(id, _)| id).collect();
            let last = ids.last().copied().expect("an entry");
            shared.last.lock().unwrap_or_else(PoisonError::into_inner).insert(session, last);
            logs.push(ids);
        }
        for (n, client) in clients.into_iter().enumerate() {
            let seen = client.await.expect("a client that comes to its end");
            assert!(seen == logs[n % shared.plan.sessions], "client {n} has seen something else than the log");
        }
        let tally = &shared.tally;
        println!("{tally:?}, {} agents, {} clients: gaps 0, repetitions 0", counts.len(), shared.plan.clients);
    }
}

impl Shared {
    fn url(&self, turn: usize, session: usize) -> String {
        format!("{}/v1/sessions/s{session}/events", self.plan.urls[turn % self.plan.urls.len()])
    }

    /// A session's log, read to its end.
    async fn log(&self, session: usize) -> Vec<(EntryId, Value)> {
        let (mut log, mut after, since) = (Vec::new(), String::new(), Instant::now());
        for turn in 0.. {
            let page = self.http.get(format!("{}?limit=1000{after}", self.url(turn, session))).send().await;
            let page = match page {
                Ok(page) if page.status() == 200 => page.json::<Value>().await.ok(),
                _ => None,
            };
            let Some(mut page) = page else {
                assert!(since.elapsed() < self.plan.patience, "the log of {session} can't be read");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            for mut event in page["events"].as_array_mut().expect("events").drain(..) {
                log.push((event["id"].as_str().expect("an id").parse().expect("an id"), event["data"].take()));
            }
            if page["up_to_date"] == true {
                break;
            }
            after = format!("&after={}", page["next"].as_str().expect("next"));
        }
        log
    }

    /// Every agent's events, each once and in order, numbered without a hole, and nothing else.
    fn check(&self, session: usize, log: &[(EntryId, Value)], counts: &[u64]) {
        let mut next: HashMap<u64, u64> = HashMap::new();
        for (at, (id, data)) in log.iter().enumerate() {
            assert_eq!(id.n, at as u64 + 1, "session {session}");
            let (agent, n) = (data["agent"].as_u64().expect("an agent"), data["n"].as_u64().expect("a number"));
            let expected = next.entry(agent).or_default();
            assert_eq!(n, *expected, "agent {agent} at {id} of session {session}");
            *expected += 1;
        }
        for (agent, count) in counts.iter().enumerate().filter(|(agent, _)| agent % self.plan.sessions == session) {
            let logged = next.get(&(agent as u64)).copied().unwrap_or(0);
            assert_eq!(logged, *count, "agent {agent} of session {session}: in the log, acknowledged");
        }
    }
}

/// Appends as an idempotent producer until told to stop. Gives how many events were acknowledged: all that it sent.
async fn agent(shared: Arc<Shared>, agent: usize) -> u64 {
    let (plan, tally, session) = (&shared.plan, &shared.tally, agent % shared.plan.sessions);
    let mut seq = 0;
    while !shared.stop.load(Relaxed) || seq == 0 {
        let batch = fastrand::u64(1..=3);
        let events: Vec<Value> =
            (seq..seq + batch).map(|n| json!({"type": "n", "data": {"agent": agent, "n": n}})).collect();
        let first = Instant::now();
        for attempt in 0.. {
            let request = shared.http.post(shared.url(agent + attempt, session)).json(&events);
            let request = request.header("producer-id", format!("a{agent}")).header("producer-epoch", "0");
            let request = request.header("producer-seq", seq.to_string()).timeout(plan.patience);
            let failed = match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    tally.duplicates.fetch_add(usize::from(answer.status() == 200), Relaxed);
                    break;
                }
                Ok(answer) if answer.status() == 503 || answer.status() == 502 || answer.status() == 504 => {
                    format!("{}", answer.status())
                }
                Ok(answer) => {
                    panic!("agent {agent} at {seq}: {} {}", answer.status(), answer.text().await.unwrap_or_default())
                }
                // Whether it was stored is unknown, so it is sent again.
                Err(error) => format!("{error:?}"),
            };
            tally.retries.fetch_add(1, Relaxed);
            tally.most_retries.fetch_max(attempt + 1, Relaxed);
            assert!(attempt < plan.retries, "agent {agent} at {seq}: {} tries in vain, at last: {failed}", attempt + 1);
            assert!(first.elapsed() < plan.patience, "agent {agent} is stuck at {seq}: {failed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tally.slowest_ms.fetch_max(first.elapsed().as_millis() as usize, Relaxed);
        seq += batch;
        tally.acknowledged.fetch_add(batch as usize, Relaxed);
        tokio::time::sleep(plan.pause.mul_f64(0.5 + fastrand::f64())).await;
    }
    seq
}

/// Follows a session to its last entry, across whatever ends its streams. Gives the ids that it saw.
async fn client(shared: Arc<Shared>, client: usize) -> Vec<EntryId> {
    let (plan, session) = (&shared.plan, client % shared.plan.sessions);
    let mut seen: Vec<EntryId> = Vec::new();
    let mut heard = Instant::now();
    let done = |seen: &[EntryId]| {
        let last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().is_some_and(|id| last.get(&session) == Some(id))
    };
    for turn in client.. {
        let mut request = shared.http.get(shared.url(turn, session)).header("accept", "text/event-stream");
        if let Some(last) = seen.last() {
            request = request.header("last-event-id", last.to_string());
            shared.tally.resumes.fetch_add(1, Relaxed);
        }
        let mut decoder = Decoder::new(1 << 20);
        let mut response = match tokio::time::timeout(plan.patience, request.send()).await {
            Ok(Ok(response)) if response.status() == 200 => {
                shared.tally.streams.fetch_add(1, Relaxed);
                Some(response)
            }
            Ok(Ok(response)) if response.status().is_server_error() => None,
            Ok(Ok(response)) => panic!("client {client}: {}", response.status()),
            _ => None,
        };
        while let Some(open) = &mut response {
            // Woken now and then to look whether all is done.
            let chunk = match tokio::time::timeout(Duration::from_millis(100), open.chunk()).await {
                Err(_) => Some(Default::default()),
                Ok(Ok(Some(chunk))) => Some(chunk),
                Ok(Ok(None)) => panic!("client {client}: a clean end after {:?}", seen.last()),
                Ok(Err(_)) => None,
            };
            let Some(chunk) = chunk else { break };
            decoder.push(&chunk);
            while let Some(frame) = decoder.next_frame().expect("valid frames") {
                match frame.event.as_deref() {
                    None => {
                        let id: EntryId = frame.id.expect("an id").parse().expect("an id");
                        let next = seen.last().map_or(1, |last| last.n + 1);
                        assert_eq!(id.n, next, "client {client} of session {session}, after {:?}", seen.last());
                        seen.push(id);
                        heard = Instant::now();
                    }
                    Some("caught-up") => heard = Instant::now(),
                    Some(other) => panic!("client {client}: {other} {} after {:?}", frame.data, seen.last()),
                }
            }
            if done(&seen) {
                return seen;
            }
            assert!(heard.elapsed() < plan.patience, "client {client} of {session} is stuck after {:?}", seen.last());
        }
        if done(&seen) {
            return seen;
        }
        assert!(heard.elapsed() < plan.patience, "client {client} of {session} is stuck after {:?}", seen.last());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..60))).await;
    }
    seen
}
