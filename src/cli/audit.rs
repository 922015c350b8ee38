//! `moorline audit`: whether a streaming endpoint is in the single-connection trap.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Ending, Failure, duration, output};
use crate::audit::{self, Endpoint, Gateway, IdFrom, Plan, Scorecard, Status, StopCall, Target};

const CODES: &str = "\
Exit codes: 0 all that was tested passed, 1 something did not, 2 wrong usage, 3 it could not be audited, or not to the end, 130 interrupted \
(with a partial scorecard).

Addresses, headers and bodies may hold {new_id} (fresh for each stream), {id} (see --id-from); the resume URL also {last_id}, \
{events} and {chars}: the last id, and how many events and characters the client has.

Examples:
  moorline audit http://127.0.0.1:4770                                   a gateway, with sessions of its own
  moorline audit https://example.com/stream                              any stream of server-sent events
  moorline audit https://example.com/chat --data @body.json -H 'Authorization: Bearer …'
  moorline audit https://example.com/chat --data '{\"id\":\"{new_id}\",…}' --resume-url 'https://example.com/chat/{new_id}/stream' \
--stop-url 'https://example.com/chat/{new_id}/stop'";

/// Audit a streaming endpoint: is it in the single-connection trap?
///
/// Cuts its streams and comes back, compares with an observer that was not cut, follows with more surfaces, stops, and prints
/// a scorecard with the evidence. It claims nothing that it did not test; docs/AUDIT.md tells what the measures mean.
/// With a POST each trial begins a generation, at your expense: how many is said before.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(super) struct AuditArgs {
    /// A gateway, or the address of any stream
    url: String,
    /// Only watch this session of the gateway: nothing is written to it
    #[arg(long, value_name = "NAME", value_parser = super::parse_name, conflicts_with_all = ["data", "method", "resume_url", "stop_url"])]
    session: Option<crate::id::Name>,
    /// The method that begins a stream [default: GET, or POST with --data]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The body that begins a stream, or @FILE
    #[arg(long, value_name = "BODY|@FILE")]
    data: Option<String>,
    /// A header of every request: 'Name: value'. Values are not shown
    #[arg(long, short = 'H', value_name = "HEADER")]
    header: Vec<String>,
    /// The bearer token (a JWT) for a gateway; nobody else gets it, see -H
    #[arg(long, env = "MOORLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Where a client comes back to a stream, and other surfaces see it (GET)
    #[arg(long, value_name = "URL")]
    resume_url: Option<String>,
    /// Another address of the same streams, as of another replica (several times)
    #[arg(long, value_name = "URL")]
    surface_url: Vec<String>,
    /// What stops a stream
    #[arg(long, value_name = "URL")]
    stop_url: Option<String>,
    /// The method of the stop
    #[arg(long, value_name = "METHOD", default_value = "POST", requires = "stop_url")]
    stop_method: String,
    /// The body of the stop, or @FILE
    #[arg(long, value_name = "BODY|@FILE", requires = "stop_url")]
    stop_data: Option<String>,
    /// Where the answer holds the stream's {id}: header:NAME, or json:MEMBER (a.b for nested ones)
    #[arg(long, value_name = "PLACE")]
    id_from: Option<String>,
    /// How many cuts to make
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=100))]
    trials: u16,
    /// The most time in all
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    time: Duration,
    /// How long one stream is watched; one that goes on counts as endless
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    watch: Duration,
    /// With a gateway: events of a stream
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(10..=3000))]
    events: u16,
    /// With a gateway: time between two events
    #[arg(long, value_name = "TIME", default_value = "25ms", value_parser = duration)]
    pace: Duration,
    /// Take the address for a plain stream, though it looks like a gateway
    #[arg(long)]
    plain: bool,
    /// Print the scorecard as JSON
    #[arg(long)]
    json: bool,
    /// Write the scorecard to this file as HTML
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) async fn run(args: AuditArgs) -> Result<Ending, Failure> {
    let target = target(&args).map_err(Failure::Usage)?;
    let plan = Plan { target, cuts: args.trials.into(), time: args.time, watch: args.watch };
    announce(&plan);
    let progress = |what: String| output::notice(format_args!("{what}"));
    let interrupted = std::sync::atomic::AtomicBool::new(false);
    let ctrl_c = async {
        super::interrupted().await;
        interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let scorecard = audit::run(&plan, ctrl_c, progress).await.map_err(|error| {
        let advice = error.advice().map_or(String::new(), |advice| format!("\n{advice}"));
        Failure::Unaudited(hidden(&format!("{error}{advice}"), &plan.target))
    })?;
    if let Some(path) = &args.html {
        let written = std::fs::write(path, audit::html(&scorecard));
        written.map_err(|error| Failure::Unaudited(format!("cannot write {}: {error}", path.display())))?;
        output::notice(format_args!("the report is in {}", path.display()));
    }
    if args.json {
        let json = serde_json::to_string_pretty(&scorecard).map_err(|e| Failure::Other(e.to_string()))?;
        output::line(&json)?;
    } else {
        output::write(&shown(&scorecard, output::colours()))?;
    }
    if interrupted.load(std::sync::atomic::Ordering::Relaxed) {
        Ok(Ending::Interrupted)
    } else if scorecard.is_faulty() {
        Ok(Ending::Faulty)
    } else if !scorecard.is_tested() {
        Err(Failure::Unaudited("nothing could be tested".into()))
    } else if let Some(why) = &scorecard.incomplete_because {
        // What was not reached may be what fails.
        Err(Failure::Unaudited(format!("the audit is not complete: {why}")))
    } else {
        Ok(Ending::Done)
    }
}

fn target(args: &AuditArgs) -> Result<Target, String> {
    let url = args.url.trim_end_matches('/');
    let token = args.token.clone().filter(|token| !token.is_empty());
    let plain = args.plain || args.data.is_some() || args.method.is_some() || args.resume_url.is_some();
    let gateway = gateway_of(url).filter(|_| !plain);
    if let (Some(base), None) = (&gateway, &args.session) {
        if !args.header.is_empty() {
            let why =
                "a gateway's own sessions take no --header, only --token; to watch one as any stream: --session NAME";
            return Err(why.into());
        }
        let surfaces = args.surface_url.iter().map(|url| gateway_of(url).unwrap_or_else(|| url.clone())).collect();
        let gateway = Gateway::new(base.clone(), surfaces, token, args.events.into(), args.pace);
        check(&Endpoint { url: gateway.url.clone(), surfaces: gateway.surfaces.clone(), ..Endpoint::default() })?;
        return Ok(Target::Gateway(Box::new(gateway)));
    }
    let in_session = |url: &str| match &args.session {
        Some(session) => {
            format!(
                "{}/v1/sessions/{session}/events",
                gateway_of(url).unwrap_or_else(|| url.trim_end_matches('/').into())
            )
        }
        None => url.to_owned(),
    };
    let mut headers = args.header.iter().map(|line| header(line)).collect::<Result<Vec<_>, _>>()?;
    // A gateway's token is for gateways, and goes to nobody else.
    let authorized = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let token = token.filter(|_| !authorized && (args.session.is_some() || gateway_of(url).is_some()));
    headers.extend(token.map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
    let body = args.data.as_deref().map(body).transpose()?;
    let is_json = body.as_deref().is_some_and(|body| body.trim_start().starts_with(['{', '[']));
    if is_json && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("content-type".into(), "application/json".into()));
    }
    let method = args.method.clone().unwrap_or_else(|| if body.is_some() { "POST".into() } else { "GET".into() });
    let stop_body = args.stop_data.as_deref().map(self::body).transpose()?;
    let endpoint = Endpoint {
        method: method.to_ascii_uppercase(),
        url: in_session(&args.url),
        headers,
        body,
        resume_url: args.resume_url.clone(),
        surfaces: args.surface_url.iter().map(|url| in_session(url)).collect(),
        stop: args.stop_url.clone().map(|url| StopCall {
            method: args.stop_method.to_ascii_uppercase(),
            url,
            body: stop_body,
        }),
        id_from: args
            .id_from
            .as_deref()
            .map(str::parse::<IdFrom>)
            .transpose()
            .map_err(|e| format!("--id-from: {e}"))?,
    };
    check(&endpoint)?;
    Ok(Target::Endpoint(Box::new(endpoint)))
}

fn check(endpoint: &Endpoint) -> Result<(), String> {
    endpoint.check().map_err(|error| error.to_string())
}

/// The gateway that an address names: without a path, or one of a session.
fn gateway_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim_end_matches('/').split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let at = path.find("/v1/sessions/");
    let is_session = at.is_some_and(|at| path[at + 13..].trim_end_matches("/events").split('/').count() == 1);
    match at {
        Some(at) if is_session && !path.contains('?') => Some(format!("{scheme}://{authority}{}", &path[..at])),
        None if path.is_empty() && !authority.contains(['?', '#', '{']) => Some(format!("{scheme}://{authority}")),
        _ => None,
    }
}

fn header(line: &str) -> Result<(String, String), String> {
    match line.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        // The line may be a secret that lost its name.
        _ => Err("a header takes the form 'Name: value'".into()),
    }
}

fn body(text: &str) -> Result<String, String> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}")),
        None => Ok(text.to_owned()),
    }
}

/// Says beforehand what it will do.
fn announce(plan: &Plan) {
    let (streams, target) = (plan.streams(), &plan.target);
    output::notice(format_args!(
        "auditing {} {}: at most {streams} streams are begun, in at most {:?}",
        target.method(),
        target.url(),
        plan.time
    ));
    if target.costs() {
        output::notice(format_args!(
            "each is a {} of its own: {streams} generations at your expense, if the endpoint has a price; Ctrl-C ends it",
            target.method()
        ));
    }
}

fn hidden(text: &str, target: &Target) -> String {
    let secrets = target.secrets().into_iter().filter(|secret| secret.len() >= 4);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
}

/// The scorecard as a terminal takes it.
fn shown(scorecard: &Scorecard, colours: bool) -> String {
    let mut out = String::new();
    for line in scorecard.to_string().lines() {
        let line = output::printable(line);
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        // Further in stand the lines that go on.
        let found = STATUSES.iter().find(|(status, _)| indent.len() <= 2 && trimmed.starts_with(status.word()));
        match found {
            Some((status, colour)) if colours => {
                let word = status.word();
                out.push_str(&format!("{indent}\x1b[{colour}m{word}\x1b[0m{}\n", &trimmed[word.len()..]));
            }
            _ if colours && trimmed.starts_with("Verdict:") => out.push_str(&format!("\x1b[1m{line}\x1b[0m\n")),
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

const STATUSES: [(Status, &str); 4] =
    [(Status::Pass, "32"), (Status::Partial, "33"), (Status::Fail, "1;31"), (Status::NotTested, "2")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_told_from_streams() {
        assert_eq!(gateway_of("http://h:1/").as_deref(), Some("http://h:1"));
        assert_eq!(gateway_of("http://h:1/v1/sessions/s/events").as_deref(), Some("http://h:1"));
        assert_eq!(gateway_of("http://h:1/moor/v1/sessions/s").as_deref(), Some("http://h:1/moor"));
        for stream in
            ["http://h/sse", "http://h/v1/sessions/s/commands", "http://h/v1/sessions/s/events?type=x", "http://h?x"]
        {
            assert_eq!(gateway_of(stream), None, "{stream}");
        }
    }
}
