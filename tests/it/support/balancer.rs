//! A small TCP load balancer, as kind as a real one (it asks `/readyz`, and goes round) or as unkind as the network (it
//! delays, and cuts).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// How often targets are asked whether they are ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Listens on a free port of 127.0.0.1 and passes each connection on to a target that is ready. Ends when dropped.
pub struct Balancer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    targets: Mutex<Vec<Arc<Target>>>,
    turn: AtomicUsize,
    /// Held back before each piece is passed on, in either direction.
    delay_us: AtomicU64,
    /// Counted up when connections are to be cut; each is, with this chance.
    cuts: watch::Sender<(u64, f64)>,
}

struct Target {
    addr: SocketAddr,
    ready: AtomicBool,
}

impl Balancer {
    /// Between clients and gateways.
    pub async fn start(targets: &[SocketAddr]) -> Self {
        let mut balancer = Self::tcp(targets).await;
        balancer.tasks.push(tokio::spawn(ask(balancer.shared.clone())));
        balancer
    }

    /// Before anything that speaks TCP, and asks nobody whether he is ready.
    pub async fn tcp(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            targets: Mutex::new(Vec::new()),
            turn: AtomicUsize::new(0),
            delay_us: AtomicU64::new(0),
            cuts: watch::Sender::new((0, 0.0)),
        });
        let balancer = Balancer { addr, tasks: vec![tokio::spawn(accept(listener, shared.clone()))], shared };
        targets.iter().for_each(|target| balancer.add(*target));
        balancer
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A further target, believed to be ready until it says otherwise.
    pub fn add(&self, addr: SocketAddr) {
        self.shared.targets().push(Arc::new(Target { addr, ready: AtomicBool::new(true) }));
    }

    pub fn remove(&self, addr: SocketAddr) {
        self.shared.targets().retain(|target| target.addr != addr);
    }

    /// From now on everything takes so much longer.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_us.store(delay.as_micros() as u64, Relaxed);
    }

    /// Cuts each open connection with this chance, in the middle of whatever it carries.
    pub fn cut(&self, chance: f64) {
        self.shared.cuts.send_modify(|(count, of)| (*count, *of) = (*count + 1, chance));
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Connections have tasks of their own.
        self.cut(1.0);
    }
}

impl Shared {
    fn targets(&self) -> MutexGuard<'_, Vec<Arc<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The targets in the order in which a new connection tries them.
    fn order(&self) -> Vec<SocketAddr> {
        let targets = self.targets();
        let turn = self.turn.fetch_add(1, Relaxed);
        let ready: Vec<_> = targets.iter().filter(|target| target.ready.load(Relaxed)).collect();
        (0..ready.len()).map(|at| ready[(turn + at) % ready.len()].addr).collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, shared.clone()));
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let mut connected = None;
    for target in shared.order() {
        connected = TcpStream::connect(target).await.ok();
        if connected.is_some() {
            break;
        }
    }
    // With nobody to pass it on to, the connection is dropped.
    let Some(server) = connected else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let cut = async {
        while cuts.changed().await.is_ok() {
            let chance = cuts.borrow_and_update().1;
            if fastrand::f64() < chance {
                return;
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(pass(from_client, to_server, &shared), pass(from_server, to_client, &shared)) } => {}
        () = cut => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        match shared.delay_us.load(Relaxed) {
            0 => {}
            delay => tokio::time::sleep(Duration::from_micros(delay)).await,
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn ask(shared: Arc<Shared>) {
    loop {
        let targets = shared.targets().clone();
        for target in targets {
            let ready = tokio::time::timeout(Duration::from_secs(1), is_ready(target.addr)).await;
            target.ready.store(ready.unwrap_or(false), Relaxed);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn is_ready(target: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(target).await else { return false };
    let asked = socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n").await;
    let mut answer = [0; 12];
    asked.is_ok() && socket.read_exact(&mut answer).await.is_ok() && answer.ends_with(b" 200")
}
