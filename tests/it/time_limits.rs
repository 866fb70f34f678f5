//! Limits on how long a client may be idle, in a transaction or in a query (row C11 of the project's
//! table of faults): the right client is ended, its server lives, and nobody else notices.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage};
use crate::support::pgbaton::eventually;
use crate::support::wire::{self, Wire, WireError, execute, flush, parse, query};

/// Shorter than any patience, longer than a round trip on a loaded machine.
const LIMIT: &str = "\"300ms\"";
/// Within this no limit can have passed.
const SOON: Duration = Duration::from_millis(60);

fn stage(pool_size: usize, key: &str) -> Stage {
    Stage::with(pool_size, |config| config.set(key, LIMIT))
}

/// Code and words of the FATAL error that ends a client.
fn end(client: &mut Wire) -> (String, String) {
    loop {
        match client.receive() {
            Ok(message) if message.tag == b'E' => {
                let error = wire::ErrorFields::parse(&message.body);
                assert_eq!(error.severity(), "FATAL");
                client.expect_closed();
                return (error.code().to_owned(), error.message().to_owned());
            }
            Ok(_) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
}

fn is(code: &str, words: &str) -> (String, String) {
    (code.to_owned(), words.to_owned())
}

#[test]
fn c11_a_client_idle_in_a_transaction_is_ended_and_rolled_back() {
    let mut stage = stage(1, "idle_transaction_timeout");
    stage.sql("create table t (n int)");
    let mut bystander = stage.client();
    for begin in ["begin; insert into t values (1)", "begin; insert into t values (1); select 1/0"]
    {
        let mut client = stage.client();
        let pid = client.query("select pg_backend_pid()").value().to_owned();
        client.send(&query(begin));
        client.receive_reply().unwrap();
        client.expect_silence(SOON);
        assert_eq!(end(&mut client), is("25P03", "idle transaction timeout"));
        // The server was rolled back, not closed.
        let same = || bystander.query("select pg_backend_pid()").value() == pid;
        assert!(eventually(PATIENCE, same), "{begin}");
    }
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.pgbaton.wait_for_log("idle transaction timeout");
    stage.assert_settled(1);
}

#[test]
fn c11_activity_in_a_transaction_puts_the_limit_off() {
    let mut stage = stage(1, "idle_transaction_timeout");
    let mut client = stage.client();
    client.query("begin");
    for _ in 0..10 {
        // Together well beyond the limit; a query as long as it likes is no idleness.
        client.expect_silence(SOON);
        client.query("select pg_sleep(0.06)");
    }
    client.query("select pg_sleep(0.6)");
    client.query("commit");
    // Nor is an idle client that is in no transaction.
    client.expect_silence(Duration::from_millis(600));
    client.query("select 'still here'");
    stage.assert_settled(1);
}

#[test]
fn c11_half_a_request_is_no_activity() {
    let mut stage = stage(1, "idle_transaction_timeout");
    let mut client = stage.client();
    client.query("begin");
    client.send(&query("select 1")[..8]);
    assert_eq!(end(&mut client).0, "25P03");
    stage.assert_settled(0);
}

#[test]
fn c11_in_session_mode_too() {
    let mut stage = Stage::with(1, |config| {
        let config = config.set("pool_mode", "\"session\"");
        config.set("idle_transaction_timeout", LIMIT).set("client_idle_timeout", LIMIT)
    });
    let mut client = stage.client();
    client.query("select 1");
    // It has its server: idle, but not in a transaction.
    client.expect_silence(Duration::from_millis(700));
    client.query("begin");
    assert_eq!(end(&mut client).0, "25P03");
    stage.assert_settled(0);
}

#[test]
fn a_transaction_that_takes_too_long_is_ended_however_busy_it_is() {
    let mut stage = stage(1, "transaction_timeout");
    let mut client = stage.client();
    // Outside of a transaction nothing is limited.
    client.query("select 1");
    client.expect_silence(Duration::from_millis(500));
    client.query("begin");
    let ended = loop {
        match client.try_query("select pg_sleep(0.01)") {
            Ok(reply) => assert_eq!(reply.error, None),
            Err(WireError::Server(error)) => {
                break (error.code().to_owned(), error.message().to_owned());
            }
            // It was sending when it was ended; the words are there to be read.
            Err(WireError::Io(_)) => break end(&mut client),
            Err(e) => panic!("{e:?}"),
        }
    };
    assert_eq!(ended, is("25P04", "transaction timeout"));
    let mut long = stage.client();
    long.send(&query("select pg_sleep(603)"));
    assert_eq!(end(&mut long).0, "25P04");
    // Its query was cancelled.
    stage.assert_settled(0);
}

#[test]
fn a_query_that_takes_too_long_is_cancelled_and_its_client_ended() {
    let mut stage = stage(1, "query_timeout");
    let mut client = stage.client();
    for n in 0..8 {
        client.query(&format!("select {n}, pg_sleep(0.06)"));
    }
    client.query("begin");
    client.expect_silence(Duration::from_millis(600));
    client.query("commit");
    let mut slow = stage.client();
    slow.send(&query("select pg_sleep(604)"));
    assert_eq!(end(&mut slow), is("57014", "query timeout"));
    // What is answered is answered, though the server waits for a Sync.
    let mut failed = stage.client();
    failed.send(&[parse("", "select 1"), execute("unheard_of", 0), flush()].concat());
    failed.expect(b'1');
    assert_eq!(failed.expect_error().code(), "34000");
    failed.expect_silence(Duration::from_millis(600));
    failed.send(&wire::sync());
    assert_eq!(failed.expect_ready(), b'I');
    stage.assert_settled(2);
}

#[test]
fn an_idle_client_is_ended_unless_it_waits() {
    let mut stage = stage(1, "client_idle_timeout");
    let (mut idle, mut busy, mut waiting) = (stage.client(), stage.client(), stage.client());
    busy.query("begin");
    waiting.send(&query("select 'waited'"));
    stage.wait_for_waiting(1);
    idle.expect_silence(SOON);
    assert_eq!(end(&mut idle), is("57P05", "client_idle_timeout"));
    busy.query("commit");
    assert_eq!(waiting.receive_reply().unwrap().value(), "waited");
    // Then they are idle as well.
    assert_eq!(end(&mut busy).0, "57P05");
    assert_eq!(end(&mut waiting).0, "57P05");
    stage.assert_settled(0);
}

#[test]
fn a_users_own_limits_and_a_reload_count() {
    let mut stage =
        Stage::with(2, |config| config.user("scram_role", "idle_transaction_timeout = \"300ms\""));
    let login = wire::Login::new("scram_role", &stage.database, "");
    let mut limited = Wire::login(stage.pgbaton.address(), &login);
    let mut free = stage.client();
    limited.query("begin");
    free.query("begin");
    assert_eq!(end(&mut limited).0, "25P03");
    free.query("select 'not limited'");
    let config = stage.config.clone().set("idle_transaction_timeout", LIMIT);
    stage.pgbaton.reload(&config);
    assert_eq!(end(&mut free).0, "25P03");
    assert!(stage.pgbaton.is_running());
}
