//! How a gateway starts and is told to end: its environment, what it can't be asked for, signals, and descriptors.

use std::{process::Command, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::{
    cli::program::{Program, moorline},
    support::{PATIENCE, eventually, http, process::Replica, redis::RedisServer},
};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.args(arguments);
    command
}

/// Every variable that a subcommand takes.
fn variables(subcommand: &[&str]) -> Vec<String> {
    let help = moorline(&[subcommand, &["--help"]].concat(), "").stdout;
    let words = help.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    words.filter(|word| word.starts_with("MOORLINE_")).map(str::to_owned).collect()
}

#[test]
fn an_empty_variable_is_none() {
    let names = variables(&["serve"]);
    assert!(names.len() > 30, "{names:?}");
    let mut serve = program(&["serve"]);
    for name in &names {
        serve.env(name, "");
    }
    // A free port, which no variable says any more.
    let replica = Replica::try_run(serve.args(["--listen", "127.0.0.1:0"])).unwrap_or_else(|said| panic!("{said}"));
    assert!(replica.log().contains("this process's memory"), "{}", replica.log());

    // What is required is missing, and a subcommand of a subcommand is no other.
    let token = program(&["token", "*"]).env("MOORLINE_AUTH_SECRET_FILE", "").output().expect("the moorline program");
    assert_eq!(token.status.code(), Some(2));
    let mut show = program(&["sessions", "show", "s", "--url", replica.url()]);
    for name in variables(&["sessions", "show"]) {
        show.env(name, "");
    }
    let show = show.output().expect("the moorline program");
    let said = String::from_utf8_lossy(&show.stderr).into_owned();
    assert!(show.status.code() == Some(1) && said.contains("unknown_session"), "{said}");
}

#[test]
fn what_does_not_go_together_is_wrong_usage() {
    for (arguments, told) in [
        (&["--listen", "localhost"][..], "a host and a port, as 127.0.0.1:4770, 0.0.0.0:4770 or localhost:4770"),
        (&["--listen", ":4770"], "a host and a port"),
        (&["--metrics-listen", "4772"], "a host and a port"),
        (&["--cors-credentials"], "--cors-origin"),
        (&["--redis-ca", "ca.crt"], "rediss://"),
        (&["--redis-ca", "ca.crt", "--redis-url", "redis://127.0.0.1:1"], "--redis-ca is for a Redis that speaks TLS"),
        (&["--redis-cert", "c", "--redis-key", "k", "--redis-url", "unix:///s"], "--redis-cert is for a Redis that"),
    ] {
        let result = moorline(&[&["serve"], arguments].concat(), "");
        assert_eq!(result.code, 2, "{result:?}");
        assert!(result.stderr.contains(told), "{result:?}");
    }
}

#[test]
fn told_to_stop_while_it_waits_for_redis_it_has_stopped() {
    let redis = RedisServer::start();
    redis.kill9();
    for signal in ["-TERM", "-INT"] {
        let mut gateway = Program::start(&["serve", "--listen", "127.0.0.1:0", "--redis-url", &redis.url()]);
        gateway.wait_for_stderr("Redis is not there yet");
        gateway.signal(signal);
        assert_eq!(gateway.wait(PATIENCE), 0, "{}", gateway.stderr());
        assert!(gateway.stderr().contains("stopped before it listened"), "{}", gateway.stderr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signals_at_once_are_one() {
    let replica = Replica::start_with(&["--drain-wait", "1s", "--drain-spread", "0"]);
    let pid = replica.pid().to_string();
    // From one process, so that nothing comes in between.
    let twice = Command::new("sh").args(["-c", "kill -TERM $0; sleep 0.02; kill -TERM $0", &pid]).status();
    assert!(twice.expect("a shell").success());
    assert_eq!(replica.ended().await, Some(0), "{}", replica.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_later_ends_it_at_once() {
    let replica = Replica::start_with(&["--drain-wait", "1h"]);
    replica.signal("-TERM");
    eventually("it is stopping", || async { replica.log().contains("stopping").then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    replica.signal("-TERM");
    assert_eq!(replica.ended().await, Some(1), "{}", replica.log());
}

async fn max_fds(replica: &Replica) -> u64 {
    let metrics = http().get(format!("{}/metrics", replica.url())).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    let line = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds "));
    line.and_then(|number| number.parse::<f64>().ok()).expect("a number") as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_takes_as_many_descriptors_as_it_may_have() {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(512);
    let serve = [env!("CARGO_BIN_EXE_moorline"), "serve", "--listen", "127.0.0.1:0", "--max-streams", "500"];
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -Sn 128; ulimit -Hn {hard}; exec \"$@\""), "sh"]).args(serve);
    let replica = Replica::try_run(&mut command).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(max_fds(&replica).await, hard);
    assert!(replica.log().contains("--max-streams is more than"), "{}", replica.log());
    let enough = Replica::start_with(&["--max-streams", "1"]);
    assert!(!enough.log().contains("--max-streams"), "{}", enough.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_no_connection_can_be_accepted_is_said_once() {
    let replica = Replica::start_with(&[]);
    let (pid, none) = (Pid::from_raw(replica.pid() as i32), Rlimit { current: Some(0), maximum: Some(512) });
    prlimit(pid, Resource::Nofile, none).expect("a lower limit");
    let waiting = std::net::TcpStream::connect(replica.addr()).expect("a connection");
    eventually("it is said", || async { replica.log().contains("could not accept a connection").then_some(()) }).await;
    // Time for ten more attempts.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(replica.log().matches("could not accept").count(), 1, "{}", replica.log());
    drop(waiting);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(512), maximum: Some(512) }).expect("a limit");
    eventually("it accepts again", || async {
        let live = http().get(format!("{}/livez", replica.url())).timeout(Duration::from_secs(2)).send().await;
        live.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
}

#[test]
fn health_tells_a_gateway_without_redis_from_one_that_is_gone() {
    let redis = RedisServer::start();
    let replica = Replica::start(&redis.url(), "health:");
    let health = |more: &[&str]| moorline(&[&["health", "--url", replica.url()], more].concat(), "");
    assert_eq!((health(&[]).stdout.as_str(), health(&["--live"]).stdout.as_str()), ("ready\n", "alive\n"));
    redis.kill9();
    let unready = health(&[]);
    assert!(unready.code == 1 && unready.stderr.contains("store_unavailable"), "{unready:?}");
    assert_eq!(health(&["--live"]).code, 0);
    replica.kill9();
    assert_eq!(health(&["--live"]).code, 1);
}
