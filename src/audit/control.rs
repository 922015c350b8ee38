//! Trials of control: what a disconnect does to the output, and what a stop does.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    findings::{DisconnectFinding, First, StopFinding, SyncFinding},
    stream::{End, Watching},
    trials::{PATIENCE, SOON, Trials, keys, place},
    wire::AuditError,
};

/// How long a stop may take before it counts as ignored.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

impl Trials<'_> {
    /// The only client leaves without a word. Does the output go on?
    pub async fn disconnect(
        &self,
        first: &First,
        sync: Option<&SyncFinding>,
    ) -> Result<Result<DisconnectFinding, String>, AuditError> {
        if !self.plan.target.can_come_back() {
            let why = "after a disconnect nothing can be seen of the output: it may have stopped, or run on unseen";
            return Ok(Err(why.into()));
        }
        if sync.is_some_and(SyncFinding::is_apart) {
            let why =
                "each connection gets a stream of its own: whatever comes afterwards says nothing of the one before";
            return Ok(Err(why.into()));
        }
        let deadline = self.window();
        let mut subject = self.plan.target.begin().await?;
        let a = self.wire.open(&subject.first()).await?;
        a.until(deadline, |a| a.count() >= 1).await;
        subject.learn(&a, Instant::now() + PATIENCE).await;
        let limit = if first.ended { deadline } else { Instant::now() + self.plan.watch.mul_f64(0.2) };
        let goal = place(first.events, 0.25);
        a.until(limit, |a| a.count() >= goal).await;
        if a.end().is_some() {
            return Ok(Err("the stream was over before the client could leave".into()));
        }
        let (before, place) = a.cut();
        let old = keys(&before);
        sleep(SOON * 2).await;
        let Some(request) = subject.again(&place, 1) else {
            return Ok(Err("there is no address at which the output could be seen afterwards".into()));
        };
        let again = match self.wire.open(&request).await {
            Ok(again) => again,
            Err(error) => return Ok(Err(format!("the output could not be seen afterwards: {error}"))),
        };
        // What was there at the first look is no news, if it was a look at the same stream.
        let known: HashSet<&String> =
            if self.plan.target.begins_anew() { old.iter().collect() } else { old.iter().chain(&first.keys).collect() };
        let fresh = |seen: &Watching| first.own(seen.units()).iter().filter(|unit| !known.contains(&unit.key)).count();
        let wanted = (first.events.saturating_sub(old.len()) / 4).max(1);
        again.until(Instant::now() + PATIENCE, |again| fresh(again) >= wanted).await;
        let mut new = fresh(&again);
        if new == 0
            && let Some(request) = subject.surface(1)
            && let Ok(other) = self.wire.open(&request).await
        {
            // The way back may be what is broken; a new surface sees what there is.
            other.until(Instant::now() + PATIENCE, |other| fresh(other) >= wanted).await;
            new = fresh(&other);
        }
        let what = match (new, again.end()) {
            (1.., _) => format!("left after {} events; {new} new ones were there or came afterwards", old.len()),
            (0, Some((End::Clean, _))) if first.own(again.units()).iter().all(|unit| old.contains(&unit.key)) => {
                format!("left after {} events; the stream then ended with nothing more", old.len())
            }
            (0, _) => {
                return Ok(Err(format!(
                    "nothing new was seen after the client had left ({} events before): the output may have stopped, or run on unseen",
                    old.len()
                )));
            }
        };
        Ok(Ok(DisconnectFinding { went_on: new > 0, what }))
    }

    /// Stops a stream that two surfaces watch.
    pub async fn stop(&self, first: &First) -> Result<Result<StopFinding, String>, AuditError> {
        let deadline = self.window();
        let mut subject = self.plan.target.begin().await?;
        let a = self.wire.open(&subject.first()).await?;
        a.until(deadline, |a| a.count() >= 1).await;
        subject.learn(&a, Instant::now() + PATIENCE).await;
        let b = match subject.surface(1) {
            Some(request) => self.wire.open(&request).await.ok(),
            None => None,
        };
        let goal = place(first.events, 0.25);
        let limit = if first.ended { deadline } else { Instant::now() + self.plan.watch.mul_f64(0.2) };
        a.until(limit, |a| a.count() >= goal).await;
        if a.end().is_some() {
            return Ok(Err("the stream was over before it could be stopped".into()));
        }
        let (at, sent) = (a.count(), Instant::now());
        let Some((status, said)) = subject.stop(self.wire).await? else {
            return Ok(Err(
                "the stop's address could not be made out: the answer did not hold the stream's {id}".into()
            ));
        };
        // Long enough to tell an end from a pause of the model.
        let quiet =
            (first.took / u32::try_from(first.events).unwrap_or(1) * 10).clamp(Duration::from_secs(1), PATIENCE);
        let given_up = sent + STOP_PATIENCE.min(self.plan.watch);
        let says = |watching: &Watching| watching.units().iter().skip(at).any(|unit| says_stopped(&unit.data));
        loop {
            a.quiet(quiet, given_up).await;
            // Silence on an open stream may be a pause: only its end, or a word of it, is sure.
            let count = a.count();
            if a.end().is_some() || says(&a) || !a.until(given_up, |a| a.count() > count).await {
                break;
            }
        }
        let units = a.units();
        // Fewer where ids begin late: what has none counts no more then.
        let more = units.len().saturating_sub(at);
        let last = units.iter().skip(at).last().map_or(sent, |unit| unit.at);
        let last_after = last.saturating_duration_since(sent);
        let flowing = a.end().is_none() && Instant::now() >= given_up && last + quiet > given_up;
        let whole = first.ended && units.len() * 10 >= first.events * 9;
        let (ran_on, what) = match (flowing, whole) {
            (true, _) => (
                true,
                format!("{more} events after the stop, and it was still going after {:.1} s", last_after.as_secs_f64()),
            ),
            (false, true) => (true, format!("{more} events after the stop: it went on to its own end")),
            (false, false) => {
                (false, format!("{more} events after the stop, the last {:.2} s after it", last_after.as_secs_f64()))
            }
        };
        let told = match b {
            Some(b) => {
                let tells = |b: &Watching| {
                    b.end().is_some() || b.done() || b.units().iter().any(|u| u.at > sent && says_stopped(&u.data))
                };
                Some(b.until(Instant::now() + quiet, tells).await || tells(&b))
            }
            None => None,
        };
        let append = if ran_on { None } else { subject.append_after_stop().await };
        Ok(Ok(StopFinding { status, said, at, more, last_after, ran_on, what, told, append }))
    }
}

/// The words by which streams tell their end.
fn says_stopped(data: &str) -> bool {
    let data = data.to_ascii_lowercase();
    ["run.ended", "abort", "cancel", "stopped", "finish"].iter().any(|word| data.contains(word))
}
