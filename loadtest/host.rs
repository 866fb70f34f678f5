//! What a figure is worth nothing without: the machine, the versions, the moment.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::procfs::status_number;

/// The machine and the moment of a run.
#[derive(Debug, Clone)]
pub struct Host {
    pub cores: usize,
    pub cpu_model: String,
    pub kernel: String,
    pub memory_gb: u64,
    /// Of the last minute before the run: others who were at work.
    pub load_average: String,
    /// UTC.
    pub date: String,
    pub commit: String,
}

impl Host {
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory_kb = status_number(&read("/proc/meminfo"), "MemTotal").unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu_model: cpu_model(&read("/proc/cpuinfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gb: (memory_kb + (1 << 19)) >> 20,
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or("?").to_owned(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: commit(),
        }
    }

    /// The name of the folder of results: YYYY-MM-DD-HHMM.
    pub fn folder_name(&self) -> String {
        folder_name(&self.date)
    }
}

fn folder_name(rfc3339: &str) -> String {
    let minutes: String = rfc3339.chars().take("YYYY-MM-DDTHH:MM".len()).collect();
    minutes.replace('T', "-").replace(':', "")
}

fn cpu_model(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

/// The commit, and whether the files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, with changes"),
    }
}

/// Raises the limit of open files as far as it goes; children inherit it. The limit then.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If it is refused, the old limit is what is told and reckoned with.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_named_by_the_minute() {
        assert_eq!(folder_name("2031-02-03T04:05:06Z"), "2031-02-03-0405");
    }

    #[test]
    fn the_model_is_found_among_other_lines() {
        let text = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU @ 3 GHz\n";
        assert_eq!(cpu_model(text), "Some CPU @ 3 GHz");
        assert_eq!(cpu_model(""), "unknown");
    }
}
