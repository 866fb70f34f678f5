//! How many servers there are and how long they live: lifetime, rest, minimum and reserve, the check
//! of those that have rested, what they run first, and pools that nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Counts, PATIENCE, Stage, counts, show};
use crate::support::fake_postgres::{self, Event, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SCRAM_ROLE, SUPERUSER};
use crate::support::wire::{self, Login, Wire};

const SHORT: Duration = Duration::from_millis(700);

/// So many servers, idle.
fn with_idle_servers(stage: &Stage, servers: usize) -> Vec<Wire> {
    let mut clients: Vec<Wire> = (0..servers).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.query("begin");
    }
    for client in &mut clients {
        client.query("commit");
    }
    clients
}

fn backend(client: &mut Wire) -> String {
    client.query("select pg_backend_pid()").value().to_owned()
}

// --- server_lifetime ---

#[test]
fn servers_that_are_too_old_go_one_after_the_other() {
    const SERVERS: usize = 8;
    let lifetime = Duration::from_millis(1_600);
    let stage =
        Stage::with(SERVERS, |config| config.set("server_lifetime", "1.6").set("workers", "1"));
    let born = Instant::now();
    let _clients = with_idle_servers(&stage, SERVERS);
    let youngest = born.elapsed();
    let mut alive: BTreeSet<i32> = stage.backends().into_iter().collect();
    assert_eq!(alive.len(), SERVERS);
    let mut deaths: BTreeMap<i32, Duration> = BTreeMap::new();
    let all_gone = eventually(PATIENCE, || {
        let now: BTreeSet<i32> = stage.backends().into_iter().collect();
        deaths.extend(alive.difference(&now).map(|pid| (*pid, born.elapsed())));
        alive = now;
        alive.is_empty()
    });
    assert!(all_gone, "{alive:?} left; log:\n{}", stage.pgbaton.log());
    let mut at: Vec<Duration> = deaths.into_values().collect();
    at.sort();
    assert!(at[0] >= lifetime, "closed before its time: {at:?}");
    // One for each eighth of the lifetime; a look, three times a second, catches up with its own.
    assert!(at[SERVERS - 1] - at[0] >= lifetime / 2, "all at once: {at:?}");
    let together = |window: &[Duration]| window[3] - window[0] < Duration::from_millis(100);
    assert!(!at.windows(4).any(together), "too many at once: {at:?}");
    assert!(at[SERVERS - 1] < 2 * lifetime + youngest + PATIENCE / 2, "{at:?}");
    stage.pgbaton.wait_for_log("server connection closed: server lifetime over");
}

#[test]
fn a_busy_server_that_is_too_old_goes_when_it_is_given_back() {
    let stage = Stage::with(1, |config| config.set("server_lifetime", "0.5"));
    let mut client = stage.client();
    let first = backend(&mut client);
    client.query("begin");
    thread::sleep(Duration::from_millis(900));
    assert_eq!(backend(&mut client), first, "not in the middle of a transaction");
    client.query("commit");
    assert_ne!(backend(&mut client), first);
}

#[test]
fn a_lifetime_of_zero_is_one_use() {
    let mut stage = Stage::with(2, |config| config.set("server_lifetime", "0"));
    let mut client = stage.client();
    let backends: BTreeSet<String> = (0..5).map(|_| backend(&mut client)).collect();
    assert_eq!(backends.len(), 5, "{backends:?}");
    client.query("begin");
    assert_eq!(backend(&mut client), backend(&mut client), "a transaction is one use");
    client.query("commit");
    stage.assert_settled(1);
    assert!(eventually(PATIENCE, || stage.backends().is_empty()), "{:?}", stage.backends());
}

#[test]
fn a_database_has_a_lifetime_of_its_own_and_a_reload_changes_it() {
    let postgres = Postgres::shared();
    let [short, long] = [(); 2].map(|()| postgres.create_database());
    let config = Config::new().database(&short, postgres, "server_lifetime = 0");
    let mut pgbaton = Pgbaton::start(&config.clone().database(&long, postgres, ""));
    let client = |pgbaton: &Pgbaton, database: &str| {
        Wire::login(pgbaton.address(), &Login::new(SUPERUSER, database, ""))
    };
    let [mut one, mut two] = [client(&pgbaton, &short), client(&pgbaton, &long)];
    assert_ne!(backend(&mut one), backend(&mut one));
    let kept = backend(&mut two);
    assert_eq!(backend(&mut two), kept);
    pgbaton.reload(&config.database(&long, postgres, "server_lifetime = 0"));
    pgbaton.wait_for_log("configuration reloaded");
    backend(&mut two);
    assert_ne!(backend(&mut two), kept, "given back once more, and closed");
}

// --- server_idle_timeout and min_pool_size ---

#[test]
fn servers_that_rest_are_closed_down_to_the_minimum() {
    let mut stage =
        Stage::with(6, |config| config.set("server_idle_timeout", "0.5").set("min_pool_size", "2"));
    let clients = with_idle_servers(&stage, 6);
    let left = eventually(PATIENCE, || stage.backends().len() == 2);
    assert!(left, "{:?}", stage.counts());
    let kept = stage.backends();
    thread::sleep(SHORT);
    assert_eq!(stage.backends(), kept, "the same two");
    // Without a client they are kept as well, and only not replaced.
    drop(clients);
    thread::sleep(SHORT);
    assert_eq!(stage.backends(), kept);
    stage.sql(&format!("select pg_terminate_backend({})", kept[0]));
    thread::sleep(SHORT);
    assert_eq!(stage.backends(), kept[1..]);
    stage.assert_settled(0);
}

#[test]
fn a_server_in_use_does_not_rest() {
    let stage = Stage::with(1, |config| config.set("server_idle_timeout", "0.5"));
    let mut client = stage.client();
    let first = backend(&mut client);
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(150));
        assert_eq!(backend(&mut client), first);
    }
    assert!(eventually(PATIENCE, || stage.backends().is_empty()));
    assert_eq!(stage.counts().sv_idle, 0);
}

#[test]
fn the_minimum_is_there_without_being_asked_for_while_there_is_a_client() {
    let mut stage = Stage::with(4, |config| config.set("min_pool_size", "3"));
    assert_eq!(stage.backends().len(), 0, "nobody has come yet");
    let client = stage.client();
    assert!(eventually(PATIENCE, || stage.backends().len() == 3), "{:?}", stage.counts());
    // One that dies is replaced.
    let first = stage.backends()[0];
    stage.sql(&format!("select pg_terminate_backend({first})"));
    let replaced = eventually(PATIENCE, || {
        let now = stage.backends();
        now.len() == 3 && !now.contains(&first)
    });
    assert!(replaced, "{:?}", stage.counts());
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn the_minimum_is_no_more_than_the_pool_and_a_reload_changes_it() {
    let mut stage = Stage::with(2, |config| config.set("min_pool_size", "9"));
    let _client = stage.client();
    assert!(eventually(PATIENCE, || stage.backends().len() == 2));
    thread::sleep(SHORT);
    assert_eq!(stage.backends().len(), 2);
    let less = stage.config.clone().set("min_pool_size", "1").set("server_idle_timeout", "0.2");
    stage.pgbaton.reload(&less);
    assert!(eventually(PATIENCE, || stage.backends().len() == 1), "{:?}", stage.counts());
    thread::sleep(SHORT);
    assert_eq!(stage.backends().len(), 1);
}

#[test]
fn a_forced_user_has_its_minimum_before_anybody_comes() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let body = format!("user = \"{SCRAM_ROLE}\"\nmin_pool_size = 2");
    let pgbaton = Pgbaton::start(&Config::new().database(&database, postgres, &body));
    assert!(eventually(PATIENCE, || postgres.connections(&database) == 2), "{}", pgbaton.log());
    let expected = Counts { sv_idle: 2, ..Counts::default() };
    assert!(eventually(PATIENCE, || counts(&pgbaton, &database, SCRAM_ROLE) == expected));
}

/// The dials for the minimum keep to the rate, and a server that refuses is not stormed.
#[test]
fn the_minimum_is_dialled_like_any_other() {
    let refusing = fake_postgres::error("FATAL", "53300", "sorry, too many clients already");
    let refuse = vec![Step::Startup, Step::Send(refusing), Step::Close];
    let fake = FakePostgres::start(vec![vec![Step::Login, Step::Serve], refuse]);
    let config = Config::new().set("min_pool_size", "20").database_at("app", fake.address(), "");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
    assert!(eventually(PATIENCE, || fake.connections() >= 5));
    thread::sleep(SHORT);
    // Four at once, then one at a time, ever less often.
    assert!(fake.connections() <= 10, "{} attempts", fake.connections());
    assert_eq!(client.query("served").tags, ["SELECT 0"]);
}

// --- the reserve ---

#[test]
fn who_has_waited_long_enough_gets_a_server_of_the_reserve() {
    let stage = Stage::with(1, |config| {
        config.set("reserve_pool_size", "1").set("reserve_pool_timeout", "0.6")
    });
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = [stage.client(), stage.client()];
    let began = Instant::now();
    for client in &mut waiting {
        client.send(&wire::query("begin; select 1"));
    }
    stage.wait_for_waiting(2);
    let served = eventually(PATIENCE, || stage.counts().sv_active == 2);
    assert!(served, "{:?}", stage.counts());
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    thread::sleep(SHORT);
    let expected = Counts { cl_active: 2, cl_waiting: 1, sv_active: 2, ..Counts::default() };
    assert_eq!(stage.counts(), expected, "one in reserve and no more");
    holder.query("commit");
    for client in &mut waiting {
        assert!(client.receive_reply().unwrap().error.is_none());
        client.query("commit");
    }
    assert_eq!(stage.counts().sv_idle, 2, "it is a server like any other");
}

#[test]
fn the_reserve_is_a_databases_or_a_users_own() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let body = "pool_size = 1\nreserve_pool = 1";
    let config = Config::new()
        .set("reserve_pool_timeout", "0.2")
        .database(&database, postgres, body)
        .user(SCRAM_ROLE, "reserve_pool_size = 0");
    let pgbaton = Pgbaton::start(&config);
    let clients = |user: &str| {
        let login = Login::new(user, &database, "");
        [(); 2].map(|()| Wire::login(pgbaton.address(), &login))
    };
    let [mut holder, mut waiting] = clients(SUPERUSER);
    holder.query("begin");
    assert_eq!(waiting.query("select 'reserve'").value(), "reserve");
    let [mut holder, mut waiting] = clients(SCRAM_ROLE);
    holder.query("begin");
    waiting.send(&wire::query("select 'no reserve'"));
    waiting.expect_silence(SHORT);
}

// --- server_check_query ---

fn checked(fake: &FakePostgres, tune: impl FnOnce(Config) -> Config) -> (Pgbaton, Wire) {
    let config = Config::new().set("workers", "1").set("server_check_delay", "0.3");
    let config = config.database_at("app", fake.address(), "pool_size = 3");
    let pgbaton = Pgbaton::start(&tune(config));
    let client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
    (pgbaton, client)
}

#[test]
fn a_server_that_has_rested_is_asked_before_it_is_used() {
    for (query, expected) in [
        ("\"<empty>\"", &["first", "second", "", "rested"][..]),
        ("\"select 1\"", &["first", "second", "select 1", "rested"]),
        ("\"\"", &["first", "second", "rested"]),
    ] {
        let fake = FakePostgres::serving();
        let (_pgbaton, mut client) = checked(&fake, |c| c.set("server_check_query", query));
        client.query("first");
        client.query("second");
        thread::sleep(SHORT);
        client.query("rested");
        assert_eq!((fake.queries(0), fake.connections()), (owned(expected), 1));
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_delay_of_zero_asks_before_each_use() {
    let fake = FakePostgres::serving();
    let (_pgbaton, mut client) = checked(&fake, |c| c.set("server_check_delay", "0"));
    client.query("first");
    client.query("second");
    assert_eq!(fake.queries(0), owned(&["", "first", "", "second"]));
}

#[test]
fn who_waits_behind_a_failed_check_is_served_by_another_server() {
    let error = fake_postgres::error("ERROR", "XX000", "out of order");
    let fatal = fake_postgres::error("FATAL", "57P01", "going down");
    for answer in [
        vec![Step::Send([error, fake_postgres::ready(b'I')].concat()), Step::Drain],
        vec![Step::Send(fatal), Step::Close],
        vec![Step::Close],
        vec![Step::Reset],
        // A transaction that nobody asked for.
        vec![
            Step::Send([fake_postgres::command_complete("X"), fake_postgres::ready(b'T')].concat()),
            Step::Drain,
        ],
    ] {
        let first = fake_postgres::idle_reply(b'Q');
        let mut script =
            vec![Step::Login, Step::Expect(b'Q'), Step::Send(first), Step::Expect(b'Q')];
        script.extend(answer);
        let fake = FakePostgres::start(vec![script, vec![Step::Login, Step::Serve]]);
        let (pgbaton, mut client) = checked(&fake, |config| config);
        client.query("first");
        thread::sleep(SHORT);
        assert_eq!(client.query("second").tags, ["SELECT 0"]);
        assert_eq!(fake.queries(0), owned(&["first", ""]), "nothing but the check went to it");
        assert_eq!(fake.queries(1), owned(&["second"]));
        pgbaton.wait_for_log("server check failed");
    }
}

/// Three servers that have fallen silent: the client is held up once and not three times.
#[test]
fn servers_that_do_not_answer_hold_a_client_up_once() {
    let busy = Step::Pause(Duration::from_millis(300));
    let first = Step::Send(fake_postgres::idle_reply(b'Q'));
    let silent = vec![Step::Login, Step::Expect(b'Q'), busy, first, Step::Drain];
    let serving = vec![Step::Login, Step::Serve];
    let fake = FakePostgres::start(vec![silent.clone(), silent.clone(), silent, serving]);
    let (pgbaton, client) = checked(&fake, |config| config.set("server_connect_timeout", "1"));
    let login = Login::new("x", "app", "");
    let mut clients = vec![client];
    clients.extend((0..2).map(|_| Wire::login(pgbaton.address(), &login)));
    for client in &mut clients {
        client.send(&wire::query("first"));
    }
    for client in &mut clients {
        assert_eq!(client.receive_reply().unwrap().tags, ["SELECT 0"]);
    }
    assert_eq!(counts(&pgbaton, "app", "x").sv_idle, 3);
    thread::sleep(SHORT);
    let began = Instant::now();
    clients[0].send(&wire::query("second"));
    let asks = || counts(&pgbaton, "app", "x").sv_tested == 1;
    assert!(eventually(PATIENCE, asks), "{:?}", counts(&pgbaton, "app", "x"));
    assert_eq!(clients[0].receive_reply().unwrap().tags, ["SELECT 0"]);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "asked and given up: {took:?}");
    let others = (0..3).filter(|n| fake.queries(*n) == ["first"]).count();
    assert_eq!(others, 2, "the others were not asked, but went with it");
    assert_eq!(fake.queries(3), owned(&["second"]));
    let expected = Counts { cl_active: 3, sv_idle: 1, ..Counts::default() };
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x") == expected));
}

// --- connect_query ---

#[test]
fn connect_query_runs_on_each_server_before_its_first_client() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let body = "pool_size = 2\n\
                connect_query = \"set statement_timeout = '7min'; set timezone = 'Asia/Tokyo'\"";
    let pgbaton = Pgbaton::start(&Config::new().database(&database, postgres, body));
    let login = Login::new(SUPERUSER, &database, "");
    let mut clients = [(); 2].map(|()| Wire::login(pgbaton.address(), &login));
    for client in &mut clients {
        client.query("begin");
        assert_eq!(client.query("show statement_timeout").value(), "7min");
        assert_eq!(client.query("show timezone").value(), "Asia/Tokyo");
    }
    let late = Wire::login(pgbaton.address(), &login);
    assert_eq!(late.parameter("TimeZone"), Some("Asia/Tokyo"), "told at the login");
}

#[test]
fn a_connect_query_that_fails_is_logged_and_no_more() {
    for (query, logged) in [
        ("select 1 / 0", "connect_query failed: ERROR: division by zero"),
        ("copy pg_class from stdin", "connect_query failed"),
        ("copy (select 1) to stdout", ""),
    ] {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let body = format!("connect_query = \"{query}\"");
        let pgbaton = Pgbaton::start(&Config::new().database(&database, postgres, &body));
        let login = Login::new(SUPERUSER, &database, "");
        let mut client = Wire::login(pgbaton.address(), &login);
        assert_eq!(client.query("select 42").value(), "42");
        pgbaton.wait_for_log(logged);
    }
}

#[test]
fn a_connect_query_that_leaves_a_transaction_open_lets_nobody_in() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let body = "connect_query = \"begin\"";
    let pgbaton = Pgbaton::start(&Config::new().database(&database, postgres, body));
    let login = Login::new(SUPERUSER, &database, "");
    match Wire::try_login(pgbaton.address(), &login) {
        Err(wire::WireError::Server(error)) => {
            assert!(error.message().contains("connect_query"), "{error:?}");
        }
        other => panic!("not refused: {:?}", other.err()),
    }
    assert!(eventually(PATIENCE, || postgres.connections(&database) == 0));
}

// --- pools that nobody uses ---

#[test]
fn a_pool_without_clients_and_servers_is_forgotten() {
    let postgres = Postgres::shared();
    let [own, other] = [(); 2].map(|()| postgres.create_database());
    let config = Config::new()
        .set("server_idle_timeout", "0.2")
        .set("autodb_idle_timeout", "0.4")
        .database(&own, postgres, "")
        .section("databases.\"*\"", &format!("host = \"127.0.0.1\"\nport = {}", postgres.port()));
    let mut pgbaton = Pgbaton::start(&config);
    let client = |pgbaton: &Pgbaton, database: &str| {
        Wire::login(pgbaton.address(), &Login::new(SUPERUSER, database, ""))
    };
    let known = |pgbaton: &Pgbaton| {
        let rows = show(pgbaton, "POOLS").into_iter().map(|row| row["database"].clone());
        rows.filter(|name| *name == own || *name == other).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from([own.clone(), other.clone()]);
    let held = [client(&pgbaton, &own), client(&pgbaton, &other)];
    thread::sleep(SHORT);
    assert_eq!(known(&pgbaton), both, "they have clients");
    drop(held);
    let only_own = BTreeSet::from([own.clone()]);
    assert!(eventually(PATIENCE, || known(&pgbaton) == only_own), "{:?}", known(&pgbaton));
    thread::sleep(SHORT);
    assert_eq!(known(&pgbaton), only_own, "it has an entry of its own");
    pgbaton.reload(&config.set("pool_idle_timeout", "0.2"));
    assert!(eventually(PATIENCE, || known(&pgbaton).is_empty()), "{:?}", known(&pgbaton));
    // They come back as if nothing had been.
    let mut clients = [client(&pgbaton, &own), client(&pgbaton, &other)];
    for client in &mut clients {
        assert_eq!(client.query("select 42").value(), "42");
    }
    assert_eq!(known(&pgbaton), both);
}

/// A client that is at its login just when its pool is forgotten gets one all the same.
#[test]
fn pools_come_and_go_under_clients_that_come_and_go() {
    let fake = FakePostgres::serving();
    let config = Config::new()
        .set("server_idle_timeout", "0.001")
        .set("pool_idle_timeout", "0.001")
        .set("default_pool_size", "1")
        .set("max_client_conn", "1000")
        .database_at("app", fake.address(), "");
    let pgbaton = Pgbaton::start(&config);
    let address = pgbaton.address();
    let until = Instant::now() + Duration::from_secs(3);
    let rounds: usize = thread::scope(|scope| {
        let visitors: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn(move || {
                    let mut rounds = 0;
                    while Instant::now() < until {
                        let login = Login::new(&format!("user {}", n % 3), "app", "");
                        let mut client = Wire::login(address, &login);
                        assert_eq!(client.query("select").tags, ["SELECT 0"]);
                        drop(client);
                        rounds += 1;
                        if rounds % 8 == 0 {
                            thread::sleep(Duration::from_millis(400));
                        }
                    }
                    rounds
                })
            })
            .collect();
        visitors.into_iter().map(|visitor| visitor.join().unwrap()).sum()
    });
    assert!(rounds > 50, "{rounds}");
    assert!(eventually(PATIENCE, || show_pools(&pgbaton) == 0), "{}", show_pools(&pgbaton));
    let connected =
        fake.events().iter().filter(|event| matches!(event, Event::Connected(_))).count();
    assert!(connected > 10, "servers came and went: {connected}");
}

fn show_pools(pgbaton: &Pgbaton) -> usize {
    show(pgbaton, "POOLS").iter().filter(|row| row["database"] == "app").count()
}

// --- a server that dies while it is idle ---

#[test]
fn a_server_whose_death_is_known_is_never_handed_out() {
    const ROUNDS: usize = 12;
    let mut stage = Stage::with(4, |config| config.set("server_login_retry", "600"));
    let mut clients = with_idle_servers(&stage, 4);
    let mut killed = 0;
    for round in 0..ROUNDS {
        let idle = stage.backends();
        let victims = idle.iter().take(1 + round % 4).map(ToString::to_string);
        let victims: Vec<String> = victims.collect();
        // They are gone when this returns, and their sockets closed.
        let sql = format!(
            "select pg_terminate_backend(pid, 5000) from unnest(array[{}]) as pid",
            victims.join(",")
        );
        assert!(!stage.sql(&sql).contains('f'));
        killed += victims.len();
        let client = &mut clients[round % 4];
        assert_eq!(client.query(&format!("select {round}")).value(), round.to_string());
        for other in &mut clients {
            other.query("begin");
        }
        for other in &mut clients {
            other.query("commit");
        }
    }
    assert!(killed >= ROUNDS);
    stage.assert_settled(4);
}
