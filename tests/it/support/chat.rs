//! The back end of the chat in `examples/chat`, as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::{
    gateway::{Answer, answer},
    http,
};

/// A running back end, on a free port. Killed when dropped; the agents that it started go on to their end.
pub struct BackEnd {
    child: Child,
    /// Where its pages are.
    pub origin: String,
}

impl BackEnd {
    pub fn start(gateway: &str, secret_file: &Path, more: &[&str]) -> BackEnd {
        let mut command = Command::new("python3");
        command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/chat/chat.py"));
        command.args(["--port", "0", "--gateway", gateway, "--secret-file"]).arg(secret_file).args(more);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut line = String::new();
        let said = BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line);
        let said = said.map(|_| line.trim_end().strip_prefix("chat: open ").and_then(|url| url.strip_suffix('/')));
        let origin = said.expect("its output").unwrap_or_else(|| panic!("{command:?} said {line:?}")).to_owned();
        BackEnd { child, origin }
    }

    /// A user's words, under an id.
    pub async fn say(&self, chat: &str, id: &str, text: &str) -> Answer {
        let url = format!("{}/chats/{chat}/messages", self.origin);
        answer(http().post(url).json(&json!({"id": id, "text": text}))).await
    }

    /// What a page gets to follow a chat with.
    pub async fn token(&self, chat: &str) -> String {
        let given = answer(http().get(format!("{}/chats/{chat}/token", self.origin))).await.is(200);
        given["token"].as_str().expect("a token").to_owned()
    }

    /// Ends it at once.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.kill9();
    }
}
