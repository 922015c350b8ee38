//! Small books, and what a person gets out of them with a pencil.

use super::{book, csv, read};
use crate::desk::{
    book::{Book, parse_date},
    cadence, calendar,
    discovery::{self, Decision},
    lifetime, pipeline, reactivation, road_map,
};

/// As of 2026-12-31. Two customers of long ago, one of last month, one that never had a job.
const ROWS: [&str; 16] = [
    "customer id=C1 name=Ann segment=homeowner phone=1 created_on=2020-01-01",
    "customer id=C2 name=Bo segment=homeowner email=b@x created_on=2020-01-01",
    "customer id=C3 name=Cy segment=commercial phone=3 created_on=2020-01-01",
    "customer id=C4 name=Di segment=landlord phone=4 created_on=2020-01-01",
    // Ann: 10,000 then 2,000 half a year later; last job 2021-12-31, five years ago.
    "job id=J1 customer=C1 completed_on=2021-07-01 amount=10000 cost=6000",
    "job id=J2 customer=C1 completed_on=2021-12-31 amount=2000",
    // Bo: 5,000, on 2025-12-31: 365 days ago, a year and just out of it.
    "job id=J3 customer=C2 completed_on=2025-12-31 amount=5000 cost=4000",
    // Cy: 30,000, this month.
    "job id=J4 customer=C3 completed_on=2026-12-31 amount=30000.50",
    "lead id=L1 name=Won source=ads phone=1 created_on=2026-06-01 discovery_on=2026-06-02 quoted_on=2026-06-03 \
     amount=9000 cost=500 attempts=4 asked=yes reached=yes in_area=yes budget=yes decision_maker=yes stage=won",
    "lead id=L2 name=Sql source=referral phone=1 created_on=2026-12-01 discovery_on=2026-12-02 asked=no reached=yes \
     in_area=yes budget=yes decision_maker=yes stage=open",
    "lead id=L3 name=Qso source=website email=q@x created_on=2026-12-20 attempts=30 asked=yes stage=open",
    "lead id=L4 name=Mql source=sign phone=1 created_on=2026-12-25 asked=no stage=open",
    "lead id=L5 name=Far source=ads phone=1 created_on=2026-01-01 cost=100 attempts=2 asked=yes in_area=no stage=open",
    "lead id=L6 name=Gone source=website phone=1 created_on=2026-03-01 attempts=5 asked=yes stage=lost",
    "lead id=L7 name=Poor source=website phone=1 created_on=2026-03-01 attempts=5 asked=yes reached=yes budget=no \
     discovery_on=2026-03-02 stage=lost",
    "lead id=L8 name=Elsewhere source=referral phone=1 created_on=2026-02-01 discovery_on=2026-02-02 \
     quoted_on=2026-02-03 amount=7000 asked=yes reached=yes in_area=yes budget=yes decision_maker=yes stage=lost",
];

#[test]
fn the_list_to_call_is_by_recency_then_by_value() {
    let book = book(&ROWS);
    let ids: Vec<&str> = reactivation::list(&book).iter().map(|contact| contact.id).collect();
    // Up to two years: L8 was quoted 7,000, Bo spent 5,000, L6 nothing. Ann's last job is 1,826 days ago: the oldest
    // class. Not Cy (last month), not Di (no job), not L7 (no budget).
    assert_eq!(ids, ["L8", "C2", "L6", "C1"]);
}

#[test]
fn reactivation_plans_with_the_lower_of_list_and_rule() {
    let figures = reactivation::figures(&book(&ROWS));
    // Only J4 is of the last 365 days.
    assert_eq!((figures.annual_revenue, figures.average_job), (3_000_050, 3_000_050));
    // 15% of 4 is 0.6. Discovery was held with L1, L2, L7 and L8; L1 bought: 1 × 1/4 = 0.25.
    assert_eq!((figures.expected_active, figures.list_jobs, figures.list_bookings), (1, 0, 0));
    // 15% of 30,000.50 is 4,500.075.
    assert_eq!((figures.rule_bookings, figures.planned_jobs), (450_008, 0));
}

#[test]
fn a_customer_s_value_grows_over_the_years() {
    let figures = lifetime::figures(&book(&ROWS));
    let homeowner = &figures.segments[0];
    assert_eq!((homeowner.customers, homeowner.buyers, homeowner.repeat_buyers, homeowner.jobs), (2, 2, 1, 3));
    // 17,000 of two.
    assert_eq!((homeowner.revenue, homeowner.value), (1_700_000, 850_000));
    // J2 has no cost.
    assert_eq!((homeowner.costed_revenue, homeowner.cost), (1_500_000, 1_000_000));
    // After one year both count: (12,000 + 5,000) / 2. After two and more only Ann: 12,000.
    assert_eq!(homeowner.value_by_year, [Some(850_000), Some(1_200_000), Some(1_200_000), Some(1_200_000)]);
    let landlord = &figures.segments[1];
    assert_eq!((landlord.customers, landlord.buyers, landlord.value), (1, 0, 0));
    assert_eq!(landlord.value_by_year, [None; 4]);
    assert_eq!((figures.all.buyers, figures.all.revenue), (3, 4_700_050));
}

#[test]
fn every_lead_is_in_its_stage_and_its_death_has_a_cause() {
    let figures = pipeline::figures(&book(&ROWS));
    // L1 won. L2 and L8 SQL. L3, L5, L6, L7 QSO. L4 MQL.
    assert_eq!((figures.won, figures.sql, figures.qso, figures.mql), (1, 2, 4, 1));
    assert_eq!((figures.open_sql, figures.open_qso, figures.open_mql), (1, 2, 1));
    assert_eq!((figures.discovered, figures.discovered_won), (4, 1));
    // L6 was given up after 5, L7 has no budget, L8 got a price.
    assert_eq!((figures.lost_bad_process, figures.lost_bad_lead, figures.lost_sale), (1, 1, 1));
    assert_eq!((figures.given_up, figures.given_up_attempts), (1, 5));
}

#[test]
fn discovery_drops_only_what_is_ruled_out_and_only_when_approved() {
    let book = book(&ROWS);
    assert_eq!(discovery::items(&book), ["L5 Far: outside the service area"]);
    let approved = discovery::figures(&book, Decision::Approved);
    assert_eq!((approved.open, approved.kept, approved.offered, approved.kept_qso), (4, 3, 3, 1));
    for decision in [Decision::Denied, Decision::Expired, Decision::NotNeeded] {
        let kept = discovery::figures(&book, decision);
        assert_eq!((kept.kept, kept.offered, kept.kept_qso, kept.dropped), (4, 3, 2, 0));
    }
}

#[test]
fn a_lead_is_tried_36_times_those_made_already_counted_on_workdays() {
    let book = book(&ROWS);
    let plan = cadence::plan(&book, Decision::Approved);
    // L3 has had 30: the last three of every other day, and the three weekly ones. As of a Thursday; the next day is one
    // of the week.
    let days: Vec<String> = plan.attempts.iter().map(|attempt| attempt.day.to_string()).collect();
    assert_eq!(days, ["2027-01-01", "2027-01-05", "2027-01-07", "2027-01-14", "2027-01-21", "2027-01-28"]);
    let numbers: Vec<usize> = plan.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [31, 32, 33, 34, 35, 36]);
    assert!(plan.attempts.iter().all(|attempt| attempt.channel == cadence::Channel::Email), "there is no phone");
}

#[test]
fn the_road_map_fills_months_up_to_the_crew_and_no_further() {
    let book = book(&ROWS);
    let found = road_map::Findings {
        reactivation: Some(reactivation::Figures { planned_jobs: 7, ..reactivation::figures(&book) }),
        pipeline: Some(pipeline::figures(&book)),
        discovery: Some(discovery::figures(&book, Decision::Denied)),
        lifetime: None,
    };
    // One job in the last 30 days.
    assert_eq!(road_map::shown_capacity(&book), 1);
    // Repeat: none. Reactivation: 7 over six months, 1 1 1 1 1 2. SQL: 1 × 1/3 = 0. QSO: 2 × 1/7 = 0. New: 6 leads not from ads
    // in a year × 1/8 = 0.75, 1; ten twelfths of it 0.83, 1; in the last month.
    let figures = road_map::figures(&book, &found, 2);
    assert_eq!(figures.months[..6], [1, 1, 1, 1, 1, 2]);
    // Ads: 9,000 for 600 pays. Half of the free slots in the third block, all in the fourth.
    assert_eq!(figures.months[6..], [1, 1, 1, 2, 2, 2]);
    assert_eq!((figures.blocks[2].ads, figures.blocks[3].ads, figures.blocks[3].by_source[4]), (3, 5, 1));
    assert_eq!((figures.ads_cost_per_sale, figures.blocks[2].ads_budget), (60_000, 180_000));
    // A crew of one: the sixth month's second job waits for the seventh, and half of one free slot is none.
    let figures = road_map::figures(&book, &found, 1);
    assert_eq!(figures.months, [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]);
    assert_eq!((figures.blocks[2].by_source[1], figures.blocks[2].ads, figures.beyond_capacity), (1, 0, 0));
    assert_eq!(figures.blocks[0].first_day, "2027-01-01");
    assert_eq!(figures.blocks[3].last_day, "2027-12-26");
}

#[test]
fn ads_that_do_not_return_three_times_their_cost_get_no_money() {
    let rows = ROWS.map(|row| row.replace("cost=500", "cost=2901"));
    let found = road_map::Findings { pipeline: Some(pipeline::figures(&book(&rows))), ..Default::default() };
    let figures = road_map::figures(&book(&rows), &found, 2);
    assert!(figures.blocks.iter().all(|block| block.ads == 0 && block.ads_budget == 0));
    let rows = ROWS.map(|row| row.replace("cost=500", "cost=2900"));
    let figures = road_map::figures(&book(&rows), &found, 2);
    assert_eq!(figures.blocks.iter().map(|block| block.ads > 0).collect::<Vec<_>>(), [false, false, true, true]);
}

#[test]
fn a_calendar_line_has_at_most_75_bytes_and_no_name_breaks_it() {
    let name = "Zoë;_Müller,_\\n_GmbH_&_Söhne_—_Dächer_aller_Art,_seit_1904,_auch_Notdienst_🏠🏠🏠🏠🏠🏠";
    let row = "lead id=L/1;x name=NAME source=ads phone=1 created_on=2026-12-20 attempts=35 asked=yes stage=open";
    // Commas end cells here, so the name comes in quotes.
    let text = csv(&[row]).replace("NAME", &format!("\"{}\"", name.replace('_', " ")));
    let book = Book::parse(text.as_bytes(), None).unwrap();
    let files = calendar::files(&book, &cadence::plan(&book, Decision::Denied));
    let [file] = &files[..] else { panic!("{files:?}") };
    assert!(file.lines().count() > 12 && file.split("\r\n").all(|line| line.len() <= 75 && !line.contains('\n')));
    let unfolded = file.replace("\r\n ", "");
    assert!(unfolded.contains("SUMMARY:"), "{unfolded}");
    assert!(unfolded.contains("Zoë\\; Müller\\, \\\\n GmbH & Söhne — Dächer aller Art\\, seit 1904"), "{unfolded}");
    assert!(unfolded.contains("UID:L_2f.1_3b.x-36@desk.moorline\r\n"), "{unfolded}");
}

#[test]
fn the_day_is_the_latest_in_the_file_unless_one_is_given_and_nothing_may_be_later() {
    let text = csv(&ROWS);
    let day = |text: &str| parse_date(text).unwrap();
    assert_eq!(Book::parse(text.as_bytes(), None).unwrap().as_of, day("2026-12-31"));
    assert_eq!(Book::parse(text.as_bytes(), Some(day("2027-06-01"))).unwrap().as_of, day("2027-06-01"));
    let late = Book::parse(text.as_bytes(), Some(day("2026-12-30"))).unwrap_err();
    assert_eq!((late.row, late.column), (Some(9), Some("completed_on")));
}

#[test]
fn columns_may_stand_in_any_order_beside_others_and_after_a_byte_order_mark() {
    let mut rows = csv(&ROWS);
    rows.insert(0, '\u{feff}');
    let swapped: String = rows.lines().map(|line| format!("{},more\r\n", swap(line))).collect();
    assert_eq!(Book::parse(swapped.as_bytes(), None).unwrap(), book(&ROWS));

    fn swap(line: &str) -> String {
        let line = line.trim_start_matches('\u{feff}');
        let (first, rest) = line.split_once(',').unwrap();
        let (second, rest) = rest.split_once(',').unwrap();
        format!("{second},{first},{rest}")
    }
}

#[test]
fn a_book_of_nothing_but_customers_gives_no_nonsense() {
    let book = read(&["customer id=C1 name=A segment=homeowner created_on=2026-01-01"]).unwrap();
    assert_eq!(reactivation::figures(&book).planned_bookings, 0);
    assert_eq!(pipeline::figures(&book).leads, 0);
    let found = road_map::Findings { pipeline: Some(pipeline::figures(&book)), ..Default::default() };
    assert_eq!(road_map::figures(&book, &found, 3).months, [0; 12]);
    for finding in [
        reactivation::finding(&book),
        lifetime::finding(&book),
        pipeline::finding(&book),
        discovery::finding(&book, Decision::NotNeeded),
        cadence::plan(&book, Decision::NotNeeded).finding(),
        road_map::finding(&book, &found, 3, true),
    ] {
        assert!(!finding.markdown().contains("NaN") && finding.parts.len() > 1 || finding.title.contains("cadence"));
    }
}
