//! Approvals: an agent asks, the first decision holds, and silence decides as the agent said it would.

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{Control, Refusal, Reply, entries, runs};
use crate::{
    id::{Ms, Name},
    store::Part,
};

/// How long an approval may wait at most: a day.
pub const EXPIRY_MAX: Ms = 86_400_000;
/// How long an approval waits that says nothing: an hour.
pub const EXPIRY_DEFAULT: Ms = 3_600_000;

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

impl Verdict {
    /// As clients say it and are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Approve => "approve",
            Verdict::Deny => "deny",
        }
    }
}

/// Where an approval stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Nobody has decided.
    Pending,
    /// Decided, by a command or by its expiry.
    Decided {
        /// Yes or no.
        decision: Verdict,
        /// The command; `None` if its time ran out.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        command: Option<Name>,
    },
    /// Its run ended before anybody decided.
    Superseded,
}

/// An approval's record. The prompt is in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Where it stands.
    pub status: ApprovalStatus,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<Name>,
    /// The run that waits for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<Name>,
    /// When it decides by itself.
    pub expires: Ms,
    /// How.
    pub on_expiry: Verdict,
}

/// To ask for a decision.
#[derive(Debug, Clone)]
pub struct ApprovalRequest {
    /// Its name.
    pub approval: Name,
    /// Who asks.
    pub agent: Option<Name>,
    /// The run that waits for it.
    pub run: Option<Name>,
    /// The attempt that the agent believes its run to be in, if it says so.
    pub attempt: Option<u32>,
    /// What to decide, in the agent's own form: compact JSON.
    pub prompt: Box<RawValue>,
    /// How long it may wait.
    pub expires_ms: Option<i64>,
    /// What holds then.
    pub on_expiry: Verdict,
    /// The only agent that the request may speak as, if it is bound to one.
    pub speaker: Option<Name>,
}

/// A decision.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Of what.
    pub approval: Name,
    /// Yes or no.
    pub verdict: Verdict,
    /// The command's data: compact JSON.
    pub data: Box<RawValue>,
}

/// An agent asks.
pub fn request(control: &mut Control, now: Ms, request: &ApprovalRequest, part: &mut Part) -> Result<Reply, Refusal> {
    let id = &request.approval;
    let expires = request.expires_ms.map(|ms| runs::in_range("expires_ms", ms, 1, EXPIRY_MAX)).transpose()?;
    let expires = expires.unwrap_or(EXPIRY_DEFAULT);
    if control.approval(id).is_some() {
        return Err(Refusal::ApprovalExists(id.clone()));
    }
    if let Some(run) = &request.run {
        runs::speaks_for(control, run, request.speaker.as_ref())?;
        runs::live(control, run, request.attempt)?;
    }
    let agent = request.agent.clone().or_else(|| control.run(request.run.as_ref()?)?.agent.clone());
    let names = [Some(id), agent.as_ref(), request.run.as_ref()];
    if !control.has_room(RECORD_BYTES + names.iter().flatten().map(|name| name.as_str().len()).sum::<usize>()) {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }
    let data = Requested { approval: id, prompt: &request.prompt, expires_ms: expires, on_expiry: request.on_expiry };
    entries::event(part, "approval.requested", agent.as_ref(), request.run.as_ref(), &data);
    let approval = Approval {
        status: ApprovalStatus::Pending,
        agent,
        run: request.run.clone(),
        expires: now + expires,
        on_expiry: request.on_expiry,
    };
    control.set_approval(id, approval);
    // A sign of life of the run's agent.
    part.touch.extend(request.run.clone());
    Ok(Reply::Done)
}

/// What the record of an approval takes beyond its names, in bytes: an upper bound. A decision adds the command's id.
const RECORD_BYTES: usize = 300;

/// The data of `approval.requested`.
#[derive(Serialize)]
struct Requested<'a> {
    approval: &'a Name,
    prompt: &'a RawValue,
    expires_ms: Ms,
    on_expiry: Verdict,
}

/// The data of `approval.decided`.
#[derive(Serialize)]
struct Decided<'a> {
    approval: &'a Name,
    decision: Verdict,
    command: &'a Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    data: &'a RawValue,
}

/// Whether an approval can still be decided.
pub fn check(control: &Control, decision: &Decision) -> Result<(), Refusal> {
    let id = &decision.approval;
    let approval = control.approval(id).ok_or_else(|| Refusal::UnknownApproval(id.clone()))?;
    let (decision, command) = match &approval.status {
        ApprovalStatus::Pending => return Ok(()),
        ApprovalStatus::Decided { decision, command } => (Some(*decision), command.clone()),
        ApprovalStatus::Superseded => (None, None),
    };
    Err(Refusal::ApprovalEnded { approval: id.clone(), decision, command })
}

/// The first decision holds. [`check`] has been called.
pub fn decide(control: &mut Control, decision: &Decision, command: &Name, by: Option<&str>, part: &mut Part) {
    let Decision { approval, verdict, data } = decision;
    let data = Decided { approval, decision: *verdict, command, by, data };
    let status = ApprovalStatus::Decided { decision: decision.verdict, command: Some(command.clone()) };
    settle(control, &decision.approval, status, "approval.decided", &data, part);
}

/// Nobody decided in time.
pub fn expire(control: &mut Control, id: &Name, part: &mut Part) {
    let pending = control.approval(id).filter(|a| a.status == ApprovalStatus::Pending);
    let Some(decision) = pending.map(|a| a.on_expiry) else { return };
    let data = json!({"approval": id, "decision": decision, "expired": true});
    let status = ApprovalStatus::Decided { decision, command: None };
    settle(control, id, status, "approval.decided", &data, part);
}

/// Nobody needs the decision any more.
pub fn supersede(control: &mut Control, id: &Name, part: &mut Part) {
    settle(control, id, ApprovalStatus::Superseded, "approval.superseded", &json!({"approval": id}), part);
}

/// A run has ended, and with it what it waited for.
pub fn run_ended(control: &mut Control, run: &Name, part: &mut Part) {
    for id in control.pending_approvals() {
        if control.approval(&id).is_some_and(|a| a.run.as_ref() == Some(run)) {
            supersede(control, &id, part);
        }
    }
}

fn settle(
    control: &mut Control,
    id: &Name,
    status: ApprovalStatus,
    kind: &str,
    data: &impl Serialize,
    part: &mut Part,
) {
    let Some(approval) = control.approval(id).cloned() else { return };
    entries::event(part, kind, approval.agent.as_ref(), approval.run.as_ref(), data);
    control.set_approval(id, Approval { status, ..approval });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{EndStatus, scene::Scene};

    #[test]
    fn the_first_decision_holds_and_later_ones_learn_of_it() {
        let mut scene = Scene::new();
        scene.ask("a", None, None).unwrap();
        scene.decide("a", Verdict::Approve).unwrap();
        let late = scene.decide("a", Verdict::Deny);
        let Err(Refusal::ApprovalEnded { decision, command, .. }) = late else { panic!("{late:?}") };
        assert_eq!((decision, command.unwrap().as_str()), (Some(Verdict::Approve), "c1"));
        assert_eq!(scene.about_approval("a"), ["requested", "decided"]);
        assert_eq!(scene.outcomes("c1"), ["consumed"]);
        assert_eq!(scene.commands.len(), 1, "a late decision is no command");
    }

    #[test]
    fn silence_decides_as_the_agent_said() {
        let mut scene = Scene::new();
        scene.ask("a", None, Some(1_000)).unwrap();
        scene.wait(999);
        assert_eq!(scene.about_approval("a"), ["requested"]);
        scene.wait(1);
        assert_eq!(scene.events.last().unwrap()["data"], json!({"approval": "a", "decision": "deny", "expired": true}));
        let Err(Refusal::ApprovalEnded { decision, command: None, .. }) = scene.decide("a", Verdict::Approve) else {
            panic!()
        };
        assert_eq!(decision, Some(Verdict::Deny));
    }

    #[test]
    fn an_approval_goes_with_its_run_but_not_with_an_attempt() {
        let mut scene = Scene::new();
        scene.start("r").unwrap();
        scene.ask("a", Some("r"), None).unwrap();
        scene.ask("b", None, None).unwrap();
        scene.take_over("r").unwrap();
        assert_eq!(scene.about_approval("a"), ["requested"]);
        scene.end("r", EndStatus::Failed).unwrap();
        assert_eq!(scene.about_approval("a"), ["requested", "superseded"]);
        assert_eq!(scene.about_approval("b"), ["requested"]);
        let late = scene.decide("a", Verdict::Approve);
        assert!(matches!(late, Err(Refusal::ApprovalEnded { .. })), "{late:?}");
    }

    #[test]
    fn only_a_live_run_asks_and_each_name_once() {
        let mut scene = Scene::new();
        assert!(matches!(scene.ask("a", Some("r"), None), Err(Refusal::UnknownRun(_))));
        scene.start("r").unwrap();
        scene.ask("a", Some("r"), None).unwrap();
        assert!(matches!(scene.ask("a", Some("r"), None), Err(Refusal::ApprovalExists(_))));
        scene.end("r", EndStatus::Completed).unwrap();
        assert!(matches!(scene.ask("b", Some("r"), None), Err(Refusal::RunEnded { .. })));
        assert!(matches!(scene.decide("nobody", Verdict::Deny), Err(Refusal::UnknownApproval(_))));
    }

    #[test]
    fn bad_durations_are_refused() {
        let mut scene = Scene::new();
        for ms in [0, -1, 365 * 86_400_000, i64::MIN, i64::MAX] {
            let asked = scene.ask("a", None, Some(ms));
            assert!(matches!(asked, Err(Refusal::OutOfRange { what: "expires_ms", .. })), "{ms}");
        }
    }
}
