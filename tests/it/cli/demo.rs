//! `moorline demo`, the growth desk, and what its banner promises.

mod figures;
mod files;

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    AT_ONCE,
    program::{Program, moorline},
};

/// A demo that goes on until Ctrl-C, at this speed, with further arguments.
fn demo(speed: &str, arguments: &[&str]) -> Program {
    Program::start(&[&["demo", "--listen", "127.0.0.1:0", "--speed", speed], arguments].concat())
}

/// What an agent said and what the log says of it. While others speak, its text is broken into lines anywhere.
fn text_of(stdout: &str, speaker: &str) -> String {
    let lines = stdout.lines().filter_map(|line| line.trim_start().strip_prefix(speaker)?.strip_prefix(" │ "));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Waits until an agent says something.
fn said(demo: &Program, speaker: &str, text: &str) {
    wait_until(text, || text_of(&demo.stdout(), speaker).contains(text), demo);
}

fn wait_until(what: &str, condition: impl Fn() -> bool, demo: &Program) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}\n{}\n{}", demo.stdout(), demo.stderr());
        thread::sleep(Duration::from_millis(10));
    }
}

fn ended(demo: &Program, speaker: &str, status: &str) {
    demo.wait_for_stdout(&format!("{speaker} │ run.ended {{\"attempt\":1,\"status\":\"{status}\""));
}

/// All events of a type, from the session of a demo that has not ended.
fn events(demo: &Program, kind: &str) -> Vec<Value> {
    let follow = banner_line(demo, "  curl -N");
    let url = follow.split_whitespace().last().expect("an address");
    let page = shell(&format!("curl -s -H 'Accept: application/json' '{url}?type={kind}&limit=1000'"));
    let page: Value = serde_json::from_str(&page).unwrap_or_else(|e| panic!("{e}: {page}"));
    page["events"].as_array().cloned().unwrap_or_default()
}

/// The last finding of an agent.
fn figures_of(demo: &Program, agent: &str) -> Value {
    let findings = events(demo, "finding");
    let last = findings.iter().rfind(|event| event["agent"] == agent);
    last.unwrap_or_else(|| panic!("{agent} has found nothing"))["data"]["figures"].clone()
}

/// The report, once it is there.
fn report(demo: &Program) -> String {
    demo.wait_for_stdout("orchestrator/r0 │ file report.md");
    let files = events(demo, "file");
    let report = files.iter().find(|event| event["data"]["name"] == "report.md").expect("a report");
    report["data"]["content"].as_str().expect("a text").to_owned()
}

/// The processes that the banner names, in its order: the orchestrator, then r1 to r6.
fn agents(demo: &Program) -> [u32; 7] {
    let line = banner_line(demo, "Each agent is a process: ");
    let pids = line.trim_end_matches('.').split(", ").filter_map(|agent| agent.rsplit(' ').next()?.parse().ok());
    pids.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("seven processes: {line}"))
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
    demo.wait_for_stdout(part);
    let stdout = demo.stdout();
    stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part:?}:\n{stdout}")).to_owned()
}

/// Runs a line of the banner. Gives stdout, then stderr.
fn shell(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().expect("bash");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The lines of the banner, as a shell runs them; those that stop all, deny and freeze have tests of their own.
#[test]
fn the_lines_of_the_banner_work_as_they_stand() {
    let mut demo = demo("50", &[]);
    demo.wait_for_stdout("road-map/r6 │ Waiting");
    let line = |part: &str| {
        let line = banner_line(&demo, part);
        // Streams have no end here: each is read for a moment.
        shell(&line.replace("-m 3", "-m 0.5").replace("curl -N", "timeout 1 curl -N"))
    };
    assert!(line("  curl -N").contains("\"type\":\"plan\""));
    let console = banner_line(&demo, "in a browser: ");
    let page = shell(&format!("curl -s '{}'", console.split_whitespace().last().expect("an address")));
    assert!(page.starts_with("<!doctype html>"), "{page}");
    let resumed = line("LAST=$(");
    let (before, after) = resumed.split_once("--- cut after ").expect("the cut");
    let last = after.split_whitespace().next().unwrap();
    // The part before the cut went to stderr, which stands behind the part after it here.
    assert!(before.is_empty() && after.matches(&format!("id: {last}\n")).count() == 1, "{resumed}");

    assert!(line("\"steer\"").contains("\"command\""));
    demo.wait_for_stdout("road-map/r6 │ steered {\"capacity\":6}");
    demo.wait_for_stdout("road-map │ command.consumed");
    let runs = line(" runs demo-");
    let rows: Vec<Vec<&str>> = runs.lines().map(|row| row.split_whitespace().take(2).collect()).collect();
    let names = ["orchestrator", "reactivation", "lifetime-value", "pipeline", "discovery", "cadence", "road-map"];
    let all: Vec<Vec<String>> =
        names.iter().enumerate().map(|(n, name)| vec![format!("r{n}"), (*name).into()]).collect();
    assert_eq!(rows[rows.len() - 7..], all, "{runs}");
    // Whoever pastes is slower than the agents that wait for nobody: no line depends on those.
    demo.wait_for_stdout("discovery/r4 │ approval drop-leads requested");
    for speaker in ["reactivation/r1", "lifetime-value/r2", "pipeline/r3"] {
        ended(&demo, speaker, "completed");
    }
    assert!(line("\"run\":\"r5\"").contains("\"command\""));
    ended(&demo, "cadence/r5", "cancelled");
    assert!(!demo.stdout().contains("road-map/r6 │ run.ended"), "not meant");
    assert!(line(" command demo-").starts_with("c-"));
    ended(&demo, "road-map/r6", "cancelled");
    // Said again when it can be used.
    let approve = banner_line(&demo, "\"decision\":\"approve\"");
    demo.wait_for_stderr(&approve);
    assert!(line("\"decision\":\"approve\"").contains("\"command\""));
    demo.wait_for_stdout("discovery/r4 │ dropped {\"leads\":[");
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
}

#[test]
fn a_stop_of_one_run_leaves_the_others_to_finish_and_the_report_says_what_is_missing() {
    let demo = demo("400", &["--approval-wait", "1s"]);
    said(&demo, "lifetime-value/r2", "A customer");
    shell(&banner_line(&demo, "\"run\":\"r5\"").replace("r5", "r2"));
    ended(&demo, "lifetime-value/r2", "cancelled");
    ended(&demo, "road-map/r6", "completed");
    ended(&demo, "orchestrator/r0", "completed");
    said(&demo, "orchestrator/r0", "The lifetime-value agent was stopped early");
    said(&demo, "road-map/r6", "Without lifetime value: nothing came of it");
    let report = report(&demo);
    assert!(report.contains("- Lifetime value: its agent was stopped early"), "{report}");
    assert!(report.contains("## Pipeline") && report.contains("## Road map") && !report.contains("## Lifetime"));
}

#[test]
fn a_stop_of_the_tree_ends_all_agents_also_while_one_waits_for_an_approval() {
    let demo = demo("1000", &[]);
    demo.wait_for_stdout("discovery/r4 │ approval drop-leads requested");
    shell(&banner_line(&demo, "\"tree\":true"));
    for speaker in ["orchestrator/r0", "discovery/r4", "cadence/r5", "road-map/r6"] {
        ended(&demo, speaker, "cancelled");
    }
    demo.wait_for_stdout("approval.superseded");
    demo.wait_for_stderr("the agents are done");
    assert_eq!(events(&demo, "file"), [] as [Value; 0]);
}

#[test]
fn an_approval_drops_the_leads_and_a_denial_keeps_them() {
    for (decision, text) in [("approve", "Approved:"), ("deny", "Denied: nobody is dropped")] {
        let demo = demo("1000", &[]);
        demo.wait_for_stdout("discovery/r4 │ approval drop-leads requested");
        shell(&banner_line(&demo, &format!("\"decision\":\"{decision}\"")));
        ended(&demo, "orchestrator/r0", "completed");
        said(&demo, "discovery/r4", text);
        let (discovery, cadence) = (figures_of(&demo, "discovery"), figures_of(&demo, "cadence"));
        let (open, to_drop, kept) = (&discovery["open"], &discovery["to_drop"], &discovery["kept"]);
        let [open, to_drop, kept] = [open, to_drop, kept].map(|figure| figure.as_u64().expect("a count"));
        assert_eq!(kept, if decision == "approve" { open - to_drop } else { open }, "{discovery}");
        assert_eq!(cadence["open_qso"], discovery["kept_qso"], "{cadence}");
        let dropped = events(&demo, "dropped");
        let dropped = dropped.first().map_or(0, |event| event["data"]["leads"].as_array().expect("ids").len());
        assert_eq!(dropped as u64, open - kept);
    }
}

#[test]
fn a_question_that_nobody_answers_is_answered_by_time_and_the_demo_ends() {
    let demo = moorline(&["demo", "--once", "--listen", "127.0.0.1:0", "--speed", "1000", "--approval-wait", "1s"], "");
    assert_eq!(demo.code, 0, "{demo:?}");
    for (agent, said) in [
        ("orchestrator/r0", "This is roofer.csv, as of 2026-11-20: 298 customers, 457 jobs and 300 leads."),
        ("discovery/r4", "Nobody decided in time, so nobody is dropped."),
        ("orchestrator/r0", "• Call 221 past customers and 161 old leads first"),
    ] {
        assert!(text_of(&demo.stdout, agent).contains(said), "{said:?} is missing:\n{}", demo.stdout);
    }
    assert!(demo.stdout.contains("orchestrator/r0 │ file report.md (text/markdown, "), "{}", demo.stdout);
    assert!(demo.stdout.contains("cadence/r5 │ file calendar.ics (text/calendar, "), "{}", demo.stdout);
    assert!(demo.stderr.contains("the session is closed"), "{demo:?}");
}

#[test]
fn a_steer_of_the_capacity_draws_the_road_map_again_and_nonsense_is_rejected_with_a_reason() {
    let demo = demo("1000", &[]);
    demo.wait_for_stdout("discovery/r4 │ approval drop-leads requested");
    demo.wait_for_stdout("road-map/r6 │ finding");
    let before = figures_of(&demo, "road-map");
    let line = banner_line(&demo, "\"steer\"");
    let nonsense = shell(&line.replace("capacity is 6 jobs a month", "make it pop"));
    assert!(nonsense.contains("\"command\""), "{nonsense}");
    demo.wait_for_stdout("command.rejected");
    shell(&line.replace("is 6", "is 9"));
    demo.wait_for_stdout("steered {\"capacity\":9}");
    // Said to all, it is for the one that can do something about it.
    shell(&line.replace("\"steer\",\"agent\":\"road-map\"", "\"message\""));
    demo.wait_for_stdout("steered {\"capacity\":6}");
    wait_until("two consumed", || demo.stdout().matches("command.consumed").count() == 2, &demo);
    said(&demo, "road-map/r6", "Capacity is 6 jobs a month, as you said.");
    shell(&banner_line(&demo, "\"decision\":\"deny\""));
    ended(&demo, "orchestrator/r0", "completed");
    let after = figures_of(&demo, "road-map");
    assert_eq!((&before["capacity"], &after["capacity"]), (&Value::from(10), &Value::from(6)));
    let months = after["months"].as_array().expect("months");
    assert!(months.len() == 12 && months.iter().all(|jobs| jobs.as_u64().expect("a count") <= 6), "{after}");
    let rejected = &events(&demo, "command.rejected")[0]["data"]["reason"];
    assert!(rejected.as_str().expect("a reason").contains("say it like this"), "{rejected}");
    assert!(report(&demo).contains("at 6 jobs a month at most"));
}

/// The orchestrator relays nothing: without it, all that the others say goes on to the clients. Its lease ends its run,
/// and when it wakes it is refused.
#[test]
fn a_frozen_orchestrator_is_lost_while_the_others_stream_to_their_end() {
    let demo = demo("200", &["--lease", "2", "--approval-wait", "1s"]);
    demo.wait_for_stdout("road-map/r6 │ Waiting");
    let orchestrator = agents(&demo)[0];
    shell(&banner_line(&demo, "kill -STOP"));
    let _awake_at_last = Wake(orchestrator);
    for speaker in ["reactivation/r1", "pipeline/r3", "discovery/r4", "cadence/r5", "road-map/r6"] {
        ended(&demo, speaker, "completed");
    }
    ended(&demo, "orchestrator/r0", "lost");
    shell(&banner_line(&demo, "kill -CONT"));
    demo.wait_for_stderr("the orchestrator leaves: the run \"r0\" has ended: lost (run_ended)");
    demo.wait_for_stderr("the agents are done");
}

#[test]
fn an_agent_that_was_killed_is_lost_for_all_to_see_and_nobody_waits_for_it() {
    let demo = demo("400", &["--lease", "2", "--approval-wait", "1s"]);
    demo.wait_for_stdout("pipeline/r3 │ ");
    signal("-KILL", agents(&demo)[3]);
    demo.wait_for_stderr("the pipeline (process");
    ended(&demo, "pipeline/r3", "lost");
    ended(&demo, "orchestrator/r0", "completed");
    said(&demo, "discovery/r4", "The pipeline agent fell silent and is lost: on without it.");
    said(&demo, "orchestrator/r0", "The pipeline agent fell silent and is lost");
    assert!(report(&demo).contains("- Pipeline: its agent fell silent and is lost"));
}

#[test]
fn a_demo_that_is_killed_leaves_no_agent_behind() {
    let mut demo = demo("20", &[]);
    demo.wait_for_stdout("reactivation/r1 │ ");
    let agents = agents(&demo);
    assert!(agents.iter().all(|&pid| runs(pid)));
    demo.kill();
    wait_until("the agents are gone", || !agents.iter().any(|&pid| runs(pid)), &demo);
}

#[test]
fn control_c_ends_a_demo_at_work_and_its_agents_frozen_or_not() {
    let mut demo = demo("20", &[]);
    said(&demo, "lifetime-value/r2", "A customer");
    let agents = agents(&demo);
    signal("-STOP", agents[2]);
    let _awake_at_last = Wake(agents[2]);
    demo.interrupt();
    assert_eq!(demo.wait(AT_ONCE), 130);
    assert!(!agents.iter().any(|&pid| runs(pid)));
    assert!(!demo.stderr().contains("error"), "{}", demo.stderr());
}

#[test]
fn an_agent_without_a_demo_ends_and_is_nobodys_to_call() {
    assert!(!moorline(&["--help"], "").stdout.contains("demo-agent"));
    let agent = ["demo-agent", "--role", "pipeline", "--url", "http://127.0.0.1:9", "--session", "s", "--speed", "20"];
    let agent = [&agent[..], &["--lease", "10"]].concat();
    let unassigned = moorline(&agent, "");
    assert_eq!(unassigned.code, 0, "{unassigned:?}");
    let misled = moorline(&agent, "not a book\n");
    assert_eq!(misled.code, 1, "{misled:?}");
    assert!(misled.stderr.contains("no book to work on"), "{misled:?}");
}
