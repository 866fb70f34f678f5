//! Tests of the first packet.

use super::*;

/// A packet of the given version and body, with a true length.
fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + FIXED_LEN) as u32;
    [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn parse(body: &[u8]) -> Result<Startup, StartupError> {
    match initial(&packet(3 << 16, body))? {
        Some((Initial::Startup(startup), _)) => Ok(startup),
        other => panic!("no startup: {other:?}"),
    }
}

fn options(text: &str) -> Result<Vec<(String, String)>, StartupError> {
    let text_of = |bytes: Box<[u8]>| String::from_utf8(bytes.into()).unwrap();
    let settings = parse_options(text.as_bytes())?;
    Ok(settings.into_iter().map(|(name, value)| (text_of(name), text_of(value))).collect())
}

fn refused(text: &str) -> String {
    match options(text) {
        Err(StartupError::Option(word)) => String::from_utf8(word.into()).unwrap(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_startup_message_is_taken_apart() {
    let startup = parse(
        b"user\0alice\0database\0shop\0application_name\0psql\0options\0-c geqo=off\0\
          client_encoding\0LATIN1\0\0",
    )
    .unwrap();
    assert_eq!((startup.major, startup.minor), (3, 0));
    assert_eq!((&*startup.user, &*startup.database), (&b"alice"[..], &b"shop"[..]));
    let names: Vec<&[u8]> = startup.parameters.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, [&b"application_name"[..], b"client_encoding"]);
    assert_eq!(startup.options, [(b"geqo"[..].into(), b"off"[..].into())]);
    assert_eq!(startup.options_raw.as_deref(), Some(&b"-c geqo=off"[..]));
    assert_eq!(startup.replication, None);
    assert!(!startup.needs_negotiation());
}

#[test]
fn the_database_defaults_to_the_user() {
    for body in [&b"user\0alice\0\0"[..], b"user\0alice\0database\0\0\0"] {
        assert_eq!(&*parse(body).unwrap().database, b"alice");
    }
}

#[test]
fn values_stay_bytes() {
    let startup = parse(b"user\0\xe9\xff\0application_name\0a'\"\\\xff;--\0\0").unwrap();
    assert_eq!(&*startup.user, b"\xe9\xff");
    assert_eq!(&*startup.parameters[0].1, b"a'\"\\\xff;--");
}

#[test]
fn requests_are_told_apart_and_report_what_they_took() {
    let mut ssl = packet(SSL_REQUEST_CODE, b"");
    ssl.extend_from_slice(b"Q plaintext behind it");
    assert_eq!(initial(&ssl), Ok(Some((Initial::Ssl, 8))));
    assert_eq!(initial(&packet(GSSENC_REQUEST_CODE, b"")), Ok(Some((Initial::GssEnc, 8))));
    let cancel = packet(CANCEL_REQUEST_CODE, b"\0\0\0\x07secretsecret");
    let expected = Initial::Cancel { pid: 7, secret: b"secretsecret".to_vec() };
    assert_eq!(initial(&cancel), Ok(Some((expected, 24))));
}

#[test]
fn a_cancel_secret_has_4_to_256_bytes() {
    for (secret_len, good) in [(0, false), (3, false), (4, true), (256, true), (257, false)] {
        let body = vec![1; 4 + secret_len];
        let result = initial(&packet(CANCEL_REQUEST_CODE, &body));
        assert_eq!(result.is_ok(), good, "{secret_len}: {result:?}");
    }
    assert_eq!(initial(&packet(CANCEL_REQUEST_CODE, b"")), Err(StartupError::Length));
    assert_eq!(initial(&packet(SSL_REQUEST_CODE, b"x")), Err(StartupError::Length));
}

#[test]
fn negotiation_is_needed_for_newer_minors_and_protocol_options() {
    let of = |minor: u32, body: &[u8]| match initial(&packet(3 << 16 | minor, body)) {
        Ok(Some((Initial::Startup(startup), _))) => startup,
        other => panic!("no startup: {other:?}"),
    };
    for (minor, needed, negotiated) in [(0, false, 0), (1, false, 1), (2, false, 2), (3, true, 2)] {
        let startup = of(minor, b"user\0u\0\0");
        assert_eq!(startup.needs_negotiation(), needed);
        assert_eq!(startup.negotiated_minor(), negotiated);
    }
    let startup = of(0, b"user\0u\0_pq_.command_tag\0x\0_pq_.b\0\0\0");
    assert!(startup.needs_negotiation());
    assert_eq!(startup.negotiated_minor(), 0);
    let names: Vec<&[u8]> = startup.unrecognised.iter().map(|name| &**name).collect();
    assert_eq!(names, [&b"_pq_.command_tag"[..], b"_pq_.b"]);
    assert_eq!(of(9999, b"user\0u\0\0").negotiated_minor(), 2);
}

#[test]
fn replication_is_a_boolean_or_database() {
    let of = |value: &str| parse(format!("user\0u\0replication\0{value}\0\0").as_bytes());
    for value in ["true", "T", "yes", "y", "ON", "1", "tru"] {
        assert_eq!(of(value).unwrap().replication, Some(Replication::Physical), "{value}");
    }
    for value in ["false", "f", "NO", "n", "off", "of", "0"] {
        assert_eq!(of(value).unwrap().replication, None, "{value}");
    }
    assert_eq!(of("database").unwrap().replication, Some(Replication::Database));
    for value in ["", "o", "2", "truely", "DATABASE"] {
        let error = of(value).unwrap_err();
        assert_eq!(error.sqlstate(), SqlState::INVALID_PARAMETER_VALUE, "{value}");
        assert!(error.to_message().unwrap().hint.is_some());
    }
}

#[test]
fn the_options_of_a_replication_connection_are_left_alone() {
    let startup = parse(b"user\0u\0options\0-d 5\0replication\0database\0\0").unwrap();
    assert_eq!(startup.options, []);
    assert_eq!(startup.options_raw.as_deref(), Some(&b"-d 5"[..]));
}

#[test]
fn options_know_both_forms_and_backslashes() {
    let pairs = |expected: &[(&str, &str)]| -> Result<Vec<(String, String)>, StartupError> {
        Ok(expected.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
    };
    assert_eq!(options(""), pairs(&[]));
    assert_eq!(options(" \t\n\x0b\x0c\r "), pairs(&[]));
    assert_eq!(options("-c a=b"), pairs(&[("a", "b")]));
    assert_eq!(options("  -ca=b --c-d=e  "), pairs(&[("a", "b"), ("c_d", "e")]));
    assert_eq!(options(r"-c a=b\ c\\d\'e"), pairs(&[("a", r"b c\d'e")]));
    assert_eq!(
        options(r"-c t\imezone=\P  -c    d\=x=1"),
        pairs(&[("timezone", "P"), ("d", "x=1")])
    );
    assert_eq!(options("--a="), pairs(&[("a", "")]));
    assert_eq!(options("-c a=b=c -c a=2"), pairs(&[("a", "b=c"), ("a", "2")]));
    assert_eq!(options("-c a=b\\"), pairs(&[("a", "b")]));
}

#[test]
fn an_option_that_is_no_setting_is_named() {
    assert_eq!(refused("-c a=b -d 5"), "-d");
    assert_eq!(refused("-c"), "-c");
    assert_eq!(refused("-c timezone"), "-c");
    assert_eq!(refused("--timezone"), "--timezone");
    assert_eq!(refused("--"), "--");
    assert_eq!(refused("--=x"), "--=x");
    assert_eq!(refused("\\ "), " ");
    let message = parse(b"user\0u\0options\0-d\0\0").unwrap_err().to_message().unwrap();
    assert_eq!(message.detail.as_deref(), Some("The option is \"-d\"."));
}
