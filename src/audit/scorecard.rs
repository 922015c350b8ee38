//! The scorecard: four measures, the verdict by the rules in docs/AUDIT.md, and how it looks in a terminal.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{Findings, Plan, Stopped, measures};

/// The shape of the JSON. It changes only with this name.
const SCHEMA: &str = "moorline.audit/1";

/// Columns of the scorecard in a terminal.
const WIDTH: usize = 110;

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

    pub(super) fn of_share(share: f64, nearly: f64) -> Status {
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
    pub incomplete_because: Option<String>,
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
        let measures = measures::all(target, findings);
        let mut scorecard = Scorecard {
            schema: SCHEMA,
            target: Audited { kind: target.kind(), url: target.url(), method: target.method().to_owned() },
            complete: stopped == Stopped::Done,
            incomplete_because: match stopped {
                Stopped::Done => None,
                Stopped::TimeUp => Some("the time was up".into()),
                Stopped::Interrupted => Some("interrupted".into()),
                Stopped::Failed(why) => Some(why),
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

    /// Something that was tested did not pass, or only in part.
    pub fn is_faulty(&self) -> bool {
        self.measures.iter().any(|m| matches!(m.status, Status::Fail | Status::Partial))
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
            self.incomplete_because.iter_mut().for_each(hide);
            for measure in &mut self.measures {
                hide(&mut measure.summary);
                measure.checks.iter_mut().for_each(|check| hide(&mut check.evidence));
            }
        }
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
    let of_control = match control.status {
        Status::NotTested => "; control was not tested",
        _ if control.checks.iter().any(|check| check.status == Status::NotTested) => {
            ", and control held as far as it was tested"
        }
        _ => ", and control held",
    };
    let why = format!("all cuts were survived, nothing was lost, all surfaces saw it{of_control}");
    Verdict { trap: Trap::Free, why }
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

/// A share as people read it. Never 100 unless it is whole.
pub(super) fn percent(share: f64) -> String {
    match share {
        1.0.. => "100 %".into(),
        0.0 => "0 %".into(),
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
        if let Some(why) = &self.incomplete_because {
            writeln!(f, "PARTIAL SCORECARD: {why}")?;
        }
        writeln!(f)?;
        for measure in &self.measures {
            let share = measure.share.map(percent).unwrap_or_default();
            let head = format!("{:<10}  {:<22} {share:>7}  ", measure.status.word(), measure.name);
            write_wrapped(f, &head, &measure.summary)?;
        }
        writeln!(f, "\nVerdict: {}\n         {}", self.verdict.headline(), self.verdict.why)?;
        for measure in &self.measures {
            writeln!(f, "\n{}", measure.name)?;
            for check in &measure.checks {
                write_wrapped(
                    f,
                    &format!("  {:<10}  ", check.status.word()),
                    &format!("{}: {}", check.what, check.evidence),
                )?;
            }
            for advice in &measure.advice {
                write_wrapped(f, "  → ", advice)?;
            }
        }
        Ok(())
    }
}

/// A text behind a head, in lines of no more than `WIDTH` that stand below each other. A longer word stays whole.
fn write_wrapped(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let indent = head.chars().count();
    let mut column = indent;
    f.write_str(head)?;
    for (i, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if i > 0 && column + 1 + length > WIDTH {
            write!(f, "\n{:indent$}", "")?;
            column = indent;
        } else if i > 0 {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
    }
    writeln!(f)
}
