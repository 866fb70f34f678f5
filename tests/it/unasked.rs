//! What servers say without being asked, and what they say wrong: notices, parameters and
//! notifications between any two messages go to their client and are nobody's answer; garbled
//! replies end a connection and nothing else. The names F17 and F20 are those of the project's
//! table of faults.

use std::time::Duration;

use crate::stage::{Counts, PATIENCE, Stage, counts};
use crate::support::fake_postgres::{self, Event, FakePostgres, Step, idle_reply, ready};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::wire::{self, Login, Message, Wire, WireError, message};

const USER: &str = "somebody";

/// A pgbaton whose database `app` is at this fake, with a pool of one.
fn before(fake: &FakePostgres) -> Pgbaton {
    let config = Config::new().database_at("app", fake.address(), "pool_size = 1");
    Pgbaton::start(&config.set("client_cleanup_timeout", "\"100ms\""))
}

fn login() -> Login {
    Login::new(USER, "app", "")
}

fn client(pgbaton: &Pgbaton) -> Wire {
    Wire::login(pgbaton.address(), &login())
}

/// Nothing is under way, so many clients are there, and pgbaton has not panicked.
fn assert_idle(pgbaton: &mut Pgbaton, clients: usize, servers: usize) {
    let expected = Counts { cl_active: clients, sv_idle: servers, ..Counts::default() };
    let right = eventually(PATIENCE, || counts(pgbaton, "app", USER) == expected);
    assert!(right, "{:?}; log:\n{}", counts(pgbaton, "app", USER), pgbaton.log());
    assert!(pgbaton.is_running());
    assert!(!pgbaton.log().contains("panicked"), "{}", pgbaton.log());
}

fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mpsst\0\0")
}

/// A parameter that pgbaton has no business with.
fn parameter() -> Vec<u8> {
    message(b'S', b"in_hot_standby\0on\0")
}

fn notification() -> Vec<u8> {
    message(b'A', b"\0\0\0\x07channel\0payload\0")
}

/// Each kind alone, and a crowd of them.
fn unasked() -> [Vec<u8>; 4] {
    let all = [notice(), parameter(), notification()].concat();
    [notice(), parameter(), notification(), all.repeat(20)]
}

fn row_description() -> Vec<u8> {
    message(b'T', b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")
}

/// What a client sends, the type at which the fake answers, and the answer's messages.
struct Exchange {
    request: Vec<u8>,
    answered_at: u8,
    answer: Vec<Vec<u8>>,
}

fn exchange(request: Vec<u8>, answered_at: u8, answer: Vec<Vec<u8>>) -> Exchange {
    Exchange { request, answered_at, answer }
}

/// One of every kind of reply.
fn exchanges() -> Vec<Exchange> {
    let group = |sql: &str| {
        let parts = [
            wire::parse("", sql),
            wire::bind("", "", &[]),
            wire::describe(b'P', ""),
            wire::execute("", 0),
            wire::sync(),
        ];
        parts.concat()
    };
    let [row, more] = ["first", "second"].map(|text| fake_postgres::data_row(&[text]));
    let done = |tag: &str| fake_postgres::command_complete(tag);
    let ready = || ready(b'I');
    let error = fake_postgres::error("ERROR", "42703", "no such thing");
    let copy = |tag: u8| message(tag, b"\0\0\x01\0\0");
    vec![
        exchange(
            wire::query("rows"),
            b'Q',
            vec![row_description(), row.clone(), more, done("SELECT 2"), ready()],
        ),
        exchange(
            wire::query("two"),
            b'Q',
            vec![done("SET"), row_description(), row.clone(), done("SELECT 1"), ready()],
        ),
        exchange(wire::query("mistake"), b'Q', vec![error.clone(), ready()]),
        exchange(wire::query(""), b'Q', vec![message(b'I', b""), ready()]),
        exchange(
            group("extended"),
            b'S',
            vec![
                message(b'1', b""),
                message(b'2', b""),
                row_description(),
                row,
                done("SELECT 1"),
                ready(),
            ],
        ),
        exchange(group("wrong"), b'S', vec![message(b'1', b""), error, ready()]),
        exchange(
            wire::query("copy out"),
            b'Q',
            vec![copy(b'H'), message(b'd', b"1\n"), message(b'c', b""), done("COPY 1"), ready()],
        ),
        exchange(
            [wire::query("copy in"), message(b'd', b"1\n"), message(b'c', b"")].concat(),
            b'c',
            vec![copy(b'G'), done("COPY 1"), ready()],
        ),
        exchange(message(b'F', &[0; 12]), b'F', vec![message(b'V', b"\0\0\0\x01x"), ready()]),
    ]
}

/// The fake's part of an exchange, with `said` in front of the answer's message `at`.
fn with_said(exchange: &Exchange, at: usize, said: &[u8]) -> Vec<u8> {
    let mut answer = exchange.answer.clone();
    answer.insert(at, said.to_vec());
    answer.concat()
}

fn frames(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let (body, rest) = rest.split_at(usize::try_from(length).unwrap() - 4);
        messages.push(Message { tag: head[0], body: body.to_vec() });
        bytes = rest;
    }
    messages
}

/// Has two clients make all exchanges in turn; `send` makes the fake's step of an answer.
fn play_between_all_messages(send: impl Fn(Vec<u8>) -> Step) {
    let exchanges = exchanges();
    let mut script = vec![Step::Login];
    let mut expected = Vec::new();
    for said in unasked() {
        for (number, exchange) in exchanges.iter().enumerate() {
            for at in 0..exchange.answer.len() {
                let answer = with_said(exchange, at, &said);
                expected.push((number, answer.clone()));
                script.extend([Step::Expect(exchange.answered_at), send(answer)]);
            }
        }
    }
    script.push(Step::Serve);
    let fake = FakePostgres::start(vec![script]);
    let mut pgbaton = before(&fake);
    let mut clients = [client(&pgbaton), client(&pgbaton)];
    for (turn, (number, answer)) in expected.iter().enumerate() {
        let client = &mut clients[turn % 2];
        client.send(&exchanges[*number].request);
        let got = client.receive_until_ready().unwrap();
        assert_eq!(got, frames(answer), "turn {turn}");
    }
    for client in &mut clients {
        client.expect_silence(Duration::from_millis(20));
        assert_eq!(client.query("in step").tags, ["SELECT 0"]);
    }
    assert_eq!(fake.connections(), 1);
    assert_idle(&mut pgbaton, 2, 1);
}

#[test]
fn f17_between_any_two_messages_of_any_reply_it_goes_to_the_client_that_asked() {
    play_between_all_messages(Step::Send);
}

#[test]
fn f17_however_it_is_cut() {
    play_between_all_messages(|answer| Step::Trickle(answer, 3, Duration::ZERO));
}

#[test]
fn f17_in_an_open_transaction_its_owner_gets_it_at_once() {
    let begun = [fake_postgres::command_complete("BEGIN"), ready(b'T')].concat();
    for said in unasked() {
        let fake = FakePostgres::start(vec![vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(begun.clone()),
            Step::Pause(Duration::from_millis(20)),
            Step::Send(said.clone()),
            Step::Serve,
        ]]);
        let mut pgbaton = before(&fake);
        let (mut owner, mut other) = (client(&pgbaton), client(&pgbaton));
        assert_eq!(owner.query("begin").status, b'T');
        other.send(&wire::query("waits"));
        let got: Vec<Message> = frames(&said).iter().map(|_| owner.receive().unwrap()).collect();
        assert_eq!(got, frames(&said));
        other.expect_silence(Duration::from_millis(20));
        assert_eq!(owner.query("commit").status, b'I');
        assert_eq!(wire::tags(&other.receive_until_ready().unwrap()), "CZ");
        assert_idle(&mut pgbaton, 2, 1);
    }
}

#[test]
fn f17_behind_the_end_of_a_reply_it_is_not_the_next_clients() {
    for said in unasked() {
        let answer = [idle_reply(b'Q'), said.clone()].concat();
        let fake = FakePostgres::start(vec![vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(answer),
            Step::Serve,
        ]]);
        let mut pgbaton = before(&fake);
        let (mut first, mut second) = (client(&pgbaton), client(&pgbaton));
        first.send(&wire::query("first"));
        second.send(&wire::query("second"));
        assert_eq!(wire::tags(&second.receive_until_ready().unwrap()), "CZ");
        // The first may get it or not, but its own answer comes before.
        assert_eq!(wire::tags(&first.receive_until_ready().unwrap()), "CZ");
        drop(first);
        assert_idle(&mut pgbaton, 1, 1);
    }
}

#[test]
fn f17_in_the_poolers_own_queries_it_is_dropped() {
    let said = [notice(), parameter(), notification()].concat();
    let own_answer = [
        said.clone(),
        row_description(),
        said.clone(),
        fake_postgres::data_row(&["x"]),
        said.clone(),
        fake_postgres::command_complete("SELECT 1"),
        said,
        ready(b'I'),
    ];
    // Settings that are replayed in front of a client's query, and the ROLLBACK that follows one
    // that has left.
    let begun = [fake_postgres::command_complete("BEGIN"), ready(b'T')].concat();
    let rolled_back = [notice(), fake_postgres::command_complete("ROLLBACK"), notification()];
    let fake = FakePostgres::start(vec![vec![
        Step::Login,
        Step::Expect(b'Q'),
        Step::Expect(b'Q'),
        Step::Send(own_answer.concat()),
        Step::Send(begun),
        Step::Expect(b'Q'),
        Step::Send([rolled_back.concat(), ready(b'I')].concat()),
        Step::Serve,
    ]]);
    let mut pgbaton = before(&fake);
    let login = login().parameter("application_name", "its own");
    let mut first = Wire::login(pgbaton.address(), &login);
    first.send(&wire::query("begin"));
    assert_eq!(wire::tags(&first.receive_until_ready().unwrap()), "CZ");
    drop(first);
    fake.wait_for(|event| matches!(event, Event::Message(0, b'Q', sql) if sql == b"ROLLBACK\0"));
    let mut next = Wire::login(pgbaton.address(), &login);
    next.send(&wire::query("next"));
    assert_eq!(wire::tags(&next.receive_until_ready().unwrap()), "CZ");
    assert_eq!(fake.queries(0)[1..], ["begin", "ROLLBACK", "next"]);
    assert_idle(&mut pgbaton, 1, 1);
}

#[test]
fn f17_a_real_notification_reaches_the_session_that_listens_and_no_other() {
    let mut stage = Stage::with(3, |config| config.set("pool_mode", "\"session\""));
    let mut listening = stage.client();
    listening.query("listen news");
    let (mut other, mut sender) = (stage.client(), stage.client());
    other.query("select 1");
    for n in 0..5 {
        sender.query(&format!("notify news, 'number {n}'"));
        let body = listening.expect(b'A');
        let expected = format!("news\0number {n}\0");
        assert_eq!(body[4..], *expected.as_bytes());
    }
    other.expect_silence(Duration::from_millis(50));
    sender.expect_silence(Duration::from_millis(20));
    assert_eq!(listening.query("select 'in step'").value(), "in step");
    drop((listening, other, sender));
    stage.assert_settled(0);
}

#[test]
fn f20_mutated_replies_end_a_connection_and_nothing_else() {
    const CONNECTIONS: usize = 150;
    let mut chance = fastrand::Rng::with_seed(20_250_602);
    // Whichever connection a client meets, it asks for the same.
    let mut answers = exchanges();
    answers.retain(|exchange| exchange.answered_at == b'Q');
    let mutated = |number: usize| {
        let exchange = &answers[number % answers.len()];
        let mut answer = with_said(exchange, chance.usize(..exchange.answer.len()), &notice());
        for _ in 0..=chance.usize(..3) {
            let at = chance.usize(..answer.len().max(1));
            match chance.usize(..4) {
                _ if answer.is_empty() => break,
                0 => answer[at] ^= 1 << chance.usize(..8),
                1 => drop(answer.drain(at..(at + 1 + chance.usize(..8)).min(answer.len()))),
                2 => answer.insert(at, chance.u8(..)),
                _ => answer.truncate(at.max(1)),
            }
        }
        vec![Step::Login, Step::Expect(b'Q'), Step::Send(answer), Step::Close]
    };
    let mut scripts: Vec<Vec<Step>> = (0..CONNECTIONS).map(mutated).collect();
    scripts.push(vec![Step::Login, Step::Serve]);
    let fake = FakePostgres::start(scripts);
    let mut pgbaton = before(&fake);
    let mut lost = 0;
    for _ in 0..CONNECTIONS {
        let mut client = client(&pgbaton);
        client.send(&wire::query("anything"));
        loop {
            match client.receive() {
                Ok(Message { tag: b'Z', .. }) => break,
                Ok(_) => {}
                Err(WireError::Closed | WireError::Io(_)) => {
                    lost += 1;
                    break;
                }
                Err(e) => panic!("{e:?}"),
            }
        }
    }
    assert!((CONNECTIONS / 3..CONNECTIONS).contains(&lost), "{lost} connections were lost");
    // Some are left for the last client to meet; none of them may do it harm.
    let mut last = client(&pgbaton);
    let served = eventually(PATIENCE, || {
        let reply = last.try_query("last");
        if reply.is_err() {
            last = client(&pgbaton);
        }
        fake.connections() > CONNECTIONS && reply.is_ok_and(|reply| reply.tags == ["SELECT 0"])
    });
    assert!(served, "{} connections; log:\n{}", fake.connections(), pgbaton.log());
    drop(last);
    assert_idle(&mut pgbaton, 0, 1);
}
