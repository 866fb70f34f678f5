//! `pgbaton demo`, as a user sees it: it shows its table, and leaves nothing behind, however it
//! ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::pgbaton::eventually;

const PATIENCE: Duration = Duration::from_secs(30);

/// Held by each test that runs a demo: several at a time would starve each other's short runs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A running demo and its output. Ended on drop; its own watchdogs do the rest.
struct Demo {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    output: String,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_pgbaton"))
            .arg("demo")
            .args(["--clients", "12", "--servers", "4", "--scale", "1"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, output: String::new() }
    }

    /// Reads on until a line contains `text`.
    fn read_until(&mut self, text: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.output.push_str(&line);
            self.output.push('\n');
            if line.contains(text) {
                return line;
            }
        }
        panic!("no {text:?} in the demo's output:\n{}", self.output);
    }

    /// The temporary folder that it has made.
    fn read_folder(&mut self) -> PathBuf {
        let line = self.read_until(" runs on 127.0.0.1:");
        line.rsplit_once(" in ").expect("a folder").1.into()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Reads all that is left and waits for the end.
    fn finish(&mut self) -> ExitStatus {
        for line in self.lines.by_ref() {
            self.output.push_str(&line.unwrap());
            self.output.push('\n');
        }
        self.process.wait().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // After a failed assertion; a demo that has ended cannot be killed, which is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processes whose command line or working folder is in `folder`.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there = std::fs::read_link(entry.path().join("cwd"))
            .is_ok_and(|cwd| cwd.to_string_lossy().starts_with(folder));
        if works_there || command.contains(folder) {
            found.push(command);
        }
    }
    found
}

fn assert_nothing_left(folder: &Path) {
    let is_clean = || !folder.exists() && processes_in(folder).is_empty();
    let clean = eventually(PATIENCE, is_clean);
    assert!(clean, "left in {}: {:#?}", folder.display(), processes_in(folder));
}

#[test]
fn once_shows_four_runs_without_failures_and_cleans_up() {
    let _alone = ONE_AT_A_TIME.lock();
    let mut demo = Demo::start(&["--once", "--seconds", "2"]);
    let folder = demo.read_folder();
    assert!(!processes_in(&folder).is_empty(), "the demo's processes can be seen");
    assert!(demo.finish().success(), "{}", demo.output);
    for (run, clients) in [
        ("select-only, direct", "4"),
        ("select-only, pgbaton", "12"),
        ("tpcb-like, direct", "4"),
        ("tpcb-like, pgbaton", "12"),
    ] {
        let mut rows = demo.output.lines().filter_map(|line| line.strip_prefix(run));
        let row = rows.rfind(|rest| rest.starts_with(' '));
        let cells: Vec<&str> = row.expect("a row").split_whitespace().collect();
        assert_eq!((cells[0], cells[5]), (clients, "0"), "clients, failed in {row:?}");
        assert!(cells[1].parse::<f64>().unwrap() > 0.0, "tps in {row:?}");
    }
    assert_nothing_left(&folder);
}

#[test]
fn a_signal_in_the_middle_ends_everything_in_order() {
    let _alone = ONE_AT_A_TIME.lock();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut demo = Demo::start(&["--seconds", "600"]);
        let folder = demo.read_folder();
        demo.read_until("select-only, direct");
        demo.signal(signal);
        assert_eq!(demo.finish().code(), Some(code), "{}", demo.output);
        assert!(demo.output.contains("Interrupted"), "{}", demo.output);
        assert_nothing_left(&folder);
    }
}

#[test]
fn a_killed_demo_leaves_nothing_either() {
    let _alone = ONE_AT_A_TIME.lock();
    let mut demo = Demo::start(&["--seconds", "600"]);
    let folder = demo.read_folder();
    demo.read_until("select-only, direct");
    demo.signal(Signal::KILL);
    demo.finish();
    assert_nothing_left(&folder);
}

#[test]
fn it_stays_up_until_a_signal_and_says_how_to_connect() {
    let _alone = ONE_AT_A_TIME.lock();
    let mut demo = Demo::start(&["--seconds", "2"]);
    let folder = demo.read_folder();
    demo.read_until("psql -h 127.0.0.1");
    demo.read_until("show pools");
    demo.signal(Signal::INT);
    assert!(demo.finish().success(), "{}", demo.output);
    assert_nothing_left(&folder);
}

#[test]
fn without_postgres_it_says_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pgbaton"))
        .args(["demo", "--pg-bin", folder])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("initdb") && said.contains("postgresql"), "{said}");
}
