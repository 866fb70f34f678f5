//! Random scripts: whatever messages a client puts together, it cannot tell pgbaton from PostgreSQL.
//!
//! Each script comes from its seed alone, so that a failure names all that is needed to see it
//! again. It is sent whole and in random pieces.

use std::time::Duration;

use fastrand::Rng;

use super::{FURNITURE, Ways, assert_same, comparable, receive_ready};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{Postgres, SUPERUSER};
use crate::support::wire::{
    self, Login, Message, Wire, WireError, bind, close, describe, execute, flush, message, parse,
    query, sync,
};

/// In the suite; PGBATON_RANDOM_SCRIPTS asks for more.
const SCRIPTS: u64 = 300;
const MESSAGES_MAX: usize = 30;
const NAMES: [&str; 4] = ["", "a", "b", "c"];
const PORTALS: [&str; 3] = ["", "", "p"];
const TEXTS: [&str; 14] = [
    "select 1",
    "select 2, 'two'",
    "select n from numbers order by n limit 3",
    "select $1::int",
    "selekt",
    "select 1/0",
    "select no_such_column",
    "begin",
    "commit",
    "rollback",
    "deallocate a",
    "deallocate all",
    "",
    "/* discard */ select 'discard'",
];
/// No session state but what is pgbaton's to follow: what SQL's PREPARE makes is not.
const QUERIES: [&str; 15] = [
    "select 1",
    "select 'x'; select 'y'",
    "",
    "begin",
    "begin; select 1/0",
    "commit",
    "rollback",
    "savepoint s; select 1",
    "rollback to s",
    "select 1/0",
    "deallocate a",
    "deallocate prepare b",
    "deallocate all",
    "discard all",
    "select shout('hear')",
];

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

fn random_message(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..100) {
        0..20 => parse(pick(rng, &NAMES), pick(rng, &TEXTS)),
        20..42 => {
            let (portal, name) = (pick(rng, &PORTALS), pick(rng, &NAMES));
            let values: &[Option<&str>] = if rng.u8(..5) == 0 { &[Some("7")] } else { &[] };
            bind(portal, name, values)
        }
        42..58 => execute(pick(rng, &PORTALS), i32::from(rng.u8(..4) == 0)),
        58..64 => describe(b'S', pick(rng, &NAMES)),
        64..67 => describe(b'P', pick(rng, &PORTALS)),
        67..71 => close(b'S', pick(rng, &NAMES)),
        71..72 => close(b'P', pick(rng, &PORTALS)),
        72..75 => flush(),
        75..88 => sync(),
        88..97 => query(pick(rng, &QUERIES)),
        97 => copy(rng),
        98 => message(b'd', b"1\n"),
        _ => message(b'c', b""),
    }
}

/// A COPY with its data, since PostgreSQL ends a session in which anything else comes instead.
fn copy(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = query("copy sink from stdin");
    for _ in 0..rng.usize(..3) {
        let line: &[u8] = if rng.u8(..4) == 0 { b"no number\n" } else { b"1\n" };
        bytes.extend(message(b'd', line));
        if rng.u8(..4) == 0 {
            bytes.extend(if rng.bool() { sync() } else { flush() });
        }
    }
    bytes.extend(match rng.u8(..4) {
        0 => message(b'f', b"enough\0"),
        _ => message(b'c', b""),
    });
    bytes
}

/// What brings any session back to where a query is answered, whatever came before it.
fn epilogue() -> Vec<u8> {
    let rollback = query("rollback");
    [sync(), rollback.clone(), sync(), rollback, query("select 'the end'")].concat()
}

fn script(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(3..MESSAGES_MAX);
    let mut messages = Vec::new();
    // Half of them begin with names that are good for something.
    if rng.bool() {
        let rows = "select n from numbers order by n limit 3";
        messages.extend([parse("a", rows), parse("b", "commit"), parse("c", "select 1"), sync()]);
    }
    if rng.bool() {
        messages.extend([query("begin"), bind("p", "a", &[]), execute("p", 1), sync()]);
    }
    messages.extend((0..count).map(|_| random_message(&mut rng)));
    messages.push(epilogue());
    messages
}

/// All that comes up to the answer to the epilogue's last query.
fn receive_all(wire: &mut Wire) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    loop {
        messages.append(&mut receive_ready(wire, 1)?);
        let is_end = |m: &Message| m.tag == b'D' && m.body.ends_with(b"the end");
        if messages.iter().rev().take(4).any(is_end) {
            return Ok(messages);
        }
    }
}

fn shown(messages: &[Vec<u8>]) -> String {
    messages.iter().map(|m| format!("\n  {}", m.escape_ascii())).collect()
}

fn script_count() -> u64 {
    std::env::var("PGBATON_RANDOM_SCRIPTS").map_or(SCRIPTS, |n| n.parse().unwrap())
}

#[test]
fn f08_f09_random_scripts_in_one_segment() {
    let mut tags = String::new();
    for seed in 0..script_count() {
        let messages = script(seed);
        let mut ways = Ways::open();
        let context = format!("seed {seed}: {}", shown(&messages));
        let reply = ways.compare_with(&context, |wire| {
            wire.try_send(&messages.concat())?;
            receive_all(wire)
        });
        tags.push_str(&wire::tags(&reply));
    }
    // They reach what they are about.
    for tag in "123CDEGIZTnNts".chars() {
        assert!(tags.matches(tag).count() >= 3, "only few {tag} in all replies");
    }
}

#[test]
fn f10_random_scripts_in_random_pieces() {
    for seed in 1_000_000..1_000_000 + script_count() / 5 {
        let messages = script(seed);
        let bytes = messages.concat();
        let context = format!("seed {seed}: {}", shown(&messages));
        Ways::open().compare_with(&context, |wire| {
            let mut rng = Rng::with_seed(seed);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rng.usize(1..=rest.len().min(60)));
                wire.try_send(piece)?;
                rest = more;
                if rng.bool() {
                    std::thread::sleep(Duration::from_micros(rng.u64(..800)));
                }
            }
            receive_all(wire)
        });
    }
}

/// What only a client that shares its servers with others can get wrong.
fn script_among_others(seed: u64, who: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(seed);
    let own = format!("select 'client {who}'");
    let zone = ["UTC", "Asia/Tokyo", "Europe/Paris"][who % 3];
    let mut messages = Vec::new();
    for _ in 0..rng.usize(3..MESSAGES_MAX) {
        messages.push(match rng.u8(..12) {
            0 => [close(b'S', "a"), parse("a", &own), sync()].concat(),
            1 => [bind("", "a", &[]), execute("", 0), sync()].concat(),
            2 => [parse("", &own), sync()].concat(),
            3 => [bind("", "", &[]), execute("", 0), sync()].concat(),
            4 => query(&format!("set timezone to '{zone}'")),
            5 => query("show timezone"),
            6 => query(&own),
            _ => random_message(&mut rng),
        });
    }
    messages.push(epilogue());
    messages
}

#[test]
fn several_clients_on_few_servers_are_answered_as_if_alone() {
    const CLIENTS: usize = 4;
    let postgres = Postgres::shared();
    for (servers, statements) in [(1, 1), (2, 2), (2, 200)] {
        let database = postgres.create_database();
        postgres.sql(&database, FURNITURE);
        let config = Config::new()
            .set("default_pool_size", &servers.to_string())
            .set("max_prepared_statements", &statements.to_string())
            .database(&database, postgres, "");
        let pgbaton = Pgbaton::start(&config);
        let login = Login::new(SUPERUSER, &database, "");
        for round in 0..script_count() / 15 {
            let seeds = (0..CLIENTS).map(|who| 2_000_000 + round * 10 + who as u64);
            let scripts: Vec<_> =
                seeds.enumerate().map(|(who, seed)| script_among_others(seed, who)).collect();
            let talk = |address, script: &[Vec<u8>], cut: bool| {
                let mut wire = Wire::login(address, &login);
                let mut rng = Rng::with_seed(round);
                for message in script {
                    wire.send(message);
                    if cut && rng.u8(..3) == 0 {
                        std::thread::sleep(Duration::from_micros(rng.u64(..1500)));
                    }
                }
                let reply = receive_all(&mut wire);
                let reply = reply.unwrap_or_else(|e| panic!("{e:?} {}", shown(script)));
                reply.into_iter().map(comparable).collect::<Vec<_>>()
            };
            let expected: Vec<_> =
                scripts.iter().map(|s| talk(postgres.address(), s, false)).collect();
            let got: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = scripts
                    .iter()
                    .map(|s| scope.spawn(|| talk(pgbaton.address(), s, true)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (who, (expected, got)) in expected.iter().zip(&got).enumerate() {
                let context = format!("round {round}, client {who}: {}", shown(&scripts[who]));
                assert_same("transaction", expected, got, &context);
            }
        }
        assert!(!pgbaton.log().contains("panicked"));
        assert!(postgres.connections(&database) <= servers + 1);
    }
}
