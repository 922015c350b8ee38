//! What to try while the agents work: lines to be pasted into a shell, as they stand.

use std::env;

use serde_json::json;

use super::{Input, agent::Workplace, role::Role, specialists::APPROVAL, team::Team};

const JSON: &str = "-H 'Content-Type: application/json'";

/// Who does not end before discovery's question is answered.
const WAITING: [Role; 4] = [Role::Orchestrator, Role::Discovery, Role::Cadence, Role::RoadMap];

/// Says what runs where, and what to do with it. The agents that are told to stop, and the one that is steered, are those that
/// live for as long as discovery's question is open: the others are done before somebody has pasted a line.
pub(super) fn banner(place: &Workplace, input: &Input, store: &str, team: &Team) -> String {
    let (base, session) = (place.client.base_url(), &place.session);
    let processes: Vec<String> =
        Role::ALL.iter().map(|&role| format!("{role} (run {}) {}", role.run(), team.pid(role))).collect();
    format!(
        "\
moorline demo: the growth desk at work on {name}, in the session {session}. Its log is in {store}.
Each agent is a process: {processes}.

  Watch, steer and decide in a browser: {base}/console?session={session}

In other terminals; until discovery's question is answered, the runs {waiting} are live:

  # follow it: the whole history, then live
  curl -N {sse} {url}/events

  # cut the connection after 3 seconds, come back with the last id: nothing is missing, nothing comes twice
  LAST=$(curl -sN -m 3 {sse} {url}/events | tee /dev/stderr | sed -n 's/^id: //p' | tail -1); echo \"--- cut after $LAST ---\"; curl -N {sse} -H \"Last-Event-ID: $LAST\" {url}/events

  # steer the road map: it is drawn again, until the follow-up calendar is done
  curl {json} -d '{{\"type\":\"steer\",\"agent\":\"road-map\",\"data\":{{\"text\":\"capacity is 6 jobs a month\"}}}}' {url}/commands

  # stop one run: the others go on, and the report says what is missing
  curl {json} -d '{{\"type\":\"stop\",\"run\":\"{stopped}\"}}' {url}/commands

  # freeze the orchestrator: the others go on. After {lease} s its run is lost; woken then, it is refused and leaves
  kill -STOP {orchestrator}
  kill -CONT {orchestrator}

  # the same with the command line
  {moorline} tail {session} --url {base}
  {moorline} runs {session} --url {base}
  {moorline} command {session} stop --run {stopped_too} --url {base}

  # discovery asks before it drops a lead. Approve, or deny; after {wait} s without an answer it drops none
{decide}

  # stop all, from the orchestrator's run down
  curl {json} -d '{{\"type\":\"stop\",\"run\":\"{all}\",\"tree\":true}}' {url}/commands

",
        name = input.name,
        processes = processes.join(", "),
        url = format_args!("{base}/v1/sessions/{session}"),
        sse = "-H 'Accept: text/event-stream'",
        json = JSON,
        waiting = WAITING.map(|role| role.run().to_string()).join(", "),
        stopped = Role::Cadence.run(),
        stopped_too = Role::RoadMap.run(),
        all = Role::Orchestrator.run(),
        decide = decide(place),
        wait = input.approval_wait_ms.div_ceil(1000),
        lease = place.lease.as_secs(),
        orchestrator = team.pid(Role::Orchestrator),
        moorline = program(),
    )
}

/// The lines that answer discovery's question.
pub(super) fn decide(place: &Workplace) -> String {
    let url = format_args!("{}/v1/sessions/{}/commands", place.client.base_url(), place.session);
    let line = |decision: &str| {
        let command = json!({"type": "decide", "approval": APPROVAL, "data": {"decision": decision}});
        format!("  curl {JSON} -d '{command}' {url}")
    };
    format!("{}\n{}", line("approve"), line("deny"))
}

/// How a shell finds this program: by its name if it was found so, else by its path.
fn program() -> String {
    let called = env::args().next().unwrap_or_default();
    match env::current_exe() {
        Ok(path) if called.contains(std::path::is_separator) => quoted(&path.display().to_string()),
        _ => "moorline".to_owned(),
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_anything_in_it_is_one_word() {
        assert_eq!(quoted("/usr/bin/moorline-0.1"), "/usr/bin/moorline-0.1");
        assert_eq!(quoted("/home/ada's work/moorline"), r"'/home/ada'\''s work/moorline'");
    }
}
