//! Properties: no bytes cause a panic, what is written is read back, and no split point matters.

use proptest::collection::vec;
use proptest::prelude::*;

use super::decode::{self, Authentication};
use super::frame::{self, HEADER_LEN};
use super::startup::{self, Initial, PACKET_LEN_MAX};
use super::{ErrorMessage, Severity, SqlState, TransactionStatus, encode, rewrite};

/// A string as the protocol can carry it.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 0..24)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 1..24)
}

/// Bytes that look like messages often enough to reach behind the first check.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0_u8), 3 => b'A'..=b'z', 2 => 0..8_u8, 1 => any::<u8>()];
    vec(byte, 0..64)
}

/// The body of the one frontend frame in `bytes`.
fn frontend_body(bytes: &[u8]) -> &[u8] {
    let header = frame::frontend_header(bytes).unwrap().unwrap();
    assert_eq!(header.len, bytes.len());
    &bytes[HEADER_LEN..]
}

fn login_body(bytes: &[u8]) -> &[u8] {
    let header = frame::login_header(bytes).unwrap().unwrap();
    assert_eq!(header.len, bytes.len());
    &bytes[HEADER_LEN..]
}

fn backend_body(bytes: &[u8]) -> &[u8] {
    let header = frame::backend_header(bytes).unwrap().unwrap();
    assert_eq!(header.len, bytes.len());
    &bytes[HEADER_LEN..]
}

/// As `written`, for what cannot fail.
fn sure(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn written<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in hostile(), body_len in 0..80_usize) {
        let _ = startup::initial(&bytes);
        let _ = startup::parse_options(&bytes);
        let _ = frame::frontend_header(&bytes);
        let _ = frame::login_header(&bytes);
        let _ = frame::backend_header(&bytes);
        let _ = frame::backend_login_header(&bytes);
        let _ = decode::parse(&bytes);
        let _ = decode::bind(&bytes, bytes.len());
        let _ = decode::describe_or_close(&bytes);
        let _ = decode::execute(&bytes);
        let _ = decode::query(&bytes);
        let _ = decode::password(&bytes);
        let _ = decode::sasl_initial_response(&bytes);
        let _ = decode::error_fields(&bytes).map(|read| (read.sqlstate(), read.severity_known()));
        let _ = decode::parameter_status(&bytes);
        let _ = decode::backend_key_data(&bytes);
        if let Ok(Authentication::Sasl { mechanisms }) = decode::authentication(&bytes) {
            prop_assert!(mechanisms.count() <= bytes.len());
        }
        let _ = decode::ready_for_query(&bytes);
        let _ = decode::command_complete(&bytes);
        let _ = decode::notification_response(&bytes);
        if let Ok(message) = decode::negotiate_protocol_version(&bytes) {
            let count = i32::from_be_bytes(*bytes[4..].first_chunk().unwrap());
            prop_assert_eq!(message.unrecognised.count(), count as usize);
        }
        if let Ok(Some(names)) = decode::bind(&bytes, body_len) {
            prop_assert!(names.rest_offset <= body_len.min(bytes.len()));
            let header = frame::Header { tag: b'B', len: HEADER_LEN + body_len };
            let mut out = Vec::new();
            prop_assert_eq!(
                rewrite::bind(&mut out, header, &names, b"x"),
                Ok(HEADER_LEN + names.rest_offset)
            );
        }
    }

    #[test]
    fn hostile_bytes_behind_a_startup_code_cause_no_panic(body in hostile(), minor in 0..4_u16) {
        let packet = [
            &(body.len() as u32 + 8).to_be_bytes()[..],
            &[0, 3],
            &minor.to_be_bytes(),
            &body,
        ]
        .concat();
        if let Ok(Some((Initial::Startup(startup), consumed))) = startup::initial(&packet) {
            prop_assert_eq!(consumed, packet.len());
            prop_assert!(!startup.user.is_empty());
        }
    }

    #[test]
    fn startup_is_read_back_from_no_less_than_the_whole(
        user in name(),
        database in name(),
        others in vec((name(), text()), 0..5),
        minor in 0..5_u16,
        tail in vec(any::<u8>(), 0..8),
    ) {
        let reserved: [&[u8]; 4] = [b"user", b"database", b"options", b"replication"];
        prop_assume!(others.iter().all(|(name, _)| {
            !reserved.contains(&name.as_slice()) && !name.starts_with(b"_pq_.")
        }));
        let fixed = [(&b"user"[..], &user[..]), (b"database", &database)];
        let parameters = fixed.into_iter().chain(others.iter().map(|(n, v)| (&n[..], &v[..])));
        let packet = written(|out| encode::startup(out, parameters, minor));
        for cut in 0..packet.len() {
            prop_assert_eq!(startup::initial(&packet[..cut]), Ok(None));
        }
        let with_tail = [&packet[..], &tail].concat();
        for bytes in [&packet, &with_tail] {
            let Ok(Some((Initial::Startup(startup), consumed))) = startup::initial(bytes) else {
                return Err(TestCaseError::fail("refused"));
            };
            prop_assert_eq!(consumed, packet.len());
            prop_assert_eq!(startup.minor, minor);
            prop_assert_eq!(&*startup.user, user.as_slice());
            prop_assert_eq!(&*startup.database, database.as_slice());
            let read = startup.parameters.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
            prop_assert_eq!(read.collect::<Vec<_>>(), others.clone());
        }
    }

    #[test]
    fn cancel_requests_are_read_back(
        pid in any::<i32>(),
        secret in vec(any::<u8>(), startup::SECRET_LEN),
    ) {
        let packet = written(|out| encode::cancel_request(out, pid, &secret));
        for cut in 0..packet.len() {
            prop_assert_eq!(startup::initial(&packet[..cut]), Ok(None));
        }
        let whole = Initial::Cancel { pid, secret };
        prop_assert_eq!(startup::initial(&packet), Ok(Some((whole, packet.len()))));
        prop_assert!(packet.len() <= PACKET_LEN_MAX);
    }

    #[test]
    fn options_of_any_value_are_read_back(settings in vec((name(), text()), 0..5)) {
        prop_assume!(settings.iter().all(|(n, _)| !n.contains(&b'=') && !n.contains(&b'-')));
        let mut raw = Vec::new();
        for (index, (name, value)) in settings.iter().enumerate() {
            raw.extend_from_slice([&b" -c "[..], b" -c", b"\t--"][index % 3]);
            for byte in [&name[..], b"=", value].concat() {
                if byte.is_ascii_whitespace() || byte == b'\\' || byte == 0x0b {
                    raw.push(b'\\');
                }
                raw.push(byte);
            }
        }
        let read = startup::parse_options(&raw).unwrap();
        let read = read.into_iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
        prop_assert_eq!(read.collect::<Vec<_>>(), settings);
    }

    #[test]
    fn extended_messages_are_read_back(
        statement in text(),
        query in text(),
        types in vec(any::<u32>(), 0..6),
        max_rows in any::<i32>(),
    ) {
        let raw: Vec<u8> = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        let message = written(|out| encode::parse(out, &statement, &query, &raw));
        let parse = decode::parse(frontend_body(&message)).unwrap();
        prop_assert_eq!(parse.name, &statement[..]);
        prop_assert_eq!(parse.query, &query[..]);
        prop_assert_eq!(parse.parameter_types, &raw[..]);

        let message = written(|out| encode::execute(out, &statement, max_rows));
        let execute = decode::execute(frontend_body(&message)).unwrap();
        prop_assert_eq!((execute.portal, execute.max_rows), (&statement[..], max_rows));

        let message = written(|out| encode::close_statement(out, &statement));
        let close = decode::describe_or_close(frontend_body(&message)).unwrap();
        prop_assert_eq!((close.kind, close.name), (decode::Target::Statement, &statement[..]));

        let message = written(|out| encode::query(out, &query));
        prop_assert_eq!(decode::query(frontend_body(&message)), Ok(&query[..]));

        let message = written(|out| encode::bind_no_parameters(out, &statement));
        let body = frontend_body(&message);
        let bind = decode::bind(body, body.len()).unwrap().unwrap();
        prop_assert_eq!((bind.portal, bind.statement), (&b""[..], &statement[..]));
    }

    #[test]
    fn login_messages_are_read_back(text in name(), data in vec(any::<u8>(), 0..40)) {
        let message = written(|out| encode::password(out, &text));
        prop_assert_eq!(decode::password(login_body(&message)), Ok(&text[..]));
        for data in [None, Some(&data[..])] {
            let message = written(|out| encode::sasl_initial_response(out, &text, data));
            let response = decode::sasl_initial_response(login_body(&message)).unwrap();
            prop_assert_eq!((response.mechanism, response.data), (&text[..], data));
        }
        let message = written(|out| encode::sasl_response(out, &data));
        prop_assert_eq!(login_body(&message), &data[..]);

        let message = written(|out| encode::authentication_sasl_continue(out, &data));
        let read = decode::authentication(backend_body(&message));
        prop_assert_eq!(read, Ok(Authentication::SaslContinue(&data)));
        let message = written(|out| encode::authentication_sasl_final(out, &data));
        let read = decode::authentication(backend_body(&message));
        prop_assert_eq!(read, Ok(Authentication::SaslFinal(&data)));
    }

    #[test]
    fn session_messages_are_read_back(
        names in vec(name(), 1..4),
        value in text(),
        pid in any::<i32>(),
        secret in vec(any::<u8>(), startup::SECRET_LEN),
        minor in any::<u16>(),
    ) {
        let mechanisms: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let message = written(|out| encode::authentication_sasl(out, &mechanisms));
        let Ok(Authentication::Sasl { mechanisms: read }) =
            decode::authentication(backend_body(&message))
        else {
            return Err(TestCaseError::fail("no SASL request"));
        };
        prop_assert_eq!(read.collect::<Vec<_>>(), mechanisms.clone());

        let message = written(|out| encode::negotiate_protocol_version(out, minor, &names));
        let read = decode::negotiate_protocol_version(backend_body(&message)).unwrap();
        prop_assert_eq!((read.major, read.minor), (3, minor));
        prop_assert_eq!(read.unrecognised.collect::<Vec<_>>(), mechanisms);

        let message = written(|out| encode::parameter_status(out, &names[0], &value));
        let read = decode::parameter_status(backend_body(&message)).unwrap();
        prop_assert_eq!((read.name, read.value), (&names[0][..], &value[..]));

        let message = written(|out| encode::backend_key_data(out, pid, &secret));
        let read = decode::backend_key_data(backend_body(&message)).unwrap();
        prop_assert_eq!((read.pid, read.secret), (pid, &secret[..]));

        let message = written(|out| encode::command_complete(out, &value));
        prop_assert_eq!(decode::command_complete(backend_body(&message)), Ok(&value[..]));

        let message = written(|out| encode::notification_response(out, pid, &names[0], &value));
        let read = decode::notification_response(backend_body(&message)).unwrap();
        prop_assert_eq!((read.pid, read.channel, read.payload), (pid, &names[0][..], &value[..]));

        for status in [TransactionStatus::Idle, TransactionStatus::Failed] {
            let message = sure(|out| encode::ready_for_query(out, status));
            prop_assert_eq!(decode::ready_for_query(backend_body(&message)), Ok(status));
        }
    }

    #[test]
    fn errors_are_read_back(
        text in "[^\0]{0,40}",
        detail in proptest::option::of("[^\0]{0,40}"),
        hint in proptest::option::of("[^\0]{0,40}"),
    ) {
        let mut message = ErrorMessage::fatal(SqlState::ADMIN_SHUTDOWN, text);
        message.detail = detail;
        message.hint = hint;
        let bytes = sure(|out| encode::error_response(out, &message));
        let fields = decode::error_fields(backend_body(&bytes)).unwrap();
        prop_assert_eq!(fields.severity_known(), Some(Severity::Fatal));
        prop_assert_eq!(fields.sqlstate(), Some(message.code));
        prop_assert_eq!(fields.message, Some(message.message.as_bytes()));
        prop_assert_eq!(fields.detail, message.detail.as_deref().map(str::as_bytes));
        prop_assert_eq!(fields.hint, message.hint.as_deref().map(str::as_bytes));
    }

    #[test]
    fn a_renamed_bind_is_the_bind_that_a_client_would_have_sent(
        portal in text(),
        statement in text(),
        renamed in text(),
        rest in vec(any::<u8>(), 0..40),
        extra in 0..48_usize,
    ) {
        let frame_of = |statement: &[u8]| {
            let body = [&portal[..], b"\0", statement, b"\0", &rest].concat();
            [&b"B"[..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
        };
        let original = frame_of(&statement);
        let header = frame::frontend_header(&original).unwrap().unwrap();
        let names_end = original.len() - rest.len();
        let available = (names_end + extra).min(original.len());
        let body = &original[HEADER_LEN..available];
        let names = decode::bind(body, header.body_len()).unwrap().unwrap();
        let mut out = Vec::new();
        let resume = rewrite::bind(&mut out, header, &names, &renamed).unwrap();
        prop_assert_eq!(resume, names_end);
        out.extend_from_slice(&original[resume..header.len]);
        prop_assert_eq!(out, frame_of(&renamed));
    }
}
