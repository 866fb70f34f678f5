//! The house rules that a compiler does not know, as tests: layers, sizes, module comments, and
//! words that do not belong. It reads the sources as text, needs nothing but the standard library,
//! and proves on made-up sources that it would catch each kind of violation.

#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/seeded.rs"]
mod seeded;

use std::fs;
use std::path::Path;

use lexer::{code_only, functions, imports, without_tests};

const FILE_LINES_MAX: usize = 700;
/// Test modules may be longer: they are read one test at a time.
const TESTS_FILE_LINES_MAX: usize = 1500;
const FUNCTION_LINES_MAX: usize = 70;
/// rustfmt wraps at 100; what it cannot wrap (texts, tables) may be a little longer.
const LINE_COLUMNS_MAX: usize = 120;

/// The rooms of src/, top-down, and what each may name after `crate::` apart from itself. A room
/// names only rooms above its own line; one that is missing here is a violation.
#[rustfmt::skip]
const LAYERS: &[(&str, &str)] = &[
    // Real or modelled locks and atomics, and the clock.
    ("primitives", ""),
    // Timeouts serve the pool and know it only by a trait; the heart knows no Postgres, sockets,
    // clocks or tasks; the request buffer is as generic.
    ("timeouts", "primitives"),
    ("pool", "primitives timeouts"),
    ("buffer", "primitives timeouts"),
    // Pure bytes, then pure exchanges made of them.
    ("protocol", "primitives"),
    ("auth", "protocol"),
    // The only spawner: who needs a task or a thread gets it here.
    ("tasks", "primitives"),
    // From raw to typed settings. Pure, so that `check` can run without a pooler.
    ("config", "protocol auth"),
    // Sockets and scratch buffers: bytes in motion.
    ("net", "primitives protocol tasks config"),
    // Logs and counters: written to by what follows, so it names none of it.
    ("observe", "primitives tasks config net"),
    // What the system thinks of this process. Done before there are threads.
    ("process", "config"),
    // One server connection, what is known of the servers, then one client session.
    ("server", "primitives timeouts pool buffer protocol auth tasks config net observe"),
    ("cluster", "primitives timeouts pool buffer protocol auth tasks config net observe server"),
    ("listen", "primitives timeouts pool protocol auth tasks config net observe server cluster"),
    ("client", "primitives timeouts pool buffer protocol auth tasks config net observe server \
                cluster listen"),
    // The console shows and steers all of the above, and does no client's work.
    ("admin", "primitives timeouts pool buffer protocol auth tasks config net observe server \
               cluster listen client"),
    // The composition root, and the command line around it.
    ("app", "primitives timeouts pool buffer protocol auth tasks config net observe process \
             server cluster listen client admin"),
    ("cli", "primitives protocol auth tasks config net observe app"),
    // Only what ties the rest together.
    ("lib", ""),
    ("main", "cli"),
];

/// Text that code may not contain, outside tests.
struct Ban {
    text: &'static str,
    /// Where it is banned: prefixes of paths below src/.
    within: &'static [&'static str],
    /// Where it may be used all the same, and why.
    except: &'static [(&'static str, &'static str)],
    /// What to do instead.
    instead: &'static str,
}

const EVERYWHERE: &[&str] = &[""];
/// Rooms that get the time as an argument, so that tests and models can turn the clock.
const TIMELESS: &[&str] = &["pool/", "timeouts/", "buffer/", "protocol/", "auth/"];
const SPAWNERS: &[(&str, &str)] = &[
    ("tasks.rs", "it is the spawner"),
    ("timeouts/", "one named thread, joined by its owner; the room may not name tasks"),
    ("cli/throwaway/", "child processes, each ended and waited for by its guard"),
    ("primitives/", "starts the thread of timeouts/, or its model"),
];
const PRINTERS: &[(&str, &str)] =
    &[("cli/", "its output is for the user"), ("main.rs", "it reports the last error")];

const fn ban(
    text: &'static str,
    except: &'static [(&'static str, &'static str)],
    instead: &'static str,
) -> Ban {
    Ban { text, within: EVERYWHERE, except, instead }
}

#[rustfmt::skip]
const BANS: &[Ban] = &[
    ban("tokio::spawn", SPAWNERS, "call crate::tasks: a task has an owner that joins it"),
    ban("thread::spawn", SPAWNERS, "call crate::tasks: a thread has an owner that joins it"),
    ban("thread::Builder", SPAWNERS, "call crate::tasks: a thread has an owner that joins it"),
    ban("spawn_blocking", SPAWNERS, "call crate::tasks"),
    ban("spawn_local", SPAWNERS, "call crate::tasks"),
    ban("spawn_named", SPAWNERS, "call crate::tasks"),
    ban("handle.spawn(", SPAWNERS, "call crate::tasks"),
    ban(".spawn_on(", SPAWNERS, "call crate::tasks"),
    ban("Handle::current", SPAWNERS, "call crate::tasks"),
    ban("JoinSet", SPAWNERS, "call crate::tasks"),
    ban("Command::new", SPAWNERS, "a child process needs a guard; see cli/throwaway"),
    Ban { text: "Instant::now", within: TIMELESS, except: &[], instead: "time is an argument here" },
    Ban { text: "SystemTime::now", within: TIMELESS, except: &[], instead: "time is an argument here" },
    ban("process::exit", &[("main.rs", "after everything was dropped")], "return an exit code"),
    ban("process::abort", &[], "return an error"),
    ban(".unwrap()", &[], "use `?`, or expect(\"BUG: ...\") for an invariant"),
    ban("todo!", &[], "finish it"),
    ban("unimplemented!", &[], "finish it"),
    ban("dbg!", &[], "log it"),
    ban("print!", PRINTERS, "log it"),
    ban("println!", PRINTERS, "log it"),
    ban("eprint!", PRINTERS, "log it"),
    ban("eprintln!", PRINTERS, "log it"),
];

/// Words that belong to a workplace, not to the project; cut in two so as not to find themselves.
const FOREIGN_WORDS: &[(&str, &str)] =
    &[("/wor", "k/"), ("/roo", "t/"), ("/far", "m/"), ("FIX", "ME"), ("#[ign", "ore")];
/// What is searched for them, and for lines that are too long.
const TEXTS: &[&str] = &["src", "tests", "benches", "fuzz", "loadtest", "docs", ".ci"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with these endings: path below it with `/`, and text.
fn files(folder: &Path, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current).into_iter().flatten().flatten() {
            let path = entry.path();
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if endings.contains(&ending.as_str()) {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let found = files(&root().join("src"), &["rs"]);
    assert!(!found.is_empty(), "no sources found");
    found
}

/// Whether a path below src/ holds nothing but tests.
fn is_tests_file(name: &str) -> bool {
    let stem = name.trim_end_matches(".rs");
    stem.split('/').any(|part| part == "tests" || part.ends_with("_tests"))
}

/// The room of a path below src/: its first part.
fn room(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

fn assert_none(what: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{what}:\n  {}", violations.join("\n  "));
}

fn layer_violations(name: &str, source: &str) -> Vec<String> {
    let own = room(name);
    let Some((_, allowed)) = LAYERS.iter().find(|(known, _)| *known == own) else {
        return vec![format!("src/{name}: the room `{own}` has no layer; give it one in LAYERS")];
    };
    let code = code_only(source);
    // Tests may look further: a pool's tests may drive it with what stands above it.
    let code = if is_tests_file(name) { String::new() } else { without_tests(&code) };
    let is_room = |name: &str| LAYERS.iter().any(|(known, _)| *known == name);
    imports(&code, name == format!("{own}/mod.rs") || name == format!("{own}.rs"))
        .into_iter()
        .filter(|import| is_room(import) && import != own)
        .filter(|import| !allowed.split_whitespace().any(|room| room == import))
        .map(|import| format!("src/{name}: {own} may not name crate::{import}"))
        .collect()
}

fn ban_violations(name: &str, source: &str) -> Vec<String> {
    if is_tests_file(name) {
        return Vec::new();
    }
    let code = without_tests(&code_only(source));
    let is_bound = |at: usize, text: &str| {
        let before = code[..at].chars().next_back();
        text.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    };
    let applies = |ban: &&Ban| {
        ban.within.iter().any(|prefix| name.starts_with(prefix))
            && !ban.except.iter().any(|(prefix, _)| name.starts_with(prefix))
    };
    let hits = BANS.iter().filter(applies).flat_map(|ban| {
        code.match_indices(ban.text)
            .filter(|(at, text)| is_bound(*at, text))
            .map(move |hit| (hit.0, ban))
    });
    hits.map(|(at, ban)| {
        let line = code[..at].lines().count().max(1);
        format!("src/{name}:{line}: {}: {}", ban.text, ban.instead)
    })
    .collect()
}

fn size_violations(name: &str, source: &str) -> Vec<String> {
    let (lines, is_tests) = (source.lines().count(), is_tests_file(name));
    let lines_max = if is_tests { TESTS_FILE_LINES_MAX } else { FILE_LINES_MAX };
    let file =
        (lines > lines_max).then(|| format!("src/{name}: {lines} lines, at most {lines_max}"));
    let long = functions(&code_only(source)).into_iter().filter(|f| f.lines > FUNCTION_LINES_MAX);
    let long = long.map(|f| {
        format!(
            "src/{name}:{}: fn {} has {} lines, at most {FUNCTION_LINES_MAX}",
            f.line, f.name, f.lines
        )
    });
    file.into_iter().chain(long).collect()
}

fn text_violations(name: &str, text: &str) -> Vec<String> {
    let is_code = name.ends_with(".rs");
    let check = |(number, line): (usize, &str)| {
        let place = format!("{name}:{}", number + 1);
        let foreign = FOREIGN_WORDS.iter().map(|(a, b)| format!("{a}{b}"));
        let mut found: Vec<String> = foreign
            .filter(|word| line.contains(word))
            .map(|word| format!("{place}: contains {word}"))
            .collect();
        let columns = line.chars().count();
        if is_code && columns > LINE_COLUMNS_MAX {
            found.push(format!("{place}: {columns} columns, at most {LINE_COLUMNS_MAX}"));
        }
        found
    };
    text.lines().enumerate().flat_map(check).collect()
}

fn header_violations(name: &str, source: &str) -> Vec<String> {
    let opens_well = source.starts_with("//! ");
    (!opens_well)
        .then(|| format!("{name}: does not open with a `//!` comment"))
        .into_iter()
        .collect()
}

/// All violations of one kind in src/.
fn in_sources(check: fn(&str, &str) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(|(name, source)| check(name, source)).collect()
}

/// The sources of the load test, named as if it were a room of src/: it is a program, too.
fn load_test_sources() -> Vec<(String, String)> {
    let found = files(&root().join("loadtest"), &["rs"]);
    assert!(!found.is_empty(), "no sources found");
    found.into_iter().map(|(name, source)| (format!("../loadtest/{name}"), source)).collect()
}

#[test]
fn every_room_names_only_what_its_layer_allows() {
    assert_none("layers", &in_sources(layer_violations));
}

#[test]
fn files_and_functions_are_of_a_readable_size() {
    let load_test = load_test_sources();
    let found = load_test.iter().flat_map(|(name, source)| size_violations(name, source));
    assert_none("sizes", &[in_sources(size_violations), found.collect()].concat());
}

#[test]
fn no_banned_call_stands_outside_its_place() {
    assert_none("bans", &in_sources(ban_violations));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let folders =
        ["src", "tests", "benches", "loadtest"].map(|folder| files(&root().join(folder), &["rs"]));
    let all = folders.concat();
    let found: Vec<String> = all.iter().flat_map(|(n, s)| header_violations(n, s)).collect();
    assert_none("module comments", &found);
}

#[test]
fn no_line_is_too_long_and_no_word_is_foreign() {
    let endings = ["rs", "md", "sh", "toml", "py", "patch", "mjs", "java", "sql", "txt", "json"];
    let mut all: Vec<(String, String)> =
        TEXTS.iter().flat_map(|folder| files(&root().join(folder), &endings)).collect();
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "config.toml", "Dockerfile", "dev"] {
        all.extend(fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text)));
    }
    let found: Vec<String> = all.iter().flat_map(|(n, t)| text_violations(n, t)).collect();
    assert_none("texts", &found);
}
