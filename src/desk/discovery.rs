//! Discovery: the questions that disqualify, who would be dropped, and what the rest is offered.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    book::{Book, Lead, LeadStage},
    finding::{Finding, Table},
    number::{Cents, count, dollars},
    pipeline::Stage,
};

/// After so many attempts without an answer nobody calls any more.
pub const ATTEMPTS_MOST: usize = 40;

/// What joining the Priority Program costs; it is taken off the price of the job.
pub const PRIORITY_FEE: Cents = 25_000;

/// How many leads are named; an event has its limits.
const SHOWN: usize = 200;

/// The questions, in the order in which to ask them. A "no" to one of the first three disqualifies.
const QUESTIONS: [&str; 5] = [
    "Where is the roof? (Outside the service area: recommend somebody, and stop.)",
    "Is there money for it this year: savings, a loan, an approved claim? (No: stop.)",
    "Who else has to say yes? (If that person will not join the call: stop.)",
    "What happens if you leave the roof as it is for another year?",
    "If the price and the date suit you, is there anything else that keeps you from going ahead?",
];

/// Why a lead would be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The property is elsewhere.
    OutOfArea,
    /// There is no money.
    NoBudget,
    /// Somebody else decides.
    NotDecisionMaker,
    /// Neither a phone nor a mail address.
    NoContact,
    /// 40 attempts or more, and never reached.
    Unreachable,
}

impl Reason {
    /// Why this lead would be dropped; the first of these that holds. `None` if it is to be kept, or not open.
    pub fn of(lead: &Lead) -> Option<Reason> {
        if lead.stage != LeadStage::Open {
            None
        } else if lead.in_area == Some(false) {
            Some(Reason::OutOfArea)
        } else if lead.budget == Some(false) {
            Some(Reason::NoBudget)
        } else if lead.decision_maker == Some(false) {
            Some(Reason::NotDecisionMaker)
        } else if !lead.can_be_contacted() {
            Some(Reason::NoContact)
        } else if !lead.reached && lead.attempts >= ATTEMPTS_MOST {
            Some(Reason::Unreachable)
        } else {
            None
        }
    }

    fn label(self) -> &'static str {
        match self {
            Reason::OutOfArea => "outside the service area",
            Reason::NoBudget => "no budget",
            Reason::NotDecisionMaker => "not the decision-maker",
            Reason::NoContact => "no phone and no mail address",
            Reason::Unreachable => "40 attempts, never reached",
        }
    }
}

/// What became of the question whether to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// There was nobody to drop.
    NotNeeded,
    /// Drop them.
    Approved,
    /// Keep them.
    Denied,
    /// Nobody decided in time: keep them.
    Expired,
}

impl Decision {
    /// Whether an open lead stays.
    pub fn keeps(self, lead: &Lead) -> bool {
        self != Decision::Approved || Reason::of(lead).is_none()
    }
}

/// What the cadence, the road map and the report build on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Open leads.
    pub open: usize,
    /// How many of them it would drop.
    pub to_drop: usize,
    /// What was decided.
    pub decision: Decision,
    /// Open leads that are dropped, and that stay.
    pub dropped: usize,
    /// See there.
    pub kept: usize,
    /// Those of them that are offered the Priority Program: all that are not disqualified.
    pub offered: usize,
    /// Open leads that stay and are QSO, and SQL.
    pub kept_qso: usize,
    /// See there.
    pub kept_sql: usize,
}

/// The leads that it would drop, and why, in the order of the file.
pub fn to_drop(book: &Book) -> Vec<(&Lead, Reason)> {
    book.leads.iter().filter_map(|lead| Some((lead, Reason::of(lead)?))).collect()
}

/// The leads as the question names them.
pub fn items(book: &Book) -> Vec<String> {
    let drops = to_drop(book);
    let shown = drops.iter().take(SHOWN);
    let mut items: Vec<String> =
        shown.map(|(lead, reason)| format!("{} {}: {}", lead.id, lead.name, reason.label())).collect();
    if drops.len() > SHOWN {
        items.push(format!("and {} more, for the same reasons", drops.len() - SHOWN));
    }
    items
}

/// The figures after a decision.
pub fn figures(book: &Book, decision: Decision) -> Figures {
    let to_drop = to_drop(book);
    let dropped = if decision == Decision::Approved { to_drop.len() } else { 0 };
    let open = || book.leads.iter().filter(|lead| lead.stage == LeadStage::Open);
    let stays = |lead: &&Lead| decision.keeps(lead);
    let kept = |stage| open().filter(stays).filter(|lead| Stage::of(lead) == stage).count();
    Figures {
        open: open().count(),
        to_drop: to_drop.len(),
        decision,
        dropped,
        kept: open().filter(stays).count(),
        offered: open().count() - to_drop.len(),
        kept_qso: kept(Stage::Qso),
        kept_sql: kept(Stage::Sql),
    }
}

/// What there is to say before the question.
pub fn opening(book: &Book) -> Finding {
    let open = book.leads.iter().filter(|lead| lead.stage == LeadStage::Open).count();
    let drops = to_drop(book);
    let mut questions = Table::new("The discovery call", &["", "ask"]);
    for (i, question) in QUESTIONS.into_iter().enumerate() {
        questions = questions.row(vec![(i + 1).into(), question.into()]);
    }
    let mut table = Table::new("To drop, if you approve", &["id", "name", "why", "attempts", "quoted"]);
    for (lead, reason) in drops.iter().take(SHOWN) {
        let quoted = lead.amount.map_or("–".into(), dollars);
        table = table.row(vec![
            lead.id.as_str().into(),
            lead.name.as_str().into(),
            reason.label().into(),
            lead.attempts.into(),
            quoted.into(),
        ]);
    }
    let finding = Finding::new("Discovery", json!(null))
        .say("Discovery is there to disqualify. Five questions, ten minutes; a no to one of the first three ends it.")
        .show(questions);
    match drops.len() {
        0 => finding.say(format!("None of the {} is ruled out by what the file knows.", count(open, "open lead"))),
        _ => finding
            .say(format!(
                "What the file knows already rules out {} of {}. Each hour on them is taken from the other {}.",
                drops.len(),
                count(open, "open lead"),
                open - drops.len(),
            ))
            .show(if drops.len() > SHOWN { table.note(format!("The first {SHOWN}.")) } else { table }),
    }
}

/// What there is to say after it.
pub fn finding(book: &Book, decision: Decision) -> Finding {
    let figures = figures(book, decision);
    let f = &figures;
    let outcome = match decision {
        Decision::NotNeeded => "There is nobody to drop.".to_owned(),
        Decision::Approved => format!("Approved: {} dropped. {} stay.", count(f.to_drop, "lead"), f.kept),
        Decision::Denied => format!("Denied: nobody is dropped. All {} stay.", count(f.open, "open lead")),
        Decision::Expired => {
            format!("Nobody decided in time, so nobody is dropped. All {} stay.", count(f.open, "open lead"))
        }
    };
    let program = format!(
        "Offer the Priority Program to the {} not ruled out: {} now holds a place in the schedule and comes off the \
         price of the job. Whoever pays has shown the budget. Every 10 that join put {} in the bank before work starts.",
        count(f.offered, "open lead"),
        dollars(PRIORITY_FEE),
        dollars(10 * PRIORITY_FEE),
    );
    let mut finding = opening(book);
    finding.figures = json!(figures);
    finding = finding.say(outcome);
    if f.offered > 0 { finding.say(program) } else { finding }
}
