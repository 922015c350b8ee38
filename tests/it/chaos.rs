//! Guarantees 1 and 2 under everything at once: real replicas behind a load balancer, a real Redis behind a network, and
//! all of them are killed, frozen, cut and delayed at random while a crowd works. After it every acknowledged event is in
//! the log exactly once, and every client has seen exactly the log.
//!
//! The seed of the disorder is printed; `MOORLINE_CHAOS_SEED` takes it again (what the machine makes of it in time is not
//! in the seed). `MOORLINE_SOAK_SECONDS` goes on for longer, with longer outages.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::support::{
    balancer::Balancer,
    crowd::{Crowd, Plan},
    process::Replica,
    redis::{APPEND_ONLY, RedisServer},
    unique,
};

const REPLICAS: usize = 3;
/// Between the end of one trouble and the beginning of the next.
const PAUSE: Duration = Duration::from_millis(400);
/// Of a client or an agent: longer than any trouble, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// A replica is killed, and a new one started in its place.
    KillReplica,
    /// A replica is told to end, and a new one started.
    ReplaceReplica,
    /// A replica stands still for a while, with all that it holds.
    FreezeReplica,
    /// Redis is killed, and started again with its append-only file.
    KillRedis,
    /// Redis stands still for a while.
    FreezeRedis,
    /// All subscriptions are killed.
    KillSubscriptions,
    /// Half of the connections between gateways and Redis break.
    CutRedis,
    /// Redis becomes slow for a while.
    SlowRedis,
    /// Half of the clients' and agents' connections break.
    CutClients,
    /// Clients and agents become slow for a while.
    SlowClients,
}

const TROUBLES: [Trouble; 10] = [
    Trouble::KillReplica,
    Trouble::ReplaceReplica,
    Trouble::FreezeReplica,
    Trouble::KillRedis,
    Trouble::FreezeRedis,
    Trouble::KillSubscriptions,
    Trouble::CutRedis,
    Trouble::SlowRedis,
    Trouble::CutClients,
    Trouble::SlowClients,
];

struct Scene {
    redis: RedisServer,
    /// Between gateways and Redis.
    network: Balancer,
    /// Between clients and gateways.
    front: Balancer,
    prefix: String,
    replicas: Vec<Replica>,
    logs: Vec<String>,
    outage: Duration,
}

impl Scene {
    async fn start(outage: Duration) -> Self {
        let redis = RedisServer::start_with(&APPEND_ONLY);
        let network = Balancer::tcp(&[SocketAddr::from(([127, 0, 0, 1], redis.port()))]).await;
        let front = Balancer::start(&[]).await;
        let (replicas, logs, prefix) = (Vec::new(), Vec::new(), unique("chaos"));
        let mut scene = Scene { redis, network, front, prefix, replicas, logs, outage };
        for _ in 0..REPLICAS {
            scene.add_replica();
        }
        scene
    }

    fn add_replica(&mut self) {
        let url = format!("redis://{}/", self.network.addr());
        let replica = block_in_place(|| {
            Replica::start_with(
                &[
                    &["--redis-url", &url, "--redis-prefix", &self.prefix, "--redis-timeout", "1s"][..],
                    &["--drain-wait", "200ms", "--drain-spread", "300ms"],
                ]
                .concat(),
            )
        });
        self.front.add(replica.addr());
        self.replicas.push(replica);
    }

    async fn remove_replica(&mut self, at: usize, signal: &str) {
        let replica = self.replicas.remove(at);
        replica.signal(signal);
        let code = replica.ended().await;
        assert!(signal == "-KILL" || code == Some(0), "{code:?}: {}", replica.log());
        self.front.remove(replica.addr());
        self.logs.push(replica.log());
    }

    async fn suffer(&mut self, trouble: Trouble, rng: &mut fastrand::Rng) {
        let at = rng.usize(..self.replicas.len());
        match trouble {
            Trouble::KillReplica => {
                self.remove_replica(at, "-KILL").await;
                self.add_replica();
            }
            Trouble::ReplaceReplica => {
                self.remove_replica(at, "-TERM").await;
                self.add_replica();
            }
            Trouble::FreezeReplica => {
                self.replicas[at].signal("-STOP");
                sleep(self.outage).await;
                self.replicas[at].signal("-CONT");
            }
            Trouble::KillRedis => {
                self.redis.kill9();
                sleep(self.outage / 4).await;
                block_in_place(|| self.redis.restart());
            }
            Trouble::FreezeRedis => {
                self.redis.freeze();
                sleep(self.outage).await;
                self.redis.thaw();
            }
            Trouble::KillSubscriptions => {
                block_in_place(|| self.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]));
            }
            Trouble::CutRedis => self.network.cut(0.5),
            Trouble::SlowRedis => {
                self.network.delay(Duration::from_millis(rng.u64(20..200)));
                sleep(self.outage / 2).await;
                self.network.delay(Duration::ZERO);
            }
            Trouble::CutClients => self.front.cut(0.5),
            Trouble::SlowClients => {
                self.front.delay(Duration::from_millis(rng.u64(20..200)));
                sleep(self.outage / 2).await;
                self.front.delay(Duration::ZERO);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_every_acknowledged_event_is_seen_once_by_all() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let soak = variable("MOORLINE_SOAK_SECONDS").map(Duration::from_secs);
    let seed = variable("MOORLINE_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("MOORLINE_CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);

    let mut scene =
        Scene::start(if soak.is_some() { Duration::from_secs(5) } else { Duration::from_millis(1200) }).await;
    let crowd = Crowd::start(Plan {
        urls: vec![scene.front.url()],
        sessions: 20,
        agents: 20,
        clients: 100,
        pause: Duration::from_millis(30),
        retries: usize::MAX,
        patience: PATIENCE,
    });
    let began = Instant::now();
    // Each of them once, in another order each time; and again for as long as it takes.
    loop {
        let mut troubles = TROUBLES;
        rng.shuffle(&mut troubles);
        for trouble in troubles {
            sleep(PAUSE.mul_f64(0.5 + rng.f64())).await;
            let (at, before) = (began.elapsed(), crowd.tally().acknowledged.load(Relaxed));
            scene.suffer(trouble, &mut rng).await;
            let acknowledged = crowd.tally().acknowledged.load(Relaxed) - before;
            println!("{:6.2} s {trouble:?}, {acknowledged} events meanwhile", at.as_secs_f64());
        }
        if soak.is_none_or(|soak| began.elapsed() > soak) {
            break;
        }
    }
    crowd.settle().await;

    scene.logs.extend(scene.replicas.iter().map(Replica::log));
    for log in scene.logs {
        let faults: Vec<&str> =
            log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
        assert_eq!(faults, [""; 0]);
    }
}
