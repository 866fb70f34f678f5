//! The console as exporters, dashboards and psql know it: PgBouncer's columns, true values, who may
//! come in, and what it refuses.

use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use pgbaton::cli::throwaway::Installation;

use crate::support::console::{Console, Row};
use crate::support::fake_postgres::{FakePostgres, Step};
use crate::support::pgbaton::{Config, PATIENCE, Pgbaton, eventually};
use crate::support::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::support::wire::{
    self, Login, Wire, WireError, bind, describe, execute, parse, query, sync,
};

const POOLS: &str = "database user cl_active cl_waiting cl_active_cancel_req \
    cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested \
    sv_login maxwait maxwait_us pool_mode load_balance_hosts";
const CLIENTS_AND_SERVERS: &str = "type user database replication state addr port local_addr \
    local_port connect_time request_time wait wait_us close_needed ptr link remote_pid tls \
    application_name prepared_statements id";

/// One database behind a pgbaton, and a console.
struct House {
    pgbaton: Pgbaton,
    database: String,
    console: Console,
}

impl House {
    fn open(pool_size: usize) -> Self {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let more = format!("pool_size = {pool_size}");
        let config =
            Config::new().set("stats_users", "[\"watcher\"]").database(&database, postgres, &more);
        let pgbaton = Pgbaton::start(&config);
        Self { console: Console::of(&pgbaton), pgbaton, database }
    }

    fn client(&self, name: &str) -> Wire {
        let login = Login::new(SUPERUSER, &self.database, "").parameter("application_name", name);
        Wire::login(self.pgbaton.address(), &login)
    }

    /// The row of the client with this application_name.
    fn client_row(&mut self, name: &str) -> Row {
        let mut rows = self.console.rows("SHOW CLIENTS");
        rows.retain(|row| row["application_name"] == name);
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.swap_remove(0)
    }

    fn servers(&mut self) -> Vec<Row> {
        self.console.rows("SHOW SERVERS")
    }

    fn pool(&mut self) -> Row {
        self.console.pool(&self.database)
    }

    fn wait_for<const N: usize>(&mut self, columns: [&str; N], values: [usize; N]) {
        self.console.wait_for(&self.database, columns, values);
    }
}

fn as_user(pgbaton: &Pgbaton, user: &str, password: &str) -> Result<Wire, WireError> {
    Wire::try_login(pgbaton.address(), &Login::new(user, "pgbaton", password))
}

/// SQLSTATE of a refused login, which must be FATAL.
fn refusal(outcome: Result<Wire, WireError>) -> String {
    match outcome {
        Err(WireError::Server(error)) => {
            assert_eq!(error.severity(), "FATAL");
            error.code().to_owned()
        }
        other => panic!("not refused: {:?}", other.err()),
    }
}

fn number(row: &Row, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} in {row:?}"))
}

#[test]
fn columns_are_pgbouncers_in_its_order() {
    let mut house = House::open(1);
    let mut client = house.client("somebody");
    client.query("select 1");
    for (command, columns) in [
        ("SHOW POOLS", POOLS),
        ("SHOW CLIENTS", CLIENTS_AND_SERVERS),
        ("SHOW SERVERS", CLIENTS_AND_SERVERS),
        ("SHOW VERSION", "version"),
    ] {
        let (names, rows) = house.console.table(command);
        let expected: Vec<&str> = columns.split_whitespace().collect();
        assert!(names.len() >= expected.len(), "{command}: {names:?}");
        assert_eq!(names[..expected.len()], expected, "{command}");
        assert!(!rows.is_empty(), "{command}");
    }
}

#[test]
fn the_version_is_the_programs() {
    let mut house = House::open(1);
    let version = format!("pgbaton {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(house.console.rows("show version")[0]["version"], version);
}

#[test]
fn help_lists_only_what_there_is() {
    let mut house = House::open(1);
    let (_, rows) = house.console.table("SHOW HELP");
    let commands: Vec<&String> = rows.iter().map(|row| &row[0]).collect();
    for command in ["SHOW POOLS", "SHOW CLIENTS", "SHOW SERVERS", "SHOW VERSION"] {
        assert!(commands.iter().any(|known| *known == command), "{commands:?}");
    }
    for command in commands.into_iter().filter(|known| known.starts_with("SHOW ")) {
        let (names, _) = house.console.table(command);
        assert!(!names.is_empty(), "{command}");
    }
}

#[test]
fn an_idle_client_is_idle_and_linked_to_nothing() {
    let mut house = House::open(2);
    let mut client = house.client("idler");
    client.query("select 1");
    house.wait_for(["cl_active", "cl_waiting", "sv_active", "sv_idle"], [1, 0, 0, 1]);
    let row = house.client_row("idler");
    let expected = [
        ("type", "C"),
        ("user", SUPERUSER),
        ("database", &house.database),
        ("replication", "none"),
        ("state", "idle"),
        ("addr", "127.0.0.1"),
        ("local_addr", "127.0.0.1"),
        ("wait", "0"),
        ("wait_us", "0"),
        ("close_needed", "0"),
        ("link", ""),
        ("tls", ""),
    ];
    for (column, value) in expected {
        assert_eq!(row[column], value, "{column}");
    }
    assert_eq!(number(&row, "local_port"), u64::from(house.pgbaton.address().port()));
    assert_ne!(number(&row, "port"), 0);
    let server = house.servers().swap_remove(0);
    assert_eq!((&server["type"][..], &server["state"][..]), ("S", "idle"));
    assert_eq!(server["link"], "");
}

#[test]
fn an_active_client_and_its_server_are_linked_to_each_other() {
    let mut house = House::open(2);
    let (mut idler, mut holder) = (house.client("idler"), house.client("holder"));
    idler.query("begin; select 1");
    holder.query("begin");
    idler.query("commit");
    let pid = holder.query("select pg_backend_pid()").value().to_owned();
    house.wait_for(["cl_active", "sv_active", "sv_idle"], [2, 1, 1]);
    let client = house.client_row("holder");
    assert_eq!(client["state"], "active");
    let servers = house.servers();
    assert_eq!(servers.len(), 2);
    let server = servers.iter().find(|row| row["ptr"] == client["link"]).unwrap();
    assert_eq!(server["link"], client["ptr"]);
    assert_eq!((&server["state"], &server["remote_pid"]), (&"active".to_owned(), &pid));
    let postgres_port = Postgres::shared().port();
    assert_eq!(
        (&server["addr"][..], number(server, "port")),
        ("127.0.0.1", u64::from(postgres_port))
    );
    assert_eq!((&server["user"][..], &server["database"]), (SUPERUSER, &house.database));
    let other = servers.iter().find(|row| row["ptr"] != client["link"]).unwrap();
    assert_eq!((&other["state"][..], &other["link"][..]), ("idle", ""));
    assert_eq!(house.client_row("idler")["link"], "");
}

#[test]
fn a_waiting_client_waits_in_every_table() {
    let mut house = House::open(1);
    let (mut holder, mut waiter) = (house.client("holder"), house.client("waiter"));
    holder.query("begin");
    let began = Instant::now();
    waiter.send(&query("select 1"));
    house.wait_for(["cl_active", "cl_waiting", "sv_active", "sv_idle"], [1, 1, 1, 0]);
    let row = house.client_row("waiter");
    assert_eq!((&row["state"][..], &row["link"][..]), ("waiting", ""));
    let waited = |row: &Row, seconds: &str, micros: &str| {
        assert!(number(row, micros) < 1_000_000);
        Duration::from_secs(number(row, seconds)) + Duration::from_micros(number(row, micros))
    };
    let maxwait = |house: &mut House| waited(&house.pool(), "maxwait", "maxwait_us");
    let (first, of_client) = (maxwait(&mut house), waited(&row, "wait", "wait_us"));
    assert!(of_client > Duration::ZERO && of_client <= began.elapsed());
    assert!(first >= of_client, "{first:?}, {of_client:?}");
    assert!(eventually(PATIENCE, || maxwait(&mut house) >= Duration::from_secs(1)));
    assert!(maxwait(&mut house) <= began.elapsed());
    holder.query("commit");
    assert_eq!(waiter.receive_reply().unwrap().value(), "1");
    house.wait_for(["cl_active", "cl_waiting", "maxwait", "maxwait_us"], [2, 0, 0, 0]);
    assert_eq!(house.client_row("waiter")["state"], "idle");
}

#[test]
fn a_server_being_logged_in_to_is_counted() {
    let fake =
        FakePostgres::start(vec![vec![Step::Login, Step::Serve], vec![Step::Startup, Step::Stall]]);
    let config = Config::new().database_at("app", fake.address(), "pool_size = 3");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new("joe", "app", "");
    let mut first = Wire::login(pgbaton.address(), &login);
    first.send(&[parse("", "begin"), wire::flush()].concat());
    first.expect(b'1');
    let mut second = Wire::login(pgbaton.address(), &login);
    second.send(&query("select 1"));
    let mut console = Console::of(&pgbaton);
    let columns = ["sv_login", "sv_active", "cl_active", "cl_waiting"];
    let came = eventually(PATIENCE, || console.counts("app", ["sv_login"]) == [1]);
    assert!(came, "{:?}", console.pool("app"));
    let [_, active, clients, waiting] = console.counts("app", columns);
    assert_eq!((active, clients + waiting), (1, 2));
}

#[test]
fn numbers_follow_clients_that_come_and_go() {
    let mut house = House::open(2);
    let mut clients: Vec<Wire> = (0..20).map(|n| house.client(&format!("client {n}"))).collect();
    for client in &mut clients {
        client.query("select 1");
    }
    house.wait_for(["cl_active", "cl_waiting", "sv_active"], [20, 0, 0]);
    let mut ids: Vec<u64> =
        house.console.rows("SHOW CLIENTS").iter().map(|row| number(row, "id")).collect();
    assert_eq!(ids.len(), 20);
    ids.dedup();
    assert_eq!(ids.len(), 20, "every client has a number of its own");
    clients.truncate(7);
    house.wait_for(["cl_active"], [7]);
    drop(clients);
    house.wait_for(["cl_active", "cl_waiting", "sv_active"], [0, 0, 0]);
    assert_eq!(house.console.rows("SHOW CLIENTS").len(), 0);
    assert_ne!(house.servers().len(), 0);
}

#[test]
fn names_modes_and_statements_are_shown() {
    let mut house = House::open(1);
    let mut client = house.client("at login");
    let three = ["a", "b", "c"].map(|name| parse(name, &format!("select '{name}'"))).concat();
    client.send(&[three, sync()].concat());
    assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "111Z");
    assert_eq!(house.servers()[0]["prepared_statements"], "3");
    client.query("set application_name = 'later on'");
    house.client_row("later on");
    assert_eq!(house.pool()["pool_mode"], "transaction");
    assert_eq!(house.pool()["user"], SUPERUSER);
}

#[test]
fn a_clients_own_statements_are_counted() {
    let mut house = House::open(1);
    let mut client = house.client("preparer");
    let two = ["a", "b"].map(|name| parse(name, "select 1")).concat();
    client.send(&[two, sync()].concat());
    assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "11Z");
    assert_eq!(house.client_row("preparer")["prepared_statements"], "2");
}

#[test]
fn times_are_times_of_day() {
    let mut house = House::open(1);
    let mut client = house.client("clock");
    client.query("select 1");
    let row = house.client_row("clock");
    for column in ["connect_time", "request_time"] {
        let text = row[column].strip_suffix(" UTC").expect(column);
        let time = humantime::parse_rfc3339_weak(text).expect(column);
        let age = SystemTime::now().duration_since(time).unwrap_or_default();
        assert!(age < Duration::from_secs(60), "{column} = {text}");
    }
}

#[test]
fn both_names_lead_to_the_console() {
    let house = House::open(1);
    for database in ["pgbaton", "pgbouncer"] {
        let login = Login::new("pgbaton", database, "");
        let mut console = Wire::login(house.pgbaton.address(), &login);
        assert_eq!(console.query("show version").tags, ["SHOW"]);
        assert_eq!(console.parameter("server_encoding"), Some("UTF8"));
    }
}

#[test]
fn only_admins_and_watchers_come_in() {
    let house = House::open(1);
    for user in ["pgbaton", "watcher"] {
        let mut console = as_user(&house.pgbaton, user, "").unwrap();
        assert_eq!(console.query("show pools").tags, ["SHOW"], "{user}");
    }
    for user in [SUPERUSER, "somebody", "PGBATON"] {
        let code = refusal(as_user(&house.pgbaton, user, ""));
        assert!(["28000", "28P01", "42501"].contains(&&code[..]), "{user}: {code}");
    }
}

#[test]
fn passwords_are_asked_for_where_the_configuration_says_so() {
    let postgres = Postgres::shared();
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let config = Config::new()
            .set("auth_type", &format!("{auth_type:?}"))
            .set("admin_users", "[\"pgbaton\", \"without_password\"]")
            .user("pgbaton", &format!("password = \"{PASSWORD}\""))
            .user("somebody", &format!("password = \"{PASSWORD}\""))
            .database("app", postgres, "");
        let pgbaton = Pgbaton::start(&config);
        let mut console = as_user(&pgbaton, "pgbaton", PASSWORD).unwrap();
        assert_ne!(console.authentication, [0], "{auth_type}: it was asked");
        assert_eq!(console.query("show version").tags, ["SHOW"]);
        assert_eq!(refusal(as_user(&pgbaton, "pgbaton", "wrong")), "28P01", "{auth_type}");
        assert_eq!(refusal(as_user(&pgbaton, "without_password", "")), "28P01", "{auth_type}");
        refusal(as_user(&pgbaton, "somebody", PASSWORD));
    }
}

#[test]
fn c13_the_console_is_open_when_clients_are_turned_away() {
    let postgres = Postgres::shared();
    let config = Config::new().set("max_client_conn", "1").database("trust", postgres, "");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, "trust", "");
    let mut client = Wire::login(pgbaton.address(), &login);
    assert_eq!(refusal(Wire::try_login(pgbaton.address(), &login)), "53300");
    let mut consoles = [Console::of(&pgbaton), Console::of(&pgbaton)];
    for console in &mut consoles {
        assert_eq!(console.rows("SHOW CLIENTS").len(), 1);
    }
    assert_eq!(client.query("select 1").value(), "1");
}

#[test]
fn open_consoles_take_no_clients_place() {
    let config =
        Config::new().set("max_client_conn", "1").database("trust", Postgres::shared(), "");
    let pgbaton = Pgbaton::start(&config);
    let _consoles: Vec<Console> = (0..5).map(|_| Console::of(&pgbaton)).collect();
    let mut client = Wire::login(pgbaton.address(), &Login::new(SUPERUSER, "trust", ""));
    assert_eq!(client.query("select 1").value(), "1");
}

#[test]
fn drivers_that_speak_only_the_extended_protocol_are_served() {
    let house = House::open(1);
    let mut client = house.client("somebody");
    client.query("select 1");
    let mut console = as_user(&house.pgbaton, "pgbaton", "").unwrap();
    for _ in 0..3 {
        let statement = [parse("", "SHOW POOLS"), describe(b'S', ""), bind("", "", &[])].concat();
        console.send(&[statement, describe(b'P', ""), execute("", 0), sync()].concat());
        let messages = console.receive_until_ready().unwrap();
        assert_eq!(wire::tags(&messages), "1tT2TDCZ");
        let row = wire::columns(&messages[5].body);
        assert_eq!(row[0].as_deref(), Some(&house.database[..]));
    }
    // A named statement, used again, and commands that bring no rows.
    let pause = format!("PAUSE {}", house.database);
    let resume = format!("RESUME {}", house.database);
    console.send(&[parse("p", &pause), parse("r", &resume), describe(b'S', "p"), sync()].concat());
    assert_eq!(wire::tags(&console.receive_until_ready().unwrap()), "11tnZ");
    for name in ["p", "r", "p", "r"] {
        console.send(&[bind("", name, &[]), execute("", 0), sync()].concat());
        assert_eq!(wire::tags(&console.receive_until_ready().unwrap()), "2CZ", "{name}");
    }
    console.send(
        &[wire::close(b'S', "p"), parse("p", " ; "), bind("", "p", &[]), execute("", 0), sync()]
            .concat(),
    );
    assert_eq!(wire::tags(&console.receive_until_ready().unwrap()), "312IZ");
    assert_eq!(console.query("show version").tags, ["SHOW"]);
}

#[test]
fn an_error_of_the_extended_protocol_skips_to_the_sync() {
    let house = House::open(1);
    let mut console = as_user(&house.pgbaton, "watcher", "").unwrap();
    let rest = [bind("", "", &[]), execute("", 0), sync()].concat();
    for (message, code) in [
        (parse("", "SHOW ELEPHANTS"), "42601"),
        ([parse("", "SHOW STATE"), bind("", "", &[Some("x")])].concat(), "08P01"),
        (bind("", "nowhere", &[]), "26000"),
        (execute("nowhere", 0), "34000"),
        // Whoever may only look is refused here too.
        (parse("", "RELOAD"), "42501"),
        (vec![b'F', 0, 0, 0, 4], "0A000"),
    ] {
        console.send(&[message, rest.clone()].concat());
        let mut error = None;
        loop {
            let message = console.receive().unwrap();
            match message.tag {
                b'E' => error = Some(wire::ErrorFields::parse(&message.body)),
                b'Z' => break,
                b'1' | b'2' if error.is_none() => {}
                tag => panic!("{:?} after {error:?}", char::from(tag)),
            }
        }
        let error = error.expect("an error");
        assert_eq!((error.severity(), error.code()), ("ERROR", code), "{error:?}");
    }
    assert_eq!(console.query("show version").tags, ["SHOW"]);
}

#[test]
fn other_commands_are_errors_and_the_console_goes_on() {
    let house = House::open(1);
    let mut console = as_user(&house.pgbaton, "pgbaton", "").unwrap();
    for command in ["selekt", "SELECT 1", "SHOW ELEPHANTS", "SHOW POOLS NOW", "begin", "\u{e9}"] {
        let error = console.query_error(command);
        assert_eq!((error.severity(), error.code()), ("ERROR", "42601"), "{command}");
    }
    let error = console.query_error(&"x".repeat(1_000_000));
    assert!(error.message().len() < 1000);
    for command in ["", ";", "  ; "] {
        console.send(&query(command));
        assert_eq!(wire::tags(&console.receive_until_ready().unwrap()), "IZ", "{command:?}");
    }
    for command in ["show version", "SHOW VERSION;", "  sHoW\n\tversion ;"] {
        assert_eq!(console.query(command).tags, ["SHOW"], "{command:?}");
    }
}

#[test]
fn nonsense_ends_the_console_and_nothing_else() {
    let mut house = House::open(1);
    let mut client = house.client("bystander");
    for bytes in [&b"\0\0\0\0\x04"[..], b"Q\0\0\0\0", b"Q\xff\xff\xff\xff", b"\xff\0\0\0\x04"] {
        let mut console = as_user(&house.pgbaton, "pgbaton", "").unwrap();
        console.send(bytes);
        while let Ok(message) = console.receive() {
            assert_eq!(message.tag, b'E');
        }
    }
    assert_eq!(client.query("select 1").value(), "1");
    assert_eq!(house.pool()["cl_active"], "1");
}

#[test]
fn commands_in_one_segment_are_answered_one_by_one() {
    let house = House::open(1);
    let mut console = as_user(&house.pgbaton, "pgbaton", "").unwrap();
    console.send(&query("show version").repeat(500));
    for _ in 0..500 {
        assert_eq!(wire::tags(&console.receive_until_ready().unwrap()), "TDCZ");
    }
    console.send(&wire::terminate());
    console.expect_closed();
}

#[test]
fn what_drivers_say_at_login_is_no_hindrance() {
    let house = House::open(1);
    let login = Login::new("watcher", "pgbouncer", "")
        .parameter("application_name", "exporter")
        .parameter("client_encoding", "UTF8")
        .parameter("datestyle", "ISO, MDY")
        .parameter("extra_float_digits", "2")
        .parameter("options", "-c statement_timeout=5s");
    let mut console = Wire::login(house.pgbaton.address(), &login);
    assert_eq!(console.query("show pools").tags, ["SHOW"]);
}

#[test]
fn the_console_answers_when_the_server_is_gone() {
    let config = Config::new().database_at("app", ([127, 0, 0, 1], 1).into(), "");
    let pgbaton = Pgbaton::start(&config);
    let mut console = Console::of(&pgbaton);
    refusal(Wire::try_login(pgbaton.address(), &Login::new("joe", "app", "")));
    assert_eq!(console.counts("app", ["cl_active", "sv_active", "sv_idle"]), [0, 0, 0]);
    assert_eq!(console.rows("SHOW SERVERS").len(), 0);
}

/// psql with commands from its standard input or `-c`.
fn psql(house: &House, database: &str, arguments: &[&str]) -> Output {
    let installation = Installation::find(None).unwrap_or_else(|e| panic!("{e}"));
    let program = installation.program("psql");
    let port = house.pgbaton.address().port().to_string();
    Command::new(program.unwrap_or_else(|e| panic!("{e}")))
        .args(["-X", "-w", "-h", "127.0.0.1", "-p", &port, "-U", "pgbaton", "-d", database])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn psql_works_on_it() {
    let house = House::open(1);
    let mut client = house.client("somebody");
    client.query("select 1");
    for database in ["pgbaton", "pgbouncer"] {
        let output = psql(&house, database, &["-At", "-c", "SHOW POOLS;", "-c", "show version"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let pool = format!("{}|{SUPERUSER}|1|0|", house.database);
        assert!(lines.iter().any(|line| line.starts_with(&pool)), "{text}");
        assert_eq!(lines.last(), Some(&&format!("pgbaton {}", env!("CARGO_PKG_VERSION"))[..]));
    }
    let output = psql(&house, "pgbaton", &["-v", "ON_ERROR_STOP=1", "-c", "SHOW ELEPHANTS"]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("ERROR:  invalid command 'SHOW ELEPHANTS'"), "{text}");
    let output = psql(&house, "pgbaton", &["-x", "-c", "SHOW CLIENTS"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("application_name    | somebody"), "{text}");
}
