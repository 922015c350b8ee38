//! A Lua script, run by its digest.

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value, aio::ConnectionLike};

/// A script and its digest.
pub struct Script {
    body: String,
    sha: String,
}

impl Script {
    pub fn new(body: String) -> Self {
        let sha = redis::Script::new(&body).get_hash().to_owned();
        Script { body, sha }
    }

    /// Runs the script by its digest, and by its text where Redis does not have it (a first use, a flush, a restart).
    /// `arguments` begin with the number of keys.
    pub async fn run(&self, connection: &mut impl ConnectionLike, arguments: impl Fn(&mut Cmd)) -> RedisResult<Value> {
        let command = |name: &str, script: &str| {
            let mut cmd = redis::cmd(name);
            cmd.arg(script);
            arguments(&mut cmd);
            cmd
        };
        match command("EVALSHA", &self.sha).query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                command("EVAL", &self.body).query_async(connection).await
            }
            reply => reply,
        }
    }
}
