//! The road map: twelve months in four 90-day blocks, never beyond what the crew can do.
//!
//! A month is 30 days here, a block three of them. Jobs come from five sources, and wait where a month is full. Paid
//! ads come last: not before a whole block of CRM data exists, only where the file shows that they pay, and only for
//! slots that nothing else fills.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::Duration;

use super::{
    book::{Book, LeadStage, Source, YEAR},
    discovery,
    finding::{Finding, Table},
    lifetime,
    number::{Cents, Share, count, dollars, proportion, quotient},
    pipeline, reactivation,
};

/// Twelve months.
pub const MONTHS: usize = 12;

/// The months of a block.
const BLOCK: usize = 3;

/// Ads that return less than this many times their cost get no money.
pub const ROAS_LEAST: i64 = 3;

/// The first block in which ads may run: the CRM is set up in the first, and filled in the second.
const ADS_FROM_BLOCK: usize = 2;

/// Where jobs come from, in the order in which they fill a month.
const SOURCES: [&str; 5] = ["repeat customers", "reactivation", "open SQLs", "open QSOs", "new leads"];

/// What the other agents have found; what is not there is left out, and said.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// See [`reactivation`].
    pub reactivation: Option<reactivation::Figures>,
    /// See [`lifetime`].
    pub lifetime: Option<lifetime::Figures>,
    /// See [`pipeline`].
    pub pipeline: Option<pipeline::Figures>,
    /// See [`discovery`].
    pub discovery: Option<discovery::Figures>,
}

/// What the report builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Jobs a month that the crew can do.
    pub capacity: usize,
    /// Jobs in the plan, and what they bring.
    pub jobs: usize,
    /// See there.
    pub revenue: Cents,
    /// Jobs that there is demand for and no crew.
    pub beyond_capacity: usize,
    /// Jobs of each month.
    pub months: Vec<usize>,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// What ads have cost so far, and what the sales from them brought.
    pub ads_cost: Cents,
    /// See there.
    pub ads_revenue: Cents,
    /// What it took to make one sale by ads.
    pub ads_cost_per_sale: Cents,
    /// Revenue of the last 90 days.
    pub last_block_revenue: Cents,
}

/// Ninety days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The first day.
    pub first_day: String,
    /// The last.
    pub last_day: String,
    /// Jobs, from each of the sources, and by ads.
    pub by_source: Vec<usize>,
    /// Jobs by ads.
    pub ads: usize,
    /// All jobs.
    pub jobs: usize,
    /// What they bring.
    pub revenue: Cents,
    /// What is paid for ads.
    pub ads_budget: Cents,
}

/// What the crew has shown it can do: the jobs of the busiest 30 days of the last 360, in steps of 30 from the last
/// day. At least one.
pub fn shown_capacity(book: &Book) -> usize {
    let mut months = [0; MONTHS];
    for job in &book.jobs {
        if let Some(month) = months.get_mut((book.age(job.completed_on) / 30) as usize) {
            *month += 1;
        }
    }
    months.into_iter().max().unwrap_or(0).max(1)
}

/// Jobs that come in each month, by source.
fn demand(book: &Book, found: &Findings) -> [[usize; SOURCES.len()]; MONTHS] {
    let first_job = |jobs: &[&super::book::Job]| jobs.iter().map(|job| job.completed_on).min();
    let repeat = book.jobs_by_customer().iter().fold(0, |sum, jobs| {
        let first = first_job(jobs);
        // One on the very first day is part of the first job.
        sum + jobs.iter().filter(|job| book.age(job.completed_on) < YEAR && Some(job.completed_on) > first).count()
    });
    let reactivated = found.reactivation.as_ref().map_or(0, |figures| figures.planned_jobs as usize);
    let (mut sql, mut qso, mut new) = (0, 0, 0);
    if let Some(p) = &found.pipeline {
        let (open_sql, open_qso) =
            found.discovery.as_ref().map_or((p.open_sql, p.open_qso), |d| (d.kept_sql, d.kept_qso));
        let of = |part: usize, won: usize, all: usize| proportion(part as i64, won as i64, all as i64) as usize;
        sql = of(open_sql, p.won, p.sql + p.won);
        qso = of(open_qso, p.won, p.qso + p.sql + p.won);
        let unpaid = book.leads.iter().filter(|lead| lead.source != Source::Ads && book.age(lead.created_on) < YEAR);
        new = of(unpaid.count(), p.won, p.leads);
    }
    // New leads take two months from the inquiry to the roof; those of last year's rate are spread over the rest.
    let by_source = [
        spread(repeat, 0, MONTHS),
        spread(reactivated, 0, 6),
        spread(sql, 0, 3),
        spread(qso, 1, 4),
        spread(proportion(new as i64, 10, 12) as usize, 2, 10),
    ];
    std::array::from_fn(|month| by_source.map(|months| months[month]))
}

/// So many jobs, over so many months, as evenly as whole ones allow.
fn spread(jobs: usize, from: usize, months: usize) -> [usize; MONTHS] {
    let mut out = [0; MONTHS];
    for at in 0..months {
        out[from + at] = jobs * (at + 1) / months - jobs * at / months;
    }
    out
}

/// The figures.
pub fn figures(book: &Book, found: &Findings, capacity: usize) -> Figures {
    let demand = demand(book, found);
    let average = book.average_job();
    let ads = || book.leads.iter().filter(|lead| lead.source == Source::Ads);
    let sales = || ads().filter(|lead| lead.stage == LeadStage::Won);
    let ads_cost = ads().map(|lead| lead.cost).sum();
    let ads_revenue = sales().filter_map(|lead| lead.amount).sum();
    let ads_cost_per_sale = quotient(ads_cost, sales().count() as i64);
    let ads_pay = ads_cost > 0 && ads_revenue >= ROAS_LEAST * ads_cost;

    let mut waiting = [0; SOURCES.len()];
    let mut months = Vec::with_capacity(MONTHS);
    let mut blocks = Vec::with_capacity(MONTHS / BLOCK);
    for (number, block) in demand.chunks(BLOCK).enumerate() {
        let mut by_source = vec![0; SOURCES.len()];
        let mut by_ads = 0;
        for month in block {
            let mut free = capacity;
            for (source, jobs) in month.iter().enumerate() {
                waiting[source] += jobs;
                let done = waiting[source].min(free);
                waiting[source] -= done;
                by_source[source] += done;
                free -= done;
            }
            let by_ads_now = match number {
                _ if !ads_pay || number < ADS_FROM_BLOCK => 0,
                ADS_FROM_BLOCK => free / 2,
                _ => free,
            };
            by_ads += by_ads_now;
            months.push(capacity - free + by_ads_now);
        }
        let jobs = by_source.iter().sum::<usize>() + by_ads;
        let first_day = book.as_of + Duration::days(90 * number as i64 + 1);
        blocks.push(Block {
            first_day: first_day.to_string(),
            last_day: (first_day + Duration::days(89)).to_string(),
            by_source,
            ads: by_ads,
            jobs,
            revenue: jobs as i64 * average,
            ads_budget: by_ads as i64 * ads_cost_per_sale,
        });
    }
    let last_block = book.jobs.iter().filter(|job| book.age(job.completed_on) < 90);
    Figures {
        capacity,
        jobs: months.iter().sum(),
        revenue: blocks.iter().map(|block| block.revenue).sum(),
        beyond_capacity: waiting.iter().sum(),
        months,
        blocks,
        ads_cost,
        ads_revenue,
        ads_cost_per_sale,
        last_block_revenue: last_block.map(|job| job.amount).sum(),
    }
}

/// What there is to say. `shown`: the capacity is what the crew has shown, and nobody's word.
pub fn finding(book: &Book, found: &Findings, capacity: usize, shown: bool) -> Finding {
    let figures = figures(book, found, capacity);
    let f = &figures;
    let whence = if shown { "the most that the file shows for 30 days" } else { "as you said" };
    let mut finding = Finding::new("Road map: twelve months in four 90-day blocks", json!(figures)).say(format!(
        "Capacity is {} a month, {whence}. The plan has {} and {} in 360 days; no month is fuller than the crew.",
        count(capacity, "job"),
        count(f.jobs, "job"),
        dollars(f.revenue),
    ));
    if f.beyond_capacity > 0 {
        finding = finding.say(format!(
            "{} more could be sold than done. Raise prices, or add to the crew, before you buy a single lead.",
            count(f.beyond_capacity, "job"),
        ));
    }
    let missing: Vec<&str> = [
        ("reactivation", found.reactivation.is_none()),
        ("the pipeline", found.pipeline.is_none()),
        ("lifetime value", found.lifetime.is_none()),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if !missing.is_empty() {
        finding =
            finding.say(format!("Without {}: nothing came of it, so it counts for nothing.", missing.join(" and ")));
    }
    finding.show(blocks_table(f)).say(ads_sentence(f)).show(work_table()).show(metrics_table(f, found))
}

fn blocks_table(f: &Figures) -> Table {
    let mut columns = vec!["block", "from", "to", "jobs", "of"];
    columns.extend(SOURCES);
    columns.extend(["ads", "ad budget", "revenue"]);
    let mut table = Table::new("Jobs and revenue by block", &columns);
    for (i, block) in f.blocks.iter().enumerate() {
        let mut row: Vec<Value> = vec![
            (i + 1).into(),
            block.first_day.as_str().into(),
            block.last_day.as_str().into(),
            block.jobs.into(),
            (f.capacity * BLOCK).into(),
        ];
        row.extend(block.by_source.iter().map(|&jobs| Value::from(jobs)));
        row.extend([block.ads.into(), dollars(block.ads_budget).into(), dollars(block.revenue).into()]);
        table = table.row(row);
    }
    table.note(
        "Repeat customers and new leads come as in the last 365 days. Each job counts at the average of those days.",
    )
}

fn ads_sentence(f: &Figures) -> String {
    let ads: usize = f.blocks.iter().map(|block| block.ads).sum();
    let budget: Cents = f.blocks.iter().map(|block| block.ads_budget).sum();
    let gate = "No ads in the first two blocks: the CRM must first hold 90 days of your own data.";
    if f.ads_cost == 0 {
        return format!("{gate} The file has no cost of ads, so none are planned after that either.");
    }
    let so_far = format!("Each dollar of ads has returned ${} so far", times(f.ads_revenue, f.ads_cost));
    if f.ads_revenue < ROAS_LEAST * f.ads_cost {
        format!("{gate} {so_far}, less than ${ROAS_LEAST}: none are planned until that is better.")
    } else if ads == 0 {
        format!("{gate} {so_far}, but the crew is full without them: none are planned.")
    } else {
        format!(
            "{gate} {so_far}. From the third block on they fill free slots: {} for {}, {} a sale.",
            count(ads, "job"),
            dollars(budget),
            dollars(f.ads_cost_per_sale),
        )
    }
}

fn work_table() -> Table {
    let rows = [
        "Call the reactivation list and the open SQLs. Set up the CRM: source, attempts, discovery and outcome of every lead.",
        "Work the cadence. Hold discovery with every QSO. Offer the Priority Program. Keep a full block of CRM data.",
        "Ads on at most half of the free slots, if a dollar returns $3 or more. Weekly: discovery to close.",
        "Ads up to the free slots. Fully booked? Raise prices first, then the crew.",
    ];
    rows.into_iter().enumerate().fold(Table::new("What to do", &["block", "work"]), |table, (i, work)| {
        table.row(vec![(i + 1).into(), work.into()])
    })
}

fn metrics_table(f: &Figures, found: &Findings) -> Table {
    let none = || "no data".to_owned();
    let roas = if f.ads_cost > 0 { times(f.ads_revenue, f.ads_cost) } else { none() };
    let value = found.lifetime.as_ref().map_or_else(none, |figures| dollars(figures.all.value));
    let close = found.pipeline.as_ref().map_or_else(none, |p| Share::of(p.discovered_won, p.discovered).text());
    let first = f.blocks.first().map_or(0, |block| block.revenue);
    Table::new("What to watch", &["metric", "today", "act when"])
        .row(vec!["ROAS (ad revenue per ad dollar)".into(), roas.into(), "below 3.0: stop the ads".into()])
        .row(vec!["LTV (revenue a customer so far)".into(), value.into(), "it falls: call past customers".into()])
        .row(vec!["discovery to close".into(), close.into(), "it falls: listen to three calls".into()])
        .row(vec![
            "revenue per block".into(),
            dollars(f.last_block_revenue).into(),
            format!("the first block ends below {}", dollars(first)).into(),
        ])
        .note("Revenue per block: the last 90 days, against the plan.")
}

/// `7.3`.
fn times(part: Cents, whole: Cents) -> String {
    let tenths = proportion(part, 10, whole);
    format!("{}.{}", tenths / 10, tenths % 10)
}
