//! Servers that are absent, refuse, stall, lie or die: clients are told the truth, those who can
//! wait are served later, and no slot is lost. The names V and F with a number are those of the
//! project's table of faults.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::free_port;

use crate::stage::{Counts, PATIENCE, Stage, console, counts, show};
use crate::support::fake_postgres::{self, Event, FakePostgres, Step, login_reply};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, PASSWORD, PASSWORD_DATABASE, Postgres, SCRAM_DATABASE, SCRAM_ROLE,
    SUPERUSER, TRUST_DATABASE,
};
use crate::support::wire::{self, ErrorFields, Login, Wire, WireError, message};

const USER: &str = "somebody";

/// A pgbaton whose database `app` is at this address, with a pool of one.
fn before(server: SocketAddr) -> Pgbaton {
    before_with(server, |config| config)
}

fn before_with(server: SocketAddr, tune: impl FnOnce(Config) -> Config) -> Pgbaton {
    let config = Config::new().database_at("app", server, "pool_size = 1");
    Pgbaton::start(&tune(config))
}

fn login() -> Login {
    Login::new(USER, "app", "")
}

fn client(pgbaton: &Pgbaton) -> Wire {
    Wire::login(pgbaton.address(), &login())
}

/// The FATAL error that refuses a login.
fn refused(pgbaton: &Pgbaton) -> ErrorFields {
    match Wire::try_login(pgbaton.address(), &login()) {
        Err(WireError::Server(error)) => {
            assert_eq!(error.severity(), "FATAL", "{error:?}");
            error
        }
        other => panic!("not refused: {:?}", other.err()),
    }
}

/// The FATAL error that ends a session in place of a reply.
fn broken(client: &mut Wire, sql: &str) -> ErrorFields {
    match client.try_query(sql) {
        Err(WireError::Server(error)) => {
            assert_eq!(error.severity(), "FATAL", "{error:?}");
            error
        }
        other => panic!("{sql}: not broken but {other:?}"),
    }
}

fn wait_for_counts(pgbaton: &Pgbaton, user: &str, database: &str, expected: &Counts) {
    let right = eventually(PATIENCE, || counts(pgbaton, database, user) == *expected);
    assert!(
        right,
        "not {expected:?} but {:?}; log:\n{}",
        counts(pgbaton, database, user),
        pgbaton.log()
    );
}

/// Nothing is under way, and so many clients and servers are there.
fn assert_idle(pgbaton: &mut Pgbaton, clients: usize, servers: usize) {
    let expected = Counts { cl_active: clients, sv_idle: servers, ..Counts::default() };
    wait_for_counts(pgbaton, USER, "app", &expected);
    assert!(pgbaton.is_running());
    assert!(!pgbaton.log().contains("panicked"), "{}", pgbaton.log());
}

fn refusing(code: &str, text: &str) -> Vec<Step> {
    let error = fake_postgres::error("FATAL", code, text);
    vec![Step::Startup, Step::Send(error), Step::Close]
}

fn serving() -> Vec<Step> {
    vec![Step::Login, Step::Serve]
}

/// Answers one query and then closes.
fn serving_once() -> Vec<Step> {
    vec![Step::Login, Step::Expect(b'Q'), Step::Send(fake_postgres::idle_reply(b'Q')), Step::Close]
}

// --- absent and refusing servers ---

#[test]
fn v05_an_absent_server_is_reported() {
    let absent = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let mut pgbaton = before(absent);
    for _ in 0..3 {
        let error = refused(&pgbaton);
        assert_eq!(error.code(), "08006", "{error:?}");
        assert!(error.message().contains("connect failed"), "{error:?}");
    }
    assert_idle(&mut pgbaton, 0, 0);
}

#[test]
fn v05_a_server_that_comes_back_is_used_at_once() {
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().database(TRUST_DATABASE, &postgres, "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    postgres.stop();
    match Wire::try_login(pgbaton.address(), &login) {
        Err(WireError::Server(error)) => assert_eq!(error.code(), "08006", "{error:?}"),
        other => panic!("{:?}", other.err()),
    }
    postgres.begin();
    // server_login_retry is fifteen seconds, which is not for this case.
    let back = eventually(PATIENCE, || Wire::try_login(pgbaton.address(), &login).is_ok());
    assert!(back, "{}", pgbaton.log());
}

#[test]
fn v06_a_refusal_at_the_login_is_passed_on_with_its_code() {
    for (code, text) in [
        ("57P03", "the database system is starting up"),
        ("53300", "sorry, too many clients already"),
        ("28P01", "password authentication failed for user \"somebody\""),
        ("28000", "role \"somebody\" does not exist"),
        ("3D000", "database \"app\" does not exist"),
    ] {
        let fake = FakePostgres::start(vec![refusing(code, text)]);
        let mut pgbaton = before(fake.address());
        let error = refused(&pgbaton);
        assert_eq!((error.code(), error.message()), (code, text), "{error:?}");
        assert!(fake.connections() >= 1);
        assert_idle(&mut pgbaton, 0, 0);
    }
}

#[test]
fn v06_a_transient_refusal_of_the_next_server_is_waited_out() {
    for code in ["57P03", "53300"] {
        let fake = FakePostgres::start(vec![
            serving_once(),
            refusing(code, "not now"),
            refusing(code, "not yet"),
            serving(),
        ]);
        let mut pgbaton = before(fake.address());
        let mut client = client(&pgbaton);
        assert_eq!(client.query("first").tags, ["SELECT 0"]);
        assert_idle(&mut pgbaton, 1, 0);
        assert_eq!(client.query("second").tags, ["SELECT 0"], "{code}");
        assert_eq!(fake.connections(), 4);
        assert_eq!(fake.queries(3), ["second"]);
        assert_idle(&mut pgbaton, 1, 1);
    }
}

#[test]
fn v06_a_lasting_refusal_of_the_next_server_is_told_to_all_who_wait() {
    let text = "password authentication failed for user \"somebody\"";
    let fake = FakePostgres::start(vec![
        vec![Step::Login, Step::Expect(b'Q'), Step::Expect(b'Q'), Step::Close],
        refusing("28P01", text),
    ]);
    let pgbaton = before(fake.address());
    let mut holder = client(&pgbaton);
    holder.send(&wire::query("held"));
    fake.wait_for(|event| matches!(event, Event::Message(0, b'Q', _)));
    let mut waiting: Vec<Wire> = (0..5).map(|_| client(&pgbaton)).collect();
    for client in &mut waiting {
        client.send(&wire::query("waits"));
    }
    let expected = Counts { cl_active: 1, cl_waiting: 5, sv_active: 1, ..Counts::default() };
    wait_for_counts(&pgbaton, USER, "app", &expected);
    holder.send(&wire::query("the end"));
    assert_eq!(holder.expect_error().code(), "08006");
    for client in &mut waiting {
        let error = client.expect_error();
        assert_eq!((error.code(), error.message()), ("28P01", text), "{error:?}");
        client.expect_closed();
    }
}

#[test]
fn v06_a_lasting_refusal_is_remembered_and_the_server_left_alone() {
    let fake = FakePostgres::start(vec![refusing("28P01", "no"), serving()]);
    let pgbaton = before_with(fake.address(), |config| config.set("server_login_retry", "600"));
    for _ in 0..20 {
        assert_eq!(refused(&pgbaton).code(), "28P01");
    }
    assert_eq!(fake.connections(), 1, "asked again and again");
}

#[test]
fn v06_a_lasting_refusal_is_tried_again_after_server_login_retry() {
    let fake = FakePostgres::start(vec![refusing("28P01", "no"), serving()]);
    let pgbaton = before_with(fake.address(), |config| config.set("server_login_retry", "1"));
    assert_eq!(refused(&pgbaton).code(), "28P01");
    let let_in = eventually(PATIENCE, || Wire::try_login(pgbaton.address(), &login()).is_ok());
    assert!(let_in, "{}", pgbaton.log());
    assert_eq!(fake.connections(), 2);
}

#[test]
fn v05_a_crowd_that_waits_for_an_absent_server_does_not_storm_it() {
    let fake = FakePostgres::start(vec![serving_once(), refusing("57P03", "not yet")]);
    let mut pgbaton = before(fake.address());
    let mut first = client(&pgbaton);
    first.query("first");
    let mut waiting: Vec<Wire> = (0..50).map(|_| client(&pgbaton)).collect();
    assert_idle(&mut pgbaton, 51, 0);
    for client in &mut waiting {
        client.send(&wire::query("waits"));
    }
    // From the sixth attempt on the pauses are of half a second at least: time enough to see a
    // storm of fifty clients, if there were one.
    assert!(eventually(PATIENCE, || fake.connections() >= 6));
    assert!(fake.connections() <= 10, "{} attempts", fake.connections());
    assert_eq!(counts(&pgbaton, "app", USER).cl_waiting, 50);
}

// --- logins to servers ---

#[test]
fn every_login_method_of_a_server_is_answered() {
    let postgres = Postgres::shared();
    for (role, database) in [
        (SUPERUSER, TRUST_DATABASE),
        (SCRAM_ROLE, PASSWORD_DATABASE),
        (MD5_ROLE, MD5_DATABASE),
        (SCRAM_ROLE, MD5_DATABASE),
        (SCRAM_ROLE, SCRAM_DATABASE),
    ] {
        let password = format!("password = \"{PASSWORD}\"");
        let of_database =
            Config::new().database(database, postgres, &format!("user = \"{role}\"\n{password}"));
        let of_user = Config::new().database(database, postgres, "").user(role, &password);
        for (config, user) in [(of_database, "anybody"), (of_user, role)] {
            let pgbaton = Pgbaton::start(&config);
            let mut client = Wire::login(pgbaton.address(), &Login::new(user, database, ""));
            assert_eq!(client.query("select current_user").value(), role);
        }
    }
}

#[test]
fn a_wrong_or_missing_password_for_a_server_is_reported() {
    let postgres = Postgres::shared();
    for database in [PASSWORD_DATABASE, MD5_DATABASE, SCRAM_DATABASE] {
        for (password, code) in [("password = \"wrong\"", "28P01"), ("", "08006")] {
            let body = format!("user = \"{SCRAM_ROLE}\"\n{password}");
            let pgbaton = Pgbaton::start(&Config::new().database(database, postgres, &body));
            match Wire::try_login(pgbaton.address(), &Login::new("x", database, "")) {
                Err(WireError::Server(error)) => {
                    assert_eq!((error.severity(), error.code()), ("FATAL", code), "{error:?}");
                    assert!(!error.message().contains("wrong"), "{error:?}");
                }
                other => panic!("{database}: {:?}", other.err()),
            }
            assert!(!pgbaton.log().contains("wrong"), "{}", pgbaton.log());
        }
    }
}

#[test]
fn v07_servers_that_stall_in_the_login_are_given_up_after_server_connect_timeout() {
    let some = login_reply(1, &[1, 2, 3, 4]);
    for script in [
        vec![Step::Stall],
        vec![Step::Startup, Step::Stall],
        vec![Step::Startup, Step::Send(some[..4].to_vec()), Step::Stall],
        vec![Step::Startup, Step::Send(some[..some.len() - 1].to_vec()), Step::Stall],
        // A byte now and then does not start the time anew.
        vec![Step::Startup, Step::Trickle(some, 1, Duration::from_millis(100)), Step::Stall],
    ] {
        let stalling = FakePostgres::start(vec![script, serving()]);
        let healthy = FakePostgres::serving();
        let pgbaton = before_with(stalling.address(), |config| {
            config.set("server_connect_timeout", "1").database_at(
                "well",
                healthy.address(),
                "pool_size = 1",
            )
        });
        let mut stuck = Wire::connect(pgbaton.address());
        stuck.send_startup(&login()).unwrap();
        let began = Instant::now();
        let mut other = Wire::login(pgbaton.address(), &Login::new(USER, "well", ""));
        assert_eq!(other.query("unharmed").tags, ["SELECT 0"]);
        let error = stuck.expect_error();
        assert!(began.elapsed() > Duration::from_millis(500), "given up at once");
        assert_eq!(error.code(), "08006", "{error:?}");
        stuck.expect_closed();
        let let_in = eventually(PATIENCE, || Wire::try_login(pgbaton.address(), &login()).is_ok());
        assert!(let_in, "{}", pgbaton.log());
    }
}

#[test]
fn f18_servers_that_talk_nonsense_in_the_login_are_refused() {
    let ok = message(b'R', &0_i32.to_be_bytes());
    let sasl = message(b'R', &[&10_i32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat());
    for (bytes, what) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "HTTP"),
        (b"R\xff\xff\xff\xff".to_vec(), "a negative length"),
        (b"R\x7f\xff\xff\xff".to_vec(), "a huge length"),
        (b"R\0\0\0\x03".to_vec(), "a length below four"),
        (message(b'R', b""), "no method"),
        (message(b'R', &7_i32.to_be_bytes()), "GSSAPI"),
        (message(b'R', &99_i32.to_be_bytes()), "an unknown method"),
        (message(b'D', b"\0\0"), "a row"),
        (message(b'?', b""), "an unknown message"),
        (message(b'E', b""), "an empty error"),
        (message(b'E', b"Snothing\0"), "an endless error"),
        (fake_postgres::ready(b'I'), "ReadyForQuery before the login"),
        ([ok.clone(), message(b'Z', b"")].concat(), "ReadyForQuery without status"),
        ([ok.clone(), message(b'K', b"\0")].concat(), "half a key"),
        ([ok.clone(), message(b'S', b"name")].concat(), "half a parameter"),
        ([ok.clone(), message(b'D', b"\0\0")].concat(), "a row after the login"),
        ([sasl, ok].concat(), "AuthenticationOk without a proof"),
    ] {
        let script = vec![Step::Startup, Step::Send(bytes), Step::Stall];
        let fake = FakePostgres::start(vec![script]);
        let mut pgbaton =
            before_with(fake.address(), |config| config.user(USER, "password = \"secret\""));
        let error = refused(&pgbaton);
        // Of an error that cannot be read nothing can be passed on.
        assert!(matches!(error.code(), "08006" | "XX000"), "{what}: {error:?}");
        assert_idle(&mut pgbaton, 0, 0);
    }
}

// --- servers that die or lie in a session ---

/// RowDescription of one text column, two rows, CommandComplete, ReadyForQuery.
fn whole_reply() -> Vec<u8> {
    let column = b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
    [
        message(b'T', column),
        fake_postgres::data_row(&["first"]),
        fake_postgres::data_row(&["second"]),
        fake_postgres::command_complete("SELECT 2"),
        fake_postgres::ready(b'I'),
    ]
    .concat()
}

#[test]
fn v03_a_server_that_dies_after_any_byte_of_its_reply_gives_an_error_and_no_false_end() {
    let reply = whole_reply();
    let dying = |k: usize| {
        let end = if k.is_multiple_of(2) { Step::Close } else { Step::Reset };
        // A reset throws away what was not read yet: the pause lets it be read.
        let pause = Step::Pause(Duration::from_millis(5));
        let part = Step::Send(reply[..k].to_vec());
        vec![Step::Login, Step::Expect(b'Q'), part, pause, end]
    };
    let mut scripts: Vec<_> = (0..reply.len()).map(dying).collect();
    scripts.push(serving());
    let fake = FakePostgres::start(scripts);
    let mut pgbaton = before(fake.address());
    let mut told = 0;
    for k in 0..reply.len() {
        let mut client = client(&pgbaton);
        client.send(&wire::query("select"));
        let mut got = Vec::new();
        while let Ok(byte) = client.receive_byte() {
            got.push(byte);
        }
        // Once half a message has gone out nothing more can be said: an error then would be taken
        // for the rest of it.
        if reply[..k] == got {
            assert!(!wire::boundaries(&reply).contains(&k), "after {k} bytes: no word");
            continue;
        }
        let whole = wire::boundaries(&reply).into_iter().rfind(|end| *end <= k).unwrap();
        assert_eq!(got[..whole], reply[..whole], "after {k} bytes");
        let error = &got[whole..];
        assert_eq!(error[0], b'E', "after {k} bytes: {}", got.escape_ascii());
        let fields = ErrorFields::parse(&error[5..]);
        assert_eq!((fields.severity(), fields.code()), ("FATAL", "08006"), "{fields:?}");
        told += 1;
    }
    assert!(told >= wire::boundaries(&reply).len() - 1, "told {told} times");
    let mut last = client(&pgbaton);
    assert_eq!(last.query("select").tags, ["SELECT 0"]);
    assert_eq!(fake.connections(), reply.len() + 1);
    assert_idle(&mut pgbaton, 1, 1);
}

#[test]
fn f18_servers_that_talk_nonsense_in_a_reply_are_closed() {
    let row = fake_postgres::data_row(&["x"]);
    let done = fake_postgres::idle_reply(b'Q');
    for (bytes, what) in [
        (b"D\xff\xff\xff\xff".to_vec(), "a negative length"),
        (b"D\x7f\xff\xff\xff".to_vec(), "a huge length"),
        (b"D\0\0\0\x03".to_vec(), "a length below four"),
        (b"Z\0\0\0\x06II".to_vec(), "a long ReadyForQuery"),
        (message(b'Z', b"?"), "an unknown status"),
        (message(b'?', b"xxxx"), "an unknown message"),
        (message(b'R', &0_i32.to_be_bytes()), "AuthenticationOk"),
        ([done.clone(), row.clone()].concat(), "a row behind the end"),
        ([done.clone(), done].concat(), "two ends"),
        (message(b'1', b""), "ParseComplete for a Query"),
    ] {
        let script = vec![Step::Login, Step::Expect(b'Q'), Step::Send(bytes), Step::Drain];
        let fake = FakePostgres::start(vec![script, serving()]);
        let mut pgbaton = before(fake.address());
        let mut client_ = client(&pgbaton);
        client_.send(&wire::query("select"));
        fake.wait_for(|event| *event == Event::Gone(0));
        // It was told so, or had its answer before the nonsense came.
        let mut last = None;
        while let Ok(message) = client_.receive() {
            last = Some(message.tag);
            if last == Some(b'Z') || last == Some(b'E') {
                break;
            }
        }
        assert!(matches!(last, Some(b'Z' | b'E')), "{what}: {last:?}");
        drop(client_);
        assert_eq!(client(&pgbaton).query("next").tags, ["SELECT 0"], "{what}");
        assert_idle(&mut pgbaton, 0, 1);
        assert_eq!(fake.queries(1), ["next"], "{what}");
    }
}

#[test]
fn f18_an_error_without_a_code_reaches_its_client_and_the_session_goes_on() {
    let script = vec![
        Step::Login,
        Step::Expect(b'Q'),
        Step::Send([message(b'E', b"SERROR\0Mbare\0\0"), fake_postgres::ready(b'I')].concat()),
        Step::Serve,
    ];
    let fake = FakePostgres::start(vec![script]);
    let mut pgbaton = before(fake.address());
    let mut client = client(&pgbaton);
    assert_eq!(client.query_error("select").message(), "bare");
    assert_eq!(client.query("next").tags, ["SELECT 0"]);
    assert_idle(&mut pgbaton, 1, 1);
}

#[test]
fn f17_what_an_idle_server_says_is_nobodys_answer() {
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mpsst\0\0");
    let parameter = message(b'S', b"application_name\0other\0");
    let notification = message(b'A', b"\0\0\0\x07channel\0payload\0");
    for unsolicited in [
        notice.clone(),
        parameter.clone(),
        notification.clone(),
        [notice, parameter, notification].concat().repeat(50),
    ] {
        let fake = FakePostgres::start(vec![vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Pause(Duration::from_millis(20)),
            Step::Send(unsolicited),
            Step::Serve,
        ]]);
        let mut pgbaton = before(fake.address());
        let mut first = client(&pgbaton);
        first.query("first");
        first.expect_silence(Duration::from_millis(60));
        let mut second = client(&pgbaton);
        second.send(&wire::query("second"));
        let messages = second.receive_until_ready().unwrap();
        assert_eq!(wire::tags(&messages), "CZ", "{messages:?}");
        assert_eq!(fake.connections(), 1);
        assert_idle(&mut pgbaton, 2, 1);
    }
}

#[test]
fn v01_an_idle_server_that_dies_is_gone_at_once_and_nobody_notices() {
    let fatal = fake_postgres::error("FATAL", "57P01", "terminating connection");
    for last_words in [
        Vec::new(),
        fatal,
        b"Z\xff\xff\xff\xff".to_vec(),
        message(b'?', b""),
        fake_postgres::data_row(&["unasked"]),
        fake_postgres::ready(b'I'),
    ] {
        // What only talks nonsense and stays must be closed by pgbaton.
        let stays = !last_words.is_empty() && last_words[0] != b'E';
        let mut script = vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Pause(Duration::from_millis(20)),
            Step::Send(last_words.clone()),
        ];
        script.push(if stays { Step::Drain } else { Step::Close });
        let fake = FakePostgres::start(vec![script, serving()]);
        let mut pgbaton = before(fake.address());
        let mut client = client(&pgbaton);
        client.query("first");
        // Nobody asks for a server meanwhile.
        assert_idle(&mut pgbaton, 1, 0);
        assert!(show(&pgbaton, "SERVERS").is_empty());
        assert_eq!(client.query("second").tags, ["SELECT 0"], "{}", last_words.escape_ascii());
        assert_eq!(fake.connections(), 2);
    }
}

// --- a real server restarted ---

#[test]
fn v01_a_restart_is_not_noticed_by_idle_clients() {
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().database(TRUST_DATABASE, &postgres, "pool_size = 3");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    let mut clients: Vec<Wire> = (0..6).map(|_| Wire::login(pgbaton.address(), &login)).collect();
    for client in &mut clients {
        client.send(&wire::query("select pg_sleep(0.01)"));
    }
    for client in &mut clients {
        assert!(client.receive_reply().unwrap().error.is_none());
    }
    let servers = |pgbaton: &Pgbaton| counts(pgbaton, TRUST_DATABASE, SUPERUSER).sv_idle;
    assert!(eventually(PATIENCE, || servers(&pgbaton) >= 1));
    postgres.stop();
    assert!(eventually(PATIENCE, || servers(&pgbaton) == 0), "{}", pgbaton.log());
    postgres.begin();
    for client in &mut clients {
        assert_eq!(client.query("select 'still here'").value(), "still here");
    }
}

#[test]
fn v01_a_crash_is_not_noticed_by_idle_clients() {
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().database(TRUST_DATABASE, &postgres, "pool_size = 3");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    let mut client = Wire::login(pgbaton.address(), &login);
    client.query("select 1");
    postgres.crash();
    postgres.begin();
    assert_eq!(client.query("select 'still here'").value(), "still here");
}

#[test]
fn v05_all_who_wait_while_the_server_is_away_are_served_when_it_is_back() {
    const CLIENTS: usize = 500;
    let mut postgres = Postgres::start(&[]);
    let config = Config::new().set("max_client_conn", "600").database(
        TRUST_DATABASE,
        &postgres,
        "pool_size = 4",
    );
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    let mut clients: Vec<Wire> =
        (0..CLIENTS).map(|_| Wire::login(pgbaton.address(), &login)).collect();
    postgres.stop();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&wire::query(&format!("select {n}")));
    }
    let all_wait = || counts(&pgbaton, TRUST_DATABASE, SUPERUSER).cl_waiting >= CLIENTS - 4;
    assert!(eventually(PATIENCE, all_wait), "{:?}", counts(&pgbaton, TRUST_DATABASE, SUPERUSER));
    // Nobody comes any more whose arrival could set things going.
    postgres.begin();
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = client.receive_reply();
        let reply = reply.unwrap_or_else(|e| panic!("client {n}: {e:?}\n{}", pgbaton.log()));
        assert_eq!(reply.value(), n.to_string());
    }
    let expected = counts(&pgbaton, TRUST_DATABASE, SUPERUSER);
    assert_eq!((expected.cl_active, expected.cl_waiting), (CLIENTS, 0), "{expected:?}");
    assert!((1..=4).contains(&expected.sv_idle), "{expected:?}");
}

#[test]
fn v02_a_server_killed_in_a_transaction_ends_its_client_and_the_transaction_goes_on_nowhere() {
    let mut stage = Stage::open(2);
    stage.sql("create table t (n int)");
    let mut other = stage.client();
    other.query("select 1");
    let mut client = stage.client();
    client.query("begin; insert into t values (1)");
    let backend = client.query("select pg_backend_pid()").value().to_owned();
    stage.sql(&format!("select pg_terminate_backend({backend})"));
    let error = client.expect_error();
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error:?}");
    client.expect_closed();
    assert_eq!(other.query("select 'unharmed'").value(), "unharmed");
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(1);
}

#[test]
fn v03_a_server_killed_in_a_query_ends_its_client_with_the_servers_words() {
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    stage.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' \
         and pid <> pg_backend_pid()",
    );
    client.expect(b'T');
    assert_eq!(client.expect_error().code(), "57P01");
    client.expect_closed();
    stage.assert_settled(0);
}

#[test]
fn v03_a_server_killed_in_copy_in_does_not_acknowledge_it() {
    let mut stage = Stage::open(1);
    stage.sql("create table t (n int)");
    let mut client = stage.client();
    client.send(&wire::query("copy t from stdin"));
    client.expect(b'G');
    client.send(&message(b'd', b"1\n"));
    stage.wait_until_runs("copy t from stdin");
    let backend = stage.backends()[0];
    stage.sql(&format!("select pg_terminate_backend({backend})"));
    let error = client.expect_error();
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error:?}");
    client.expect_closed();
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(0);
}

#[test]
fn the_console_answers_while_no_server_does() {
    let absent = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let pgbaton = before(absent);
    assert_eq!(refused(&pgbaton).code(), "08006");
    let version = console(&pgbaton).query("show version").value().to_owned();
    assert!(version.starts_with("pgbaton "), "{version}");
}

#[test]
fn a_session_whose_server_breaks_is_told_once_and_a_new_one_is_served() {
    let fake =
        FakePostgres::start(vec![vec![Step::Login, Step::Expect(b'Q'), Step::Reset], serving()]);
    let mut pgbaton = before(fake.address());
    let mut first = client(&pgbaton);
    assert_eq!(broken(&mut first, "select").code(), "08006");
    assert_eq!(client(&pgbaton).query("next").tags, ["SELECT 0"]);
    assert_idle(&mut pgbaton, 0, 1);
}
