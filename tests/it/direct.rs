//! pgbaton must be told from PostgreSQL by nothing that a client can see. Each script of bytes is
//! sent four ways, to PostgreSQL itself and through pgbaton in transaction mode, in session mode, and
//! in transaction mode under TLS; the replies must be equal, message by message.
//!
//! A test states the tags of PostgreSQL's own reply, so that it says what it is about and cannot
//! be vacuous. Nothing of the replies is set aside but the lines of PostgreSQL's source code in
//! errors and the numbers of tables, which the databases do not share.

use std::sync::OnceLock;

use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{Postgres, SUPERUSER};
use crate::support::wire::{self, Login, Message, Wire, WireError};
use crate::tls;

mod copy;
mod extended;
mod large;
mod login;
mod names;
mod networks;
mod random;
mod segments;
mod simple;
mod statements;

/// What all databases hold before the first script.
const FURNITURE: &str = "\
    create table numbers as select n, 'number ' || n as name from generate_series(1, 1000) n;\
    create table pairs (k int primary key, v text);\
    create table sink (n int);\
    create function shout(what text) returns void language plpgsql as \
    $$ begin raise notice '%', upper(what); end $$;";

/// The ways that lead through pgbaton: the pool mode, and whether the client has TLS.
const MODES: [(&str, bool); 3] =
    [("transaction", false), ("session", false), ("transaction", true)];

struct House {
    pgbaton: Pgbaton,
    databases: Vec<String>,
}

impl House {
    /// One pgbaton for all scripts; tests that write use tables of their own.
    fn shared() -> &'static Self {
        static SHARED: OnceLock<House> = OnceLock::new();
        SHARED.get_or_init(|| {
            let postgres = Postgres::shared();
            let databases: Vec<String> =
                (0..=MODES.len()).map(|_| postgres.create_database()).collect();
            for database in &databases {
                postgres.sql(database, FURNITURE);
            }
            let config = Config::new().set("default_pool_size", "8");
            let mut config = tls::offering(config, "allow");
            for ((mode, _), database) in MODES.iter().zip(&databases[1..]) {
                config = config.database(database, postgres, &format!("pool_mode = \"{mode}\""));
            }
            Self { pgbaton: Pgbaton::start(&config), databases }
        })
    }
}

type Replies = Result<Vec<Message>, WireError>;

/// All ways: a client of PostgreSQL itself, and one for each that leads through pgbaton.
struct Ways {
    clients: Vec<(&'static str, Wire)>,
}

impl Ways {
    fn open() -> Self {
        Self::open_with(|login| login)
    }

    /// With what `adapt` makes of the login.
    fn open_with(adapt: impl Fn(Login) -> Login) -> Self {
        let house = House::shared();
        let login = |way: usize| adapt(Login::new(SUPERUSER, &house.databases[way], ""));
        let direct = Wire::login(Postgres::shared().address(), &login(0));
        let mut clients = vec![("PostgreSQL", direct)];
        for (way, (mode, is_encrypted)) in MODES.into_iter().enumerate() {
            let (address, login) = (house.pgbaton.address(), login(way + 1));
            clients.push(match is_encrypted {
                false => (mode, Wire::login(address, &login)),
                true => ("encrypted", Wire::login_tls(address, &tls::client_config(), &login)),
            });
        }
        Self { clients }
    }

    /// Sends the script, reads as many ReadyForQuery as it asks for, and checks that nothing is
    /// left over. Returns PostgreSQL's reply.
    fn same(&mut self, script: &[u8]) -> Vec<Message> {
        self.same_until_ready(script, ready_count(script))
    }

    /// The same for scripts with a Sync that PostgreSQL ignores.
    fn same_until_ready(&mut self, script: &[u8], count: usize) -> Vec<Message> {
        self.compare(|wire| {
            wire.send(script);
            receive_ready(wire, count)
        })
    }

    /// Sends a script without a Sync and reads `count` messages.
    fn same_messages(&mut self, script: &[u8], count: usize) -> Vec<Message> {
        self.compare(|wire| {
            wire.send(script);
            (0..count).map(|_| wire.receive()).collect()
        })
    }

    /// Does the same with each client and compares what it brings. Returns PostgreSQL's.
    fn compare(&mut self, talk: impl FnMut(&mut Wire) -> Replies) -> Vec<Message> {
        self.compare_with("", talk)
    }

    /// The same; a failure tells the context.
    fn compare_with(
        &mut self,
        context: &str,
        mut talk: impl FnMut(&mut Wire) -> Replies,
    ) -> Vec<Message> {
        let mut replies: Vec<Vec<Message>> = Vec::new();
        for (way, wire) in &mut self.clients {
            let reply = talk(wire).unwrap_or_else(|e| {
                let log = House::shared().pgbaton.log();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                panic!("{way}: {e:?}; {context}\n{}", tail.join("\n"))
            });
            replies.push(reply.into_iter().map(comparable).collect());
        }
        for ((way, _), reply) in self.clients.iter().zip(&replies).skip(1) {
            assert_same(way, &replies[0], reply, context);
        }
        replies.swap_remove(0)
    }
}

/// All messages up to the ReadyForQuery of this number.
fn receive_ready(wire: &mut Wire, count: usize) -> Replies {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.append(&mut wire.receive_until_ready()?);
    }
    Ok(messages)
}

/// One script, new clients. Afterwards each must still be in step.
fn same(script: &[u8]) -> Vec<Message> {
    let mut ways = Ways::open();
    let reply = ways.same(script);
    let last = ways.same(&wire::query("rollback; select 'in step'"));
    assert_eq!(wire::tags(&last).trim_start_matches('N'), "CTDCZ");
    reply
}

/// The same for a conversation: each step is sent when the one before it has been answered.
fn same_in_steps(steps: &[Vec<u8>]) -> Vec<Message> {
    let mut ways = Ways::open();
    steps.iter().flat_map(|step| ways.same(step)).collect()
}

/// The tags of PostgreSQL's reply to a script, once pgbaton's are found to be the same.
fn same_tags(script: &[Vec<u8>]) -> String {
    wire::tags(&same(&script.concat()))
}

/// The tags of PostgreSQL's reply to one Query.
fn same_query(sql: &str) -> String {
    same_tags(&[wire::query(sql)])
}

/// A field of each error in a reply, such as C for the SQLSTATE.
fn errors(reply: &[Message], field: u8) -> Vec<String> {
    let errors = reply.iter().filter(|message| message.tag == b'E');
    errors.map(|e| wire::ErrorFields::parse(&e.body).field(field).to_owned()).collect()
}

/// The status bytes of all ReadyForQuery in a reply, such as "TEI".
fn statuses(reply: &[Message]) -> String {
    let ready = reply.iter().filter(|message| message.tag == b'Z');
    ready.map(|message| char::from(message.body[0])).collect()
}

fn assert_same(way: &str, expected: &[Message], got: &[Message], context: &str) {
    let (expected_tags, got_tags) = (wire::tags(expected), wire::tags(got));
    let first = expected.iter().zip(got).position(|(e, g)| e != g);
    let Some(at) = first.or((expected.len() != got.len()).then(|| expected.len().min(got.len())))
    else {
        return;
    };
    let show = |messages: &[Message]| match messages.get(at) {
        Some(message) => format!("{message:?}").chars().take(400).collect(),
        None => String::from("nothing"),
    };
    panic!(
        "{way} mode differs from PostgreSQL at message {at}:\nexpected {}\ngot      {}\n\
         all expected: {}\nall got:      {}\n{context}",
        show(expected),
        show(got),
        &expected_tags[..expected_tags.len().min(200)],
        &got_tags[..got_tags.len().min(200)],
    );
}

/// A message without what may differ.
fn comparable(mut message: Message) -> Message {
    match message.tag {
        b'E' | b'N' => message.body = without_source(&message.body),
        b'T' => hide_tables(&mut message.body),
        _ => {}
    }
    message
}

/// An error without file, line and routine: pgbaton's own errors have none.
fn without_source(body: &[u8]) -> Vec<u8> {
    let fields = body.split(|byte| *byte == 0);
    let kept: Vec<&[u8]> =
        fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R'))).collect();
    kept.join(&0)
}

/// RowDescription with 1 for the number of any table that is not PostgreSQL's own.
fn hide_tables(body: &mut [u8]) {
    const FIRST_OWN_OID: u32 = 16_384;
    let mut at = 2;
    while at < body.len() {
        let name_len = body[at..].iter().position(|byte| *byte == 0).unwrap();
        at += name_len + 1;
        let oid = u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        if oid >= FIRST_OWN_OID {
            body[at..at + 4].copy_from_slice(&1_u32.to_be_bytes());
        }
        at += 18;
    }
}

/// How many ReadyForQuery a script asks for.
fn ready_count(script: &[u8]) -> usize {
    let mut count = 0;
    let mut rest = script;
    while let Some((head, _)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        count += usize::from(matches!(head[0], b'Q' | b'S' | b'F'));
        rest = &rest[1 + usize::try_from(length).unwrap()..];
    }
    count
}
