//! The real program: what its subcommands print, how they end, and what they live through.

mod bench;
mod demo;
pub mod program;

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;

use self::program::{Gateway, moorline};
use crate::support::{redis::RedisServer, unique};

/// Longer than anything that is to happen at once takes on a busy machine, shorter than any wait of the program's own.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn what_is_published_is_read_as_text_and_as_json() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let published = gateway.run(&["publish", &session, "hello there", "--agent", "me"], "");
    assert_eq!(published.code, 0, "{published:?}");
    assert!(published.stderr.contains(&format!("published 1 event to {session}, up to ")), "{published:?}");
    let lines = "{\"delta\":\"Hel\"}\n{\"delta\":\"lo\"}\nplain, \"quoted\"\n";
    assert_eq!(gateway.run(&["publish", &session, "--type", "text-delta", "--run", "r1"], lines).code, 0);
    assert_eq!(gateway.run(&["sessions", "close", &session], "").code, 0);

    let tail = gateway.run(&["tail", &session], "");
    assert_eq!(tail.code, 0, "{tail:?}");
    let expected = "             me │ hello there\n             r1 │ Helloplain, \"quoted\"\n";
    assert!(tail.stdout.starts_with(expected), "{tail:?}");
    assert!(!tail.stdout.contains('\x1b'), "no colours in a pipe");
    assert!(tail.stderr.contains("the session is closed"), "{tail:?}");

    let json = gateway.run(&["tail", &session, "--json", "--type", "text-delta"], "");
    let entries: Vec<Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 3, "{json:?}");
    assert_eq!(entries[2]["data"], "plain, \"quoted\"");
    assert_eq!(entries[0]["run"], "r1");

    let after = entries[1]["id"].as_str().unwrap();
    let rest = gateway.run(&["tail", &session, "--json", "--after", after, "--run", "r1"], "");
    assert_eq!(rest.stdout.lines().count(), 1, "{rest:?}");
}

#[test]
fn lines_keep_their_order_in_batches() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let lines: String = (0..3000).map(|n| format!("{n}\n")).collect();
    let published = gateway.run(&["publish", &session], &lines);
    assert!(published.stderr.contains("published 3000 events"), "{published:?}");
    gateway.run(&["sessions", "close", &session], "");
    let tail = gateway.run(&["tail", &session, "--json", "--type", "message"], "");
    let numbers: Vec<u64> = tail.stdout.lines().map(|line| data(line).as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
}

#[test]
fn a_bad_event_is_named_and_all_before_it_is_stored() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    for (bad, why) in [
        ("{\"data\":", "line 3: it is not JSON"),
        ("[1]", "line 3: it is not an event"),
        ("{\"type\":\"run.ended\"}", "line 3: types that begin with"),
    ] {
        let result = gateway.run(
            &["publish", &session, "--raw"],
            &format!("{{\"data\":1}}\n{{\"type\":\"t\"}}\n{bad}\n{{\"data\":4}}\n"),
        );
        assert_eq!(result.code, 1, "{result:?}");
        assert!(result.stderr.contains(why), "{result:?}");
        assert!(result.stderr.contains("published 2 events"), "{result:?}");
    }
}

#[test]
fn a_model_s_event_stream_is_published_as_it_is() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let body = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi \"}}]}\r\n\r\nevent: token\r\ndata: you\r\n\r\ndata: [DONE]\r\n\r\n";
    let published = gateway.run(&["publish", &session, "--sse", "--agent", "m"], body);
    assert!(published.stderr.contains("published 2 events"), "{published:?}");
    gateway.run(&["sessions", "close", &session], "");
    let tail = gateway.run(&["tail", &session], "");
    assert!(tail.stdout.starts_with("              m │ Hi you\n"), "{tail:?}");

    let cut = gateway.run(&["publish", &unique("s"), "--sse"], "data: a\n\ndata: b");
    assert_eq!(cut.code, 1);
    assert!(cut.stderr.contains("cut in event 2") && cut.stderr.contains("published 1 event"), "{cut:?}");
}

#[test]
fn a_tail_shows_what_comes_as_it_comes() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let mut tail = gateway.spawn(&["tail", &session]);
    tail.wait_for_stderr("caught up");
    let mut publish = gateway.spawn(&["publish", &session, "--agent", "a", "--type", "token"]);
    for token in ["One", "two", "three"] {
        publish.write(&format!("\"{token} \"\n"));
        tail.wait_for_stdout(token);
    }
    publish.close_stdin();
    assert_eq!(publish.wait(AT_ONCE), 0);
    assert_eq!(tail.stdout(), "              a │ One two three ", "the line stays open");
    tail.interrupt();
    assert_eq!(tail.wait(AT_ONCE), 130);
    assert!(tail.stdout().ends_with("three \n"), "the prompt gets a line of its own");
}

#[test]
fn control_c_ends_a_publish_that_waits_for_its_input() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let mut publish = gateway.spawn(&["publish", &session]);
    let tail = gateway.spawn(&["tail", &session]);
    publish.write("first\n");
    tail.wait_for_stdout("first");
    publish.interrupt();
    assert_eq!(publish.wait(AT_ONCE), 130);
    assert!(publish.stderr().contains("published 1 event"), "{}", publish.stderr());
}

#[test]
fn a_tail_whose_reader_is_gone_ends_quietly() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    gateway.run(&["publish", &session, "x"], "");
    let mut tail = gateway.spawn(&["tail", &session]);
    tail.wait_for_stderr("caught up");
    // The session is quiet: nothing is written that could fail.
    tail.close_stdout();
    assert_eq!(tail.wait(AT_ONCE), 0);
    assert!(!tail.stderr().contains("error"), "{}", tail.stderr());
}

#[test]
fn a_command_reaches_the_commands_lane_and_is_one_however_often_it_is_sent() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let arguments = ["command", &session, "steer", "--agent", "w", "--data", "to the left", "--id", "c1"];
    for _ in 0..2 {
        let sent = gateway.run(&arguments, "");
        assert_eq!((sent.code, sent.stdout.as_str()), (0, "c1\n"), "{sent:?}");
    }
    let place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = ["command", &session, "stop", "--run", "r1", "--grace-ms", "100", "--tree", "--traceparent", place];
    let stop = gateway.run(&traced, "");
    assert!(stop.stdout.starts_with("c-"), "{stop:?}");
    gateway.run(&["sessions", "close", &session], "");
    let tail = gateway.run(&["tail", &session, "--commands", "--json"], "");
    let entries: Vec<Value> = tail.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 2, "{tail:?}");
    assert_eq!((&entries[0]["type"], &entries[0]["data"]), (&Value::from("steer"), &Value::from("to the left")));
    assert_eq!((&entries[1]["data"]["grace_ms"], &entries[1]["traceparent"]), (&Value::from(100), &Value::from(place)));
    let refused = gateway.run(&["command", &unique("s"), "steer", "--tree"], "");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("grace_ms and tree are for"), "{refused:?}");
}

#[test]
fn an_approval_is_decided_from_the_command_line() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let decide = |approval: &str, decision: &str| {
        let data = format!("{{\"decision\":\"{decision}\"}}");
        gateway.run(&["command", &session, "decide", "--approval", approval, "--data", &data], "")
    };
    let unknown = decide("a1", "approve");
    assert!(unknown.code == 1 && unknown.stderr.contains("unknown_approval"), "{unknown:?}");
    let url = format!("{}/v1/sessions/{session}/approvals", gateway.url());
    let question = ["-H", "Content-Type: application/json", "-d", r#"{"approval":"a1","prompt":"?"}"#];
    let asked = Command::new("curl").args(["-sf", &url]).args(question).output().expect("the curl program");
    assert!(asked.status.success(), "{asked:?}");
    assert_eq!(decide("a1", "approve").code, 0);
    let late = decide("a1", "deny");
    assert!(late.code == 1 && late.stderr.contains("approval_ended"), "{late:?}");
}

#[test]
fn a_stop_for_a_run_that_nobody_has_started_says_so() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let waits = gateway.run(&["command", &session, "stop", "--run", "R1"], "");
    assert!(waits.code == 0 && waits.stderr.contains("nobody has started the run R1"), "{waits:?}");
    for other in [&["stop"][..], &["stop", "--agent", "a"], &["steer", "--run", "R1"]] {
        let quiet = gateway.run(&[&["command", &session][..], other].concat(), "");
        assert!(quiet.code == 0 && quiet.stderr.is_empty(), "{quiet:?}");
    }
}

#[test]
fn what_was_meant_to_be_json_and_is_none_is_told_once() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    let argument = gateway.run(&["publish", &session, "{\"text\":"], "");
    assert!(argument.code == 0 && argument.stderr.contains("the event is published as a text"), "{argument:?}");
    let lines = gateway.run(&["publish", &session], "plain\n{\"a\":\n[1\n{}\n");
    assert!(lines.code == 0 && lines.stderr.contains("line 2 is published as a text"), "{lines:?}");
    assert_eq!(lines.stderr.matches("published as a text").count(), 1, "{lines:?}");
    let sound = gateway.run(&["publish", &session], "plain\n{}\n");
    assert_eq!(sound.stderr.lines().count(), 1, "{sound:?}");
}

#[test]
fn something_else_than_a_gateway_is_told_as_such() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    thread::spawn(move || {
        let answers = ["HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK\r\nContent-Type: text/html", "SSH-2.0-OpenSSH_9.2"];
        for (answer, stream) in answers.iter().zip(web.incoming()) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "{answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let redis = format!("http://{}", RedisServer::shared().url().trim_start_matches("redis://"));
    let web = format!("http://{address}");
    for url in [&web, &web, &web, &redis] {
        let ended = moorline(&["tail", "s", "--url", url], "");
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("does not look like a Moorline gateway"), "{ended:?}");
    }
}

#[test]
fn a_gateway_listens_where_the_name_of_a_host_leads() {
    let gateway = Gateway::start_on("localhost:0", &[]);
    assert!(gateway.url().starts_with("http://127.0.0.1:") || gateway.url().starts_with("http://[::1]:"));
    assert_eq!(gateway.run(&["health"], "").code, 0);
}

#[test]
fn sessions_are_shown_closed_and_deleted() {
    let (gateway, session) = (Gateway::start(), unique("s"));
    gateway.run(&["publish", &session, "x"], "");
    let shown = gateway.run(&["sessions", "show", &session], "");
    assert!(shown.stdout.contains("lanes:\n") && shown.stdout.contains("count: 1\n"), "{shown:?}");
    let created = shown.stdout.lines().find_map(|line| line.strip_prefix("created: ")).expect("a time");
    assert!(created.starts_with("20") && created.contains('T') && created.ends_with('Z'), "{shown:?}");
    let json = gateway.run(&["sessions", "show", &session, "--json"], "");
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["session"], session.as_str());
    assert!(json["created"].is_u64(), "{json}");

    let mut tail = gateway.spawn(&["tail", &session, "--from", "now"]);
    tail.wait_for_stderr("caught up");
    assert_eq!(gateway.run(&["sessions", "close", &session], "").code, 0);
    assert_eq!(tail.wait(AT_ONCE), 0);
    let refused = gateway.run(&["publish", &session, "y"], "");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("session_closed"), "{refused:?}");
    assert_eq!(gateway.run(&["sessions", "delete", &session], "").code, 0);
    let gone = gateway.run(&["sessions", "show", &session], "");
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("unknown_session"), "{gone:?}");
}

#[test]
fn wrong_usage_is_2_and_a_gateway_that_is_not_there_1_with_advice() {
    for arguments in [
        &["publish"][..],
        &["publish", "a b"],
        &["publish", "s", "x", "--raw"],
        &["publish", "s", "x", "--type", "run.ended"],
        &["publish", "s", "--jsno"],
        &["serve", "--auth-leeway", "2d"],
        &["token", "*", "--sub", ""],
        &["token", "*", "--ttl", "0s", "--secret-file", "secret"],
        &["serve", "--max-runs", "abc"],
        &["serve", "--listen", "localhost"],
        &["bench", "tokens", "--seconds", "nan"],
        &["bench", "tokens", "--rate", "inf"],
        &["bench", "tokens", "--rate", "0"],
        &["bench", "tokens", "--neighbour", "http://127.0.0.1:1", "--kill", "1"],
        &["bench", "tokens", "--url", "http://192.0.2.1:1"],
        &["tail", "s", "--url", "127.0.0.1:4770"],
        &["tail", "s", "--url", "ftp://x"],
        &["tail", "s", "--url", "http://user:password@127.0.0.1:4770"],
        &["tail", "s", "--after", "5"],
        &["tail", "s", "--from", "end"],
        &["command", "s"],
        &["demo", "--listen", "0.0.0.0:0"],
        &["serve", "--cors-origin", "foo"],
        &["frobnicate"],
    ] {
        let result = moorline(arguments, "");
        assert_eq!(result.code, 2, "{arguments:?} {result:?}");
    }
    // A URL may hold a password: what is wrong with it is said without repeating it.
    for url in ["foo", "http://:secret@127.0.0.1", "redis://:secret@127.0.0.1:port"] {
        let result = moorline(&["serve", "--listen", "127.0.0.1:0", "--redis-url", url], "");
        assert_eq!(result.code, 2, "{result:?}");
        assert!(result.stderr.contains("--redis-url can't") && result.stderr.contains("redis://["), "{result:?}");
        assert!(!result.stderr.contains("secret"), "{result:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let url = format!("http://{nobody}");
    for arguments in [&["publish", "s", "x"][..], &["tail", "s"], &["command", "s", "stop"], &["sessions", "show", "s"]]
    {
        let result = moorline(&[arguments, &["--url", &url]].concat(), "");
        assert_eq!(result.code, 1, "{arguments:?} {result:?}");
        assert!(result.stderr.contains("moorline serve"), "{arguments:?} {result:?}");
    }
    let help = moorline(&["tail", "--help"], "");
    assert!(help.stdout.contains("Exit codes") && help.stdout.contains("MOORLINE_URL"), "{help:?}");
}

/// A gateway killed again and again between a publisher and a follower: each event arrives once, in order.
#[test]
fn publisher_and_follower_live_through_restarts() {
    let (redis, session) = (RedisServer::shared(), unique("s"));
    let prefix = format!("{}:", unique("cli"));
    let store = ["--redis-url", &redis.url(), "--redis-prefix", &prefix];
    let mut gateway = Gateway::start_with(&store);
    let mut tail = gateway.spawn(&["tail", &session, "--json"]);
    let mut publish = gateway.spawn(&["publish", &session, "--raw"]);
    publish.write("{\"type\":\"first\"}\n");
    tail.wait_for_stdout("first");
    for round in 0..4 {
        for n in 0..50 {
            publish.write(&format!("{{\"type\":\"n\",\"data\":{}}}\n", round * 50 + n));
            if n == 25 {
                gateway = gateway.killed_and_restarted();
            }
        }
        tail.wait_for_stdout(&format!("\"data\":{}}}", round * 50 + 49));
    }
    publish.close_stdin();
    assert_eq!(publish.wait(Duration::from_secs(20)), 0, "{}", publish.stderr());
    assert!(publish.stderr().contains("published 201 events"), "{}", publish.stderr());
    gateway.run(&["sessions", "close", &session], "");
    assert_eq!(tail.wait(Duration::from_secs(20)), 0, "{}", tail.stderr());
    let numbers: Vec<u64> =
        tail.stdout().lines().filter(|line| line.contains("\"n\"")).map(|line| data(line).as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(tail.stderr().contains("connected again"), "{}", tail.stderr());
}

/// The `data` of an entry printed as JSON.
fn data(line: &str) -> Value {
    let mut entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    entry["data"].take()
}
