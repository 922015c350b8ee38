//! What the operating system knows of this process, under the names that Prometheus's own clients use. Linux only;
//! elsewhere nothing is told.

use std::fs;

use crate::{descriptors, proc};

/// One look.
pub struct Process {
    pub start_time_seconds: f64,
    pub resident_bytes: f64,
    pub open_fds: f64,
    pub max_fds: f64,
    pub cpu_seconds: f64,
}

/// `None` where there is no `/proc`.
pub fn look() -> Option<Process> {
    let times = proc::times("self")?;
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Process {
        start_time_seconds: booted + times.started,
        resident_bytes: proc::resident("self")? as f64,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        max_fds: descriptors::limit().map_or(f64::INFINITY, |limit| limit as f64),
        cpu_seconds: times.cpu,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn this_process_is_known() {
        let process = super::look().expect("a process");
        assert!(
            process.resident_bytes > 1e6
                && process.open_fds >= 3.0
                && process.max_fds >= process.open_fds
                && process.start_time_seconds > 1e9
        );
    }
}
