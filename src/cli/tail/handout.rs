//! Tables, files and questions in a session, as a terminal shows them. What does not have their shape is shown as JSON
//! by the printer.

use serde::Deserialize;
use serde_json::Value;

use crate::cli::output::printable;

/// Wider cells are cut off.
const CELL_MAX: usize = 120;

/// More rows, or items, are counted and not shown.
const SHOWN: usize = 50;

/// The text of an event of one of these types. It has several lines; nothing in it moves the cursor.
pub(super) fn text(kind: &str, data: &Value) -> Option<String> {
    match kind {
        "table" => Table::deserialize(data).ok().map(|table| table.text()),
        "file" => File::deserialize(data).ok().map(|file| file.text()),
        "approval.requested" => Question::deserialize(data).ok().map(|question| question.text()),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    #[serde(default)]
    note: String,
}

impl Table {
    fn text(&self) -> String {
        let cells = |row: &[Value]| -> Vec<String> { row.iter().map(cell).collect() };
        let head: Vec<String> = self.columns.iter().map(|column| shown(column)).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().take(SHOWN).map(|row| cells(row)).collect();
        let numeric: Vec<bool> = (0..head.len())
            .map(|at| rows.iter().all(|row| row.get(at).is_none_or(|cell| is_figure(cell))) && !rows.is_empty())
            .collect();
        let width = |at: usize| {
            let column = rows.iter().filter_map(|row| row.get(at)).chain(head.get(at));
            column.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().take(head.len()).enumerate().map(|(at, cell)| {
                if numeric[at] {
                    format!("{cell:>width$}", width = widths[at])
                } else {
                    format!("{cell:<width$}", width = widths[at])
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut out = vec![shown(&self.title), line(&head)];
        out.push(widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("  "));
        out.extend(rows.iter().map(|row| line(row)));
        out.extend(more(self.rows.len()));
        out.push(printable(&self.note.replace('\n', " ")).into_owned());
        out.retain(|line| !line.is_empty());
        out.join("\n")
    }
}

#[derive(Deserialize)]
struct File {
    name: String,
    #[serde(default)]
    media_type: String,
    content: String,
}

impl File {
    fn text(&self) -> String {
        let bytes = self.content.len();
        let size = if bytes < 1024 { format!("{bytes} bytes") } else { format!("{} KiB", bytes.div_ceil(1024)) };
        format!("file {} ({}, {size})", shown(&self.name), shown(&self.media_type)).replace("(, ", "(")
    }
}

#[derive(Deserialize)]
struct Question {
    approval: String,
    prompt: Prompt,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    #[serde(default)]
    items: Vec<String>,
    /// What else it says: or somebody would approve what they have not seen.
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

impl Question {
    fn text(&self) -> String {
        let Prompt { text, items, more: rest } = &self.prompt;
        let mut out =
            vec![format!("approval {} requested: {}", shown(&self.approval), printable(&text.replace('\n', " ")))];
        out.extend(items.iter().take(SHOWN).map(|item| format!("• {}", printable(&item.replace('\n', " ")))));
        out.extend(more(items.len()));
        out.extend(rest.iter().map(|(name, value)| printable(&format!("{name}: {value}")).into_owned()));
        out.join("\n")
    }
}

fn more(all: usize) -> Option<String> {
    (all > SHOWN).then(|| format!("… and {} more", all - SHOWN))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

fn shown(text: &str) -> String {
    let text = printable(&text.replace(['\n', '\t'], " ")).into_owned();
    match text.char_indices().nth(CELL_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether a cell stands to the right: a number, an amount, a share, or nothing.
fn is_figure(cell: &str) -> bool {
    cell == "–"
        || cell.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '%' | '$' | '−' | '-' | '×' | '…'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_columns_that_stand_below_each_other() {
        let data =
            json!({"title": "T", "columns": ["name", "n"], "rows": [["a", 5], ["bcdef", "$1,200"]], "note": "N"});
        assert_eq!(text("table", &data).unwrap(), "T\nname        n\n─────  ──────\na           5\nbcdef  $1,200\nN");
    }

    #[test]
    fn a_file_is_its_name_and_size_and_a_question_its_items() {
        let file = json!({"name": "a.md", "media_type": "text/markdown", "content": "x".repeat(2000)});
        assert_eq!(text("file", &file).unwrap(), "file a.md (text/markdown, 2 KiB)");
        let question = json!({"approval": "a1", "prompt": {"text": "Drop?", "items": ["L1", "L2"]}, "expires_ms": 1});
        assert_eq!(text("approval.requested", &question).unwrap(), "approval a1 requested: Drop?\n• L1\n• L2");
        let question = json!({"approval": "a1", "prompt": {"text": "Clean up?", "command": "rm -rf /\u{1b}"}});
        let told = "approval a1 requested: Clean up?\ncommand: \"rm -rf /\\u001b\"";
        assert_eq!(text("approval.requested", &question).unwrap(), told);
    }

    #[test]
    fn hostile_or_other_shapes_do_no_harm() {
        let data = json!({"columns": ["a\u{1b}[2J"], "rows": [["\u{7}\n", 1, 2], []], "title": "\u{202e}"});
        let shown = text("table", &data).unwrap();
        assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
        let wide = json!({"columns": [], "rows": vec![vec!["x"]; 60]});
        assert!(text("table", &wide).unwrap().contains("and 10 more"));
        for (kind, data) in
            [("table", json!({"rows": 3})), ("file", json!("x")), ("approval.requested", json!({"prompt": 1}))]
        {
            assert_eq!(text(kind, &data), None);
        }
    }
}
