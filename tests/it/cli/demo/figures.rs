//! The figures that the agents publish, beside those of `tests/desk/figures.py`; and the files that they hand out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{Program, banner_line, moorline, shell};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/desk/roofer.csv");

/// What the script makes of a file.
fn independent(book: &Path, arguments: &[&str]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/desk/figures.py");
    let output = Command::new("python3").arg(script).arg(book).args(arguments).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs a demo to its end; gives all events of its session. `decide`: the line of the banner that answers discovery.
fn session(arguments: &[&str], decide: Option<&str>) -> Vec<Value> {
    let all = [&["demo", "--once", "--listen", "127.0.0.1:0", "--speed", "2000"], arguments].concat();
    let mut demo = Program::start(&all);
    let tail = banner_line(&demo, " tail demo-");
    let words: Vec<&str> = tail.split_whitespace().collect();
    let [.., session, _, url] = words[..] else { panic!("{tail}") };
    let mut tail = Program::start(&["tail", session, "--url", url, "--json"]);
    if let Some(decision) = decide {
        demo.wait_for_stdout("approval drop-leads requested");
        shell(&banner_line(&demo, &format!("\"decision\":\"{decision}\"")));
    }
    assert_eq!(demo.wait(Duration::from_secs(60)), 0, "{}", demo.stderr());
    assert_eq!(tail.wait(Duration::from_secs(20)), 0, "{}", tail.stderr());
    tail.stdout().lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

fn file<'a>(events: &'a [Value], name: &str) -> &'a str {
    let file = events.iter().find(|event| event["type"] == "file" && event["data"]["name"] == name);
    file.unwrap_or_else(|| panic!("there is no {name}"))["data"]["content"].as_str().expect("a text")
}

/// That the last finding of each agent has the script's figures, and the question the script's leads.
fn agree(events: &[Value], theirs: &Value) {
    for agent in ["reactivation", "lifetime-value", "pipeline", "discovery", "cadence", "road-map"] {
        let last = events.iter().rfind(|event| event["type"] == "finding" && event["agent"] == agent);
        let ours = &last.unwrap_or_else(|| panic!("{agent} has found nothing"))["data"]["figures"];
        assert!(ours.as_object().is_some_and(|figures| !figures.is_empty()), "{agent}");
        assert_eq!(*ours, theirs[agent], "{agent}");
    }
    let asked = events.iter().find(|event| event["type"] == "approval.requested").expect("a question");
    let items = asked["data"]["prompt"]["items"].as_array().expect("items");
    let ids: Vec<&str> = items.iter().filter_map(|item| item.as_str()?.split(' ').next()).collect();
    assert_eq!(Value::from(ids), theirs["lists"]["to_drop"]);
}

/// `$12,346`.
fn dollars(cents: &Value) -> String {
    let dollars = ((cents.as_i64().expect("cents") + 50) / 100).to_string();
    let groups: Vec<&str> =
        dollars.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    format!("${}", groups.join(","))
}

#[test]
fn the_shipped_book_s_figures_are_those_of_an_independent_program_and_stand_in_the_report() {
    let events = session(&["--approval-wait", "1s"], None);
    let theirs = independent(Path::new(SHIPPED), &["--decision", "expired"]);
    agree(&events, &theirs);
    let report = file(&events, "report.md");
    let (first, map, pipeline) = (&theirs["reactivation"], &theirs["road-map"], &theirs["pipeline"]);
    for line in [
        format!(
            "- Call {} past customers and {} old leads first: {} in bookings to plan with.",
            first["list_customers"],
            first["list_leads"],
            dollars(&first["planned_bookings"])
        ),
        format!("- A customer has brought {} so far.", dollars(&theirs["lifetime-value"]["all"]["value"])),
        format!("- {} of {} lost leads were lost by the process", pipeline["lost_bad_process"], pipeline["lost"]),
        format!("- {} jobs and {} in 360 days, at {} jobs", map["jobs"], dollars(&map["revenue"]), map["capacity"]),
        format!("{} of {}.", dollars(&first["rule_bookings"]), dollars(&first["annual_revenue"])),
        format!(
            "SQL to sale | {} | {} |",
            pipeline["sql"].as_u64().unwrap() + pipeline["won"].as_u64().unwrap(),
            pipeline["won"]
        ),
    ] {
        assert!(report.contains(&line), "{line}\n{report}");
    }
    assert!(!report.contains("Not complete"), "{report}");
}

#[test]
fn another_book_s_figures_agree_too_after_an_approval_and_with_a_capacity() {
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join("another.csv");
    let made = moorline(&["demo", "--generate-data", "20260101"], "");
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stdout != fs::read_to_string(SHIPPED).unwrap(), "another seed makes another book");
    fs::write(&book, made.stdout).unwrap();
    let arguments = [book.to_str().unwrap(), "--capacity", "7", "--as-of", "2026-12-24", "--approval-wait", "60s"];
    let events = session(&arguments, Some("approve"));
    let how = ["--capacity", "7", "--as-of", "2026-12-24", "--decision", "approved"];
    let theirs = independent(&book, &how);
    assert!(theirs["discovery"]["dropped"].as_u64() > Some(0), "there is something to drop");
    agree(&events, &theirs);
}

/// What RFC 5545 asks of a file like this, read as a calendar reads it.
#[test]
fn the_calendar_is_sound_and_has_every_attempt_once() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let events = session(&["--approval-wait", "1ms", "--out", out.to_str().unwrap()], None);
    let ics = file(&events, "calendar.ics");
    assert_eq!(fs::read_to_string(out.join("calendar.ics")).unwrap(), ics);
    assert_eq!(fs::read_to_string(out.join("report.md")).unwrap(), file(&events, "report.md"));

    assert!(ics.ends_with("\r\n") && !ics.replace("\r\n", "").contains(['\r', '\n']), "lines end with CRLF");
    assert!(ics.split("\r\n").all(|line| line.len() <= 75), "lines have at most 75 bytes");
    let unfolded = ics.replace("\r\n ", "");
    let mut lines = unfolded.split("\r\n").filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("BEGIN:VCALENDAR"));
    let (mut ids, mut days, mut by_lead, mut entry) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new(), None);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
        match (name, value) {
            ("BEGIN", "VEVENT") => assert!(entry.replace(BTreeMap::new()).is_none(), "entries do not nest"),
            ("END", "VEVENT") => {
                let entry: BTreeMap<&str, &str> = entry.take().expect("an entry");
                let names: Vec<&str> = entry.keys().copied().collect();
                assert_eq!(names, ["DESCRIPTION", "DTSTAMP", "DTSTART", "DURATION", "SUMMARY", "UID"]);
                assert!(ids.insert(entry["UID"]), "{} is there twice", entry["UID"]);
                assert_eq!((entry["DTSTAMP"].len(), entry["DTSTART"].len()), (16, 15), "{entry:?}");
                *days.entry(&entry["DTSTART"][..8]).or_insert(0) += 1;
                *by_lead.entry(entry["UID"].rsplit_once('-').expect("lead-number").0).or_insert(0_u64) += 1;
            }
            ("END", "VCALENDAR") => assert!(entry.is_none()),
            _ => match &mut entry {
                Some(entry) => assert!(entry.insert(name, value).is_none(), "{line} is there twice"),
                None => assert!(["VERSION", "PRODID", "CALSCALE"].contains(&name), "{line}"),
            },
        }
    }
    let theirs = independent(Path::new(SHIPPED), &[]);
    let cadence = &theirs["cadence"];
    assert_eq!(ids.len() as u64, cadence["attempts"].as_u64().unwrap());
    assert_eq!(by_lead.len() as u64, cadence["planned"].as_u64().unwrap());
    assert_eq!(days.values().max().copied(), cadence["busiest_day"].as_u64());
    let first = cadence["first_day"].as_str().unwrap().replace('-', "");
    assert_eq!(days.keys().next().copied(), Some(first.as_str()));
}
