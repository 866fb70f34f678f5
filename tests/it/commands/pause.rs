//! PAUSE and RESUME: what ends, what waits, and that whoever waits comes to an end.

use std::time::Duration;

use super::{
    AT_ONCE, PATIENCE, begin, database, expect_fatal, give, open, refusal, row,
    wait_for_no_backend, wait_until_paused, with,
};
use crate::stage::Stage;
use crate::support::console::Console;
use crate::support::pgbaton::eventually;
use crate::support::postgres::{PASSWORD, SCRAM_ROLE};
use crate::support::wire::{Login, Wire, cancel, query};

const A_WHILE: Duration = Duration::from_millis(200);

fn pause(stage: &Stage) -> String {
    format!("PAUSE {}", stage.database)
}

fn resume(stage: &Stage) -> String {
    format!("RESUME {}", stage.database)
}

#[test]
fn a_pause_waits_for_transactions_and_holds_what_comes_after() {
    let mut stage = open(2);
    let (mut holder, mut idle) = (stage.client(), stage.client());
    holder.query("begin");
    idle.query("select 1");
    let mut waiting = begin(&stage, &pause(&stage));
    wait_until_paused(&stage);
    // The idle server goes at once, although the command waits for the other.
    assert!(eventually(PATIENCE, || stage.backends().len() == 1), "{:?}", stage.backends());
    idle.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    waiting.expect_silence(A_WHILE);
    assert_eq!(holder.query("select 'goes on'").value(), "goes on");
    holder.query("commit");
    assert_eq!(waiting.receive_reply().unwrap().tags, ["PAUSE"]);
    wait_for_no_backend(&stage);
    holder.send(&query("select 'held too'"));
    stage.wait_for_waiting(2);
    idle.expect_silence(A_WHILE);
    give(&stage, &resume(&stage));
    assert_eq!(idle.receive_reply().unwrap().value(), "held");
    assert_eq!(holder.receive_reply().unwrap().value(), "held too");
    stage.assert_settled(2);
}

#[test]
fn the_held_are_served_in_order_of_arrival() {
    // With one worker the order is strict; with more it may be off by what moving a socket saves.
    let mut stage = with(1, |config| config.set("workers", "1"));
    stage.sql("create table arrivals (at serial, n int)");
    let mut clients: Vec<Wire> = (0..12).map(|_| stage.client()).collect();
    give(&stage, "PAUSE");
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&query(&format!("insert into arrivals (n) values ({n})")));
        stage.wait_for_waiting(n + 1);
    }
    let wait = Console::of(&stage.pgbaton).pool(&stage.database)["maxwait_us"].clone();
    assert_ne!(wait, "0", "they are seen to wait");
    give(&stage, "RESUME");
    for client in &mut clients {
        assert_eq!(client.receive_reply().unwrap().tags, ["INSERT 0 1"]);
    }
    let expected: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(stage.sql("select n from arrivals order by at"), expected.join(","));
    stage.assert_settled(12);
}

#[test]
fn in_session_mode_a_pause_waits_until_clients_leave() {
    let mut stage = with(2, |config| config.set("pool_mode", "\"session\""));
    let (mut client, mut next) = (stage.client(), stage.client());
    client.query("select 1");
    let mut waiting = begin(&stage, &pause(&stage));
    wait_until_paused(&stage);
    assert_eq!(client.query("select 'still served'").value(), "still served");
    next.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    waiting.expect_silence(A_WHILE);
    drop(client);
    assert_eq!(waiting.receive_reply().unwrap().tags, ["PAUSE"]);
    give(&stage, &resume(&stage));
    assert_eq!(next.receive_reply().unwrap().value(), "held");
    drop(next);
    stage.assert_settled(0);
}

/// PgBouncer's issue 715: the PAUSE waited for ever.
#[test]
fn a_resume_ends_a_pause_that_waits_with_an_error() {
    let mut stage = open(2);
    let (mut holder, mut held) = (stage.client(), stage.client());
    holder.query("begin");
    for command in [pause(&stage), "PAUSE".to_owned()] {
        let mut waiting = begin(&stage, &command);
        wait_until_paused(&stage);
        held.send(&query("select 'held'"));
        stage.wait_for_waiting(1);
        give(&stage, &command.replace("PAUSE", "RESUME"));
        let error = waiting.receive_reply().unwrap().error.expect("an error");
        assert_eq!((error.severity(), error.code()), ("ERROR", "55000"));
        assert_eq!(error.message(), "RESUME came before all servers were closed");
        assert_eq!(held.receive_reply().unwrap().value(), "held");
        assert_eq!(waiting.query("SHOW STATE").tags, ["SHOW"], "the console goes on");
        assert_eq!(database(&stage)["paused"], "0");
    }
    holder.query("commit");
    stage.assert_settled(2);
}

#[test]
fn a_cancel_request_ends_a_pause_and_takes_it_back() {
    let mut stage = open(1);
    let (mut holder, mut held) = (stage.client(), stage.client());
    holder.query("begin");
    let mut waiting = begin(&stage, &pause(&stage));
    wait_until_paused(&stage);
    held.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    // A wrong secret does nothing.
    cancel(stage.pgbaton.address(), waiting.pid, &[0; 4]);
    waiting.expect_silence(A_WHILE);
    cancel(stage.pgbaton.address(), waiting.pid, &waiting.secret.clone());
    let error = waiting.receive_reply().unwrap().error.expect("an error");
    assert_eq!(error.code(), "57014");
    assert_eq!(database(&stage)["paused"], "0");
    holder.query("commit");
    assert_eq!(held.receive_reply().unwrap().value(), "held");
    // A cancel that comes too late hits nothing.
    cancel(stage.pgbaton.address(), waiting.pid, &waiting.secret.clone());
    assert_eq!(waiting.query(&pause(&stage)).tags, ["PAUSE"]);
    assert_eq!(waiting.query(&resume(&stage)).tags, ["RESUME"]);
    stage.assert_settled(2);
}

#[test]
fn wait_close_is_cancelled_too() {
    let mut stage = open(1);
    let mut holder = stage.client();
    holder.query("begin");
    give(&stage, "RECONNECT");
    let mut waiting = begin(&stage, "WAIT_CLOSE");
    waiting.expect_silence(A_WHILE);
    cancel(stage.pgbaton.address(), waiting.pid, &waiting.secret.clone());
    assert_eq!(waiting.receive_reply().unwrap().error.expect("an error").code(), "57014");
    holder.query("commit");
    stage.assert_settled(1);
}

#[test]
fn a_console_that_leaves_takes_back_the_pause_it_waits_for_and_no_other() {
    let mut stage = open(1);
    let mut holder = stage.client();
    holder.query("begin");
    for say_goodbye in [false, true] {
        let mut waiting = begin(&stage, &pause(&stage));
        wait_until_paused(&stage);
        if say_goodbye {
            waiting.send(&crate::support::wire::terminate());
            waiting.expect_closed();
        }
        drop(waiting);
        let taken_back = eventually(PATIENCE, || database(&stage)["paused"] == "0");
        assert!(taken_back, "said goodbye: {say_goodbye}");
    }
    // One that has come to its end stays, whoever leaves; so does one that another waits for.
    let (one, mut two) = (begin(&stage, &pause(&stage)), begin(&stage, &pause(&stage)));
    wait_until_paused(&stage);
    two.expect_silence(A_WHILE);
    drop(one);
    two.expect_silence(A_WHILE);
    assert_eq!(database(&stage)["paused"], "1");
    holder.query("commit");
    assert_eq!(two.receive_reply().unwrap().tags, ["PAUSE"]);
    drop(two);
    let mut held = stage.client();
    held.send(&query("select 'held'"));
    held.expect_silence(A_WHILE);
    give(&stage, &resume(&stage));
    assert_eq!(held.receive_reply().unwrap().value(), "held");
    stage.assert_settled(2);
}

#[test]
fn several_pauses_at_once_all_return() {
    let mut stage = open(1);
    let mut holder = stage.client();
    holder.query("begin");
    let commands = [pause(&stage), "PAUSE".to_owned(), pause(&stage), "PAUSE".to_owned()];
    let mut waiting: Vec<Wire> = commands.iter().map(|command| begin(&stage, command)).collect();
    waiting.iter_mut().for_each(|console| console.expect_silence(Duration::from_millis(50)));
    holder.query("commit");
    for console in &mut waiting {
        assert_eq!(console.receive_reply().unwrap().tags, ["PAUSE"]);
    }
    // Paused already: it returns at once.
    assert_eq!(give(&stage, &pause(&stage)), "PAUSE");
    let mut held = stage.client();
    held.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    // Both pauses must be ended.
    give(&stage, "RESUME");
    held.expect_silence(A_WHILE);
    give(&stage, &resume(&stage));
    assert_eq!(held.receive_reply().unwrap().value(), "held");
    for (command, text) in [
        ("RESUME".to_owned(), "pgbaton is not paused".to_owned()),
        (resume(&stage), format!("database {} is not paused", stage.database)),
    ] {
        let error = refusal(&stage, &command);
        assert_eq!((error.code(), error.message()), ("55000", &text[..]));
    }
    stage.assert_settled(2);
}

#[test]
fn a_pause_outlives_a_reload_and_holds_pools_made_later() {
    let stage = with(1, |config| config.user(SCRAM_ROLE, &format!("password = \"{PASSWORD}\"")));
    let mut first = stage.client();
    first.query("select 1");
    give(&stage, &pause(&stage));
    give(&stage, "RELOAD");
    assert_eq!(database(&stage)["paused"], "1");
    // Its pool does not exist yet, and its login needs a server.
    let login = Login::new(SCRAM_ROLE, &stage.database, PASSWORD);
    let mut second = Wire::connect(stage.pgbaton.address());
    second.send_startup(&login).unwrap();
    first.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    let waits = || {
        let rows = Console::of(&stage.pgbaton).rows("SHOW POOLS");
        rows.iter().any(|row| {
            row["user"] == SCRAM_ROLE && row["cl_waiting"] == "1" && row["paused"] == "1"
        })
    };
    assert!(eventually(PATIENCE, waits), "{:?}", Console::of(&stage.pgbaton).rows("SHOW POOLS"));
    first.expect_silence(A_WHILE);
    assert_eq!(stage.backends(), [0_i32; 0]);
    give(&stage, &resume(&stage));
    second.authenticate(&login).unwrap();
    assert_eq!(second.query("select current_user").value(), SCRAM_ROLE);
    assert_eq!(first.receive_reply().unwrap().value(), "held");
}

#[test]
fn the_held_are_turned_away_after_query_wait_timeout() {
    let mut stage = with(1, |config| config.set("query_wait_timeout", "\"300ms\""));
    let mut client = stage.client();
    give(&stage, &pause(&stage));
    client.send(&query("select 1"));
    expect_fatal(&mut client, "53300");
    give(&stage, &resume(&stage));
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn held_clients_come_and_go_and_leave_nothing() {
    let mut stage = open(2);
    // The first login of all waits for a server to tell what clients are greeted with.
    stage.client().query("select 1");
    give(&stage, "PAUSE");
    let mut clients: Vec<Wire> = (0..20)
        .map(|_| {
            let mut client = stage.client();
            client.send(&query("select 1"));
            client
        })
        .collect();
    stage.wait_for_waiting(20);
    clients.truncate(7);
    stage.wait_for_waiting(7);
    // A smaller and a larger pool, and servers made stale, while all wait.
    give(&stage, "SET max_db_connections = 1");
    give(&stage, "RECONNECT");
    give(&stage, "RESUME");
    for client in &mut clients {
        assert_eq!(client.receive_reply().unwrap().value(), "1");
    }
    stage.assert_settled(7);
}

#[test]
fn a_paused_server_may_be_restarted_under_its_clients() {
    let mut postgres = crate::support::postgres::Postgres::start(&[]);
    let database = postgres.create_database();
    let config = crate::support::pgbaton::Config::new().database(&database, &postgres, "");
    let pgbaton = crate::support::pgbaton::Pgbaton::start(&config);
    let login = Login::new(crate::support::postgres::SUPERUSER, &database, "");
    let mut clients: Vec<Wire> = (0..10).map(|_| Wire::login(pgbaton.address(), &login)).collect();
    let mut console = crate::stage::console(&pgbaton);
    for _ in 0..2 {
        assert_eq!(console.query("PAUSE").tags, ["PAUSE"]);
        clients.iter_mut().for_each(|client| client.send(&query("select 'unharmed'")));
        postgres.restart();
        assert_eq!(console.query("RESUME").tags, ["RESUME"]);
        for client in &mut clients {
            assert_eq!(client.receive_reply().unwrap().value(), "unharmed");
        }
    }
}

#[test]
fn signals_pause_and_resume_too() {
    let mut stage = open(1);
    let mut client = stage.client();
    client.query("select 1");
    stage.pgbaton.signal(rustix::process::Signal::USR1);
    wait_for_no_backend(&stage);
    assert_eq!(row(&stage, "SHOW STATE", "key", "active")["value"], "no");
    client.send(&query("select 'held'"));
    stage.wait_for_waiting(1);
    stage.pgbaton.signal(rustix::process::Signal::USR2);
    client.set_timeout(AT_ONCE);
    assert_eq!(client.receive_reply().unwrap().value(), "held");
    stage.assert_settled(1);
}
