//! What must hold of any book, and the same figures by another program.

use std::{collections::BTreeMap, fs, process::Command};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{book, csv};
use crate::desk::{
    book::{Book, Segment},
    cadence, calendar,
    discovery::{self, Decision},
    finding::Finding,
    lifetime, pipeline, reactivation, road_map,
};

/// Days before 2026-12-31, as dates.
fn date(days_ago: i64) -> String {
    let latest = time::Date::from_julian_day(2_461_406).unwrap();
    (latest - time::Duration::days(days_ago)).to_string()
}

fn row_of_lead() -> impl Strategy<Value = String> {
    let answer = || prop_oneof![Just("yes"), Just("yes"), Just("no"), Just("")];
    let dates = (0_i64..900, proptest::option::of(0_i64..20), proptest::option::of(0_i64..20));
    let money = (proptest::option::of(0_i64..2_000_000), proptest::option::of(0_i64..50_000));
    let source = prop_oneof![Just("ads"), Just("referral"), Just("sign")];
    let stage = prop_oneof![Just("open"), Just("open"), Just("won"), Just("lost")];
    let asked = prop_oneof![Just("yes"), Just("no")];
    (dates, money, source, stage, asked, (answer(), answer(), answer(), answer()), 0_usize..45, any::<[bool; 2]>()).prop_map(
        |((created, discovery, quoted), (amount, cost), source, stage, asked, (reached, a, b, c), attempts, [phone, email])| {
            let mut row = format!(
                "lead id=ID name=N source={source} created_on={} attempts={attempts} asked={asked} reached={reached} \
                 in_area={a} budget={b} decision_maker={c} stage={stage}",
                date(created)
            );
            let mut add = |column: &str, value: String| row.push_str(&format!(" {column}={value}"));
            if let Some(after) = discovery {
                add("discovery_on", date((created - after).max(0)));
            }
            if let Some(after) = quoted {
                add("quoted_on", date((created - after).max(0)));
            }
            if amount.is_some() || stage == "won" {
                add("amount", dollars(amount.unwrap_or(0)));
            }
            if let Some(cost) = cost {
                add("cost", dollars(cost));
            }
            if phone {
                add("phone", "1".into());
            }
            if email {
                add("email", "a@b".into());
            }
            row
        },
    )
}

fn dollars(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// The rows of a book: customers, jobs of theirs, leads.
fn rows() -> impl Strategy<Value = Vec<String>> {
    let customer = (0_usize..3, any::<bool>());
    let job = (any::<prop::sample::Index>(), 0_i64..2_500, 0_i64..3_000_000, proptest::option::of(0_i64..2_000_000));
    let customers = prop::collection::vec(customer, 1..12);
    (customers, prop::collection::vec(job, 0..40), prop::collection::vec(row_of_lead(), 0..40)).prop_map(
        |(customers, jobs, leads)| {
            let mut rows = Vec::new();
            for (i, (segment, phone)) in customers.iter().enumerate() {
                let (segment, phone) = (Segment::ALL[*segment].word(), if *phone { "phone=1" } else { "" });
                rows.push(format!("customer id=C{i} name=N segment={segment} created_on=2019-01-01 {phone}"));
            }
            for (i, (whose, days, amount, cost)) in jobs.iter().enumerate() {
                let cost = cost.map_or(String::new(), |cost| format!("cost={}", dollars(cost)));
                let (whose, day, amount) = (whose.index(customers.len()), date(*days), dollars(*amount));
                rows.push(format!("job id=J{i} customer=C{whose} completed_on={day} amount={amount} {cost}"));
            }
            rows.extend(leads.iter().enumerate().map(|(i, row)| row.replace("id=ID", &format!("id=L{i}"))));
            rows
        },
    )
}

fn found(book: &Book, decision: Decision) -> road_map::Findings {
    road_map::Findings {
        reactivation: Some(reactivation::figures(book)),
        lifetime: Some(lifetime::figures(book)),
        pipeline: Some(pipeline::figures(book)),
        discovery: Some(discovery::figures(book, decision)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_month_has_more_jobs_than_the_crew_can_do_and_none_is_lost(rows in rows(), capacity in 1_usize..9) {
        let book = book(&rows);
        let found = found(&book, Decision::Denied);
        let figures = road_map::figures(&book, &found, capacity);
        prop_assert_eq!(figures.months.len(), 12);
        prop_assert!(figures.months.iter().all(|&jobs| jobs <= capacity));
        prop_assert_eq!(figures.jobs, figures.months.iter().sum::<usize>());
        prop_assert_eq!(figures.jobs, figures.blocks.iter().map(|block| block.jobs).sum::<usize>());
        for block in &figures.blocks {
            prop_assert_eq!(block.jobs, block.by_source.iter().sum::<usize>() + block.ads);
        }
        prop_assert_eq!(figures.blocks[0].ads + figures.blocks[1].ads, 0);
        // What a smaller crew can't do is not gone: with a large one it is in the plan.
        let large = road_map::figures(&book, &found, 500);
        let planned = |figures: &road_map::Figures| -> usize { figures.blocks.iter().map(|b| b.jobs - b.ads).sum() };
        prop_assert_eq!(large.beyond_capacity, 0);
        prop_assert_eq!(planned(&figures) + figures.beyond_capacity, planned(&large));
    }

    #[test]
    fn each_lead_is_in_one_stage_and_each_lost_one_has_one_cause(rows in rows()) {
        let book = book(&rows);
        let f = pipeline::figures(&book);
        prop_assert_eq!(f.mql + f.qso + f.sql + f.won, f.leads);
        prop_assert_eq!(f.lost_bad_lead + f.lost_bad_process + f.lost_sale, f.lost);
        prop_assert_eq!(f.open_mql + f.open_qso + f.open_sql + f.lost + f.won, f.leads);
        prop_assert!(f.discovered_won <= f.discovered && f.given_up <= f.lost_bad_process);
    }

    #[test]
    fn segments_part_the_customers(rows in rows()) {
        let book = book(&rows);
        let figures = lifetime::figures(&book);
        let sum = |of: fn(&lifetime::Group) -> i64| figures.segments.iter().map(of).sum::<i64>();
        prop_assert_eq!(sum(|group| group.customers as i64), book.customers.len() as i64);
        prop_assert_eq!(sum(|group| group.revenue), book.jobs.iter().map(|job| job.amount).sum::<i64>());
        prop_assert_eq!(sum(|group| group.buyers as i64), figures.all.buyers as i64);
        prop_assert_eq!(sum(|group| group.repeat_buyers as i64), figures.all.repeat_buyers as i64);
    }

    #[test]
    fn an_approval_drops_what_the_question_named_and_nothing_else_does(rows in rows()) {
        let book = book(&rows);
        let items = discovery::items(&book).len();
        let approved = discovery::figures(&book, Decision::Approved);
        prop_assert_eq!((approved.dropped, approved.kept), (items, approved.open - items));
        let denied = discovery::figures(&book, Decision::Denied);
        prop_assert_eq!((denied.dropped, denied.kept), (0, denied.open));
    }

    #[test]
    fn a_cadence_ends_with_the_36th_attempt_and_overloads_nobody(rows in rows()) {
        let book = book(&rows);
        let plan = cadence::plan(&book, Decision::Denied);
        let (mut by_lead, mut by_day) = (BTreeMap::new(), BTreeMap::new());
        for attempt in &plan.attempts {
            *by_lead.entry(&attempt.lead.id).or_insert(attempt.lead.attempts) += 1;
            *by_day.entry(attempt.day).or_insert(0) += 1;
            prop_assert!(attempt.day > book.as_of && attempt.day.weekday().number_from_monday() <= 5);
        }
        prop_assert!(by_lead.values().all(|&attempts| attempts == cadence::ATTEMPTS));
        prop_assert!(by_day.values().all(|&attempts| attempts <= cadence::DAY_MAX));
        let f = plan.figures();
        prop_assert_eq!(f.planned + f.done + f.no_contact + f.waiting, pipeline::figures(&book).open_qso);
        for file in calendar::files(&book, &plan) {
            prop_assert!(file.starts_with("BEGIN:VCALENDAR\r\n") && file.ends_with("END:VCALENDAR\r\n"));
        }
    }

    #[test]
    fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>(), rows in rows()) {
        let _ = Book::parse(&bytes, None);
        let mut text = csv(&rows).into_bytes();
        let at = cut.index(text.len());
        text.splice(at..at, bytes);
        let _ = Book::parse(&text, None);
    }
}

proptest! {
    // Each case starts a process.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn another_program_gets_the_same_figures(rows in rows(), capacity in 1_usize..12, approve: bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book.csv");
        fs::write(&path, csv(&rows)).unwrap();
        let book = book(&rows);
        let asked = !discovery::items(&book).is_empty();
        let decision = match approve {
            _ if !asked => Decision::NotNeeded,
            true => Decision::Approved,
            false => Decision::Denied,
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/desk/figures.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(&path).args(["--capacity", &capacity.to_string()]);
        let output = python.args(["--decision", if approve { "approved" } else { "denied" }]).output().unwrap();
        prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        let figures = |finding: Finding| finding.figures;
        let ours = json!({
            "reactivation": figures(reactivation::finding(&book)),
            "lifetime-value": figures(lifetime::finding(&book)),
            "pipeline": figures(pipeline::finding(&book)),
            "discovery": figures(discovery::finding(&book, decision)),
            "cadence": figures(cadence::plan(&book, decision).finding()),
            "road-map": figures(road_map::finding(&book, &found(&book, decision), capacity, false)),
        });
        for (agent, ours) in ours.as_object().unwrap() {
            prop_assert_eq!(ours, &theirs[agent], "{}", agent);
        }
        let list = reactivation::list(&book);
        let first: Vec<&str> = list.iter().take(15).map(|contact| contact.id).collect();
        prop_assert_eq!(json!(first), theirs["lists"]["call_first"].clone());
        let drops: Vec<&str> = discovery::to_drop(&book).iter().map(|(lead, _)| lead.id.as_str()).collect();
        prop_assert_eq!(json!(drops), theirs["lists"]["to_drop"].clone());
    }
}
