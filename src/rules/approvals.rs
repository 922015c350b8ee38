//! Approvals: an agent asks, the first decision holds, and silence decides as the agent said it would.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// What to decide, in the agent's own form.
    pub prompt: Value,
    /// How long it may wait.
    pub expires_ms: Option<i64>,
    /// What holds then.
    pub on_expiry: Verdict,
}

/// A decision.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Of what.
    pub approval: Name,
    /// Yes or no.
    pub verdict: Verdict,
    /// The command's data.
    pub data: Value,
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
        runs::live(control, run, None)?;
    }
    if !control.has_room() {
        return Err(Refusal::ControlFull(control.limits.bytes));
    }
    let agent = request.agent.clone().or_else(|| control.run(request.run.as_ref()?)?.agent.clone());
    let data = json!({
        "approval": id, "prompt": request.prompt, "expires_ms": expires, "on_expiry": request.on_expiry,
    });
    entries::event(part, "approval.requested", agent.as_ref(), request.run.as_ref(), &data);
    let approval = Approval {
        status: ApprovalStatus::Pending,
        agent,
        run: request.run.clone(),
        expires: now + expires,
        on_expiry: request.on_expiry,
    };
    control.set_approval(id, approval);
    Ok(Reply::Done)
}

/// Whether an approval can still be decided.
pub fn check(control: &Control, decision: &Decision) -> Result<(), Refusal> {
    let id = &decision.approval;
    let approval = control.approval(id).ok_or_else(|| Refusal::UnknownApproval(id.clone()))?;
    let (decision, command) = match &approval.status {
        ApprovalStatus::Pending => return Ok(()),
        ApprovalStatus::Decided { decision: Verdict::Approve, command } => ("approve", command.clone()),
        ApprovalStatus::Decided { decision: Verdict::Deny, command } => ("deny", command.clone()),
        ApprovalStatus::Superseded => ("superseded", None),
    };
    Err(Refusal::ApprovalEnded { approval: id.clone(), decision: decision.into(), command })
}

/// The first decision holds. [`check`] has been called.
pub fn decide(control: &mut Control, decision: &Decision, command: &Name, part: &mut Part) {
    let data = json!({
        "approval": decision.approval, "decision": decision.verdict, "command": command, "data": decision.data,
    });
    let status = ApprovalStatus::Decided { decision: decision.verdict, command: Some(command.clone()) };
    settle(control, &decision.approval, status, "approval.decided", &data, part);
}

/// Nobody decided in time.
pub fn expire(control: &mut Control, id: &Name, part: &mut Part) {
    let Some(decision) = control.approval(id).map(|a| a.on_expiry) else { return };
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

fn settle(control: &mut Control, id: &Name, status: ApprovalStatus, kind: &str, data: &Value, part: &mut Part) {
    let Some(approval) = control.approval(id).cloned() else { return };
    entries::event(part, kind, approval.agent.as_ref(), approval.run.as_ref(), data);
    control.set_approval(id, Approval { status, ..approval });
}
