//! Cancel requests: the right key cancels the query that its client runs at that moment and
//! nothing else, ever. The names X01 to X07 are those of the project's table of faults.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::stage::{Counts, PATIENCE, Stage};
use crate::support::fake_postgres::{Event, FIRST_PID, FakePostgres, SECRET, Step, idle_reply};
use crate::support::fault_proxy::{Fault, Way};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::wire::{self, Login, Reply, Wire, cancel, with_length};

const CANCEL_REQUEST: i32 = 80_877_102;

fn cancel_client(stage: &Stage, client: &Wire) {
    cancel(stage.pgbaton.address(), client.pid, &client.secret);
}

fn code(reply: &Reply) -> &str {
    reply.error.as_ref().map_or("", |error| error.code())
}

#[test]
fn x01_the_right_key_cancels_and_the_session_goes_on() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    for _ in 0..3 {
        stage.start_query(&mut client, "select pg_sleep(600)");
        cancel_client(&stage, &client);
        let reply = client.receive_reply().unwrap();
        assert_eq!((code(&reply), reply.status), ("57014", b'I'), "{reply:?}");
        assert_eq!(client.query("select 'usable'").value(), "usable");
    }
    stage.assert_settled(1);
}

#[test]
fn x01_a_cancel_in_a_transaction_fails_it_and_the_server_stays_linked() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    client.query("begin");
    stage.start_query(&mut client, "select pg_sleep(600)");
    cancel_client(&stage, &client);
    let reply = client.receive_reply().unwrap();
    assert_eq!((code(&reply), reply.status), ("57014", b'E'), "{reply:?}");
    assert_eq!(client.query_error("select 1").code(), "25P02");
    client.query("rollback");
    stage.assert_settled(1);
}

#[test]
fn x01_a_cancel_in_a_pipeline_cancels_what_runs() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    client.send(&wire::parse("", "select pg_sleep(600)"));
    client.send(&[wire::bind("", "", &[]), wire::execute("", 0)].concat());
    client.send(&[wire::sync(), wire::query("select 'next'")].concat());
    stage.wait_until_runs("pg_sleep(600)");
    cancel_client(&stage, &client);
    let reply = client.receive_reply().unwrap();
    assert_eq!(code(&reply), "57014", "{reply:?}");
    assert_eq!(client.receive_reply().unwrap().value(), "next");
    stage.assert_settled(1);
}

#[test]
fn x01_in_session_mode_too() {
    let mut stage = Stage::with(1, |config| config.set("pool_mode", "\"session\""));
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    cancel_client(&stage, &client);
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    assert_eq!(client.query("select 'usable'").value(), "usable");
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn x02_wrong_keys_cancel_nothing_and_get_no_answer() {
    let mut stage = Stage::open(1).watched();
    let mut other = stage.client();
    other.query("select 1");
    let gone = {
        let mut gone = stage.client();
        gone.query("select 1");
        (gone.pid, gone.secret.clone())
    };
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    let backend = stage.backends()[0];
    let own = (client.pid, client.secret.clone());
    let flipped = |bit: usize| {
        let mut secret = own.1.clone();
        secret[bit / 8] ^= 1 << (bit % 8);
        secret
    };
    let address = stage.pgbaton.address();
    for bit in 0..own.1.len() * 8 {
        cancel(address, own.0, &flipped(bit));
    }
    for (pid, secret) in [
        (own.0, vec![0; 4]),
        (own.0, vec![0; 256]),
        (own.0, own.1.repeat(8)),
        (own.0 + 1, own.1.clone()),
        (0, own.1.clone()),
        (-1, own.1.clone()),
        (i32::MAX, own.1.clone()),
        (i32::MIN, vec![0; 4]),
        // The bit of the consoles, alone and with the sign.
        (1 << 30, own.1.clone()),
        (i32::MIN | 1 << 30, own.1.clone()),
        (other.pid, own.1.clone()),
        (own.0, other.secret.clone()),
        // The server's own process id is no client's.
        (backend, own.1.clone()),
        gone,
    ] {
        cancel(address, pid, &secret);
    }
    // Guesses that no two of which are equal, for its process id and its neighbours'.
    for guess in 0..500_u32 {
        let secret = guess.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
        if secret.to_be_bytes() != own.1[..] {
            cancel(address, own.0 + i32::try_from(guess % 3).unwrap(), &secret.to_be_bytes());
        }
    }
    client.expect_silence(Duration::from_millis(50));
    cancel_client(&stage, &client);
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    assert_eq!(other.query("select 'unharmed'").value(), "unharmed");
    stage.assert_settled(2);
}

#[test]
fn x02_keys_are_pgbatons_own_and_differ() {
    let stage = Stage::open(1);
    let clients: Vec<Wire> = (0..20).map(|_| stage.client()).collect();
    let mut pids: Vec<_> = clients.iter().map(|client| client.pid).collect();
    let mut secrets: Vec<_> = clients.iter().map(|client| client.secret.clone()).collect();
    let backend = stage.backends();
    assert!(pids.iter().all(|pid| !backend.contains(pid)), "{pids:?}");
    pids.sort_unstable();
    pids.dedup();
    secrets.sort_unstable();
    secrets.dedup();
    assert_eq!((pids.len(), secrets.len()), (20, 20));
    assert!(secrets.iter().all(|secret| secret.len() == 4), "3.0 knows four bytes");
}

#[test]
fn x03_a_cancel_of_an_idle_client_never_hits_a_later_query() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    let mut stranger = stage.client();
    client.query("select 1");
    for n in 0..50 {
        cancel_client(&stage, &client);
        for client in [&mut client, &mut stranger] {
            let reply = client.query(&format!("select {n} from pg_sleep(0.002)"));
            assert_eq!(reply.value(), n.to_string());
        }
    }
    stage.assert_settled(2);
}

/// Asks again and again until told to stop; gives how often it was cancelled.
fn ask_and_be_cancelled(client: &mut Wire, stop: impl Fn() -> bool) -> usize {
    let mut cancelled = 0;
    while !stop() {
        let reply = client.try_query("select 'mine' from pg_sleep(0.001)").unwrap();
        match code(&reply) {
            "" => assert_eq!(reply.value(), "mine"),
            "57014" => cancelled += 1,
            other => panic!("{other}: {reply:?}"),
        }
    }
    cancelled
}

/// Counts a thread that has come to its end, be it by a panic.
struct Finishes<'a>(&'a AtomicUsize);

impl Drop for Finishes<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn x04_a_thousand_cancels_racing_the_end_of_queries_hit_no_stranger() {
    const CANCELS: usize = 1000;
    /// Clients that are cancelled, each as often as the others.
    const CLIENTS: usize = 2;
    let mut stage = Stage::open(1).watched();
    let clients: Vec<Wire> = (0..CLIENTS).map(|_| stage.client()).collect();
    let mut stranger = stage.client();
    let address = stage.pgbaton.address();
    let finished = AtomicUsize::new(0);
    let over = || finished.load(Ordering::Relaxed) == CLIENTS;
    let (served, cancelled) = thread::scope(|scope| {
        let mut cancelled = Vec::new();
        for mut client in clients {
            let (pid, secret, finished) = (client.pid, client.secret.clone(), &finished);
            scope.spawn(move || {
                let _at_its_end = Finishes(finished);
                for n in 0..CANCELS / CLIENTS {
                    // Now early, now late: about the length of a query.
                    thread::sleep(Duration::from_micros(u64::try_from(n % 20).unwrap() * 150));
                    cancel(address, pid, &secret);
                }
            });
            cancelled.push(scope.spawn(move || ask_and_be_cancelled(&mut client, over)));
        }
        let mut served = 0;
        while !over() {
            let reply = stranger.query(&format!("select {served} from pg_sleep(0.001)"));
            assert_eq!(reply.value(), served.to_string());
            served += 1;
        }
        let counts = cancelled.into_iter().map(|client| client.join().unwrap());
        (served, counts.sum::<usize>())
    });
    assert!(cancelled > 0, "not one of {CANCELS} cancels came in time");
    assert!(served >= CANCELS / 20, "the stranger was there {served} times only");
    drop(stranger);
    stage.assert_settled(0);
}

/// A client whose requests wait behind a query that holds the only server. After the cancel the
/// client must get `tags` while the server is still held, then be served.
fn cancelled_while_it_waits(stage: &mut Stage, request: &[u8], rest: &[u8], tags: &str) {
    let mut holder = stage.client();
    stage.start_query(&mut holder, "select 'held' from pg_sleep(600)");
    let mut waiting = stage.client();
    waiting.send(request);
    stage.wait_for_waiting(1);
    cancel_client(stage, &waiting);
    let error = waiting.expect_error();
    assert_eq!(
        (error.code(), error.message()),
        ("57014", "canceling statement due to user request")
    );
    waiting.send(rest);
    let reply: Vec<_> = (1..tags.len()).map(|_| waiting.receive().unwrap()).collect();
    assert_eq!(wire::tags(&reply), &tags[1..]);
    assert_eq!(stage.counts().cl_waiting, 0, "it has left the queue");
    holder.expect_silence(Duration::from_millis(20));
    cancel_client(stage, &holder);
    assert_eq!(code(&holder.receive_reply().unwrap()), "57014", "its own cancel, not the other's");
    assert_eq!(waiting.query("select 'usable'").value(), "usable");
    assert_eq!(holder.query("select 'unharmed'").value(), "unharmed");
}

#[test]
fn x05_a_cancel_of_a_waiting_client_is_answered_and_takes_it_out_of_the_queue() {
    let extended = [wire::parse("", "select 1"), wire::bind("", "", &[]), wire::execute("", 0)];
    let extended = extended.concat();
    for mode in ["transaction", "session"] {
        let mut stage = Stage::open(1);
        if mode == "session" {
            stage = Stage::with(1, |config| config.set("pool_mode", "\"session\""));
            // There a server is freed by its client's leaving only: one request is enough.
            let holder = {
                let mut holder = stage.client();
                holder.query("select 1");
                holder
            };
            let mut waiting = stage.client();
            waiting.send(&wire::query("select 1"));
            stage.wait_for_waiting(1);
            cancel_client(&stage, &waiting);
            assert_eq!(code(&waiting.receive_reply().unwrap()), "57014");
            drop(holder);
            assert_eq!(waiting.query("select 'usable'").value(), "usable");
            drop(waiting);
            stage.assert_settled(0);
            continue;
        }
        let synced = [&extended[..], &wire::sync()].concat();
        let late_sync = [wire::query("select 'skipped'"), wire::sync()].concat();
        let long = wire::query(&format!("select '{}'", "x".repeat(100_000)));
        cancelled_while_it_waits(&mut stage, &wire::query("select 'waited'"), b"", "EZ");
        cancelled_while_it_waits(&mut stage, &synced, b"", "EZ");
        // Its Sync comes later; what is in front of it is skipped.
        cancelled_while_it_waits(&mut stage, &extended, &late_sync, "EZ");
        // Only a part of it has come.
        cancelled_while_it_waits(&mut stage, &long[..50_000], &long[50_000..], "EZ");
        let call = wire::message(b'F', &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        cancelled_while_it_waits(&mut stage, &call, b"", "EZ");
        let settled = Counts { sv_idle: 1, ..Counts::default() };
        assert!(eventually(PATIENCE, || stage.counts() == settled));
        stage.assert_settled(0);
    }
}

#[test]
fn x05_what_was_sent_behind_the_cancelled_request_is_carried_out() {
    let mut stage = Stage::open(1);
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = stage.client();
    waiting.send(&[wire::query("select 'cancelled'"), wire::query("select 'second'")].concat());
    stage.wait_for_waiting(1);
    cancel_client(&stage, &waiting);
    assert_eq!(code(&waiting.receive_reply().unwrap()), "57014");
    stage.wait_for_waiting(1);
    holder.query("commit");
    assert_eq!(waiting.receive_reply().unwrap().value(), "second");
    stage.assert_settled(2);
}

#[test]
fn x05_a_cancel_of_a_client_whose_server_is_being_connected() {
    let scripts =
        vec![vec![Step::Login, Step::Serve], vec![Step::Stall], vec![Step::Login, Step::Serve]];
    let fake = FakePostgres::start(scripts);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 2");
    let pgbaton = Pgbaton::start(&config);
    let login = || Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    let (mut holder, mut waiting) = (login(), login());
    // Takes the server that the logins have left; it is in the pool until then.
    holder.send(&[wire::parse("", "x"), wire::flush()].concat());
    fake.wait_for(|event| matches!(event, Event::Message(0, b'H', _)));
    waiting.send(&wire::query("select"));
    fake.wait_for(|event| matches!(event, Event::Connected(1)));
    cancel(pgbaton.address(), waiting.pid, &waiting.secret);
    let reply = waiting.receive_reply().unwrap();
    assert_eq!((code(&reply), reply.status), ("57014", b'I'));
    // The dial was given up with it; the next request has one of its own.
    assert_eq!(waiting.try_query("select").unwrap().tags, ["SELECT 0"]);
    assert_eq!(fake.connections(), 3);
}

#[test]
fn x05_cancels_racing_the_hand_off_leave_every_client_with_one_answer() {
    const ROUNDS: usize = 300;
    let mut stage = Stage::open(1);
    let address = stage.pgbaton.address();
    let login = stage.login();
    let (mut cancelled, mut served) = (0, 0);
    thread::scope(|scope| {
        let stranger = scope.spawn({
            let login = login.clone();
            move || {
                let mut stranger = Wire::login(address, &login);
                for n in 0..ROUNDS {
                    let reply = stranger.query(&format!("select {n} from pg_sleep(0.002)"));
                    assert_eq!(reply.value(), n.to_string(), "a stranger was hit");
                }
            }
        });
        let mut client = Wire::login(address, &login);
        for n in 0..ROUNDS {
            client.send(&wire::query(&format!("select {n} from pg_sleep(0.001)")));
            thread::sleep(Duration::from_micros(u64::try_from(n % 10).unwrap() * 250));
            cancel(address, client.pid, &client.secret);
            let reply = client.receive_reply().unwrap();
            match code(&reply) {
                "" => served += usize::from(reply.value() == n.to_string()),
                "57014" => cancelled += 1,
                other => panic!("{other}: {reply:?}"),
            }
        }
        stranger.join().expect("no stranger was hit");
    });
    assert_eq!(cancelled + served, ROUNDS);
    assert!(cancelled > 0 && served > 0, "{cancelled} cancelled, {served} served");
    stage.assert_settled(0);
}

#[test]
fn x06_malformed_cancel_requests_are_closed() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    let code = CANCEL_REQUEST.to_be_bytes();
    let pid = client.pid.to_be_bytes();
    for body in [
        code.to_vec(),
        [code, pid].concat(),
        [&code[..], &pid, &client.secret[..3]].concat(),
        [&code[..], &pid, &[7; 300]].concat(),
        [&code[..], &pid, &[7; 9_000]].concat(),
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&with_length(&body));
        while let Ok(message) = wire.receive() {
            assert_eq!(message.tag, b'E', "{message:?}");
        }
    }
    client.expect_silence(Duration::from_millis(50));
    cancel_client(&stage, &client);
    client.receive_reply().unwrap();
    stage.assert_settled(1);
}

#[test]
fn x06_a_flood_of_a_thousand_cancels_leaves_nothing() {
    let mut stage = Stage::with(1, |config| config.set("max_client_conn", "2000")).watched();
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    let body = [&CANCEL_REQUEST.to_be_bytes()[..], &client.pid.to_be_bytes(), &client.secret];
    let request = with_length(&body.concat());
    let flood: Vec<Wire> = (0..1000)
        .map(|_| {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&request);
            wire
        })
        .collect();
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    for mut wire in flood {
        wire.expect_closed();
    }
    assert_eq!(client.query("select 'usable'").value(), "usable");
    stage.assert_settled(1);
}

#[test]
fn x06_a_flood_of_cancels_takes_few_connections_to_the_server() {
    const CANCELS: usize = 500;
    /// As many as PgBouncer lets a pool of this size have for cancels, and those of the pool.
    const CONNECTIONS_MAX: usize = 10;
    let (stage, proxy) = Stage::behind_proxy(1, |config| {
        config.set("max_client_conn", "2000").set("cancel_wait_timeout", "2")
    });
    let mut stage = stage.watched();
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    proxy.set(Way::Up, Fault::BlackHole);
    let body = [&CANCEL_REQUEST.to_be_bytes()[..], &client.pid.to_be_bytes(), &client.secret];
    let request = with_length(&body.concat());
    let mut flood: Vec<Wire> = (0..CANCELS)
        .map(|_| {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&request);
            wire
        })
        .collect();
    for wire in &mut flood {
        wire.expect_closed();
    }
    proxy.heal();
    let reply = client.receive_reply().unwrap();
    assert_eq!(code(&reply), "57014", "{reply:?}");
    stage.assert_settled(1);
    let sockets = proxy.most_open();
    assert!(sockets <= CONNECTIONS_MAX, "{sockets} connections to the server at a time");
}

#[test]
fn x07_cancels_while_the_server_is_out_of_reach_are_closed_quietly() {
    let (stage, proxy) = Stage::behind_proxy(1, |config| config.set("cancel_wait_timeout", "1"));
    let mut stage = stage.watched();
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    let before = proxy.opened();
    // The client's own server is not hit: nothing is sent to it while the query runs.
    for fault in [Fault::ResetAfter(5), Fault::CutAfter(15), Fault::BlackHole] {
        let hits = proxy.traffic(Way::Up).hits;
        proxy.set(Way::Up, fault);
        cancel_client(&stage, &client);
        assert!(proxy.traffic(Way::Up).hits > hits, "{fault:?}");
        client.expect_silence(Duration::from_millis(50));
        proxy.heal();
    }
    assert!(proxy.opened() > before, "the cancels did go out");
    cancel_client(&stage, &client);
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    stage.assert_settled(1);
}

#[test]
fn x07_a_cancel_that_cannot_reach_its_server_ends_by_itself() {
    // The server takes the cancel's connection and never closes it.
    let stalling = vec![Step::Login, Step::Expect(b'Q'), Step::Stall];
    let fake = FakePostgres::start(vec![stalling, vec![Step::Stall]]);
    let config = Config::new().set("cancel_wait_timeout", "1").database_at(
        "app",
        fake.address(),
        "pool_size = 1",
    );
    let mut pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    client.send(&wire::query("select"));
    fake.wait_for(|event| matches!(event, Event::Message(0, b'Q', _)));
    cancel(pgbaton.address(), client.pid, &client.secret);
    client.expect_silence(Duration::from_millis(50));
    assert!(pgbaton.is_running());
}

#[test]
fn x07_a_server_with_a_cancel_that_was_given_up_serves_nobody_else() {
    // The answer comes before the cancel is given up, and after.
    for pause_ms in [500, 1500] {
        let answering = vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Pause(Duration::from_millis(pause_ms)),
            Step::Send(idle_reply(b'Q')),
            Step::Serve,
        ];
        // The second connection is the cancel's, of which nobody can say whether it will be read.
        let fake =
            FakePostgres::start(vec![answering, vec![Step::Stall], vec![Step::Login, Step::Serve]]);
        let config = Config::new().set("cancel_wait_timeout", "1").database_at(
            "app",
            fake.address(),
            "pool_size = 1",
        );
        let pgbaton = Pgbaton::start(&config);
        let login = || Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
        let (mut client, mut other) = (login(), login());
        client.send(&wire::query("select 'cancelled'"));
        fake.wait_for(|event| matches!(event, Event::Message(0, b'Q', _)));
        cancel(pgbaton.address(), client.pid, &client.secret);
        assert_eq!(fake.connections(), 2, "the cancel did go out");
        assert_eq!(client.receive_reply().unwrap().tags, ["SELECT 0"]);
        assert_eq!(other.query("select 'other'").tags, ["SELECT 0"]);
        assert_eq!(client.query("select 'next'").tags, ["SELECT 0"]);
        assert_eq!(fake.queries(0), ["select 'cancelled'"], "{pause_ms} ms");
        assert_eq!(fake.queries(2), ["select 'other'", "select 'next'"], "{pause_ms} ms");
    }
}

#[test]
fn x05_a_cancel_during_the_poolers_own_query_hits_the_clients_and_nothing_before() {
    let answer = || [Step::Expect(b'Q'), Step::Send(idle_reply(b'Q'))];
    // The settings at the client's login, the other's and its query; then those of the client's.
    let mut script = vec![Step::Login];
    script.extend([answer(), answer(), answer()].concat());
    let slow = Step::Pause(Duration::from_secs(1));
    script.extend([Step::Expect(b'Q'), slow, Step::Send(idle_reply(b'Q'))]);
    script.extend([Step::Expect(b'Q'), Step::Drain]);
    let fake = FakePostgres::start(vec![script]);
    let pgbaton =
        Pgbaton::start(&Config::new().database_at("app", fake.address(), "pool_size = 1"));
    let login = Login::new("somebody", "app", "");
    let mut other = Wire::login(pgbaton.address(), &login);
    let login = login.parameter("TimeZone", "Asia/Tokyo");
    let mut client = Wire::login(pgbaton.address(), &login);
    other.query("select 'other'");
    client.send(&wire::query("select 'mine'"));
    assert!(eventually(PATIENCE, || fake.queries(0).len() >= 4), "{:?}", fake.queries(0));
    cancel(pgbaton.address(), client.pid, &client.secret);
    thread::sleep(Duration::from_millis(100));
    let (events, queries) = (fake.events(), fake.queries(0));
    assert!(queries.len() == 4 && queries[3].contains("Asia/Tokyo"), "{queries:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Cancel(..))), "{events:?}");
    fake.wait_for(|event| *event == Event::Cancel(FIRST_PID, SECRET.to_vec()));
    assert!(eventually(PATIENCE, || fake.queries(0)[4..] == ["select 'mine'"]));
}

#[test]
fn x05_a_cancel_during_the_poolers_own_query_is_not_lost() {
    let (mut stage, proxy) = Stage::behind_proxy(1, |config| config);
    let login = stage.login().parameter("TimeZone", "Asia/Tokyo");
    let mut client = Wire::login(stage.pgbaton.address(), &login);
    let mut other = stage.client();
    assert_ne!(other.query("show timezone").value(), "Asia/Tokyo");
    // As if the server were still at the client's settings: pgbaton has no answer yet.
    proxy.set(Way::Down, Fault::BlackHole);
    client.send(&wire::query("select pg_sleep(600)"));
    stage.wait_until_runs("pg_sleep(600)");
    cancel_client(&stage, &client);
    client.expect_silence(Duration::from_millis(50));
    proxy.heal();
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    assert_eq!(client.query("show timezone").value(), "Asia/Tokyo");
    stage.assert_settled(2);
}

#[test]
fn x01_a_cancel_reaches_the_server_with_the_servers_own_key() {
    let fake = FakePostgres::start(vec![vec![Step::Login, Step::Expect(b'Q'), Step::Drain]]);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
    client.send(&wire::query("select"));
    fake.wait_for(|event| matches!(event, Event::Message(0, b'Q', _)));
    cancel(pgbaton.address(), client.pid, &client.secret);
    fake.wait_for(|event| *event == Event::Cancel(1000, vec![1, 2, 3, 4]));
}

#[test]
fn x01_x02_clients_of_protocol_3_2_get_long_keys_that_work() {
    let mut stage = Stage::open(1);
    let mut client = Wire::connect(stage.pgbaton.address());
    let mut body = (3_i32 << 16 | 2).to_be_bytes().to_vec();
    body.extend(format!("user\0tester\0database\0{}\0\0", stage.database).as_bytes());
    client.send(&with_length(&body));
    client.authenticate(&stage.login()).unwrap();
    assert!((5..=256).contains(&client.secret.len()), "{:?}", client.secret);
    stage.start_query(&mut client, "select pg_sleep(600)");
    let address = stage.pgbaton.address();
    let mut wrong = client.secret.clone();
    *wrong.last_mut().unwrap() ^= 1;
    cancel(address, client.pid, &wrong);
    // A part of it is easier to guess.
    for len in 4..client.secret.len() {
        cancel(address, client.pid, &client.secret[..len]);
    }
    client.expect_silence(Duration::from_millis(50));
    cancel(address, client.pid, &client.secret);
    assert_eq!(code(&client.receive_reply().unwrap()), "57014");
    drop(client);
    let settled = Counts { sv_idle: 1, ..Counts::default() };
    assert!(eventually(PATIENCE, || stage.counts() == settled));
    stage.assert_settled(0);
}
