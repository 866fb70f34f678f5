//! Many clients, and commands given again and again while they work: no error that was not asked
//! for, nobody stranded, no slot lost. The environment makes longer runs of the same:
//! `PGBATON_PAUSE_SECONDS`, `PGBATON_RELOADS` and `PGBATON_STORM_SECONDS`.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::Installation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{PATIENCE, give, with};
use crate::support::pgbaton::eventually;
use crate::support::postgres::SUPERUSER;
use crate::support::wire::{Login, Wire, WireError, query};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// Two thousand clients ask while all is paused; every one is served after the resume.
#[test]
fn a_crowd_waits_out_a_pause() {
    const CLIENTS: usize = 2_000;
    let pause = Duration::from_secs(number("PGBATON_PAUSE_SECONDS", 2));
    allow_many_files();
    let mut stage = with(4, |config| config.set("max_client_conn", "2100"));
    let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| stage.client()).collect();
    give(&stage, "PAUSE");
    let began = Instant::now();
    super::wait_for_no_backend(&stage);
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&query(&format!("select {n}")));
    }
    stage.wait_for_waiting(CLIENTS);
    thread::sleep(pause.saturating_sub(began.elapsed()));
    assert_eq!(stage.counts().cl_waiting, CLIENTS, "nobody was turned away");
    assert_eq!(stage.backends().len(), 0, "nobody was let through");
    give(&stage, "RESUME");
    let resumed = Instant::now();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.receive_reply().unwrap().value(), n.to_string());
    }
    println!("{CLIENTS} clients held for {pause:?}, all served {:?} later", resumed.elapsed());
    stage.assert_settled(CLIENTS);
}

/// Two hundred clients work while the file changes under them.
#[test]
fn reloads_under_a_crowd_disturb_nobody() {
    const CLIENTS: usize = 200;
    const THREADS: usize = 4;
    let reloads = number("PGBATON_RELOADS", 100);
    let mut stage = with(4, |config| config.set("max_client_conn", "300"));
    let good = stage.config.text();
    let (address, login) = (stage.pgbaton.address(), stage.login());
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut clients: Vec<Wire> =
                    (0..CLIENTS / THREADS).map(|_| Wire::login(address, &login)).collect();
                while !stop.load(Ordering::Relaxed) {
                    clients.iter_mut().for_each(|client| client.send(&query("select 42")));
                    for client in &mut clients {
                        assert_eq!(client.receive_reply().unwrap().value(), "42");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let all_there = || stage.counts().cl_active + stage.counts().cl_waiting >= CLIENTS;
        assert!(eventually(PATIENCE, all_there));
        let mut changes = 0;
        for turn in 0..reloads {
            // Another size, another limit, one database more or less.
            let text = good
                .replace("pool_size = 4", &format!("pool_size = {}", 2 + turn % 5))
                .replace("max_client_conn = 300", &format!("max_client_conn = {}", 300 + turn % 3));
            let more = "\n[databases.more]\nhost = \"127.0.0.1\"\n";
            let text = if turn % 2 == 0 { text + more } else { text };
            fs::write(stage.pgbaton.config_file(), text).unwrap();
            let before = done.load(Ordering::Relaxed);
            give(&stage, "RELOAD");
            let works = || done.load(Ordering::Relaxed) > before;
            assert!(eventually(PATIENCE, works), "after reload {turn}");
            changes += 1;
        }
        println!(
            "{changes} reloads under {CLIENTS} clients, {} queries",
            done.load(Ordering::Relaxed)
        );
        stop.store(true, Ordering::Relaxed);
    });
    assert!(done.load(Ordering::Relaxed) > CLIENTS, "they did work meanwhile");
    fs::write(stage.pgbaton.config_file(), &good).unwrap();
    give(&stage, "RELOAD");
    stage.assert_settled(0);
}

/// What a client of the storm has seen.
#[derive(Default)]
struct Seen {
    queries: AtomicUsize,
    killed: AtomicUsize,
    resumed: AtomicUsize,
    paused: AtomicUsize,
}

/// Works until told to stop; begins anew when it was killed, and fails on any other error.
fn work(address: std::net::SocketAddr, login: &Login, stop: &AtomicBool, seen: &Seen) {
    let mut client: Option<Wire> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(wire) = &mut client else {
            // A login waits while its pool is paused and greets nobody yet.
            client = Some(Wire::login(address, login));
            continue;
        };
        let outcome = match fastrand::usize(..3) {
            0 => wire.try_query("begin").and_then(|_| wire.try_query("commit")),
            _ => wire.try_query("select 42"),
        };
        match outcome {
            Ok(reply) if reply.error.is_none() => {
                seen.queries.fetch_add(1, Ordering::Relaxed);
            }
            Err(WireError::Server(error)) => {
                assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error:?}");
                seen.killed.fetch_add(1, Ordering::Relaxed);
                client = None;
            }
            // Told and closed between two queries: the second does not get through.
            Err(WireError::Io(_) | WireError::Closed) => client = None,
            other => panic!("{other:?}"),
        }
    }
}

/// Gives commands at random until told to stop: all there are, or those that no client notices.
fn command(stage: &super::Stage, kills: bool, stop: &AtomicBool, seen: &Seen) {
    let name = &stage.database;
    let mut console = stage.console();
    while !stop.load(Ordering::Relaxed) {
        let database = if fastrand::bool() { format!(" {name}") } else { String::new() };
        let verb = match fastrand::usize(..40) {
            0..12 => "PAUSE",
            12..32 => "RESUME",
            32..36 => "RECONNECT",
            36..38 => "WAIT_CLOSE",
            38 if kills => "KILL",
            _ => "RELOAD",
        };
        let database = if verb == "RELOAD" { String::new() } else { database };
        let reply = console.try_query(&format!("{verb}{database}")).unwrap();
        match (verb, reply.error.as_ref().map(|error| error.code())) {
            ("PAUSE", None) => drop(seen.paused.fetch_add(1, Ordering::Relaxed)),
            // Ended by another console's RESUME, or nothing to end.
            ("PAUSE", Some("55000")) => drop(seen.resumed.fetch_add(1, Ordering::Relaxed)),
            ("RESUME", None | Some("55000")) | (_, None) => {}
            other => panic!("{other:?}: {reply:?}"),
        }
        thread::sleep(Duration::from_millis(fastrand::u64(..20)));
    }
}

/// Stops the consoles, none of which may hang, and resumes for the last time.
fn end_storm(
    stage: &super::Stage,
    stop: &AtomicBool,
    consoles: &[thread::ScopedJoinHandle<'_, ()>],
) {
    stop.store(true, Ordering::Relaxed);
    let resume = || {
        for command in ["RESUME".to_owned(), format!("RESUME {}", stage.database)] {
            let _ = stage.console().try_query(&command);
        }
    };
    let ended = eventually(PATIENCE, || {
        resume();
        consoles.iter().all(thread::ScopedJoinHandle::is_finished)
    });
    assert!(ended, "a console hangs; {}", stage.pgbaton.log());
    resume();
}

/// The same without KILL under pgbench, which gives up at the first error: there is none.
#[test]
fn pgbench_does_not_notice_pauses_reconnects_and_reloads() {
    let seconds = number("PGBATON_STORM_SECONDS", 4);
    let mut stage = with(3, |config| config.set("query_wait_timeout", "60"));
    stage.sql("create table hits (n int)");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.sql");
    fs::write(&script, "begin;\ninsert into hits values (1);\nselect 42;\ncommit;\n").unwrap();
    let installation = Installation::find(None).unwrap_or_else(|e| panic!("{e}"));
    let port = stage.pgbaton.address().port().to_string();
    let mut pgbench =
        Command::new(installation.program("pgbench").unwrap_or_else(|e| panic!("{e}")));
    pgbench
        .args(["-n", "-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER, "-c", "16", "-j", "2"])
        // Not prepared: pgbench blocks a whole thread for each PREPARE, with transactions of its
        // other clients open.
        .args(["-M", "extended", "-T", &seconds.to_string(), "-f"])
        .args([script.as_os_str(), stage.database.as_ref()]);
    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    let output = thread::scope(|scope| {
        let bench = scope.spawn(|| pgbench.output().unwrap());
        let consoles: Vec<_> =
            (0..3).map(|_| scope.spawn(|| command(&stage, false, &stop, &seen))).collect();
        thread::sleep(Duration::from_secs(seconds));
        end_storm(&stage, &stop, &consoles);
        assert!(eventually(PATIENCE, || bench.is_finished()), "{:?}", stage.counts());
        bench.join().unwrap()
    });
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("aborted"), "{report}{said}");
    let line = |start: &str| report.lines().find_map(|line| line.strip_prefix(start)).unwrap();
    let processed = line("number of transactions actually processed: ").to_owned();
    assert_eq!(line("number of failed transactions: "), "0 (0.000%)");
    assert_eq!(stage.sql("select count(*) from hits"), processed);
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    println!(
        "{seconds} s of pgbench: {processed} transactions, {} pauses, {} ended by RESUME",
        count(&seen.paused),
        count(&seen.resumed)
    );
    assert!(count(&seen.paused) > 0 && count(&seen.resumed) > 0, "nothing was raced");
    stage.assert_settled(0);
}

/// PAUSE, RESUME, RECONNECT, KILL and RELOAD from several consoles at once, at random, under load.
/// After the last RESUME everybody is served, and the slots are exactly PostgreSQL's backends.
#[test]
fn commands_raced_at_random_strand_nobody_and_lose_no_slot() {
    let seconds = number("PGBATON_STORM_SECONDS", 4);
    let mut stage = with(3, |config| config.set("query_wait_timeout", "60"));
    let (address, login) = (stage.pgbaton.address(), stage.login());
    let (stop_commands, stop_work, seen) =
        (AtomicBool::new(false), AtomicBool::new(false), Seen::default());
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| work(address, &login, &stop_work, &seen))).collect();
        let consoles: Vec<_> =
            (0..4).map(|_| scope.spawn(|| command(&stage, true, &stop_commands, &seen))).collect();
        thread::sleep(Duration::from_secs(seconds));
        end_storm(&stage, &stop_commands, &consoles);
        // Everybody is served again, without a further command.
        let before = seen.queries.load(Ordering::Relaxed);
        assert!(eventually(PATIENCE, || seen.queries.load(Ordering::Relaxed) > before + 200));
        stop_work.store(true, Ordering::Relaxed);
        let left = eventually(PATIENCE, || workers.iter().all(|worker| worker.is_finished()));
        assert!(left, "a client is stranded: {:?}; {}", stage.counts(), stage.pgbaton.log());
    });
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let Seen { queries, killed, resumed, paused } = &seen;
    println!(
        "{seconds} s: {} queries, {} pauses, {} ended by RESUME, {} clients killed",
        count(queries),
        count(paused),
        count(resumed),
        count(killed)
    );
    assert!(count(paused) > 0 && count(resumed) > 0 && count(killed) > 0, "nothing was raced");
    stage.assert_settled(0);
}
