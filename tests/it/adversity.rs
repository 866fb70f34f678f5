//! Servers that come and go at bad moments: dials that fail while others are served, words behind a
//! login, servers that are slow to leave.

use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::free_port;

use crate::stage::{PATIENCE, Stage, counts};
use crate::support::fake_postgres::{self, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{SCRAM_ROLE, SUPERUSER};
use crate::support::wire::{self, Login, Wire, WireError};

/// Has so many clients log in at once, and gives what the last of them was told, and when.
fn refused_together(pgbaton: &Pgbaton, crowd: usize) -> (String, Duration) {
    let address = pgbaton.address();
    let began = Instant::now();
    let told: Vec<String> = thread::scope(|scope| {
        let logs_in = || match Wire::try_login(address, &Login::new("x", "app", "")) {
            Err(WireError::Server(error)) => error.message().to_owned(),
            other => panic!("not refused: {:?}", other.err()),
        };
        let crowd: Vec<_> = (0..crowd).map(|_| scope.spawn(logs_in)).collect();
        crowd.into_iter().map(|one| one.join().unwrap()).collect()
    });
    (told.into_iter().next_back().unwrap(), began.elapsed())
}

/// Logins that come together to a server that was never there: none waits for its turn to fail.
#[test]
fn a_crowd_that_logs_in_to_a_server_that_is_away_is_told_at_once() {
    const CROWD: usize = 40;
    let nowhere = ([127, 0, 0, 1], free_port().unwrap()).into();
    let pgbaton = Pgbaton::start(&Config::new().database_at("app", nowhere, ""));
    let (told, _) = refused_together(&pgbaton, CROWD);
    assert!(told.contains("connect failed"), "{told}");
    let attempts = pgbaton.log().matches("server login failed").count();
    // Four at once, and some that came when the first pauses were over.
    assert!((1..=8).contains(&attempts), "{attempts} attempts for {CROWD} clients");
}

#[test]
fn a_crowd_that_logs_in_to_a_server_that_hangs_is_told_when_the_first_dial_ends() {
    let fake = FakePostgres::start(vec![vec![Step::Startup, Step::Drain]]);
    let config = Config::new().set("server_connect_timeout", "2");
    let pgbaton = Pgbaton::start(&config.database_at("app", fake.address(), ""));
    let (told, took) = refused_together(&pgbaton, 20);
    assert!(told.contains("connect timeout"), "{told}");
    // One after the other they would have failed after half a minute.
    assert!(took < 2 * PATIENCE, "{took:?}");
    assert!(fake.connections() <= 8, "{}", fake.connections());
}

/// A server that is stopped just after it has let somebody in: its last words come with its first.
#[test]
fn what_comes_behind_a_login_in_one_piece_is_no_fault_of_the_login() {
    let login = |number: i32, more: Vec<u8>| {
        [
            fake_postgres::login_reply(fake_postgres::FIRST_PID + number, &fake_postgres::SECRET),
            more,
        ]
        .concat()
    };
    let going = fake_postgres::error("FATAL", "57P01", "terminating connection");
    let notice = {
        let mut notice = fake_postgres::error("NOTICE", "00000", "good morning");
        notice[0] = b'N';
        notice
    };
    for (words, then) in [(going, vec![Step::Close]), (notice, vec![Step::Serve])] {
        let mut first = vec![Step::Startup, Step::Send(login(1, words))];
        first.extend(then);
        let fake = FakePostgres::start(vec![
            vec![
                Step::Login,
                Step::Expect(b'Q'),
                Step::Send(fake_postgres::idle_reply(b'Q')),
                Step::Close,
            ],
            first,
            vec![Step::Login, Step::Serve],
        ]);
        let config = Config::new().database_at("app", fake.address(), "");
        let pgbaton = Pgbaton::start(&config);
        let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
        client.query("first");
        assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
        let reply = client.try_query("second");
        let reply = reply.unwrap_or_else(|e| panic!("{e:?}\n{}", pgbaton.log()));
        assert_eq!(reply.tags, ["SELECT 0"], "{reply:?}\n{}", pgbaton.log());
    }
}

#[test]
fn without_a_pause_after_failures_a_server_that_is_away_is_not_stormed() {
    let fake = FakePostgres::start(vec![
        vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Close,
        ],
        vec![
            Step::Startup,
            Step::Send(fake_postgres::error(
                "FATAL",
                "57P03",
                "the database system is starting up",
            )),
            Step::Close,
        ],
    ]);
    let config =
        Config::new().set("server_login_retry", "0").database_at("app", fake.address(), "");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
    client.query("first");
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
    client.send(&wire::query("second"));
    thread::sleep(Duration::from_secs(2));
    let attempts = fake.connections() - 1;
    assert!((1..=50).contains(&attempts), "{attempts} attempts in two seconds");
}

/// A server that takes its time to go delays the next; it does not make it fail.
#[test]
fn a_server_that_is_slow_to_leave_is_no_failure_of_the_next() {
    let fake = FakePostgres::start(vec![
        vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Stall,
        ],
        vec![Step::Login, Step::Serve],
    ]);
    let config = Config::new()
        .set("server_connect_timeout", "0.4")
        .set("server_lifetime", "0")
        .database_at("one", fake.address(), "pool_size = 1")
        .database_at("two", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let mut one = Wire::login(pgbaton.address(), &Login::new("x", "one", ""));
    one.query("first");
    let mut two = Wire::login(pgbaton.address(), &Login::new("x", "two", ""));
    assert_eq!(two.query("second").tags, ["SELECT 0"]);
    assert!(!pgbaton.log().contains("server login failed"), "{}", pgbaton.log());
}

/// A dial that is refused for good says nothing of the servers that are there.
#[test]
fn a_login_that_is_refused_ends_no_wait_for_a_server_that_is_there() {
    let refused = vec![
        Step::Startup,
        Step::Pause(Duration::from_millis(500)),
        Step::Send(fake_postgres::error("FATAL", "28P01", "password authentication failed")),
        Step::Close,
    ];
    let fake = FakePostgres::start(vec![
        vec![Step::Login, Step::ServeAfter(Duration::from_millis(1_500))],
        refused,
    ]);
    let config = Config::new()
        .set("max_connecting_per_pool", "1")
        .set("min_pool_size", "2")
        .database_at("app", fake.address(), "pool_size = 2");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new("x", "app", "");
    let mut holder = Wire::login(pgbaton.address(), &login);
    let mut waiting = Wire::login(pgbaton.address(), &login);
    // The second of the minimum is being dialled.
    assert!(eventually(PATIENCE, || fake.connections() == 2));
    holder.send(&wire::query("first"));
    waiting.send(&wire::query("second"));
    for client in [&mut holder, &mut waiting] {
        let reply = client.receive_reply();
        let reply = reply.unwrap_or_else(|e| panic!("{e:?}\n{}", pgbaton.log()));
        assert_eq!(reply.tags, ["SELECT 0"], "{reply:?}");
    }
    pgbaton.wait_for_log("password authentication failed");
}

/// Clients that die in the middle of a COPY, one after the other: as PostgreSQL counts them, there
/// is never one server more than there may be.
#[test]
fn a_client_that_dies_in_a_copy_leaves_no_server_too_many() {
    let stage = Stage::with(1, |config| config);
    stage.sql("create table lines (t text); select 1");
    stage.sql(&format!("alter database {} connection limit 2; select 1", stage.database));
    stage.sql("create role limited login connection limit 1; select 1");
    stage.sql("grant insert on lines to limited; select 1");
    let login = Login::new("limited", &stage.database, "");
    for round in 0..20 {
        let mut copies = Wire::login(stage.pgbaton.address(), &login);
        let mut waits = Wire::login(stage.pgbaton.address(), &login);
        copies.send(&wire::query("copy lines from stdin"));
        copies.expect(b'G');
        // Half a message of CopyData.
        let mut half = vec![b'd'];
        half.extend(1_000_004_u32.to_be_bytes());
        half.extend(vec![b'x'; 500_000]);
        copies.send(&half);
        waits.send(&wire::query("select 42"));
        let waiting = eventually(PATIENCE, || {
            counts(&stage.pgbaton, &stage.database, "limited").cl_waiting == 1
        });
        assert!(waiting);
        thread::sleep(Duration::from_millis(20));
        copies.reset();
        let reply = waits.receive_reply();
        let reply =
            reply.unwrap_or_else(|e| panic!("round {round}: {e:?}\n{}", stage.pgbaton.log()));
        assert_eq!(reply.value(), "42");
    }
    stage.sql("select 1");
    let log = stage.pgbaton.log();
    assert!(!log.contains("server login failed"), "{log}");
}

/// The same when a client gives up while the server that it was to get is asked whether it is there.
#[test]
fn a_check_that_is_given_up_leaves_no_server_too_many() {
    let stage = Stage::with(1, |config| {
        config
            .set("server_check_delay", "0")
            .set("server_check_query", "\"select 'check' from pg_sleep(0.8)\"")
    });
    stage.sql("create role checked login connection limit 1; select 1");
    let login = Login::new("checked", &stage.database, "");
    let [mut one, mut two] = [(); 2].map(|()| Wire::login(stage.pgbaton.address(), &login));
    assert_eq!(one.query("select 1").value(), "1");
    one.send(&wire::query("select 2"));
    stage.wait_until_runs("''check''");
    two.send(&wire::query("select 3"));
    // Into the line behind the first, long before the check is over.
    thread::sleep(Duration::from_millis(50));
    wire::cancel(stage.pgbaton.address(), one.pid, &one.secret);
    assert_eq!(one.expect_error().code(), "57014");
    assert_eq!(two.receive_reply().unwrap().value(), "3");
    let log = stage.pgbaton.log();
    assert!(!log.contains("server login failed"), "{log}");
}

// --- everything at once ---

const SIZE: usize = 4;
const CAP: usize = 6;

/// One client of many that come, ask, and go in all ways.
fn visit(address: std::net::SocketAddr, login: &Login, until: Instant) -> (usize, usize) {
    let (mut served, mut turned_away) = (0, 0);
    while Instant::now() < until {
        let mut client = match Wire::try_login(address, login) {
            Ok(client) => client,
            Err(WireError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("a login hangs")
            }
            Err(_) => {
                turned_away += 1;
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        for _ in 0..fastrand::usize(1..6) {
            let sql: &[&str] = match fastrand::u8(..8) {
                0 => &["begin", "select 1", "commit"],
                1 => &["begin", "select 1 / 0", "rollback"],
                2 => &["select pg_sleep(0.02)"],
                3 => &["set search_path to x", "select 1"],
                _ => &["select 1"],
            };
            let done = sql.iter().all(|sql| match client.try_query(sql) {
                Ok(_) => true,
                Err(WireError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("{sql} hangs")
                }
                Err(_) => false,
            });
            served += usize::from(done);
            if !done {
                break;
            }
        }
        match fastrand::u8(..4) {
            0 => {
                let _ = client.try_send(&wire::query("select pg_sleep(0.05)"));
                client.reset();
            }
            1 => {
                let _ = client.try_send(&wire::query("begin"));
            }
            2 => drop(client.try_send(&wire::terminate())),
            _ => client.reset(),
        }
    }
    (served, turned_away)
}

/// All that an operator can do, in any order, while servers live short lives, are killed, and clients
/// come and go: nobody hangs, PostgreSQL never sees too many, and every slot is there in the end.
#[test]
fn commands_in_any_order_leave_every_slot_accounted_for() {
    let mut stage = Stage::with(SIZE, |config| {
        config
            .set("reserve_pool_size", "2")
            .set("reserve_pool_timeout", "0.05")
            .set("min_pool_size", "2")
            .set("server_lifetime", "0.2")
            .set("server_idle_timeout", "0.1")
            .set("server_check_delay", "0")
            .set("pool_idle_timeout", "0.3")
            .set("max_db_connections", &CAP.to_string())
            .set("log_connections", "0")
            .set("log_disconnections", "0")
    });
    let address = stage.pgbaton.address();
    let logins = [SUPERUSER, SCRAM_ROLE].map(|user| Login::new(user, &stage.database, ""));
    let until = Instant::now() + Duration::from_secs(soak_seconds());
    let pool = stage.database.clone();
    let (config, database) = (stage.config.clone(), stage.database.clone());
    let short = config.clone().set("reserve_pool_size", "0").set("server_lifetime", "0");
    let long = config.clone().set("server_lifetime", "3600").set("min_pool_size", "0");
    let (totals, most) = thread::scope(|scope| {
        let visitors: Vec<_> = (0..16)
            .map(|n| {
                let login = &logins[n % 2];
                scope.spawn(move || visit(address, login, until))
            })
            .collect();
        let mut most = 0;
        while Instant::now() < until {
            most = most.max(stage.backends().len());
            let order = match fastrand::u8(..12) {
                0 => format!("pause {database}"),
                1 => "pause".to_owned(),
                2 => "reconnect".to_owned(),
                3 => format!("reconnect {database}"),
                4 => format!("kill {database}"),
                5 => format!("disable {database}"),
                6 => {
                    stage.pgbaton.reload(&short);
                    String::new()
                }
                7 => {
                    stage.pgbaton.reload(&long);
                    String::new()
                }
                8 => {
                    stage.pgbaton.reload(&config);
                    String::new()
                }
                9 => format!("wait_close {database}"),
                _ => {
                    let backends = stage.backends();
                    if let Some(victim) = backends.get(fastrand::usize(..backends.len().max(1))) {
                        stage.sql(&format!("select pg_terminate_backend({victim})"));
                    }
                    String::new()
                }
            };
            if !order.is_empty() {
                let mut console = stage.console();
                console.set_timeout(Duration::from_millis(500));
                // It may have to wait too long, or find nothing to be done.
                let _ = console.try_query(&order);
            }
            for order in
                [format!("resume {database}"), "resume".into(), format!("enable {database}")]
            {
                let _ = stage.console().try_query(&order);
            }
            thread::sleep(Duration::from_millis(fastrand::u64(..40)));
        }
        let totals = visitors.into_iter().map(|visitor| visitor.join().unwrap());
        (totals.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)), most)
    });
    eprintln!("{} served, {} turned away, at most {most} servers", totals.0, totals.1);
    assert!(totals.0 > 100 && most <= CAP, "{totals:?}, {most}");
    stage.pgbaton.reload(&long);
    for login in &logins {
        let mut clients: Vec<Wire> = (0..SIZE).map(|_| Wire::login(address, login)).collect();
        for client in &mut clients {
            client.query("begin");
        }
        assert_eq!(counts(&stage.pgbaton, &pool, &login.user).sv_active, SIZE);
        for client in &mut clients {
            client.query("commit");
        }
    }
    let settled = || {
        let rows = crate::stage::show(&stage.pgbaton, "POOLS");
        let sum = |column: &str| rows.iter().map(|r| r[column].parse::<usize>().unwrap()).sum();
        let sums: Vec<usize> = ["cl_waiting", "sv_active", "sv_login"].map(sum).into();
        sums == [0, 0, 0] && sum("sv_idle") == stage.backends().len()
    };
    assert!(eventually(PATIENCE, settled), "{}", stage.pgbaton.log());
    assert!(!stage.pgbaton.log().contains("panicked"), "{}", stage.pgbaton.log());
}

fn soak_seconds() -> u64 {
    std::env::var("PGBATON_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// A dial that hangs is not what query_wait_timeout waits for.
#[test]
fn who_dials_in_vain_waits_no_longer_than_query_wait_timeout() {
    let fake = FakePostgres::start(vec![
        vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Close,
        ],
        vec![Step::Startup, Step::Drain],
    ]);
    let config =
        Config::new().set("query_wait_timeout", "1").database_at("app", fake.address(), "");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
    client.query("first");
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
    client.set_timeout(Duration::from_secs(60));
    let began = Instant::now();
    client.send(&wire::query("second"));
    assert_eq!(client.expect_error().message(), "query_wait_timeout");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

/// And yet a pool gets its servers if they take longer to log in to than any client waits.
#[test]
fn a_dial_outlives_the_client_that_does_not_wait_for_it() {
    let first = Step::Send(fake_postgres::idle_reply(b'Q'));
    let fake = FakePostgres::start(vec![
        vec![Step::Login, Step::Expect(b'Q'), first, Step::Close],
        vec![Step::LoginAfter(Duration::from_secs(3)), Step::Serve],
    ]);
    let config = Config::new().set("query_wait_timeout", "1").database_at(
        "app",
        fake.address(),
        "pool_size = 1",
    );
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new("x", "app", "");
    let mut clients = [(); 2].map(|()| Wire::login(pgbaton.address(), &login));
    clients[0].query("first");
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
    clients[0].send(&wire::query("in vain"));
    assert_eq!(clients[0].expect_error().message(), "query_wait_timeout");
    let dialled = eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 1);
    assert!(dialled, "{:?}", counts(&pgbaton, "app", "x"));
    assert_eq!(clients[1].query("served").tags, ["SELECT 0"]);
    assert_eq!((fake.connections(), fake.queries(1)), (2, vec!["served".to_owned()]));
}
