//! PostgreSQL's own benchmark as a judge: no transaction may fail, whatever the protocol and however
//! many clients, and what TPC-B writes must add up afterwards. No speed is asserted.

use std::process::{Command, Output, Stdio};

use pgbaton::cli::throwaway::Installation;

use crate::support::console::Console;
use crate::support::pgbaton::{Config, PATIENCE, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER};

const POOL_SIZE: usize = 16;
/// Clients, and transactions of each.
const CROWDS: [(usize, usize); 3] = [(1, 300), (64, 10), (512, 2)];
const PROTOCOLS: [&str; 3] = ["simple", "extended", "prepared"];

/// A database made by `pgbench -i` behind a pgbaton with a pool of 16.
struct Bench {
    pgbaton: Pgbaton,
    database: String,
}

/// The sums that must agree, and the number of rows in the history.
#[derive(Debug, PartialEq, Eq)]
struct Books {
    branches: i64,
    tellers: i64,
    accounts: i64,
    deltas: i64,
    rows: i64,
}

impl Bench {
    fn open(adapt: impl Fn(Config) -> Config) -> Self {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let port = postgres.port();
        succeed(&mut pgbench(port, &database, &["-i", "-q", "-s", "2"]));
        let config = Config::new()
            .set("default_pool_size", &POOL_SIZE.to_string())
            .set("max_client_conn", "1000");
        let config = adapt(config).database(&database, postgres, "");
        Self { pgbaton: Pgbaton::start(&config), database }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let port = self.pgbaton.address().port();
        pgbench(port, &self.database, &[&["-n", "-j", "2"], arguments].concat())
    }

    /// Runs to the end; returns how many transactions there were. None may have failed.
    fn run(&self, clients: usize, each: usize, arguments: &[&str]) -> usize {
        let (clients_text, each_text) = (clients.to_string(), each.to_string());
        let count = ["-c", &clients_text, "-t", &each_text];
        let output = succeed(&mut self.command(&[&count, arguments].concat()));
        let (report, said) = texts(&output);
        let all = clients * each;
        let processed = format!("number of transactions actually processed: {all}/{all}\n");
        assert!(report.contains(&processed), "{arguments:?}: {report}{said}");
        let failed = "number of failed transactions: 0 (0.000%)\n";
        assert!(report.contains(failed), "{arguments:?}: {report}{said}");
        assert!(!said.contains("error"), "{arguments:?}: {said}");
        all
    }

    /// Nobody waits, nothing is active, and the pool is not larger than allowed.
    fn check_at_rest(&self) {
        let mut console = Console::of(&self.pgbaton);
        let busy = ["cl_active", "cl_waiting", "sv_active", "sv_tested", "sv_login"];
        console.wait_for(&self.database, busy, [0; 5]);
        let [idle] = console.counts(&self.database, ["sv_idle"]);
        assert!((1..=POOL_SIZE).contains(&idle), "{idle} servers");
        let counted = Postgres::shared().connections(&self.database);
        assert_eq!(counted, idle, "the server counts as pgbaton does");
    }

    fn books(&self) -> Books {
        let sql = "select (select sum(bbalance) from pgbench_branches), \
                   (select sum(tbalance) from pgbench_tellers), \
                   (select sum(abalance) from pgbench_accounts), \
                   (select coalesce(sum(delta), 0) from pgbench_history), \
                   (select count(*) from pgbench_history)";
        let line = Postgres::shared().sql(&self.database, sql);
        let numbers: Vec<i64> = line.split('|').map(|n| n.parse().unwrap()).collect();
        Books {
            branches: numbers[0],
            tellers: numbers[1],
            accounts: numbers[2],
            deltas: numbers[3],
            rows: numbers[4],
        }
    }

    /// Returns the number of rows in the history.
    fn check_sums(&self) -> usize {
        let books = self.books();
        let Books { deltas, rows, .. } = books;
        let expected = Books { branches: deltas, tellers: deltas, accounts: deltas, deltas, rows };
        assert_eq!(books, expected);
        usize::try_from(rows).unwrap()
    }
}

fn pgbench(port: u16, database: &str, arguments: &[&str]) -> Command {
    let installation = Installation::find(None).unwrap_or_else(|e| panic!("{e}"));
    let program = installation.program("pgbench");
    let mut command = Command::new(program.unwrap_or_else(|e| panic!("{e}")));
    let port = port.to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-U", SUPERUSER]);
    command.args(arguments).arg(database);
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (report, said) = texts(&output);
    assert!(output.status.success(), "{command:?}: {report}{said}");
    output
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// TPC-B by every protocol and crowd; the books must balance at the end.
fn write_and_balance(workers: &str) {
    let bench = Bench::open(|config| config.set("workers", workers));
    let mut transactions = 0;
    for protocol in PROTOCOLS {
        for (clients, each) in CROWDS {
            transactions += bench.run(clients, each, &["-M", protocol]);
        }
        assert_eq!(bench.check_sums(), transactions, "{protocol}");
    }
    assert!(transactions > 5000, "{transactions}");
    assert_ne!(bench.books().deltas, 0);
    bench.check_at_rest();
}

/// The select-only script by every protocol and crowd.
fn read(workers: &str) {
    let bench = Bench::open(|config| config.set("workers", workers));
    let mut transactions = 0;
    for protocol in PROTOCOLS {
        for (clients, each) in CROWDS {
            transactions += bench.run(clients, each * 3, &["-S", "-M", protocol]);
        }
    }
    assert!(transactions > 15_000, "{transactions}");
    bench.check_at_rest();
}

#[test]
fn tpc_b_balances_with_one_worker() {
    write_and_balance("1");
}

#[test]
fn tpc_b_balances_with_two_workers() {
    write_and_balance("2");
}

#[test]
fn select_only_has_no_failures_with_one_worker() {
    read("1");
}

#[test]
fn select_only_has_no_failures_with_two_workers() {
    read("2");
}

#[test]
fn a_new_connection_for_every_transaction() {
    for workers in ["1", "2"] {
        let bench = Bench::open(|config| config.set("workers", workers));
        let mut transactions = 0;
        for protocol in PROTOCOLS {
            transactions += bench.run(32, 5, &["-C", "-M", protocol]);
            bench.run(32, 10, &["-C", "-S", "-M", protocol]);
        }
        assert_eq!(bench.check_sums(), transactions);
        bench.check_at_rest();
    }
}

#[test]
fn session_mode_serves_as_many_clients_as_servers_and_then_the_next() {
    let bench = Bench::open(|config| config.set("pool_mode", "\"session\""));
    let mut transactions = 0;
    for protocol in PROTOCOLS {
        transactions += bench.run(POOL_SIZE, 20, &["-M", protocol]);
    }
    assert_eq!(bench.check_sums(), transactions);
    bench.check_at_rest();
}

#[test]
fn a_script_of_pipelines_has_no_failures() {
    let script = "\\set a random(1, 100000)\n\\startpipeline\n\
        insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :a, 1, now());\n\
        update pgbench_accounts set abalance = abalance + 1 where aid = :a;\n\
        update pgbench_tellers set tbalance = tbalance + 1 where tid = 1;\n\
        update pgbench_branches set bbalance = bbalance + 1 where bid = 1;\n\\endpipeline\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let bench = Bench::open(|config| config.set("workers", "2"));
    let path = file.path().to_str().unwrap();
    let mut transactions = 0;
    for protocol in ["extended", "prepared"] {
        for (clients, each) in [(1, 100), (64, 5)] {
            transactions += bench.run(clients, each, &["-f", path, "-M", protocol]);
        }
    }
    assert_eq!(bench.check_sums(), transactions);
    assert_eq!(bench.books().deltas, i64::try_from(transactions).unwrap());
    bench.check_at_rest();
}

#[test]
fn a_crowd_killed_in_the_middle_leaves_balanced_books_and_a_usable_pool() {
    let bench = Bench::open(|config| config.set("workers", "2"));
    for protocol in PROTOCOLS {
        let before = bench.check_sums();
        let mut crowd = bench
            .command(&["-c", "64", "-t", "1000000", "-M", protocol])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let is_under_way = || bench.books().rows > i64::try_from(before).unwrap() + 100;
        let under_way = eventually(PATIENCE, is_under_way);
        crowd.kill().unwrap();
        crowd.wait().unwrap();
        assert!(under_way, "{protocol}: nothing was written");
        bench.check_at_rest();
        let stuck = Postgres::shared().sql(
            &bench.database,
            "select count(*) from pg_stat_activity where datname = current_database() \
             and state like 'idle in transaction%'",
        );
        assert_eq!(stuck, "0");
        let rows = bench.check_sums();
        assert_eq!(rows + bench.run(8, 5, &["-M", protocol]), bench.check_sums());
    }
}
