//! Replication connections pass through to a server of their own: logical and physical ones, by raw
//! messages and by PostgreSQL's own programs.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use pgbaton::cli::throwaway::Installation;
use rustix::process::Signal;

use crate::stage::{PATIENCE, counts};
use crate::support::fake_postgres::{self, Event, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER};
use crate::support::wire::{self, Login, Message, Wire, message, query};

/// A cluster that streams logical changes.
fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(&[("wal_level", "logical"), ("max_wal_senders", "20")]))
}

/// A database of the test's own behind a pgbaton with this pool size.
struct House {
    pgbaton: Pgbaton,
    database: String,
}

impl House {
    fn open(pool_size: usize) -> Self {
        let database = postgres().create_database();
        let config = Config::new()
            .set("default_pool_size", &pool_size.to_string())
            .database(&database, postgres(), "")
            .database("replication", postgres(), "");
        Self { pgbaton: Pgbaton::start(&config), database }
    }

    fn login(&self) -> Login {
        Login::new(SUPERUSER, &self.database, "")
    }

    fn client(&self) -> Wire {
        Wire::login(self.pgbaton.address(), &self.login())
    }

    fn logical(&self) -> Wire {
        let login = self.login().parameter("replication", "database");
        Wire::login(self.pgbaton.address(), &login)
    }

    fn walsenders(&self) -> String {
        postgres().sql(
            "postgres",
            &format!(
                "select count(*) from pg_stat_activity \
                 where backend_type = 'walsender' and datname = '{}'",
                self.database
            ),
        )
    }
}

/// Everything up to the CopyData that contains `text`.
fn receive_change(wire: &mut Wire, text: &str) -> Message {
    loop {
        let message = wire.receive().unwrap();
        assert_eq!(message.tag, b'd', "{message:?}");
        if message.body.windows(text.len()).any(|window| window == text.as_bytes()) {
            return message;
        }
    }
}

#[test]
fn a_logical_stream_runs_and_ends_as_it_does_with_postgres() {
    let house = House::open(3);
    let mut writer = house.client();
    writer.query("create table t (v text); create publication p for table t");
    let mut stream = house.logical();
    let identified = stream.query("IDENTIFY_SYSTEM");
    assert_eq!(identified.rows[0][3].as_deref(), Some(house.database.as_str()));
    // SQL is allowed on it as well.
    assert_eq!(stream.query("select 40 + 2").value(), "42");
    stream.query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput");
    stream.send(&query(
        "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')",
    ));
    stream.expect(b'W');
    for n in 0..3 {
        let text = format!("change number {n}");
        writer.query(&format!("insert into t values ('{text}')"));
        receive_change(&mut stream, &text);
    }
    let mut status = b"r".to_vec();
    status.extend([0; 32]);
    status.push(1);
    stream.send(&message(b'd', &status));
    // Behind the rest of the last change.
    while stream.expect(b'd')[0] != b'k' {}
    stream.send(&message(b'c', b""));
    let rest = stream.receive_until_ready().unwrap();
    let tags = wire::tags(&rest);
    assert_eq!(tags.replace('d', ""), "cCCZ", "{tags}");
    assert_eq!(stream.query("select 'usable'").value(), "usable");
    stream.send(&wire::terminate());
    stream.expect_closed();
    assert!(eventually(PATIENCE, || house.walsenders() == "0"));
    house.pgbaton.wait_for_log("client close request");
}

#[test]
fn the_greeting_and_the_options_are_those_of_its_own_server() {
    let house = House::open(2);
    let login = |login: Login| {
        login
            .parameter("replication", "database")
            .parameter("application_name", "own")
            .parameter("options", "-c statement_timeout=1234 --work_mem=1MB -c search_path=a,\\ b")
    };
    let mut through = Wire::login(house.pgbaton.address(), &login(house.login()));
    let mut direct = Wire::login(postgres().address(), &login(house.login()));
    assert_eq!(through.parameters, direct.parameters);
    assert_eq!(through.parameter("application_name"), Some("own"));
    for setting in ["statement_timeout", "work_mem", "search_path", "application_name"] {
        let show = format!("SHOW {setting}");
        assert_eq!(through.query(&show).value(), direct.query(&show).value());
    }
    assert_ne!(through.pid, direct.pid);
}

#[test]
fn it_takes_a_slot_of_the_pool_and_gives_it_back() {
    let mut house = House::open(1);
    let mut client = house.client();
    let pooled = client.query("select pg_backend_pid()").value().to_owned();
    // The idle server makes room.
    let mut stream = house.logical();
    assert_ne!(stream.query("select pg_backend_pid()").value(), pooled);
    let servers = || {
        postgres().sql(
            "postgres",
            &format!("select count(*) from pg_stat_activity where datname = '{}'", house.database),
        )
    };
    assert!(eventually(PATIENCE, || servers() == "1"), "{}", servers());
    client.send(&query("select 'waited'"));
    let waits = || counts(&house.pgbaton, &house.database, SUPERUSER).cl_waiting == 1;
    assert!(eventually(PATIENCE, waits));
    client.expect_silence(Duration::from_millis(30));
    drop(stream);
    assert_eq!(client.receive_reply().unwrap().value(), "waited");
    assert_eq!(servers(), "1");
    // And it waits in line itself.
    client.query("begin");
    let mut late = Wire::connect(house.pgbaton.address());
    late.send_startup(&house.login().parameter("replication", "database")).unwrap();
    late.expect_silence(Duration::from_millis(100));
    client.query("commit");
    late.authenticate(&house.login()).unwrap();
    assert_eq!(late.query("select 'in'").value(), "in");
    assert!(house.pgbaton.is_running());
}

#[test]
fn clients_and_servers_that_vanish_take_the_other_end_along() {
    let house = House::open(3);
    let stream = house.logical();
    assert!(eventually(PATIENCE, || house.walsenders() == "1"));
    stream.reset();
    assert!(eventually(PATIENCE, || house.walsenders() == "0"));
    let mut stream = house.logical();
    let pid = stream.query("select pg_backend_pid()").value().to_owned();
    postgres().sql("postgres", &format!("select pg_terminate_backend({pid}, 5000)"));
    assert_eq!(stream.expect_error().code(), "57P01");
    stream.expect_closed();
    let idle = || {
        let now = counts(&house.pgbaton, &house.database, SUPERUSER);
        (now.cl_active, now.sv_active, now.sv_idle) == (0, 0, 0)
    };
    assert!(eventually(PATIENCE, idle));
}

#[test]
fn a_server_that_breaks_between_messages_is_told_and_within_one_is_not() {
    let half = fake_postgres::data_row(&["half"]);
    let cut = half[..half.len() - 2].to_vec();
    for (bytes, is_told) in [(half.clone(), true), (cut, false)] {
        let script = vec![Step::Login, Step::Expect(b'Q'), Step::Send(bytes.clone()), Step::Reset];
        let fake = FakePostgres::start(vec![script]);
        let config = Config::new().database_at("app", fake.address(), "");
        let pgbaton = Pgbaton::start(&config);
        let login = Login::new("somebody", "app", "").parameter("replication", "database");
        let mut stream = Wire::login(pgbaton.address(), &login);
        let startup = fake.wait_for(|event| matches!(event, Event::Startup(0, _)));
        let Event::Startup(_, parameters) = startup else { unreachable!() };
        assert!(parameters.windows(21).any(|w| w == b"replication\0database\0"));
        stream.send(&query("select"));
        if is_told {
            stream.expect(b'D');
            assert_eq!(stream.expect_error().code(), "08006");
            stream.expect_closed();
        } else {
            // Half a message, then the end: an error would be taken for the rest of it.
            assert!(matches!(stream.receive(), Err(wire::WireError::Io(_))));
        }
        pgbaton.wait_for_log("server conn crashed?");
    }
}

#[test]
fn a_cancel_hits_what_it_runs_and_a_shutdown_ends_it() {
    let mut house = House::open(2);
    let mut stream = house.logical();
    stream.send(&query("select pg_sleep(602)"));
    let runs = || {
        let sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(602)'";
        postgres().sql("postgres", sql) == "1"
    };
    assert!(eventually(PATIENCE, runs));
    wire::cancel(house.pgbaton.address(), stream.pid, &stream.secret);
    assert_eq!(stream.receive_reply().unwrap().error.unwrap().code(), "57014");
    house.pgbaton.signal(Signal::TERM);
    assert_eq!(stream.expect_error().code(), "57P01");
    stream.expect_closed();
    assert!(house.pgbaton.wait_for_end(PATIENCE).success());
}

#[test]
fn what_a_replication_login_may_not_be() {
    let house = House::open(1);
    let login = house.login().parameter("replication", "perhaps");
    let refused = |login: &Login| match Wire::try_login(house.pgbaton.address(), login) {
        Err(wire::WireError::Server(error)) => error.code().to_owned(),
        other => panic!("{:?}", other.err()),
    };
    assert_eq!(refused(&login), "22023");
    let login = Login::new(SUPERUSER, "unheard_of", "").parameter("replication", "database");
    assert_eq!(refused(&login), "3D000");
    let login = Login::new("unheard_of", &house.database, "").parameter("replication", "true");
    assert_eq!(refused(&login), "28000");
    // "false" is an ordinary session.
    let login = house.login().parameter("replication", "off");
    let mut plain = Wire::login(house.pgbaton.address(), &login);
    assert_eq!(plain.query_error("IDENTIFY_SYSTEM").code(), "42601");
}

#[test]
fn a_base_backup_with_its_wal_comes_through_whole() {
    let house = House::open(2);
    house.client().query("create table t as select generate_series(1, 100000) as n");
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let program =
        |name: &'static str| Command::new(Installation::find(None).unwrap().program(name).unwrap());
    let output = program("pg_basebackup")
        .args(["-h", "127.0.0.1", "-U", SUPERUSER, "-X", "stream", "-c", "fast", "-p"])
        .arg(house.pgbaton.address().port().to_string())
        .arg("-D")
        .arg(&backup)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // PostgreSQL's own judgement of what came.
    let verified = program("pg_verifybackup").arg(&backup).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let idle = || {
        let now = counts(&house.pgbaton, "replication", SUPERUSER);
        (now.cl_active, now.sv_active) == (0, 0)
    };
    assert!(eventually(PATIENCE, idle));
}
