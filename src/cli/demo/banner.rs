//! What to try while the agents work: lines to be pasted into a shell, as they stand.

use std::env;

use super::{Input, agent::Workplace, role::Role, team::Team, text::Document};

/// Says what runs where, and what to do with it.
pub(super) fn banner(place: &Workplace, input: &Input, store: &str, team: &Team) -> String {
    let (base, session) = (place.client.base_url(), &place.session);
    let processes: Vec<String> =
        Role::ALL.iter().map(|&role| format!("{role} (run {}) {}", role.run(), team.pid(role))).collect();
    format!(
        "\
moorline demo: agents at work on {name}, in the session {session}. Its log is in {store}.
Each agent is a process: {processes}.
In other terminals:

  # follow it: the whole history, then live
  curl -N {sse} {url}/events

  # cut the connection after 3 seconds, come back with the last id: nothing is missing, nothing comes twice
  LAST=$(curl -sN -m 3 {sse} {url}/events | tee /dev/stderr | sed -n 's/^id: //p' | tail -1); echo \"--- cut after $LAST ---\"; curl -N {sse} -H \"Last-Event-ID: $LAST\" {url}/events

  # while they speak (--speed 5 gives you more time): steer the summarizer
  curl {json} -d '{{\"type\":\"steer\",\"run\":\"r2\",\"data\":\"{focus}\"}}' {url}/commands

  # freeze the orchestrator: the others go on. After {lease} s its run is lost; woken then, it is refused and leaves
  kill -STOP {orchestrator}
  kill -CONT {orchestrator}

  # stop one run, the others go on; stop all, from the orchestrator's run down
  curl {json} -d '{{\"type\":\"stop\",\"run\":\"r1\"}}' {url}/commands
  curl {json} -d '{{\"type\":\"stop\",\"run\":\"r0\",\"tree\":true}}' {url}/commands

  # the same with the command line
  {moorline} tail {session} --url {base}
  {moorline} runs {session} --url {base}
  {moorline} command {session} stop --run r2 --url {base}

",
        name = input.name,
        processes = processes.join(", "),
        url = format_args!("{base}/v1/sessions/{session}"),
        sse = "-H 'Accept: text/event-stream'",
        json = "-H 'Content-Type: application/json'",
        focus = focus(&input.text),
        lease = place.lease.as_secs(),
        orchestrator = team.pid(Role::Orchestrator),
        moorline = program(),
    )
}

/// Words that the text has, but not the ones that the summary begins with anyway.
fn focus(text: &str) -> String {
    let terms = Document::parse(text).terms();
    // No apostrophes: the words stand between two.
    let terms = terms.iter().map(|(term, _)| term.as_str()).filter(|term| term.chars().all(char::is_alphanumeric));
    let focus: Vec<&str> = terms.skip(4).take(2).collect();
    if focus.is_empty() { "the beginning".to_owned() } else { focus.join(" ") }
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

    #[test]
    fn the_words_to_steer_to_need_no_escape() {
        let text = "The ship's boy's dog's cat's captain's anchor's chain's \"rope\"'s knots hold harbour walls.";
        assert!(focus(text).chars().all(|c| c.is_alphanumeric() || c == ' '), "{}", focus(text));
        assert_eq!(focus(""), "the beginning");
    }
}
