//! The console's commands as operators and their scripts use them: who may give them, what clients
//! and servers see of them, and that none of those that wait can be made to wait for ever.

mod crowd;
mod pause;
mod psql;
mod settings;
mod shutdown;
mod tables;

use std::time::Duration;

use crate::stage::{PATIENCE, Stage};
use crate::support::console::{Console, Row};
use crate::support::pgbaton::{Config, eventually};
use crate::support::wire::{self, ErrorFields, Login, Wire, query};

/// Longer than a command needs that does not wait, and far below what it would wait.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A stage on which users other than the superuser may look at the console.
fn open(pool_size: usize) -> Stage {
    Stage::with(pool_size, |config| config.set("stats_users", "\"watcher\""))
}

fn with(pool_size: usize, tune: impl FnOnce(Config) -> Config) -> Stage {
    Stage::with(pool_size, tune)
}

/// Gives a command; it must succeed. Returns its tag.
fn give(stage: &Stage, command: &str) -> String {
    let reply = stage.console().try_query(command).unwrap();
    assert_eq!(reply.error, None, "{command}");
    reply.tags.concat()
}

/// Gives a command; it must fail.
fn refusal(stage: &Stage, command: &str) -> ErrorFields {
    stage.console().query_error(command)
}

/// A console on which a command has been sent whose answer is still to come.
fn begin(stage: &Stage, command: &str) -> Wire {
    let mut console = stage.console();
    console.set_timeout(PATIENCE);
    console.send(&query(command));
    console
}

/// The row of SHOW DATABASES for the stage's database.
fn database(stage: &Stage) -> Row {
    row(stage, "SHOW DATABASES", "name", &stage.database)
}

fn row(stage: &Stage, command: &str, column: &str, value: &str) -> Row {
    let mut rows = Console::of(&stage.pgbaton).rows(command);
    rows.retain(|row| row[column] == value);
    assert_eq!(rows.len(), 1, "{command}, {column} = {value}: {rows:?}");
    rows.swap_remove(0)
}

fn wait_until_paused(stage: &Stage) {
    assert!(eventually(PATIENCE, || database(stage)["paused"] == "1"), "not paused");
}

fn wait_for_no_backend(stage: &Stage) {
    wait_for_no_backend_of(stage);
    assert_eq!(stage.counts().sv_active + stage.counts().sv_idle, 0);
}

/// The same when pgbaton is gone.
fn wait_for_no_backend_of(stage: &Stage) {
    let gone = eventually(PATIENCE, || stage.backends().is_empty());
    assert!(gone, "{:?}", stage.backends());
}

/// The client's connection ends with this error.
fn expect_fatal(client: &mut Wire, code: &str) {
    let error = client.expect_error();
    assert_eq!((error.severity(), error.code()), ("FATAL", code), "{error:?}");
    client.expect_closed();
}

/// Every command there is, with something to work on, as SHOW HELP lists them.
fn all_commands(stage: &Stage) -> Vec<String> {
    let (_, rows) = Console::of(&stage.pgbaton).table("SHOW HELP");
    let client = row(stage, "SHOW CLIENTS", "database", &stage.database);
    let commands = rows.iter().map(|row| {
        row[0]
            .replace("[database]", &stage.database)
            .replace("database", &stage.database)
            .replace("key = value", "max_client_conn = 1")
            .replace("CLIENT id", &format!("CLIENT {}", client["id"]))
    });
    commands.collect()
}

/// CVE-2026-6667: one command of PgBouncer's lacked the check. The list is the console's own, so a
/// command that is added is tested.
#[test]
fn who_may_only_look_is_refused_everything_else() {
    let mut stage = open(1);
    let mut client = stage.client();
    client.query("begin");
    let mut commands = all_commands(&stage);
    // And without the database, where one may be left out.
    let bare = ["PAUSE", "RESUME", "RECONNECT", "KILL", "WAIT_CLOSE"].map(str::to_owned);
    commands.extend(bare);
    let login = Login::new("watcher", "pgbaton", "");
    let mut watcher = Wire::login(stage.pgbaton.address(), &login);
    let (mut shown, mut refused) = (0, 0);
    for command in &commands {
        let reply = watcher.try_query(command).unwrap();
        if command.starts_with("SHOW ") {
            assert_eq!(reply.tags, ["SHOW"], "{command}");
            shown += 1;
        } else {
            let error = reply.error.unwrap_or_else(|| panic!("{command} was carried out"));
            assert_eq!((error.severity(), error.code()), ("ERROR", "42501"), "{command}");
            assert_eq!(error.message(), "admin access needed");
            refused += 1;
        }
    }
    assert!(shown >= 10 && refused >= 13 + 5, "{commands:?}");
    let row = database(&stage);
    assert_eq!((&row["paused"][..], &row["disabled"][..]), ("0", "0"));
    let limit = self::row(&stage, "SHOW CONFIG", "key", "max_client_conn");
    assert_eq!(limit["value"], "100");
    assert_eq!(client.query("commit").tags, ["COMMIT"], "nobody was killed");
    stage.assert_settled(1);
}

#[test]
fn an_admin_may_do_everything() {
    let stage = open(2);
    let mut client = stage.client();
    client.query("select 1");
    // In an order in which each can do what it is for; SHUTDOWN has tests of its own.
    let commands = all_commands(&stage);
    let known = |text: &str| commands.iter().any(|command| command == text);
    let name = &stage.database;
    for (command, tag) in [
        (format!("DISABLE {name}"), "DISABLE"),
        (format!("ENABLE {name}"), "ENABLE"),
        (format!("RECONNECT {name}"), "RECONNECT"),
        (format!("WAIT_CLOSE {name}"), "WAIT_CLOSE"),
        (format!("PAUSE {name}"), "PAUSE"),
        (format!("RESUME {name}"), "RESUME"),
        ("SET max_client_conn = 1".to_owned(), "SET"),
        ("RELOAD".to_owned(), "RELOAD"),
        (commands.iter().find(|c| c.starts_with("KILL_CLIENT")).unwrap().clone(), "KILL_CLIENT"),
        (format!("KILL {name}"), "KILL"),
        (format!("RESUME {name}"), "RESUME"),
    ] {
        assert!(known(&command), "{command}: {commands:?}");
        assert_eq!(give(&stage, &command), tag, "{command}");
    }
    expect_fatal(&mut client, "57P01");
    assert_eq!(stage.client().query("select 1").value(), "1");
}

#[test]
fn unknown_databases_and_the_console_itself_are_refused() {
    let stage = open(1);
    for verb in ["PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "KILL", "WAIT_CLOSE"] {
        let error = refusal(&stage, &format!("{verb} nowhere"));
        assert_eq!(error.code(), "3D000", "{verb}");
        assert_eq!(error.message(), "no such database: nowhere", "{verb}");
        let error = refusal(&stage, &format!("{verb} pgbouncer"));
        assert!(error.message().ends_with("admin db: pgbouncer"), "{verb}: {error:?}");
    }
    let error = refusal(&stage, "KILL_CLIENT 4711");
    assert_eq!((error.code(), error.message()), ("42704", "no such client: 4711"));
}

#[test]
fn what_drivers_set_and_ask_for_is_answered() {
    let stage = open(1);
    let mut console = stage.console();
    assert_eq!(console.query("SET client_encoding = 'UTF8'").tags, ["SET"]);
    assert_eq!(console.query("SET datestyle TO 'ISO'; ").tags, ["SET"]);
    assert_eq!(console.query("SHOW client_encoding").value(), "UTF8");
    assert_eq!(console.query("SHOW TRANSACTION ISOLATION LEVEL").value(), "read committed");
}

#[test]
fn disabled_databases_take_no_new_clients_and_keep_the_old_ones() {
    let mut stage = open(1);
    let mut old = stage.client();
    give(&stage, &format!("DISABLE {}", stage.database));
    assert_eq!(database(&stage)["disabled"], "1");
    let refused = Wire::try_login(stage.pgbaton.address(), &stage.login());
    let error = match refused {
        Err(wire::WireError::Server(error)) => error,
        other => panic!("not refused: {:?}", other.err()),
    };
    assert_eq!((error.severity(), error.code()), ("FATAL", "55000"));
    let text = format!("database does not allow connections: {}", stage.database);
    assert_eq!(error.message(), text);
    assert_eq!(old.query("select 1").value(), "1");
    // It outlives a reload.
    give(&stage, "RELOAD");
    assert!(Wire::try_login(stage.pgbaton.address(), &stage.login()).is_err());
    give(&stage, &format!("ENABLE {}", stage.database));
    assert_eq!(stage.client().query("select 1").value(), "1");
    drop(old);
    stage.assert_settled(0);
}

#[test]
fn reconnect_closes_idle_servers_now_and_others_when_free_and_wait_close_tells_when() {
    let mut stage = open(2);
    let (mut holder, mut other) = (stage.client(), stage.client());
    holder.query("begin");
    let held = holder.query("select pg_backend_pid()").value().to_owned();
    other.query("select 1");
    assert_eq!(stage.backends().len(), 2);
    give(&stage, &format!("RECONNECT {}", stage.database));
    let one_left = eventually(PATIENCE, || stage.backends().len() == 1);
    assert!(one_left, "the idle one is closed: {:?}", stage.backends());
    let server = row(&stage, "SHOW SERVERS", "remote_pid", &held);
    assert_eq!((&server["state"][..], &server["close_needed"][..]), ("active", "1"));
    let mut waiting = begin(&stage, &format!("WAIT_CLOSE {}", stage.database));
    waiting.expect_silence(Duration::from_millis(200));
    // New work gets new servers meanwhile.
    let fresh = other.query("select pg_backend_pid()").value().to_owned();
    assert_ne!(fresh, held);
    assert_eq!(row(&stage, "SHOW SERVERS", "remote_pid", &fresh)["close_needed"], "0");
    waiting.expect_silence(Duration::from_millis(100));
    assert_eq!(holder.query("select pg_backend_pid()").value(), held);
    holder.query("commit");
    assert_eq!(waiting.receive_reply().unwrap().tags, ["WAIT_CLOSE"]);
    let pids: Vec<String> = stage.backends().iter().map(i32::to_string).collect();
    assert!(eventually(PATIENCE, || stage.backends().len() == 1), "{pids:?} less {held}");
    assert_ne!(holder.query("select pg_backend_pid()").value(), held);
    assert_eq!(give(&stage, "WAIT_CLOSE"), "WAIT_CLOSE", "nothing to wait for");
    give(&stage, "RECONNECT");
    assert!(eventually(AT_ONCE, || stage.backends().is_empty()));
    stage.assert_settled(2);
}

#[test]
fn kill_drops_clients_and_servers_at_once_and_pauses() {
    let mut stage = open(2);
    stage.sql("create table t (n int)");
    let (mut idle, mut writer, mut busy, mut waiter) =
        (stage.client(), stage.client(), stage.client(), stage.client());
    idle.query("select 1");
    writer.query("begin; insert into t values (1)");
    stage.start_query(&mut busy, "select pg_sleep(600)");
    waiter.send(&query("select 1"));
    stage.wait_for_waiting(1);
    give(&stage, &format!("KILL {}", stage.database));
    for client in [&mut idle, &mut writer, &mut busy, &mut waiter] {
        expect_fatal(client, "57P01");
    }
    // What ran is cancelled and rolled back, and no server stays.
    wait_for_no_backend(&stage);
    assert_eq!(stage.sql("select count(*) from t"), "0");
    assert_eq!(database(&stage)["paused"], "1");
    let mut next = stage.client();
    next.send(&query("select 'after'"));
    stage.wait_for_waiting(1);
    next.expect_silence(Duration::from_millis(200));
    give(&stage, &format!("RESUME {}", stage.database));
    assert_eq!(next.receive_reply().unwrap().value(), "after");
    drop((idle, writer, busy, waiter));
    stage.assert_settled(1);
}

#[test]
fn kill_leaves_other_databases_alone_and_without_a_name_kills_all() {
    let postgres = crate::support::postgres::Postgres::shared();
    let other = postgres.create_database();
    let mut stage = with(1, |config| config.database(&other, postgres, ""));
    let login = Login::new(crate::support::postgres::SUPERUSER, &other, "");
    let mut bystander = Wire::login(stage.pgbaton.address(), &login);
    bystander.query("begin");
    let mut victim = stage.client();
    give(&stage, &format!("KILL {}", stage.database));
    expect_fatal(&mut victim, "57P01");
    assert_eq!(bystander.query("commit").tags, ["COMMIT"]);
    give(&stage, "KILL");
    expect_fatal(&mut bystander, "57P01");
    assert!(eventually(PATIENCE, || postgres.connections(&other) == 0));
    assert_eq!(row(&stage, "SHOW STATE", "key", "paused")["value"], "yes");
    give(&stage, "RESUME");
    // Its own pause is still in force.
    assert_eq!(database(&stage)["paused"], "1");
    assert_eq!(Wire::login(stage.pgbaton.address(), &login).query("select 1").value(), "1");
    give(&stage, &format!("RESUME {}", stage.database));
    drop(victim);
    stage.assert_settled(0);
}

#[test]
fn kill_client_ends_one_client_and_its_query() {
    let mut stage = open(2);
    let login = stage.login().parameter("application_name", "victim");
    let mut victim = Wire::login(stage.pgbaton.address(), &login);
    let mut other = stage.client();
    other.query("begin");
    stage.start_query(&mut victim, "select pg_sleep(600)");
    let id = row(&stage, "SHOW CLIENTS", "application_name", "victim")["id"].clone();
    give(&stage, &format!("KILL_CLIENT {id}"));
    expect_fatal(&mut victim, "57P01");
    assert_eq!(other.query("commit").tags, ["COMMIT"]);
    assert_eq!(refusal(&stage, &format!("KILL_CLIENT {id}")).code(), "42704");
    drop(victim);
    stage.assert_settled(1);
}
