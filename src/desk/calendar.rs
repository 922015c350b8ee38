//! The cadence as iCalendar files (RFC 5545), for any phone or office calendar.
//!
//! Times are local ones without a zone ("floating", section 3.3.5): 8:30 is 8:30 where the phone is. Ids depend on the
//! lead and the attempt alone, so a calendar that is imported again replaces its entries and doubles none.

use std::fmt::Write;

use super::{book::Book, cadence::Cadence};

/// A line has at most so many bytes, its end not counted (section 3.1).
const LINE_MAX: usize = 75;

/// A file's size, below what an event of a session may have: a calendar that is larger comes in several.
const FILE_MAX: usize = 180 * 1024;

/// The files, each a whole calendar of its own.
pub fn files(book: &Book, cadence: &Cadence) -> Vec<String> {
    let entries = cadence.attempts.iter().map(|attempt| {
        let lead = attempt.lead;
        let mut entry = String::new();
        let mut line = |name: &str, value: &str| fold(&mut entry, &format!("{name}:{value}"));
        let day = attempt.day.to_string().replace('-', "");
        let (hour, minute) = (attempt.time.hour(), attempt.time.minute());
        let reach = if attempt.channel.verb() == "Email" { &lead.email } else { &lead.phone };
        line("BEGIN", "VEVENT");
        line("UID", &format!("{}-{}@desk.moorline", unique(&lead.id), attempt.number));
        line("DTSTAMP", &format!("{}T000000Z", book.as_of.to_string().replace('-', "")));
        line("DTSTART", &format!("{day}T{hour:02}{minute:02}00"));
        line("DURATION", "PT5M");
        let what =
            format!("{} {} ({} of {})", attempt.channel.verb(), lead.name, attempt.number, super::cadence::ATTEMPTS);
        line("SUMMARY", &text(&what));
        line("DESCRIPTION", &text(&format!("{reach}\nLead {}", lead.id)));
        line("END", "VEVENT");
        entry
    });
    let mut files = vec![String::new()];
    for entry in entries {
        if files.last().is_some_and(|file| file.len() + entry.len() > FILE_MAX) {
            files.push(String::new());
        }
        if let Some(file) = files.last_mut() {
            file.push_str(&entry);
        }
    }
    files.retain(|file| !file.is_empty());
    files.into_iter().map(|entries| format!("{HEAD}{entries}END:VCALENDAR\r\n")).collect()
}

const HEAD: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Moorline//Growth desk//EN\r\nCALSCALE:GREGORIAN\r\n";

/// A value of type TEXT (section 3.3.11).
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' | ';' | ',' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// An id in letters and digits, different for different ids.
fn unique(id: &str) -> String {
    let mut out = String::new();
    for c in id.chars() {
        if c.is_ascii_alphanumeric() || c == '-' {
            out.push(c);
        } else {
            let _ = write!(out, "_{:x}.", u32::from(c));
        }
    }
    out
}

/// A line, in as many pieces as it takes (section 3.1). A character is never divided.
fn fold(out: &mut String, line: &str) {
    let mut length = 0;
    for c in line.chars() {
        if length + c.len_utf8() > LINE_MAX {
            out.push_str("\r\n ");
            length = 1;
        }
        out.push(c);
        length += c.len_utf8();
    }
    out.push_str("\r\n");
}
