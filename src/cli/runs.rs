//! `moorline runs`: what a session's agents are at.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{Ending, Failure, Gateway, output, parse_name};
use crate::{
    client::{Error, Run},
    id::Name,
};

/// Show a session's runs: who works on what, how it stands, and what is left of its lease
///
/// Runs that others started are indented below them.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct RunsArgs {
    /// The session
    #[arg(value_parser = parse_name)]
    session: Name,
    /// The gateway's answer as it is: an array of runs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) async fn run(args: RunsArgs) -> Result<Ending, Failure> {
    let session = args.gateway.client()?.session(&args.session).await?;
    if args.json {
        output::line(&session["runs"].to_string())?;
        return Ok(Ending::Done);
    }
    let (runs, now) = read(&session).ok_or_else(|| Error::Protocol("a session without runs".into()))?;
    if runs.is_empty() {
        output::notice(format_args!("no run was started in {}", args.session));
    } else {
        output::write(&table(&runs, now))?;
    }
    Ok(Ending::Done)
}

fn read(session: &Value) -> Option<(Vec<Run>, u64)> {
    let runs = Vec::<Run>::deserialize(&session["runs"]).ok()?;
    Some((runs, session["now"].as_u64()?))
}

/// The runs as a table, children below their parents.
fn table(runs: &[Run], now: u64) -> String {
    let mut rows = vec![["RUN", "AGENT", "ATTEMPT", "STATUS", "LEFT"].map(str::to_owned)];
    for (depth, run) in tree(runs) {
        let left = match (run.grace_ms, run.lease_until) {
            (Some(grace), _) => format!("{} to stop", seconds(grace)),
            (None, Some(until)) => format!("{} of {}", seconds(until.saturating_sub(now)), seconds(run.lease_ms)),
            (None, None) => "-".into(),
        };
        rows.push([
            format!("{}{}", "  ".repeat(depth), run.run),
            run.agent.as_ref().map_or("-".into(), Name::to_string),
            run.attempt.to_string(),
            output::printable(&run.status).into_owned(),
            left,
        ]);
    }
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 5]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The runs in the order of a walk through their tree, each with its depth.
fn tree(runs: &[Run]) -> Vec<(usize, &Run)> {
    let known: BTreeSet<&Name> = runs.iter().map(|run| &run.run).collect();
    let mut below: BTreeMap<Option<&Name>, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        below.entry(run.parent.as_ref().filter(|parent| known.contains(parent))).or_default().push(run);
    }
    let (mut walk, mut next) = (Vec::new(), below.remove(&None).unwrap_or_default());
    next.reverse();
    let mut next: Vec<_> = next.into_iter().map(|run| (0, run)).collect();
    while let Some((depth, run)) = next.pop() {
        walk.push((depth, run));
        let children = below.remove(&Some(&run.run)).unwrap_or_default();
        next.extend(children.into_iter().rev().map(|child| (depth + 1, child)));
    }
    walk
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn children_stand_below_their_parents() {
        let run = |name: &str, parent: Option<&str>| json!({"run": name, "parent": parent, "attempt": 1, "status": "completed", "lease_ms": 1});
        let session = json!({"now": 0, "runs": [run("b", Some("z")), run("c", Some("b")), run("q", Some("gone")), run("z", None)]});
        let (runs, _) = read(&session).unwrap();
        let walk: Vec<_> = tree(&runs).into_iter().map(|(depth, run)| (depth, run.run.as_str())).collect();
        assert_eq!(walk, [(0, "q"), (0, "z"), (1, "b"), (2, "c")]);
    }

    #[test]
    fn the_table_says_what_is_left() {
        let session = json!({"now": 10_000, "runs": [
            {"run": "r1", "agent": "writer", "attempt": 2, "status": "running", "lease_ms": 30_000, "lease_until": 38_250},
            {"run": "r2", "attempt": 1, "status": "stopping", "lease_ms": 30_000, "lease_until": 38_250, "grace_ms": 5_000},
            {"run": "r3", "attempt": 1, "status": "lost", "lease_ms": 30_000},
        ]});
        let (runs, now) = read(&session).unwrap();
        assert_eq!(
            table(&runs, now),
            "RUN  AGENT   ATTEMPT  STATUS    LEFT\n\
             r1   writer  2        running   28.2 s of 30.0 s\n\
             r2   -       1        stopping  5.0 s to stop\n\
             r3   -       1        lost      -\n"
        );
    }
}
