//! What an agent learns of others, as everybody does: by reading the session.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{
    agent::{Halt, Workplace},
    role::Role,
};
use crate::{
    client::{Follow, FollowOptions, Update},
    desk::finding::Finding,
    event::Head,
    id::Lane,
};

/// An agent that reads the plan starts at once; one that has not after this long is not there.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// What the session says of one agent.
#[derive(Debug, Default)]
pub(super) struct Report {
    started: bool,
    /// Its last finding.
    pub finding: Option<Finding>,
    /// How its run ended.
    pub status: Option<String>,
}

/// Some agents, followed from the beginning of the session.
pub(super) struct Watch {
    session: Follow,
    reports: BTreeMap<Role, Report>,
    deadline: Instant,
    late: bool,
}

impl Watch {
    /// Of these agents.
    pub fn of(place: &Workplace, roles: &[Role]) -> Watch {
        let options = FollowOptions {
            runs: roles.iter().map(|role| role.run()).collect(),
            types: ["run.started", "finding", "run.ended"].map(str::to_owned).to_vec(),
            ..FollowOptions::default()
        };
        Watch {
            session: place.client.follow(&place.session, Lane::Events, options),
            reports: roles.iter().map(|&role| (role, Report::default())).collect(),
            deadline: Instant::now() + START_PATIENCE,
            late: false,
        }
    }

    /// Reads until each of them has found something; or will not, since its run has ended or never began. The gateway ends
    /// the run of an agent that is dead, so there is an end to wait for. Can be given up and called again.
    pub async fn found(&mut self) -> Result<(), Halt> {
        self.until(|report| report.finding.is_some() || report.status.is_some()).await
    }

    /// Reads until each of them has ended its run, or has not even begun one. As [`Watch::found`].
    pub async fn ended(&mut self) -> Result<(), Halt> {
        self.until(|report| report.status.is_some()).await
    }

    async fn until(&mut self, done: impl Fn(&Report) -> bool) -> Result<(), Halt> {
        while !self.reports.values().all(|report| done(report) || (self.late && !report.started)) {
            tokio::select! {
                update = self.session.next() => match update.transpose()? {
                    Some(Update::Entry(entry)) => {
                        if let Some(head) = entry.head() {
                            note(&mut self.reports, &head);
                        }
                    }
                    Some(_) => {}
                    None => return Err(Halt::Over("the session was closed".into())),
                },
                () = sleep_until(self.deadline), if !self.late => self.late = true,
            }
        }
        Ok(())
    }

    /// What is known of one.
    pub fn report(&self, role: Role) -> Option<&Report> {
        self.reports.get(&role)
    }

    /// The figures that one has found.
    pub fn figures<T: DeserializeOwned>(&self, role: Role) -> Option<T> {
        let figures = &self.reports.get(&role)?.finding.as_ref()?.figures;
        T::deserialize(figures).ok()
    }

    /// Those that ended, or never began, without a finding; and how.
    pub fn missing(&self) -> Vec<(Role, &'static str)> {
        self.reports.iter().filter_map(|(&role, report)| Some((role, report.lack()?))).collect()
    }
}

impl Report {
    /// What is wrong with its run, if something is. One without a finding is incomplete however it ended.
    pub fn lack(&self) -> Option<&'static str> {
        match self.status.as_deref() {
            Some("completed") if self.finding.is_some() => None,
            Some("cancelled") => Some("was stopped early"),
            Some("lost") => Some("fell silent and is lost"),
            Some(_) => Some("did not get to the end"),
            None if !self.started => Some("never began"),
            None if self.finding.is_some() => None,
            None => Some("is still at work"),
        }
    }
}

fn note(reports: &mut BTreeMap<Role, Report>, head: &Head) {
    let Some((_, report)) = reports.iter_mut().find(|(role, _)| head.run == Some(role.run().as_str())) else { return };
    let data: Value = head.data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    match head.kind {
        // Also when another attempt goes on with what one had to leave.
        "run.started" => (report.started, report.status) = (true, None),
        // Somebody else may write what is none.
        "finding" => report.finding = Finding::deserialize(data).ok().or(report.finding.take()),
        "run.ended" => report.status = data["status"].as_str().map(str::to_owned),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &[&str]) -> BTreeMap<Role, Report> {
        let mut reports = BTreeMap::from([Role::Reactivation, Role::Pipeline].map(|role| (role, Report::default())));
        for json in log {
            note(&mut reports, &Head::of(json.as_bytes()).expect("an entry"));
        }
        reports
    }

    #[test]
    fn it_is_known_who_was_stopped_lost_or_never_there() {
        let reports = told(&[
            r#"{"type":"run.started","run":"r1","data":{"attempt":1}}"#,
            r#"{"type":"run.ended","run":"r1","data":{"attempt":1,"status":"lost"}}"#,
        ]);
        assert_eq!(reports[&Role::Reactivation].lack(), Some("fell silent and is lost"));
        assert_eq!(reports[&Role::Pipeline].lack(), Some("never began"));
    }

    #[test]
    fn a_further_attempt_is_waited_for() {
        let reports = told(&[
            r#"{"type":"run.ended","run":"r1","data":{"attempt":1,"status":"lost"}}"#,
            r#"{"type":"run.started","run":"r1","data":{"attempt":2}}"#,
        ]);
        assert_eq!(reports[&Role::Reactivation].status, None);
    }

    #[test]
    fn a_finding_counts_although_its_run_is_not_over_and_nonsense_does_not_replace_it() {
        let reports = told(&[
            r#"{"type":"run.started","run":"r3","data":{"attempt":1}}"#,
            r#"{"type":"finding","run":"r3","data":{"title":"t","figures":{"n":1},"parts":[{"text":"x"}]}}"#,
            r#"{"type":"finding","run":"r3","data":"nonsense"}"#,
        ]);
        let report = &reports[&Role::Pipeline];
        assert_eq!(report.finding.as_ref().map(|finding| &finding.figures["n"]), Some(&Value::from(1)));
        assert_eq!(report.lack(), None);
    }
}
