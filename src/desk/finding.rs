//! What an agent has found: figures for programs, sentences and tables for people.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One agent's part of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its heading.
    pub title: String,
    /// The figures, each under its name in `docs/DEMO.md`. Money is in cents.
    pub figures: Value,
    /// What there is to say, in order.
    pub parts: Vec<Part>,
}

/// A paragraph or a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Some sentences.
    Text(String),
    /// Rows.
    Table(Table),
}

/// A table, with as many cells in each row as there are columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its head.
    pub columns: Vec<String>,
    /// Its rows; numbers are numbers.
    pub rows: Vec<Vec<Value>>,
    /// What there is to know about it; may be empty.
    pub note: String,
}

impl Finding {
    /// One without a word yet.
    pub fn new(title: &str, figures: Value) -> Finding {
        Finding { title: title.into(), figures, parts: Vec::new() }
    }

    /// Says something more.
    pub fn say(mut self, text: impl Into<String>) -> Finding {
        self.parts.push(Part::Text(text.into()));
        self
    }

    /// Shows something more. A table without rows is left out.
    pub fn show(mut self, table: Table) -> Finding {
        if !table.rows.is_empty() {
            self.parts.push(Part::Table(table));
        }
        self
    }

    /// As Markdown, under a heading of the second level.
    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n", self.title);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(&format!("{text}\n\n")),
                Part::Table(table) => out.push_str(&table.markdown()),
            }
        }
        out
    }
}

impl Table {
    /// A table of no rows.
    pub fn new(title: &str, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Table { title: title.into(), columns, rows: Vec::new(), note: String::new() }
    }

    /// One more row.
    pub fn row(mut self, cells: Vec<Value>) -> Table {
        self.rows.push(cells);
        self
    }

    /// What there is to know about it.
    pub fn note(mut self, note: impl Into<String>) -> Table {
        self.note = note.into();
        self
    }

    /// As the data of a `table` event.
    pub fn event(&self, id: &str) -> Value {
        json!({"id": id, "title": self.title, "columns": self.columns, "rows": self.rows, "note": self.note})
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let numeric = |at: usize| self.rows.iter().all(|row| row.get(at).is_some_and(is_figure));
        let mut out = format!("**{}**\n\n", self.title);
        out.push_str(&line(self.columns.iter().map(|column| cell(column)).collect()));
        out.push_str(&line((0..self.columns.len()).map(|at| if numeric(at) { "--:" } else { "---" }.into()).collect()));
        for row in &self.rows {
            out.push_str(&line(row.iter().map(|value| cell(&text(value))).collect()));
        }
        if !self.note.is_empty() {
            out.push_str(&format!("\n{}\n", self.note));
        }
        out.push('\n');
        out
    }
}

/// A value as it stands in a table.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a value is a number, an amount or a share, which stand to the right.
pub fn is_figure(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::String(text) => {
            let digits = text.trim_start_matches(['−', '$']).trim_end_matches(['%', '×']);
            !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.'))
        }
        _ => false,
    }
}

/// What users wrote stays what it is in Markdown: no table, link, code or emphasis comes of a name.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '~' | '!') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn cell(text: &str) -> String {
    escaped(text)
}
