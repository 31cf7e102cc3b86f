//! What a process used, from Linux's `/proc`: CPU-seconds and the largest resident memory.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Result;

/// `/proc` counts time in hundredths of a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// `/proc` counts memory in these.
const KIB_PER_MIB: f64 = 1024.0;
/// Places of utime, stime, cutime and cstime after the command name in `/proc/PID/stat`.
const OWN_TIMES: [usize; 2] = [11, 12];
const CHILD_TIMES: [usize; 2] = [13, 14];

/// What a stage took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Wall-clock seconds.
    pub(crate) seconds: f64,
    /// CPU-seconds of this process and of the children it waited for, user and system.
    pub(crate) cpu: f64,
    /// Largest resident memory in MiB, where it says something.
    pub(crate) peak_mib: Option<f64>,
    /// CPU-seconds of the server on the other side, where it is a process of this machine.
    pub(crate) server_cpu: Option<f64>,
}

/// Measures from [`Meter::start`] to [`Meter::stop`].
#[derive(Debug)]
pub(crate) struct Meter {
    begun: Instant,
    cpu: f64,
    server: Option<u32>,
    server_cpu: Option<f64>,
}

impl Meter {
    /// Starts, with the process id of the server to watch.
    pub(crate) fn start(server: Option<u32>) -> Result<Self> {
        let server_cpu = server.and_then(cpu_seconds);
        Ok(Self { begun: Instant::now(), cpu: own_cpu_seconds()?, server, server_cpu })
    }

    /// What was used since the start; the memory is that of the whole life of this process.
    pub(crate) fn stop(self) -> Result<Usage> {
        let server_cpu = self.server.and_then(cpu_seconds).zip(self.server_cpu);
        Ok(Usage {
            seconds: self.begun.elapsed().as_secs_f64(),
            cpu: own_cpu_seconds()? - self.cpu,
            peak_mib: peak_mib(std::process::id()),
            server_cpu: server_cpu.map(|(after, before)| after - before),
        })
    }
}

/// CPU-seconds of another process; `None` if it is not there.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    times(&pid.to_string(), &OWN_TIMES)
}

/// The same, if the process is called `name`: a server in a container has a number that means
/// another process here.
pub(crate) fn cpu_seconds_of(pid: u32, name: &str) -> Option<f64> {
    let called = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (called.trim_end() == name).then(|| cpu_seconds(pid)).flatten()
}

/// The largest resident memory that a running process has had, in MiB.
pub(crate) fn peak_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / KIB_PER_MIB)
}

fn own_cpu_seconds() -> Result<f64> {
    let own = times("self", &OWN_TIMES).zip(times("self", &CHILD_TIMES));
    own.map(|(own, children)| own + children).ok_or_else(|| "cannot read /proc/self/stat".into())
}

fn times(process: &str, places: &[usize]) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the command may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = places.iter().map(|place| fields.get(*place)?.parse::<f64>().ok());
    ticks.sum::<Option<f64>>().map(|ticks| ticks / TICKS_PER_SECOND)
}
