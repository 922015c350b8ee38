//! A roofer's book, made up from a seed: what the demo works on unless a file is named.
//!
//! `moorline demo --generate-data > src/desk/roofer.csv` made the shipped one. Nobody in it is real: the phone numbers
//! are of the range kept for fiction, the mail addresses of a domain kept for examples (RFC 2606).

use fastrand::Rng;
use time::{Date, Duration};

use super::book::COLUMNS;

/// The shipped file.
pub const CSV: &str = include_str!("roofer.csv");

/// What the shipped file was made from.
pub const SEED: u64 = 7;

/// The latest day in any file that is made, as days since the Julian epoch: 2026-11-20.
const LATEST: i32 = 2_461_365;

const OLD_CUSTOMERS: usize = 250;
const LEADS: usize = 300;

const FIRST: [&str; 32] = [
    "Ana", "Ben", "Carla", "Dale", "Elena", "Frank", "Grace", "Hank", "Irene", "Joel", "Kim", "Luis", "Mara", "Ned",
    "Olga", "Pete", "Quinn", "Rosa", "Sam", "Tess", "Umar", "Vera", "Walt", "Xenia", "Yusuf", "Zoe", "Abby", "Cole",
    "Dora", "Earl", "Faye", "Glen",
];
const LAST: [&str; 32] = [
    "Abbott",
    "Baker",
    "Castillo",
    "Dunn",
    "Ellis",
    "Fischer",
    "Grant",
    "Hale",
    "Ibarra",
    "Jensen",
    "Keller",
    "Lopez",
    "Meyer",
    "Nolan",
    "Ortiz",
    "Parks",
    "Quigley",
    "Reyes",
    "Sutton",
    "Tran",
    "Underwood",
    "Vance",
    "Webb",
    "Xiong",
    "Yates",
    "Zimmer",
    "Archer",
    "Boyd",
    "Cross",
    "Doyle",
    "Easton",
    "Finch",
];
const FIRMS: [&str; 8] = [
    "Mill Street Foods",
    "Corner Clinic",
    "Harbor Storage",
    "Oak Lane School",
    "Union Print",
    "Bluff Motors",
    "Delta Gym",
    "Red Barn Market",
];

/// A whole file.
pub fn csv(seed: u64) -> String {
    let mut writer = Writer { rng: Rng::with_seed(seed), customers: Vec::new(), jobs: Vec::new(), leads: Vec::new() };
    for _ in 0..OLD_CUSTOMERS {
        let segment = writer.segment();
        let first = writer.days_ago(400, 2_900);
        let customer = writer.customer(segment, first - Duration::days(30));
        writer.jobs_from(customer, segment, first);
    }
    for _ in 0..LEADS {
        writer.lead();
    }
    let Writer { customers, jobs, leads, .. } = writer;
    let mut out = format!("{}\n", COLUMNS.join(","));
    for row in customers.iter().chain(&jobs).chain(&leads) {
        out.push_str(&row.join(","));
        out.push('\n');
    }
    out
}

type Row = [String; COLUMNS.len()];

struct Writer {
    rng: Rng,
    customers: Vec<Row>,
    jobs: Vec<Row>,
    leads: Vec<Row>,
}

impl Writer {
    fn latest() -> Date {
        Date::from_julian_day(LATEST).unwrap_or(Date::MIN)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn days_ago(&mut self, from: i64, to: i64) -> Date {
        Writer::latest() - Duration::days(self.rng.i64(from..to))
    }

    fn segment(&mut self) -> &'static str {
        match self.rng.u32(0..100) {
            0..76 => "homeowner",
            76..91 => "landlord",
            _ => "commercial",
        }
    }

    fn source(&mut self) -> &'static str {
        match self.rng.u32(0..100) {
            0..30 => "referral",
            30..55 => "website",
            55..80 => "ads",
            80..90 => "door_knock",
            _ => "sign",
        }
    }

    fn amount(&mut self, segment: &str) -> i64 {
        // Most calls of landlords are repairs; a shop's roof is large.
        let dollars = match segment {
            "homeowner" => self.rng.i64(480..1_650),
            "landlord" => self.rng.i64(190..900),
            _ => self.rng.i64(900..4_200),
        };
        dollars * 10
    }

    fn name(&mut self, segment: &str) -> String {
        if segment == "commercial" {
            return format!("{} {}", FIRMS[self.rng.usize(0..FIRMS.len())], self.rng.u32(1..40));
        }
        format!("{} {}", FIRST[self.rng.usize(0..FIRST.len())], LAST[self.rng.usize(0..LAST.len())])
    }

    /// Phone and mail address; one or both may be missing.
    fn contact(&mut self, name: &str) -> (String, String) {
        let area = [303, 720, 970][self.rng.usize(0..3)];
        let phone = format!("{area}-555-01{:02}", self.rng.u32(0..100));
        let email = format!("{}{}@example.com", name.to_lowercase().replace(' ', "."), self.rng.u32(1..100));
        match self.rng.u32(0..100) {
            0..3 => (String::new(), String::new()),
            3..15 => (String::new(), email),
            15..35 => (phone, String::new()),
            _ => (phone, email),
        }
    }

    fn customer(&mut self, segment: &str, created: Date) -> String {
        let name = self.name(segment);
        let (phone, email) = self.contact(&name);
        let source = self.source();
        self.add_customer(segment, name, phone, email, source, created)
    }

    fn add_customer(
        &mut self,
        segment: &str,
        name: String,
        phone: String,
        email: String,
        source: &str,
        created: Date,
    ) -> String {
        let id = format!("C{:03}", self.customers.len() + 1);
        self.customers.push(row(&[
            ("kind", "customer"),
            ("id", &id),
            ("name", &name),
            ("segment", segment),
            ("source", source),
            ("phone", &phone),
            ("email", &email),
            ("created_on", &created.to_string()),
        ]));
        id
    }

    fn job(&mut self, customer: &str, day: Date, amount: i64) {
        let id = format!("J{:03}", self.jobs.len() + 1);
        let cost = amount * self.rng.i64(56..74);
        let cost = if self.chance(10) { String::new() } else { money(cost) };
        let name = if amount < 2_500 { "repair" } else { "roof" };
        self.jobs.push(row(&[
            ("kind", "job"),
            ("id", &id),
            ("name", name),
            ("customer", customer),
            ("completed_on", &day.to_string()),
            ("amount", &money(amount * 100)),
            ("cost", &cost),
        ]));
    }

    /// A first job, and more over the years.
    fn jobs_from(&mut self, customer: String, segment: &str, first: Date) {
        let amount = self.amount(segment);
        self.job(&customer, first, amount);
        let (again, least, most) = match segment {
            "homeowner" => (32, 300, 1_500),
            "landlord" => (80, 90, 420),
            _ => (58, 200, 800),
        };
        let mut day = first;
        while self.chance(again) {
            day += Duration::days(self.rng.i64(least..most));
            if day > Writer::latest() {
                break;
            }
            let amount = self.amount(segment);
            let amount = if segment == "homeowner" { amount / 3 } else { amount };
            self.job(&customer, day, amount);
        }
    }

    /// A lead, and the customer that it became.
    fn lead(&mut self) {
        let id = format!("L{:03}", self.leads.len() + 1);
        let segment = self.segment();
        let name = self.name(segment);
        let (phone, email) = self.contact(&name);
        let source = self.source();
        let age = if self.chance(20) { self.rng.i64(1..75) } else { self.rng.i64(75..540) };
        let created = Writer::latest() - Duration::days(age);
        let asked = self.chance(74);
        let tries = if asked { self.rng.usize(1..16) } else { self.rng.usize(0..4) };
        let mut attempts = if self.chance(8) { self.rng.usize(30..44) } else { tries };
        let reached = attempts > 0 && self.chance(if asked { 68 } else { 15 });
        let answer = |writer: &mut Writer, yes: u32, no: u32| match writer.rng.u32(0..100) {
            n if n < yes => Some(true),
            n if n < yes + no => Some(false),
            _ => None,
        };
        let known = if reached { 100 } else { 25 };
        let in_area = answer(self, 88 * known / 100, 8 * known / 100);
        let (budget, decision_maker) = if reached { (answer(self, 80, 12), answer(self, 84, 9)) } else { (None, None) };
        let discovery = (reached && asked && self.chance(84)).then(|| created + Duration::days(self.rng.i64(0..12)));
        let qualified = [in_area, budget, decision_maker] == [Some(true); 3];
        let quoted =
            discovery.filter(|_| qualified && self.chance(88)).map(|day| day + Duration::days(self.rng.i64(1..9)));
        let bounded = |day: Option<Date>| day.map(|day| day.min(Writer::latest()));
        let (discovery, quoted) = (bounded(discovery), bounded(quoted));
        let won = quoted.is_some() && self.chance(64) && age > 20;
        let open = !won && (age < 75 || self.chance(6));
        if won {
            attempts = attempts.max(2);
        }
        let amount = quoted.map(|_| self.amount(segment));
        let cost = if source == "ads" { money(self.rng.i64(18_000..45_000)) } else { String::new() };
        let date = |day: Option<Date>| day.map(|day| day.to_string()).unwrap_or_default();
        let stage = if won {
            "won"
        } else if open {
            "open"
        } else {
            "lost"
        };
        self.leads.push(row(&[
            ("kind", "lead"),
            ("id", &id),
            ("name", &name),
            ("segment", segment),
            ("source", source),
            ("phone", &phone),
            ("email", &email),
            ("created_on", &created.to_string()),
            ("discovery_on", &date(discovery)),
            ("quoted_on", &date(quoted)),
            ("amount", &amount.map(|amount| money(amount * 100)).unwrap_or_default()),
            ("cost", &cost),
            ("attempts", &attempts.to_string()),
            ("asked", yes_or_no(Some(asked))),
            ("reached", yes_or_no(Some(reached))),
            ("in_area", yes_or_no(in_area)),
            ("budget", yes_or_no(budget)),
            ("decision_maker", yes_or_no(decision_maker)),
            ("stage", stage),
        ]));
        if let (true, Some(quoted), Some(amount)) = (won, quoted, amount) {
            let customer = self.add_customer(segment, name, phone, email, source, created);
            let day = quoted + Duration::days(self.rng.i64(6..40));
            if day <= Writer::latest() {
                self.job(&customer, day, amount);
            }
        }
    }
}

fn row(cells: &[(&str, &str)]) -> Row {
    COLUMNS.map(|column| cells.iter().find(|(name, _)| *name == column).map_or("", |(_, value)| value).to_owned())
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn yes_or_no(answer: Option<bool>) -> &'static str {
    match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_what_the_generator_makes_of_its_seed() {
        assert!(csv(SEED) == CSV, "moorline demo --generate-data > src/desk/roofer.csv");
    }
}
