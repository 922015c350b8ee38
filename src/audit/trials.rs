//! The trials, one after the other: the first look with its surfaces, the cuts; in `control.rs` the disconnect and the stop.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Plan,
    findings::{CutFinding, Fidelity, Findings, First, SyncFinding},
    judge,
    stream::{End, Unit, Watching, distinct_ids},
    wire::{AuditError, Wire},
};

/// How long a client is away after a cut, if it comes back soon.
pub(super) const SOON: Duration = Duration::from_millis(300);

/// How long what is under way may take to arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The first surface has a head start, so that a stream of its own for each connection shows by its lag.
const HEAD_START: Duration = Duration::from_millis(150);

/// Within this time of the first event is at once.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Where the cuts fall, and whether the client is away until the stream is over. In this order, so that few trials have
/// one of each.
const CUTS: [(&str, f64, bool); 6] = [
    ("early", 0.1, false),
    ("in the middle", 0.5, false),
    ("late", 0.85, false),
    ("in the middle, back after the end", 0.5, true),
    ("early, back after the end", 0.1, true),
    ("late, back after the end", 0.85, true),
];

pub(super) async fn run(
    plan: &Plan,
    wire: &Wire,
    findings: &mut Findings,
    progress: &(impl Fn(String) + Sync),
) -> Result<(), AuditError> {
    let trials = Trials { plan, wire };
    let begun = Instant::now();
    progress("a stream without a cut, and two more surfaces".into());
    let first = trials.first(findings).await?;
    if !plan.target.can_come_back() {
        progress("a cut, and the same request again".into());
        trials.cut_without_return(&first, findings).await?;
    }
    let cuts = if plan.target.can_come_back() && first.events >= 3 {
        plan.cuts.min(cuts_that_fit(plan, &first, begun.elapsed()))
    } else {
        0
    };
    if (1..plan.cuts).contains(&cuts) {
        progress(format!("a stream takes {:.1} s: {cuts} cuts fit into the time", first.took.as_secs_f64()));
    }
    for n in 0..cuts {
        let (label, fraction, away) = CUTS[n % CUTS.len()];
        progress(format!("cut {} of {cuts}: {label}", n + 1));
        let cut = trials.cut(&first, n, label, fraction, away).await?;
        findings.cuts.push(cut);
    }
    if plan.target.can_come_back() {
        progress("a disconnect with nobody else there".into());
    }
    findings.disconnect = Some(trials.disconnect(&first, findings.sync.as_ref()).await?);
    if plan.target.can_stop() {
        progress("a stop".into());
        findings.stop = Some(trials.stop(&first).await?);
    }
    Ok(())
}

/// How many cuts leave time for the trials of control. At least one.
fn cuts_that_fit(plan: &Plan, first: &First, spent: Duration) -> usize {
    let (part, control) = (if first.ended { 1.0 } else { 0.85 }, if plan.target.can_stop() { 2.0 } else { 1.0 });
    let cut = first.took.mul_f64(part) + PATIENCE;
    let left = plan.time.saturating_sub(spent).as_secs_f64() - control * (first.took.as_secs_f64() / 2.0 + 4.0);
    ((left / cut.as_secs_f64()).floor().max(1.0)) as usize
}

/// Who tries.
pub(super) struct Trials<'a> {
    pub plan: &'a Plan,
    pub wire: &'a Wire,
}

impl Trials<'_> {
    /// Until when a stream that begins now is watched.
    pub fn window(&self) -> Instant {
        Instant::now() + self.plan.watch
    }

    /// Reads a stream to its end, while two more surfaces join.
    async fn first(&self, findings: &mut Findings) -> Result<First, AuditError> {
        let deadline = self.window();
        let mut subject = self.plan.target.begin().await?;
        let a = self.wire.open(&subject.first()).await?;
        a.until(deadline, |a| a.count() >= 1).await;
        subject.learn(&a, Instant::now() + PATIENCE).await;
        sleep_until((a.opened + HEAD_START).min(deadline)).await;

        let mut others = Vec::new();
        let mut obstacle = None;
        for (n, after) in [(1, 3), (2, 5)] {
            a.until(deadline, |a| a.count() >= after).await;
            match subject.surface(n) {
                None => obstacle = Some(SyncFinding::NoAddress(self.no_surface())),
                Some(request) if a.end().is_none() => match self.wire.open(&request).await {
                    Ok(b) => others.push(b),
                    Err(error) => obstacle = Some(SyncFinding::Refused(format!("a second surface: {error}"))),
                },
                Some(_) => {
                    let why = "the stream was over before a second surface could join; try it with a longer answer";
                    obstacle = obstacle.or(Some(SyncFinding::Untested(why.into())));
                }
            }
        }
        let ended = a.ended(deadline).await;
        for b in &others {
            let last = a.units().last().map(|unit| unit.key.clone());
            let has = |b: &Watching| last.as_ref().is_none_or(|key| b.holds(key));
            b.until(Instant::now() + PATIENCE, has).await;
        }
        let units = a.units();
        if units.is_empty() {
            let why = match a.end() {
                None => format!("the stream is open, but nothing came in {:?}", self.plan.watch),
                Some((End::Broken(why), _)) => format!("the stream broke before its first event: {why}"),
                Some(_) => "the stream ended without an event".into(),
            };
            return Err(AuditError::Nothing(why));
        }
        findings.sync = Some(match obstacle {
            Some(obstacle) => obstacle,
            None => synced(&a, &others),
        });
        let took = a.opened.elapsed();
        let took = a.end().map_or(took, |(_, at)| at.duration_since(a.opened));
        let ended = ended && !matches!(a.end(), Some((End::Enough, _)));
        let first = First {
            events: units.len(),
            without_id: a.without_id(),
            took,
            ended,
            ids: distinct_ids(&units),
            keys: keys(&units),
        };
        findings.first = Some(first.clone());
        Ok(first)
    }

    fn no_surface(&self) -> String {
        if self.plan.target.can_come_back() {
            "the stream's address could not be made out: the answer did not hold its {id}".into()
        } else {
            "the stream exists in one answer only: there is no address (--resume-url) at which another surface could follow"
                .into()
        }
    }

    /// A POST without a way back: what a client can do is to send it again.
    async fn cut_without_return(&self, first: &First, findings: &mut Findings) -> Result<(), AuditError> {
        let deadline = self.window();
        let subject = self.plan.target.begin().await?;
        let a = self.wire.open(&subject.first()).await?;
        let goal = place(first.events, 0.5);
        a.until(deadline, |a| a.count() >= goal).await;
        let whole = a.end().is_some();
        let (before, place) = a.cut();
        if whole || before.is_empty() {
            let what = "the stream was over before it could be cut".to_owned();
            let fidelity = Fidelity::Untested(what.clone());
            let cut = CutFinding { label: "in the middle".into(), seen: before.len(), survived: None, what, fidelity };
            findings.cuts.push(cut);
            return Ok(());
        }
        // As a client library would that knows nothing better.
        let mut request = subject.first();
        request.last_id = place.last_id;
        let (survived, what) = match self.wire.open(&request).await {
            Err(error) => (false, format!("the same request again was refused: {error}")),
            Ok(again) => {
                again.until(deadline, |again| again.count() >= before.len().min(3)).await;
                let (after, _) = again.cut();
                sent_again(&before, &after)
            }
        };
        findings.sent_again = Some(what.clone());
        findings.cuts.push(CutFinding {
            label: "in the middle".into(),
            seen: before.len(),
            survived: Some(survived),
            what: format!("no way back; {what}"),
            fidelity: Fidelity::Untested("there is no way back after a cut, so there is nothing to compare".into()),
        });
        Ok(())
    }

    /// Cuts a stream, comes back, and compares with an observer that was not cut.
    async fn cut(
        &self,
        first: &First,
        n: usize,
        label: &str,
        fraction: f64,
        away: bool,
    ) -> Result<CutFinding, AuditError> {
        let deadline = self.window();
        let mut subject = self.plan.target.begin().await?;
        let a = self.wire.open(&subject.first()).await?;
        let untested = |seen, what: &str| CutFinding {
            label: label.into(),
            seen,
            survived: None,
            what: what.into(),
            fidelity: Fidelity::Untested(what.into()),
        };
        a.until(deadline, |a| a.count() >= 1).await;
        subject.learn(&a, Instant::now() + PATIENCE).await;
        let observer = match subject.surface(1) {
            Some(request) => self.wire.open(&request).await.ok(),
            None => None,
        };
        let goal = place(first.events, fraction);
        // An endless stream is cut within the first part of the time that it is watched.
        let limit = if first.ended { deadline } else { Instant::now() + self.plan.watch.mul_f64(fraction * 0.5) };
        a.until(limit, |a| a.count() >= goal).await;
        if a.end().is_some() || a.count() == 0 {
            return Ok(untested(a.count(), "the stream was over, or had not begun, when it was to be cut"));
        }
        let (before, place) = a.cut();
        match &observer {
            Some(observer) if away => {
                let limit = if first.ended { deadline } else { Instant::now() + self.plan.watch.mul_f64(0.25) };
                observer.ended(limit).await;
                sleep(SOON).await;
            }
            None if away => sleep(first.took.mul_f64(1.0 - fraction) + SOON).await,
            _ => sleep(SOON).await,
        }
        let Some(request) = subject.again(&place, n + 1) else {
            return Ok(CutFinding {
                survived: Some(false),
                what: "there is no way back: the answer did not hold the stream's {id}".into(),
                ..untested(before.len(), "there was no way back")
            });
        };
        let again = match self.wire.open(&request).await {
            Ok(again) => again,
            Err(error) => {
                return Ok(CutFinding {
                    survived: Some(false),
                    what: format!("coming back was refused: {error}"),
                    ..untested(before.len(), "coming back was refused")
                });
            }
        };
        let mut going_on = None;
        // To the end, or long enough to see whether it goes on.
        let reference = match &observer {
            Some(observer) => {
                let limit =
                    if first.ended { deadline } else { (Instant::now() + self.plan.watch.mul_f64(0.4)).min(deadline) };
                observer.ended(limit).await;
                let seen = observer.units();
                let last = seen.last().map(|unit| (unit.key.clone(), unit.at));
                let has = |again: &Watching| last.as_ref().is_some_and(|(key, _)| again.holds(key));
                again.until(Instant::now() + PATIENCE, has).await;
                // Whatever else comes, as doubles.
                again.quiet(SOON, Instant::now() + PATIENCE).await;
                // A stream that goes on has brought more meanwhile than was asked of the observer.
                going_on = last.filter(|_| observer.end().is_none());
                match observer.end() {
                    // It saw less than there was: what else came is no fault of the return.
                    Some((End::Broken(why), _)) => Err(format!("the uncut observer's connection broke: {why}")),
                    _ if seen.is_empty() => Err("the uncut observer saw nothing".into()),
                    _ => Ok(keys(&seen)),
                }
            }
            None => {
                again.quiet(PATIENCE, deadline).await;
                Err("there was no uncut observer to compare with".into())
            }
        };
        let end = again.end();
        let mut after = first.own(again.units());
        if let Some((key, at)) = going_on {
            let reached = after.iter().position(|unit| unit.key == key && unit.at + SOON >= at);
            after.truncate(reached.map_or(after.len(), |i| i + 1));
        }
        Ok(compare(label, &before, &after, reference, end.map(|(end, _)| end)))
    }
}

/// What a return was worth, beside what an uncut observer saw (or why there is nothing to compare with).
fn compare(
    label: &str,
    before: &[Unit],
    after: &[Unit],
    reference: Result<Vec<String>, String>,
    end: Option<End>,
) -> CutFinding {
    let seen = before.len();
    let how = match (&end, after.len()) {
        (None, 0) => "the connection came back, but nothing came on it".to_owned(),
        (None, n) => format!("{n} events came after the return"),
        (Some(End::Broken(why)), n) => format!("{n} events came after the return, then it broke: {why}"),
        (Some(_), 0) => "the connection came back and ended at once, without an event".into(),
        (Some(_), n) => format!("{n} events came after the return, to an end"),
    };
    let finding = |survived, what, fidelity| CutFinding { label: label.into(), seen, survived, what, fidelity };
    let reference = match reference {
        Ok(reference) => reference,
        Err(why) => {
            // Whether anything new came, and an end.
            let old = keys(before);
            let new = after.iter().any(|unit| !old.contains(&unit.key));
            return finding(Some(new && matches!(end, Some(End::Clean))), how, Fidelity::Untested(why));
        }
    };
    match judge::tally(&keys(before), &keys(after), &reference) {
        Some(tally) if tally.due == 0 => {
            let what = "nothing was to come after the cut";
            finding(None, what.into(), Fidelity::Untested(what.into()))
        }
        Some(tally) => finding(Some(tally.to_the_end), how, Fidelity::Compared(tally)),
        None => {
            // Beside another stream, what came after the return may be a third.
            let why = "the uncut observer saw another stream, so there was nothing to compare with";
            finding(None, how, Fidelity::Untested(why.into()))
        }
    }
}

/// What the second and third surface saw of what the first saw while they were there.
fn synced(a: &Watching, others: &[Watching]) -> SyncFinding {
    let units = a.units();
    let (mut surfaces, mut lags) = (Vec::new(), Vec::new());
    for b in others {
        let live: Vec<&Unit> = units.iter().filter(|unit| unit.at > b.opened).collect();
        let theirs = b.units();
        if live.is_empty() {
            return SyncFinding::Untested("no event came while a second surface was there".into());
        }
        let (x, y): (Vec<&str>, Vec<&str>) = (
            live.iter().map(|unit| unit.key.as_str()).collect(),
            theirs.iter().map(|unit| unit.key.as_str()).collect(),
        );
        let pairs = judge::align(&x, &y);
        let lag = |(i, j): &(usize, usize)| theirs[*j].at.saturating_duration_since(live[*i].at);
        let mut behind: Vec<Duration> = pairs.iter().map(lag).collect();
        behind.sort();
        let head_start = b.opened.duration_since(a.opened);
        let same_start = units.first().map(|unit| &unit.key) == theirs.first().map(|unit| &unit.key);
        let median = behind.get(behind.len() / 2).copied();
        // Either everything is as late as the surface joined, or it is another stream altogether. A log that is polled
        // may be as late; but it has at once what the first surface had by then.
        if let Some(median) = median
            && same_start
            && median >= head_start / 2
            && !has_a_history(&units, &theirs, units.len() - live.len())
        {
            return SyncFinding::Private(median);
        }
        lags.extend(behind.iter().map(|lag| lag.as_secs_f64() * 1e3));
        surfaces.push((live.len(), pairs.len()));
    }
    lags.sort_by(f64::total_cmp);
    SyncFinding::Seen { surfaces, lags }
}

/// Whether a surface that joined after so many events had them in one go, which a stream that began anew can't have.
fn has_a_history(first: &[Unit], joined: &[Unit], before: usize) -> bool {
    let at_once = |units: &[Unit]| {
        let limit = units.first().map(|unit| unit.at + AT_ONCE);
        units.iter().take_while(|unit| Some(unit.at) <= limit).count()
    };
    at_once(joined) >= before && at_once(joined) > at_once(first)
}

/// What a request that was sent again brought. The answer: whether it went on where the cut was.
fn sent_again(before: &[Unit], after: &[Unit]) -> (bool, String) {
    let Some(first) = after.first() else {
        return (false, "the same request again brought nothing".into());
    };
    // From a little before the place where they differ.
    let same = first.data.chars().zip(before[0].data.chars()).take_while(|(x, y)| x == y).count();
    let text = |unit: &Unit| unit.data.chars().skip(same.saturating_sub(12)).take(40).collect::<String>();
    if after.iter().zip(before).all(|(x, y)| x.key == y.key) {
        return (false, "the same request again began from the beginning".into());
    }
    // Fresh ids are no continuation; the next number is.
    let number = |unit: &Unit| unit.id.as_deref().and_then(numbered);
    if let (Some(last), Some(next)) = (before.last().and_then(number), number(first))
        && next == last + 1
    {
        return (true, format!("the same request again, with Last-Event-ID, went on with the next number, {next}"));
    }
    (false, format!("the same request again began another answer: “{}” instead of “{}”", text(first), text(&before[0])))
}

/// The number at an id's end.
fn numbered(id: &str) -> Option<u64> {
    let digits = id.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    id.get(digits..)?.parse().ok()
}

/// After how many events a stream of so many is cut: not before the first, not after the last but one.
pub(super) fn place(events: usize, fraction: f64) -> usize {
    ((events as f64 * fraction).ceil() as usize).clamp(1, events.saturating_sub(2).max(1))
}

pub(super) fn keys(units: &[Unit]) -> Vec<String> {
    units.iter().map(|unit| unit.key.clone()).collect()
}
