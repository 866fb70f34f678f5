//! What the kernel knows of a tree of processes: processor time, context switches, memory.
//!
//! It must not know whose processes they are. The parsers are pure. Processor time holds what ended
//! children left to their parents, so the difference of two looks never misses any; it comes in
//! clock ticks (mostly 10 ms), so a window should be long. Context switches of threads that ended
//! between two looks are lost.

use std::fs;
use std::io;
use std::path::Path;

/// The part of /proc/PID/stat that counts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: u32,
    /// In user and kernel mode.
    pub own_ticks: u64,
    /// Of its children that have ended and been waited for.
    pub ended_children_ticks: u64,
}

/// One look at a tree of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_us: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    pub rss_bytes: u64,
}

impl Usage {
    /// What was used since `earlier`; the memory is that of now.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: self.cpu_us.saturating_sub(earlier.cpu_us),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(earlier.involuntary_switches),
            rss_bytes: self.rss_bytes,
        }
    }
}

/// Reads the text of /proc/PID/stat. The program's name, in parentheses, may hold anything.
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Field 3 of the manual is index 0 here: 4 is the parent, 14 to 17 are the times.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: ticks(11)? + ticks(12)?,
        ended_children_ticks: ticks(13)? + ticks(14)?,
    })
}

/// The number behind `name` in a text like /proc/PID/status.
pub fn status_number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Reads the text of /proc/stat: processor time of the whole machine that was not idle, in ticks. Time
/// that a hypervisor gave to others counts: it was not to be had here.
pub fn parse_machine_ticks(text: &str) -> Option<u64> {
    let fields: Vec<u64> = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user.
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = *fields.first_chunk()?;
    Some(user + nice + system + irq + softirq + steal)
}

/// The processor time that all of the machine has spent.
pub fn machine_cpu_us() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    Ok(microseconds(parse_machine_ticks(&text).unwrap_or(0)))
}

/// `root` and all its descendants that are alive.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end between the two looks.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        parents.extend(stat.and_then(|text| parse_stat(&text)).map(|stat| (pid, stat.parent)));
    }
    Ok(descendants(root, &parents))
}

/// `parents` holds (process, its parent).
fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// A look at `root` and its descendants.
///
/// # Errors
/// If `root` is gone.
pub fn usage(root: u32) -> io::Result<Usage> {
    fs::metadata(format!("/proc/{root}"))?;
    let mut sum = Usage::default();
    for pid in tree(root)? {
        let folder = format!("/proc/{pid}");
        let Ok(text) = fs::read_to_string(format!("{folder}/stat")) else {
            continue;
        };
        let ticks = |stat: Stat| stat.own_ticks + stat.ended_children_ticks;
        sum.cpu_us += microseconds(parse_stat(&text).map_or(0, ticks));
        let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
        sum.rss_bytes += status_number(&status, "VmRSS").unwrap_or(0) * 1024;
        for status in thread_statuses(Path::new(&folder)) {
            let number = |name| status_number(&status, name).unwrap_or(0);
            sum.voluntary_switches += number("voluntary_ctxt_switches");
            sum.involuntary_switches += number("nonvoluntary_ctxt_switches");
        }
    }
    Ok(sum)
}

/// The processor time of this process alone.
pub fn own_cpu_us() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    Ok(microseconds(parse_stat(&text).map_or(0, |stat| stat.own_ticks)))
}

fn microseconds(ticks: u64) -> u64 {
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

fn thread_statuses(process: &Path) -> Vec<String> {
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    threads.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_of_the_program() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 3 0 5 6 7 8";
        assert_eq!(
            parse_stat(text),
            Some(Stat { parent: 7, own_ticks: 33, ended_children_ticks: 77 })
        );
        assert_eq!(parse_stat("42 (short) S 7 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_machine_s_time_is_that_not_idle() {
        let text = "cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(parse_machine_ticks(text), Some(63));
        assert_eq!(parse_machine_ticks("intr 1 2 3\n"), None);
    }

    #[test]
    fn a_status_number_is_found_by_its_whole_name() {
        let text =
            "VmRSS:\t    1234 kB\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n";
        assert_eq!(status_number(text, "VmRSS"), Some(1234));
        assert_eq!(status_number(text, "voluntary_ctxt_switches"), Some(5));
        assert_eq!(status_number(text, "nonvoluntary_ctxt_switches"), Some(6));
        assert_eq!(status_number(text, "Vm"), None);
    }

    #[test]
    fn descendants_are_children_of_children_and_no_strangers() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (9, 8)];
        let mut found = descendants(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn own_work_shows_as_own_processor_time() {
        let before = usage(std::process::id()).unwrap();
        assert!(before.rss_bytes > 100_000, "{before:?}");
        let began = Instant::now();
        loop {
            let used = usage(std::process::id()).unwrap().since(before);
            if used.cpu_us >= 50_000 {
                break;
            }
            assert!(began.elapsed().as_secs() < 60, "{used:?}");
        }
        assert!(usage(u32::MAX).is_err());
    }
}
