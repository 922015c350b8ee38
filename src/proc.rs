//! What the operating system knows of a process, from `/proc`. Linux only; elsewhere nothing is known.

use std::{fmt::Display, fs};

/// `USER_HZ`: what the kernel tells times in, 100 on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// When a process runs.
pub(crate) struct Times {
    /// What it has used of processors, in seconds.
    pub cpu: f64,
    /// When it started, in seconds since the machine did.
    pub started: f64,
}

/// Of this process (`self`) or another.
pub(crate) fn times(pid: impl Display) -> Option<Times> {
    // proc(5). The name of the program, in parentheses, may have spaces; fields are counted from behind it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    let (user, system, started) = (seconds(14)?, seconds(15)?, seconds(22)?);
    Some(Times { cpu: user + system, started })
}

/// The bytes of memory that this process (`self`) or another holds.
pub(crate) fn resident(pid: impl Display) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
