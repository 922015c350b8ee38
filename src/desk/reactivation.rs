//! Reactivation: who bought before, or nearly did, and is to be called first of all, before a dollar goes into ads.
//!
//! Two rules of thumb meet: about 15% of an old list is still active, and reactivation books about 15% of a year's
//! revenue. The plan takes the lower of what they say for this list.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    book::{Book, LeadStage, YEAR},
    finding::{Finding, Table},
    number::{Cents, count, dollars, proportion, quotient},
};

/// The share of an old list that is still active, and the share of a year's revenue that reactivation books, in percent.
pub const RULE_PERCENT: i64 = 15;

/// A lost lead this old belongs to the old list, in days.
const LEAD_AGE: i64 = 90;

/// Contacts up to these ages come first, and second, in days.
const RECENT: i64 = 2 * YEAR;
const OLDER: i64 = 5 * YEAR;

/// How many of the list are shown by name.
const SHOWN: usize = 15;

/// What the road map and the report build on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Past customers on the list.
    pub list_customers: usize,
    /// Lost leads on the list.
    pub list_leads: usize,
    /// What the last 365 days brought.
    pub annual_revenue: Cents,
    /// What a job brings.
    pub average_job: Cents,
    /// How many of the list are expected to be active.
    pub expected_active: i64,
    /// How many jobs come of those, at the book's own rate from discovery to sale.
    pub list_jobs: i64,
    /// What they bring.
    pub list_bookings: Cents,
    /// The rule of thumb: 15% of the annual revenue.
    pub rule_bookings: Cents,
    /// The jobs to plan with.
    pub planned_jobs: i64,
    /// What they bring.
    pub planned_bookings: Cents,
}

/// Somebody on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact<'a> {
    /// Its id in the file.
    pub id: &'a str,
    /// Who it is.
    pub name: &'a str,
    /// It bought before; else it is a lead that did not.
    pub customer: bool,
    /// Days since the last job, or since the quote or the inquiry.
    pub age: i64,
    /// What it spent, or was quoted.
    pub value: Cents,
}

/// The list, the most promising first: by recency in three classes, then by value.
pub fn list(book: &Book) -> Vec<Contact<'_>> {
    let jobs = book.jobs_by_customer();
    let customers = book.customers.iter().zip(&jobs).filter_map(|(customer, jobs)| {
        let age = jobs.iter().map(|job| book.age(job.completed_on)).min()?;
        let value = jobs.iter().map(|job| job.amount).sum();
        let wanted = age >= YEAR && customer.can_be_contacted();
        wanted.then_some(Contact { id: &customer.id, name: &customer.name, customer: true, age, value })
    });
    let leads = book.leads.iter().filter_map(|lead| {
        let age = book.age(lead.quoted_on.unwrap_or(lead.created_on));
        // Open ones are the cadence's.
        let unconverted = lead.stage == LeadStage::Lost && book.age(lead.created_on) >= LEAD_AGE;
        let wanted = unconverted && !lead.ruled_out() && lead.can_be_contacted();
        let value = lead.amount.unwrap_or(0);
        wanted.then_some(Contact { id: &lead.id, name: &lead.name, customer: false, age, value })
    });
    let mut list: Vec<Contact> = customers.chain(leads).collect();
    list.sort_by_key(|contact| (class(contact.age), -contact.value, contact.id));
    list
}

fn class(age: i64) -> usize {
    if age <= RECENT {
        0
    } else if age <= OLDER {
        1
    } else {
        2
    }
}

/// The figures.
pub fn figures(book: &Book) -> Figures {
    let list = list(book);
    let list_customers = list.iter().filter(|contact| contact.customer).count();
    let held = book.leads.iter().filter(|lead| lead.discovery_on.is_some());
    let won = held.clone().filter(|lead| lead.stage == LeadStage::Won).count();
    let (annual_revenue, average_job) = (book.annual_revenue(), book.average_job());
    let expected_active = proportion(list.len() as i64, RULE_PERCENT, 100);
    let list_jobs = proportion(expected_active, won as i64, held.count() as i64);
    let rule_bookings = proportion(annual_revenue, RULE_PERCENT, 100);
    let within_rule = if average_job == 0 { 0 } else { rule_bookings / average_job };
    let planned_jobs = list_jobs.min(within_rule);
    Figures {
        list_customers,
        list_leads: list.len() - list_customers,
        annual_revenue,
        average_job,
        expected_active,
        list_jobs,
        list_bookings: list_jobs * average_job,
        rule_bookings,
        planned_jobs,
        planned_bookings: planned_jobs * average_job,
    }
}

/// What there is to say.
pub fn finding(book: &Book) -> Finding {
    let (figures, list) = (figures(book), list(book));
    let f = &figures;
    let opening = format!(
        "Call this list before you pay for a single ad. It has {}: {} with no job in the last year, and {} that were \
         lost and are not ruled out. Ask each one the same thing: is there any roof work you want looked at?",
        count(list.len(), "contact"),
        count(f.list_customers, "past customer"),
        count(f.list_leads, "old lead"),
    );
    let expected = format!(
        "About 15% of an old list is still active: {} here. At your own rate from discovery to sale that is {}, {} at \
         {} a job.",
        grouped(f.expected_active),
        count(f.list_jobs as usize, "job"),
        dollars(f.list_bookings),
        dollars(f.average_job),
    );
    let rule = format!(
        "The rule of thumb says that reactivation books 15% of a year's revenue: {} of {}. {} The road map counts on \
         {}, {}.",
        dollars(f.rule_bookings),
        dollars(f.annual_revenue),
        match f.list_bookings.cmp(&f.rule_bookings) {
            std::cmp::Ordering::Less => "Your list gives less, so plan with the list.",
            _ => "Your list gives at least that, so plan with the rule.",
        },
        count(f.planned_jobs as usize, "job"),
        dollars(f.planned_bookings),
    );
    let mut classes = Table::new("The list by recency", &["last contact", "customers", "leads", "value so far"]);
    for (at, name) in ["up to 2 years ago", "2 to 5 years ago", "more than 5 years ago"].into_iter().enumerate() {
        let these: Vec<&Contact> = list.iter().filter(|contact| class(contact.age) == at).collect();
        let customers = these.iter().filter(|contact| contact.customer).count();
        let value = these.iter().map(|contact| contact.value).sum();
        classes =
            classes.row(vec![name.into(), customers.into(), (these.len() - customers).into(), dollars(value).into()]);
    }
    let mut first = Table::new("Call these first", &["", "name", "id", "was", "months ago", "spent or quoted"]);
    for (i, contact) in list.iter().take(SHOWN).enumerate() {
        let was = if contact.customer { "customer" } else { "lead" };
        let months = quotient(contact.age, 30);
        let (name, value) = (Value::from(contact.name), dollars(contact.value));
        first = first.row(vec![(i + 1).into(), name, contact.id.into(), was.into(), months.into(), value.into()]);
    }
    Finding::new("Reactivation: past customers and old leads first", json!(figures))
        .say(opening)
        .show(classes.note("Value is what customers spent, and what leads were quoted."))
        .say(expected)
        .say(rule)
        .show(first.note("The latest contacts first, in each class the most valuable."))
}

fn grouped(number: i64) -> String {
    super::number::grouped(number)
}
