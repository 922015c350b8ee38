//! The report: what all have found, and what is missing, on one page of Markdown.

use super::{
    finding::{Finding, escaped},
    number::{dollars, grouped},
};

/// One agent's part of it.
#[derive(Debug)]
pub struct Chapter<'a> {
    /// What the part is about.
    pub title: &'a str,
    /// What was found, if anything was.
    pub finding: Option<&'a Finding>,
    /// Why nothing was, or not all: `stopped`, …
    pub missing: Option<String>,
}

/// What is to be done, in a few lines, from the figures that are there.
pub fn headlines(chapters: &[Chapter]) -> Vec<String> {
    let figure = |pointer: &str| {
        let mut figures = chapters.iter().filter_map(|chapter| chapter.finding).map(|finding| &finding.figures);
        figures.find_map(|figures| figures.pointer(pointer)).and_then(serde_json::Value::as_i64)
    };
    let mut lines = Vec::new();
    if let (Some(customers), Some(leads), Some(planned)) =
        (figure("/list_customers"), figure("/list_leads"), figure("/planned_bookings"))
    {
        lines.push(format!(
            "Call {} past customers and {} old leads first: {} in bookings to plan with.",
            grouped(customers),
            grouped(leads),
            dollars(planned)
        ));
    }
    if let Some(value) = figure("/all/value") {
        lines.push(format!("A customer has brought {} so far.", dollars(value)));
    }
    if let (Some(lost), Some(process)) = (figure("/lost"), figure("/lost_bad_process")) {
        let (process, lost) = (grouped(process), grouped(lost));
        lines.push(format!("{process} of {lost} lost leads were lost by the process, not by the lead."));
    }
    if let (Some(kept), Some(open)) = (figure("/kept"), figure("/open")) {
        lines.push(format!("{} of {} open leads stay on the list.", grouped(kept), grouped(open)));
    }
    if let (Some(attempts), Some(planned)) = (figure("/attempts"), figure("/planned")) {
        lines
            .push(format!("The calendar has {attempts} attempts to reach {planned} leads that asked to be contacted."));
    }
    if let (Some(jobs), Some(revenue), Some(capacity)) = (figure("/jobs"), figure("/revenue"), figure("/capacity")) {
        let (jobs, revenue) = (grouped(jobs), dollars(revenue));
        lines.push(format!("{jobs} jobs and {revenue} in 360 days, at {capacity} jobs a month at most."));
    }
    lines
}

/// The whole page.
pub fn markdown(file: &str, as_of: &str, chapters: &[Chapter]) -> String {
    let mut out = format!("# Growth report\n\nFrom {}, as of {as_of}.\n\n", escaped(file));
    for line in headlines(chapters) {
        out.push_str(&format!("- {line}\n"));
    }
    let missing: Vec<String> = chapters
        .iter()
        .filter_map(|chapter| Some(format!("- {}: {}\n", chapter.title, chapter.missing.as_ref()?)))
        .collect();
    if !missing.is_empty() {
        out.push_str(&format!("\n**Not complete:**\n\n{}", missing.concat()));
    }
    out.push('\n');
    for finding in chapters.iter().filter_map(|chapter| chapter.finding) {
        out.push_str(&finding.markdown());
    }
    out
}
