//! What a batch of actions comes to: decided on what the writer believes the session to be, and answered once the store has
//! done it.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{Done, Waiting, WriteError};
use crate::{
    id::{EntryId, Ms, Name},
    rules::{self, Action, Control, Effects, Limits, Refusal, Reply, command_key},
    store::{Commit, Part, Parted, Snapshot, StoreError, Version, Versions, Window},
};

/// How far the time that new deadlines are made with may be from the store's, in milliseconds.
const CLOCK_TOLERANCE: Ms = 250;

/// What the writer believes the session to be.
pub(super) struct Known {
    version: Option<Version>,
    /// When the session came to be, if there is one.
    created: Option<Ms>,
    pub control: Control,
    heard: Heard,
}

/// The session's time as the store last told it, and when it was asked and had answered: in between the store looked at its
/// clock.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    time: Ms,
    asked: Instant,
    answered: Instant,
}

impl Heard {
    pub fn now(time: Ms, asked: Instant) -> Self {
        Heard { time, asked, answered: Instant::now() }
    }

    /// The time that it is now at least: what is due by it is due.
    fn least(&self) -> Ms {
        self.time + self.answered.elapsed().as_millis() as Ms
    }

    /// The time that it is now at most: a deadline reckoned from it does not come too early.
    fn most(&self) -> Ms {
        self.time + self.asked.elapsed().as_millis() as Ms
    }
}

impl Known {
    pub fn absent(limits: Limits) -> Self {
        // Our own clock stands in until the store has told its own; nothing is due in a session that does not exist.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as Ms);
        Known { version: None, created: None, control: Control::new(limits), heard: Heard::now(now, Instant::now()) }
    }

    pub fn read(snapshot: &Snapshot, asked: Instant, limits: Limits) -> Result<Self, StoreError> {
        let heard = Heard::now(snapshot.now, asked);
        Ok(match &snapshot.state {
            Some(state) => Known {
                version: Some(state.version.clone()),
                created: Some(state.created),
                control: Control::read(state, limits)?,
                heard,
            },
            None => Known { heard, ..Known::absent(limits) },
        })
    }

    /// The commit happened.
    pub fn settle(&mut self, decided: &Decided, heard: Heard, parts: &[Parted]) {
        self.heard = heard;
        let (commit, now) = (&decided.commit, heard.time);
        let changed = !commit.changes.is_empty() || commit.closes;
        // Parts that were all refused have not brought a session into being.
        let begun = self.version.is_none() && parts.iter().any(|part| matches!(part, Parted::Appended { .. }));
        if changed || begun {
            self.created = self.created.or(Some(now));
            self.version = commit.version.clone();
        }
        let commands = commit.parts.iter().zip(parts).filter(|(part, _)| !part.commands.is_empty());
        let ids = commands.flat_map(|(part, parted)| {
            let from = match parted {
                Parted::Appended { commands_from, .. } => *commands_from,
                _ => 0,
            };
            (from..).take(part.commands.len()).map(|n| EntryId { ms: now, n })
        });
        for (id, entry) in decided.issued.iter().zip(ids) {
            self.control.set_entry(id, entry);
        }
        for run in commit.parts.iter().flat_map(|part| &part.touch) {
            self.control.touch(run, now);
        }
    }
}

/// A batch, decided on one state.
pub(super) struct Decided {
    pub commit: Commit,
    issued: Vec<Name>,
    /// For each action of the batch: what the rules say, and which part is its own.
    verdicts: Vec<(Result<Reply, Refusal>, Option<usize>)>,
}

impl Decided {
    /// Whether no part was refused that was to renew a lease: the copy of the control state believes that it did.
    pub fn renews_as_decided(&self, parts: &[Parted]) -> bool {
        self.commit.parts.iter().zip(parts).all(|(part, parted)| part.touch.is_empty() || parted.is_stored())
    }
}

pub(super) fn decide(copy: &mut Known, batch: &[Waiting], versions: &Versions) -> Decided {
    let (least, most) = (copy.heard.least(), copy.heard.most());
    let mut effects = Effects::default();
    rules::judge(&mut copy.control, least, &mut effects);
    // The first deadline that has been judged as not passed. Those that the actions add are no part of the judgement:
    // when they pass, before this commit or after, is judged at the next touch.
    let before = copy.control.next_due().map_or(Ms::MAX, |(at, _)| at);
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        let parts = effects.parts.len();
        let verdict = match &waiting.action {
            _ if waiting.wrote.is_some_and(|wrote| copy.created.is_none_or(|created| created > wrote)) => {
                Err(Refusal::SessionGone)
            }
            // That would bring it into being, closed.
            Action::Close if copy.version.is_none() && parts == 0 => Err(Refusal::UnknownSession),
            action => rules::apply(&mut copy.control, most, action, &mut effects),
        };
        verdicts.push((verdict, (effects.parts.len() > parts).then_some(parts)));
    }
    let changes = copy.control.take_changes();
    let not_before = if effects.judged { least } else { 0 };
    let mut window = Window { not_before, before: before.min(effects.before) };
    if !changes.is_empty() {
        // Records carry deadlines, made with a time that is only reckoned (or even our own clock's, where the store
        // has not told its own yet). If that is wrong, the store says so.
        window.not_before = window.not_before.max(least.saturating_sub(CLOCK_TOLERANCE));
        window.before = window.before.min(most.saturating_add(CLOCK_TOLERANCE));
    }
    let needed = copy.version.is_none() || effects.closes || !changes.is_empty();
    let commit = Commit {
        expect: copy.version.clone(),
        version: needed.then(|| versions.fresh()),
        window,
        untouched: effects.untouched,
        changes,
        issued: effects.issued.iter().map(command_key).collect(),
        closes: effects.closes,
        parts: effects.parts,
    };
    Decided { commit, issued: effects.issued, verdicts }
}

pub(super) fn answer(batch: Vec<Waiting>, decided: Decided, control: &mut Control, now: Ms, parts: Vec<Parted>) {
    let due = control.next_due().map(|(at, _)| at);
    for (waiting, (verdict, part)) in batch.into_iter().zip(decided.verdicts) {
        let answer = match verdict {
            Err(refusal) => Err(refusal.into()),
            Ok(mut reply) => {
                bound_leases(&mut reply, now);
                done(reply, part.map(|at| (&decided.commit.parts[at], &parts[at])), control, now, due)
            }
        };
        // Whoever asked may have gone.
        let _ = waiting.done.send(answer);
    }
}

/// A lease is renewed to the store's time, which nobody knew when the reply was made: that had the latest that it could be.
fn bound_leases(reply: &mut Reply, now: Ms) {
    let views = match reply {
        Reply::Run(view) => std::slice::from_mut(view),
        Reply::Appended(views) => &mut views[..],
        Reply::Done | Reply::Accepted(_) | Reply::Known(_) => &mut [],
    };
    for view in views {
        view.lease_until = view.lease_until.map(|until| until.min(now + view.lease_ms));
    }
}

fn done(
    reply: Reply,
    part: Option<(&Part, &Parted)>,
    control: &Control,
    now: Ms,
    due: Option<Ms>,
) -> Result<Done, WriteError> {
    let mut done = Done { reply, ids: Vec::new(), skipped: 0, duplicate: false, now, due };
    if let Reply::Accepted(id) | Reply::Known(id) = &done.reply {
        done.ids.extend(control.command(id).and_then(|command| command.entry));
        return Ok(done);
    }
    match part {
        None => {}
        Some((part, Parted::Appended { events_from, skipped, .. })) => {
            let count = (part.events.len() - skipped) as u64;
            done.skipped = *skipped;
            done.ids = (*events_from..events_from + count).map(|n| EntryId { ms: now, n }).collect();
        }
        Some((part, Parted::Duplicate(ids))) => {
            done.duplicate = true;
            done.skipped = part.events.len();
            done.ids = ids.clone().unwrap_or_default();
        }
        Some((_, refused)) => return Err(WriteError::Producer(refused.clone())),
    }
    Ok(done)
}
