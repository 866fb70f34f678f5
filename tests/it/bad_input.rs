//! Clients whose bytes make no sense, before, during and after the login. Each is told the right
//! SQLSTATE, where anything can be said, and closed at once where the protocol is broken; nobody
//! else notices. The names S, A and F with a number are those of the project's table of faults.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use crate::stage::Stage;
use crate::support::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::support::wire::{
    self, ErrorFields, Login, Message, PROTOCOL_3_0, Wire, WireError, message, with_length,
};

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
/// Requests of an ordinary session.
const FRONTEND: &[u8] = b"BCDEFHPQSXcdf";

/// A stage whose clients log in by this method; the superuser's password is [`PASSWORD`].
fn stage_of(auth_type: &str) -> Stage {
    Stage::with(2, |config| {
        let password = format!("password = \"{PASSWORD}\"");
        config
            .set("auth_type", &format!("\"{auth_type}\""))
            .user(SUPERUSER, &password)
            .user("pgbaton", &password)
    })
}

fn login_of(stage: &Stage) -> Login {
    Login::new(SUPERUSER, &stage.database, PASSWORD)
}

/// Reads to the end of the connection, which must come by itself and soon: the limit for logins is
/// a minute, and reads wait for a third of that. Returns the error that came before it, if any.
fn refusal(wire: &mut Wire) -> Option<ErrorFields> {
    let mut told = None;
    loop {
        match wire.receive() {
            Ok(Message { tag: b'E', body }) => {
                assert!(told.is_none(), "told twice: {told:?}");
                told = Some(ErrorFields::parse(&body));
            }
            Ok(Message { tag: b'v' | b'N', .. }) => {}
            Ok(other) => panic!("neither told nor closed but {other:?}"),
            Err(WireError::Closed) => return told,
            Err(WireError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                return told;
            }
            Err(e) => panic!("neither told nor closed but {e:?}"),
        }
    }
}

/// [`refusal`], which must be a FATAL error with one of these codes.
fn assert_fatal(wire: &mut Wire, codes: &[&str], what: &str) -> ErrorFields {
    let error = refusal(wire).unwrap_or_else(|| panic!("{what}: closed without a word"));
    assert_eq!(error.severity(), "FATAL", "{what}: {error:?}");
    assert!(codes.contains(&error.code()), "{what}: {error:?}");
    error
}

/// Sends bytes that the peer may refuse before it has taken them all.
fn send_refused(wire: &mut Wire, bytes: &[u8]) {
    match wire.try_send(bytes) {
        Ok(()) => {}
        Err(WireError::Io(e)) => assert!(
            matches!(
                e.kind(),
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
            ),
            "{e}"
        ),
        Err(e) => panic!("{e:?}"),
    }
}

fn startup(version: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    with_length(&body)
}

fn code_packet(code: i32) -> Vec<u8> {
    with_length(&code.to_be_bytes())
}

fn own_startup(stage: &Stage) -> Vec<u8> {
    startup(PROTOCOL_3_0, &[("user", SUPERUSER), ("database", &stage.database)])
}

// --- before the login ---

#[test]
fn s01_s02_impossible_lengths_of_the_first_packet_close_at_once() {
    let mut stage = Stage::open(1);
    let rss = stage.pgbaton.rss_bytes();
    for length in [0, 1, 2, 3, 4, 5, 6, 7, 10_001, 1 << 30, i32::MAX, -1, i32::MIN] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&length.to_be_bytes());
        if let Some(error) = refusal(&mut wire) {
            assert_eq!(error.code(), "08P01", "length {length}: {error:?}");
        }
    }
    stage.assert_settled(0);
    let growth = stage.pgbaton.rss_bytes().saturating_sub(rss);
    assert!(growth < 64 << 20, "grew by {growth} bytes for claims alone");
}

#[test]
fn s05_other_protocol_versions_are_refused() {
    let mut stage = Stage::open(1);
    for version in [0, 1 << 16, 2 << 16, 4 << 16, 9999 << 16, -1] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&startup(version, &[("user", SUPERUSER), ("database", &stage.database)]));
        assert_fatal(&mut wire, &["0A000", "08P01"], &format!("version {version}"));
    }
    stage.assert_settled(0);
}

#[test]
fn s06_newer_minor_versions_and_protocol_options_are_negotiated() {
    let mut stage = Stage::open(1);
    for (version, option) in [(3 << 16 | 9999, None), (PROTOCOL_3_0, Some("_pq_.future"))] {
        let mut parameters = vec![("user", SUPERUSER), ("database", &stage.database)];
        parameters.extend(option.map(|name| (name, "1")));
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&startup(version, &parameters));
        let body = wire.expect(b'v');
        let minor = i32::from_be_bytes(body[..4].try_into().unwrap());
        // The newest version that is spoken, or the one asked for: never more.
        assert!(minor & 0xffff <= 2, "{body:?}");
        assert_eq!(body[7], u8::from(option.is_some()), "{body:?}");
        if let Some(option) = option {
            assert_eq!(body[8..], [option.as_bytes(), b"\0"].concat());
        }
        wire.authenticate(&stage.login()).unwrap();
        assert_eq!(wire.query("select 'in'").value(), "in");
    }
    stage.assert_settled(0);
}

#[test]
fn s07_a_startup_packet_without_a_user_or_of_a_broken_layout_is_refused() {
    let mut stage = Stage::open(1);
    let database = stage.database.clone();
    let mut no_value = PROTOCOL_3_0.to_be_bytes().to_vec();
    no_value.extend(b"user\0tester\0database\0");
    let mut no_end = PROTOCOL_3_0.to_be_bytes().to_vec();
    no_end.extend(b"user\0tester\0");
    let mut behind_the_end = PROTOCOL_3_0.to_be_bytes().to_vec();
    behind_the_end.extend(b"user\0tester\0\0more");
    for (packet, codes, what) in [
        (startup(PROTOCOL_3_0, &[]), &["28000"][..], "nothing"),
        (startup(PROTOCOL_3_0, &[("database", &database)]), &["28000"], "no user"),
        (startup(PROTOCOL_3_0, &[("user", ""), ("database", &database)]), &["28000"], "empty user"),
        (with_length(&no_value), &["08P01"], "a name without a value"),
        (with_length(&no_end), &["08P01"], "no terminator"),
        (with_length(&behind_the_end), &["08P01"], "bytes behind the end"),
        (with_length(&PROTOCOL_3_0.to_be_bytes()), &["08P01"], "no body"),
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&packet);
        assert_fatal(&mut wire, codes, what);
    }
    stage.assert_settled(0);
}

#[test]
fn s07_long_unknown_and_strange_names_are_refused() {
    let mut stage = Stage::open(1);
    let long = "x".repeat(9_000);
    let database = stage.database.clone();
    for (user, database, codes) in [
        (long.as_str(), database.as_str(), &["28000", "28P01"][..]),
        (SUPERUSER, long.as_str(), &["3D000"]),
        (SUPERUSER, "nowhere", &["3D000"]),
        (SUPERUSER, "../../etc/passwd", &["3D000"]),
        ("'; drop table t; --", database.as_str(), &["28000", "28P01"]),
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&startup(PROTOCOL_3_0, &[("user", user), ("database", database)]));
        assert_fatal(&mut wire, codes, &format!("{user:.20} in {database:.20}"));
    }
    stage.assert_settled(0);
}

#[test]
fn s08_settings_of_the_startup_packet_are_intact_or_refused_and_never_sql() {
    let mut stage = Stage::open(1);
    stage.sql("create table t (n int)");
    let strange = r#"it's "quoted" \ back; drop table t; --"#;
    let login = stage.login().parameter("application_name", strange);
    let mut client = Wire::login(stage.pgbaton.address(), &login);
    assert_eq!(client.query("show application_name").value(), strange);
    client.send(&wire::terminate());
    for (name, value, codes) in [
        ("TimeZone", "Nowhere/At All", &["22023"][..]),
        ("DateStyle", "'; drop table t; --", &["22023"]),
        ("client_encoding", "KLINGON", &["22023"]),
        ("options", "-c work_mem", &["08P01"]),
        ("options", "--nonsense", &["08P01"]),
        ("no_such_setting", "1", &["42704", "08P01"]),
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send_startup(&stage.login().parameter(name, value)).unwrap();
        assert_fatal(&mut wire, codes, &format!("{name} = {value}"));
    }
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(0);
}

#[test]
fn s10_what_is_not_postgres_at_all_is_closed() {
    let mut stage = Stage::open(1);
    let random: Vec<u8> = (0..2_000_u32).map(|n| (n * 167 + 13) as u8 | 0x80).collect();
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: pgbaton\r\n\r\n".as_slice(),
        tls_hello,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &random,
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        send_refused(&mut wire, bytes);
        if let Some(error) = refusal(&mut wire) {
            assert_eq!(error.code(), "08P01", "{error:?}");
        }
    }
    stage.assert_settled(0);
}

#[test]
fn s11_s12_encryption_is_declined_and_the_login_goes_on() {
    let mut stage = Stage::open(1);
    for requests in [
        &[SSL_REQUEST][..],
        &[GSSENC_REQUEST],
        &[GSSENC_REQUEST, SSL_REQUEST],
        &[SSL_REQUEST, GSSENC_REQUEST],
    ] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        for request in requests {
            wire.send(&code_packet(*request));
            assert_eq!(wire.receive_byte().unwrap(), b'N');
        }
        wire.send_startup(&stage.login()).unwrap();
        wire.authenticate(&stage.login()).unwrap();
        assert_eq!(wire.query("select 'in'").value(), "in");
    }
    stage.assert_settled(0);
}

#[test]
fn s12_encryption_asked_for_again_and_again_is_closed() {
    let mut stage = Stage::open(1);
    let mut wire = Wire::connect(stage.pgbaton.address());
    let mut answers = 0;
    for _ in 0..1000 {
        send_refused(&mut wire, &code_packet(SSL_REQUEST));
        match wire.receive_byte() {
            Ok(b'N') => answers += 1,
            _ => break,
        }
    }
    assert!((1..1000).contains(&answers), "answered {answers} times");
    stage.assert_settled(0);
}

#[test]
fn s13_plaintext_behind_an_encryption_request_is_refused() {
    let mut stage = Stage::open(1);
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&[code_packet(request), own_startup(&stage)].concat());
        // An 'N' may come before it; the startup packet must not be taken.
        let first = wire.receive_byte().unwrap();
        assert!(matches!(first, b'E' | b'N'), "{first}");
        while wire.receive_byte().is_ok_and(|byte| byte != b'Z') {}
        assert!(matches!(wire.receive_byte(), Err(WireError::Closed | WireError::Io(_))));
    }
    assert!(!stage.pgbaton.log().contains("login attempt succeeded"));
    stage.assert_settled(0);
}

#[test]
fn s16_a_connection_lost_at_each_byte_of_the_startup_leaves_nothing() {
    let mut stage = Stage::open(1);
    stage.assert_settled(0);
    let files = stage.pgbaton.open_files();
    let packet = own_startup(&stage);
    for cut in 0..packet.len() {
        for reset in [false, true] {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&packet[..cut]);
            if reset {
                wire.reset();
            }
        }
    }
    stage.assert_settled(0);
    let back = crate::support::pgbaton::eventually(crate::stage::PATIENCE, || {
        stage.pgbaton.open_files() <= files
    });
    assert!(back, "{} open files, were {files}", stage.pgbaton.open_files());
}

#[test]
fn a_query_right_behind_the_startup_packet_is_answered() {
    let mut stage = Stage::open(1);
    let mut wire = Wire::connect(stage.pgbaton.address());
    wire.send(&[own_startup(&stage), wire::query("select 'eager'")].concat());
    wire.authenticate(&stage.login()).unwrap();
    assert_eq!(wire.receive_reply().unwrap().value(), "eager");
    drop(wire);
    stage.assert_settled(0);
}

// --- the login ---

#[test]
fn a01_a02_a03_every_method_tells_right_from_wrong() {
    for (auth_type, asked) in
        [("plain", &[3, 0][..]), ("md5", &[5, 0]), ("scram-sha-256", &[10, 11, 12, 0])]
    {
        let mut stage = stage_of(auth_type);
        let address = stage.pgbaton.address();
        let mut client = Wire::login(address, &login_of(&stage));
        assert_eq!(client.authentication, asked, "{auth_type}");
        assert_eq!(client.query("select current_user").value(), SUPERUSER);
        drop(client);
        let login = |user: &str, database: &str, password: &str| {
            let login = Login::new(user, database, password);
            let mut wire = Wire::connect(address);
            wire.send_startup(&login).unwrap();
            match wire.authenticate(&login) {
                Err(WireError::Server(error)) => {
                    wire.expect_closed();
                    (wire.authentication, error)
                }
                other => panic!("{auth_type}: {login:?} gives {other:?}"),
            }
        };
        let (of_wrong, wrong) = login(SUPERUSER, &stage.database, "wrong");
        let (of_unknown, unknown) = login("nobody", &stage.database, "wrong");
        let (_, empty) = login(SUPERUSER, &stage.database, "");
        for error in [&wrong, &unknown, &empty] {
            assert_eq!((error.severity(), error.code()), ("FATAL", "28P01"), "{error:?}");
        }
        assert_eq!(of_wrong, of_unknown, "{auth_type} tells who is unknown");
        assert_eq!(
            wrong.message().replace(SUPERUSER, "nobody"),
            unknown.message(),
            "{auth_type} tells who is unknown"
        );
        let (_, error) = login(SUPERUSER, "nowhere", "wrong");
        assert_eq!(error.code(), "28P01", "no word of databases before the login");
        let (_, error) = login(SUPERUSER, "nowhere", PASSWORD);
        assert_eq!((error.severity(), error.code()), ("FATAL", "3D000"), "{error:?}");
        stage.assert_settled_as(0, &login_of(&stage));
    }
}

#[test]
fn a01_trust_leaves_it_to_postgres_whether_there_is_such_a_role() {
    let mut stage = Stage::open(1);
    let login = Login::new("nobody", &stage.database, "");
    match Wire::try_login(stage.pgbaton.address(), &login) {
        Err(WireError::Server(error)) => {
            assert_eq!((error.severity(), error.code()), ("FATAL", "28000"), "{error:?}");
        }
        other => panic!("{:?}", other.err()),
    }
    stage.assert_settled(0);
}

#[test]
fn a02_an_unknown_users_salt_does_not_change() {
    let mut stage = stage_of("scram-sha-256");
    let salt = |user: &str| {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send_startup(&Login::new(user, &stage.database, "")).unwrap();
        wire.expect(b'R');
        wire.send(&sasl_initial(b"SCRAM-SHA-256", b"n,,n=,r=abcdefghijklmnopqrstuvwx"));
        let challenge = String::from_utf8(wire.expect(b'R')[4..].to_vec()).unwrap();
        let salt = challenge.split(',').nth(1).unwrap().to_owned();
        assert!(salt.starts_with("s="), "{challenge}");
        assert!(challenge.ends_with(",i=4096"), "{challenge}");
        salt
    };
    let nobodys = salt("nobody");
    assert_eq!(nobodys, salt("nobody"));
    assert_ne!(nobodys, salt("nobody else"));
    assert_eq!(salt(SUPERUSER), salt(SUPERUSER));
    assert_eq!(salt(SUPERUSER).len(), nobodys.len());
    stage.assert_settled_as(0, &login_of(&stage));
}

/// A connection that has just been asked for its password.
fn asked(stage: &Stage) -> Wire {
    let mut wire = Wire::connect(stage.pgbaton.address());
    wire.send_startup(&login_of(stage)).unwrap();
    wire.expect(b'R');
    wire
}

#[test]
fn a04_anything_but_a_password_is_refused() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let mut stage = stage_of(auth_type);
        for (bytes, what) in [
            (wire::query("select 1"), "Query"),
            (wire::sync(), "Sync"),
            (wire::terminate(), "Terminate"),
            (wire::parse("", "select 1"), "Parse"),
            (message(b'd', b"x"), "CopyData"),
            (message(0, b"x"), "NUL"),
            (own_startup(&stage), "a second startup packet"),
        ] {
            let mut wire = asked(&stage);
            wire.send(&bytes);
            let error = refusal(&mut wire);
            // Terminate may also be taken at its word.
            if let Some(error) = error {
                assert_eq!(
                    (error.severity(), error.code()),
                    ("FATAL", "08P01"),
                    "{auth_type}, {what}: {error:?}"
                );
            } else {
                assert_eq!(what, "Terminate", "{auth_type}: closed without a word");
            }
        }
        stage.assert_settled_as(0, &login_of(&stage));
    }
}

#[test]
fn a05_impossible_lengths_of_the_password_message_close_at_once() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let mut stage = stage_of(auth_type);
        for length in [0, 1, 2, 3, 70_000, 1 << 30, i32::MAX, -1, i32::MIN] {
            let mut wire = asked(&stage);
            wire.send(&[&b"p"[..], &length.to_be_bytes()].concat());
            assert_fatal(&mut wire, &["08P01"], &format!("{auth_type}, length {length}"));
        }
        stage.assert_settled_as(0, &login_of(&stage));
    }
}

#[test]
fn a05_password_messages_of_a_wrong_form_are_refused() {
    for auth_type in ["plain", "md5"] {
        let mut stage = stage_of(auth_type);
        for body in [
            &b""[..],
            b"\0",
            b"no end",
            b"sesame, open!",
            b"sesame, open!\0more\0",
            b"sesame, open!\0\0",
            b"md5\0",
            b"md500000000000000000000000000000000\0",
            &[b'x'; 60_000],
            b"\xff\xfe\xfd\0",
        ] {
            let mut wire = asked(&stage);
            wire.send(&message(b'p', body));
            let what = format!("{auth_type}, {:.40}", body.escape_ascii().to_string());
            assert_fatal(&mut wire, &["08P01", "28P01"], &what);
        }
        stage.assert_settled_as(0, &login_of(&stage));
    }
}

fn sasl_initial(mechanism: &[u8], first: &[u8]) -> Vec<u8> {
    sasl_initial_claiming(mechanism, i32::try_from(first.len()).unwrap(), first)
}

fn sasl_initial_claiming(mechanism: &[u8], length: i32, first: &[u8]) -> Vec<u8> {
    let body = [mechanism, b"\0", &length.to_be_bytes(), first].concat();
    message(b'p', &body)
}

#[test]
fn a06_malformed_sasl_initial_responses_are_refused() {
    let mut stage = stage_of("scram-sha-256");
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let mechanism = b"SCRAM-SHA-256";
    for (bytes, what) in [
        (sasl_initial_claiming(mechanism, -2, first), "length -2"),
        (sasl_initial_claiming(mechanism, i32::MIN, first), "the least length"),
        (sasl_initial_claiming(mechanism, i32::MAX, first), "the greatest length"),
        (sasl_initial_claiming(mechanism, 5, first), "too short a length"),
        (sasl_initial_claiming(mechanism, 100, first), "too long a length"),
        (sasl_initial_claiming(mechanism, -1, b""), "no response at all"),
        (message(b'p', b"SCRAM-SHA-256\0"), "no length"),
        (message(b'p', b"SCRAM-SHA-256"), "an endless mechanism"),
        (message(b'p', b""), "nothing"),
        (sasl_initial(b"", first), "an empty mechanism"),
        (sasl_initial(b"SCRAM-SHA-1", first), "an unknown mechanism"),
        (sasl_initial(b"SCRAM-SHA-256-PLUS", first), "PLUS without TLS"),
        (sasl_initial(&[b'S'; 5_000], first), "a long mechanism"),
    ] {
        let mut wire = asked(&stage);
        wire.send(&bytes);
        assert_fatal(&mut wire, &["08P01", "28000"], what);
    }
    stage.assert_settled_as(0, &login_of(&stage));
}

#[test]
fn a07_malformed_first_scram_messages_are_refused() {
    let mut stage = stage_of("scram-sha-256");
    let long = [&b"n,,n=,r="[..], &[b'x'; 20_000]].concat();
    for first in [
        &b""[..],
        b"garbage",
        b"n",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,r=abcdefghijklmnopqrstuvwx",
        b"n,a=admin,n=,r=abcdefghijklmnopqrstuvwx",
        b"y,,n=\0,r=abcdefghijklmnopqrstuvwx",
        b"n,,n=,r=abc\0def",
        b"n,,m=ext,n=,r=abcdefghijklmnopqrstuvwx",
        b"p=tls-unique,,n=,r=abcdefghijklmnopqrstuvwx",
        b"x,,n=,r=abcdefghijklmnopqrstuvwx",
        b"n,,n=,r=\xff\xff\xff\xff",
        &long,
    ] {
        let mut wire = asked(&stage);
        wire.send(&sasl_initial(b"SCRAM-SHA-256", first));
        let what = format!("{:.60}", first.escape_ascii().to_string());
        // A long nonce is not wrong as such; what follows it then is.
        if first.len() > 10_000 {
            wire.send(&message(b'p', b"c=biws,r=x,p=x"));
            let _ = wire.receive();
            continue;
        }
        assert_fatal(&mut wire, &["08P01", "28000", "28P01"], &what);
    }
    stage.assert_settled_as(0, &login_of(&stage));
}

#[test]
fn a08_malformed_final_scram_messages_are_refused() {
    let mut stage = stage_of("scram-sha-256");
    let nonce = "abcdefghijklmnopqrstuvwx";
    let proof = BASE64.encode([7; 32]);
    let short = BASE64.encode([7; 31]);
    // NONCE stands for the whole nonce.
    for last in [
        "",
        "garbage",
        "c=biws,r=NONCE",
        "c=biws,r=NONCE,p=",
        "c=biws,r=NONCE,p=!!!",
        &format!("c=biws,r=NONCE,p={short}"),
        &format!("c=biws,r=NONCE,p={proof}"),
        &format!("c=biws,r=NONCE,p={proof},x=more"),
        &format!("c=biws,r={nonce},p={proof}"),
        &format!("c=biws,r=wrong,p={proof}"),
        &format!("c=eSws,r=NONCE,p={proof}"),
        &format!("c=,r=NONCE,p={proof}"),
        &format!("r=NONCE,p={proof}"),
        &format!("c=biws\0,r=NONCE,p={proof}"),
        &format!("c=biws,r=NONCE,p={}", proof.repeat(200)),
    ] {
        let mut wire = asked(&stage);
        wire.send(&sasl_initial(b"SCRAM-SHA-256", format!("n,,n=,r={nonce}").as_bytes()));
        let challenge = String::from_utf8(wire.expect(b'R')[4..].to_vec()).unwrap();
        let whole = challenge.split(',').next().unwrap().strip_prefix("r=").unwrap();
        assert!(whole.len() >= nonce.len() + 18, "too short a nonce: {whole}");
        wire.send(&message(b'p', last.replace("NONCE", whole).as_bytes()));
        assert_fatal(&mut wire, &["28P01", "08P01"], &format!("{last:.60}"));
    }
    stage.assert_settled_as(0, &login_of(&stage));
}

#[test]
fn a09_a_replayed_scram_exchange_is_refused() {
    let mut stage = stage_of("scram-sha-256");
    let mut exchange = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
    let first = sasl_initial(b"SCRAM-SHA-256", exchange.message());
    let mut wire = asked(&stage);
    wire.send(&first);
    exchange.update(&wire.expect(b'R')[4..]).unwrap();
    let last = message(b'p', exchange.message());
    wire.send(&last);
    exchange.finish(&wire.expect(b'R')[4..]).unwrap();
    assert_eq!(wire.expect(b'R'), 0_i32.to_be_bytes(), "the first time it is right");
    drop(wire);
    let mut wire = asked(&stage);
    wire.send(&first);
    wire.expect(b'R');
    wire.send(&last);
    assert_fatal(&mut wire, &["28P01", "08P01"], "a replay");
    stage.assert_settled_as(0, &login_of(&stage));
}

// --- after the login ---

#[test]
fn f01_unknown_message_types_are_fatal() {
    let mut stage = Stage::open(1).watched();
    let mut before = stage.client();
    before.query("select 1");
    let strange = (0..=u8::MAX).filter(|tag| !FRONTEND.contains(tag) && *tag != b'F');
    for tag in strange {
        let mut client = stage.client();
        client.send(&message(tag, b"\0\0\0\0"));
        let what = format!("type {:?}", char::from(tag));
        assert_fatal(&mut client, &["08P01"], &what);
    }
    assert_eq!(before.query("select 'unharmed'").value(), "unharmed");
    stage.assert_settled(1);
}

#[test]
fn f01_f14_unknown_message_types_in_a_transaction_are_fatal_and_roll_it_back() {
    let mut stage = Stage::open(1).watched();
    stage.sql("create table t (n int)");
    for bytes in [
        message(b'?', b""),
        message(b'p', b"password\0"),
        message(b'Z', b"I"),
        message(b'T', b"\0\0"),
        own_startup(&stage),
        code_packet(SSL_REQUEST),
        with_length(&[80_877_102_i32.to_be_bytes(), [0; 4], [0; 4]].concat()),
    ] {
        let mut client = stage.client();
        client.query("begin; insert into t values (1)");
        client.send(&bytes);
        assert_fatal(&mut client, &["08P01"], &bytes.escape_ascii().to_string());
        stage.assert_settled(0);
        assert_eq!(stage.sql("select count(*) from t"), "0");
    }
}

#[test]
fn f02_impossible_lengths_are_fatal_for_every_type() {
    let mut stage = Stage::open(1).watched();
    let mut before = stage.client();
    before.query("select 1");
    for tag in FRONTEND {
        for length in [0, 1, 2, 3, -1, i32::MIN, i32::MAX] {
            let mut client = stage.client();
            client.send(&[&[*tag][..], &length.to_be_bytes()].concat());
            let what = format!("{:?} of length {length}", char::from(*tag));
            assert_fatal(&mut client, &["08P01"], &what);
        }
    }
    assert_eq!(before.query("select 'unharmed'").value(), "unharmed");
    stage.assert_settled(1);
}

#[test]
fn f02_impossible_lengths_behind_a_good_query_let_it_be_answered_first() {
    let mut stage = Stage::open(1).watched();
    for length in [3, -1] {
        let mut client = stage.client();
        let bad = [&b"Q"[..], &i32::to_be_bytes(length)].concat();
        client.send(&[wire::query("begin"), bad].concat());
        let mut messages = Vec::new();
        while let Ok(message) = client.receive() {
            messages.push(message);
        }
        let tags = wire::tags(&messages);
        assert!(tags == "CZE" || tags == "E", "{messages:?}");
        let error = ErrorFields::parse(&messages.last().unwrap().body);
        assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"), "{error:?}");
    }
    stage.assert_settled(0);
}

#[test]
fn f03_a_statement_too_long_to_be_kept_is_refused() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    client.send(&[&b"P"[..], &(1_i32 << 30).to_be_bytes()[..], b"s\0select 1"].concat());
    assert_fatal(&mut client, &["08P01", "54000"], "a Parse of a gigabyte");
    stage.assert_settled(0);
}

/// A client of pgbaton and one of PostgreSQL itself, for comparing.
fn both(stage: &Stage) -> [Wire; 2] {
    [stage.pgbaton.address(), Postgres::shared().address()]
        .map(|address: SocketAddr| Wire::login(address, &stage.login()))
}

/// What bytes and a Sync bring: message types and error codes up to the last ReadyForQuery, of
/// which so many must come.
fn outcome(client: &mut Wire, bytes: &[u8], ready: usize) -> Vec<String> {
    client.send(bytes);
    client.send(&wire::sync());
    let mut seen = Vec::new();
    for _ in 0..ready {
        loop {
            let message = client.receive();
            let message =
                message.unwrap_or_else(|e| panic!("{}: {seen:?}, {e:?}", bytes.escape_ascii()));
            seen.push(match message.tag {
                b'E' => ErrorFields::parse(&message.body).code().to_owned(),
                b'Z' => format!("Z{}", char::from(message.body[0])),
                tag => char::from(tag).to_string(),
            });
            if message.tag == b'Z' {
                break;
            }
        }
    }
    seen
}

/// Checks that bytes bring the same through pgbaton as from PostgreSQL, and that both sessions can
/// be used afterwards. Returns what they bring.
fn assert_same(stage: &Stage, bytes: &[u8], ready: usize) -> Vec<String> {
    let [mut through, mut direct] = both(stage);
    let expected = outcome(&mut direct, bytes, ready);
    assert_eq!(outcome(&mut through, bytes, ready), expected, "{}", bytes.escape_ascii());
    for mut client in [through, direct] {
        assert_eq!(client.query("select 'usable'").value(), "usable");
        client.send(&wire::terminate());
    }
    expected
}

#[test]
fn f04_f16_malformed_queries_get_the_servers_error() {
    let mut stage = Stage::open(1).watched();
    stage.sql("create table t (n int)");
    for body in [
        &b"select 1"[..],
        b"",
        b"insert into t values (1)\0drop table t\0",
        b"select 1\0\0",
        b"select '\xff\xfe'\0",
        b"\xc3\x28\0",
    ] {
        let seen = assert_same(&stage, &message(b'Q', body), 2);
        let code = &seen[0];
        assert!(code == "08P01" || code == "22021", "{seen:?}");
    }
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(0);
}

fn bind_claiming(parameters: u16, length: i32, value: &[u8]) -> Vec<u8> {
    let body = [&b"\0\0\0\0"[..], &parameters.to_be_bytes(), &length.to_be_bytes(), value, b"\0\0"];
    message(b'B', &body.concat())
}

#[test]
fn f05_messages_that_lie_about_their_contents_get_an_error_and_the_session_goes_on() {
    let mut stage = Stage::open(1).watched();
    let parse = wire::parse("", "select $1::text");
    for bytes in [
        message(b'P', b""),
        message(b'P', b"name"),
        message(b'P', b"name\0select 1"),
        message(b'P', b"name\0select 1\0"),
        message(b'P', b"name\0select 1\0\0\x02\0\0\0\x17"),
        message(b'P', b"name\0select 1\0\0\0more"),
        message(b'B', b""),
        message(b'B', b"portal"),
        message(b'B', b"\0\0"),
        message(b'B', b"\0\0\0\x05\0\0"),
        bind_claiming(1, -2, b"x"),
        bind_claiming(1, i32::MAX, b"x"),
        bind_claiming(1, 100, b"x"),
        bind_claiming(1, 1, b"xmore"),
        bind_claiming(3, 1, b"x"),
        bind_claiming(u16::MAX, 1, b"x"),
        message(b'D', b""),
        message(b'D', b"S"),
        message(b'D', b"Sname"),
        message(b'D', b"?name\0"),
        message(b'D', b"S\0more"),
        message(b'C', b""),
        message(b'C', b"S"),
        message(b'C', b"?name\0"),
        message(b'E', b""),
        message(b'E', b"portal"),
        message(b'E', b"\0\0\0"),
        message(b'E', b"\0\0\0\0\0more"),
    ] {
        let seen = assert_same(&stage, &[parse.clone(), bytes].concat(), 1);
        assert!(seen.len() > 1, "an error is expected: {seen:?}");
    }
    stage.assert_settled(0);
}

#[test]
fn f05_a_malformed_message_skips_to_sync_and_its_transaction_fails() {
    let mut stage = Stage::open(1).watched();
    let [mut through, mut direct] = both(&stage);
    let script = [
        message(b'P', b"s\0select 1"),
        wire::query("select 'skipped'"),
        wire::sync(),
        wire::query("select 'after'"),
    ]
    .concat();
    for client in [&mut through, &mut direct] {
        client.query("begin");
        let seen = outcome(client, &script, 3);
        assert_eq!(seen, ["08P01", "ZE", "25P02", "ZE", "ZE"], "{seen:?}");
        assert_eq!(client.query("rollback").status, b'I');
    }
    drop([through, direct]);
    stage.assert_settled(0);
}

#[test]
fn f06_f07_unknown_and_used_names_get_the_servers_error() {
    let mut stage = Stage::open(1).watched();
    for (bytes, code) in [
        (wire::bind("", "unknown", &[]), "26000"),
        (wire::describe(b'S', "unknown"), "26000"),
        (wire::describe(b'P', "unknown"), "34000"),
        (wire::execute("unknown", 0), "34000"),
        (wire::bind("", "", &[]), "26000"),
        ([wire::parse("s", "select 1"), wire::parse("s", "select 2")].concat(), "42P05"),
    ] {
        let seen = assert_same(&stage, &bytes, 1);
        assert!(seen.iter().any(|part| part == code), "{code}: {seen:?}");
    }
    stage.assert_settled(0);
}

/// FunctionCall of int4pl with this claim about its arguments, and their bytes.
fn call_claiming(arguments: u16, bytes: &[u8]) -> Vec<u8> {
    let body = [&177_u32.to_be_bytes()[..], b"\0\x01\0\x01", &arguments.to_be_bytes(), bytes];
    message(b'F', &body.concat())
}

#[test]
fn f15_function_calls_good_and_malformed_bring_what_they_bring_directly() {
    let mut stage = Stage::open(1).watched();
    let four = |n: i32| [4_i32.to_be_bytes(), n.to_be_bytes()].concat();
    let good = call_claiming(2, &[&four(40)[..], &four(2), b"\0\x01"].concat());
    assert_eq!(assert_same(&stage, &good, 2), ["V", "ZI", "ZI"]);
    for bytes in [
        message(b'F', b""),
        message(b'F', b"\0\0"),
        message(b'F', &[0xff; 40]),
        call_claiming(2, &[&four(1)[..], &four(2)].concat()),
        call_claiming(2, &[&four(1)[..], b"\0\x01"].concat()),
        call_claiming(u16::MAX, &four(1)),
        call_claiming(2, &[&four(1)[..], &(-2_i32).to_be_bytes(), b"\0\x01"].concat()),
        call_claiming(2, &[&four(1)[..], &i32::MAX.to_be_bytes(), b"xxxx\0\x01"].concat()),
        call_claiming(2, &[&four(1)[..], &four(2), b"\0\x01more"].concat()),
    ] {
        let seen = assert_same(&stage, &bytes, 2);
        assert!(seen.len() == 3 && seen[0].len() == 5, "an error is expected: {seen:?}");
        let within = [wire::query("begin"), bytes, wire::query("rollback")].concat();
        assert_eq!(assert_same(&stage, &within, 4)[3], "ZE");
    }
    stage.assert_settled(0);
}

#[test]
fn f12_messages_behind_an_impossible_length_are_never_executed() {
    let mut stage = Stage::open(1).watched();
    stage.sql("create table t (n int)");
    let hidden = wire::query("insert into t values (1)");
    let whole = u32::try_from(hidden.len()).unwrap() + 4;
    for tag in FRONTEND {
        // What a sender that counts in 32 bits makes of a length beyond them, and what a reader
        // makes of it that looks at too few of its bits.
        for length in [whole | 1 << 31, whole | 1 << 30, whole | 0xff << 24, u32::MAX, 0] {
            let mut client = stage.client();
            client.query("begin");
            let behind = [&[*tag][..], &length.to_be_bytes(), &hidden, &hidden].concat();
            send_refused(&mut client, &behind);
            assert_fatal(&mut client, &["08P01"], &format!("{:?} {length:x}", char::from(*tag)));
        }
    }
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(0);
}

#[test]
fn f12_messages_inside_a_value_are_data() {
    let mut stage = Stage::open(1).watched();
    stage.sql("create table t (n int)");
    let hidden = wire::query("insert into t values (1)");
    let text = String::from_utf8(hidden[5..hidden.len() - 1].to_vec()).unwrap();
    let mut client = stage.client();
    // The length word of the hidden message holds NULs: in text they cannot be sent at all.
    client.send(&wire::parse("", "select length($1::bytea)"));
    let mut body = b"\0\0\0\x01\0\x01\0\x01".to_vec();
    body.extend(u32::try_from(hidden.len()).unwrap().to_be_bytes());
    body.extend(&hidden);
    body.extend([0, 0]);
    client.send(&message(b'B', &body));
    client.send(&[wire::execute("", 0), wire::sync()].concat());
    let reply = client.receive_reply().unwrap();
    assert_eq!(reply.value(), hidden.len().to_string(), "{reply:?}");
    let reply = client.query(&format!("select $tag$Q\x01{text}$tag$"));
    assert_eq!(reply.value(), format!("Q\x01{text}"));
    drop(client);
    stage.assert_settled(0);
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn f13_copy_messages_outside_of_copy_are_ignored() {
    let mut stage = Stage::open(1).watched();
    for bytes in [
        message(b'd', b"1\n"),
        message(b'c', b""),
        message(b'f', b"no\0"),
        [message(b'd', &[b'x'; 200_000]), message(b'c', b"")].concat(),
    ] {
        let seen = assert_same(&stage, &bytes, 1);
        assert_eq!(seen, ["ZI"]);
        let within = [wire::query("begin"), bytes, wire::query("commit")].concat();
        let seen = assert_same(&stage, &within, 3);
        assert_eq!(seen, ["C", "ZT", "C", "ZI", "ZI"]);
    }
    stage.assert_settled(0);
}

#[test]
fn f11_a_flood_of_syncs_is_answered_one_by_one() {
    let mut stage = Stage::open(1).watched();
    let mut client = stage.client();
    client.send(&wire::sync().repeat(10_000));
    for _ in 0..10_000 {
        assert_eq!(client.expect_ready(), b'I');
    }
    client.expect_silence(Duration::from_millis(50));
    drop(client);
    stage.assert_settled(0);
}

// --- by chance ---

/// A whole session after the login.
fn good_session() -> Vec<u8> {
    [
        wire::query("select 1"),
        wire::query("begin; insert into t values (1)"),
        wire::parse("s", "select $1::int"),
        wire::bind("p", "s", &[Some("7")]),
        wire::describe(b'P', "p"),
        wire::execute("p", 0),
        wire::close(b'S', "s"),
        wire::sync(),
        wire::query("rollback"),
        wire::query("copy t from stdin"),
        message(b'd', b"1\n"),
        message(b'f', b"no\0"),
        wire::query("select nonsense"),
        wire::sync(),
    ]
    .concat()
}

#[test]
fn f20_mutated_sessions_harm_nobody() {
    const SESSIONS: usize = 300;
    let mut stage = Stage::with(3, |config| config.set("client_cleanup_timeout", "2")).watched();
    stage.sql("create table t (n int)");
    let mut before = stage.client();
    before.query("select 1");
    let mut chance = fastrand::Rng::with_seed(20_250_601);
    let mut refused = 0;
    for _ in 0..SESSIONS {
        let mut bytes = good_session();
        for _ in 0..=chance.usize(..3) {
            let at = chance.usize(..bytes.len());
            match chance.usize(..4) {
                0 => bytes[at] ^= 1 << chance.usize(..8),
                1 => drop(bytes.drain(at..(at + 1 + chance.usize(..8)).min(bytes.len()))),
                2 => bytes.insert(at, chance.u8(..)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut client = stage.client();
        client.set_timeout(Duration::from_millis(20));
        send_refused(&mut client, &bytes);
        let end = loop {
            if let Err(end) = client.receive() {
                break end;
            }
        };
        refused += usize::from(matches!(end, WireError::Closed));
    }
    assert!((10..SESSIONS).contains(&refused), "{refused} were refused");
    assert_eq!(before.query("select 'unharmed'").value(), "unharmed");
    stage.assert_settled(1);
}

#[test]
fn f20_garbage_after_the_login_harms_nobody() {
    let mut stage = Stage::open(2).watched();
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let length = 1 + chance.usize(..3_000);
        let bytes: Vec<u8> = (0..length).map(|_| chance.u8(..)).collect();
        let mut client = stage.client();
        send_refused(&mut client, &bytes);
    }
    stage.assert_settled(0);
}
