//! The contractor's book: customers, jobs and leads, as one CSV file holds them.
//!
//! Each row is of one kind, and has only that kind's cells filled. Whatever is wrong is said with its row (as a
//! spreadsheet counts, the header being row 1), its column, and what is expected there. `docs/DEMO.md` has the columns.

mod cells;

use std::{collections::HashMap, fmt};

use time::Date;

pub use self::cells::parse_date;
use self::cells::{Cells, Columns};
use super::number::{Cents, quotient};

/// A year, in days. Years and ages are counted in days here.
pub const YEAR: i64 = 365;

/// The columns that a file must have, in any order. It may have others, which are passed over.
pub const COLUMNS: [&str; 21] = [
    "kind",
    "id",
    "name",
    "customer",
    "segment",
    "source",
    "phone",
    "email",
    "created_on",
    "completed_on",
    "discovery_on",
    "quoted_on",
    "amount",
    "cost",
    "attempts",
    "asked",
    "reached",
    "in_area",
    "budget",
    "decision_maker",
    "stage",
];

/// The most rows of a file. More would take the agents longer than anybody listens.
pub const ROWS_MAX: usize = 20_000;

/// All that the file says, as of one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// The day that all is relative to.
    pub as_of: Date,
    /// In the order of the file.
    pub customers: Vec<Customer>,
    /// In the order of the file.
    pub jobs: Vec<Job>,
    /// In the order of the file.
    pub leads: Vec<Lead>,
}

/// Somebody who bought, or was put down as a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Its id in the file.
    pub id: String,
    /// Who it is.
    pub name: String,
    /// What kind of customer.
    pub segment: Segment,
    /// May be empty.
    pub phone: String,
    /// May be empty.
    pub email: String,
}

/// A job that was done and paid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Whose, as an index into [`Book::customers`].
    pub customer: usize,
    /// When it was done.
    pub completed_on: Date,
    /// What it brought.
    pub amount: Cents,
    /// What labour and material took, if that is known.
    pub cost: Option<Cents>,
}

/// Somebody who might buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// Its id in the file.
    pub id: String,
    /// Who it is.
    pub name: String,
    /// Where it came from.
    pub source: Source,
    /// May be empty.
    pub phone: String,
    /// May be empty.
    pub email: String,
    /// When it came in.
    pub created_on: Date,
    /// When the discovery call was held.
    pub discovery_on: Option<Date>,
    /// When a price was quoted.
    pub quoted_on: Option<Date>,
    /// What was quoted, or sold.
    pub amount: Option<Cents>,
    /// What was paid to get the lead (the click, the list).
    pub cost: Cents,
    /// How often somebody tried to reach it.
    pub attempts: usize,
    /// It asked to be contacted.
    pub asked: bool,
    /// It has been spoken to.
    pub reached: bool,
    /// The property is where the crew works, if that is known.
    pub in_area: Option<bool>,
    /// There is money for the job, if that is known.
    pub budget: Option<bool>,
    /// It is the one who decides, if that is known.
    pub decision_maker: Option<bool>,
    /// What became of it.
    pub stage: LeadStage,
}

/// What kind of customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// Lives under the roof.
    Homeowner,
    /// Owns or manages roofs that others live under.
    Landlord,
    /// A business.
    Commercial,
}

/// Where a lead came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody recommended the contractor.
    Referral,
    /// The contractor's own site.
    Website,
    /// Paid for.
    Ads,
    /// Somebody knocked.
    DoorKnock,
    /// A sign in a yard, or on the truck.
    Sign,
}

/// What became of a lead, as the contractor put it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadStage {
    /// Nothing yet.
    Open,
    /// It bought.
    Won,
    /// It did not.
    Lost,
}

impl Segment {
    /// All, in the order in which they are shown.
    pub const ALL: [Segment; 3] = [Segment::Homeowner, Segment::Landlord, Segment::Commercial];

    /// Its word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Segment::Homeowner => "homeowner",
            Segment::Landlord => "landlord",
            Segment::Commercial => "commercial",
        }
    }
}

impl Source {
    /// All.
    pub const ALL: [Source; 5] = [Source::Referral, Source::Website, Source::Ads, Source::DoorKnock, Source::Sign];

    /// Its word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Source::Referral => "referral",
            Source::Website => "website",
            Source::Ads => "ads",
            Source::DoorKnock => "door_knock",
            Source::Sign => "sign",
        }
    }
}

impl LeadStage {
    /// All.
    pub const ALL: [LeadStage; 3] = [LeadStage::Open, LeadStage::Won, LeadStage::Lost];

    /// Its word in the file.
    pub fn word(self) -> &'static str {
        match self {
            LeadStage::Open => "open",
            LeadStage::Won => "won",
            LeadStage::Lost => "lost",
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFile {
    /// As a spreadsheet counts: the header is row 1.
    pub row: Option<usize>,
    /// The header's word.
    pub column: Option<&'static str>,
    /// What is wrong, and what is expected.
    pub why: String,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(row) = self.row {
            write!(f, "row {row}, ")?;
        }
        if let Some(column) = self.column {
            write!(f, "column {column}: ")?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for BadFile {}

impl Book {
    /// Reads a file. Without a day to be as of, that is the latest one in it; with one, nothing in it may be later.
    pub fn parse(bytes: &[u8], as_of: Option<Date>) -> Result<Book, BadFile> {
        // Spreadsheets put a byte order mark before the header.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(bytes);
        let columns = Columns::of(reader.byte_headers().map_err(|e| whole_file(e.to_string()))?)?;
        let mut draft = Draft::default();
        for (i, record) in reader.byte_records().enumerate() {
            let row = i + 2;
            if i == ROWS_MAX {
                return Err(whole_file(format!("it has more than {ROWS_MAX} rows")));
            }
            let record = record.map_err(|e| at_row(row, e.to_string()))?;
            draft.add(&Cells::of(row, &columns, &record)?)?;
        }
        draft.book(as_of)
    }

    /// How many days ago.
    pub fn age(&self, date: Date) -> i64 {
        (self.as_of - date).whole_days()
    }

    /// The jobs of the last 365 days.
    pub fn last_year(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(|job| self.age(job.completed_on) < YEAR)
    }

    /// What the last 365 days brought.
    pub fn annual_revenue(&self) -> Cents {
        self.last_year().map(|job| job.amount).sum()
    }

    /// What a job brings: the average of the last 365 days, or of all if there was none in them.
    pub fn average_job(&self) -> Cents {
        let average = |jobs: Vec<&Job>| quotient(jobs.iter().map(|job| job.amount).sum(), jobs.len() as i64);
        match self.last_year().collect::<Vec<_>>() {
            none if none.is_empty() => average(self.jobs.iter().collect()),
            jobs => average(jobs),
        }
    }

    /// Each customer's jobs, by the customers' order.
    pub fn jobs_by_customer(&self) -> Vec<Vec<&Job>> {
        let mut jobs = vec![Vec::new(); self.customers.len()];
        for job in &self.jobs {
            jobs[job.customer].push(job);
        }
        jobs
    }
}

impl Lead {
    /// Whether an answer has ruled it out.
    pub fn ruled_out(&self) -> bool {
        [self.in_area, self.budget, self.decision_maker].contains(&Some(false))
    }

    /// Whether there is any way to reach it.
    pub fn can_be_contacted(&self) -> bool {
        !self.phone.is_empty() || !self.email.is_empty()
    }
}

impl Customer {
    /// Whether there is any way to reach it.
    pub fn can_be_contacted(&self) -> bool {
        !self.phone.is_empty() || !self.email.is_empty()
    }
}

/// Rows as they come; a job may stand before its customer.
#[derive(Default)]
struct Draft {
    customers: Vec<Customer>,
    by_id: HashMap<String, usize>,
    jobs: Vec<(usize, String, Job)>,
    leads: Vec<Lead>,
    /// Where each id was first.
    ids: HashMap<String, usize>,
    latest: Option<(Date, usize, &'static str)>,
}

impl Draft {
    fn add(&mut self, cells: &Cells) -> Result<(), BadFile> {
        let id = cells.needed("id")?.to_owned();
        if let Some(first) = self.ids.insert(id.clone(), cells.row) {
            return Err(cells.bad("id", format!("{id:?} stands in row {first} already; each id is used once")));
        }
        match cells.one_of("kind", &["customer", "job", "lead"])? {
            0 => {
                cells.only("customer", &["name", "segment", "source", "phone", "email", "created_on"])?;
                self.note_latest(cells, "created_on")?;
                cells.optional_one_of("source", &Source::ALL.map(Source::word))?;
                let segment = Segment::ALL[cells.one_of("segment", &Segment::ALL.map(Segment::word))?];
                let (name, phone, email) = cells.contact()?;
                self.by_id.insert(id.clone(), self.customers.len());
                self.customers.push(Customer { id, name, segment, phone, email });
            }
            1 => {
                cells.only("job", &["name", "customer", "completed_on", "amount", "cost"])?;
                let completed_on = cells.date("completed_on")?.ok_or_else(|| cells.missing("completed_on"))?;
                self.note_latest(cells, "completed_on")?;
                let amount = cells.money("amount")?.ok_or_else(|| cells.missing("amount"))?;
                let job = Job { customer: 0, completed_on, amount, cost: cells.money("cost")? };
                self.jobs.push((cells.row, cells.needed("customer")?.to_owned(), job));
            }
            _ => {
                let lead = self.lead(cells, id)?;
                self.leads.push(lead);
            }
        }
        Ok(())
    }

    fn lead(&mut self, cells: &Cells, id: String) -> Result<Lead, BadFile> {
        let own = ["name", "segment", "source", "phone", "email", "created_on", "discovery_on", "quoted_on", "amount"];
        let answers = ["cost", "attempts", "asked", "reached", "in_area", "budget", "decision_maker", "stage"];
        cells.only("lead", &[&own[..], &answers[..]].concat())?;
        let created_on = cells.date("created_on")?.ok_or_else(|| cells.missing("created_on"))?;
        for column in ["created_on", "discovery_on", "quoted_on"] {
            self.note_latest(cells, column)?;
            if cells.date(column)?.is_some_and(|date| date < created_on) {
                return Err(cells.bad(column, format!("it is before the lead came in, on {created_on}")));
            }
        }
        cells.optional_one_of("segment", &Segment::ALL.map(Segment::word))?;
        let stage = LeadStage::ALL[cells.one_of("stage", &LeadStage::ALL.map(LeadStage::word))?];
        let amount = cells.money("amount")?;
        if stage == LeadStage::Won && amount.is_none() {
            return Err(cells.bad("amount", "it is empty; a lead that was won needs what it was sold for"));
        }
        let (name, phone, email) = cells.contact()?;
        Ok(Lead {
            id,
            name,
            source: Source::ALL[cells.one_of("source", &Source::ALL.map(Source::word))?],
            phone,
            email,
            created_on,
            discovery_on: cells.date("discovery_on")?,
            quoted_on: cells.date("quoted_on")?,
            amount,
            cost: cells.money("cost")?.unwrap_or(0),
            attempts: cells.whole("attempts")?.unwrap_or(0),
            asked: cells.yes_or_no("asked")?.ok_or_else(|| cells.missing("asked"))?,
            reached: cells.yes_or_no("reached")?.unwrap_or(false),
            in_area: cells.yes_or_no("in_area")?,
            budget: cells.yes_or_no("budget")?,
            decision_maker: cells.yes_or_no("decision_maker")?,
            stage,
        })
    }

    fn note_latest(&mut self, cells: &Cells, column: &'static str) -> Result<(), BadFile> {
        if let Some(date) = cells.date(column)?
            && self.latest.is_none_or(|(latest, ..)| date > latest)
        {
            self.latest = Some((date, cells.row, column));
        }
        Ok(())
    }

    fn book(self, as_of: Option<Date>) -> Result<Book, BadFile> {
        let mut jobs = Vec::with_capacity(self.jobs.len());
        for (row, customer, job) in self.jobs {
            let known = self.by_id.get(&customer).copied();
            let unknown = || BadFile {
                row: Some(row),
                column: Some("customer"),
                why: format!("no customer row has the id {customer:?}"),
            };
            jobs.push(Job { customer: known.ok_or_else(unknown)?, ..job });
        }
        let Some((latest, row, column)) = self.latest else {
            return Err(whole_file("it has no customers, jobs or leads; there must be a row below the header".into()));
        };
        let as_of = as_of.unwrap_or(latest);
        if latest > as_of {
            let why = format!("{latest} is after the day that the book is as of, {as_of}");
            return Err(BadFile { row: Some(row), column: Some(column), why });
        }
        Ok(Book { as_of, customers: self.customers, jobs, leads: self.leads })
    }
}

fn whole_file(why: String) -> BadFile {
    BadFile { row: None, column: None, why }
}

fn at_row(row: usize, why: String) -> BadFile {
    BadFile { row: Some(row), column: None, why }
}
