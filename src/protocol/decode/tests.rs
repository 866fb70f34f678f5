//! Tests of the body decoders, message by message.

use super::*;
use crate::protocol::{Severity, TransactionStatus};

#[test]
fn parse_is_read_whole() {
    let parsed = parse(b"s\0select $1\0\0\x02\0\0\0\x17\0\0\0\x19").unwrap();
    assert_eq!((parsed.name, parsed.query), (&b"s"[..], &b"select $1"[..]));
    assert_eq!(parsed.parameter_types, b"\0\0\0\x17\0\0\0\x19");
    assert_eq!(parse(b"\0\0\0\0").unwrap().parameter_types, b"");
    // Counts are unsigned: 65,535 types are as many as there can be.
    let most = [&b"\0\0\xff\xff"[..], &[0; 4 * 65_535]].concat();
    assert_eq!(parse(&most).unwrap().parameter_types.len(), 4 * 65_535);
}

#[test]
fn bind_names_are_read_from_any_sufficient_prefix() {
    let body = b"portal\0statement\0\0\0\0\x01\0\0\0\x02hi\0\0";
    let names_len = b"portal\0statement\0".len();
    for cut in 0..names_len {
        assert_eq!(bind(&body[..cut], body.len()), Ok(None), "{cut}");
    }
    let expected = Bind { portal: b"portal", statement: b"statement", rest_offset: names_len };
    for cut in names_len..=body.len() {
        assert_eq!(bind(&body[..cut], body.len()), Ok(Some(expected)), "{cut}");
    }
}

#[test]
fn bind_does_not_read_the_next_message() {
    // The body is one byte short of its second terminator; the next message has one.
    let bytes = b"p\0sS\0\0\0\x04";
    assert_eq!(bind(bytes, 3), Err(DecodeError::Unterminated));
    assert_eq!(bind(b"", 0), Err(DecodeError::Unterminated));
    assert_eq!(bind(b"p", 1), Err(DecodeError::Unterminated));
    assert_eq!(bind(b"p\0", 2), Err(DecodeError::Unterminated));
    assert_eq!(bind(b"\0\0", 2).unwrap().unwrap().rest_offset, 2);
}

#[test]
fn describe_close_and_execute_are_read() {
    let statement = describe_or_close(b"Sname\0").unwrap();
    assert_eq!((statement.kind, statement.name), (Target::Statement, &b"name"[..]));
    let portal = describe_or_close(b"P\0").unwrap();
    assert_eq!((portal.kind, portal.name), (Target::Portal, &b""[..]));
    assert_eq!(describe_or_close(b"Xname\0"), Err(DecodeError::Subtype(b'X')));
    let expected = Execute { portal: b"p", max_rows: -1 };
    assert_eq!(execute(b"p\0\xff\xff\xff\xff"), Ok(expected));
}

#[test]
fn a_query_has_one_terminator() {
    assert_eq!(query(b"select '\xff'\0"), Ok(&b"select '\xff'"[..]));
    assert_eq!(query(b"\0"), Ok(&b""[..]));
    assert_eq!(query(b""), Err(DecodeError::Unterminated));
    assert_eq!(query(b"a\0b\0"), Err(DecodeError::TrailingBytes));
}

#[test]
fn a_password_is_one_string_and_not_empty() {
    assert_eq!(password(b"pencil\0"), Ok(&b"pencil"[..]));
    for bad in [&b""[..], b"pencil", b"pen\0cil\0", b"pencil\0\0"] {
        assert_eq!(password(bad), Err(DecodeError::PasswordSize));
    }
    assert_eq!(password(b"\0"), Err(DecodeError::EmptyPassword));
    assert_eq!(DecodeError::EmptyPassword.sqlstate(), SqlState::INVALID_PASSWORD);
}

#[test]
fn a_sasl_initial_response_tells_none_from_empty() {
    let of = |body| sasl_initial_response(body).map(|response| response.data);
    assert_eq!(of(b"M\0\xff\xff\xff\xff"), Ok(None));
    assert_eq!(of(b"M\0\0\0\0\0"), Ok(Some(&b""[..])));
    assert_eq!(of(b"M\0\0\0\0\x02n,"), Ok(Some(&b"n,"[..])));
    assert_eq!(sasl_initial_response(b"M\0\0\0\0\0").unwrap().mechanism, b"M");
}

#[test]
fn error_fields_prefer_the_untranslated_severity() {
    let body = b"SFEHLER\0VERROR\0C57P01\0Mbye\0Dd\0Hh\0Fx.c\0L1\0\0";
    let fields = error_fields(body).unwrap();
    assert_eq!(fields.severity_known(), Some(Severity::Error));
    assert_eq!(fields.sqlstate(), Some(SqlState::ADMIN_SHUTDOWN));
    assert_eq!(fields.message, Some(&b"bye"[..]));
    assert_eq!((fields.detail, fields.hint), (Some(&b"d"[..]), Some(&b"h"[..])));

    let old = error_fields(b"SFATAL\0C28000\0Mno\0\0").unwrap();
    assert_eq!(old.severity_known(), Some(Severity::Fatal));
    let translated = error_fields(b"SFEHLER\0\0").unwrap();
    assert_eq!(translated.severity, Some(&b"FEHLER"[..]));
    assert_eq!(translated.severity_known(), None);
    // The first of two counts.
    assert_eq!(error_fields(b"C57P01\0C00000\0\0").unwrap().code, Some(&b"57P01"[..]));
}

#[test]
fn parameter_status_and_key_data_are_read() {
    let status = parameter_status(b"TimeZone\0Europe/Z\xfcrich\0").unwrap();
    assert_eq!((status.name, status.value), (&b"TimeZone"[..], &b"Europe/Z\xfcrich"[..]));
    let key = backend_key_data(b"\0\0\0\x07secret").unwrap();
    assert_eq!((key.pid, key.secret), (7, &b"secret"[..]));
    assert!(!format!("{key:?}").contains("secret:"));
    for (len, good) in [(3, false), (4, true), (256, true), (257, false)] {
        assert_eq!(backend_key_data(&vec![1; 4 + len]).is_ok(), good, "{len}");
    }
    assert_eq!(backend_key_data(b"\0\0\0"), Err(DecodeError::Truncated));
}

#[test]
fn every_authentication_request_is_told_apart() {
    assert_eq!(authentication(b"\0\0\0\0"), Ok(Authentication::Ok));
    assert_eq!(authentication(b"\0\0\0\x03"), Ok(Authentication::CleartextPassword));
    let md5 = Authentication::Md5 { salt: *b"salt" };
    assert_eq!(authentication(b"\0\0\0\x05salt"), Ok(md5));
    let Ok(Authentication::Sasl { mechanisms }) = authentication(b"\0\0\0\x0aA-PLUS\0A\0\0") else {
        panic!("no SASL request")
    };
    assert_eq!(mechanisms.collect::<Vec<_>>(), [&b"A-PLUS"[..], b"A"]);
    assert_eq!(authentication(b"\0\0\0\x0br="), Ok(Authentication::SaslContinue(b"r=")));
    assert_eq!(authentication(b"\0\0\0\x0cv="), Ok(Authentication::SaslFinal(b"v=")));
    for method in [2, 6, 7, 8, 9, 13, -1] {
        let body = i32::to_be_bytes(method);
        assert_eq!(authentication(&body), Ok(Authentication::Unsupported(method)));
    }
    for bad in [&b""[..], b"\0\0\0", b"\0\0\0\0x", b"\0\0\0\x05sal", b"\0\0\0\x05salts"] {
        assert!(authentication(bad).is_err(), "{bad:?}");
    }
    for bad in [&b"\0\0\0\x0a"[..], b"\0\0\0\x0aA", b"\0\0\0\x0aA\0", b"\0\0\0\x0aA\0\0x"] {
        assert!(authentication(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn ready_for_query_knows_three_statuses() {
    use TransactionStatus::*;
    for status in [Idle, InTransaction, Failed] {
        assert_eq!(ready_for_query(&[status.as_byte()]), Ok(status));
    }
    for byte in (0..=u8::MAX).filter(|byte| !b"ITE".contains(byte)) {
        assert_eq!(ready_for_query(&[byte]), Err(DecodeError::TransactionStatus(byte)));
    }
    assert_eq!(ready_for_query(b""), Err(DecodeError::Truncated));
    assert_eq!(ready_for_query(b"II"), Err(DecodeError::TrailingBytes));
}

#[test]
fn command_tags_and_notifications_are_read() {
    assert_eq!(command_complete(b"INSERT 0 1\0"), Ok(&b"INSERT 0 1"[..]));
    assert_eq!(command_complete(b"BEGIN"), Err(DecodeError::Unterminated));
    let note = notification_response(b"\0\0\0\x09chan\0load\0").unwrap();
    assert_eq!((note.pid, note.channel, note.payload), (9, &b"chan"[..], &b"load"[..]));
}

#[test]
fn negotiation_counts_what_it_names() {
    let message = negotiate_protocol_version(b"\0\x03\0\x02\0\0\0\x02_pq_.a\0b\0").unwrap();
    assert_eq!((message.major, message.minor), (3, 2));
    assert_eq!(message.unrecognised.collect::<Vec<_>>(), [&b"_pq_.a"[..], b"b"]);
    let none = negotiate_protocol_version(b"\0\0\0\0\0\0\0\0").unwrap();
    assert_eq!((none.major, none.minor, none.unrecognised.count()), (0, 0, 0));
    for bad in [
        &b"\0\x03\0\x02\0\0\0\x02a\0"[..],
        b"\0\x03\0\x02\0\0\0\x01a\0b\0",
        b"\0\x03\0\x02\0\0\0\x01\0",
        b"\0\x03\0\x02\xff\xff\xff\xff",
        b"\0\x03\0\x02\x7f\xff\xff\xffa\0",
        b"\0\x03\0\x02",
    ] {
        assert!(negotiate_protocol_version(bad).is_err(), "{bad:?}");
    }
}
