//! Bad networks between pgbaton and a real PostgreSQL: links cut at any byte, garbled, silent or
//! slow. A client gets the exact result or is told that its server was lost; never a short or wrong
//! one as if it were whole, never an acknowledgement that PostgreSQL did not give, and nothing is
//! done twice. The names V, C and F with a number are those of the project's table of faults.

use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Counts, PATIENCE, Stage};
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::{Config, eventually};
use crate::support::wire::{self, ErrorFields, Message, Wire, WireError, message};

const ASK: &str = "select n, 'row ' || n from generate_series(1, 3) n";

/// A table of numbers, a pool of one, and a proxy in front of PostgreSQL.
fn stage(tune: impl FnOnce(Config) -> Config) -> (Stage, FaultProxy) {
    let (stage, proxy) = Stage::behind_proxy(1, tune);
    let stage = stage.watched();
    stage.sql("create table t (n int)");
    (stage, proxy)
}

fn hits(proxy: &FaultProxy) -> usize {
    proxy.traffic(Way::Up).hits + proxy.traffic(Way::Down).hits
}

/// All that comes up to the end of the connection or so many ReadyForQuery, as bytes.
fn receive_bytes(client: &mut Wire, until: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    while !got.ends_with(until) {
        match client.receive_byte() {
            Ok(byte) => got.push(byte),
            Err(WireError::Closed | WireError::Io(_)) => break,
            Err(e) => panic!("{e:?}"),
        }
    }
    got
}

/// Checks what a client has got of a reply that was cut: whole messages from its beginning and a
/// FATAL error, or more than that and the end, where an error would be taken for the rest of a
/// message. True if it was told.
fn is_told(reply: &[u8], got: &[u8], what: &str) -> bool {
    if reply.starts_with(got) {
        assert!(got.len() < reply.len(), "{what}: the whole reply");
        assert!(
            !wire::boundaries(reply).contains(&got.len()),
            "{what}: no word after {}",
            got.len()
        );
        return false;
    }
    let common = reply.iter().zip(got).take_while(|(a, b)| a == b).count();
    let whole = wire::boundaries(reply).into_iter().rfind(|end| *end <= common).unwrap();
    let error = &got[whole..];
    assert_eq!(error[0], b'E', "{what}: {}", got.escape_ascii());
    let fields = ErrorFields::parse(&error[5..]);
    assert_eq!((fields.severity(), fields.code()), ("FATAL", "08006"), "{what}: {fields:?}");
    true
}

#[test]
fn v03_v08_a_reply_cut_after_any_byte_is_never_taken_for_a_whole_one() {
    let (mut stage, proxy) = stage(|config| config);
    let mut client = stage.client();
    client.send(&wire::query(ASK));
    let ready = message(b'Z', b"I");
    let reply = receive_bytes(&mut client, &ready);
    assert!(reply.ends_with(&ready) && reply.len() > 80);
    drop(client);
    let (mut told, mut rounds) = (0, 0);
    // From one on: an idle server that is lost before it was asked is nobody's loss.
    for cut in (1..reply.len()).step_by(7) {
        for fault in [Fault::CutAfter(cut), Fault::ResetAfter(cut), Fault::HalfCloseAfter(cut)] {
            let mut client = stage.client();
            assert_eq!(client.query("select 'well'").value(), "well");
            let before = hits(&proxy);
            proxy.set(Way::Down, fault);
            client.send(&wire::query(ASK));
            let got = receive_bytes(&mut client, &ready);
            assert_eq!(hits(&proxy), before + 1, "{fault:?}");
            proxy.heal();
            told += usize::from(is_told(&reply, &got, &format!("{fault:?}")));
            rounds += 1;
        }
    }
    assert!(told * 8 > rounds, "told {told} times of {rounds}");
    stage.assert_settled(0);
}

/// Makes requests whose acknowledgement is cut off after any byte, and checks that each is done
/// once or not at all, that whoever was told of it was told the truth, and that nobody did it
/// again.
fn assert_never_acknowledged_falsely(way: Way, request: impl Fn(usize) -> Vec<u8>, length: usize) {
    let (mut stage, proxy) = stage(|config| config);
    let (mut done, mut acknowledged, mut rounds) = (0, 0, 0);
    for cut in (1..=length).step_by(5) {
        for fault in [Fault::CutAfter(cut), Fault::ResetAfter(cut)] {
            rounds += 1;
            let mut client = stage.client();
            client.query("select 1");
            proxy.set(way, fault);
            client.send(&request(rounds));
            let outcome = client.receive_reply();
            let was_acknowledged = match &outcome {
                Ok(reply) => reply.error.is_none(),
                Err(WireError::Server(error)) => {
                    assert_eq!((error.severity(), error.code()), ("FATAL", "08006"), "{error:?}");
                    false
                }
                Err(WireError::Closed | WireError::Io(_)) => false,
            };
            proxy.heal();
            drop(client);
            stage.assert_settled(0);
            let rows = stage.sql(&format!("select count(*) from t where n = {rounds}"));
            assert!(rows == "1" || rows == "0" && !was_acknowledged, "{rows} {outcome:?}");
            done += usize::from(rows == "1");
            acknowledged += usize::from(was_acknowledged);
        }
    }
    let all = stage.sql("select count(*) from t");
    assert_eq!(all, done.to_string(), "each at most once");
    assert!(acknowledged < done || way == Way::Up, "{acknowledged} of {done} of {rounds}");
    assert!(acknowledged < rounds);
}

#[test]
fn v04_an_acknowledgement_that_is_lost_is_not_made_up_and_nothing_is_done_twice() {
    let insert = |n| wire::query(&format!("insert into t values ({n})"));
    // CommandComplete of an INSERT and ReadyForQuery.
    assert_never_acknowledged_falsely(Way::Down, insert, 16 + 6);
}

#[test]
fn v04_a_commit_whose_answer_is_lost_is_not_acknowledged() {
    let transaction =
        |n| wire::query(&format!("begin; insert into t values ({n}); select 1; commit"));
    assert_never_acknowledged_falsely(Way::Down, transaction, 90);
}

#[test]
fn c06_v04_a_request_of_which_the_server_gets_a_part_is_not_carried_out() {
    let insert = |n| wire::query(&format!("insert into t values ({n})"));
    assert_never_acknowledged_falsely(Way::Up, insert, insert(1).len());
}

#[test]
fn v02_v08_a_transaction_whose_server_is_lost_goes_on_nowhere() {
    let (mut stage, proxy) = stage(|config| config);
    for fault in [Fault::CutAfter(0), Fault::ResetAfter(0), Fault::HalfCloseAfter(0)] {
        for way in [Way::Down, Way::Up] {
            let mut client = stage.client();
            client.query("begin; insert into t values (1)");
            proxy.set(way, fault);
            let error = client.expect_error();
            assert_eq!((error.severity(), error.code()), ("FATAL", "08006"), "{error:?}");
            client.expect_closed();
            proxy.heal();
            stage.assert_settled(0);
            assert_eq!(stage.sql("select count(*) from t"), "0");
        }
    }
}

#[test]
fn v01_v08_idle_servers_that_are_lost_are_replaced_and_nobody_notices() {
    let (mut stage, proxy) = stage(|config| config);
    let mut client = stage.client();
    for (round, fault) in
        [Fault::CutAfter(0), Fault::ResetAfter(0), Fault::HalfCloseAfter(0)].into_iter().enumerate()
    {
        assert_eq!(client.query(&format!("select {round}")).value(), round.to_string());
        let opened = proxy.opened();
        proxy.set(Way::Down, fault);
        assert!(eventually(PATIENCE, || stage.counts().sv_idle == 0), "{fault:?}");
        proxy.heal();
        assert_eq!(client.query("select 'still here'").value(), "still here", "{fault:?}");
        assert_eq!(proxy.opened(), opened + 1);
    }
    stage.assert_settled(1);
}

/// Finds a silent peer in two seconds, whether it owes an acknowledgement or not.
fn with_keepalive(config: Config) -> Config {
    config
        .set("tcp_keepidle", "1")
        .set("tcp_keepintvl", "1")
        .set("tcp_keepcnt", "1")
        .set("tcp_user_timeout", "1500")
}

/// PostgreSQL vanishes: nothing that pgbaton sends to it is even acknowledged.
fn vanish(proxy: &FaultProxy) {
    // An acknowledgement that is still on its way would be missed: what it was for would be sent
    // again and again, and be a sign of life.
    thread::sleep(Duration::from_millis(100));
    let hits = proxy.traffic(Way::Up).hits;
    proxy.set(Way::Down, Fault::BlackHole);
    proxy.set(Way::Up, Fault::LosePackets);
    assert!(eventually(PATIENCE, || proxy.traffic(Way::Up).hits > hits));
}

/// Ends what PostgreSQL still runs for nobody: it looks for its client only when it has to say
/// something.
fn end_orphans(stage: &Stage) {
    stage.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where \
         datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'",
    );
}

#[test]
fn v08_a_server_that_vanishes_without_a_word_is_found_by_keepalive() {
    let (mut stage, proxy) = stage(with_keepalive);
    // In a running query, and in a transaction in which the next request is never answered.
    for begun in [false, true] {
        let mut client = stage.client();
        if begun {
            client.query("begin; insert into t values (1)");
            vanish(&proxy);
            client.send(&wire::query("commit"));
        } else {
            stage.start_query(&mut client, "select pg_sleep(600)");
            vanish(&proxy);
        }
        let began = Instant::now();
        let error = client.expect_error();
        assert_eq!((error.severity(), error.code()), ("FATAL", "08006"), "{error:?}");
        client.expect_closed();
        assert!(began.elapsed() >= Duration::from_millis(500), "lost before anybody could know");
        proxy.heal();
        end_orphans(&stage);
        stage.assert_settled(0);
        assert_eq!(stage.sql("select count(*) from t"), "0");
    }
}

#[test]
fn v08_an_idle_server_that_vanishes_is_found_by_keepalive_and_replaced() {
    let (stage, proxy) = Stage::behind_proxy(1, with_keepalive);
    let mut client = stage.client();
    client.query("select 1");
    vanish(&proxy);
    assert!(eventually(PATIENCE, || stage.counts().sv_idle == 0), "{:?}", stage.counts());
    proxy.heal();
    assert_eq!(client.query("select 'still here'").value(), "still here");
    assert_eq!(proxy.opened(), 2);
}

#[test]
fn v07_a_reply_that_stalls_half_way_is_waited_for_and_whole_in_the_end() {
    let (mut stage, proxy) = stage(|config| config);
    let mut client = stage.client();
    client.query("select 1");
    let mut waiting = stage.client();
    for way in [Way::Down, Way::Up] {
        proxy.set(way, Fault::BlackHole);
        client.send(&wire::query(ASK));
        waiting.send(&wire::query("select 'waited'"));
        stage.wait_for_waiting(1);
        client.expect_silence(Duration::from_millis(100));
        proxy.heal();
        let reply = client.receive_reply().unwrap();
        assert_eq!((reply.rows.len(), &reply.tags[..]), (3, &["SELECT 3".to_owned()][..]));
        assert_eq!(waiting.receive_reply().unwrap().value(), "waited");
    }
    drop((client, waiting));
    stage.assert_settled(0);
}

#[test]
fn v07_a_login_to_a_server_that_stalls_is_given_up_and_made_again() {
    let (mut stage, proxy) =
        stage(|config| config.set("server_connect_timeout", "1").set("server_login_retry", "1"));
    // The witness has made the greeting known; its server goes.
    proxy.set(Way::Down, Fault::CutAfter(0));
    assert!(eventually(PATIENCE, || stage.counts().sv_idle == 0));
    for way in [Way::Down, Way::Up] {
        proxy.heal();
        proxy.set(way, Fault::BlackHole);
        let (mut client, opened) = (stage.client(), proxy.opened());
        client.send(&wire::query("select 'served'"));
        assert!(eventually(PATIENCE, || proxy.opened() >= opened + 2), "it was given up");
        proxy.heal();
        assert_eq!(client.receive_reply().unwrap().value(), "served");
        client.send(&wire::terminate());
        proxy.set(Way::Down, Fault::CutAfter(0));
        assert!(eventually(PATIENCE, || stage.counts().sv_idle == 0));
    }
    proxy.heal();
    stage.assert_settled(0);
}

#[test]
fn v08_slow_links_bring_exact_results() {
    let (mut stage, proxy) = stage(|config| config);
    let value: String = (0..30_000).map(|n| format!("{n:06}")).collect();
    for fault in [
        Fault::Trickle { bytes: 1400, pause: Duration::from_micros(200) },
        Fault::Trickle { bytes: 17, pause: Duration::ZERO },
        Fault::SlowReader { bytes: 3000, pause: Duration::from_micros(300) },
        Fault::Delay(Duration::from_millis(15)),
    ] {
        // The login to the server, too.
        proxy.heal();
        let backend = stage.backends()[0];
        stage.sql(&format!("select pg_terminate_backend({backend})"));
        assert!(eventually(PATIENCE, || stage.counts().sv_idle == 0));
        proxy.set_both(fault);
        let before = hits(&proxy);
        let mut client = stage.client();
        let sql = "select n || repeat('y', n % 100) from generate_series(1, 500) n";
        let reply = client.query(sql);
        assert_eq!(reply.rows.len(), 500);
        for (n, row) in (1..).zip(&reply.rows) {
            assert_eq!(row[0], Some(format!("{n}{}", "y".repeat(n % 100))));
        }
        client.send(&wire::parse("s", "select $1::text"));
        client.send(&wire::bind("", "s", &[Some(&value)]));
        client.send(&[wire::execute("", 0), wire::sync()].concat());
        assert_eq!(client.receive_reply().unwrap().value(), value);
        client.send(&wire::query("copy t from stdin"));
        client.expect(b'G');
        let rows: String = (0..5000).map(|n| format!("{n}\n")).collect();
        client.send(&[message(b'd', rows.as_bytes()), message(b'c', b"")].concat());
        assert_eq!(client.receive_reply().unwrap().tags, ["COPY 5000"]);
        assert_eq!(client.query("select sum(n) from t").value(), "12497500");
        assert_eq!(client.query("truncate t").tags, ["TRUNCATE TABLE"]);
        assert!(hits(&proxy) > before + 5, "{fault:?}");
    }
    proxy.heal();
    stage.assert_settled(0);
}

#[test]
fn f18_a_garbled_length_of_a_real_reply_ends_the_link_and_no_result_is_whole() {
    let (mut stage, proxy) = stage(|config| config.set("client_cleanup_timeout", "\"300ms\""));
    // RowDescription, three DataRow, CommandComplete and ReadyForQuery, and their lengths.
    let sql = "select 'row' from generate_series(1, 3)";
    for (number, right) in [33, 13, 13, 13, 13, 5].into_iter().enumerate() {
        for length in [-1, 0, 3, i32::MIN, i32::MAX, right - 1, right + 1, 0x3fff_ffff] {
            let mut client = stage.client();
            client.query("select 1");
            let before = hits(&proxy);
            proxy.set(Way::Down, Fault::CorruptLength { message: number, length });
            client.send(&wire::query(sql));
            let what = format!("message {number} of length {length}");
            // The short wait below is for what comes behind the fault, not for a slow machine.
            assert!(eventually(PATIENCE, || hits(&proxy) > before), "{what}");
            client.set_timeout(Duration::from_millis(50));
            // A message that is said to go on is waited for. Without ReadyForQuery nobody takes
            // the reply for a whole one.
            let tags = garbled_tags(&mut client, &what);
            assert!(!tags.ends_with('Z'), "{what}: {tags}");
            proxy.heal();
            drop(client);
            stage.assert_settled(0);
        }
    }
}

/// The tags of what comes, up to the end or to silence. An error must say that the server is lost.
fn garbled_tags(client: &mut Wire, what: &str) -> String {
    let mut tags = String::new();
    let mut bytes = receive_bytes(client, &message(b'Z', b"I"));
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        tags.push(char::from(head[0]));
        let length = i32::from_be_bytes(head[1..].try_into().unwrap());
        let Ok(body_len) = usize::try_from(length - 4) else { break };
        let Some((body, rest)) = rest.split_at_checked(body_len) else { break };
        if head[0] == b'E' {
            let error = ErrorFields::parse(body);
            assert_eq!((error.severity(), error.code()), ("FATAL", "08006"), "{what}: {error:?}");
        }
        bytes = rest.to_vec();
    }
    tags
}

#[test]
fn c03_v08_a_client_that_leaves_while_its_server_is_silent_costs_the_server_and_no_more() {
    let limit = "\"300ms\"";
    let (mut stage, proxy) = stage(|config| {
        config.set("client_cleanup_timeout", limit).set("cancel_wait_timeout", limit)
    });
    for way in [Way::Up, Way::Down] {
        let mut client = stage.client();
        let lost = client.query("select pg_backend_pid()").value().to_owned();
        proxy.set(way, Fault::BlackHole);
        client.send(&wire::query("insert into t select 1 from pg_sleep(600)"));
        client.expect_silence(Duration::from_millis(50));
        drop(client);
        let free = Counts { cl_active: 1, ..Counts::default() };
        assert!(eventually(PATIENCE, || stage.counts() == free), "{:?}", stage.counts());
        proxy.heal();
        // What the network has kept so long PostgreSQL may yet begin; it is no server any more.
        assert!(eventually(PATIENCE, || proxy.open() == 0));
        end_orphans(&stage);
        stage.assert_settled(0);
        let backends = stage.backends();
        assert!(!backends.contains(&lost.parse().unwrap()), "{lost} of {backends:?}");
        assert_eq!(stage.sql("select count(*) from t"), "0");
    }
}

#[test]
fn v03_a_copy_whose_server_is_lost_is_not_acknowledged() {
    let (mut stage, proxy) = stage(|config| config);
    for fault in [Fault::CutAfter(50_000), Fault::ResetAfter(50_000)] {
        for way in [Way::Up, Way::Down] {
            let mut client = stage.client();
            client.query("select 1");
            client.send(&wire::query("copy t from stdin"));
            client.expect(b'G');
            let before = hits(&proxy);
            proxy.set(way, if way == Way::Up { fault } else { Fault::CutAfter(0) });
            // What is cut before the end is sent is never whole.
            let is_cut = || way == Way::Up || hits(&proxy) > before;
            assert!(eventually(PATIENCE, is_cut));
            let rows = message(b'd', &b"1\n".repeat(1000)).repeat(100);
            // It may be closed before all has been sent.
            let _ = client.try_send(&[rows, message(b'c', b"")].concat());
            match client.receive() {
                Ok(Message { tag: b'E', body }) => {
                    let error = ErrorFields::parse(&body);
                    assert_eq!((error.severity(), error.code()), ("FATAL", "08006"), "{error:?}");
                }
                Err(WireError::Closed | WireError::Io(_)) => {}
                other => panic!("{other:?}"),
            }
            proxy.heal();
            drop(client);
            stage.assert_settled(0);
            assert_eq!(stage.sql("select count(*) from t"), "0");
        }
    }
}
