//! When a server goes from one client to the next, in transaction and in session mode.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::console::Console;
use crate::support::pgbaton::{Config, PATIENCE, Pgbaton, eventually};
use crate::support::postgres::{MD5_ROLE, Postgres, SCRAM_ROLE, SUPERUSER};
use crate::support::wire::{self, Login, Wire, bind, execute, flush, parse, query, sync};

mod settings;
mod statement_mode;
mod statements;

/// A database of the test's own behind a pgbaton of its own.
struct House {
    pgbaton: Pgbaton,
    database: String,
}

impl House {
    fn transaction(pool_size: usize) -> Self {
        Self::open(pool_size, |config| config)
    }

    fn session(pool_size: usize) -> Self {
        Self::open(pool_size, |config| config.set("pool_mode", "\"session\""))
    }

    fn open(pool_size: usize, adapt: impl Fn(Config) -> Config) -> Self {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let config = Config::new().set("default_pool_size", &pool_size.to_string());
        let config = adapt(config).database(&database, postgres, "");
        Self { pgbaton: Pgbaton::start(&config), database }
    }

    fn login(&self) -> Login {
        Login::new(SUPERUSER, &self.database, "")
    }

    fn client(&self) -> Wire {
        Wire::login(self.pgbaton.address(), &self.login())
    }

    fn client_with(&self, parameters: &[(&str, &str)]) -> Wire {
        let login = parameters
            .iter()
            .fold(self.login(), |login, (name, value)| login.parameter(name, value));
        Wire::login(self.pgbaton.address(), &login)
    }

    fn console(&self) -> Console {
        Console::of(&self.pgbaton)
    }

    fn servers(&self) -> usize {
        Postgres::shared().connections(&self.database)
    }

    /// Waits until this many clients are in the queue.
    fn wait_for_waiting(&self, count: usize) {
        self.console().wait_for(&self.database, ["cl_waiting"], [count]);
    }
}

/// The process id of the server that answers the client now.
fn backend(wire: &mut Wire) -> i32 {
    let pid = wire.query("select pg_backend_pid()");
    pid.value().parse().unwrap()
}

/// Begins a transaction and returns the server's process id: it is held until the commit.
fn hold(wire: &mut Wire) -> i32 {
    let pid = wire.query("begin; select pg_backend_pid()");
    pid.value().parse().unwrap()
}

/// Checks that a client, whose request has been sent, is not served before `release` has run.
fn is_served_only_after(house: &House, waiting: &mut Wire, release: impl FnOnce()) {
    house.wait_for_waiting(1);
    waiting.expect_silence(std::time::Duration::from_millis(50));
    release();
    let reply = waiting.receive_reply().unwrap();
    assert_eq!((reply.status, &reply.error), (b'I', &None));
}

#[test]
fn clients_take_turns_on_one_server() {
    let house = House::transaction(1);
    let mut clients = [house.client(), house.client(), house.client()];
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        for client in &mut clients {
            seen.insert(backend(client));
            seen.insert(hold(client));
            client.query("commit");
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(house.servers(), 1);
}

#[test]
fn six_clients_at_once_share_two_servers() {
    let house = House::transaction(2);
    let mut clients: Vec<Wire> = (0..6).map(|_| house.client()).collect();
    let mut users: BTreeMap<i32, BTreeSet<usize>> = BTreeMap::new();
    for _ in 0..20 {
        for client in &mut clients {
            client.send(&query("begin; select pg_backend_pid(), pg_sleep(0.001); commit"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let reply = client.receive_reply().unwrap();
            let pid = reply.value().parse().unwrap();
            users.entry(pid).or_default().insert(number);
        }
    }
    assert_eq!(users.len(), 2, "{users:?}");
    assert!(users.values().any(|clients| clients.len() >= 2), "{users:?}");
    assert_eq!(house.servers(), 2);
}

#[test]
fn a_transaction_keeps_its_server_and_its_end_gives_it_to_who_waits() {
    let house = House::transaction(1);
    let (mut holder, mut waiting) = (house.client(), house.client());
    let pid = hold(&mut holder);
    waiting.send(&query("select pg_backend_pid()"));
    house.wait_for_waiting(1);
    for _ in 0..10 {
        assert_eq!(backend(&mut holder), pid);
    }
    waiting.expect_silence(std::time::Duration::from_millis(50));
    holder.query("commit");
    assert_eq!(waiting.receive_reply().unwrap().value(), pid.to_string());
}

#[test]
fn clients_that_wait_are_served_in_the_order_of_their_requests() {
    // Over several workers the order holds within a bound only.
    let house = House::open(1, |config| config.set("workers", "1"));
    let mut holder = house.client();
    holder.query("create table served (place serial, who int)");
    hold(&mut holder);
    let mut waiting: Vec<Wire> = (0..8).map(|_| house.client()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&query(&format!("insert into served (who) values ({number})")));
        house.wait_for_waiting(number + 1);
    }
    holder.query("commit");
    for client in &mut waiting {
        assert_eq!(client.receive_reply().unwrap().tags, ["INSERT 0 1"]);
    }
    let order = holder.query("select string_agg(who::text, ',' order by place) from served");
    assert_eq!(order.value(), "0,1,2,3,4,5,6,7");
}

/// What keeps a server, and what ends it.
fn holds() -> [(&'static str, Vec<u8>, Vec<u8>); 8] {
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let copy = query("copy (select 1) to stdout; copy held from stdin");
    let data = wire::message(b'd', b"1\n");
    [
        ("a transaction", query("begin"), query("commit")),
        ("its failure", query("begin; select 1/0"), query("rollback")),
        ("its last savepoint", query("begin; savepoint s"), query("abort")),
        ("a chain", query("begin; commit and chain"), query("commit")),
        ("an extended begin", [group("begin"), sync()].concat(), query("end")),
        ("a pipeline", [group("select 1"), flush()].concat(), sync()),
        ("a failed pipeline", [parse("", "selekt"), flush()].concat(), sync()),
        ("a copy", copy, [data, wire::message(b'c', &[])].concat()),
    ]
}

#[test]
fn all_that_is_unfinished_keeps_the_server_until_it_is_finished() {
    let house = House::transaction(1);
    let (mut holder, mut waiting) = (house.client(), house.client());
    holder.query("create table held (n int)");
    for (what, begin, end) in holds() {
        holder.send(&begin);
        let active = ["cl_active", "sv_active", "sv_idle"];
        house.console().wait_for(&house.database, active, [2, 1, 0]);
        waiting.send(&query("select 'served'"));
        is_served_only_after(&house, &mut waiting, || holder.send(&end));
        // All that the holder was owed has come, too.
        holder.send(&query("select 'the end'"));
        loop {
            let message = holder.receive().unwrap();
            if message.tag == b'D' && message.body.ends_with(b"the end") {
                break;
            }
        }
        holder.expect(b'C');
        assert_eq!(holder.expect_ready(), b'I', "{what}");
    }
    assert_eq!(house.servers(), 1);
}

#[test]
fn all_that_is_finished_frees_the_server() {
    let house = House::transaction(1);
    let (mut client, mut other) = (house.client(), house.client());
    let pid = backend(&mut client);
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    for (script, readies) in [
        (query("select 1"), 1),
        (query("selekt 1"), 1),
        (query(""), 1),
        (query("begin; commit"), 1),
        ([query("begin; select 1/0"), query("commit")].concat(), 2),
        (query("rollback"), 1),
        ([group("select 1"), sync()].concat(), 1),
        ([group("select 1/0"), sync()].concat(), 1),
        ([group("select 1"), sync(), sync(), sync()].concat(), 3),
        (query("copy (select 1) to stdout"), 1),
        (query("create table t (n int); drop table t"), 1),
    ] {
        client.send(&script);
        let all: Vec<_> = (0..readies).map(|_| client.receive_until_ready().unwrap()).collect();
        assert!(all.iter().all(|messages| !messages.is_empty()));
        assert_eq!(backend(&mut other), pid);
    }
    let columns = ["cl_active", "cl_waiting", "sv_active", "sv_idle"];
    house.console().wait_for(&house.database, columns, [2, 0, 0, 1]);
}

#[test]
fn session_mode_keeps_the_server_until_the_client_leaves() {
    let house = House::session(2);
    let (mut first, mut second) = (house.client(), house.client());
    let (first_pid, second_pid) = (backend(&mut first), backend(&mut second));
    assert_ne!(first_pid, second_pid);
    for _ in 0..5 {
        assert_eq!(backend(&mut first), first_pid);
        assert_eq!(backend(&mut second), second_pid);
    }
    let mut third = house.client();
    third.send(&query("select pg_backend_pid()"));
    house.wait_for_waiting(1);
    third.expect_silence(std::time::Duration::from_millis(50));
    first.send(&wire::terminate());
    let served_by = third.receive_reply().unwrap();
    assert_eq!(served_by.value(), first_pid.to_string());
}

#[test]
fn session_mode_lets_a_client_that_never_asked_hold_nothing() {
    let house = House::session(1);
    let _silent = house.client();
    let mut client = house.client();
    assert_eq!(client.query("select 1").value(), "1");
}

/// What the next client must not find, and a question that brings 0 if it is not there.
const LEFT_BEHIND: [(&str, &str); 7] = [
    (
        "set statement_timeout = 12345",
        "select (current_setting('statement_timeout') = '12345s')::int",
    ),
    ("set timezone = 'Asia/Tokyo'", "select (current_setting('timezone') = 'Asia/Tokyo')::int"),
    (
        "create temp table left_behind ()",
        "select count(*) from pg_class where relname = 'left_behind'",
    ),
    ("prepare left_behind as select 1", "select count(*) from pg_prepared_statements"),
    ("listen left_behind", "select count(*) from pg_listening_channels()"),
    (
        "select pg_advisory_lock(7)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ),
    ("declare c cursor with hold for select 1", "select count(*) from pg_cursors where name = 'c'"),
];

#[test]
fn session_mode_resets_the_server_before_the_next_client() {
    let house = House::session(1);
    let mut first = house.client();
    let pid = backend(&mut first);
    first.query("set timezone = 'Asia/Tokyo'");
    for (leave, _) in LEFT_BEHIND {
        first.query(leave);
    }
    for (leave, question) in &LEFT_BEHIND[1..] {
        assert_ne!(first.query(question).value(), "0", "{leave}");
    }
    first.query("begin; lock pg_class in access share mode");
    first.send(&wire::terminate());
    let mut second = house.client();
    assert_eq!(backend(&mut second), pid, "the same server");
    for (leave, question) in LEFT_BEHIND {
        assert_eq!(second.query(question).value(), "0", "{leave}");
    }
}

#[test]
fn the_reset_query_is_the_one_that_is_set_or_none() {
    for (reset_query, expected) in [("reset statement_timeout", "0"), ("", "12345ms")] {
        let house = House::open(1, |config| {
            config
                .set("pool_mode", "\"session\"")
                .set("server_reset_query", &format!("{reset_query:?}"))
        });
        let mut first = house.client();
        let pid = backend(&mut first);
        first.query("set statement_timeout = 12345; prepare kept as select 1");
        first.send(&wire::terminate());
        let mut second = house.client();
        assert_eq!(backend(&mut second), pid);
        let found = second.query("show statement_timeout");
        assert_eq!(found.value(), expected, "{reset_query:?}");
        let kept = second.query("select count(*) from pg_prepared_statements");
        assert_eq!(kept.value(), "1", "{reset_query:?}");
    }
}

#[test]
fn a_reset_query_that_fails_costs_the_server_and_not_the_next_client() {
    let house = House::open(1, |config| {
        config.set("pool_mode", "\"session\"").set("server_reset_query", "\"selekt 1\"")
    });
    let mut first = house.client();
    let pid = backend(&mut first);
    first.send(&wire::terminate());
    let mut second = house.client();
    assert_ne!(backend(&mut second), pid);
    assert!(eventually(PATIENCE, || house.servers() == 1));
}

#[test]
fn transaction_mode_runs_the_reset_query_only_if_told_to() {
    for (always, expected) in [("0", "12345ms"), ("1", "0")] {
        let house = House::open(1, |config| config.set("server_reset_query_always", always));
        let (mut first, mut second) = (house.client(), house.client());
        first.query("set statement_timeout = 12345");
        let found = second.query("show statement_timeout");
        assert_eq!(found.value(), expected, "server_reset_query_always = {always}");
        assert_eq!(house.servers(), 1);
    }
}

#[test]
fn users_and_databases_never_share_a_server() {
    let postgres = Postgres::shared();
    let databases = [postgres.create_database(), postgres.create_database()];
    let mut config = Config::new().set("default_pool_size", "1");
    for database in &databases {
        config = config.database(database, postgres, "");
    }
    let pgbaton = Pgbaton::start(&config);
    let mut seen = BTreeMap::new();
    for _ in 0..3 {
        for database in &databases {
            for user in [SUPERUSER, SCRAM_ROLE, MD5_ROLE] {
                let mut wire = Wire::login(pgbaton.address(), &Login::new(user, database, ""));
                let whom = wire.query("select current_user || ' ' || current_database()");
                assert_eq!(whom.value(), format!("{user} {database}"));
                let owner = seen.insert(backend(&mut wire), (user, database));
                assert!(owner.is_none_or(|owner| owner == (user, database)));
            }
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn a_forced_user_makes_one_pool_for_all_clients() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let forced = format!("user = \"{SCRAM_ROLE}\"\npool_size = 1");
    let pgbaton = Pgbaton::start(&Config::new().database(&database, postgres, &forced));
    let mut seen = BTreeSet::new();
    for user in ["anybody", "somebody", SUPERUSER] {
        let mut wire = Wire::login(pgbaton.address(), &Login::new(user, &database, ""));
        assert_eq!(wire.query("select current_user").value(), SCRAM_ROLE);
        seen.insert(backend(&mut wire));
    }
    assert_eq!(seen.len(), 1);
}
