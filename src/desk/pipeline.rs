//! The pipeline: every lead in exactly one stage, what goes from stage to stage, and where leads die.
//!
//! A lead's stage is the furthest that the file shows it has come: MQL (interest, to be nurtured), QSO (it asked to be
//! contacted: 30 to 40 attempts), SQL (discovery held; budget, location and decision-maker confirmed), won.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    book::{Book, Lead, LeadStage},
    finding::{Finding, Table},
    number::{Cents, Share, count, dollars, quotient},
};

/// The least number of attempts before a lead that asked to be contacted may be given up.
pub const ATTEMPTS_LEAST: usize = 30;

/// How far a lead has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It showed interest. Nurture it.
    Mql,
    /// It asked to be contacted.
    Qso,
    /// Discovery was held; budget, location and decision-maker are confirmed.
    Sql,
    /// It bought.
    Won,
}

impl Stage {
    /// All, as a lead goes through them.
    pub const ALL: [Stage; 4] = [Stage::Mql, Stage::Qso, Stage::Sql, Stage::Won];

    /// The stage of a lead.
    pub fn of(lead: &Lead) -> Stage {
        let confirmed = [lead.in_area, lead.budget, lead.decision_maker] == [Some(true); 3];
        match lead.stage {
            LeadStage::Won => Stage::Won,
            _ if lead.discovery_on.is_some() && confirmed => Stage::Sql,
            _ if lead.asked => Stage::Qso,
            _ => Stage::Mql,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Stage::Mql => "MQL: interest, nurture",
            Stage::Qso => "QSO: asked to be contacted",
            Stage::Sql => "SQL: discovery done, qualified",
            Stage::Won => "won",
        }
    }
}

/// Why a lost lead died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// The property is elsewhere.
    OutOfArea,
    /// There is no money.
    NoBudget,
    /// Somebody else decides.
    NotDecisionMaker,
    /// 30 attempts or more, and never reached.
    Unreachable,
    /// It never asked to be contacted, was written to, and stayed silent.
    NoInterest,
    /// It asked to be contacted, and was given up before 30 attempts.
    GivenUp,
    /// It never asked to be contacted, and nobody ever wrote to it.
    NeverNurtured,
    /// It was reached, and nobody held the discovery call, or the questions were not asked in it.
    NoDiscovery,
    /// It was qualified, and never got a price.
    NoQuote,
    /// It got a price, and went elsewhere.
    LostSale,
}

/// Whose fault a death is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The lead could not have bought.
    BadLead,
    /// The lead could have, and was not worked.
    BadProcess,
    /// It was worked, and lost.
    LostSale,
}

impl Death {
    /// All.
    pub const ALL: [Death; 10] = [
        Death::OutOfArea,
        Death::NoBudget,
        Death::NotDecisionMaker,
        Death::Unreachable,
        Death::NoInterest,
        Death::GivenUp,
        Death::NeverNurtured,
        Death::NoDiscovery,
        Death::NoQuote,
        Death::LostSale,
    ];

    /// Why this lead died; the first of these that holds. `None` if it is not lost.
    pub fn of(lead: &Lead) -> Option<Death> {
        if lead.stage != LeadStage::Lost {
            return None;
        }
        Some(if lead.in_area == Some(false) {
            Death::OutOfArea
        } else if lead.budget == Some(false) {
            Death::NoBudget
        } else if lead.decision_maker == Some(false) {
            Death::NotDecisionMaker
        } else if lead.quoted_on.is_some() {
            Death::LostSale
        } else if Stage::of(lead) == Stage::Sql {
            Death::NoQuote
        } else if lead.reached && lead.asked {
            Death::NoDiscovery
        } else if lead.asked && lead.attempts < ATTEMPTS_LEAST {
            Death::GivenUp
        } else if lead.asked {
            Death::Unreachable
        } else if lead.attempts == 0 {
            Death::NeverNurtured
        } else {
            Death::NoInterest
        })
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Death::OutOfArea | Death::NoBudget | Death::NotDecisionMaker | Death::Unreachable | Death::NoInterest => {
                Fault::BadLead
            }
            Death::GivenUp | Death::NeverNurtured | Death::NoDiscovery | Death::NoQuote => Fault::BadProcess,
            Death::LostSale => Fault::LostSale,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Death::OutOfArea => "outside the service area",
            Death::NoBudget => "no budget",
            Death::NotDecisionMaker => "not the decision-maker",
            Death::Unreachable => "never reached in 30 attempts or more",
            Death::NoInterest => "nurtured, never asked for anything",
            Death::GivenUp => "asked to be contacted, given up before 30 attempts",
            Death::NeverNurtured => "showed interest, nobody ever wrote",
            Death::NoDiscovery => "reached, no full discovery call",
            Death::NoQuote => "qualified, never quoted",
            Death::LostSale => "quoted, bought elsewhere or not at all",
        }
    }
}

impl Fault {
    fn label(self) -> &'static str {
        match self {
            Fault::BadLead => "bad lead",
            Fault::BadProcess => "bad process",
            Fault::LostSale => "lost sale",
        }
    }
}

/// What the road map and the report build on. A lead counts in one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// All leads.
    pub leads: usize,
    /// Leads in the stage MQL.
    pub mql: usize,
    /// Leads in the stage QSO.
    pub qso: usize,
    /// Leads in the stage SQL.
    pub sql: usize,
    /// Leads that bought.
    pub won: usize,
    /// Those of the stages that are open.
    pub open_mql: usize,
    /// See there.
    pub open_qso: usize,
    /// See there.
    pub open_sql: usize,
    /// Leads with a discovery call, and those of them that bought.
    pub discovered: usize,
    /// See there.
    pub discovered_won: usize,
    /// Lost leads, and whose fault it was.
    pub lost: usize,
    /// Lost leads that could not have bought.
    pub lost_bad_lead: usize,
    /// Lost leads that could have, and were not worked.
    pub lost_bad_process: usize,
    /// Lost leads that got a price.
    pub lost_sale: usize,
    /// Lost leads that asked to be contacted and were given up too early, and the attempts at them.
    pub given_up: usize,
    /// See there.
    pub given_up_attempts: usize,
}

/// The figures.
pub fn figures(book: &Book) -> Figures {
    let in_stage = |stage: Stage| book.leads.iter().filter(move |lead| Stage::of(lead) == stage);
    let open = |stage| in_stage(stage).filter(|lead| lead.stage == LeadStage::Open).count();
    let discovered = || book.leads.iter().filter(|lead| lead.discovery_on.is_some());
    let deaths = || book.leads.iter().filter_map(|lead| Some((lead, Death::of(lead)?)));
    let fault = |fault| deaths().filter(|(_, death)| death.fault() == fault).count();
    let given_up = || deaths().filter(|(_, death)| *death == Death::GivenUp);
    Figures {
        leads: book.leads.len(),
        mql: in_stage(Stage::Mql).count(),
        qso: in_stage(Stage::Qso).count(),
        sql: in_stage(Stage::Sql).count(),
        won: in_stage(Stage::Won).count(),
        open_mql: open(Stage::Mql),
        open_qso: open(Stage::Qso),
        open_sql: open(Stage::Sql),
        discovered: discovered().count(),
        discovered_won: discovered().filter(|lead| lead.stage == LeadStage::Won).count(),
        lost: deaths().count(),
        lost_bad_lead: fault(Fault::BadLead),
        lost_bad_process: fault(Fault::BadProcess),
        lost_sale: fault(Fault::LostSale),
        given_up: given_up().count(),
        given_up_attempts: given_up().map(|(lead, _)| lead.attempts).sum(),
    }
}

/// What there is to say.
pub fn finding(book: &Book) -> Finding {
    let figures = figures(book);
    let f = &figures;
    let mut stages = Table::new("Every lead in its stage", &["stage", "open", "lost", "won", "all"]);
    for stage in Stage::ALL {
        let of = |what| book.leads.iter().filter(|l| Stage::of(l) == stage && l.stage == what).count();
        let counts = [LeadStage::Open, LeadStage::Lost, LeadStage::Won].map(of);
        let sum: usize = counts.iter().sum();
        stages =
            stages.row([stage.label().into()].into_iter().chain(counts.map(Into::into)).chain([sum.into()]).collect());
    }
    let beyond = [f.leads, f.qso + f.sql + f.won, f.sql + f.won, f.won];
    let mut rates = Table::new("From stage to stage", &["step", "of", "went on", "rate"]);
    for (step, pair) in ["lead to QSO", "QSO to SQL", "SQL to sale"].into_iter().zip(beyond.windows(2)) {
        rates = rates.row(vec![step.into(), pair[0].into(), pair[1].into(), Share::of(pair[1], pair[0]).text().into()]);
    }
    rates = rates.row(vec![
        "discovery to close".into(),
        f.discovered.into(),
        f.discovered_won.into(),
        Share::of(f.discovered_won, f.discovered).text().into(),
    ]);
    let mut causes = Table::new("Where leads die", &["cause", "fault", "leads", "quoted value"]);
    for death in Death::ALL {
        let these: Vec<&Lead> = book.leads.iter().filter(|lead| Death::of(lead) == Some(death)).collect();
        if !these.is_empty() {
            let value: Cents = these.iter().filter_map(|lead| lead.amount).sum();
            let fault = death.fault().label();
            causes = causes.row(vec![death.label().into(), fault.into(), these.len().into(), dollars(value).into()]);
        }
    }
    let verdict = if f.lost_bad_process > f.lost_bad_lead {
        "The process is the bigger leak"
    } else {
        "The leads are the bigger leak"
    };
    let mut finding = Finding::new("Pipeline", json!(figures))
        .say(format!(
            "{}: {} asked to be contacted or came further, {} were qualified, {} bought. {} still open.",
            count(f.leads, "lead"),
            beyond[1],
            beyond[2],
            beyond[3],
            match f.open_mql + f.open_qso + f.open_sql {
                1 => "1 is".to_owned(),
                open => format!("{open} are"),
            },
        ))
        .show(stages.note("A lead counts once, in the furthest stage that the file shows."))
        .show(rates.note("A lead that bought counts as having passed every stage."));
    if f.lost > 0 {
        finding = finding.say(format!(
            "{verdict}: of {}, {} could not have bought, {} could have and were not worked, {} got a price and went away.",
            count(f.lost, "lost lead"),
            f.lost_bad_lead,
            f.lost_bad_process,
            f.lost_sale,
        ));
    }
    if f.given_up > 0 {
        finding = finding.say(format!(
            "{} asked to be contacted and were given up after {} attempts on average. The standard is 30 to 40.",
            count(f.given_up, "lost lead"),
            quotient(f.given_up_attempts as i64, f.given_up as i64),
        ));
    }
    finding.show(causes)
}
