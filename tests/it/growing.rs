//! How a pool grows: in parallel and within its rate, when the server is away, when it is full, and
//! when those it grows for do not stay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Counts, PATIENCE, Stage, counts, show};
use crate::support::fake_postgres::{self, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SCRAM_ROLE, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire, WireError};

const CLIENTS: usize = 500;

fn crowd(pgbaton: &Pgbaton, login: &Login, clients: usize) -> Vec<Wire> {
    (0..clients).map(|_| Wire::login(pgbaton.address(), login)).collect()
}

/// Has each of them make a query, all at the same time, and reads all answers.
fn all_at_once(crowd: &mut [Wire], sql: &str) {
    for client in crowd.iter_mut() {
        client.send(&wire::query(sql));
    }
    for (n, client) in crowd.iter_mut().enumerate() {
        let reply = client.receive_reply().unwrap_or_else(|e| panic!("client {n}: {e:?}"));
        assert!(reply.error.is_none(), "client {n}: {reply:?}");
    }
}

// --- a cold pool ---

#[test]
fn a_cold_pool_fills_in_parallel_and_within_its_rate() {
    const SIZE: usize = 50;
    let script = vec![
        Step::LoginAfter(Duration::from_millis(20)),
        Step::ServeAfter(Duration::from_millis(60)),
    ];
    let fake = FakePostgres::start(vec![script]);
    let config = Config::new().set("max_client_conn", "600").database_at(
        "app",
        fake.address(),
        &format!("pool_size = {SIZE}"),
    );
    let pgbaton = Pgbaton::start(&config);
    let mut crowd = crowd(&pgbaton, &Login::new("x", "app", ""), CLIENTS);
    assert_eq!(fake.connections(), 1, "for the first greeting");
    let began = Instant::now();
    let full = thread::scope(|scope| {
        let sampler = scope
            .spawn(|| eventually(PATIENCE, || fake.connections() == SIZE).then(|| began.elapsed()));
        all_at_once(&mut crowd, "select");
        sampler.join().unwrap()
    });
    let full = full.unwrap_or_else(|| panic!("not full: {}", fake.connections()));
    eprintln!("full after {full:?}, all served after {:?}", began.elapsed());
    assert_eq!(fake.most_logins_at_once(), 4, "max_connecting_per_pool, and no less");
    assert_eq!(fake.connections(), SIZE);
    let expected = Counts { cl_active: CLIENTS, sv_idle: SIZE, ..Counts::default() };
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x") == expected));
}

#[test]
fn a_cold_pool_before_a_real_server_grows_to_what_is_asked_of_it() {
    const SIZE: usize = 50;
    let mut stage = Stage::with(SIZE, |config| config.set("max_client_conn", "600"));
    let mut crowd = crowd(&stage.pgbaton, &stage.login(), CLIENTS);
    let began = Instant::now();
    let done = AtomicBool::new(false);
    let (most, full) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let (mut most, mut full) = (0, None);
            while !done.load(Ordering::Relaxed) {
                let backends = stage.backends().len();
                most = most.max(backends);
                if backends >= SIZE && full.is_none() {
                    full = Some(began.elapsed());
                }
                assert!(stage.counts().sv_login <= 4);
            }
            (most, full)
        });
        all_at_once(&mut crowd, "select pg_sleep(0.1)");
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap()
    });
    eprintln!("full after {full:?}, all served after {:?}", began.elapsed());
    assert_eq!(most, SIZE, "as many as there may be, and never more");
    drop(crowd);
    stage.assert_settled(0);
}

// --- a server that is away ---

#[test]
fn a_crowd_that_waits_for_a_server_that_is_away_is_served_when_it_is_back() {
    const SIZE: usize = 50;
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().set("max_client_conn", "600").database(
        TRUST_DATABASE,
        &postgres,
        &format!("pool_size = {SIZE}"),
    );
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    let mut crowd = crowd(&pgbaton, &login, CLIENTS);
    postgres.stop();
    for client in &mut crowd {
        client.send(&wire::query("select pg_sleep(0.02)"));
    }
    let seen = || counts(&pgbaton, TRUST_DATABASE, SUPERUSER);
    assert!(eventually(PATIENCE, || seen().cl_waiting >= CLIENTS - 1), "{:?}", seen());
    let failures = |pgbaton: &Pgbaton| pgbaton.log().matches("server login failed").count();
    let before = failures(&pgbaton);
    thread::sleep(Duration::from_secs(3));
    let attempts = failures(&pgbaton) - before;
    assert!((1..=10).contains(&attempts), "{attempts} attempts in three seconds");
    assert_eq!(seen().cl_waiting + seen().sv_login, CLIENTS, "{:?}", seen());
    postgres.begin();
    let back = Instant::now();
    for (n, client) in crowd.iter_mut().enumerate() {
        let reply = client.receive_reply();
        let reply = reply.unwrap_or_else(|e| panic!("client {n}: {e:?}\n{}", pgbaton.log()));
        assert!(reply.error.is_none(), "client {n}: {reply:?}");
    }
    eprintln!("all served {:?} after the server was back", back.elapsed());
    assert_eq!((seen().cl_active, seen().cl_waiting), (CLIENTS, 0));
}

/// Many pools of one server that is away: they ask once, together, and not each for itself.
#[test]
fn pools_of_a_server_that_is_away_ask_for_it_together() {
    const POOLS: usize = 40;
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().set("max_client_conn", "600").set("default_pool_size", "1").section(
        "databases.\"*\"",
        &format!("host = \"127.0.0.1\"\nport = {}\ndbname = \"{TRUST_DATABASE}\"", postgres.port()),
    );
    let pgbaton = Pgbaton::start(&config);
    let login = |n: usize| Login::new(SUPERUSER, &format!("db{n}"), "");
    let mut crowd: Vec<Wire> =
        (0..POOLS).map(|n| Wire::login(pgbaton.address(), &login(n))).collect();
    postgres.stop();
    let idle = || show(&pgbaton, "SERVERS").len();
    assert!(eventually(PATIENCE, || idle() == 0), "{}", idle());
    for client in &mut crowd {
        client.send(&wire::query("select 1"));
    }
    thread::sleep(Duration::from_secs(3));
    let attempts = pgbaton.log().matches("server login failed").count();
    // Those that began before the first had failed, and some ten more.
    assert!((1..=POOLS + 12).contains(&attempts), "{attempts} attempts");
    let late = attempts.saturating_sub(POOLS);
    postgres.begin();
    for client in &mut crowd {
        assert_eq!(client.receive_reply().unwrap().value(), "1");
    }
    eprintln!("{attempts} attempts for {POOLS} pools, {late} of them late");
}

// --- a server that is full ---

#[test]
fn a_server_that_is_full_costs_no_client_its_place() {
    // Of these, three are kept for superusers.
    let postgres = Postgres::start(&[("max_connections", "9")]);
    let config = Config::new().set("max_client_conn", "600").database(
        TRUST_DATABASE,
        &postgres,
        "pool_size = 30",
    );
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SCRAM_ROLE, TRUST_DATABASE, "");
    let mut crowd = crowd(&pgbaton, &login, 100);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Some come while it is full, with settings that nobody has tried yet.
        let newcomer = scope.spawn(|| {
            for n in 1.. {
                let login = login.clone().parameter("search_path", &format!("s{n}"));
                let mut client = Wire::login(pgbaton.address(), &login);
                assert_eq!(client.query("show search_path").value(), format!("s{n}"));
                if done.load(Ordering::Relaxed) {
                    return n;
                }
            }
            unreachable!("BUG: numbers came to an end");
        });
        for _ in 0..3 {
            all_at_once(&mut crowd, "select pg_sleep(0.01)");
        }
        done.store(true, Ordering::Relaxed);
        assert!(newcomer.join().unwrap() >= 1);
    });
    let log = pgbaton.log();
    let refused = log.matches("server login failed").count();
    assert!(refused >= 1, "it was never full:\n{log}");
    assert!(
        log.contains("too many clients") || log.contains("remaining connection slots"),
        "{log}"
    );
    // A pool that is refused backs off: a second and more went by, and there were hundreds of turns.
    assert!(refused <= 60, "{refused} refusals");
    let seen = counts(&pgbaton, TRUST_DATABASE, SCRAM_ROLE);
    assert!((1..=6).contains(&seen.sv_idle), "{seen:?}");
    assert_eq!((seen.cl_active, seen.cl_waiting, seen.sv_active), (100, 0, 0), "{seen:?}");
}

/// Each attempt costs such a server a process: many pools do not ask it all at once, nor all the time.
#[test]
fn pools_of_a_server_that_is_full_ask_one_after_the_other() {
    const POOLS: usize = 40;
    let full = fake_postgres::error("FATAL", "53300", "sorry, too many clients already");
    let refuse = vec![Step::Startup, Step::Send(full), Step::Close];
    let mut scripts = vec![vec![Step::Login, Step::Serve]; POOLS];
    scripts.push(refuse);
    let fake = FakePostgres::start(scripts);
    let address = fake.address();
    let body = format!("host = \"127.0.0.1\"\nport = {}", address.port());
    let config = Config::new()
        .set("server_lifetime", "0")
        .set("default_pool_size", "1")
        .section("databases.\"*\"", &body);
    let pgbaton = Pgbaton::start(&config);
    let login = |n: usize| Login::new("x", &format!("db{n}"), "");
    let mut crowd: Vec<Wire> =
        (0..POOLS).map(|n| Wire::login(pgbaton.address(), &login(n))).collect();
    for client in &mut crowd {
        assert!(client.query("once").error.is_none());
    }
    assert!(eventually(PATIENCE, || show(&pgbaton, "SERVERS").is_empty()));
    assert_eq!(fake.connections(), POOLS, "each has had its one");
    for client in &mut crowd {
        client.send(&wire::query("again"));
    }
    thread::sleep(Duration::from_secs(5));
    // Each at once, and then ten in each second.
    let attempts = fake.connections() - POOLS;
    eprintln!("{attempts} attempts of {POOLS} pools in 5 s");
    assert!((POOLS + 10..=POOLS + 60).contains(&attempts), "{attempts} attempts");
    for client in &mut crowd {
        client.expect_silence(Duration::from_millis(1));
    }
}

// --- those who do not stay ---

#[test]
fn clients_that_vanish_leave_no_more_servers_than_slots() {
    const SIZE: usize = 3;
    let mut stage = Stage::with(SIZE, |config| config.set("server_lifetime", "0.3"));
    let address = stage.pgbaton.address();
    let login = stage.login();
    let until = Instant::now() + Duration::from_secs(2);
    let most = thread::scope(|scope| {
        let visitors: Vec<_> = (0..12)
            .map(|n| {
                let login = &login;
                scope.spawn(move || {
                    let mut round = n;
                    while Instant::now() < until {
                        round += 1;
                        let mut client = Wire::login(address, login);
                        match round % 4 {
                            0 => client.send(&wire::query("select pg_sleep(0.05)")),
                            1 => drop(client.query("select 1")),
                            2 => drop(client.query("begin")),
                            _ => client.send(&wire::query("select 1")),
                        }
                        if round % 2 == 0 {
                            client.reset()
                        }
                    }
                })
            })
            .collect();
        let mut most = 0;
        while Instant::now() < until {
            most = most.max(stage.backends().len());
        }
        visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
        most
    });
    assert_eq!(most, SIZE, "as PostgreSQL counts them");
    stage.assert_settled(0);
}

// --- how many clients ---

fn refusal(pgbaton: &Pgbaton, login: &Login) -> (String, String) {
    match Wire::try_login(pgbaton.address(), login) {
        Err(WireError::Server(error)) => (error.code().to_owned(), error.message().to_owned()),
        other => panic!("not refused: {:?}", other.err()),
    }
}

#[test]
fn a_database_and_a_user_have_only_so_many_clients() {
    let postgres = Postgres::shared();
    let [one, two] = [(); 2].map(|()| postgres.create_database());
    let config = Config::new()
        .set("max_db_client_connections", "3")
        .set("max_user_client_connections", "4")
        .database(&one, postgres, "")
        .database(&two, postgres, "max_db_client_connections = 0");
    let mut pgbaton =
        Pgbaton::start(&config.clone().user(SCRAM_ROLE, "max_user_client_connections = 1"));
    let login = |user: &str, database: &str| Login::new(user, database, "");
    let mut clients = crowd(&pgbaton, &login(SUPERUSER, &one), 3);
    let full = "client connections exceeded (max_db_client_connections)";
    assert_eq!(refusal(&pgbaton, &login(SUPERUSER, &one)), ("53300".to_owned(), full.to_owned()));
    assert_eq!(refusal(&pgbaton, &login(SCRAM_ROLE, &one)).1, full);
    clients.extend(crowd(&pgbaton, &login(SUPERUSER, &two), 1));
    let full = "client connections exceeded (max_user_client_connections)";
    assert_eq!(refusal(&pgbaton, &login(SUPERUSER, &two)).1, full);
    clients.extend(crowd(&pgbaton, &login(SCRAM_ROLE, &two), 1));
    assert_eq!(refusal(&pgbaton, &login(SCRAM_ROLE, &two)).1, full);
    // The places of those who leave are free, and a reload makes more of them.
    clients.remove(0).send(&wire::terminate());
    let let_in = |pgbaton: &Pgbaton, login: &Login| {
        eventually(PATIENCE, || Wire::try_login(pgbaton.address(), login).is_ok())
    };
    assert!(let_in(&pgbaton, &login(SUPERUSER, &one)));
    pgbaton.reload(&config);
    assert!(let_in(&pgbaton, &login(SCRAM_ROLE, &two)));
    for client in &mut clients {
        assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
    }
}

// --- server_fast_close ---

#[test]
fn server_fast_close_ends_sessions_whose_server_is_no_longer_right() {
    let postgres = Postgres::shared();
    let [old, new] = [(); 2].map(|()| postgres.create_database());
    for fast in ["0", "1"] {
        let config = Config::new().set("pool_mode", "\"session\"").set("server_fast_close", fast);
        let leading_to = |dbname: &str| {
            let body =
                format!("host = \"127.0.0.1\"\nport = {}\ndbname = \"{dbname}\"", postgres.port());
            config.clone().section("databases.app", &body)
        };
        let mut pgbaton = Pgbaton::start(&leading_to(&old));
        let mut clients = crowd(&pgbaton, &Login::new(SUPERUSER, "app", ""), 3);
        let [idle, busy, unused] = &mut clients[..] else { unreachable!() };
        let database =
            |client: &mut Wire| client.query("select current_database()").value().to_owned();
        assert_eq!(database(idle), old);
        busy.query("begin");
        pgbaton.reload(&leading_to(&new));
        pgbaton.wait_for_log("configuration reloaded");
        assert_eq!(database(unused), new, "it had no server yet");
        assert_eq!(database(busy), old, "not in the middle of a transaction");
        busy.query("commit");
        if fast == "1" {
            for client in [idle, busy] {
                assert_eq!(client.expect_error().code(), "57P01");
                client.expect_closed();
            }
        } else {
            assert_eq!((database(idle), database(busy)), (old.clone(), old.clone()));
        }
        assert_eq!(database(unused), new);
    }
}
