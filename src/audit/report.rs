//! The scorecard as one HTML file: nothing is loaded from elsewhere, and all text is text.

use super::{
    Scorecard, Status, Trap,
    scorecard::{Measure, percent},
};

const STYLE: &str = include_str!("report.css");

/// The report.
pub fn html(scorecard: &Scorecard) -> String {
    let e = escaped;
    let target = &scorecard.target;
    let class = match scorecard.verdict.trap {
        Trap::Trapped => "fail",
        Trap::Partly => "partial",
        Trap::Free => "pass",
        Trap::Undecided => "not_tested",
    };
    let partial = scorecard.incomplete_because.as_ref().map_or(String::new(), |why| {
        format!("<p class=\"incomplete\"><strong>Partial scorecard:</strong> {}.</p>", e(why))
    });
    let rows: String = scorecard.measures.iter().map(row).collect();
    let details: String = scorecard.measures.iter().map(detail).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Streaming audit: {url}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<h1>Streaming audit</h1>\n<p class=\"target\"><code>{method} {url}</code></p>\n\
         <p class=\"facts\">{kind} · {requests} requests in {seconds:.1} s · {events} events a stream</p>\n</header>\n{partial}\
         <section class=\"verdict {class}\">\n<h2>{headline}</h2>\n<p>{why}</p>\n</section>\n\
         <table>\n<thead><tr><th scope=\"col\">Measure</th><th scope=\"col\">Result</th><th scope=\"col\" class=\"number\">Share</th>\
         <th scope=\"col\">What was seen</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n{details}\
         <footer><p>Made by <code>moorline audit</code>. Nothing is claimed that was not tested; what each measure means, and does not \
         test, stands in Moorline's docs/AUDIT.md.</p></footer>\n</main>\n</body>\n</html>\n",
        url = e(&target.url),
        method = e(&target.method),
        kind = e(target.kind),
        requests = scorecard.requests,
        seconds = scorecard.duration_ms as f64 / 1e3,
        events = scorecard.events,
        headline = e(&sentence(scorecard.verdict.headline())),
        why = e(&scorecard.verdict.why),
    )
}

fn row(measure: &Measure) -> String {
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td><td>{}</td></tr>\n",
        escaped(measure.name),
        badge(measure.status),
        measure.share.map(percent).unwrap_or_else(|| "–".into()),
        escaped(&measure.summary),
    )
}

fn detail(measure: &Measure) -> String {
    let checks: String = measure
        .checks
        .iter()
        .map(|check| {
            let (badge, what, evidence) = (badge(check.status), escaped(&check.what), escaped(&check.evidence));
            format!("<li>{badge} <div><strong>{what}</strong><br>{evidence}</div></li>\n")
        })
        .collect();
    let advice: String =
        measure.advice.iter().map(|advice| format!("<p class=\"advice\">{}</p>\n", escaped(advice))).collect();
    format!("<section>\n<h2>{}</h2>\n<ul>\n{checks}</ul>\n{advice}</section>\n", escaped(measure.name))
}

fn badge(status: Status) -> String {
    let class = match status {
        Status::Pass => "pass",
        Status::Partial => "partial",
        Status::Fail => "fail",
        Status::NotTested => "not_tested",
    };
    format!("<span class=\"badge {class}\">{}</span>", status.word().to_lowercase())
}

fn sentence(shouted: &str) -> String {
    let lower = shouted.to_lowercase();
    let mut chars = lower.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// A text in which nothing is markup, and which can't turn the direction of what stands around it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(c.escape_default())
            }
            c => out.push(c),
        }
    }
    out
}
