//! File descriptors: each connection takes one, so how many a process may have is how many streams it can bear.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a gateway needs besides those of its streams: connections to Redis, listeners, files, and other requests.
pub const OTHERS: u64 = 100;

/// How many this process may have. `None`: any number.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Allows this process as many as it can allow itself, and says how many. The usual 1,024 is a courtesy to programs that wait with
/// `select`, which knows no more; nothing here does.
pub fn raise() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    // Some systems take no "any number". There it stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    limit()
}
