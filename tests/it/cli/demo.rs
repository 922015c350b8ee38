//! `moorline demo`, and what its banner promises.

use std::{io::Write, process::Command};

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
        // While others speak an agent's text is broken into lines anywhere.
        let lines = demo.stdout.lines().filter_map(|line| line.trim_start().strip_prefix(agent)?.strip_prefix(" │ "));
        let text: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        assert!(text.join(" ").contains(said), "{said:?} is missing:\n{}", demo.stdout);
    }
    assert!(demo.stderr.contains("the session is closed"), "{demo:?}");
}

/// The lines of the banner, as a shell runs them: an agent is stopped alone, another steered, then all are stopped.
#[test]
fn the_lines_of_the_banner_work_as_they_stand() {
    let mut demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "20"]);
    demo.wait_for_stdout("reader/r1 │ Section");
    let banner = demo.stdout();
    let line = |part: &str| {
        let line = banner.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part:?}:\n{banner}"));
        let moorline = format!("{} ", env!("CARGO_BIN_EXE_moorline"));
        let line = line.replace("  moorline ", &moorline).replace("-m 3", "-m 0.5");
        // Streams have no end here: each is read for a moment.
        let shell = line.replace("curl -N", "timeout 1 curl -N");
        let output = Command::new("bash").args(["-c", &shell]).output().expect("bash and curl");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    assert!(line("  curl -N").contains("\"type\":\"plan\""));
    let resumed = line("LAST=$(");
    let (before, after) = resumed.split_once("--- cut after ").expect("the cut");
    let last = after.split_whitespace().next().unwrap();
    // The part before the cut went to stderr, which stands behind the part after it here.
    assert!(before.is_empty() && after.matches(&format!("id: {last}\n")).count() == 1, "{resumed}");

    assert!(line("\"steer\"").contains("\"command\""));
    demo.wait_for_stdout("summarizer/r2 │ steered");
    assert!(line("\"agent\":\"reader\"").contains("\"command\""));
    demo.wait_for_stdout("reader/r1 │ agent.finished {\"status\":\"stopped\"}");
    assert!(!demo.stdout().contains("summarizer/r2 │ agent.finished"), "it was not meant");
    assert!(line("command demo-").starts_with("c-"));
    demo.wait_for_stdout("summarizer/r2 │ agent.finished {\"status\":\"stopped\"}");
    demo.wait_for_stdout("The summarizer was ended early");
    demo.wait_for_stderr("the gateway stays up");
    assert!(line("curl -H 'Content-Type: application/json' -d '{\"type\":\"stop\"}'").contains("\"command\""));
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
}

#[test]
fn control_c_ends_a_demo_at_work() {
    let mut demo = Program::start(&["demo", "--listen", "127.0.0.1:0", "--speed", "20"]);
    demo.wait_for_stdout("summarizer/r2 │ • ");
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
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
