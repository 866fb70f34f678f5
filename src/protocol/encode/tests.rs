//! Tests of the encoders: exact bytes, and what is refused.

use super::*;
use crate::protocol::{ErrorMessage, SqlState, TransactionStatus};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert!(out.starts_with(b"before"), "what was there is left alone");
    out.split_off(6)
}

/// Bytes of a message that must be refused with `error`, leaving nothing behind.
fn refused(error: EncodeError, write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) {
    let mut out = b"before".to_vec();
    assert_eq!(write(&mut out), Err(error));
    assert_eq!(out, b"before");
}

macro_rules! bytes {
    ($call:path $(, $argument:expr)*) => {
        written(|out| { let _ = $call(out $(, $argument)*); })
    };
}

#[test]
fn messages_to_a_client_are_exact() {
    assert_eq!(bytes!(authentication_ok), b"R\0\0\0\x08\0\0\0\0");
    assert_eq!(bytes!(authentication_cleartext_password), b"R\0\0\0\x08\0\0\0\x03");
    assert_eq!(bytes!(authentication_md5_password, *b"salt"), b"R\0\0\0\x0c\0\0\0\x05salt");
    assert_eq!(
        bytes!(authentication_sasl, &[b"SCRAM-SHA-256"]),
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
    );
    assert_eq!(bytes!(authentication_sasl_continue, b"r="), b"R\0\0\0\x0a\0\0\0\x0br=");
    assert_eq!(bytes!(authentication_sasl_final, b"v="), b"R\0\0\0\x0a\0\0\0\x0cv=");
    assert_eq!(bytes!(parameter_status, b"a", b"\xff"), b"S\0\0\0\x08a\0\xff\0");
    assert_eq!(bytes!(backend_key_data, -2, b"1234"), b"K\0\0\0\x0c\xff\xff\xff\xfe1234");
    assert_eq!(bytes!(ready_for_query, TransactionStatus::Failed), b"Z\0\0\0\x05E");
    assert_eq!(bytes!(command_complete, b"BEGIN"), b"C\0\0\0\x0aBEGIN\0");
    assert_eq!(bytes!(notification_response, 1, b"c", b""), b"A\0\0\0\x0b\0\0\0\x01c\0\0");
    assert_eq!(
        bytes!(negotiate_protocol_version, 2, &["_pq_.x"]),
        b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0"
    );
    for (message, tag) in [
        (bytes!(parse_complete), b'1'),
        (bytes!(bind_complete), b'2'),
        (bytes!(close_complete), b'3'),
        (bytes!(no_data), b'n'),
        (bytes!(empty_query_response), b'I'),
    ] {
        assert_eq!(message, [tag, 0, 0, 0, 4]);
    }
}

#[test]
fn messages_to_a_server_are_exact() {
    let parameters = [(&b"user"[..], &b"u"[..])];
    assert_eq!(bytes!(startup, parameters, 2), b"\0\0\0\x10\0\x03\0\x02user\0u\0\0");
    assert_eq!(bytes!(ssl_request), b"\0\0\0\x08\x04\xd2\x16\x2f");
    assert_eq!(bytes!(gssenc_request), b"\0\0\0\x08\x04\xd2\x16\x30");
    assert_eq!(bytes!(cancel_request, 7, b"1234"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x071234");
    assert_eq!(bytes!(password, b"p"), b"p\0\0\0\x06p\0");
    assert_eq!(bytes!(sasl_initial_response, b"M", Some(b"ab")), b"p\0\0\0\x0cM\0\0\0\0\x02ab");
    assert_eq!(bytes!(sasl_initial_response, b"M", None), b"p\0\0\0\x0aM\0\xff\xff\xff\xff");
    assert_eq!(bytes!(sasl_response, b"c="), b"p\0\0\0\x06c=");
    assert_eq!(bytes!(query, b"select 1"), b"Q\0\0\0\x0dselect 1\0");
    assert_eq!(bytes!(parse, b"s", b"q", &[0, 0, 0, 23]), b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x17");
    assert_eq!(bytes!(bind_no_parameters, b"s"), b"B\0\0\0\x0d\0s\0\0\0\0\0\0\0");
    assert_eq!(bytes!(describe_statement, b"s"), b"D\0\0\0\x07Ss\0");
    assert_eq!(bytes!(describe_portal, b""), b"D\0\0\0\x06P\0");
    assert_eq!(bytes!(execute, b"", 5), b"E\0\0\0\x09\0\0\0\0\x05");
    assert_eq!(bytes!(close_statement, b"s"), b"C\0\0\0\x07Ss\0");
    assert_eq!(bytes!(sync), b"S\0\0\0\x04");
    assert_eq!(bytes!(flush), b"H\0\0\0\x04");
    assert_eq!(bytes!(terminate), b"X\0\0\0\x04");
}

#[test]
fn an_error_has_both_severities_and_what_was_given() {
    let message = ErrorMessage::fatal(SqlState::TOO_MANY_CONNECTIONS, "no").with_hint("wait");
    assert_eq!(
        bytes!(error_response, &message),
        b"E\0\0\0\x24SFATAL\0VFATAL\0C53300\0Mno\0Hwait\0\0"
    );
    let notice = ErrorMessage::notice("n").with_detail("d");
    assert_eq!(
        bytes!(notice_response, &notice),
        b"N\0\0\0\x22SNOTICE\0VNOTICE\0C00000\0Mn\0Dd\0\0"
    );
}

#[test]
fn an_error_can_always_be_written() {
    let nul = ErrorMessage::error(SqlState::INTERNAL_ERROR, "a\0Mb");
    assert!(bytes!(error_response, &nul).windows(6).any(|window| window == b"Ma?Mb\0"));
    // An odd prefix puts a two-byte character across the cut.
    let long = ErrorMessage::error(SqlState::INTERNAL_ERROR, format!("x{}", "é".repeat(10_000)));
    let out = bytes!(error_response, &long);
    assert!(out.len() < 8300, "{}", out.len());
    assert!(std::str::from_utf8(&out[5..]).is_ok());
}

#[test]
fn a_string_with_a_nul_is_refused_everywhere() {
    use EncodeError::EmbeddedNul;
    let nul = &b"a\0b"[..];
    refused(EmbeddedNul, |out| authentication_sasl(out, &[b"A", nul]));
    refused(EmbeddedNul, |out| parameter_status(out, b"a", nul));
    refused(EmbeddedNul, |out| parameter_status(out, nul, b"a"));
    refused(EmbeddedNul, |out| command_complete(out, nul));
    refused(EmbeddedNul, |out| notification_response(out, 1, nul, b""));
    refused(EmbeddedNul, |out| notification_response(out, 1, b"", nul));
    refused(EmbeddedNul, |out| negotiate_protocol_version(out, 2, &[nul]));
    refused(EmbeddedNul, |out| startup(out, [(nul, &b""[..])], 0));
    refused(EmbeddedNul, |out| startup(out, [(&b"a"[..], nul)], 0));
    refused(EmbeddedNul, |out| password(out, nul));
    refused(EmbeddedNul, |out| sasl_initial_response(out, nul, None));
    refused(EmbeddedNul, |out| query(out, nul));
    refused(EmbeddedNul, |out| parse(out, nul, b"", b""));
    refused(EmbeddedNul, |out| parse(out, b"", nul, b""));
    refused(EmbeddedNul, |out| bind_no_parameters(out, nul));
    refused(EmbeddedNul, |out| describe_statement(out, nul));
    refused(EmbeddedNul, |out| describe_portal(out, nul));
    refused(EmbeddedNul, |out| execute(out, nul, 0));
    refused(EmbeddedNul, |out| close_statement(out, nul));
}

#[test]
fn a_name_that_would_end_its_list_is_refused() {
    refused(EncodeError::EmptyName, |out| authentication_sasl(out, &[b"A", b""]));
    refused(EncodeError::EmptyName, |out| negotiate_protocol_version(out, 2, &[""]));
    refused(EncodeError::EmptyName, |out| startup(out, [(&b""[..], &b"x"[..])], 0));
}

#[test]
fn what_is_too_long_is_refused_and_the_longest_is_written() {
    use EncodeError::TooLong;
    // Of the 10,000 bytes, 8 are fixed, 1 ends the list, and 2 end name and value.
    let longest = vec![b'x'; 10_000 - 8 - 1 - 2 - 1];
    assert_eq!(bytes!(startup, [(&b"a"[..], &longest[..])], 0).len(), 10_000);
    let beyond = [&longest[..], b"x"].concat();
    refused(TooLong, |out| startup(out, [(&b"a"[..], &beyond[..])], 0));

    let longest = vec![b'x'; 65_535 - 4 - 1];
    assert_eq!(bytes!(password, &longest).len(), 65_536);
    refused(TooLong, |out| password(out, &[&longest[..], b"x"].concat()));
    refused(TooLong, |out| sasl_response(out, &[b'x'; 65_532]));

    let longest = vec![b'x'; 10_000 - 4 - 2];
    assert_eq!(bytes!(close_statement, &longest).len(), 10_001);
    refused(TooLong, |out| close_statement(out, &[&longest[..], b"x"].concat()));
    refused(TooLong, |out| parameter_status(out, b"a", &[b'x'; 30_000]));
}

#[test]
fn a_secret_has_4_to_256_bytes() {
    for (len, good) in [(0, false), (3, false), (4, true), (256, true), (257, false)] {
        let secret = vec![1; len];
        let result = (
            backend_key_data(&mut Vec::new(), 1, &secret),
            cancel_request(&mut Vec::new(), 1, &secret),
        );
        let expected = if good { Ok(()) } else { Err(EncodeError::SecretLength) };
        assert_eq!(result, (expected, expected), "{len}");
    }
}

#[test]
fn parameter_types_are_whole_and_countable() {
    refused(EncodeError::ParameterTypes, |out| parse(out, b"", b"", &[0; 5]));
    refused(EncodeError::ParameterTypes, |out| parse(out, b"", b"", &[0; 4 * 65_536]));
    assert_eq!(bytes!(parse, b"", b"", &[0; 4 * 65_535]).len(), 5 + 4 + 4 * 65_535);
}
