//! pgbaton as a process of the system: whose it is, what it may open, its files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::console::Console;
use crate::support::pgbaton::{Config, PATIENCE, Pgbaton, eventually, run_to_end};
use crate::support::postgres::{
    MD5_ROLE, PASSWORD, Postgres, SCRAM_DATABASE, SCRAM_ROLE, SUPERUSER,
};
use crate::support::wire::{Login, Wire, WireError};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder that everybody may enter, as a dropped user must.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// Runs pgbaton with this file; it must end by itself.
fn run(text: &str) -> Output {
    let folder = folder();
    let file = folder.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let output = run_to_end(&["run", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success());
    output
}

fn without(config: &Config, key: &str) -> String {
    let text = config.text();
    let lines = text.lines().filter(|line| !line.starts_with(&format!("{key} = ")));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The ids of every thread: the four kinds of user and of group id, and the groups.
fn ids(pgbaton: &Pgbaton, line: &str) -> Vec<Vec<u32>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pgbaton.pid())).unwrap();
    let status = |task: PathBuf| fs::read_to_string(task.join("status")).unwrap();
    let of = |status: String| {
        let found = status.lines().find_map(|l| l.strip_prefix(line).map(str::to_owned)).unwrap();
        found.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    tasks.map(|task| of(status(task.unwrap().path()))).collect()
}

/// The id of a name in a file like /etc/passwd, in the column counted from 0.
fn id(file: &str, name: &str, column: usize) -> u32 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split(':').nth(column).unwrap().parse().unwrap()
}

#[test]
fn root_is_refused_unless_it_is_told_whom_to_become() {
    if !is_root() {
        // An ordinary user needs no key, and is not made somebody else by one.
        for text in ["", "user = \"root\"\n", "user = \"no such user\"\n"] {
            let config = Config::new();
            let text =
                without(&config, "user").replace("[general]\n", &format!("[general]\n{text}"));
            let pgbaton = Pgbaton::start_text(&text, &config, &[]);
            assert!(pgbaton.log().contains("pgbaton is ready"));
        }
        return;
    }
    let config = Config::new();
    let output = run(&without(&config, "user"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("refusing to run as root"), "{said}");
    assert!(said.contains("user = \"root\""), "{said}");
    let output = run(&config.clone().set("user", "\"no such user\"").text());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("user \"no such user\" does not exist"), "{said}");
}

#[test]
fn root_becomes_the_user_in_every_thread_and_for_good() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let config = Config::new()
        .set("user", "\"nobody\"")
        .set("unix_socket_dir", &quoted(folder.path()))
        .set("unix_socket_mode", "\"0700\"")
        .set("workers", "3")
        .database(&database, postgres, "");
    let pgbaton = Pgbaton::start(&config);
    let (uid, gid) = (id("/etc/passwd", "nobody", 2), id("/etc/passwd", "nobody", 3));
    let (users, groups) = (ids(&pgbaton, "Uid:"), ids(&pgbaton, "Gid:"));
    assert!(users.len() >= 5, "all of its threads: {users:?}");
    // Real, effective, saved and file system: with none of them root, there is no way back.
    assert!(users.iter().all(|ids| *ids == [uid; 4]), "{users:?}");
    assert!(groups.iter().all(|ids| *ids == [gid; 4]), "{groups:?}");
    assert!(ids(&pgbaton, "Groups:").iter().flatten().all(|group| *group != 0));
    let capabilities = fs::read_to_string(format!("/proc/{}/status", pgbaton.pid())).unwrap();
    assert!(capabilities.contains("CapEff:\t0000000000000000"), "{capabilities}");
    assert!(pgbaton.log().contains("started as root, now user nobody"), "{}", pgbaton.log());
    // The socket file is the user's, and works.
    let socket = folder.path().join(format!(".s.PGSQL.{}", pgbaton.address().port()));
    let meta = fs::metadata(&socket).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (uid, gid, 0o700));
    let login = Login::new(SUPERUSER, &database, "");
    for address in [pgbaton.address().into(), crate::support::wire::Address::from(socket)] {
        assert_eq!(Wire::login(address, &login).query("select 1").value(), "1");
    }
}

/// A reload is made by the user that root has become: what only root can read is an error.
#[test]
fn a_reload_reads_with_the_rights_of_the_user() {
    if !is_root() {
        return;
    }
    let mut pgbaton = Pgbaton::start(&Config::new().set("user", "\"nobody\""));
    let file = pgbaton.config_file();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let mut console = crate::stage::console(&pgbaton);
    mode(0o600);
    let error = console.query_error("RELOAD");
    assert!(
        error.code() == "F0000" && error.message().contains("cannot read the file"),
        "{error:?}"
    );
    mode(0o644);
    assert_eq!(console.query("RELOAD").tags, ["RELOAD"]);
    assert_eq!(pgbaton.stop().code(), Some(0));
}

#[test]
fn the_group_of_the_socket_file_is_set() {
    let folder = folder();
    let own = rustix::process::getegid().as_raw();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let name_of = |gid: u32| {
        let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&gid.to_string()));
        line.and_then(|line| line.split(':').next()).map(str::to_owned)
    };
    // Root may give it to any group, others to one of their own.
    let Some(name) = (if is_root() { Some("daemon".to_owned()) } else { name_of(own) }) else {
        return;
    };
    let config = Config::new()
        .set("unix_socket_dir", &quoted(folder.path()))
        .set("unix_socket_mode", "\"0770\"")
        .set("unix_socket_group", &format!("{name:?}"));
    let pgbaton = Pgbaton::start(&config);
    let socket = folder.path().join(format!(".s.PGSQL.{}", pgbaton.address().port()));
    let meta = fs::metadata(socket).unwrap();
    assert_eq!((meta.gid(), meta.mode() & 0o777), (id("/etc/group", &name, 2), 0o770));
    let unknown = Config::new().set("unix_socket_dir", &quoted(folder.path()));
    let output = run(&unknown.set("unix_socket_group", "\"no such group\"").text());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("group \"no such group\" does not exist"), "{said}");
}

#[test]
fn the_limit_of_open_files_is_raised_and_one_too_low_is_told_with_figures() {
    let folder = folder();
    let script = folder.path().join("limited");
    let binary = env!("CARGO_BIN_EXE_pgbaton");
    let text = format!("#!/bin/sh\nulimit -Sn 90; ulimit -Hn 500; exec {binary} \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let limits = |pgbaton: &Pgbaton| {
        let text = fs::read_to_string(format!("/proc/{}/limits", pgbaton.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let config = Config::new().database_at("app", ([127, 0, 0, 1], 1).into(), "pool_size = 60");
    for (clients, warns) in [("376", false), ("377", true)] {
        let config = config.clone().set("max_client_conn", clients);
        let pgbaton = Pgbaton::start_binary(script.to_str().unwrap(), &config, &[]);
        assert_eq!(limits(&pgbaton), ["500", "500"]);
        let log = pgbaton.log();
        let figures = "limit=500 needed=501 clients=377 servers=60";
        assert_eq!(log.contains("the limit of open files is too low"), warns, "{log}");
        assert_eq!(log.contains(figures), warns, "{log}");
    }
}

#[test]
fn the_pid_file_names_the_process_and_goes_with_it() {
    let folder = folder();
    let path = folder.path().join("pgbaton.pid");
    let config = Config::new().set("pidfile", &quoted(&path));
    let mut pgbaton = Pgbaton::start(&config);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pgbaton.pid()));
    // A second one under the same file is refused, and leaves it alone.
    let output = run(&Config::new().set("pidfile", &quoted(&path)).text());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("names process {}, which is running", pgbaton.pid())), "{said}");
    assert_eq!(pgbaton.stop().code(), Some(0));
    assert!(!path.exists());
    // That of a process that was killed is taken over.
    let mut killed = Pgbaton::start(&config);
    killed.signal(Signal::KILL);
    killed.wait_for_end(PATIENCE);
    assert!(path.exists());
    let next = Pgbaton::start(&config);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", next.pid()));
}

#[test]
fn the_log_file_is_written_beside_standard_error_and_opened_anew_on_reload() {
    for format in ["text", "json"] {
        let folder = folder();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let config =
            Config::new().set("logfile", &quoted(&path)).set("log_format", &format!("{format:?}"));
        let mut pgbaton = Pgbaton::start(&config);
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let ready = eventually(PATIENCE, || read(&path).contains("pgbaton is ready"));
        assert!(ready && pgbaton.log().contains("pgbaton is ready"), "{}", pgbaton.log());
        assert_eq!(read(&path), pgbaton.log());
        fs::rename(&path, &moved).unwrap();
        pgbaton.reload(&config);
        pgbaton.wait_for_log("configuration reloaded");
        assert!(eventually(PATIENCE, || read(&path).contains("configuration reloaded")));
        assert!(!read(&moved).contains("configuration reloaded"));
        // Even a reload that fails: whoever rotates logs does not look at the configuration.
        fs::rename(&path, &moved).unwrap();
        fs::write(pgbaton.config_file(), "nonsense").unwrap();
        pgbaton.signal(Signal::HUP);
        assert!(eventually(PATIENCE, || read(&path).contains("reload failed")));
        assert!(!read(&moved).contains("reload failed"));
        if format == "json" {
            assert!(read(&path).lines().all(|line| line.starts_with('{')), "{}", read(&path));
        }
    }
    let output = run(&Config::new().set("logfile", "\"/nonexistent/log\"").text());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot open logfile /nonexistent/log"), "{said}");
}

// --- auth_file ---

fn userlist(pgbaton: &Pgbaton) -> PathBuf {
    pgbaton.config_file().parent().unwrap().join("userlist.txt")
}

fn stored(postgres: &Postgres, role: &str) -> String {
    postgres.sql("postgres", &format!("select rolpassword from pg_authid where rolname = '{role}'"))
}

fn outcome(pgbaton: &Pgbaton, user: &str, database: &str, password: &str) -> String {
    match Wire::try_login(pgbaton.address(), &Login::new(user, database, password)) {
        Ok(mut client) => client.query("select current_user").value().to_owned(),
        Err(WireError::Server(error)) => error.code().to_owned(),
        Err(e) => panic!("{e:?}"),
    }
}

/// The file is read with the configuration, so it is put in place by a first reload.
fn with_users(config: Config, users: &str) -> (Pgbaton, Config) {
    let mut pgbaton = Pgbaton::start(&config);
    fs::write(userlist(&pgbaton), users).unwrap();
    let config = config.set("auth_file", "\"userlist.txt\"");
    pgbaton.reload(&config);
    pgbaton.wait_for_log("configuration reloaded");
    (pgbaton, config)
}

#[test]
fn users_of_a_file_log_in_with_secrets_of_every_form() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let users = format!(
        "; users\n\"{SUPERUSER}\" \"{PASSWORD}\"\n\"{MD5_ROLE}\" \"{}\"\n\"{SCRAM_ROLE}\" \"{}\"\n",
        stored(postgres, MD5_ROLE),
        stored(postgres, SCRAM_ROLE)
    );
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let config = Config::new()
            .set("auth_type", &format!("{auth_type:?}"))
            .set("admin_users", &format!("{SUPERUSER:?}"))
            .database(&database, postgres, "")
            .database(SCRAM_DATABASE, postgres, "");
        let (pgbaton, _) = with_users(config, &users);
        for user in [SUPERUSER, MD5_ROLE, SCRAM_ROLE] {
            // A hash cannot be checked by SCRAM.
            let expected =
                if (user, auth_type) == (MD5_ROLE, "scram-sha-256") { "28P01" } else { user };
            assert_eq!(outcome(&pgbaton, user, &database, PASSWORD), expected, "{auth_type}");
            assert_eq!(outcome(&pgbaton, user, &database, "wrong"), "28P01", "{auth_type} {user}");
        }
        assert_eq!(outcome(&pgbaton, "nobody", &database, PASSWORD), "28P01");
        // To a server that asks for SCRAM, with the password of the file.
        assert_eq!(outcome(&pgbaton, SUPERUSER, SCRAM_DATABASE, PASSWORD), SUPERUSER);
        let login = Login::new(SUPERUSER, "pgbaton", PASSWORD);
        assert_eq!(Wire::login(pgbaton.address(), &login).query("SHOW VERSION").tags, ["SHOW"]);
    }
}

#[test]
fn a_reload_reads_the_file_again_and_a_bad_line_changes_nothing() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let config = Config::new()
        .set("auth_type", "\"scram-sha-256\"")
        .set("admin_users", "\"pgbaton\"")
        .user("pgbaton", "password = \"console\"")
        .user(MD5_ROLE, "password = \"of the configuration\"")
        .database(&database, postgres, "");
    let users =
        |password: &str| format!("\"{SUPERUSER}\" \"{password}\"\n\"{MD5_ROLE}\" \"{password}\"\n");
    let (pgbaton, _) = with_users(config, &users("first"));
    let login = Login::new("pgbaton", "pgbaton", "console");
    let mut console = Wire::login(pgbaton.address(), &login);
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "first"), SUPERUSER);
    // [users] wins.
    assert_eq!(outcome(&pgbaton, MD5_ROLE, &database, "first"), "28P01");
    assert_eq!(outcome(&pgbaton, MD5_ROLE, &database, "of the configuration"), MD5_ROLE);
    fs::write(userlist(&pgbaton), users("second") + "nonsense\n").unwrap();
    let error = console.query_error("RELOAD");
    assert_eq!(error.code(), "F0000");
    assert!(error.message().contains("userlist.txt:3:1: "), "{error:?}");
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "first"), SUPERUSER);
    fs::write(userlist(&pgbaton), users("second")).unwrap();
    assert_eq!(console.query("RELOAD").tags, ["RELOAD"]);
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "first"), "28P01");
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "second"), SUPERUSER);
    assert!(
        pgbaton.log().contains("auth_file: 0 added, 0 removed, 2 changed"),
        "{}",
        pgbaton.log()
    );
    // By SET, until the next reload.
    assert_eq!(console.query("SET auth_file = ''").tags, ["SET"]);
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "second"), "28P01");
    assert_eq!(console.query("RELOAD").tags, ["RELOAD"]);
    assert_eq!(outcome(&pgbaton, SUPERUSER, &database, "second"), SUPERUSER);
    let rows = console.query("SHOW USERS").rows;
    let names: Vec<_> = rows.iter().filter_map(|row| row[0].clone()).collect();
    assert_eq!(names, [MD5_ROLE, "pgbaton", SUPERUSER]);
    assert!(!pgbaton.log().contains("second") && !pgbaton.log().contains("first"));
}

#[test]
fn a_missing_file_stops_the_start_and_is_named() {
    let output = run(&Config::new().set("auth_file", "\"nowhere.txt\"").text());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nowhere.txt: cannot read the file"), "{said}");
    let pgbaton = Pgbaton::start(&Config::new());
    assert_eq!(Console::of(&pgbaton).rows("SHOW USERS").len(), 0);
}
