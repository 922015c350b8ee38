//! What the demo takes for a book, and how it refuses what is none.

use std::{fs, path::Path};

use super::moorline;

const HEADER: &str = "kind,id,name,customer,segment,source,phone,email,created_on,completed_on,discovery_on,quoted_on,\
    amount,cost,attempts,asked,reached,in_area,budget,decision_maker,stage";

/// A sound file of a customer, a job and leads, in which row 17 is a lead.
fn sound() -> Vec<String> {
    let mut rows = vec![
        HEADER.to_owned(),
        "customer,C1,Ann Day,,homeowner,referral,555-0100,,2024-01-02,,,,,,,,,,,,".to_owned(),
        "job,J1,roof,C1,,,,,,2024-03-01,,,9000.00,6000,,,,,,,".to_owned(),
    ];
    rows.extend((4..20).map(|row| {
        format!("lead,L{row},Lee {row},,,website,555-0101,,2026-01-02,,2026-01-03,2026-01-05,8000,,3,yes,yes,yes,yes,yes,lost")
    }));
    rows
}

/// Runs the demo on a file. It starts nothing if the file is bad.
fn refused(content: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.csv");
    fs::write(&path, content).unwrap();
    refused_path(&path)
}

fn refused_path(path: &Path) -> String {
    let demo = moorline(&["demo", path.to_str().unwrap(), "--listen", "127.0.0.1:0"], "");
    assert_eq!(demo.code, 2, "{demo:?}");
    assert!(demo.stdout.is_empty(), "nothing was started: {demo:?}");
    demo.stderr
}

#[test]
fn a_bad_cell_is_named_by_its_row_and_column_and_nothing_is_started() {
    let row_17 = |from: &str, to: &str| {
        let mut rows = sound();
        rows[16] = rows[16].replacen(from, to, 1);
        refused(rows.join("\n").as_bytes())
    };
    for (from, to, why) in [
        ("2026-01-05", "2026-02-30", "row 17, column quoted_on: \"2026-02-30\" is no day of the calendar"),
        ("2026-01-05", "5 Jan", "row 17, column quoted_on: \"5 Jan\" is no date; expected the form 2026-03-31"),
        ("2026-01-05", "2025-12-31", "row 17, column quoted_on: it is before the lead came in"),
        ("8000", "-8000", "row 17, column amount: \"-8000\" is negative; expected 0 or more"),
        ("8000", "\"8,000\"", "row 17, column amount: \"8,000\" is no amount"),
        (",lost", ",sold", "row 17, column stage: \"sold\" is unknown; expected: open, won, lost"),
        (",L17,", ",L4,", "row 17, column id: \"L4\" stands in row 4 already"),
        (",3,yes", ",three,yes", "row 17, column attempts: \"three\" is no count"),
        (",yes,yes,yes,yes", ",maybe,yes,yes,yes", "row 17, column asked: \"maybe\" is unknown; expected: yes, no"),
        ("lead,", "deal,", "row 17, column kind: \"deal\" is unknown; expected: customer, job, lead"),
        (",lost", "", "row 17, column stage: the row ends before it, after 20 cells"),
        ("Lee 17,", "Lee 17,C1", "row 17, column customer: \"C1\" stands in it; it is to be empty for a lead"),
    ] {
        let stderr = row_17(from, to);
        assert!(stderr.contains(&format!("book.csv: {why}")), "{why}:\n{stderr}");
    }
}

#[test]
fn a_file_that_is_no_book_is_refused_with_what_is_expected() {
    let job = |customer: &str| format!("{HEADER}\njob,J1,roof,{customer},,,,,,2024-03-01,,,9000.00,,,,,,,,\n");
    let latin1 = [HEADER.as_bytes(), b"\ncustomer,C1,Jos\xe9,,homeowner,,,,2024-01-02,,,,,,,,,,,,\n"].concat();
    for (content, why) in [
        (&b""[..], "it is empty; the first row names the columns: kind,id,"),
        (b"name,phone\nAnn,1\n", "row 1, column kind: the header lacks it; expected: kind,id,"),
        (HEADER.as_bytes(), "it has no customers, jobs or leads"),
        (job("C9").as_bytes(), "row 2, column customer: no customer row has the id \"C9\""),
        (&latin1, "row 2, column name: it is not UTF-8; save the file as UTF-8"),
        (&vec![b'a'; (4 << 20) + 1], "it has more than 4 MiB"),
    ] {
        let stderr = refused(content);
        assert!(stderr.contains(why), "{why}:\n{stderr}");
    }
    for (path, why) in [("/nowhere/x.csv", "No such file"), ("/", "directory"), ("/dev/zero", "MiB")] {
        let stderr = refused_path(Path::new(path));
        assert!(stderr.contains(why), "{path}: {stderr}");
    }
}

#[test]
fn a_day_before_the_latest_in_the_file_is_refused() {
    let demo = moorline(&["demo", "--as-of", "2026-01-01", "--listen", "127.0.0.1:0"], "");
    assert_eq!(demo.code, 2, "{demo:?}");
    assert!(demo.stderr.contains("is after the day that the book is as of, 2026-01-01"), "{demo:?}");
}
