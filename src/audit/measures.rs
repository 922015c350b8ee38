//! The four measures: what the findings mean, with the evidence and what to do about it. docs/AUDIT.md has the rules in
//! prose.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Fidelity, Findings, SyncFinding, Target,
    findings::StopFinding,
    judge::Tally,
    scorecard::{Check, Measure, Status},
};

/// Shares from here on are no failure, as long as they are not whole.
const NEARLY: f64 = 0.95;

/// An output that ends this soon after the stop has obeyed it.
const PROMPT: Duration = Duration::from_secs(2);

/// Resilience, fidelity, sync, control: always in this order.
pub(super) fn all(target: &Target, findings: &Findings) -> Vec<Measure> {
    vec![resilience(target, findings), fidelity(target, findings), sync(target, findings), control(target, findings)]
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

fn fidelity(target: &Target, findings: &Findings) -> Measure {
    let tallies = || {
        findings.cuts.iter().filter_map(|cut| match &cut.fidelity {
            Fidelity::Compared(tally) => Some((cut, tally)),
            Fidelity::Untested(_) => None,
        })
    };
    let sum = |count: fn(&Tally) -> usize| tallies().map(|(_, tally)| count(tally)).sum::<usize>();
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
    let without_id = findings.first.as_ref().map_or(0, |first| first.without_id);
    // Of a gateway it is known what they are.
    let left_out = (without_id > 0 && !matches!(target, Target::Gateway(_))).then(|| Check {
        what: "events without an id".into(),
        status: Status::NotTested,
        evidence: format!(
            "{without_id} in the first stream, where the others have one: no client can come back to these, so they \
             are taken for the connection's own (pings and the like)"
        ),
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
        checks: checks.chain(left_out).collect(),
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
    let tested = checks.iter().map(|check| check.status).filter(|status| *status != Status::NotTested);
    let status = tested.max().unwrap_or(Status::NotTested);
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

fn figures<const N: usize>(pairs: [(&'static str, f64); N]) -> BTreeMap<&'static str, f64> {
    pairs.into_iter().collect()
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
