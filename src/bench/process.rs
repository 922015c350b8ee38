//! What processes take of the machine, read from `/proc`.

use serde::Serialize;

/// Clock ticks a second in `/proc`: a constant of the Linux interface on all usual architectures.
const TICKS: f64 = 100.0;

/// Resident bytes of processes together, if all are there.
pub fn resident(pids: &[u32]) -> Option<u64> {
    pids.iter()
        .map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
        })
        .sum()
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
        let of = |pid: &str| -> Option<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The second field is a name in parentheses that may hold spaces; utime and stime are the 14th and 15th.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).map(|ticks| ticks.parse::<f64>().ok());
            Some((fields.next()?? + fields.next()??) / TICKS)
        };
        let each: Vec<_> = pids.iter().map(|pid| of(&pid.to_string()).unwrap_or(0.0)).collect();
        Cpu { load: of("self").unwrap_or(0.0), loaded: each.iter().sum(), each }
    }

    /// What was taken since an earlier time.
    pub fn since(self, earlier: Cpu) -> Self {
        let each = self.each.iter().zip(&earlier.each).map(|(now, earlier)| now - earlier).collect();
        Cpu { load: self.load - earlier.load, loaded: self.loaded - earlier.loaded, each }
    }
}
