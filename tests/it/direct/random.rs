//! Random scripts: whatever messages a client puts together, it cannot tell pgbaton from PostgreSQL.
//!
//! Each script comes from its seed alone, so that a failure names all that is needed to see it
//! again. It is sent whole and in random pieces.

use std::time::Duration;

use fastrand::Rng;

use super::{Ways, receive_ready};
use crate::support::wire::{
    self, Message, Wire, WireError, bind, close, describe, execute, flush, message, parse, query,
    sync,
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
