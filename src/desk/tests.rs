//! The figures of small books, worked out by hand; what must hold of any book; and the same sums by another program.

mod any;
mod by_hand;

use super::book::{BadFile, Book, COLUMNS};

/// A book of rows that name only the cells they fill: `"job id=J1 customer=C1 completed_on=2026-01-01 amount=10"`. In a
/// value, `_` is a space.
fn csv(rows: &[impl AsRef<str>]) -> String {
    let mut out = format!("{}\n", COLUMNS.join(","));
    for row in rows {
        let (kind, cells) = row.as_ref().split_once(' ').expect("a kind and cells");
        let cell = |column: &str| {
            let mut cells = cells.split_whitespace().filter_map(|cell| cell.split_once('='));
            cells.find(|(name, _)| *name == column).map_or(String::new(), |(_, value)| value.replace('_', " "))
        };
        let cells = COLUMNS.map(|column| if column == "kind" { kind.to_owned() } else { cell(column) });
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

fn read(rows: &[impl AsRef<str>]) -> Result<Book, BadFile> {
    Book::parse(csv(rows).as_bytes(), None)
}

fn book(rows: &[impl AsRef<str>]) -> Book {
    read(rows).unwrap_or_else(|e| panic!("{e}"))
}
