//! The scorecard: what the findings mean, by the rules in docs/AUDIT.md, with the evidence and what to do about it.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{Fidelity, Findings, Plan, Stopped, SyncFinding, Target, findings::StopFinding};

/// The shape of the JSON. It changes only with this name.
const SCHEMA: &str = "moorline.audit/1";

/// Shares from here on are no failure, as long as they are not whole.
const NEARLY: f64 = 0.95;

/// An output that ends this soon after the stop has obeyed it.
const PROMPT: Duration = Duration::from_secs(2);

/// How something did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Pass,
    /// In part.
    Partial,
    /// Not as it should be.
    Fail,
    /// Nothing is claimed.
    NotTested,
}

impl Status {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Partial => "partial",
            Status::Fail => "FAIL",
            Status::NotTested => "not tested",
        }
    }

    fn of_share(share: f64, nearly: f64) -> Status {
        match share {
            1.0.. => Status::Pass,
            share if share >= nearly => Status::Partial,
            _ => Status::Fail,
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// How it did.
    pub status: Status,
    /// The evidence.
    pub evidence: String,
}

/// One measure.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// The worst of what was tested.
    pub status: Status,
    /// From 0 to 1, where it is a share.
    pub share: Option<f64>,
    /// In a sentence.
    pub summary: String,
    /// Its numbers.
    pub figures: BTreeMap<&'static str, f64>,
    /// What was tried.
    pub checks: Vec<Check>,
    /// What to do about what failed.
    pub advice: Vec<String>,
}

/// Whether it is in the single-connection trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trap {
    /// The stream lives and dies with one connection.
    Trapped,
    /// It is out of it in part.
    Partly,
    /// It is not in the trap, in all that was tested.
    Free,
    /// Too little could be tested.
    Undecided,
}

/// The verdict, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The verdict.
    pub trap: Trap,
    /// By which of the rules.
    pub why: String,
}

/// What was audited.
#[derive(Debug, Clone, Serialize)]
pub struct Audited {
    /// `moorline`, `sse` or `post`.
    pub kind: &'static str,
    /// Without what may be secret in it.
    pub url: String,
    /// The method that begins streams.
    pub method: String,
}

/// The result of an audit.
#[derive(Debug, Clone, Serialize)]
pub struct Scorecard {
    /// `moorline.audit/1`.
    pub schema: &'static str,
    /// What was audited.
    pub target: Audited,
    /// All that was planned was done.
    pub complete: bool,
    /// Why not.
    pub incomplete_because: Option<&'static str>,
    /// How long it took.
    pub duration_ms: u64,
    /// How many requests it sent.
    pub requests: usize,
    /// Events of the first stream.
    pub events: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// Four, always in the same order: resilience, fidelity, sync, control.
    pub measures: Vec<Measure>,
}

impl Scorecard {
    /// Judges.
    pub(super) fn of(plan: &Plan, findings: &Findings, stopped: Stopped, took: Duration) -> Scorecard {
        let target = &plan.target;
        let measures =
            vec![resilience(target, findings), fidelity(findings), sync(target, findings), control(target, findings)];
        let mut scorecard = Scorecard {
            schema: SCHEMA,
            target: Audited { kind: target.kind(), url: target.url(), method: target.method().to_owned() },
            complete: stopped == Stopped::Done,
            incomplete_because: match stopped {
                Stopped::Done => None,
                Stopped::TimeUp => Some("the time was up"),
                Stopped::Interrupted => Some("interrupted"),
            },
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            requests: findings.requests,
            events: findings.first.as_ref().map_or(0, |first| first.events),
            verdict: verdict(&measures),
            measures,
        };
        scorecard.hide(&target.secrets());
        scorecard
    }

    /// The measure of this name.
    pub fn measure(&self, id: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.id == id)
    }

    /// All that was tested passed, and something was tested.
    pub fn is_good(&self) -> bool {
        self.is_tested() && self.measures.iter().all(|m| matches!(m.status, Status::Pass | Status::NotTested))
    }

    /// Something was tested.
    pub fn is_tested(&self) -> bool {
        self.measures.iter().any(|m| m.status != Status::NotTested)
    }

    /// An endpoint may say back what it was told.
    fn hide(&mut self, secrets: &[&str]) {
        for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
            let hide = |text: &mut String| {
                if text.contains(secret) {
                    *text = text.replace(secret, "…");
                }
            };
            hide(&mut self.verdict.why);
            hide(&mut self.target.url);
            for measure in &mut self.measures {
                hide(&mut measure.summary);
                measure.checks.iter_mut().for_each(|check| hide(&mut check.evidence));
            }
        }
    }
}

fn resilience(target: &Target, findings: &Findings) -> Measure {
    let tested: Vec<bool> = findings.cuts.iter().filter_map(|cut| cut.survived).collect();
    let survived = tested.iter().filter(|survived| **survived).count();
    let share = (!tested.is_empty()).then(|| survived as f64 / tested.len() as f64);
    let checks = findings.cuts.iter().map(|cut| Check {
        what: format!("cut {}, after {} events", cut.label, cut.seen),
        status: match cut.survived {
            Some(true) => Status::Pass,
            Some(false) => Status::Fail,
            None => Status::NotTested,
        },
        evidence: cut.what.clone(),
    });
    let status = share.map_or(Status::NotTested, |share| Status::of_share(share, 0.5));
    let after_the_end = |survived| {
        findings.cuts.iter().any(|cut| cut.survived == Some(survived) && cut.label.contains("after the end"))
    };
    let advice = match status {
        Status::Pass | Status::NotTested => vec![],
        _ if !target.can_come_back() => vec![
            "Give the stream an address of its own, apart from the request that began it: keep its events in a log, with ids, and let clients GET the rest after an id.".into(),
            "If there is such an address already, name it with --resume-url, and audit again.".into(),
        ],
        _ if after_the_end(false) => vec![
            "Keep a stream's events for some time after its end: a client that comes back a little too late finds nothing.".into(),
        ],
        _ => vec!["Answer a return (Last-Event-ID, or the resume URL) with the rest of the same stream, and with its end.".into()],
    };
    Measure {
        id: "resilience",
        name: "Stream resilience",
        status,
        share,
        summary: match share {
            Some(_) => format!("{survived} of {} cuts survived", tested.len()),
            None => "no cut could be made".into(),
        },
        figures: figures([("cuts", tested.len() as f64), ("survived", survived as f64)]),
        checks: checks.collect(),
        advice,
    }
}

fn fidelity(findings: &Findings) -> Measure {
    let tallies = || {
        findings.cuts.iter().filter_map(|cut| match &cut.fidelity {
            Fidelity::Compared(tally) => Some((cut, tally)),
            Fidelity::Untested(_) => None,
        })
    };
    let sum = |count: fn(&super::judge::Tally) -> usize| tallies().map(|(_, tally)| count(tally)).sum::<usize>();
    let (concerned, right) = (sum(|t| t.concerned()), sum(|t| t.right));
    let (lost, doubled, moved, foreign) = (sum(|t| t.lost), sum(|t| t.doubled), sum(|t| t.moved), sum(|t| t.foreign));
    let faults = lost + doubled + moved + foreign;
    let share = (concerned > 0).then(|| right as f64 / concerned as f64);
    let status = match share {
        None => Status::NotTested,
        // An event that belongs to nothing is no share of anything.
        Some(share) if share >= 1.0 && faults > 0 => Status::Partial,
        Some(share) => Status::of_share(share, NEARLY),
    };
    let checks = findings.cuts.iter().map(|cut| match &cut.fidelity {
        Fidelity::Untested(why) => {
            Check { what: format!("cut {}", cut.label), status: Status::NotTested, evidence: why.clone() }
        }
        Fidelity::Compared(t) => Check {
            what: format!("cut {}", cut.label),
            status: match t.lost + t.doubled + t.moved + t.foreign {
                0 => Status::Pass,
                _ => Status::Fail,
            },
            evidence: format!(
                "of {} events due {} lost, {} doubled, {} out of order{}",
                t.due,
                t.lost,
                t.doubled,
                t.moved,
                if t.foreign > 0 {
                    format!(", and {} that the uncut observer never saw", t.foreign)
                } else {
                    String::new()
                }
            ),
        },
    });
    let mut advice = Vec::new();
    if lost > 0 {
        advice.push("Lost: read the log on from the very id that the client names, and join history to what is live without a gap (subscribe first, then read).".to_owned());
    }
    if doubled > 0 {
        advice.push("Doubled: give each event an id and send only what comes after the client's; a replay from the start shows users text twice.".into());
    }
    if moved > 0 {
        advice.push("Out of order: finish the history before anything live is sent.".into());
    }
    if foreign > 0 {
        advice.push(
            "Not of this stream: a return must lead to the same stream, with the same bytes and ids for every client."
                .into(),
        );
    }
    Measure {
        id: "fidelity",
        name: "Reconnection fidelity",
        status,
        share,
        summary: match share {
            Some(_) => format!("of {concerned} events {lost} lost, {doubled} doubled, {moved} out of order"),
            None => "nothing to compare".into(),
        },
        figures: figures([
            ("events", concerned as f64),
            ("right", right as f64),
            ("lost", lost as f64),
            ("doubled", doubled as f64),
            ("out_of_order", moved as f64),
            ("foreign", foreign as f64),
        ]),
        checks: checks.collect(),
        advice,
    }
}

fn sync(target: &Target, findings: &Findings) -> Measure {
    let measure = |status, share, summary: String, figures, checks, advice| Measure {
        id: "sync",
        name: "Multi-surface sync",
        status,
        share,
        summary,
        figures,
        checks,
        advice,
    };
    let none = BTreeMap::new;
    let own_address = "Let every tab and device follow the same stream at an address of its own (GET), from the start or after an id.";
    let one = |status, summary: &str, evidence: String, advice: Vec<String>| {
        let check = Check { what: "a second and a third surface".into(), status, evidence };
        let share = (status == Status::Fail).then_some(0.0);
        measure(status, share, summary.into(), none(), vec![check], advice)
    };
    match &findings.sync {
        None => measure(Status::NotTested, None, "not reached".into(), none(), vec![], vec![]),
        Some(SyncFinding::Untested(why)) => one(Status::NotTested, "could not be tested", why.clone(), vec![]),
        Some(SyncFinding::NoAddress(why)) => {
            let mut evidence = why.clone();
            if let Some(again) = &findings.sent_again {
                evidence = format!("{why}; {again}");
            }
            let mut advice = vec![own_address.to_owned()];
            if !target.can_come_back() {
                advice.push("If there is such an address already, name it with --resume-url, and audit again.".into());
            }
            one(Status::Fail, "no second surface", evidence, advice)
        }
        Some(SyncFinding::Refused(why)) => {
            one(Status::Fail, "a second surface was refused", why.clone(), vec![own_address.into()])
        }
        Some(SyncFinding::Private(lag)) => one(
            Status::Fail,
            "each connection gets a stream of its own",
            format!("a second surface got a copy that began anew, {:.0} ms behind throughout", lag.as_secs_f64() * 1e3),
            vec![own_address.into()],
        ),
        Some(SyncFinding::Seen { surfaces, lags }) => {
            let (live, seen) = surfaces.iter().fold((0, 0), |(live, seen), s| (live + s.0, seen + s.1));
            let share = seen as f64 / live.max(1) as f64;
            let status = Status::of_share(share, NEARLY);
            let at =
                |q: f64| lags.get(((lags.len() as f64 - 1.0) * q).round().max(0.0) as usize).copied().unwrap_or(0.0);
            let (p50, p99) = (rounded(at(0.5)), rounded(at(0.99)));
            let checks = surfaces.iter().zip(["second surface", "third surface"]).map(|((live, seen), what)| Check {
                what: what.into(),
                status: Status::of_share(*seen as f64 / (*live).max(1) as f64, NEARLY),
                evidence: format!("{seen} of {live} live events"),
            });
            let advice = match status {
                Status::Pass | Status::NotTested => vec![],
                _ => vec!["Send every event to all who follow, from one shared log; a client that fell behind reads on from there.".into()],
            };
            let mut figures = figures([("live", live as f64), ("seen", seen as f64)]);
            if !lags.is_empty() {
                figures.extend([("lag_p50_ms", p50), ("lag_p99_ms", p99)]);
            }
            let summary = format!("{seen} of {live} live events seen, lag p50 {p50} ms, p99 {p99} ms");
            measure(status, Some(share), summary, figures, checks.collect(), advice)
        }
    }
}

fn control(target: &Target, findings: &Findings) -> Measure {
    let (mut checks, mut advice, mut figures) = (Vec::new(), Vec::<String>::new(), BTreeMap::new());
    let check = |what: &str, status, evidence: String| Check { what: what.into(), status, evidence };
    checks.push(match &findings.disconnect {
        None => check("a disconnect is no stop", Status::NotTested, "not reached".into()),
        Some(Err(why)) => check("a disconnect is no stop", Status::NotTested, why.clone()),
        Some(Ok(found)) => {
            if !found.went_on {
                advice.push(
                    "Let the output go on when a connection closes: nobody can tell a closed tab from a tunnel.".into(),
                );
            }
            let status = if found.went_on { Status::Pass } else { Status::Fail };
            check("a disconnect is no stop", status, found.what.clone())
        }
    });
    match &findings.stop {
        None if target.can_stop() => {
            checks.push(check("a stop ends the output", Status::NotTested, "not reached".into()))
        }
        None => {
            let why = "no stop was named (--stop-url), so none was tried";
            checks.push(check("a stop ends the output", Status::NotTested, why.into()));
        }
        Some(Err(why)) => checks.push(check("a stop ends the output", Status::NotTested, why.clone())),
        Some(Ok(stop)) => stop_checks(stop, &mut checks, &mut advice, &mut figures),
    }
    let tested = || checks.iter().map(|check| check.status).filter(|status| *status != Status::NotTested);
    let status = match (tested().max(), tested().min()) {
        (Some(Status::Fail), Some(Status::Pass))
            if tested().filter(|s| *s == Status::Fail).count() == 1
                && checks[0].status == Status::Pass
                && checks.len() == 4 =>
        {
            Status::Fail
        }
        (Some(worst), _) => worst,
        (None, _) => Status::NotTested,
    };
    let say = |s: Status| {
        checks.iter().filter(|check| check.status == s).map(|check| check.what.as_str()).collect::<Vec<_>>()
    };
    let summary = match status {
        Status::NotTested => "nothing could be tested".to_owned(),
        Status::Pass => say(Status::Pass).join("; "),
        worst => format!("not so: {}", say(worst).join("; ")),
    };
    Measure { id: "control", name: "Live control", status, share: None, summary, figures, checks, advice }
}

fn stop_checks(
    stop: &StopFinding,
    checks: &mut Vec<Check>,
    advice: &mut Vec<String>,
    figures: &mut BTreeMap<&'static str, f64>,
) {
    let accepted = (200..300).contains(&stop.status);
    let mut add = |what: &str, status, evidence: String| checks.push(Check { what: what.into(), status, evidence });
    let status = match (accepted, stop.ran_on, stop.last_after <= PROMPT) {
        (_, true, _) | (false, ..) => Status::Fail,
        (true, false, true) => Status::Pass,
        (true, false, false) => Status::Partial,
    };
    let refused =
        if accepted { String::new() } else { format!("the stop was answered {} {}; ", stop.status, stop.said) };
    add("a stop ends the output", status, format!("{refused}stopped after {} events: {}", stop.at, stop.what));
    match status {
        Status::Fail => advice.push("Carry a stop to whoever produces the output, by a command that names the stream, and refuse what it still sends.".into()),
        Status::Partial => advice.push("The output ended late: check for a stop with every event, and set a time after which the rest is refused.".into()),
        _ => {}
    }
    figures.insert("events_after_stop", stop.more as f64);
    figures.insert("stopped_after_ms", rounded(stop.last_after.as_secs_f64() * 1e3));
    if !stop.ran_on {
        match stop.told {
            Some(true) => add(
                "another surface learns of the stop",
                Status::Pass,
                "it saw the end, or an event that says so".into(),
            ),
            Some(false) => {
                add(
                    "another surface learns of the stop",
                    Status::Partial,
                    "its stream fell silent without a word".into(),
                );
                advice.push("Write the stop and the end into the stream, so that every surface shows it.".into());
            }
            None => add("another surface learns of the stop", Status::NotTested, "there was no other surface".into()),
        }
    }
    if let Some(append) = &stop.append {
        let refused = append == "run_ended";
        let status = if refused { Status::Pass } else { Status::Fail };
        add("what the agent still sends is refused", status, format!("an append after the stop: {append}"));
    }
}

/// The rules of the verdict; docs/AUDIT.md has them in prose.
fn verdict(measures: &[Measure]) -> Verdict {
    let [resilience, fidelity, sync, control] = measures else {
        return Verdict { trap: Trap::Undecided, why: "there are not four measures".into() };
    };
    let said = |trap, why: &str| Verdict { trap, why: why.into() };
    if resilience.share == Some(0.0) {
        return said(Trap::Trapped, "no cut was survived: the stream lives and dies with its connection");
    }
    if sync.share == Some(0.0) {
        return said(Trap::Trapped, "no second surface can follow: the stream belongs to one connection");
    }
    let faulty: Vec<_> =
        measures.iter().filter(|m| matches!(m.status, Status::Fail | Status::Partial)).map(|m| m.name).collect();
    let untested: Vec<_> = measures.iter().filter(|m| m.status == Status::NotTested).map(|m| m.name).collect();
    if !faulty.is_empty() {
        return Verdict { trap: Trap::Partly, why: format!("not all is as it should be: {}", faulty.join(", ")) };
    }
    if [resilience, fidelity, sync].iter().any(|m| m.status == Status::NotTested) {
        return Verdict { trap: Trap::Undecided, why: format!("not tested: {}", untested.join(", ")) };
    }
    match control.status {
        Status::NotTested => {
            said(Trap::Free, "all cuts were survived, nothing was lost, all surfaces saw it; control was not tested")
        }
        _ => said(Trap::Free, "all cuts were survived, nothing was lost, all surfaces saw it, and control held"),
    }
}

impl Verdict {
    /// In words.
    pub fn headline(&self) -> &'static str {
        match self.trap {
            Trap::Trapped => "IN THE SINGLE-CONNECTION TRAP",
            Trap::Partly => "PARTLY OUT OF THE SINGLE-CONNECTION TRAP",
            Trap::Free => "NOT IN THE SINGLE-CONNECTION TRAP",
            Trap::Undecided => "UNDECIDED",
        }
    }
}

fn figures<const N: usize>(pairs: [(&'static str, f64); N]) -> BTreeMap<&'static str, f64> {
    pairs.into_iter().collect()
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// A share as people read it. Never 100 unless it is whole.
pub(super) fn percent(share: f64) -> String {
    match share {
        1.0.. => "100 %".into(),
        share => format!("{:.1} %", (share * 1000.0).floor() / 10.0),
    }
}

/// The scorecard for a terminal, without colours.
impl fmt::Display for Scorecard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} ({})", self.target.method, self.target.url, self.target.kind)?;
        writeln!(
            f,
            "{} requests in {:.1} s, {} events a stream",
            self.requests,
            self.duration_ms as f64 / 1e3,
            self.events
        )?;
        if let Some(why) = self.incomplete_because {
            writeln!(f, "PARTIAL SCORECARD: {why}")?;
        }
        writeln!(f)?;
        for measure in &self.measures {
            let share = measure.share.map(percent).unwrap_or_default();
            writeln!(f, "{:<10}  {:<22} {share:>7}  {}", measure.status.word(), measure.name, measure.summary)?;
        }
        writeln!(f, "\nVerdict: {}\n         {}", self.verdict.headline(), self.verdict.why)?;
        for measure in &self.measures {
            writeln!(f, "\n{}", measure.name)?;
            for check in &measure.checks {
                writeln!(f, "  {:<10}  {}: {}", check.status.word(), check.what, check.evidence)?;
            }
            for advice in &measure.advice {
                writeln!(f, "  → {advice}")?;
            }
        }
        Ok(())
    }
}
