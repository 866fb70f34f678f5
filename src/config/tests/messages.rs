//! The exact text of every kind of error, its place, and what it must not show.

use std::io;

use super::super::pgbouncer::{Answer, settings};
use super::super::{ConfigError, FILE_BYTES_MAX, Problem, Section, load, parse};
use super::{error, errors, no_env};

const UNSUPPORTED: &str = "known to PgBouncer but not supported by this version of pgbaton";

/// A text with one mistake gives exactly this line.
#[track_caller]
fn one(text: &str, expected: &str) {
    assert_eq!(errors(text), [expected]);
}

#[test]
fn a_key_under_two_of_its_names() {
    one(
        "[databases.a]\nhost = \"b\"\nreserve_pool = 1\nreserve_pool_size = 2",
        "config.toml:4:1: reserve_pool_size of [databases.a] is given twice, under two names",
    );
    one(
        "[databases]\na = \"host=b reserve_pool=1 reserve_pool_size=2\"",
        "config.toml:2:5: databases.a: a key of the connection string stands there twice",
    );
}

#[test]
fn unknown_keys() {
    one(
        "[general]\ndefault_pool_sise = 3",
        "config.toml:2:1: unknown key \"default_pool_sise\" in [general]; \
         did you mean \"default_pool_size\"?",
    );
    one("[general]\n  colour = 3", "config.toml:2:3: unknown key \"colour\" in [general]");
    one(
        "[general]\npool_size = 3",
        "config.toml:2:1: unknown key \"pool_size\" in [general]; \
         it belongs in [databases.NAME] or [users.NAME]",
    );
    one(
        "[databases.\"my db\"]\nprot = 3",
        "config.toml:2:1: unknown key \"prot\" in [databases.\"my db\"]; did you mean \"port\"?",
    );
    one(
        "[users.bob]\nhost = \"a\"",
        "config.toml:2:1: unknown key \"host\" in [users.bob]; it belongs in [databases.NAME]",
    );
    one(
        "[databases]\na = \"hots=b\"",
        "config.toml:2:5: unknown key \"hots\" in [databases.a]; did you mean \"host\"?",
    );
}

#[test]
fn unknown_sections() {
    one("[generl]", "config.toml:1:2: unknown section [generl]; did you mean [general]?");
    one("[pgbouncer]", "config.toml:1:2: unknown section [pgbouncer]; did you mean [general]?");
    one("[zebra]", "config.toml:1:2: unknown section [zebra]");
    one("[[zebra]]", "config.toml:1:3: unknown section [zebra]");
    one("[peers]", &format!("config.toml:1:2: unknown section [peers]; it is {UNSUPPORTED}"));
    one(
        "listen_port = 1",
        "config.toml:1:1: key \"listen_port\" stands outside any section; it belongs in [general]",
    );
    one(
        "listen_prot = 1",
        "config.toml:1:1: key \"listen_prot\" stands outside any section; \
         did you mean \"listen_port\"?",
    );
    one("zebra = 1", "config.toml:1:1: key \"zebra\" stands outside any section");
}

#[test]
fn what_should_be_a_table() {
    one("general = 3", "config.toml:1:1: general: expected a table, found a number");
    one("[[users]]", "config.toml:1:3: users: expected a table, found an array");
    one(
        "[databases]\napp = 5",
        "config.toml:2:7: databases.app: expected a table or a connection string, found a number",
    );
    one(
        "[users]\nbob = \"hunter2\"",
        "config.toml:2:7: users.bob: expected a table, found a string",
    );
}

#[test]
fn keys_and_words_of_pgbouncer() {
    one(
        "[general]\nauth_type = \"pam\"",
        &format!("config.toml:2:13: auth_type: \"pam\" is {UNSUPPORTED}"),
    );
    let mut refused = 0;
    for setting in settings() {
        let (Answer::Mapped(_, why) | Answer::Refused(why)) = setting.answer else { continue };
        let (header, path) = match setting.section {
            Section::General => ("general", ""),
            Section::Databases => ("databases.x", "databases.x."),
            Section::Users => ("users.x", "users.x."),
        };
        let name = setting.name;
        one(
            &format!("[{header}]\n{name} = 1"),
            &format!(
                "config.toml:2:1: {path}{name}: a setting of PgBouncer's that pgbaton does not \
                 have. {why}"
            ),
        );
        refused += 1;
    }
    assert!(refused > 10);
}

#[test]
fn bad_values_of_each_kind() {
    for (line, expected) in [
        (
            "pool_mode = \"transacton\"",
            "2:13: pool_mode: expected \"session\", \"transaction\" or \"statement\", found \"transacton\"",
        ),
        (
            "log_level = 3",
            "2:13: log_level: expected \"error\", \"warn\", \"info\" or \"debug\", found 3",
        ),
        ("listen_port = 0", "2:15: listen_port: expected a whole number from 1 to 65535, found 0"),
        (
            "listen_port = 99999999999999999999",
            "2:15: listen_port: expected a whole number from 1 to 65535, \
             found a number that is too large",
        ),
        (
            "query_wait_timeout = \"5m\"",
            "2:22: query_wait_timeout: expected a time such as \"5s\", \"2min\" or a number of \
             seconds, at most 365d, found \"5m\"",
        ),
        (
            "tcp_keepidle = 1.5",
            "2:16: tcp_keepidle: expected a time in whole seconds such as \"5s\", \"2min\" or a \
             number of seconds, at most 32767s, found 1.5",
        ),
        (
            "tcp_user_timeout = -1",
            "2:20: tcp_user_timeout: expected a time such as \"5s\", \"2min\" or a number of \
             milliseconds, at most 24d, found -1",
        ),
        (
            "tcp_keepalive = \"maybe\"",
            "2:17: tcp_keepalive: expected true or false (also 1, 0, yes, no, on, off), \
             found \"maybe\"",
        ),
    ] {
        one(&format!("[general]\n{line}"), &format!("config.toml:{expected}"));
    }
}

#[test]
fn bad_lists_paths_and_addresses() {
    for (line, expected) in [
        (
            "admin_users = { a = 1 }",
            "2:15: admin_users: expected an array of non-empty strings, or one string with \
             commas, found a table",
        ),
        (
            "unix_socket_mode = \"0999\"",
            "2:20: unix_socket_mode: expected an octal file mode from \"0000\" to \"0777\", \
             found \"0999\"",
        ),
        (
            "unix_socket_dir = \"run\"",
            "2:19: unix_socket_dir: expected the absolute path of a directory, at most 92 bytes \
             long, found \"run\"",
        ),
        (
            "unix_socket_dir = \"@x\"",
            "2:19: unix_socket_dir: abstract sockets are not supported by this version of pgbaton",
        ),
        (
            "listen_addr = \"a b\"",
            "2:15: listen_addr: expected a host name or an IP address, found \"a b\"",
        ),
        (
            "listen_addr = 1979-05-27",
            "2:15: listen_addr: expected host names or IP addresses, or \"*\", as an array or one \
             string with commas, found a date or time",
        ),
        ("listen_addr = \"*,::1\"", "2:15: listen_addr: \"*\" already covers every other address"),
        (
            "listen_addr = \"h:6432\"",
            "2:15: listen_addr: a port is given by its own key, not after a colon",
        ),
        (
            "server_reset_query = false",
            "2:22: server_reset_query: expected a string without NUL, found false",
        ),
    ] {
        one(&format!("[general]\n{line}"), &format!("config.toml:{expected}"));
    }
}

#[test]
fn bad_values_of_entries_name_the_entry() {
    for (line, expected) in [
        ("host = \"a,,b\"", "host: expected a host name or an IP address, found \"a,,b\""),
        ("host = 5", "host: expected a host name, an IP address or a socket directory, found 5"),
        ("user = \"\"", "user: expected a non-empty string without NUL, found \"\""),
        ("dbname = 1", "dbname: expected a non-empty string without NUL, found 1"),
    ] {
        let column = line.find("= ").unwrap() + 3;
        one(
            &format!("[databases.app]\n{line}"),
            &format!("config.toml:2:{column}: databases.app.{expected}"),
        );
    }
}

#[test]
fn long_values_are_cut_short() {
    let long = "x".repeat(1000);
    let shown = "x".repeat(60);
    one(
        &format!("[general]\nlisten_port = \"{long}\""),
        &format!(
            "config.toml:2:15: listen_port: expected a whole number from 1 to 65535, \
             found \"{shown}\" and more"
        ),
    );
}

#[test]
fn contradictions() {
    one(
        "[general]\nlisten_addr = \"\"\nunix_socket_dir = \"\"",
        "config.toml:2:15: listen_addr and unix_socket_dir are both empty: \
         there is nothing to listen on",
    );
    one(
        "[general]\nunix_socket_dir = \"\"\n[databases.a]\n[databases.b]\nhost = \"::1\"",
        "config.toml:3:12: databases.a: host is needed, because unix_socket_dir is empty",
    );
    one(
        "[databases.pgbouncer]\nhost = \"::1\"",
        "config.toml:1:12: the database name \"pgbouncer\" is reserved for the console",
    );
    one(
        "[databases]\npgbaton = \"host=::1\"",
        "config.toml:2:1: the database name \"pgbaton\" is reserved for the console",
    );
    one("[users.\"*\"]", "config.toml:1:8: [users.\"*\"] has no meaning: a user must be named");
    one(
        "[databases.\"\"]",
        "config.toml:1:12: databases.\"\": a name must not be empty and must not hold NUL",
    );
    one(
        "[users.\"a\\u0000\"]",
        "config.toml:1:8: users.\"a\\0\": a name must not be empty and must not hold NUL",
    );
}

#[test]
fn one_mistake_is_not_told_twice() {
    one(
        "[general]\nlisten_addr = \"\"\nunix_socket_dir = 5\n[databases.a]",
        "config.toml:3:19: unix_socket_dir: expected the absolute path of a directory, \
         at most 92 bytes long, found 5",
    );
    one(
        "[general]\nunix_socket_dir = \"\"\n[databases.a]\nhost = \"a b\"",
        "config.toml:4:8: databases.a.host: expected a host name or an IP address, found \"a b\"",
    );
}

#[test]
fn connection_strings_that_cannot_be_read() {
    let broken = |string: &str, reason: &str| {
        one(
            &format!("[databases]\na = \"{string}\""),
            &format!("config.toml:2:5: databases.a: {reason}"),
        );
    };
    let pairs = "expected key=value pairs parted by spaces";
    broken("10.0.0.1", pairs);
    broken("host=a b", pairs);
    broken("=a", pairs);
    broken("a b=c", pairs);
    broken("host='a", "a single quote is opened and not closed");
    broken("host='a'b", "a closing single quote must be followed by a space");
    broken("port=1 port=2", "a key of the connection string stands there twice");
    broken(
        "password=hunter x=2",
        "unknown key in a connection string with a password; \
         a password with spaces must stand in single quotes",
    );
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_file() {
    let text = "[users.u]\npool_mode = 1\n[databases.d]\nport = 0\nhots = 1\n\
                [general]\nlisten_port = 0\nworkers = 9999\n";
    let places: Vec<_> =
        errors(text).iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        places,
        [
            "config.toml:2:13",
            "config.toml:4:8",
            "config.toml:5:1",
            "config.toml:7:15",
            "config.toml:8:11"
        ]
    );
}

#[test]
fn columns_count_characters() {
    one(
        "[databases.app]\ndbname = \"é\"\n\"ü\" = 1",
        "config.toml:3:1: unknown key \"ü\" in [databases.app]",
    );
    one(
        "databases = { \"é\" = { port = 0 } }",
        "config.toml:1:30: databases.\"é\".port: expected a whole number from 1 to 65535, found 0",
    );
    one("\u{feff}[zebra]", "config.toml:1:2: unknown section [zebra]");
    one(
        "[general]\r\nport = 1\r\n",
        "config.toml:2:1: unknown key \"port\" in [general]; \
         it belongs in [databases.NAME]",
    );
}

#[test]
fn syntax_errors() {
    let error = error("[general]\nlisten_port = \n");
    assert!(matches!(error.diagnostics.as_slice(), [d] if matches!(d.problem, Problem::Syntax(_))));
    assert!(error.to_string().starts_with("config.toml:2:15: syntax error: "), "{error}");
    assert!(!error.to_string().contains('\n'));
    let error = super::error("[general]\nlisten_port = 1\nlisten_port = 2\n");
    assert_eq!(error.to_string(), "config.toml:3:1: syntax error: duplicate key");
}

#[test]
fn no_error_shows_a_secret() {
    for text in [
        "[users.a]\npassword = \"hunter2",
        "[users.a]\npassword = \"hunter2\\q\"",
        "[users.a]\npassword = 'hunter2' 'hunter2'",
        "[users.a]\npassword = hunter2",
        "[users.a]\npassword = [\"hunter2\"]",
        "[users.a]\npassword = \"hunter2\\u0000\"",
        "[users.a]\npassword = \"SCRAM-SHA-256$hunter2\"",
        "[users]\na = \"hunter2\"",
        "[databases]\na = \"password=hunter2 hunter2\"",
        "[databases]\na = \"password=x hunter2=y\"",
        "[databases]\na = \"port=hunter2 password=x\"",
        "[databases]\na = \"password='hunter2\"",
        "[databases]\na = \"password='x'hunter2\"",
    ] {
        let error = error(text);
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

fn load_error(bytes: &[u8]) -> ConfigError {
    let file = TempFile::new(bytes);
    load(&file.0, &no_env).expect_err("a bad file")
}

/// A file that goes away with the test.
pub(super) struct TempFile(pub(super) std::path::PathBuf);

impl TempFile {
    pub(super) fn new(bytes: &[u8]) -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Relaxed: only distinct numbers matter.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgbaton-config-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Nothing depends on it: the name is never used again.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn files_that_cannot_be_read() {
    let missing = std::path::Path::new("/nonexistent/pgbaton.toml");
    let error = load(missing, &no_env).expect_err("no such file");
    assert_eq!(
        error.to_string(),
        format!(
            "/nonexistent/pgbaton.toml: cannot read the file: {}",
            io::Error::from(io::ErrorKind::NotFound)
        )
    );
    let error = load(&std::env::temp_dir(), &no_env).expect_err("a directory");
    assert!(matches!(error.diagnostics[0].problem, Problem::Read(_)), "{error}");
}

#[test]
fn files_that_are_no_text() {
    let error = load_error(b"[general]\nlog_level = \"\xff\"\n");
    assert!(error.to_string().ends_with(":2:14: not UTF-8 text"), "{error}");
    let size = usize::try_from(FILE_BYTES_MAX).unwrap();
    let error = load_error(&vec![b'#'; size + 1]);
    assert!(error.to_string().ends_with(": the file is larger than 4194304 bytes"), "{error}");
    let largest = TempFile::new(&vec![b'#'; size]);
    assert!(load(&largest.0, &no_env).is_ok());
}

#[test]
fn a_file_is_read_as_its_text() {
    let text = "[general]\nlisten_port = 7000\n[databases.a]\n";
    let file = TempFile::new(text.as_bytes());
    let from_file = load(&file.0, &no_env).unwrap();
    let from_text = parse(text, "config.toml", &no_env).unwrap();
    assert_eq!(from_file.config, from_text.config);
    assert!(from_file.warnings.is_empty());
}

#[test]
fn any_needs_a_user_in_every_database() {
    let text = "[general]\nauth_type = \"any\"\n[databases.a]\nuser = \"x\"\n[databases.\"*\"]\n";
    let error = super::super::parse(text, "config.toml", &|_| None).expect_err("no user");
    let said =
        "config.toml:5:12: databases.\"*\": auth_type = \"any\" needs a `user` in every database";
    assert_eq!(error.to_string(), said);
}
