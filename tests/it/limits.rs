//! Limits: how many clients, servers and waiters there may be, how long they may take, and how
//! much memory a client can cost. Nothing here says how fast anything is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Counts, PATIENCE, Stage, console, counts};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{PASSWORD, Postgres, SCRAM_ROLE, SUPERUSER};
use crate::support::wire::{self, ErrorFields, Login, Wire, WireError};

const MIB: usize = 1 << 20;

fn refused(pgbaton: &Pgbaton, login: &Login) -> ErrorFields {
    match Wire::try_login(pgbaton.address(), login) {
        Err(WireError::Server(error)) => error,
        other => panic!("not refused: {:?}", other.err()),
    }
}

/// A FATAL error and the end.
fn thrown_out(client: &mut Wire) -> (String, String) {
    let error = client.expect_error();
    assert_eq!(error.severity(), "FATAL", "{error:?}");
    client.expect_closed();
    (error.code().to_owned(), error.message().to_owned())
}

// --- clients ---

#[test]
fn c13_max_client_conn_refuses_more_and_harms_nobody() {
    let mut stage = Stage::with(2, |config| config.set("max_client_conn", "5"));
    let mut clients: Vec<Wire> = (0..5).map(|_| stage.client()).collect();
    for _ in 0..3 {
        let error = refused(&stage.pgbaton, &stage.login());
        assert_eq!((error.severity(), error.code()), ("FATAL", "53300"), "{error:?}");
        assert_eq!(error.message(), "no more connections allowed (max_client_conn)");
    }
    for client in &mut clients {
        assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
    }
    assert_eq!(stage.counts().cl_active, 5, "the console is let in");
    clients.pop().unwrap().send(&wire::terminate());
    let let_in =
        eventually(PATIENCE, || Wire::try_login(stage.pgbaton.address(), &stage.login()).is_ok());
    assert!(let_in, "a place was freed and not given");
    clients.clear();
    stage.assert_settled(0);
}

#[test]
fn client_login_timeout_counts_from_the_first_moment() {
    let mut stage = Stage::with(2, |config| {
        let password = format!("password = \"{PASSWORD}\"");
        config
            .set("client_login_timeout", "1")
            .set("auth_type", "\"scram-sha-256\"")
            .user(SUPERUSER, &password)
            .user("pgbaton", &password)
    });
    let login = Login::new(SUPERUSER, &stage.database, PASSWORD);
    let address = stage.pgbaton.address();
    let began = Instant::now();
    let mut silent = Wire::connect(address);
    let mut half = Wire::connect(address);
    half.send(b"\0\0\0\x20\0\x03\0\0user");
    let mut asked = Wire::connect(address);
    asked.send_startup(&login).unwrap();
    asked.expect(b'R');
    let mut trickling = Wire::connect(address);
    let mut bytes = [&b"\0\0\x27\x10\0\x03\0\0user\0"[..], &[b'x'; 2_000]].concat();
    // Each byte comes in time, if each were given a time of its own.
    while trickling.try_send(&bytes[..1]).is_ok() && began.elapsed() < PATIENCE {
        bytes.remove(0);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() < PATIENCE, "a byte now and then keeps it open");
    for wire in [&mut silent, &mut half, &mut asked] {
        assert_eq!(thrown_out(wire), ("08P01".to_owned(), "client_login_timeout".to_owned()));
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    stage.assert_settled_as(0, &login);
}

#[test]
fn silent_connections_keep_nobody_from_logging_in() {
    let mut stage = Stage::with(2, |config| config.set("max_client_conn", "400"));
    let silent: Vec<Wire> = (0..250)
        .map(|n| {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&b"\0\0\0\x20\0\x03\0\0"[..n % 8]);
            wire
        })
        .collect();
    let mut client = stage.client();
    assert_eq!(client.query("select 'in'").value(), "in");
    drop(client);
    drop(silent);
    stage.assert_settled(0);
}

// --- waiting ---

/// A stage whose only server is held in a transaction.
fn held(tune: impl FnOnce(Config) -> Config) -> (Stage, Wire) {
    let stage = Stage::with(1, tune);
    let mut holder = stage.client();
    holder.query("begin");
    (stage, holder)
}

/// Waits for the pool to have this many waiting beside the one holder.
fn assert_waiting(stage: &Stage, waiting: usize) {
    stage.wait_for_waiting(waiting);
    let expected = Counts { cl_active: 1, cl_waiting: waiting, sv_active: 1, ..Counts::default() };
    assert_eq!(stage.counts(), expected);
}

#[test]
fn c14_query_wait_timeout_ends_the_wait_with_pgbouncers_words() {
    let (mut stage, mut holder) = held(|config| config.set("query_wait_timeout", "1"));
    let mut clients: Vec<Wire> = (0..5).map(|_| stage.client()).collect();
    let began = Instant::now();
    for client in &mut clients {
        client.send(&wire::query("select 1"));
    }
    for client in &mut clients {
        let told = thrown_out(client);
        assert_eq!(told, ("53300".to_owned(), "query_wait_timeout".to_owned()));
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(holder.query("commit").status, b'I');
    drop(holder);
    stage.assert_settled(0);
}

#[test]
fn query_wait_timeout_of_one_database_or_user_is_its_own() {
    for of_user in [false, true] {
        let postgres = Postgres::shared();
        let [short, long] = [(); 2].map(|()| postgres.create_database());
        let limit = "query_wait_timeout = \"300ms\"";
        let config = Config::new().set("default_pool_size", "1");
        let (config, impatient) = if of_user {
            let config = config.database(&short, postgres, "").user(SCRAM_ROLE, limit);
            (config, SCRAM_ROLE)
        } else {
            (config.database(&short, postgres, limit), SUPERUSER)
        };
        let pgbaton = Pgbaton::start(&config.database(&long, postgres, ""));
        let client = |user: &str, database: &str| {
            Wire::login(pgbaton.address(), &Login::new(user, database, ""))
        };
        let mut holders = [client(impatient, &short), client(SUPERUSER, &long)];
        let mut waiting = [client(impatient, &short), client(SUPERUSER, &long)];
        for holder in &mut holders {
            holder.query("begin");
        }
        for client in &mut waiting {
            client.send(&wire::query("select 'served'"));
        }
        let [impatient, patient] = &mut waiting;
        assert_eq!(thrown_out(impatient).1, "query_wait_timeout");
        patient.expect_silence(Duration::from_millis(500));
        holders[1].query("commit");
        assert_eq!(patient.receive_reply().unwrap().value(), "served");
    }
}

#[test]
fn c14_max_waiting_clients_turns_more_away_at_once() {
    let (mut stage, mut holder) = held(|config| {
        // One worker: with more of them the bound may be passed by their number.
        config.set("max_waiting_clients", "2").set("workers", "1")
    });
    let mut waiting: Vec<Wire> = (0..2)
        .map(|n| {
            let mut client = stage.client();
            client.send(&wire::query(&format!("select {n}")));
            stage.wait_for_waiting(n + 1);
            client
        })
        .collect();
    for _ in 0..3 {
        let mut client = stage.client();
        client.send(&wire::query("select 1"));
        let (code, text) = thrown_out(&mut client);
        assert_eq!(code, "53300", "{text}");
    }
    assert_waiting(&stage, 2);
    holder.query("commit");
    for (n, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.receive_reply().unwrap().value(), n.to_string());
    }
    drop((holder, waiting));
    stage.assert_settled(0);
}

#[test]
fn c14_those_who_wait_are_served_in_the_order_of_their_coming() {
    const CLIENTS: usize = 30;
    let (mut stage, mut holder) = held(|config| config.set("workers", "1"));
    stage.sql("create table t (place serial, client int)");
    let mut waiting: Vec<Wire> = (0..CLIENTS)
        .map(|n| {
            let mut client = stage.client();
            client.send(&wire::query(&format!("insert into t (client) values ({n})")));
            stage.wait_for_waiting(n + 1);
            client
        })
        .collect();
    holder.query("commit");
    for client in &mut waiting {
        assert_eq!(client.receive_reply().unwrap().tags, ["INSERT 0 1"]);
    }
    let order: Vec<String> = (0..CLIENTS).map(|n| n.to_string()).collect();
    assert_eq!(stage.sql("select client from t order by place"), order.join(","));
    drop((holder, waiting));
    stage.assert_settled(0);
}

#[test]
fn c14_nobody_starves_while_all_ask_again_and_again() {
    const CLIENTS: usize = 30;
    const ROUNDS: usize = 40;
    let mut stage = Stage::open(2).watched();
    let (over, longest_line) = (AtomicBool::new(false), AtomicUsize::new(0));
    let counts: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for served in &counts {
            let mut client = stage.client();
            let over = &over;
            scope.spawn(move || {
                // All stop when the quickest has had its rounds.
                while !over.load(Ordering::Relaxed) {
                    client.query("select pg_sleep(0.002)");
                    if served.fetch_add(1, Ordering::Relaxed) + 1 >= ROUNDS {
                        over.store(true, Ordering::Relaxed);
                    }
                }
                client.send(&wire::terminate());
            });
        }
        while !over.load(Ordering::Relaxed) {
            longest_line.fetch_max(stage.counts().cl_waiting, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(10));
        }
    });
    let longest = longest_line.load(Ordering::Relaxed);
    assert!(longest >= CLIENTS / 2, "no more than {longest} ever waited");
    let mut served: Vec<usize> = counts.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    served.sort_unstable();
    let (least, median) = (served[0], served[CLIENTS / 2]);
    assert!(2 * least >= median, "one waits more than twice as long as the others: {served:?}");
    assert!(median * 2 >= ROUNDS, "one is served at the cost of the others: {served:?}");
    stage.assert_settled(0);
}

#[test]
fn what_a_waiting_client_sends_is_bounded_and_carried_out_in_full() {
    let (mut stage, mut holder) = held(|config| config);
    let rss = stage.pgbaton.rss_bytes();
    let mut client = stage.client();
    let text = "x".repeat(50 * MIB);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            client.send(&wire::query(&format!("select length('{text}')")));
            client.receive_reply().unwrap()
        });
        stage.wait_for_waiting(1);
        // The kernel's buffers are full by now or soon will be; none of it may be kept.
        assert!(!sender.is_finished());
        thread::sleep(Duration::from_millis(200));
        let growth = stage.pgbaton.rss_bytes().saturating_sub(rss);
        assert!(growth < 16 * MIB, "{} MiB for one waiting client", growth / MIB);
        holder.query("commit");
        let reply = sender.join().unwrap();
        assert_eq!(reply.value(), (50 * MIB).to_string());
    });
    drop((holder, client));
    stage.assert_settled(0);
}

// --- servers ---

/// Counts the servers of some databases that run a query, as PostgreSQL sees them, until told to
/// stop; returns the most that did so at once. (A server that was closed to make room for another
/// is there for a moment longer, but runs nothing.)
fn most_servers(databases: &[&str], stop: &AtomicBool) -> usize {
    let postgres = Postgres::shared();
    let login = Login::new(SUPERUSER, "postgres", "").parameter("application_name", "observer");
    let mut observer = Wire::login(postgres.address(), &login);
    let sql = format!(
        "select count(*) from pg_stat_activity where datname in ('{}') \
         and backend_type = 'client backend' and application_name <> 'observer' \
         and state = 'active'",
        databases.join("', '")
    );
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(observer.query(&sql).value().parse().unwrap());
        thread::sleep(Duration::from_millis(5));
    }
    most
}

/// Clients that each make the same number of queries, all at the same time; returns the most
/// servers that ran queries at once.
fn crowd(pgbaton: &Pgbaton, logins: &[(Login, usize)], queries: usize) -> usize {
    let mut databases: Vec<&str> =
        logins.iter().map(|(login, _)| login.database.as_str()).collect();
    databases.dedup();
    let stop = AtomicBool::new(false);
    let address = pgbaton.address();
    thread::scope(|scope| {
        let sampler = scope.spawn(|| most_servers(&databases, &stop));
        let everybody =
            logins.iter().flat_map(|(login, clients)| (0..*clients).map(move |_| login.clone()));
        let clients: Vec<_> = everybody
            .enumerate()
            .map(|(n, login)| {
                scope.spawn(move || {
                    let mut client = Wire::login(address, &login);
                    for query in 0..queries {
                        let sql = format!("select '{n} {query}' from pg_sleep(0.002)");
                        assert_eq!(client.query(&sql).value(), format!("{n} {query}"));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "a client was not served");
        sampler.join().unwrap()
    })
}

#[test]
fn pool_size_holds_under_two_hundred_clients() {
    let mut stage = Stage::with(5, |config| config.set("max_client_conn", "300"));
    let most = crowd(&stage.pgbaton, &[(stage.login(), 200)], 10);
    assert_eq!(most, 5, "all servers are used, and no more");
    stage.assert_settled(0);
    assert!(stage.backends().len() <= 5);
}

#[test]
fn pool_size_holds_for_each_user_and_database_alone() {
    let postgres = Postgres::shared();
    let [one, two] = [(); 2].map(|()| postgres.create_database());
    let config = Config::new().set("default_pool_size", "2").database(&one, postgres, "").database(
        &two,
        postgres,
        "pool_size = 1",
    );
    let pgbaton = Pgbaton::start(&config);
    let login = |user: &str, database: &str| Login::new(user, database, "");
    let logins =
        [(login(SUPERUSER, &one), 8), (login(SCRAM_ROLE, &one), 8), (login(SUPERUSER, &two), 8)];
    assert_eq!(crowd(&pgbaton, &logins, 30), 2 + 2 + 1);
}

#[test]
fn max_db_connections_holds_over_all_users_and_nobody_starves() {
    for cap in [1, 3] {
        let stage = Stage::with(5, |config| config.set("max_db_connections", &cap.to_string()));
        let other = Login::new(SCRAM_ROLE, &stage.database, "");
        let logins = [(stage.login(), 10), (other, 10)];
        let most = crowd(&stage.pgbaton, &logins, 10);
        assert_eq!(most, cap);
    }
}

#[test]
fn max_user_connections_holds_over_all_databases_and_nobody_starves() {
    let postgres = Postgres::shared();
    let [one, two] = [(); 2].map(|()| postgres.create_database());
    let config = Config::new()
        .set("max_user_connections", "2")
        .database(&one, postgres, "")
        .database(&two, postgres, "");
    let pgbaton = Pgbaton::start(&config);
    let logins = [(Login::new(SUPERUSER, &one, ""), 10), (Login::new(SUPERUSER, &two, ""), 10)];
    assert_eq!(crowd(&pgbaton, &logins, 10), 2);
}

#[test]
fn idle_servers_of_one_user_make_room_for_another() {
    let stage = Stage::with(5, |config| config.set("max_db_connections", "2"));
    let mut holders: Vec<Wire> = (0..2).map(|_| stage.client()).collect();
    for holder in &mut holders {
        holder.query("begin");
    }
    for holder in &mut holders {
        holder.query("commit");
    }
    assert_eq!(stage.counts().sv_idle, 2, "the first user holds the whole cap");
    let other = Login::new(SCRAM_ROLE, &stage.database, "");
    let mut client = Wire::login(stage.pgbaton.address(), &other);
    assert_eq!(client.query("select current_user").value(), SCRAM_ROLE);
    assert_eq!(holders[0].query("select current_user").value(), SUPERUSER);
    // A backend that was told to go takes its moment.
    assert!(eventually(PATIENCE, || stage.backends().len() <= 2));
}

#[test]
fn a_server_that_is_free_goes_to_the_other_user_who_waits_longer() {
    let stage = Stage::with(5, |config| config.set("max_db_connections", "1"));
    let mut holder = stage.client();
    holder.query("begin");
    let other = Login::new(SCRAM_ROLE, &stage.database, "");
    let mut waiting = Wire::connect(stage.pgbaton.address());
    waiting.send_startup(&other).unwrap();
    waiting.expect_silence(Duration::from_millis(100));
    holder.query("commit");
    waiting.authenticate(&other).unwrap();
    assert_eq!(waiting.query("select current_user").value(), SCRAM_ROLE);
}

#[test]
fn the_console_answers_while_the_pool_is_exhausted() {
    let (stage, _holder) = held(|config| config);
    let mut waiting = stage.client();
    waiting.send(&wire::query("select 1"));
    stage.wait_for_waiting(1);
    let version = console(&stage.pgbaton).query("show version").value().to_owned();
    assert!(version.starts_with("pgbaton"), "{version}");
    assert_eq!(counts(&stage.pgbaton, &stage.database, SUPERUSER), stage.counts());
}
