//! psql on the console, as an operator and as a script uses it.

use std::process::{Child, Command, Output, Stdio};

use pgbaton::cli::throwaway::Installation;
use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, Stage, database, expect_fatal, open, wait_until_paused};
use crate::support::pgbaton::eventually;

fn psql(stage: &Stage, commands: &[&str]) -> Command {
    let installation = Installation::find(None).unwrap_or_else(|e| panic!("{e}"));
    let program = installation.program("psql").unwrap_or_else(|e| panic!("{e}"));
    let port = stage.pgbaton.address().port().to_string();
    let mut psql = Command::new(program);
    psql.args(["-X", "-w", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port])
        .args(["-U", "pgbaton", "-d", "pgbouncer"])
        .args(commands.iter().flat_map(|command| ["-c", command]));
    psql
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn psql_gives_every_command() {
    let mut stage = open(1);
    let mut client = stage.client();
    client.query("select 1");
    let name = &stage.database;
    let commands =
        ["PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE", "KILL", "RESUME"];
    let mut given: Vec<String> =
        commands.iter().map(|verb| format!("{verb} \"{name}\";")).collect();
    given.extend(
        ["SET max_client_conn = '50';", "RELOAD;", "SHUTDOWN WAIT_FOR_CLIENTS;"].map(str::to_owned),
    );
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let output = psql(&stage, &given).output().unwrap();
    let (said, complained) = texts(&output);
    assert!(output.status.success(), "{said}{complained}");
    let tags: Vec<&str> = said.lines().collect();
    let expected = [&commands[..], &["SET", "RELOAD", "SHUTDOWN"]].concat();
    assert_eq!(tags, expected, "{complained}");
    expect_fatal(&mut client, "57P01");
    // It was the last client, and the order was to stop then.
    assert_eq!(stage.pgbaton.wait_for_end(PATIENCE).code(), Some(0));
}

#[test]
fn errors_reach_the_exit_status_of_psql() {
    let stage = open(1);
    for (command, words) in [
        ("PAUSE nowhere", "ERROR:  no such database: nowhere"),
        ("SET listen_port = 1", "ERROR:  listen_port cannot be changed"),
        ("RESUME", "ERROR:  pgbaton is not paused"),
    ] {
        let output = psql(&stage, &[command]).output().unwrap();
        let (_, complained) = texts(&output);
        assert!(!output.status.success() && complained.contains(words), "{command}: {complained}");
    }
}

fn interrupt(psql: &Child) {
    let pid = i32::try_from(psql.id()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
}

/// Ctrl-C sends a cancel request: the pause is taken back.
#[test]
fn control_c_in_psql_ends_a_pause() {
    let mut stage = open(1);
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = psql(&stage, &["PAUSE"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_paused(&stage);
    interrupt(&waiting);
    assert!(eventually(PATIENCE, || waiting.try_wait().unwrap().is_some()), "psql still waits");
    let (_, complained) = texts(&waiting.wait_with_output().unwrap());
    assert!(complained.contains("canceling statement due to user request"), "{complained}");
    assert_eq!(database(&stage)["paused"], "0");
    assert_eq!(holder.query("commit").tags, ["COMMIT"]);
    stage.assert_settled(1);
}
