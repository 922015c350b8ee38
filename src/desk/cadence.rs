//! The cadence: when to try to reach each open QSO, up to 36 times, within what one person can do in a day.
//!
//! Attempts are dense at first and thin out over nine weeks. Those made already count: a lead that was tried ten times
//! goes on with the eleventh. The newest leads begin first, and nobody begins on a day that would then hold more than
//! [`DAY_MAX`] attempts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Date, Duration, Time, Weekday};

use super::{
    book::{Book, Lead, LeadStage},
    discovery::Decision,
    finding::{Finding, Table},
    number::count,
    pipeline::Stage,
};

/// How often an open QSO is tried, all in all: within the standard of 30 to 40.
pub const ATTEMPTS: usize = 36;

/// What one person can do in a day beside other work: 40 attempts of five minutes are half of it.
pub const DAY_MAX: usize = 40;

/// A lead that could not begin within so many workdays waits for a second caller.
const START_MAX: usize = 60;

/// How many leads are shown by name.
const SHOWN: usize = 12;

/// How to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// By phone.
    Call,
    /// By text message.
    Text,
    /// By mail.
    Email,
}

impl Channel {
    /// A word for a calendar.
    pub fn verb(self) -> &'static str {
        match self {
            Channel::Call => "Call",
            Channel::Text => "Text",
            Channel::Email => "Email",
        }
    }
}

/// One attempt to reach a lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Whom.
    pub lead: &'a Lead,
    /// Which one of [`ATTEMPTS`], from 1.
    pub number: usize,
    /// On which day.
    pub day: Date,
    /// At what time, where the lead is.
    pub time: Time,
    /// How.
    pub channel: Channel,
}

/// The whole calendar.
#[derive(Debug, Default)]
pub struct Cadence<'a> {
    /// By day and time.
    pub attempts: Vec<Attempt<'a>>,
    /// The leads that are tried.
    pub planned: Vec<&'a Lead>,
    /// The leads that have had all their attempts.
    pub done: Vec<&'a Lead>,
    /// The leads without a phone or a mail address.
    pub no_contact: Vec<&'a Lead>,
    /// The leads for which one caller has no time.
    pub waiting: Vec<&'a Lead>,
}

/// What the report builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Open QSOs that were not dropped.
    pub open_qso: usize,
    /// Attempts made at them so far.
    pub attempts_made: usize,
    /// How many of them are in the calendar.
    pub planned: usize,
    /// How many have had all their attempts.
    pub done: usize,
    /// How many have neither a phone nor a mail address.
    pub no_contact: usize,
    /// How many wait for a second caller.
    pub waiting: usize,
    /// Attempts in the calendar.
    pub attempts: usize,
    /// Its first day.
    pub first_day: Option<String>,
    /// Its last day.
    pub last_day: Option<String>,
    /// The most attempts on one day.
    pub busiest_day: usize,
}

/// Plans the attempts at all open QSOs, but those to be dropped if that was approved.
pub fn plan(book: &Book, decision: Decision) -> Cadence<'_> {
    let open = book.leads.iter().filter(|lead| lead.stage == LeadStage::Open && Stage::of(lead) == Stage::Qso);
    let mut leads: Vec<&Lead> = open.filter(|lead| decision.keeps(lead)).collect();
    leads.sort_by(|a, b| b.created_on.cmp(&a.created_on).then_with(|| a.id.cmp(&b.id)));
    let days = workdays(book.as_of, START_MAX + 60);
    let mut load = vec![0; days.len()];
    let mut cadence = Cadence::default();
    for lead in leads {
        let rest = rest_of_pattern(lead.attempts);
        if rest.is_empty() {
            cadence.done.push(lead);
            continue;
        }
        if !lead.can_be_contacted() {
            cadence.no_contact.push(lead);
            continue;
        }
        let mut per_day = BTreeMap::new();
        for (_, day, _) in &rest {
            *per_day.entry(*day).or_insert(0) += 1;
        }
        let fits = |start: &usize| per_day.iter().all(|(day, attempts)| load[start + day] + attempts <= DAY_MAX);
        let Some(start) = (0..START_MAX).find(fits) else {
            cadence.waiting.push(lead);
            continue;
        };
        cadence.planned.push(lead);
        for (number, day, slot) in rest {
            load[start + day] += 1;
            let (day, channel) = (days[start + day], channel(lead, number));
            cadence.attempts.push(Attempt { lead, number, day, time: slot_time(slot), channel });
        }
    }
    cadence.attempts.sort_by(|a, b| (a.day, a.time, &a.lead.id).cmp(&(b.day, b.time, &b.lead.id)));
    cadence
}

/// The workday and the slot of each attempt, counted from the first one's.
fn pattern() -> Vec<(usize, usize)> {
    let three_a_day = (0..3).flat_map(|day| [(day, 0), (day, 1), (day, 2)]);
    let two_a_day = (3..7).flat_map(|day| [(day, 0), (day, 2)]);
    let daily = (7..17).map(|day| (day, day % 3));
    let every_other_day = (0..6).map(|i| (18 + 2 * i, i % 3));
    let weekly = (0..3).map(|i| (33 + 5 * i, i % 3));
    three_a_day.chain(two_a_day).chain(daily).chain(every_other_day).chain(weekly).collect()
}

/// What is left after so many attempts: number, workday from now, slot.
fn rest_of_pattern(made: usize) -> Vec<(usize, usize, usize)> {
    let pattern = pattern();
    let Some(&(first, _)) = pattern.get(made) else { return Vec::new() };
    let rest = pattern.iter().enumerate().skip(made);
    rest.map(|(i, &(day, slot))| (i + 1, day - first, slot)).collect()
}

/// Calls twice as often as texts and mails; without a phone all are mails.
fn channel(lead: &Lead, number: usize) -> Channel {
    match (lead.phone.is_empty(), lead.email.is_empty(), number % 4) {
        (true, ..) => Channel::Email,
        (false, _, 1 | 3) => Channel::Call,
        (false, false, 0) => Channel::Email,
        _ => Channel::Text,
    }
}

/// Before work, at noon, after work.
fn slot_time(slot: usize) -> Time {
    let (hour, minute) = [(8, 30), (12, 15), (17, 30)][slot];
    Time::from_hms(hour, minute, 0).unwrap_or(Time::MIDNIGHT)
}

/// Mondays to Fridays after a day.
fn workdays(after: Date, count: usize) -> Vec<Date> {
    let days = (1..).map(|n| after + Duration::days(n));
    days.filter(|day| !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)).take(count).collect()
}

impl Cadence<'_> {
    /// The figures.
    pub fn figures(&self) -> Figures {
        let mut load: BTreeMap<Date, usize> = BTreeMap::new();
        for attempt in &self.attempts {
            *load.entry(attempt.day).or_default() += 1;
        }
        let all = || self.planned.iter().chain(&self.done).chain(&self.no_contact).chain(&self.waiting);
        Figures {
            open_qso: all().count(),
            attempts_made: all().map(|lead| lead.attempts).sum(),
            planned: self.planned.len(),
            done: self.done.len(),
            no_contact: self.no_contact.len(),
            waiting: self.waiting.len(),
            attempts: self.attempts.len(),
            first_day: load.keys().next().map(Date::to_string),
            last_day: load.keys().next_back().map(Date::to_string),
            busiest_day: load.values().copied().max().unwrap_or(0),
        }
    }

    /// What there is to say.
    pub fn finding(&self) -> Finding {
        let figures = self.figures();
        let f = &figures;
        let finding = Finding::new("Follow-up cadence", json!(figures));
        let (Some(first), Some(last)) = (&f.first_day, &f.last_day) else {
            return finding.say(format!("There is nobody to follow up: {}.", count(f.open_qso, "open QSO")));
        };
        let made = format!(
            "{} asked to be contacted and {} still open. They have been tried {} so far, of {ATTEMPTS} each.",
            count(f.open_qso, "lead"),
            if f.open_qso == 1 { "is" } else { "are" },
            count(f.attempts_made, "time"),
        );
        let plan = format!(
            "The calendar has the {} that are left for {}, from {first} to {last}, at most {} a day: three a day at \
             first, one a week at the end, at 8:30, 12:15 and 17:30, half of them calls.",
            count(f.attempts, "attempt"),
            count(f.planned, "lead"),
            f.busiest_day,
        );
        let mut finding = finding.say(made).say(plan);
        if f.done > 0 {
            finding =
                finding.say(format!("{} had all {ATTEMPTS}: nurture by mail, no more calls.", count(f.done, "lead")));
        }
        if f.no_contact > 0 {
            finding = finding.say(format!("{} no phone and no mail address: none planned.", have(f.no_contact)));
        }
        if f.waiting > 0 {
            finding =
                finding.say(format!("{} no place: one caller's days are full. Get a second one.", have(f.waiting)));
        }
        let mut table = Table::new("Who is next", &["id", "name", "came in", "attempts so far", "left", "next"]);
        for lead in self.planned.iter().take(SHOWN) {
            let theirs: Vec<&Attempt> = self.attempts.iter().filter(|attempt| attempt.lead.id == lead.id).collect();
            let Some(next) = theirs.first() else { continue };
            let when =
                format!("{} {:02}:{:02}, {}", next.day, next.time.hour(), next.time.minute(), next.channel.verb());
            table = table.row(vec![
                lead.id.as_str().into(),
                lead.name.as_str().into(),
                lead.created_on.to_string().into(),
                lead.attempts.into(),
                theirs.len().into(),
                when.into(),
            ]);
        }
        finding.show(table.note("The newest first: interest cools by the hour."))
    }
}

/// `1 lead has`, `2 leads have`.
fn have(leads: usize) -> String {
    format!("{} {}", count(leads, "lead"), if leads == 1 { "has" } else { "have" })
}
