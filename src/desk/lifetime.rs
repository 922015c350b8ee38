//! Lifetime value: what a customer is worth over the years, by segment.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    book::{Book, Job, Segment, YEAR},
    finding::{Finding, Table},
    number::{Cents, Share, count, dollars, quotient},
};

/// The years after which a customer's value is read.
pub const YEARS: [i64; 4] = [1, 2, 3, 5];

/// What the road map and the report build on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// All customers.
    pub all: Group,
    /// Those of each segment, in the order of [`Segment::ALL`].
    pub segments: Vec<Group>,
}

/// Some customers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The segment's word, or `all`.
    pub segment: String,
    /// How many there are.
    pub customers: usize,
    /// How many of them had a job.
    pub buyers: usize,
    /// How many had two or more.
    pub repeat_buyers: usize,
    /// Their jobs.
    pub jobs: usize,
    /// What these brought.
    pub revenue: Cents,
    /// Revenue a buyer, so far.
    pub value: Cents,
    /// Revenue of the jobs whose cost is known, and that cost.
    pub costed_revenue: Cents,
    /// See there.
    pub cost: Cents,
    /// What a buyer has brought by the end of each of [`YEARS`] since the first job: the average over the buyers
    /// that have been there for so long. `None` if there are none.
    pub value_by_year: Vec<Option<Cents>>,
}

/// The figures.
pub fn figures(book: &Book) -> Figures {
    let jobs = book.jobs_by_customer();
    let group = |word: &str, wanted: &dyn Fn(Segment) -> bool| {
        let members = book.customers.iter().zip(&jobs).filter(|(customer, _)| wanted(customer.segment));
        Group::of(book, word, members.map(|(_, jobs)| jobs.as_slice()).collect())
    };
    let segments = Segment::ALL.into_iter().map(|segment| group(segment.word(), &|of| of == segment)).collect();
    Figures { all: group("all", &|_| true), segments }
}

impl Group {
    fn of(book: &Book, segment: &str, members: Vec<&[&Job]>) -> Group {
        let buyers: Vec<&[&Job]> = members.iter().copied().filter(|jobs| !jobs.is_empty()).collect();
        let jobs = || buyers.iter().flat_map(|jobs| jobs.iter());
        let revenue = jobs().map(|job| job.amount).sum();
        Group {
            segment: segment.to_owned(),
            customers: members.len(),
            buyers: buyers.len(),
            repeat_buyers: buyers.iter().filter(|jobs| jobs.len() > 1).count(),
            jobs: jobs().count(),
            revenue,
            value: quotient(revenue, buyers.len() as i64),
            costed_revenue: jobs().filter(|job| job.cost.is_some()).map(|job| job.amount).sum(),
            cost: jobs().filter_map(|job| job.cost).sum(),
            value_by_year: YEARS.map(|years| value_after(book, &buyers, years)).to_vec(),
        }
    }
}

fn value_after(book: &Book, buyers: &[&[&Job]], years: i64) -> Option<Cents> {
    let (mut sum, mut of) = (0, 0);
    for jobs in buyers {
        let Some(first) = jobs.iter().map(|job| job.completed_on).min() else { continue };
        if book.age(first) >= years * YEAR {
            of += 1;
            let within = jobs.iter().filter(|job| (job.completed_on - first).whole_days() < years * YEAR);
            sum += within.map(|job| job.amount).sum::<Cents>();
        }
    }
    (of > 0).then(|| quotient(sum, of))
}

/// What there is to say.
pub fn finding(book: &Book) -> Finding {
    let figures = figures(book);
    let all = &figures.all;
    let mut so_far = Table::new(
        "Customers by segment",
        &["segment", "customers", "with a job", "jobs", "revenue", "value each", "came back", "gross margin"],
    );
    let mut by_year =
        Table::new("What a customer has brought, years after the first job", &["segment", "1", "2", "3", "5"]);
    for group in figures.segments.iter().chain([all]) {
        so_far = so_far.row(vec![
            group.segment.as_str().into(),
            group.customers.into(),
            group.buyers.into(),
            group.jobs.into(),
            dollars(group.revenue).into(),
            dollars(group.value).into(),
            Share::of(group.repeat_buyers, group.buyers).text().into(),
            Share::of_cents(group.costed_revenue - group.cost, group.costed_revenue).text().into(),
        ]);
        let values = group.value_by_year.iter().map(|value| value.map_or("–".into(), |value| dollars(value).into()));
        by_year = by_year.row([group.segment.as_str().into()].into_iter().chain(values).collect());
    }
    let best = figures.segments.iter().filter(|group| group.buyers > 0).max_by_key(|group| group.value);
    let mut finding = Finding::new("Lifetime value", json!(figures))
        .say(format!(
            "A customer has brought {} so far: {} from {} that had a job. {} of them came back for a second one.",
            dollars(all.value),
            dollars(all.revenue),
            count(all.buyers, "customer"),
            Share::of(all.repeat_buyers, all.buyers).text(),
        ))
        .show(so_far.note("Gross margin: of the jobs whose cost is in the file."));
    if let Some(best) = best {
        finding = finding.say(format!(
            "The {} segment is worth the most, {} a customer over {}.",
            best.segment,
            dollars(best.value),
            count(best.jobs, "job"),
        ));
    }
    if let (Some(Some(first)), Some(Some(fifth))) = (all.value_by_year.first(), all.value_by_year.last()) {
        finding = finding.say(format!(
            "After one year a customer stands at {}, after five at {}. The {} in between is what a yearly call is worth.",
            dollars(*first),
            dollars(*fifth),
            dollars(fifth - first),
        ));
    }
    finding.show(by_year.note("Each column counts only the customers whose first job was that long ago."))
}
