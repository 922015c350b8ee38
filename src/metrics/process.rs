//! What the operating system knows of this process, under the names that Prometheus's own clients use. Linux only;
//! elsewhere nothing is told.

use std::fs;

use crate::descriptors;

/// One look.
pub struct Process {
    pub start_time_seconds: f64,
    pub resident_bytes: f64,
    pub open_fds: f64,
    pub max_fds: f64,
    pub cpu_seconds: f64,
}

/// `USER_HZ`: what the kernel tells times in, 100 on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// `None` where there is no `/proc`.
pub fn look() -> Option<Process> {
    // proc(5). The name of the program, in parentheses, may have spaces; fields are counted from behind it.
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    let (user, system, started) = (ticks(14)?, ticks(15)?, ticks(22)?);
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident_kib: f64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Process {
        start_time_seconds: booted + started,
        resident_bytes: resident_kib * 1024.0,
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        max_fds: descriptors::limit().map_or(f64::INFINITY, |limit| limit as f64),
        cpu_seconds: user + system,
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
