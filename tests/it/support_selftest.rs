//! The test kit itself, against a real PostgreSQL without a pooler between: what it says of
//! PostgreSQL must be true before it may judge pgbaton.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::fake_postgres::{self, Event, FakePostgres, Step};
use crate::support::pgbaton::{Config, eventually, proc_status_kib};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, PASSWORD, PASSWORD_DATABASE, Postgres, SCRAM_DATABASE, SCRAM_ROLE,
    SUPERUSER, TRUST_DATABASE,
};
use crate::support::wire::{self, Login, Wire, WireError};

const PATIENCE: Duration = Duration::from_secs(10);

/// What an idle connection says when its postmaster has died.
const CRASHED: &str = "terminating connection due to unexpected postmaster exit";

fn tester(database: &str) -> Login {
    Login::new(SUPERUSER, database, PASSWORD)
}

#[test]
fn every_login_method_is_asked_for_and_answered() {
    let postgres = Postgres::shared();
    for (role, database, asked) in [
        (SUPERUSER, TRUST_DATABASE, &[0][..]),
        (SCRAM_ROLE, PASSWORD_DATABASE, &[3, 0]),
        (MD5_ROLE, MD5_DATABASE, &[5, 0]),
        (SCRAM_ROLE, MD5_DATABASE, &[10, 11, 12, 0]),
        (SCRAM_ROLE, SCRAM_DATABASE, &[10, 11, 12, 0]),
    ] {
        let mut wire = Wire::login(postgres.address(), &Login::new(role, database, PASSWORD));
        assert_eq!(wire.authentication, asked, "{role} in {database}");
        assert_eq!(wire.query("select current_user").value(), role);
    }
}

#[test]
fn a_wrong_password_is_refused_with_28p01_by_every_method() {
    let postgres = Postgres::shared();
    for (role, database) in [
        (SCRAM_ROLE, PASSWORD_DATABASE),
        (MD5_ROLE, MD5_DATABASE),
        (SCRAM_ROLE, SCRAM_DATABASE),
        (MD5_ROLE, SCRAM_DATABASE),
    ] {
        let login = Login::new(role, database, "wrong");
        match Wire::try_login(postgres.address(), &login) {
            Err(WireError::Server(error)) => {
                assert_eq!((error.severity(), error.code()), ("FATAL", "28P01"), "{error:?}");
            }
            other => panic!("{role} in {database}: {:?}", other.err()),
        }
    }
}

#[test]
fn the_unix_socket_leads_to_the_same_server() {
    let postgres = Postgres::shared();
    let mut wire = Wire::login(postgres.socket(), &tester(TRUST_DATABASE));
    assert_eq!(wire.query("show port").value(), postgres.port().to_string());
    assert_eq!(wire.query("select inet_client_addr()").rows, [[None]]);
}

#[test]
fn a_query_brings_rows_tags_errors_notices_and_the_status() {
    let postgres = Postgres::shared();
    let mut wire = Wire::login(postgres.address(), &tester(TRUST_DATABASE));
    let reply = wire.query("begin; select 1, null, 'two'; select generate_series(1, 2)");
    let own = |text: &str| Some(text.to_owned());
    assert_eq!(reply.rows, [vec![own("1"), None, own("two")], vec![own("1")], vec![own("2")]]);
    assert_eq!(reply.tags, ["BEGIN", "SELECT 1", "SELECT 2"]);
    assert_eq!(reply.status, b'T');
    assert_eq!(wire.query_error("select nonsense").code(), "42703");
    assert_eq!(wire.try_query("select 1").unwrap().status, b'E');
    assert_eq!(wire.query("rollback").status, b'I');
    let reply = wire.query("do $$ begin raise notice 'hear, hear'; end $$");
    assert_eq!(reply.notices[0].message(), "hear, hear");
}

#[test]
fn extended_messages_have_the_form_that_postgres_expects() {
    let postgres = Postgres::shared();
    let mut wire = Wire::login(postgres.address(), &tester(TRUST_DATABASE));
    wire.send(&wire::parse("twice", "select $1::int * 2, $2::text"));
    wire.send(&wire::describe(b'S', "twice"));
    wire.send(&wire::bind("", "twice", &[Some("21"), None]));
    wire.send(&[wire::execute("", 0), wire::close(b'S', "twice"), wire::sync()].concat());
    let messages = wire.receive_until_ready().unwrap();
    assert_eq!(wire::tags(&messages), "1tT2DC3Z");
    assert_eq!(wire::columns(&messages[4].body), [Some("42".to_owned()), None]);
    wire.send(&[wire::bind("", "twice", &[None, None]), wire::flush()].concat());
    assert_eq!(wire.expect_error().code(), "26000");
    wire.expect_silence(Duration::from_millis(50));
    wire.send(&wire::sync());
    assert_eq!(wire.expect_ready(), b'I');
}

#[test]
fn startup_parameters_and_parameter_status_are_seen() {
    let postgres = Postgres::shared();
    let login = tester(TRUST_DATABASE).parameter("application_name", "selftest");
    let mut wire = Wire::login(postgres.address(), &login);
    assert_eq!(wire.parameter("application_name"), Some("selftest"));
    wire.query("set application_name = 'changed'");
    assert_eq!(wire.parameter("application_name"), Some("changed"));
    assert_eq!(wire.parameter("nonsense"), None);
}

#[test]
fn a_cancel_request_cancels() {
    let postgres = Postgres::shared();
    let mut wire = Wire::login(postgres.address(), &tester(TRUST_DATABASE));
    let server_pid = wire.query("select pg_backend_pid()").value().parse();
    assert_eq!(server_pid, Ok(wire.pid));
    wire.send(&wire::query("select pg_sleep(60)"));
    let sleeps = format!("select wait_event from pg_stat_activity where pid = {}", wire.pid);
    assert!(eventually(PATIENCE, || postgres.sql(TRUST_DATABASE, &sleeps) == "PgSleep"));
    wire::cancel(postgres.address(), wire.pid, &wire.secret);
    let error = wire.receive_reply().unwrap().error.expect("an error");
    assert_eq!(error.code(), "57014");
}

#[test]
fn the_end_of_a_connection_is_seen_from_both_sides() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let mut leaving = Wire::login(postgres.address(), &tester(&database));
    let staying = Wire::login(postgres.address(), &tester(&database));
    assert_eq!(postgres.connections(&database), 2);
    leaving.send(&wire::terminate());
    leaving.expect_closed();
    assert!(eventually(PATIENCE, || postgres.connections(&database) == 1));
    staying.shutdown(Shutdown::Write);
    assert!(eventually(PATIENCE, || postgres.connections(&database) == 0));
}

#[test]
fn an_own_cluster_can_be_set_stopped_crashed_and_restarted() {
    let mut postgres = Postgres::start(&[("work_mem", "123kB")]);
    assert_eq!(postgres.sql(TRUST_DATABASE, "show work_mem"), "123kB");
    let mut wire = Wire::login(postgres.address(), &tester(TRUST_DATABASE));
    wire.query("create table kept as select 42 as n");
    wire.query("checkpoint");
    let first_pid = postgres.pid();
    postgres.stop();
    assert_eq!(wire.expect_error().code(), "57P01");
    wire.expect_closed();
    assert_eq!(postgres.pid(), None);
    postgres.begin();
    assert_ne!(postgres.pid(), first_pid);
    let mut wire = Wire::login(postgres.address(), &tester(TRUST_DATABASE));
    postgres.crash();
    assert_eq!(wire.expect_error().message(), CRASHED);
    wire.expect_closed();
    postgres.begin();
    assert!(postgres.log().contains("not properly shut down"), "{}", postgres.log());
    postgres.restart();
    assert_eq!(postgres.sql(TRUST_DATABASE, "select n from kept"), "42");
}

/// Not a test of its own: the next one runs it in a second process, with input from a pipe, and
/// kills that process. Run by itself it only checks that the shared cluster answers.
#[test]
fn hold_a_cluster_for_another_process() {
    let postgres = Postgres::shared();
    assert_eq!(postgres.sql(TRUST_DATABASE, "select 1"), "1");
    if std::env::var_os("PGBATON_TEST_HOLD").is_none() {
        return;
    }
    // The leading newline ends the line that the test harness has begun.
    println!("\nheld {} {}", postgres.port(), postgres.socket_folder().display());
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_test_binary_leaves_neither_server_nor_folder() {
    let name = "support_selftest::hold_a_cluster_for_another_process";
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("PGBATON_TEST_HOLD", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).find(|line| line.starts_with("held "));
    let held = held.expect("the other process holds a cluster");
    let mut words = held.split(' ').skip(1);
    let port: u16 = words.next().unwrap().parse().unwrap();
    let folder = Path::new(words.next().unwrap());
    assert!(folder.exists());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    drop(Wire::login(address, &tester(TRUST_DATABASE)));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(eventually(PATIENCE, || !folder.exists()), "{} is still there", folder.display());
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}

#[test]
fn a_serving_fake_logs_in_answers_and_records() {
    let fake = FakePostgres::serving();
    let login = Login::new("somebody", "somewhere", "").parameter("application_name", "me");
    let mut wire = Wire::login(fake.address(), &login);
    assert_eq!(
        (wire.pid, &wire.secret[..]),
        (fake_postgres::FIRST_PID, &fake_postgres::SECRET[..])
    );
    assert_eq!(wire.query("select 1").tags, ["SELECT 0"]);
    wire.send(&[wire::parse("", "x"), wire::bind("", "", &[]), wire::execute("", 0)].concat());
    wire.send(&wire::sync());
    assert_eq!(wire::tags(&wire.receive_until_ready().unwrap()), "12CZ");
    wire::cancel(fake.address(), wire.pid, &wire.secret);
    fake.wait_for(|event| *event == Event::Cancel(1000, vec![1, 2, 3, 4]));
    assert_eq!(fake.queries(0), ["select 1"]);
    assert_eq!(fake.connections(), 1, "a cancel request is not a client");
    let startup = b"user\0somebody\0database\0somewhere\0application_name\0me\0\0";
    assert_eq!(fake.events()[1], Event::Startup(0, startup.to_vec()));
    wire.shutdown(Shutdown::Both);
    fake.wait_for(|event| *event == Event::Gone(0));
}

#[test]
fn each_connection_of_a_fake_plays_its_own_script_and_misbehaves_as_told() {
    let row = fake_postgres::data_row(&["half a row"]);
    let cut = row[..7].to_vec();
    let refusal = fake_postgres::error("FATAL", "53300", "sorry, too many clients already");
    let fake = FakePostgres::start(vec![
        vec![Step::Close],
        vec![Step::Startup, Step::Send(refusal), Step::Close],
        vec![Step::Login, Step::Expect(b'Q'), Step::Send(cut), Step::Close],
        vec![Step::Login, Step::Expect(b'Q'), Step::Reset],
        vec![Step::Login, Step::Trickle(row, 1, Duration::from_millis(1)), Step::Stall],
    ]);
    let login = Login::new("somebody", "somewhere", "");
    Wire::connect(fake.address()).expect_closed();
    match Wire::try_login(fake.address(), &login) {
        Err(WireError::Server(error)) => assert_eq!(error.code(), "53300"),
        other => panic!("{:?}", other.err()),
    }
    let mut wire = Wire::login(fake.address(), &login);
    match wire.try_query("select 1") {
        Err(WireError::Io(e)) => assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof),
        other => panic!("{other:?}"),
    }
    let mut wire = Wire::login(fake.address(), &login);
    match wire.try_query("select 1") {
        Err(WireError::Io(e)) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
    let mut wire = Wire::login(fake.address(), &login);
    assert_eq!(wire::columns(&wire.expect(b'D')), [Some("half a row".to_owned())]);
    wire.expect_silence(Duration::from_millis(50));
    let began = Instant::now();
    drop(fake);
    assert!(began.elapsed() < PATIENCE, "a stalled connection does not hold up the end");
    wire.expect_closed();
}

#[test]
fn a_config_file_has_the_last_value_of_each_key_and_all_sections() {
    let fake = FakePostgres::serving();
    let config = Config::new()
        .set("pool_mode", "\"session\"")
        .database_at("app", fake.address(), "pool_size = 3")
        .user("joe", "password = \"x\"");
    let (port, server_port) = (config.port(), fake.address().port());
    let expected = format!(
        "[general]\nlisten_addr = \"127.0.0.1\"\nlisten_port = {port}\nunix_socket_dir = \"\"\n\
         user = \"root\"\nauth_type = \"trust\"\nadmin_users = \"pgbaton\"\npool_mode = \"session\"\n\
         \n[databases.app]\nhost = \"127.0.0.1\"\nport = {server_port}\ndbname = \"app\"\n\
         pool_size = 3\n\n[users.joe]\npassword = \"x\"\n"
    );
    assert_eq!(config.text(), expected);
}

#[test]
fn memory_is_read_from_the_right_line() {
    let status = "Name:\tx\nVmRSSx:\t1 kB\nVmRSS:\t   2048 kB\nThreads:\t3\n";
    assert_eq!(proc_status_kib(status, "VmRSS"), 2048);
}
