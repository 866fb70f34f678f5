//! Named prepared statements in transaction mode: they belong to a client, on whichever server.

use std::collections::BTreeSet;

use super::{House, backend, hold};
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Wire, bind, describe, execute, parse, query, sync};

/// Parse and Sync, which must succeed.
fn prepare(wire: &mut Wire, name: &str, sql: &str) {
    wire.send(&[parse(name, sql), sync()].concat());
    assert_eq!(wire::tags(&wire.receive_until_ready().unwrap()), "1Z");
}

/// Bind, Execute and Sync; the rows.
fn run(wire: &mut Wire, name: &str, values: &[Option<&str>]) -> Vec<Vec<Option<String>>> {
    wire.send(&[bind("", name, values), execute("", 0), sync()].concat());
    let reply = wire.receive_reply().unwrap();
    assert_eq!(reply.error, None);
    reply.rows
}

fn value(wire: &mut Wire, name: &str) -> String {
    run(wire, name, &[])[0][0].clone().unwrap()
}

/// Runs `ask` twice, on either of two servers; checks that it was so by what it returns.
fn on_both_servers(house: &House, mut ask: impl FnMut() -> i32) {
    let (mut first, mut second) = (house.client(), house.client());
    let first_pid = hold(&mut first);
    let asked_first = ask();
    let second_pid = hold(&mut second);
    first.query("commit");
    let asked_second = ask();
    second.query("commit");
    assert_ne!(first_pid, second_pid);
    assert_eq!((asked_first, asked_second), (second_pid, first_pid));
}

#[test]
fn a_statement_is_known_on_every_server() {
    let house = House::transaction(2);
    let mut client = house.client();
    prepare(&mut client, "who", "select pg_backend_pid(), $1::text");
    for text in ["first", "second"] {
        on_both_servers(&house, || {
            let rows = run(&mut client, "who", &[Some(text)]);
            assert_eq!(rows[0][1].as_deref(), Some(text));
            rows[0][0].as_ref().unwrap().parse().unwrap()
        });
    }
    assert_eq!(house.servers(), 2);
}

#[test]
fn a_statement_is_described_on_every_server() {
    let house = House::transaction(2);
    let mut client = house.client();
    prepare(&mut client, "who", "select $1::int as a, $2::text as b");
    on_both_servers(&house, || {
        client.send(&[describe(b'S', "who"), sync()].concat());
        let reply = client.receive_until_ready().unwrap();
        assert_eq!(wire::tags(&reply), "tTZ");
        assert_eq!(wire::column_names(&reply[1].body), ["a", "b"]);
        backend(&mut client)
    });
}

#[test]
fn a_pipeline_of_statements_moves_as_a_whole() {
    let house = House::transaction(2);
    let mut client = house.client();
    for name in ["a", "b", "c"] {
        prepare(&mut client, name, &format!("select '{name}', pg_backend_pid()"));
    }
    on_both_servers(&house, || {
        let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
        client.send(&[run("a"), run("b"), run("c"), run("a"), sync()].concat());
        let reply = client.receive_reply().unwrap();
        let names: Vec<&str> = reply.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c", "a"]);
        let pids: BTreeSet<_> = reply.rows.iter().map(|row| row[1].clone()).collect();
        assert_eq!(pids.len(), 1);
        reply.rows[0][1].as_ref().unwrap().parse().unwrap()
    });
}

#[test]
fn one_name_means_to_each_client_its_own_statement() {
    let house = House::transaction(1);
    let mut clients: Vec<Wire> = (0..12).map(|_| house.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        prepare(client, "s", &format!("select {number}"));
    }
    for _ in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(value(client, "s"), number.to_string());
        }
    }
    assert_eq!(house.servers(), 1);
}

#[test]
fn one_text_is_parsed_once_for_all_clients() {
    let house = House::transaction(1);
    let mut clients: Vec<Wire> = (0..5).map(|_| house.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let name = format!("name_of_{number}");
        prepare(client, &name, "select 'shared'");
        assert_eq!(value(client, &name), "shared");
    }
    let known = clients[0]
        .query("select count(*) from pg_prepared_statements where statement = 'select ''shared'''");
    assert_eq!(known.value(), "1");
}

#[test]
fn a_name_ends_with_its_client() {
    let house = House::transaction(1);
    let mut first = house.client();
    prepare(&mut first, "gone", "select 1");
    let pid = backend(&mut first);
    first.send(&wire::terminate());
    first.expect_closed();
    let mut second = house.client();
    assert_eq!(backend(&mut second), pid);
    second.send(&[bind("", "gone", &[]), sync()].concat());
    assert_eq!(second.expect_error().code(), "26000");
    assert_eq!(second.expect_ready(), b'I');
}

#[test]
fn forgetting_all_is_one_clients_affair() {
    for forget in ["deallocate all", "discard all"] {
        let house = House::transaction(1);
        let (mut one, mut other) = (house.client(), house.client());
        prepare(&mut one, "s", "select 'one'");
        prepare(&mut other, "s", "select 'other'");
        assert_eq!((value(&mut one, "s"), value(&mut other, "s")), ("one".into(), "other".into()));
        one.query(forget);
        assert_eq!(value(&mut other, "s"), "other", "{forget}");
        one.send(&[bind("", "s", &[]), sync()].concat());
        assert_eq!(one.expect_error().code(), "26000", "{forget}");
        assert_eq!(one.expect_ready(), b'I');
        prepare(&mut one, "s", "select 'again'");
        assert_eq!(value(&mut one, "s"), "again");
        assert_eq!(house.servers(), 1);
    }
}

#[test]
fn a_server_keeps_no_more_statements_than_allowed_and_clients_do_not_notice() {
    let house = House::open(1, |config| config.set("max_prepared_statements", "3"));
    let mut client = house.client();
    for n in 0..10 {
        prepare(&mut client, &format!("s{n}"), &format!("select {n}"));
    }
    for n in (0..10).chain([0, 9, 0, 5]) {
        assert_eq!(value(&mut client, &format!("s{n}")), n.to_string());
    }
    let kept = client.query("select count(*) from pg_prepared_statements where name <> ''");
    assert_eq!(kept.value(), "3");
}

#[test]
fn ten_statements_in_one_pipeline_on_a_server_that_keeps_three() {
    let house = House::open(1, |config| config.set("max_prepared_statements", "3"));
    let mut client = house.client();
    let names: Vec<String> = (0..10).map(|n| format!("s{n}")).collect();
    let all_parsed = names.iter().map(|name| parse(name, &format!("select '{name}'")));
    client.send(&[all_parsed.collect::<Vec<_>>().concat(), sync()].concat());
    assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "1111111111Z");
    let run = |name: &String| [bind("", name, &[]), execute("", 0)].concat();
    let all_run: Vec<Vec<u8>> = names.iter().map(run).collect();
    for _ in 0..3 {
        client.send(&[all_run.concat(), sync()].concat());
        let reply = client.receive_reply().unwrap();
        let got: Vec<&str> = reply.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!((got, reply.error), (names.iter().map(String::as_str).collect(), None));
    }
}

#[test]
fn without_the_support_names_go_to_the_server_as_they_are() {
    let house = House::open(1, |config| config.set("max_prepared_statements", "0"));
    let mut client = house.client();
    prepare(&mut client, "as_it_is", "select 1");
    let names = client.query("select string_agg(name, ',') from pg_prepared_statements");
    assert_eq!(names.value(), "as_it_is");
}

#[test]
fn a_statement_survives_the_loss_of_its_server() {
    let house = House::transaction(1);
    let mut client = house.client();
    prepare(&mut client, "s", "select 'still here'");
    let pid = backend(&mut client);
    Postgres::shared().sql("postgres", &format!("select pg_terminate_backend({pid}, 5000)"));
    house.console().wait_for(&house.database, ["sv_idle", "sv_active"], [0, 0]);
    assert_eq!(value(&mut client, "s"), "still here");
    assert_ne!(backend(&mut client), pid);
}

#[test]
fn a_statement_prepared_in_a_transaction_that_fails_is_there_on_the_other_server() {
    let house = House::transaction(2);
    let mut client = house.client();
    client.query("begin");
    prepare(&mut client, "s", "select pg_backend_pid()");
    client.query_error("selekt");
    client.query("rollback");
    on_both_servers(&house, || value(&mut client, "s").parse().unwrap());
}

#[test]
fn a_pool_of_clients_under_way_get_their_own_answers() {
    let house = House::open(2, |config| config.set("max_prepared_statements", "5"));
    let mut clients: Vec<Wire> = (0..10).map(|_| house.client()).collect();
    let mut pids = BTreeSet::new();
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            let sql = format!("select {number} * 1000 + $1::int, pg_backend_pid()");
            if round == 0 {
                client.send(&[parse("s", &sql), describe(b'S', "s")].concat());
            }
            let round = round.to_string();
            client.send(&[bind("", "s", &[Some(&round)]), execute("", 0), sync()].concat());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let reply = client.receive_reply().unwrap();
            assert_eq!(reply.error, None);
            assert_eq!(reply.value(), (number * 1000 + round).to_string());
            pids.insert(reply.rows[0][1].clone());
        }
    }
    assert_eq!(pids.len(), 2);
    clients[0].send(&query("select 1"));
    assert_eq!(clients[0].receive_reply().unwrap().value(), "1");
}

#[test]
fn l04_nobody_runs_a_strangers_unnamed_statement() {
    let house = House::open(1, |config| config);
    let (mut first, mut second) = (house.client(), house.client());
    prepare(&mut first, "", "select 'first'");
    prepare(&mut second, "", "select 'second'");
    for _ in 0..2 {
        assert_eq!(
            (value(&mut first, ""), value(&mut second, "")),
            ("first".into(), "second".into())
        );
    }
    let mut third = house.client();
    let ask = [bind("", "", &[]), execute("", 0), sync()].concat();
    let look = [describe(b'S', ""), sync()].concat();
    for script in [&ask, &look] {
        third.send(script);
        let error = third.expect_error();
        assert_eq!(error.code(), "26000");
        assert_eq!(error.message(), "unnamed prepared statement does not exist");
        assert_eq!(third.expect_ready(), b'I');
    }
    // Asked for in a transaction it fails the transaction, as a missing statement does.
    third.query("begin");
    third.send(&ask);
    third.expect_error();
    assert_eq!(third.expect_ready(), b'E');
    third.query("rollback");
    // Parse and Bind together are not concerned.
    third.send(&[parse("", "select 'third'"), ask.clone()].concat());
    assert_eq!(third.receive_reply().unwrap().value(), "third");
    assert_eq!((value(&mut first, ""), value(&mut third, "")), ("first".into(), "third".into()));
    assert_eq!(house.servers(), 1, "all of it on one server");
}

#[test]
fn the_unnamed_statement_follows_its_client_to_every_server() {
    // Kept whether short or long, and with named statements or without.
    for (named_max, padding) in [("200", 0), ("200", 100_000), ("0", 0)] {
        let house = House::open(2, |config| config.set("max_prepared_statements", named_max));
        let mut client = house.client();
        let sql = format!("select pg_backend_pid(), $1::text {}", " ".repeat(padding));
        prepare(&mut client, "", &sql);
        for text in ["first", "second"] {
            on_both_servers(&house, || {
                let rows = run(&mut client, "", &[Some(text)]);
                assert_eq!(rows[0][1].as_deref(), Some(text));
                rows[0][0].as_ref().unwrap().parse().unwrap()
            });
        }
        assert_eq!(house.servers(), 2);
    }
}

#[test]
fn an_unnamed_statement_too_long_to_be_kept_runs_where_it_is_and_nowhere_else() {
    let house = House::transaction(1);
    let (mut client, mut other) = (house.client(), house.client());
    let sql = format!("select 'long' {}", " ".repeat(2_000_000));
    prepare(&mut client, "", &sql);
    assert_eq!(value(&mut client, ""), "long");
    prepare(&mut other, "", "select 'other'");
    client.send(&[bind("", "", &[]), sync()].concat());
    assert_eq!(client.expect_error().code(), "26000");
    assert_eq!(client.expect_ready(), b'I');
    assert_eq!(value(&mut other, ""), "other");
}

#[test]
fn l10_statements_beyond_the_memory_for_them_are_refused_and_fail_their_transaction() {
    let house = House::open(1, |config| config.set("max_prepared_statement_bytes", "200000"));
    let (mut greedy, mut other) = (house.client(), house.client());
    prepare(&mut other, "mine", "select 'mine'");
    let text = |n: usize| format!("select {n} {}", " ".repeat(10_000));
    let mut taken = 0;
    let error = loop {
        greedy.send(&[parse(&format!("s{taken}"), &text(taken)), sync()].concat());
        match wire::tags(&greedy.receive_until_ready().unwrap()).as_str() {
            "1Z" => taken += 1,
            tags => break tags.to_owned(),
        }
        assert!(taken < 100, "never refused");
    };
    assert_eq!(error, "EZ");
    assert!(taken >= 10, "refused after {taken}");
    // The texts that are there stay usable, a known one may be prepared again, and others' too.
    assert_eq!(value(&mut greedy, "s0"), "0");
    prepare(&mut greedy, "again", &text(1));
    assert_eq!(value(&mut other, "mine"), "mine");
    other.query("begin");
    other.send(&[parse("new", "select 'new'"), sync()].concat());
    let refusal = other.expect_error();
    assert_eq!(refusal.code(), "53200");
    assert_eq!(other.expect_ready(), b'E');
    other.query("rollback");
    // What the greedy client gives up is there for others, once no server keeps it either.
    greedy.send(&wire::terminate());
    greedy.expect_closed();
    for n in 0..20 {
        other.send(&[parse(&format!("t{n}"), &format!("select {n}")), sync()].concat());
        other.receive_until_ready().unwrap();
    }
    prepare(&mut other, "at last", "select 'at last'");
    assert_eq!(value(&mut other, "at last"), "at last");
}

#[test]
fn l10_five_thousand_statements_of_one_client() {
    let house = House::transaction(2);
    let mut client = house.client();
    for chunk in 0..50 {
        let batch: Vec<u8> = (0..100)
            .flat_map(|n| parse(&format!("s{chunk}_{n}"), &format!("select {chunk} * 1000 + {n}")))
            .collect();
        client.send(&[batch, sync()].concat());
        assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "1".repeat(100) + "Z");
    }
    for (chunk, n) in [(0, 0), (49, 99), (25, 50), (0, 0)] {
        assert_eq!(value(&mut client, &format!("s{chunk}_{n}")), (chunk * 1000 + n).to_string());
    }
    let kept = client.query("select count(*) from pg_prepared_statements where name <> ''");
    assert!(kept.value().parse::<usize>().unwrap() <= 200, "{kept:?}");
}

#[test]
fn a_statement_taken_away_behind_the_poolers_back_is_back_at_the_next_attempt() {
    let house = House::transaction(1);
    let mut client = house.client();
    prepare(&mut client, "s", "select 'healed'");
    client.query(
        "do $$ declare n text; begin \
         for n in select name from pg_prepared_statements where name <> '' loop \
         execute 'deallocate ' || quote_ident(n); end loop; end $$",
    );
    client.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
    assert_eq!(client.expect_error().code(), "26000");
    assert_eq!(client.expect_ready(), b'I');
    assert_eq!(value(&mut client, "s"), "healed");
}
