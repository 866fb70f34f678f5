//! Statement mode: a server for one statement at a time, and no transaction blocks.

use std::collections::BTreeSet;

use super::{House, backend};
use crate::support::pgbaton::{PATIENCE, eventually};
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Wire, WireError, bind, execute, parse, query, sync};

fn house(pool_size: usize) -> House {
    House::open(pool_size, |config| config.set("pool_mode", "\"statement\""))
}

/// The FATAL error that the client must have been ended with.
fn refusal(client: &mut Wire) -> String {
    loop {
        match client.receive() {
            Ok(message) if message.tag == b'E' => {
                let error = wire::ErrorFields::parse(&message.body);
                if error.severity() == "ERROR" {
                    continue;
                }
                assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"), "{error:?}");
                client.expect_closed();
                return error.message().to_owned();
            }
            // The BEGIN itself may be answered; that a block is open must not be told.
            Ok(message) => assert_ne!(message.tag, b'Z', "{message:?}"),
            Err(e) => panic!("{e:?}"),
        }
    }
}

const REFUSAL: &str = "transaction blocks not allowed in statement pooling mode";

#[test]
fn clients_take_turns_statement_by_statement() {
    let house = house(1);
    let mut clients = [house.client(), house.client(), house.client()];
    let mut seen = BTreeSet::new();
    for round in 0..5 {
        for client in &mut clients {
            seen.insert(backend(client));
            assert_eq!(client.query(&format!("select {round}")).value(), round.to_string());
        }
    }
    assert_eq!((seen.len(), house.servers()), (1, 1));
}

#[test]
fn a_transaction_block_ends_its_client_and_is_rolled_back() {
    let house = house(1);
    house.client().query("create table t (n int)");
    let pid = backend(&mut house.client());
    let extended = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat();
    for block in [
        query("begin"),
        query("start transaction read only"),
        query("insert into t values (1); begin; insert into t values (2)"),
        extended("begin"),
        query("begin; select 1/0"),
    ] {
        let mut client = house.client();
        client.send(&block);
        assert_eq!(refusal(&mut client), REFUSAL, "{}", block.escape_ascii());
    }
    let mut client = house.client();
    // The server lives, and is in no transaction.
    assert_eq!(backend(&mut client), pid);
    // What was committed by the BEGIN itself is what PostgreSQL commits there.
    assert_eq!(client.query("select count(*) from t where n = 2").value(), "0");
    house.console().wait_for(&house.database, ["sv_idle", "sv_active"], [1, 0]);
}

#[test]
fn what_is_pipelined_behind_a_begin_does_not_hide_it() {
    let house = house(1);
    house.client().query("create table t (n int)");
    let mut client = house.client();
    client.send(&[query("begin"), query("insert into t values (1)"), query("commit")].concat());
    let end = loop {
        match client.receive() {
            Ok(message) if message.tag == b'E' => break wire::ErrorFields::parse(&message.body),
            Ok(_) => {}
            Err(WireError::Closed) => panic!("closed without a word"),
            Err(e) => panic!("{e:?}"),
        }
    };
    assert_eq!(end.message(), REFUSAL);
    client.expect_closed();
    assert_eq!(backend(&mut house.client()), backend(&mut house.client()));
}

#[test]
fn several_statements_of_one_query_or_one_sync_are_one_statement() {
    let house = house(2);
    let mut client = house.client();
    client.query("create table t (n int primary key)");
    let reply = client.try_query("insert into t values (1); insert into t values (1)").unwrap();
    assert_eq!(reply.error.unwrap().code(), "23505");
    assert_eq!(client.query("select count(*) from t").value(), "0");
    let insert = [parse("", "insert into t values (2)"), bind("", "", &[]), execute("", 0)];
    client.send(&[insert.concat(), insert.concat(), sync()].concat());
    assert_eq!(client.receive_reply().unwrap().error.unwrap().code(), "23505");
    assert_eq!(client.query("select count(*) from t").value(), "0");
}

#[test]
fn named_statements_and_settings_follow_their_client() {
    let house = house(2);
    let mut clients: Vec<Wire> = (0..6).map(|_| house.client()).collect();
    let mut pids = BTreeSet::new();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("set application_name = 'client {number}'"));
        let sql = "select current_setting('application_name'), pg_backend_pid(), pg_sleep(0.005)";
        client.send(&[parse("s", sql), sync()].concat());
        assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "1Z");
    }
    for _ in 0..5 {
        for client in &mut clients {
            client.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let reply = client.receive_reply().unwrap();
            assert_eq!(reply.value(), format!("client {number}"));
            pids.insert(reply.rows[0][1].clone());
        }
    }
    assert_eq!(pids.len(), 2);
}

#[test]
fn copy_and_cancel_work() {
    let house = house(1);
    let mut client = house.client();
    client.query("create table t (n int)");
    client.send(&query("copy t from stdin"));
    client.expect(b'G');
    client.send(&[wire::message(b'd', b"1\n2\n"), wire::message(b'c', b"")].concat());
    assert_eq!(client.receive_reply().unwrap().tags, ["COPY 2"]);
    client.send(&query("select pg_sleep(601)"));
    let runs = || {
        Postgres::shared().sql(
            "postgres",
            "select count(*) from pg_stat_activity where query = 'select pg_sleep(601)'",
        ) != "0"
    };
    assert!(eventually(PATIENCE, runs));
    wire::cancel(house.pgbaton.address(), client.pid, &client.secret);
    assert_eq!(client.receive_reply().unwrap().error.unwrap().code(), "57014");
    assert_eq!(client.query("select count(*) from t").value(), "2");
}
