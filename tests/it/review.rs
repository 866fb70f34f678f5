//! What a hostile reading of the code has found: each test is one way in which a client could tell
//! pgbaton from PostgreSQL, or one client's doing reached another.

use std::time::Duration;

use crate::stage::Stage;
use crate::support::fake_postgres::{self as fake, Event, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::wire::{
    self, Login, Wire, bind, cancel, close, execute, flush, message, parse, query, sync, terminate,
};

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0)].concat()
}

fn tags(client: &mut Wire) -> String {
    match client.receive_until_ready() {
        Ok(messages) => wire::tags(&messages),
        Err(e) => format!("{e:?}"),
    }
}

// A server is given away with a client's message half sent.

#[test]
fn a_server_is_not_given_away_inside_of_a_clients_message() {
    let mut stage = Stage::open(1);
    stage.sql("create table sink (n int)");
    let stray = message(b'd', &b"1\n".repeat(50_000));
    for request in [query("select 'answered'"), query("copy sink from stdin")] {
        let mut client = stage.client();
        let mut bad = message(b'd', b"no number\n");
        bad.extend(&stray[..60_000]);
        client.send(&[&request[..], &bad].concat());
        let first = client.receive_until_ready().unwrap();
        assert!(wire::tags(&first).ends_with('Z'), "{first:?}");
        // Another client must get its own answer, if only after the first has gone on.
        let mut other = stage.client();
        other.send(&query("select 'other'"));
        client.send(&stray[60_000..]);
        assert_eq!(other.receive_reply().unwrap().value(), "other");
        assert_eq!(client.query("select 'in step'").value(), "in step");
    }
    stage.assert_settled(0);
}

// A COPY that has failed, and a Sync among its data.

fn ready_later(pieces: Vec<Vec<u8>>) -> Vec<Step> {
    let pause = Duration::from_millis(100);
    pieces.into_iter().flat_map(|piece| [Step::Send(piece), Step::Pause(pause)]).collect()
}

fn copy_in() -> Vec<u8> {
    message(b'G', &[0, 0, 0])
}

#[test]
fn the_sync_among_the_data_of_a_failed_copy_is_answered_late() {
    let failed = [fake::error("ERROR", "22P02", "bad"), fake::ready(b'I')].concat();
    let script = [
        vec![Step::Login, Step::Expect(b'Q')],
        ready_later(vec![copy_in()]),
        vec![Step::Expect(b'c')],
        // The error and its ReadyForQuery, then the one of the Sync.
        ready_later(vec![failed, fake::ready(b'I')]),
        vec![Step::Serve],
    ];
    let fake = FakePostgres::start(vec![script.concat()]);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let login = || Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    let mut client = login();
    client.set_timeout(Duration::from_secs(3));
    let data = [message(b'd', b"x\n"), sync(), message(b'c', b"")].concat();
    client.send(&[query("copy t from stdin"), data].concat());
    assert_eq!(tags(&mut client), "GEZ");
    assert_eq!(tags(&mut client), "Z");
    for _ in 0..5 {
        assert_eq!(tags_of(&mut client, &query("select 1")), "CZ");
    }
    assert_eq!(fake.connections(), 1);
}

#[test]
fn a_query_behind_a_failed_copy_with_a_sync_among_its_data() {
    let stage = Stage::open(1);
    stage.sql("create table sink (n int)");
    let mut client = stage.client();
    client.set_timeout(Duration::from_secs(3));
    let data = [message(b'd', b"x\n"), sync(), message(b'c', b"")].concat();
    let script = [query("copy sink from stdin"), data, query("select 'behind'")].concat();
    let mut direct = Wire::login(stage.postgres.address(), &stage.login());
    for client in [&mut direct, &mut client] {
        for _ in 0..20 {
            client.send(&script);
            assert_eq!([tags(client), tags(client), tags(client)], ["GEZ", "Z", "TDCZ"]);
        }
    }
}

fn tags_of(client: &mut Wire, bytes: &[u8]) -> String {
    client.send(bytes);
    tags(client)
}

#[test]
fn the_poolers_question_is_not_put_into_a_clients_message() {
    let stage = Stage::open(1);
    stage.sql("create table sink (n int)");
    let mut client = stage.client();
    client.set_timeout(Duration::from_secs(3));
    let long = message(b'd', &b"1\n".repeat(50_000));
    let begin = [query("copy sink from stdin"), message(b'd', b"x\n"), sync()].concat();
    client.send(&[&begin[..], &long[..60_000]].concat());
    assert_eq!(tags(&mut client), "GEZ");
    client.send(&[&long[60_000..], &message(b'c', b"")].concat());
    assert_eq!(tags(&mut client), "Z");
    assert_eq!(client.query("select 'in step'").value(), "in step");
    let mut other = stage.client();
    assert_eq!(other.query("select 'other'").value(), "other");
}

#[test]
fn a_copy_that_fails_behind_an_ignored_sync_frees_its_server() {
    let mut stage = Stage::open(1);
    stage.sql("create table sink (n int)");
    // COPY goes on to read behind the Sync, so that nothing is said of it.
    let copy = query("copy sink from stdin");
    let begin = [copy, message(b'd', b"1\n"), sync(), message(b'd', b"x\n")].concat();
    let long = message(b'd', &b"1\n".repeat(50_000));
    // At once, and with the rest of a message to come: the pooler's question has to wait for it.
    for sent_at_first in [long.len(), 60_000] {
        let (first, rest) = long.split_at(sent_at_first);
        let mut client = stage.client();
        client.send(&[&begin[..], first].concat());
        assert_eq!(tags(&mut client), "GEZ");
        client.expect_silence(Duration::from_millis(50));
        client.send(rest);
        // The client stays, and says nothing more.
        let mut other = stage.client();
        other.set_timeout(Duration::from_secs(5));
        assert_eq!(tags_of(&mut other, &query("select 'other'")), "TDCZ", "{sent_at_first}");
        assert_eq!(client.query("select 'in step'").value(), "in step");
    }
    assert_eq!(stage.backends().len(), 1);
    stage.assert_settled(0);
}

// Memory.

#[test]
fn a_client_that_has_said_terminate_and_does_not_read_is_not_buffered_for() {
    let stage = Stage::open(1);
    let mut client = stage.client();
    client.query("select 1");
    let before = stage.pgbaton.rss_bytes();
    let rows = query("select repeat('x', 10000) from generate_series(1, 30000)");
    client.send(&[rows, terminate()].concat());
    let grows = eventually(Duration::from_secs(8), || {
        stage.pgbaton.rss_bytes().saturating_sub(before) > 100_000_000
    });
    assert!(!grows, "{} bytes more", stage.pgbaton.rss_bytes() - before);
}

#[test]
fn a_long_parse_is_collected_in_time_that_is_linear() {
    let stage = Stage::open(1);
    let mut client = stage.client();
    client.query("select 1");
    let time = |client: &mut Wire, mib: usize| {
        let text = format!("select 1 /* {} */", "x".repeat(mib << 20));
        let began = std::time::Instant::now();
        client.send(&[parse("", "select 1"), parse(&format!("s{mib}"), &text), sync()].concat());
        assert_eq!(tags(client), "11Z");
        began.elapsed()
    };
    let (short, long) = (time(&mut client, 6), time(&mut client, 48));
    assert!(long < short * 24, "6 MiB {short:?}, 48 MiB {long:?}");
}

// Time limits and replication connections.

#[test]
fn a_replication_connection_has_no_query_timeout() {
    let stage = Stage::with(1, |config| config.set("query_timeout", "\"300ms\""));
    let login = stage.login().parameter("replication", "database");
    let mut client = Wire::login(stage.pgbaton.address(), &login);
    client.expect_silence(Duration::from_millis(1500));
    assert_eq!(client.query("select 'alive'").value(), "alive");
}

// Texts are analysed under the settings of whoever sent them first.

#[test]
fn a_literal_is_read_under_its_clients_own_settings() {
    let stage = Stage::open(1);
    for unnamed in [false, true] {
        let name = if unnamed { "" } else { "s" };
        let mut values = Vec::new();
        let text = "select extract(epoch from '2020-01-01 00:00'::timestamptz)::int";
        let zones = ["UTC", "Asia/Tokyo"];
        let mut clients = zones.map(|zone| {
            let login = stage.login().parameter("TimeZone", zone);
            Wire::login(stage.pgbaton.address(), &login)
        });
        for client in clients.iter_mut().rev() {
            client.send(&[parse(name, text), sync()].concat());
            assert_eq!(tags(client), "1Z");
        }
        for client in &mut clients {
            client.send(&[run(name), sync()].concat());
            values.push(client.receive_reply().unwrap().value().to_owned());
        }
        let hours = 3600;
        let midnight = 1_577_836_800;
        let expected = [midnight.to_string(), (midnight - 9 * hours).to_string()];
        assert_eq!(values, expected, "unnamed: {unnamed}");
    }
}

#[test]
fn an_error_names_a_statement_as_its_client_does_though_its_settings_have_changed() {
    let stage = Stage::with(1, |config| config.set("max_prepared_statements", "1"));
    let [mut direct, mut client] = [stage.postgres.address(), stage.pgbaton.address()]
        .map(|address| Wire::login(address, &stage.login()));
    for client in [&mut direct, &mut client] {
        client.send(&[parse("s", "select $1::date"), sync()].concat());
        assert_eq!(tags(client), "1Z");
        client.query("set datestyle = 'German'");
    }
    // Takes the text's place on the server, which reads it again under the settings of now.
    let mut other = stage.client();
    other.send(&[parse("t", "select 7"), sync()].concat());
    assert_eq!(tags(&mut other), "1Z");
    let told = [&mut direct, &mut client].map(|client| {
        client.send(&[run("s"), sync()].concat());
        let error = client.receive_reply().unwrap().error.expect("a value is missing");
        error.message().to_owned()
    });
    assert!(told[0].contains("\"s\""), "{told:?}");
    assert_eq!(told[0], told[1]);
}

#[test]
fn a_string_is_read_under_its_clients_own_encoding() {
    let stage = Stage::open(1);
    let text = "select length('\u{e9}')";
    let mut values = Vec::new();
    for encoding in ["LATIN1", "UTF8"] {
        let login = stage.login().parameter("client_encoding", encoding);
        let mut client = Wire::login(stage.pgbaton.address(), &login);
        client.send(&[parse("s", text), run("s"), sync()].concat());
        values.push(client.receive_reply().unwrap().value().to_owned());
    }
    assert_eq!(values, ["2", "1"]);
}

// A Query ends what stands before it, Sync or not.

#[test]
fn a_query_behind_messages_without_a_sync_frees_the_server() {
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    client.send(&[parse("", "select 1"), run(""), query("select 2")].concat());
    assert_eq!(tags(&mut client), "12DCTDCZ");
    let mut other = stage.client();
    other.set_timeout(Duration::from_secs(3));
    assert_eq!(tags_of(&mut other, &query("select 'other'")), "TDCZ");
    stage.assert_settled(2);
}

// DEALLOCATE by a statement prepared before the name was given.

#[test]
fn deallocate_is_resolved_when_it_runs() {
    let stage = Stage::open(1);
    let direct = Wire::login(stage.postgres.address(), &stage.login());
    let script = [
        [parse("d", "deallocate a"), sync()].concat(),
        [parse("a", "select 'a'"), sync()].concat(),
        [run("d"), sync()].concat(),
        [run("a"), sync()].concat(),
    ];
    for mut client in [direct, stage.client()] {
        let reply: Vec<String> = script.iter().map(|step| tags_of(&mut client, step)).collect();
        assert_eq!(reply, ["1Z", "1Z", "2CZ", "EZ"]);
    }
}

#[test]
fn deallocate_that_another_client_has_prepared_before() {
    let stage = Stage::open(1);
    let mut first = stage.client();
    assert_eq!(tags_of(&mut first, &[parse("d", "deallocate a"), sync()].concat()), "1Z");
    let mut client = stage.client();
    let script = [
        [parse("a", "select 'a'"), sync()].concat(),
        [parse("d", "deallocate a"), sync()].concat(),
        [run("d"), sync()].concat(),
        [run("a"), sync()].concat(),
    ];
    let reply: Vec<String> = script.iter().map(|step| tags_of(&mut client, step)).collect();
    assert_eq!(reply, ["1Z", "1Z", "2CZ", "EZ"]);
}

// server_reset_query_always.

fn resetting(query: &str) -> Stage {
    let query = format!("\"{query}\"");
    Stage::with(1, |config| {
        config.set("server_reset_query", &query).set("server_reset_query_always", "1")
    })
}

#[test]
fn a_reset_query_of_ones_own_forgets_what_it_takes_away() {
    let stage = resetting("RESET ALL; DEALLOCATE ALL");
    let login = stage.login().parameter("TimeZone", "Asia/Tokyo");
    let mut client = Wire::login(stage.pgbaton.address(), &login);
    client.send(&[parse("s", "select 'there'"), sync()].concat());
    assert_eq!(tags(&mut client), "1Z");
    for _ in 0..3 {
        assert_eq!(tags_of(&mut client, &[run("s"), sync()].concat()), "2DCZ");
        assert_eq!(client.query("show timezone").value(), "Asia/Tokyo");
    }
}

#[test]
fn a_request_that_had_to_wait_outlives_a_failed_reset() {
    let stage = resetting("select 1/0");
    let mut client = stage.client();
    client.set_timeout(Duration::from_secs(3));
    let script =
        [parse("s", "selekt"), sync(), parse("s", "select 'second'"), sync(), run("s"), sync()];
    client.send(&script.concat());
    assert_eq!([tags(&mut client), tags(&mut client), tags(&mut client)], ["EZ", "1Z", "2DCZ"]);
}

// DISCARD ALL and what the startup packet asked for.

#[test]
fn discard_all_takes_no_other_clients_startup_settings_away() {
    let stage = Stage::open(1);
    let login = stage.login().parameter("options", "-c statement_timeout=54321");
    let mut first = Wire::login(stage.pgbaton.address(), &login);
    let mut second = Wire::login(stage.pgbaton.address(), &login);
    assert_eq!(second.query("show statement_timeout").value(), "54321ms");
    first.query("set timezone to 'Asia/Tokyo'");
    first.query("discard all");
    assert_eq!(second.query("show statement_timeout").value(), "54321ms");
    assert_eq!(second.query("show timezone").value(), stage.sql("show timezone"));
}

#[test]
fn discard_all_in_a_pipeline_takes_no_other_clients_startup_settings_away() {
    let stage = Stage::open(1);
    let login = stage.login().parameter("options", "-c statement_timeout=54321");
    let mut first = Wire::login(stage.pgbaton.address(), &login);
    let mut second = Wire::login(stage.pgbaton.address(), &login);
    first.send(
        &[query("discard all"), query("set timezone to 'Asia/Tokyo'"), query("discard all")]
            .concat(),
    );
    assert_eq!([tags(&mut first), tags(&mut first), tags(&mut first)], ["CZ", "CSZ", "CSZ"]);
    assert_eq!(second.query("show statement_timeout").value(), "54321ms");
}

// A cancelled wait is answered to its end.

#[test]
fn a_cancelled_wait_is_answered_though_the_next_request_waits_too() {
    let stage = Stage::open(1);
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = stage.client();
    waiting.set_timeout(Duration::from_secs(3));
    let group = [parse("", "select 1"), run(""), sync()].concat();
    waiting.send(&group.repeat(2));
    stage.wait_for_waiting(1);
    cancel(stage.pgbaton.address(), waiting.pid, &waiting.secret);
    assert_eq!(tags(&mut waiting), "EZ");
    holder.query("commit");
    assert_eq!(tags(&mut waiting), "12DCZ");
}

// A client that leaves with a COPY in doubt.

#[test]
fn a_copy_in_doubt_does_not_cost_its_server() {
    for mode in ["session", "transaction"] {
        let mut stage = Stage::with(1, |config| config.set("pool_mode", &format!("\"{mode}\"")));
        stage.sql("create table sink (n int primary key)");
        let mut client = stage.client();
        let pid = client.query("select pg_backend_pid()").value().to_owned();
        // The key is violated at the end, so that the Sync is ignored.
        let data = [message(b'd', b"1\n1\n"), sync(), message(b'c', b"")].concat();
        client.send(&[query("copy sink from stdin"), data, terminate()].concat());
        drop(client);
        let mut other = stage.client();
        other.set_timeout(Duration::from_secs(5));
        other.send(&query("select pg_backend_pid()"));
        assert_eq!(other.receive_reply().unwrap().value(), pid, "{mode}");
        drop(other);
        stage.assert_settled(0);
    }
}

// What a COPY meets.

#[test]
fn a_close_behind_a_copy_ends_the_session_as_it_does_with_postgres() {
    let stage = Stage::open(1);
    stage.sql("create table sink (n int)");
    let direct = Wire::login(stage.postgres.address(), &stage.login());
    for mut client in [direct, stage.client()] {
        client.set_timeout(Duration::from_secs(3));
        let copy = [parse("", "copy sink from stdin"), run(""), close(b'S', "s"), sync()];
        client.send(&copy.concat());
        let reply: Vec<String> = std::iter::from_fn(|| Some(client.receive()))
            .map_while(Result::ok)
            .map(|m| char::from(m.tag).to_string())
            .take_while(|tag| tag != "Z")
            .collect();
        assert!(reply.concat().ends_with('E'), "{reply:?}");
    }
}

// Names are counted like texts.

#[test]
fn the_memory_of_names_has_a_bound() {
    let stage = Stage::with(1, |config| config.set("max_prepared_statement_bytes", "1048576"));
    let mut client = stage.client();
    client.send(&[parse("first", "select 1"), sync()].concat());
    assert_eq!(tags(&mut client), "1Z");
    let before = stage.pgbaton.rss_bytes();
    let mut refused = false;
    for round in 0..400 {
        let names = (0..1000).flat_map(|n| parse(&format!("{round:0>30}_{n:0>20}"), "select 1"));
        client.send(&[names.collect(), sync()].concat());
        refused |= tags(&mut client).contains('E');
    }
    let more = stage.pgbaton.rss_bytes() - before;
    assert!(refused || more < 20_000_000, "{more} bytes more for 400000 names");
}

// query_timeout is about a request, not about a pipeline.

#[test]
fn a_pipeline_of_short_queries_has_no_query_timeout() {
    let stage = Stage::with(1, |config| config.set("query_timeout", "\"900ms\""));
    let mut client = stage.client();
    client.send(&query("select pg_sleep(0.1)").repeat(2));
    for n in 0..30 {
        client.send(&query("select pg_sleep(0.1)"));
        assert_eq!(tags(&mut client), "TDCZ", "round {n}");
    }
}

// More: silence, strangers, races.

#[test]
fn a_flush_without_a_sync_holds_the_server_and_the_next_is_served_when_it_leaves() {
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    client.send(&[parse("", "select 1"), run(""), flush()].concat());
    for tag in "12DC".chars() {
        assert_eq!(char::from(client.receive().unwrap().tag), tag);
    }
    let mut other = stage.client();
    other.send(&query("select 'other'"));
    stage.wait_for_waiting(1);
    drop(client);
    assert_eq!(other.receive_reply().unwrap().value(), "other");
    stage.assert_settled(1);
}

#[test]
fn a_stalled_pipeline_is_cancelled_and_its_client_may_leave() {
    let mut stage = Stage::open(1);
    for leave in [false, true] {
        let mut client = stage.client();
        let script = [
            query("select 'slow' from pg_sleep(600)"),
            parse("", "select 'stalls'"),
            run(""),
            sync(),
        ];
        client.send(&script.concat());
        stage.wait_until_runs("pg_sleep(600)");
        if leave {
            drop(client);
        } else {
            cancel(stage.pgbaton.address(), client.pid, &client.secret);
            assert!(tags(&mut client).ends_with("EZ"));
            assert_eq!(tags(&mut client), "12DCZ");
            drop(client);
        }
        let mut other = stage.client();
        assert_eq!(other.query("select 'other'").value(), "other");
        drop(other);
        stage.assert_settled(0);
    }
}

#[test]
fn a_server_that_dies_while_a_pipeline_is_stalled_ends_its_client_alone() {
    let fake = FakePostgres::start(vec![
        vec![Step::Login, Step::Expect(b'S'), Step::Pause(Duration::from_millis(100)), Step::Reset],
        vec![Step::Login, Step::Serve],
    ]);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let login = || Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    let (mut client, mut other) = (login(), login());
    client.send(&[parse("s", "x"), sync(), parse("s", "y"), sync(), run("s"), sync()].concat());
    fake.wait_for(|event| matches!(event, Event::Message(0, b'S', _)));
    other.send(&query("select 1"));
    assert_eq!(client.expect_error().severity(), "FATAL");
    client.expect_closed();
    assert_eq!(tags(&mut other), "CZ");
}

#[test]
fn a_server_that_says_fatal_and_resets_is_heard_once() {
    let fatal = fake::error("FATAL", "57P01", "terminating");
    // Unread bytes make the close a reset; so does Reset, after the words have been read.
    let script = vec![
        Step::Login,
        Step::Expect(b'Q'),
        Step::Send(fatal),
        Step::Pause(Duration::from_millis(200)),
        Step::Reset,
    ];
    let fake = FakePostgres::start(vec![script]);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    client.send(&query("select 1"));
    assert_eq!(client.expect_error().code(), "57P01");
    client.expect_closed();
}

/// One client of a crowd: it uses the names that all use, for texts of its own, and leaves at random.
fn one_of_the_crowd(stage: &Stage, who: usize, rounds: usize) {
    let address = stage.pgbaton.address();
    let login = stage.login();
    let mut rng = fastrand::Rng::with_seed(who as u64);
    let mut client = Wire::login(address, &login);
    let mut prepared = false;
    for round in 0..rounds {
        let mark = format!("{who}-{round}");
        let text = format!("select '{who}-s' from pg_sleep(0.002)");
        let mut expected = Vec::new();
        let mut script = Vec::new();
        for _ in 0..rng.usize(1..5) {
            match rng.u8(..5) {
                0 => {
                    script.extend([close(b'S', "s"), parse("s", &text), sync()].concat());
                    prepared = true;
                    expected.push(None);
                }
                1 if prepared => {
                    script.extend([run("s"), sync()].concat());
                    expected.push(Some(format!("{who}-s")));
                }
                2 => {
                    let text = format!("select '{mark}'");
                    script.extend([parse("", &text), sync(), run(""), sync()].concat());
                    expected.extend([None, Some(mark.clone())]);
                }
                3 => {
                    script.extend([parse("s", "selekt"), sync()].concat());
                    expected.push(Some("error".into()));
                }
                _ => {
                    script.extend(query(&format!("select '{mark}' from pg_sleep(0.002)")));
                    expected.push(Some(mark.clone()));
                }
            }
        }
        match rng.u8(..10) {
            0 => {
                let cut = rng.usize(1..=script.len());
                client.send(&script[..cut]);
                if rng.bool() {
                    client.reset();
                } else {
                    drop(client);
                }
                client = Wire::login(address, &login);
                prepared = false;
                continue;
            }
            1 => {
                client.send(&script);
                cancel(address, client.pid, &client.secret);
            }
            _ => client.send(&script),
        }
        for expected in expected {
            let reply = client.receive_reply().unwrap();
            let code = reply.error.as_ref().map(|e| e.code().to_owned());
            match (expected.as_deref(), code.as_deref()) {
                (_, Some("57014")) => {
                    // Whether the name was taken is open.
                    client.send(&[close(b'S', "s"), parse("s", &text), sync()].concat());
                    prepared = true;
                    break;
                }
                (Some("error"), Some("42601" | "42P05")) => {}
                (Some(value), None) => assert_eq!(reply.value(), value),
                (None, None) => {}
                other => panic!("{who} {round}: {other:?} {reply:?}"),
            }
        }
        // What is left of a cancelled pipeline is read away, up to a mark.
        client.send(&query(&format!("select 'mark {mark}'")));
        while client.receive_reply().unwrap().rows != [[Some(format!("mark {mark}"))]] {}
    }
}

#[test]
fn a_crowd_that_cancels_and_leaves_gets_its_own_answers() {
    for (servers, statements) in [(1, "1"), (2, "2")] {
        let mut stage =
            Stage::with(servers, |config| config.set("max_prepared_statements", statements));
        std::thread::scope(|scope| {
            for who in 0..8 {
                let stage = &stage;
                scope.spawn(move || one_of_the_crowd(stage, who, 40));
            }
        });
        stage.assert_settled(0);
        assert!(stage.backends().len() <= servers);
    }
}
