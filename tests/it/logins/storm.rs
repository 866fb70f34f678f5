//! Many logins at once: the limits of logins in progress hold towards servers, everybody gets in, and those
//! who are in go on being served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{PASSWORD, SUPERUSER};
use crate::support::fake_postgres::{FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{Postgres, SCRAM_ROLE, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire};

#[test]
fn pools_together_ask_a_server_no_more_at_once_than_they_may() {
    const USERS: usize = 60;
    let fake =
        FakePostgres::start(vec![vec![Step::LoginAfter(Duration::from_millis(30)), Step::Serve]]);
    let config = Config::new().set("max_connecting_per_server", "5").database_at(
        "app",
        fake.address(),
        "pool_size = 3",
    );
    let pgbaton = Pgbaton::start(&config);
    thread::scope(|scope| {
        for user in 0..USERS {
            let address = pgbaton.address();
            scope.spawn(move || {
                let mut wire = Wire::login(address, &Login::new(&format!("u{user}"), "app", ""));
                wire.query("select 1");
            });
        }
    });
    assert_eq!(fake.most_logins_at_once(), 5, "max_connecting_per_server, and no less");
    assert!(fake.connections() >= USERS);
}

#[test]
fn a_storm_of_logins_gets_in_and_those_who_are_in_are_served() {
    // By hand, PGBATON_STORM=5000 with the limit of open files raised.
    let clients: usize =
        std::env::var("PGBATON_STORM").map_or(160, |clients| clients.parse().unwrap());
    const THREADS: usize = 8;
    let postgres = Postgres::shared();
    let config = Config::new()
        .set("auth_type", "\"scram-sha-256\"")
        .set("max_client_conn", &(clients + 100).to_string())
        .set("auth_user", &format!("{SUPERUSER:?}"))
        .user(SUPERUSER, &format!("password = {PASSWORD:?}"))
        .database(TRUST_DATABASE, postgres, "pool_size = 8");
    let pgbaton = Pgbaton::start(&config);
    let mut inside =
        Wire::login(pgbaton.address(), &Login::new(SUPERUSER, TRUST_DATABASE, PASSWORD));
    // Past pgbaton: what the storm's own clients cost everybody on the machine.
    let mut past = Wire::login(postgres.address(), &Login::new(SUPERUSER, TRUST_DATABASE, ""));
    let mut latencies = |until: &dyn Fn() -> bool| {
        let mut taken = [Vec::new(), Vec::new()];
        while !until() {
            for (wire, taken) in [&mut inside, &mut past].into_iter().zip(&mut taken) {
                let since = Instant::now();
                assert_eq!(wire.query("select 1").value(), "1");
                taken.push(since.elapsed());
            }
            thread::sleep(Duration::from_millis(2));
        }
        taken.iter_mut().for_each(|taken| taken.sort_unstable());
        taken
    };
    let calm_since = Instant::now();
    let calm = latencies(&|| calm_since.elapsed() > Duration::from_millis(500));
    let is_over = AtomicBool::new(false);
    let (stormy, took) = thread::scope(|scope| {
        let began = Instant::now();
        let storm = scope.spawn(|| {
            let address = pgbaton.address();
            thread::scope(|scope| {
                let log_in = move || {
                    // Half of them known by the file, half by PostgreSQL alone.
                    let logins = (0..clients / THREADS).map(|number| {
                        let user = if number % 2 == 0 { SUPERUSER } else { SCRAM_ROLE };
                        Wire::login(address, &Login::new(user, TRUST_DATABASE, PASSWORD))
                    });
                    logins.collect::<Vec<_>>()
                };
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(log_in)).collect();
                let all: Vec<_> =
                    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
                is_over.store(true, Ordering::Relaxed);
                all
            })
        });
        let stormy = latencies(&|| is_over.load(Ordering::Relaxed));
        let took = began.elapsed();
        let mut all = storm.join().unwrap();
        assert_eq!(all.len(), clients / THREADS * THREADS);
        // Each is there, and served.
        for wire in &mut all {
            wire.send(&wire::query("select 1"));
        }
        for wire in &mut all {
            assert_eq!(wire.receive_reply().unwrap().value(), "1");
        }
        (stormy, took)
    });
    println!("{clients} logins in {took:?}; a query, median and 99th of 100:");
    for (what, taken) in ["through pgbaton", "past it"].iter().zip(calm.iter().zip(&stormy)) {
        let shown = |taken: &[Duration]| (taken[taken.len() / 2], taken[taken.len() * 99 / 100]);
        println!("{what}: {:?}, in the storm {:?}", shown(taken.0), shown(taken.1));
    }
    let lookers = "select count(*) from pg_stat_activity where application_name ~ 'auth_query'";
    let lookers: usize = postgres.sql("postgres", lookers).parse().unwrap();
    assert!(lookers <= 16, "of this and other tests: {lookers}");
}
