//! `moorline demo`, and what its banner promises.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    AT_ONCE,
    program::{Program, moorline},
};

const TEXT: &str = "# Boats\nA mooring line holds a boat while the stream runs past it.\n\n## Ropes\nRopes of hemp are \
    strong, and they last for many years. Ropes that float help in a storm. Nobody counts the knots of a rope.\n";

fn text_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::with_suffix(".md").unwrap();
    file.write_all(TEXT.as_bytes()).unwrap();
    file
}

/// What an agent said and what the log says of it. While others speak, its text is broken into lines anywhere.
fn text_of(stdout: &str, speaker: &str) -> String {
    let lines = stdout.lines().filter_map(|line| line.trim_start().strip_prefix(speaker)?.strip_prefix(" │ "));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Waits until an agent says something.
fn said(demo: &Program, speaker: &str, text: &str) {
    wait_until(text, || text_of(&demo.stdout(), speaker).contains(text));
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The processes that the banner names, in its order: orchestrator, reader, summarizer.
fn agents(demo: &Program) -> [u32; 3] {
    let line = banner_line(demo, "Each agent is a process: ");
    let pids = line.trim_end_matches('.').split(", ").filter_map(|agent| agent.rsplit(' ').next()?.parse().ok());
    pids.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("three processes: {line}"))
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status().expect("the kill program");
    assert!(status.success(), "kill {name} {pid}");
}

/// Whether a process is there, and more than a corpse that nobody has buried.
fn runs(pid: u32) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("the ps program");
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

/// Wakes a frozen process when the test ends, however it ends.
struct Wake(u32);

impl Drop for Wake {
    fn drop(&mut self) {
        // It may be gone, which is as good.
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

/// The first line of the banner with these words.
fn banner_line(demo: &Program, part: &str) -> String {
    let stdout = demo.stdout();
    stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part:?}:\n{stdout}")).to_owned()
}

/// Runs a line of the banner. Gives stdout, then stderr.
fn shell(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().expect("bash");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn two_agents_work_on_a_file_and_the_orchestrator_concludes() {
    let file = text_file();
    let demo = moorline(&["demo", file.path().to_str().unwrap(), "--once", "--speed", "400"], "");
    assert_eq!(demo.code, 0, "{demo:?}");
    for (agent, said) in [
        ("orchestrator/r0", "2 sections. Two agents work on it"),
        (
            "reader/r1",
            "Section 2 of 2, “Ropes”: 25 words in 3 sentences, the longest of 11 words. Mostly about: rope (3)",
        ),
        ("summarizer/r2", "• A mooring line holds a boat while the stream runs past it."),
        ("orchestrator/r0", "The reader went through 4 sentences; the text is mostly about rope"),
        ("orchestrator/r0", "The summarizer chose 4 of them"),
        ("orchestrator/r0", "{\"reader\":\"completed\",\"summarizer\":\"completed\"}"),
    ] {
        let text = text_of(&demo.stdout, agent);
        assert!(text.contains(said), "{said:?} is missing:\n{}", demo.stdout);
    }
    assert!(demo.stderr.contains("the session is closed"), "{demo:?}");
}

/// The lines of the banner, as a shell runs them; those that stop all and that freeze have tests of their own.
#[test]
fn the_lines_of_the_banner_work_as_they_stand() {
    let mut demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "15"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    let line = |part: &str| {
        let line = banner_line(&demo, part);
        // Streams have no end here: each is read for a moment.
        shell(&line.replace("-m 3", "-m 0.5").replace("curl -N", "timeout 1 curl -N"))
    };
    assert!(line("  curl -N").contains("\"type\":\"plan\""));
    let resumed = line("LAST=$(");
    let (before, after) = resumed.split_once("--- cut after ").expect("the cut");
    let last = after.split_whitespace().next().unwrap();
    // The part before the cut went to stderr, which stands behind the part after it here.
    assert!(before.is_empty() && after.matches(&format!("id: {last}\n")).count() == 1, "{resumed}");

    assert!(line("\"steer\"").contains("\"command\""));
    demo.wait_for_stdout("summarizer/r2 │ steered");
    demo.wait_for_stdout("r2 │ command.consumed");
    let runs = line(" runs demo-");
    let rows: Vec<Vec<&str>> = runs.lines().map(|row| row.split_whitespace().take(2).collect()).collect();
    assert!(rows.ends_with(&[vec!["r0", "orchestrator"], vec!["r1", "reader"], vec!["r2", "summarizer"]]), "{runs}");
    assert!(line("\"run\":\"r1\"").contains("\"command\""));
    demo.wait_for_stdout("reader/r1 │ run.ended {\"attempt\":1,\"status\":\"cancelled\"");
    assert!(!demo.stdout().contains("summarizer/r2 │ run.ended"), "it was not meant");
    assert!(line(" command demo-").starts_with("c-"));
    demo.wait_for_stdout("summarizer/r2 │ run.ended {\"attempt\":1,\"status\":\"cancelled\"");
    said(&demo, "orchestrator/r0", "The reader was stopped early");
    demo.wait_for_stderr("the gateway stays up");
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
}

#[test]
fn a_stop_of_one_run_leaves_the_others_to_finish() {
    let demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "60"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    shell(&banner_line(&demo, "\"run\":\"r1\""));
    demo.wait_for_stdout("reader/r1 │ run.ended {\"attempt\":1,\"status\":\"cancelled\"");
    demo.wait_for_stdout("summarizer/r2 │ run.ended {\"attempt\":1,\"status\":\"completed\"}");
    demo.wait_for_stdout("orchestrator/r0 │ run.ended {\"attempt\":1,\"status\":\"completed\"}");
    said(&demo, "orchestrator/r0", "The reader was stopped early");
}

#[test]
fn a_stop_of_the_tree_ends_all_agents() {
    let demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "20"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    demo.wait_for_stdout("summarizer/r2 │ •");
    shell(&banner_line(&demo, "\"tree\":true"));
    for speaker in ["orchestrator/r0", "reader/r1", "summarizer/r2"] {
        demo.wait_for_stdout(&format!("{speaker} │ run.ended {{\"attempt\":1,\"status\":\"cancelled\""));
    }
    demo.wait_for_stderr("the agents are done");
}

/// The orchestrator relays nothing: without it, all that the others say goes on to the clients. Its lease ends its run,
/// and when it wakes it is refused.
#[test]
fn a_frozen_orchestrator_is_lost_while_its_sub_agents_stream_to_their_end() {
    let file = text_file();
    let path = file.path().to_str().unwrap();
    let demo = Program::start(&["demo", path, "--listen", "127.0.0.1:0", "--speed", "40", "--lease", "2"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    let orchestrator = agents(&demo)[0];
    shell(&banner_line(&demo, "kill -STOP"));
    let _awake_at_last = Wake(orchestrator);
    demo.wait_for_stdout("reader/r1 │ run.ended {\"attempt\":1,\"status\":\"completed\"}");
    demo.wait_for_stdout("summarizer/r2 │ run.ended {\"attempt\":1,\"status\":\"completed\"}");
    said(&demo, "reader/r1", "Section 2 of 2, “Ropes”: 25 words in 3 sentences");
    demo.wait_for_stdout("orchestrator/r0 │ run.ended {\"attempt\":1,\"status\":\"lost\"");
    shell(&banner_line(&demo, "kill -CONT"));
    demo.wait_for_stderr("the orchestrator leaves: the run \"r0\" has ended: lost (run_ended)");
    demo.wait_for_stderr("the agents are done");
}

#[test]
fn the_orchestrator_does_not_wait_for_a_sub_agent_that_was_killed() {
    let demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "300", "--lease", "2"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    signal("-KILL", agents(&demo)[1]);
    demo.wait_for_stderr("the reader (process");
    demo.wait_for_stdout("reader/r1 │ run.ended {\"attempt\":1,\"status\":\"lost\"");
    demo.wait_for_stdout("orchestrator/r0 │ run.ended {\"attempt\":1,\"status\":\"completed\"}");
    said(&demo, "orchestrator/r0", "The reader fell silent and is lost");
    said(&demo, "orchestrator/r0", "The summarizer chose");
}

#[test]
fn a_demo_that_is_killed_leaves_no_agent_behind() {
    let mut demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "20"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    let agents = agents(&demo);
    assert!(agents.iter().all(|&pid| runs(pid)));
    demo.kill();
    wait_until("the agents are gone", || !agents.iter().any(|&pid| runs(pid)));
}

#[test]
fn control_c_ends_a_demo_at_work_and_its_agents_frozen_or_not() {
    let mut demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "20"]);
    demo.wait_for_stdout("summarizer/r2 │ • ");
    let agents = agents(&demo);
    signal("-STOP", agents[2]);
    let _awake_at_last = Wake(agents[2]);
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
    assert!(!agents.iter().any(|&pid| runs(pid)));
    assert!(!demo.stderr().contains("error"), "{}", demo.stderr());
}

#[test]
fn what_is_no_text_is_refused() {
    let binary = env!("CARGO_BIN_EXE_moorline");
    for (path, why) in [("/nowhere/x.md", "No such file"), ("/", "directory"), ("/dev/zero", "MiB"), (binary, "MiB")] {
        let demo = moorline(&["demo", path], "");
        assert_eq!(demo.code, 1, "{demo:?}");
        assert!(demo.stderr.contains(why), "{demo:?}");
        assert!(demo.stdout.is_empty(), "{demo:?}");
    }
}

#[test]
fn an_agent_without_a_demo_ends_and_is_nobodys_to_call() {
    assert!(!moorline(&["--help"], "").stdout.contains("demo-agent"));
    let agent = ["demo-agent", "--role", "reader", "--url", "http://127.0.0.1:9", "--session", "s", "--speed", "20"];
    let agent = [&agent[..], &["--lease", "10"]].concat();
    let unassigned = moorline(&agent, "");
    assert_eq!(unassigned.code, 0, "{unassigned:?}");
    let misled = moorline(&agent, "not a text\n");
    assert_eq!(misled.code, 1, "{misled:?}");
    assert!(misled.stderr.contains("no text to work on"), "{misled:?}");
}
