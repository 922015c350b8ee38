//! What processes take of the machine.

use serde::Serialize;

use crate::proc;

/// Resident bytes of processes together, if all are there.
pub fn resident(pids: &[u32]) -> Option<u64> {
    pids.iter().map(proc::resident).sum()
}

/// Whether there is such a process, and it can be looked at.
pub fn is_readable(pid: u32) -> bool {
    resident(&[pid]).is_some()
}

/// CPU time of the load and of what it loads, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Of this process.
    pub load: f64,
    /// Of the processes that were named, together.
    pub loaded: f64,
    /// Of each of them, as they were named.
    pub each: Vec<f64>,
}

impl Cpu {
    /// Since the processes began; those that can't be read count as nothing.
    pub fn now(pids: &[u32]) -> Self {
        let cpu = |times: Option<proc::Times>| times.map_or(0.0, |times| times.cpu);
        let each: Vec<_> = pids.iter().map(|pid| cpu(proc::times(pid))).collect();
        Cpu { load: cpu(proc::times("self")), loaded: each.iter().sum(), each }
    }

    /// What was taken since an earlier time.
    pub fn since(self, earlier: Cpu) -> Self {
        let each = self.each.iter().zip(&earlier.each).map(|(now, earlier)| now - earlier).collect();
        Cpu { load: self.load - earlier.load, loaded: self.loaded - earlier.loaded, each }
    }
}
