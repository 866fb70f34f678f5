//! psql: a session's worth of its commands, several at once that share servers, and Ctrl-C.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::exercise::{POOL_SIZE, Place, Process, Way, compare};
use super::tools;
use crate::stage::PATIENCE;
use crate::support::pgbaton::eventually;
use crate::support::postgres::SUPERUSER;

const STEPS: &str = "set_up describe list query gdesc gset gexec crosstabview errors transactions \
    on_error_rollback autocommit_off copy large_objects fetch_count cursors statements_of_sql \
    settings bind pipeline connect timeout";
/// psql processes at a time.
const MEMBERS: usize = 5;
/// libpq's own defaults, apart from what it would try first and cannot have here.
const ENVIRONMENT: [(&str, &str); 2] = [("PGSSLMODE", "disable"), ("PGGSSENCMODE", "disable")];
const CANCELLED: &str = "canceling statement due to user request";

/// Starts psql in a place of its own.
fn start(place: &Place, own: &[&str]) -> Process {
    let port = place.port().to_string();
    let database = place.stage.database.as_str();
    let whereto = ["-X", "-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER, "-d", database];
    let arguments: Vec<OsString> = whereto.iter().chain(own).map(OsString::from).collect();
    place.start(&tools::psql(), &arguments, &ENVIRONMENT)
}

/// A script of tests/drivers/psql.
fn script(name: &str) -> String {
    let path = tools::exercises().join("psql").join(name);
    path.to_str().expect("a readable path").to_owned()
}

#[test]
fn a_session_of_psql_sees_no_difference() {
    compare(STEPS, &[], |place| {
        let (status, said) = start(place, &["-f", &script("session.sql")]).finish(place);
        assert_eq!(status, Some(0), "{said}");
        said
    });
}

/// Some go on for longer than others: where few are left, a server has nobody of its own any more.
const fn rounds(me: usize) -> usize {
    4 + 2 * me
}

fn start_member(place: &Place, me: usize) -> Process {
    let (own, first, round) = (format!("me={me}"), script("crowd.sql"), script("round.sql"));
    let mut arguments = vec!["-v", &own, "-f", &first];
    for _ in 0..rounds(me) {
        arguments.extend(["-f", &round]);
    }
    start(place, &arguments)
}

#[test]
fn several_psql_at_once_see_no_difference() {
    let said = compare("crowd", &[], |place| {
        let mut members: Vec<Process> = (1..=MEMBERS).map(|me| start_member(place, me)).collect();
        let mut all = "== crowd\n".to_owned();
        let mut facts = Vec::new();
        for member in &mut members {
            let (status, said) = member.finish(place);
            assert_eq!(status, Some(0), "{said}");
            let backends = said.lines().filter_map(|line| line.strip_prefix("# backend "));
            let backends: Vec<String> = backends.map(str::to_owned).collect();
            assert_eq!(backends.len(), rounds(facts.len() + 1), "{said}");
            facts.push(backends.into_iter().collect::<BTreeSet<_>>());
            let other = said.lines().filter(|line| !line.starts_with('#'));
            all.extend(other.map(|line| format!("{line}\n")));
        }
        let backends = facts.iter().flatten().collect::<BTreeSet<_>>().len();
        let wandered = facts.iter().filter(|backends| backends.len() > 1).count();
        all + &format!(
            "# crowd: {MEMBERS} members, {backends} backends, {wandered} wandered\n== done\n"
        )
    });
    super::assert_crowded(&said);
    let right = &said[0].steps[0].1;
    assert!(!right.contains("wrong"), "{right}");
    let all: usize = (1..=MEMBERS).map(rounds).sum();
    assert_eq!(right.matches("through a round").count(), all, "{right}");
}

/// Not at a terminal, psql cancels what runs and goes no further.
#[test]
fn an_interrupted_psql_cancels_its_query() {
    const { assert!(POOL_SIZE >= 2, "one server sleeps, another answers") };
    compare("interrupted", &[], |place| {
        let mut psql = start(place, &["-f", &script("sleep.sql")]);
        place.stage.wait_until_runs("pg_sleep(600)");
        psql.child.signal(Signal::INT).unwrap();
        let (status, said) = psql.finish(place);
        assert!(said.contains(CANCELLED), "{said}");
        format!("== interrupted\n{said}status {status:?}\n== done\n")
    });
}

/// psql at a terminal of its own, which `script` makes: what is typed reaches it through the terminal,
/// Ctrl-C too.
struct Terminal {
    script: Child,
    typescript: PathBuf,
}

impl Terminal {
    fn open(program: &Path, place: &Place) -> Self {
        let typescript = place.folder().join("typescript");
        let command = format!(
            "exec '{}' -X -n -q -A -t -P pager=off -v PROMPT1= -v PROMPT2= -v PROMPT3= \
             -h 127.0.0.1 -p {} -U {SUPERUSER} -d {}",
            tools::psql().display(),
            place.port(),
            place.stage.database
        );
        let script = Command::new(program)
            .args(["--quiet", "--flush", "--return", "--command", &command])
            .arg(&typescript)
            .current_dir(place.folder())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", place.folder())
            .env("SHELL", "/bin/sh")
            .env("LANG", "C.UTF-8")
            .envs(ENVIRONMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { script, typescript }
    }

    fn type_in(&mut self, text: &str) {
        let keyboard = self.script.stdin.as_mut().expect("a keyboard");
        keyboard.write_all(text.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    fn shown(&self) -> String {
        let bytes = std::fs::read(&self.typescript).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a line of the screen is this, at its beginning.
    fn wait_for_line(&self, text: &str) {
        let shows = || self.shown().lines().any(|line| line.trim_end() == text);
        assert!(eventually(PATIENCE, shows), "no line {text:?} in:\n{}", self.shown());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failed assertion; its psql ends with the terminal.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn ctrl_c_at_a_terminal_cancels_the_query_and_psql_goes_on() {
    let test = "psql::ctrl_c_at_a_terminal_cancels_the_query_and_psql_goes_on";
    let Some(script) = tools::or_skip(test, tools::in_path("script")) else {
        return;
    };
    for way in Way::ALL {
        let mut place = Place::open(way, Vec::new());
        let mut terminal = Terminal::open(&script, &place);
        for (round, expected) in [(1, "1042"), (2, "2042"), (3, "3042")] {
            terminal.type_in("begin; select 'before' || ':';\n");
            terminal.type_in(&format!("select pg_sleep(600), 'round {round}';\n"));
            place.stage.wait_until_runs(&format!("pg_sleep(600), ''round {round}''"));
            terminal.type_in("\x03");
            let shows = || terminal.shown().matches(CANCELLED).count() == round;
            assert!(eventually(PATIENCE, shows), "{way:?}: {}", terminal.shown());
            terminal.type_in(&format!("rollback; select {round} * 1000 + 42;\n"));
            terminal.wait_for_line(expected);
        }
        terminal.type_in("\\q\n");
        assert!(terminal.script.wait().unwrap().success(), "{}", terminal.shown());
        if way != Way::Direct {
            place.stage.assert_settled(0);
        }
    }
}
