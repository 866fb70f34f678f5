//! What only time and numbers bring to light: servers that come and go, many pools under one cap,
//! servers killed under writers, and pools by the thousand.
//!
//! Each of these is short here and may be made long: `PGBATON_SOAK_SECONDS` is how long they go on,
//! `PGBATON_SOAK_POOLS` how many pools are made.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{PATIENCE, Stage, show};
use crate::support::fake_postgres::FakePostgres;
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Login, Wire};

const MIB: usize = 1 << 20;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seconds(default: usize) -> Duration {
    Duration::from_secs(number("PGBATON_SOAK_SECONDS", default) as u64)
}

// --- servers that come and go ---

#[test]
fn servers_that_come_and_go_leave_nothing_behind() {
    const SIZE: usize = 16;
    let mut stage = Stage::with(SIZE, |config| {
        config
            .set("server_lifetime", "0.4")
            .set("server_idle_timeout", "0.1")
            .set("min_pool_size", "2")
            .set("server_check_delay", "0.05")
            .set("log_connections", "0")
            .set("log_disconnections", "0")
    });
    let mut clients: Vec<Wire> = (0..SIZE).map(|_| stage.client()).collect();
    let burst = |clients: &mut Vec<Wire>| {
        for client in clients.iter_mut() {
            client.send(&wire::query("select pg_backend_pid() from pg_sleep(0.005)"));
        }
        let pids = clients.iter_mut().map(|client| client.receive_reply().unwrap());
        pids.map(|reply| reply.value().to_owned()).collect::<Vec<_>>()
    };
    // Memory is compared with what it is once all has happened a few times.
    let warm = Instant::now() + seconds(4) / 4;
    while Instant::now() < warm {
        burst(&mut clients);
        thread::sleep(Duration::from_millis(100));
    }
    let (rss, files) = (stage.pgbaton.rss_bytes(), stage.pgbaton.open_files());
    let (mut backends, mut most, mut most_rss) = (BTreeSet::new(), 0, 0);
    let end = Instant::now() + seconds(4);
    let mut rounds = 0_usize;
    while Instant::now() < end {
        backends.extend(burst(&mut clients));
        most = most.max(stage.backends().len());
        most_rss = most_rss.max(stage.pgbaton.rss_bytes());
        rounds += 1;
        // Now and then long enough for all but the minimum to be closed.
        let pause = if rounds.is_multiple_of(8) { 700 } else { 20 };
        thread::sleep(Duration::from_millis(pause));
    }
    let grown = stage.pgbaton.rss_bytes().saturating_sub(rss);
    eprintln!(
        "{} servers in {rounds} rounds; resident {} KiB, at most {} more, {} more at the end",
        backends.len(),
        rss / 1024,
        most_rss.saturating_sub(rss) / 1024,
        grown / 1024
    );
    assert!(backends.len() >= 2 * SIZE, "few came and went: {}", backends.len());
    assert!(most <= SIZE, "{most} at once");
    assert!(grown < 4 * MIB, "{grown} bytes more than at the start");
    assert!(eventually(PATIENCE, || stage.backends().len() == 2), "{:?}", stage.counts());
    assert!(stage.pgbaton.open_files() <= files, "{} files", stage.pgbaton.open_files());
    stage.assert_settled(SIZE);
}

// --- many pools under one cap ---

#[test]
fn three_hundred_users_of_one_database_share_fifty_servers() {
    const USERS: usize = 300;
    const CAP: usize = 50;
    let postgres = Postgres::shared();
    let stage = Stage::with(4, |config| {
        config
            .set("log_connections", "0")
            .set("max_db_connections", &CAP.to_string())
            .set("max_client_conn", "1000")
    });
    let user = |n: usize| format!("{}_user_{n}", stage.database);
    let names: Vec<String> = (0..USERS).map(user).collect();
    let create = names.iter().map(|name| format!("create role {name} login;"));
    postgres.sql("postgres", &create.collect::<String>());
    let address = stage.pgbaton.address();
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let end = Instant::now() + seconds(4);
    let (most, turns) = thread::scope(|scope| {
        let clients: Vec<_> = names
            .iter()
            .map(|name| {
                let login = Login::new(name, &stage.database, "");
                let served = &served;
                scope.spawn(move || {
                    let mut client = Wire::login(address, &login);
                    let mut turns = 0;
                    while turns < 3 || Instant::now() < end {
                        let reply = client.query("select current_user from pg_sleep(0.001)");
                        assert_eq!(reply.value(), login.user);
                        turns += 1;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    turns
                })
            })
            .collect();
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(stage.backends().len());
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let turns: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        (sampler.join().unwrap(), turns)
    });
    let (least, best) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
    eprintln!("{} turns, {least} to {best} a user; at most {most} servers", served.into_inner());
    // PostgreSQL does not list those that are about to log in.
    assert!((CAP * 9 / 10..=CAP).contains(&most), "{most}: never more, and no fewer for long");
    assert!(*least >= 3, "everybody had a turn, and another");
    let settled = || {
        let rows = show(&stage.pgbaton, "POOLS");
        let sum = |column: &str| rows.iter().map(|r| r[column].parse::<usize>().unwrap()).sum();
        let sums: Vec<usize> = ["cl_waiting", "sv_active", "sv_login"].map(sum).into();
        sums == [0, 0, 0] && sum("sv_idle") == stage.backends().len()
    };
    assert!(eventually(PATIENCE, settled), "{}", stage.pgbaton.log());
    assert!(stage.backends().len() > CAP / 2, "nobody's servers were closed for nothing");
    let drop = names.iter().map(|name| format!("drop role {name};"));
    postgres.sql("postgres", &drop.collect::<String>());
}

// --- servers killed under writers ---

struct Writer {
    written: Vec<String>,
    errors: usize,
    longest: Duration,
}

/// Writes rows of its own until the end. A row is written once it is acknowledged.
fn write(stage: &Stage, writer: usize, end: Instant) -> Writer {
    let mut done = Writer { written: Vec::new(), errors: 0, longest: Duration::ZERO };
    let connect = || {
        let mut client = stage.client();
        client.set_timeout(Duration::from_secs(5));
        client
    };
    let mut client = connect();
    let mut row = 0;
    while Instant::now() < end {
        row += 1;
        let id = format!("{writer}.{row}");
        let began = Instant::now();
        // Every third row takes a transaction of three requests.
        let insert = format!("insert into t values ('{id}')");
        let steps: &[&str] = if row % 3 == 0 { &["begin", &insert, "commit"] } else { &[&insert] };
        let outcome = steps.iter().try_for_each(|sql| match client.try_query(sql) {
            Ok(reply) if reply.error.is_none() => Ok(()),
            Ok(reply) => Err(format!("{:?}", reply.error)),
            Err(wire::WireError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("{id}: nothing in five seconds; {:?}", stage.counts())
            }
            Err(e) => Err(format!("{e:?}")),
        });
        done.longest = done.longest.max(began.elapsed());
        match outcome {
            Ok(()) => done.written.push(id),
            Err(_) => {
                done.errors += 1;
                client = connect();
            }
        }
    }
    done
}

#[test]
fn servers_killed_under_writers_cost_no_row_and_no_slot() {
    const WRITERS: usize = 16;
    const SIZE: usize = 5;
    let mut stage = Stage::with(SIZE, |config| {
        config.set("log_connections", "0").set("log_disconnections", "0")
    });
    stage.sql("create table t (id text)");
    let end = Instant::now() + seconds(4);
    let (writers, killed, most) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let stage = &stage;
                scope.spawn(move || write(stage, writer, end))
            })
            .collect();
        let (mut killed, mut most) = (0, 0);
        while Instant::now() < end {
            let backends = stage.backends();
            most = most.max(backends.len());
            if let Some(victim) = backends.get(fastrand::usize(..backends.len().max(1))) {
                stage.sql(&format!("select pg_terminate_backend({victim})"));
                killed += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let writers: Vec<Writer> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        (writers, killed, most)
    });
    let written: BTreeSet<&String> = writers.iter().flat_map(|writer| &writer.written).collect();
    let errors: usize = writers.iter().map(|writer| writer.errors).sum();
    let longest = writers.iter().map(|writer| writer.longest).max().unwrap();
    let there = stage.sql("select id from t");
    let there: Vec<&str> = there.split(',').collect();
    let once: BTreeSet<&str> = there.iter().copied().collect();
    eprintln!(
        "{killed} killed: {} rows acknowledged, {} there, {errors} errors, longest {longest:?}",
        written.len(),
        there.len()
    );
    assert_eq!(there.len(), once.len(), "a row is there twice");
    assert!(written.iter().all(|id| once.contains(id.as_str())), "an acknowledged row is lost");
    // What is there and was not acknowledged was committed just before the end of its server.
    assert!(there.len() - written.len() <= errors);
    assert!(killed >= 10 && errors >= 1, "{killed} killed, {errors} errors");
    assert!(errors <= killed, "more clients were hit than servers: {errors} of {killed}");
    assert!(most <= SIZE, "{most} at once");
    assert!(longest < Duration::from_secs(5));
    stage.assert_settled(0);
}

// --- pools by the thousand ---

/// What an allocator keeps of memory given back is its own affair; what counts is that pools made later
/// live in it.
#[test]
fn pools_by_the_thousand_come_and_go_in_the_same_memory() {
    let pools = number("PGBATON_SOAK_POOLS", 500);
    let fake = FakePostgres::serving();
    let keeping = Config::new()
        .set("server_idle_timeout", "0.1")
        .set("max_client_conn", "100000")
        .set("log_connections", "0")
        .set("log_disconnections", "0")
        .database_at("app", fake.address(), "");
    let forgetting = keeping.clone().set("pool_idle_timeout", "0.2");
    let mut pgbaton = Pgbaton::start(&keeping);
    let visit = |pgbaton: &Pgbaton, n: usize| {
        let login = Login::new(&format!("user number {n}"), "app", "")
            .parameter("search_path", &format!("schema_{n}"));
        let mut client = Wire::login(pgbaton.address(), &login);
        client.query("select");
        client.send(&wire::terminate());
    };
    let known = |pgbaton: &Pgbaton| {
        show(pgbaton, "POOLS").iter().filter(|row| row["database"] == "app").count()
    };
    let before = pgbaton.rss_bytes();
    let mut with_all = Vec::new();
    for round in 0..4 {
        (0..pools).for_each(|n| visit(&pgbaton, round * pools + n));
        assert!(eventually(PATIENCE, || show(&pgbaton, "SERVERS").is_empty()));
        assert_eq!(known(&pgbaton), pools, "all are new, and those before are forgotten");
        with_all.push(pgbaton.rss_bytes());
        pgbaton.reload(&forgetting);
        assert!(eventually(PATIENCE, || known(&pgbaton) == 0), "{}", known(&pgbaton));
        pgbaton.reload(&keeping);
        let reloads = || pgbaton.log().matches("configuration reloaded").count();
        assert!(eventually(PATIENCE, || reloads() == 2 * (round + 1)), "{}", reloads());
    }
    let first = with_all[0].saturating_sub(before);
    let more = with_all[3].saturating_sub(with_all[0]);
    eprintln!(
        "{pools} pools at a time: {} KiB for the first ({} bytes each), {} KiB more for the rest",
        first / 1024,
        first / pools,
        more / 1024
    );
    assert!(more <= first / 4 + MIB, "{before}, {with_all:?}");
}
