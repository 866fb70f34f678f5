//! The house rules that a compiler does not know, as tests: layers, sizes, module comments, and
//! words that do not belong. It reads src/ as text, needs nothing but the standard library, and
//! first proves on made-up sources that it would catch each kind of violation.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 700;
/// Test modules may be longer: they are read one test at a time.
const TESTS_FILE_LINES_MAX: usize = 1500;
const FUNCTION_LINES_MAX: usize = 70;
/// rustfmt wraps at 100; what it cannot wrap (texts, tables) may be a little longer.
const LINE_COLUMNS_MAX: usize = 120;

/// Every room of src/ and the rooms that it may name after `crate::`. A room may always name
/// itself. The order is the order of the layers: a room names only rooms above its own line, which
/// a test checks. A room that is missing here is a violation.
const LAYERS: &[(&str, &[&str])] = &[
    // Real or modelled locks and atomics, and the clock.
    ("primitives", &[]),
    // The timeout thread serves pool and buffer, and knows neither.
    ("timeouts", &["primitives"]),
    // The heart: no Postgres, no sockets, no clock, no tasks.
    ("pool", &["primitives", "timeouts"]),
    ("buffer", &["primitives", "timeouts"]),
    // Pure bytes, then pure exchanges made of them.
    ("protocol", &["primitives"]),
    ("auth", &["primitives", "protocol"]),
    // The only spawner: everything that waits for a task or a thread gets it from here.
    ("tasks", &["primitives"]),
    // Raw settings in, typed settings out.
    ("config", &["primitives", "protocol", "auth"]),
    // Sockets and buffers: bytes in motion, no meaning.
    ("net", &["primitives", "protocol", "tasks", "config"]),
    // Counters, logs and metrics; written to by all rooms below, so it names no room that serves.
    ("observe", &["primitives", "protocol", "tasks", "config"]),
    ("server", &BELOW_SERVER),
    ("cluster", &BELOW_CLIENT),
    ("listen", &BELOW_CLIENT),
    ("client", &BELOW_ADMIN),
    ("admin", &BELOW_APP),
    // The composition root sees everything but the command line.
    ("app", &BELOW_CLI),
    ("cli", &ALL_BUT_CLI),
];
const BELOW_SERVER: [&str; 10] = [
    "primitives",
    "timeouts",
    "pool",
    "buffer",
    "protocol",
    "auth",
    "tasks",
    "config",
    "net",
    "observe",
];
const BELOW_CLIENT: [&str; 11] = with(BELOW_SERVER, "server");
const BELOW_ADMIN: [&str; 13] = with(with(BELOW_CLIENT, "cluster"), "listen");
const BELOW_APP: [&str; 14] = with(BELOW_ADMIN, "client");
const BELOW_CLI: [&str; 15] = with(BELOW_APP, "admin");
const ALL_BUT_CLI: [&str; 16] = with(BELOW_CLI, "app");

const fn with<const N: usize, const M: usize>(
    rooms: [&'static str; N],
    more: &'static str,
) -> [&'static str; M] {
    assert!(M == N + 1);
    let mut all = [more; M];
    let mut i = 0;
    while i < N {
        all[i] = rooms[i];
        i += 1;
    }
    all
}

/// A word that code may not use, where, and why.
struct Ban {
    word: &'static str,
    /// Prefixes of paths below src/ that it is banned in; "" is everywhere.
    within: &'static [&'static str],
    /// Prefixes of paths below src/ that may use it all the same.
    except: &'static [&'static str],
    reason: &'static str,
}

/// Rooms that get the time as an argument, so that tests and models can turn the clock.
const TIMELESS: &[&str] = &["pool/", "timeouts/", "protocol/", "auth/", "buffer/"];
/// tasks.rs owns all tasks and threads; the timeout thread and the children of a throw-away
/// cluster have owners of their own, which join or wait for them.
const SPAWNERS: &[&str] = &["tasks.rs", "timeouts/", "cli/throwaway/"];

const fn ban(word: &'static str, except: &'static [&'static str], reason: &'static str) -> Ban {
    Ban {
        word,
        within: &[""],
        except,
        reason,
    }
}

const BANS: &[Ban] = &[
    ban(
        "tokio::spawn",
        SPAWNERS,
        "only tasks.rs spawns: a task needs an owner that joins it",
    ),
    ban(
        "thread::spawn",
        SPAWNERS,
        "only tasks.rs spawns: a thread needs an owner that joins it",
    ),
    ban("spawn_blocking", SPAWNERS, "only tasks.rs spawns"),
    ban("spawn_local", SPAWNERS, "only tasks.rs spawns"),
    ban(
        ".spawn(",
        SPAWNERS,
        "only tasks.rs spawns; call its functions",
    ),
    Ban {
        word: "Instant::now",
        within: TIMELESS,
        except: &[],
        reason: "time is an argument here",
    },
    Ban {
        word: "SystemTime::now",
        within: TIMELESS,
        except: &[],
        reason: "time is an argument here",
    },
    ban(
        "process::exit",
        &["main.rs"],
        "only main ends the process, or drops are skipped",
    ),
    ban(
        "process::abort",
        &[],
        "nothing ends the process, or drops are skipped",
    ),
    ban(
        ".unwrap()",
        &[],
        "use `?`, or expect(\"BUG: ...\") for an invariant",
    ),
    ban("todo!", &[], "finish it"),
    ban("unimplemented!", &[], "finish it"),
    ban("FIXME", &[], "finish it"),
    ban("dbg!", &[], "a debugging aid"),
    ban(
        "println!",
        &["cli/", "main.rs"],
        "the log is the only output of a server",
    ),
    ban(
        "print!",
        &["cli/", "main.rs"],
        "the log is the only output of a server",
    ),
];
