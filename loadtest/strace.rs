//! System calls counted by `strace -c -f`, attached to a running tree of processes.
//!
//! It must not know why they are counted. The parser is pure.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pgbaton::cli::throwaway::{Ending, Job, Supervised, log_tail};
use rustix::process::Signal;

use crate::{Fallible, procfs};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Short, because what happens between the attachment and our noticing it is counted as nobody's.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    pub name: String,
    pub calls: u64,
    /// Mostly EAGAIN: a read that found nothing.
    pub errors: u64,
}

/// Reads the table of `strace -c`; the line of totals is left out.
pub fn parse_table(text: &str) -> Vec<Calls> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Calls> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.first()?.parse::<f64>().ok()?;
    let name = (*words.last()?).to_owned();
    let calls = words.get(3)?.parse().ok()?;
    let errors = if words.len() == 6 { words[4].parse().ok()? } else { 0 };
    (words.len() >= 5 && name != "total").then_some(Calls { name, calls, errors })
}

/// Where strace is.
pub fn find() -> Option<PathBuf> {
    crate::contestant::in_path("strace")
}

/// An attached strace. Dropping it detaches.
pub struct Strace {
    process: Supervised,
    table: PathBuf,
    /// When the counting began.
    pub since: SystemTime,
}

impl Strace {
    /// Attaches to `root` and its descendants, and waits until it is done.
    pub fn attach(program: &Path, root: u32, folder: &Path) -> Fallible<Self> {
        let table = folder.join("strace.table");
        let log = folder.join("strace.log");
        // Both are of an earlier count.
        for old in [&table, &log] {
            if old.exists() {
                fs::remove_file(old)?;
            }
        }
        let mut arguments: Vec<std::ffi::OsString> =
            ["-c", "-f", "-o"].map(Into::into).into_iter().collect();
        arguments.push(table.clone().into());
        for pid in procfs::tree(root)? {
            arguments.extend(["-p".into(), pid.to_string().into()]);
        }
        let mut process = Supervised::start(&Job {
            program: program.to_owned(),
            arguments,
            environment: Vec::new(),
            folder: folder.to_owned(),
            log: log.clone(),
            user: None,
            ending: Ending::Terminate,
            remove: None,
        })?;
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        while !fs::read_to_string(&log)?.contains(" attached") {
            if process.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("strace does not attach: {}", log_tail(&log)).into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(Self { process, table, since: SystemTime::now() })
    }

    /// Detaches: when the counting ended, and what was counted.
    pub fn detach(mut self) -> Fallible<(SystemTime, Vec<Calls>)> {
        let until = SystemTime::now();
        self.process.stop(Signal::TERM)?;
        let calls = parse_table(&fs::read_to_string(&self.table)?);
        if calls.is_empty() { Err("strace counted nothing".into()) } else { Ok((until, calls)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 54.48    0.039478           3     10531        12 recvfrom
 45.52    0.032985           3     10519           sendto
  0.00    0.000000           0         1           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.072463           3     21051        12 total
";

    #[test]
    fn a_table_is_read_with_and_without_errors() {
        let calls = |name: &str, calls, errors| Calls { name: name.to_owned(), calls, errors };
        let expected =
            [calls("recvfrom", 10531, 12), calls("sendto", 10519, 0), calls("epoll_wait", 1, 0)];
        assert_eq!(parse_table(TABLE), expected);
    }

    #[test]
    fn words_that_are_no_table_are_nothing() {
        assert_eq!(parse_table("strace: attach: Operation not permitted\n\n"), []);
    }
}
