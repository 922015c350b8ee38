//! The agents' processes, as the demo starts, watches and ends them.
//!
//! They are all children of the demo, not of each other: a frozen orchestrator holds nothing that the others need. None
//! outlives the demo. It kills them when it ends, and when it can't (`kill -9`), their standard input ends, which they
//! watch; and since each is a process group of its own, the system wakes and hangs up one that is frozen then.

use std::{
    collections::BTreeMap,
    env,
    process::{ExitStatus, Stdio},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};

use super::{Input, agent::Workplace, process::AgentArgs, role::Role};
use crate::cli::{Failure, output};

/// All agents of the demo.
pub(super) struct Team(BTreeMap<Role, Member>);

struct Member {
    role: Role,
    pid: u32,
    process: Child,
    /// Open for as long as the demo lives.
    stdin: ChildStdin,
}

impl Team {
    /// Starts the processes. They wait for their book.
    pub fn start(place: &Workplace) -> Result<Team, Failure> {
        let members: Result<_, Failure> =
            Role::ALL.into_iter().map(|role| Ok((role, Member::start(role, place)?))).collect();
        members.map(Team)
    }

    /// An agent's process.
    pub fn pid(&self, role: Role) -> u32 {
        self.0[&role].pid
    }

    /// Hands out the book, and waits until all agents have left.
    pub async fn work(&mut self, input: &Input) {
        let line = format!("{}\n", json!(input));
        join_all(self.0.values_mut().map(|member| member.work(&line))).await;
    }

    /// Kills who is still there. Also those that are frozen.
    pub async fn dismiss(mut self) {
        join_all(self.0.values_mut().map(|member| member.process.kill())).await;
    }
}

impl Member {
    fn start(role: Role, place: &Workplace) -> Result<Member, Failure> {
        let failed = |why: std::io::Error| Failure::Other(format!("cannot start the {role}: {why}"));
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        command.args(AgentArgs::to_command_line(role, place));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        // Ctrl-C in the terminal is for the demo alone, which knows how to end them.
        command.process_group(0);
        let mut process = command.spawn().map_err(failed)?;
        let (Some(stdin), Some(pid)) = (process.stdin.take(), process.id()) else {
            return Err(Failure::Other(format!("the {role} ended at once")));
        };
        Ok(Member { role, pid, process, stdin })
    }

    async fn work(&mut self, line: &str) {
        // A process that is dead already shows in how it ended.
        let _ = self.stdin.write_all(line.as_bytes()).await;
        match self.process.wait().await {
            Ok(status) if !status.success() => self.tell(status),
            _ => {}
        }
    }

    fn tell(&self, status: ExitStatus) {
        output::notice(format_args!("the {} (process {}) is gone: {status}", self.role, self.pid));
    }
}
