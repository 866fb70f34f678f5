//! SHUTDOWN in its three forms: who is told what, and when the process ends.

use std::time::Duration;

use super::{PATIENCE, Stage, begin, expect_fatal, open, refusal, wait_until_paused, with};
use crate::support::wire::{Wire, query};

const A_WHILE: Duration = Duration::from_millis(300);

fn expect_end(stage: &mut Stage) {
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", stage.pgbaton.log());
}

fn is_refused(stage: &Stage) -> bool {
    std::net::TcpStream::connect(stage.pgbaton.address()).is_err()
}

#[test]
fn at_once_everybody_is_told_and_what_runs_is_rolled_back() {
    let mut stage = open(2);
    stage.sql("create table t (n int)");
    let (mut writer, mut idle) = (stage.client(), stage.client());
    writer.query("begin; insert into t values (1)");
    let mut console = begin(&stage, "SHUTDOWN");
    assert_eq!(console.receive_reply().unwrap().tags, ["SHUTDOWN"]);
    expect_fatal(&mut writer, "57P01");
    expect_fatal(&mut idle, "57P01");
    console.expect_closed();
    expect_end(&mut stage);
    super::wait_for_no_backend_of(&stage);
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn wait_for_servers_lets_transactions_end_and_holds_the_rest() {
    let mut stage = with(2, |config| config.set("stats_users", "\"watcher\""));
    stage.sql("create table t (n int)");
    let (mut writer, mut other) = (stage.client(), stage.client());
    writer.query("begin; insert into t values (1)");
    let mut console = stage.console();
    let mut second = stage.console();
    assert_eq!(console.query("SHUTDOWN WAIT_FOR_SERVERS").tags, ["SHUTDOWN"]);
    let closed = crate::support::pgbaton::eventually(PATIENCE, || is_refused(&stage));
    assert!(closed, "it takes no new clients");
    other.send(&query("select 1"));
    other.expect_silence(A_WHILE);
    // Nobody may let the held go on: their servers would have to be waited for.
    let error = second.query_error("RESUME");
    assert_eq!((error.code(), error.message()), ("55000", "pgbaton is shutting down"));
    writer.query("insert into t values (2)");
    assert_eq!(writer.query("commit").tags, ["COMMIT"], "it is let to end");
    expect_fatal(&mut other, "57P01");
    expect_fatal(&mut writer, "57P01");
    console.expect_closed();
    expect_end(&mut stage);
    assert_eq!(stage.sql("select count(*) from t"), "2");
}

#[test]
fn wait_for_clients_serves_them_until_they_leave() {
    let mut stage = open(1);
    let (mut one, two) = (stage.client(), stage.client());
    let mut console = stage.console();
    assert_eq!(console.query("SHUTDOWN WAIT_FOR_CLIENTS").tags, ["SHUTDOWN"]);
    let closed = crate::support::pgbaton::eventually(PATIENCE, || is_refused(&stage));
    assert!(closed, "it takes no new clients");
    drop(two);
    for _ in 0..3 {
        assert_eq!(one.query("select 'served'").value(), "served");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(stage.pgbaton.is_running());
    assert_eq!(console.query("SHOW STATE").tags, ["SHOW"], "the console goes on");
    drop(one);
    console.expect_closed();
    expect_end(&mut stage);
}

#[test]
fn a_shutdown_that_waits_can_be_cut_short() {
    for (first, how) in [("WAIT_FOR_CLIENTS", "order"), ("WAIT_FOR_SERVERS", "signal")] {
        let mut stage = open(1);
        let mut client = stage.client();
        client.query("begin");
        let mut console = stage.console();
        console.query(&format!("SHUTDOWN {first}"));
        client.query("select 1");
        match how {
            "order" => console.send(&query("SHUTDOWN")),
            _ => stage.pgbaton.signal(rustix::process::Signal::INT),
        }
        expect_fatal(&mut client, "57P01");
        expect_end(&mut stage);
    }
}

#[test]
fn a_pause_that_waits_does_not_hold_up_a_shutdown() {
    let mut stage = open(1);
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = begin(&stage, "PAUSE");
    wait_until_paused(&stage);
    let mut held: Wire = stage.client();
    held.send(&query("select 1"));
    stage.wait_for_waiting(1);
    assert_eq!(refusal(&stage, "SHUTDOWN SOON").code(), "42601");
    super::give(&stage, "SHUTDOWN");
    waiting.expect_closed();
    expect_fatal(&mut holder, "57P01");
    expect_fatal(&mut held, "57P01");
    expect_end(&mut stage);
}
