//! Tests that need a tool which is not there.
//!
//! Such a test does not pass: it is counted as skipped where somebody counts (`./dev test` names a file
//! for it by PGBATON_SKIPS), and fails where nobody does.

use std::fs::OpenOptions;
use std::io::Write;

/// The file that takes a line for each skipped test.
const SKIPS: &str = "PGBATON_SKIPS";

/// The tool, or `None` once the test `test` was reported as skipped.
pub fn or_skip<T>(test: &str, tool: Result<T, String>) -> Option<T> {
    let reason = match tool {
        Ok(tool) => return Some(tool),
        Err(reason) => reason,
    };
    let Some(file) = std::env::var_os(SKIPS) else {
        panic!("{reason}. Run ./dev setup, or ./dev test, which counts skipped tests");
    };
    let line = format!("{test}: {reason}\n");
    // Past the capture of the test harness, which would hide it.
    let _ = std::io::stderr().write_all(format!("\nSKIPPED {line}").as_bytes());
    let file = OpenOptions::new().create(true).append(true).open(file);
    file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    None
}
