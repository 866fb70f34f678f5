//! Two other implementations as the measure, on valid messages: what they write we read, and what
//! we write they read, with the same meaning.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NotificationResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Password,
    SASLInitialResponse, SecretKey, Startup,
};
use pgwire::messages::{DecodeContext, Message, PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::messages::{ProtocolVersion, SslNegotiationMetaMessage};
use postgres_protocol::message::{backend as rust_backend, frontend as rust_frontend};
use proptest::collection::vec;
use proptest::prelude::*;

use super::decode::{self, Target};
use super::frame::{self, HEADER_LEN};
use super::startup::{self, Initial};
use super::{ErrorMessage, SqlState, encode, rewrite};

/// What both other implementations can carry: UTF-8 without NUL.
const TEXT: &str = "[^\0]{0,20}";
const NAME: &str = "[^\0]{1,20}";

fn theirs(message: &impl Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    out.to_vec()
}

fn rust(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

fn ours<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    out
}

/// As `ours`, for what cannot fail.
fn sure(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// The body of a whole message, after our header scan has agreed with its length.
fn body(bytes: &[u8], header: Result<Option<frame::Header>, frame::FrameError>) -> &[u8] {
    assert_eq!(header.unwrap().unwrap().len, bytes.len());
    &bytes[HEADER_LEN..]
}

fn frontend_body(bytes: &[u8]) -> &[u8] {
    body(bytes, frame::frontend_header(bytes))
}

fn backend_body(bytes: &[u8]) -> &[u8] {
    body(bytes, frame::backend_header(bytes))
}

fn login_body(bytes: &[u8]) -> &[u8] {
    body(bytes, frame::login_header(bytes))
}

fn context() -> DecodeContext {
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
    context.awaiting_frontend_ssl = false;
    context.awaiting_frontend_startup = false;
    context
}

fn read_frontend(bytes: &[u8]) -> PgWireFrontendMessage {
    let mut bytes = BytesMut::from(bytes);
    let message = PgWireFrontendMessage::decode(&mut bytes, &context()).unwrap().unwrap();
    assert!(bytes.is_empty());
    message
}

fn read_backend(bytes: &[u8]) -> PgWireBackendMessage {
    let mut bytes = BytesMut::from(bytes);
    let message = PgWireBackendMessage::decode(&mut bytes, &context()).unwrap().unwrap();
    assert!(bytes.is_empty());
    message
}

fn read_rust(bytes: &[u8]) -> rust_backend::Message {
    let mut bytes = BytesMut::from(bytes);
    let message = rust_backend::Message::parse(&mut bytes).unwrap().unwrap();
    assert!(bytes.is_empty());
    message
}

fn is_same_request(message: &Authentication, read: rust_backend::Message) -> bool {
    use rust_backend::Message as Rust;
    match (message, read) {
        (Authentication::Ok, Rust::AuthenticationOk)
        | (Authentication::CleartextPassword, Rust::AuthenticationCleartextPassword) => true,
        (Authentication::MD5Password(salt), Rust::AuthenticationMd5Password(body)) => {
            *salt == body.salt()
        }
        (Authentication::SASL(names), Rust::AuthenticationSasl(body)) => {
            *names == body.mechanisms().map(|name| Ok(name.to_owned())).collect::<Vec<_>>().unwrap()
        }
        (Authentication::SASLContinue(data), Rust::AuthenticationSaslContinue(body)) => {
            data == body.data()
        }
        (Authentication::SASLFinal(data), Rust::AuthenticationSaslFinal(body)) => {
            data == body.data()
        }
        _ => false,
    }
}

/// An empty name is written as none.
fn named(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn parse(name in TEXT, query in TEXT, types in vec(any::<u32>(), 0..5)) {
        let bytes = theirs(&Parse::new(named(&name), query.clone(), types.clone()));
        let parse = decode::parse(frontend_body(&bytes)).unwrap();
        prop_assert_eq!((parse.name, parse.query), (name.as_bytes(), query.as_bytes()));
        let rust_bytes = rust(|out| {
            rust_frontend::parse(&name, &query, types.iter().copied(), out).unwrap();
        });
        prop_assert_eq!(&rust_bytes, &bytes);
        let again = ours(|out| rewrite::parse(out, &parse, name.as_bytes()));
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn bind(portal in TEXT, name in TEXT, new_name in TEXT, value in vec(any::<u8>(), 0..40)) {
        let of = |name: &str| {
            let values = vec![Some(value.clone().into()), None];
            theirs(&Bind::new(named(&portal), named(name), vec![1], values, vec![0]))
        };
        let bytes = of(&name);
        let header = frame::frontend_header(&bytes).unwrap().unwrap();
        let bind = decode::bind(frontend_body(&bytes), header.body_len()).unwrap().unwrap();
        prop_assert_eq!((bind.portal, bind.statement), (portal.as_bytes(), name.as_bytes()));
        let mut renamed = Vec::new();
        let resume = rewrite::bind(&mut renamed, header, &bind, new_name.as_bytes()).unwrap();
        renamed.extend_from_slice(&bytes[resume..]);
        prop_assert_eq!(renamed, of(&new_name));
    }

    #[test]
    fn describe_close_execute_query(name in TEXT, max_rows in any::<i32>(), query in TEXT) {
        for (kind, byte) in [(Target::Statement, b'S'), (Target::Portal, b'P')] {
            let bytes = theirs(&Describe::new(byte, named(&name)));
            let describe = decode::describe_or_close(frontend_body(&bytes)).unwrap();
            prop_assert_eq!((describe.kind, describe.name), (kind, name.as_bytes()));
            let again = ours(|out| rewrite::describe(out, &describe, name.as_bytes()));
            prop_assert_eq!(again, bytes);
            let bytes = theirs(&Close::new(byte, named(&name)));
            let close = decode::describe_or_close(frontend_body(&bytes)).unwrap();
            let again = ours(|out| rewrite::close(out, &close, name.as_bytes()));
            prop_assert_eq!(again, bytes);
        }
        let bytes = theirs(&Execute::new(named(&name), max_rows));
        let execute = decode::execute(frontend_body(&bytes)).unwrap();
        prop_assert_eq!((execute.portal, execute.max_rows), (name.as_bytes(), max_rows));
        prop_assert_eq!(ours(|out| encode::execute(out, name.as_bytes(), max_rows)), bytes);
        let bytes = theirs(&Query::new(query.clone()));
        prop_assert_eq!(decode::query(frontend_body(&bytes)), Ok(query.as_bytes()));
        prop_assert_eq!(ours(|out| encode::query(out, query.as_bytes())), bytes);
    }

    #[test]
    fn bind_without_parameters(name in TEXT) {
        let bytes = ours(|out| encode::bind_no_parameters(out, name.as_bytes()));
        let PgWireFrontendMessage::Bind(bind) = read_frontend(&bytes) else { panic!("no Bind") };
        prop_assert_eq!(bind, Bind::new(None, named(&name), vec![], vec![], vec![]));
    }

    #[test]
    fn startup_packets(user in NAME, database in NAME, setting in TEXT, minor in 0..=2_u16) {
        let parameters =
            [("user", user.as_str()), ("database", &database), ("client_encoding", &setting)];
        let packet = ours(|out| {
            let parameters = parameters.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            encode::startup(out, parameters, minor)
        });
        let mut bytes = BytesMut::from(&packet[..]);
        let read = Startup::decode(&mut bytes, &DecodeContext::default()).unwrap().unwrap();
        prop_assert!(bytes.is_empty());
        prop_assert_eq!((read.protocol_number_major, read.protocol_number_minor), (3, minor));
        for (name, value) in parameters {
            prop_assert_eq!(read.parameters.get(name).map(String::as_str), Some(value));
        }
        let rust_packet = rust(|out| rust_frontend::startup_message(parameters, out).unwrap());
        for bytes in [theirs(&read), rust_packet] {
            let Ok(Some((Initial::Startup(startup), consumed))) = startup::initial(&bytes) else {
                return Err(TestCaseError::fail("refused"));
            };
            prop_assert_eq!(consumed, bytes.len());
            prop_assert_eq!(&*startup.user, user.as_bytes());
            prop_assert_eq!(&*startup.database, database.as_bytes());
            let expected = (b"client_encoding"[..].into(), setting.as_bytes().into());
            prop_assert_eq!(startup.parameters, [expected]);
        }
    }

    #[test]
    fn cancel_requests_and_key_data(pid in any::<i32>(), secret in vec(any::<u8>(), 4..=256)) {
        let key = SecretKey::Bytes(secret.clone().into());
        let packet = theirs(&CancelRequest::new(pid, key.clone()));
        prop_assert_eq!(&ours(|out| encode::cancel_request(out, pid, &secret)), &packet);
        let read = startup::initial(&packet).unwrap();
        let cancel = Initial::Cancel { pid, secret: secret.clone() };
        prop_assert_eq!(read, Some((cancel, packet.len())));

        let bytes = theirs(&BackendKeyData::new(pid, key));
        prop_assert_eq!(&ours(|out| encode::backend_key_data(out, pid, &secret)), &bytes);
        let read = decode::backend_key_data(backend_body(&bytes)).unwrap();
        prop_assert_eq!((read.pid, read.secret), (pid, &secret[..]));
    }

    #[test]
    fn login_answers(text in NAME, data in vec(any::<u8>(), 0..40)) {
        let bytes = theirs(&Password::new(text.clone()));
        prop_assert_eq!(decode::password(login_body(&bytes)), Ok(text.as_bytes()));
        prop_assert_eq!(ours(|out| encode::password(out, text.as_bytes())), bytes);

        for data in [Some(data.clone()), None] {
            let message = SASLInitialResponse::new(text.clone(), data.clone().map(Into::into));
            let bytes = theirs(&message);
            let read = decode::sasl_initial_response(login_body(&bytes)).unwrap();
            prop_assert_eq!((read.mechanism, read.data), (text.as_bytes(), data.as_deref()));
            let again = ours(|out| {
                encode::sasl_initial_response(out, text.as_bytes(), data.as_deref())
            });
            prop_assert_eq!(again, bytes);
        }

        let bytes = ours(|out| encode::sasl_response(out, &data));
        prop_assert_eq!(&rust(|out| rust_frontend::sasl_response(&data, out).unwrap()), &bytes);
        let PgWireFrontendMessage::PasswordMessageFamily(family) = read_frontend(&bytes) else {
            panic!("no password message")
        };
        let read = family.into_sasl_response().unwrap();
        prop_assert_eq!(&read.data[..], &data[..]);
    }

    #[test]
    fn authentication_requests(
        salt in any::<[u8; 4]>(),
        names in vec(NAME, 1..4),
        data in "[!-~]{0,30}",
    ) {
        let data = data.as_bytes();
        let mechanisms: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let cases = [
            (Authentication::Ok, sure(encode::authentication_ok)),
            (
                Authentication::CleartextPassword,
                sure(encode::authentication_cleartext_password),
            ),
            (
                Authentication::MD5Password(salt.to_vec()),
                sure(|out| encode::authentication_md5_password(out, salt)),
            ),
            (
                Authentication::SASL(names.clone()),
                ours(|out| encode::authentication_sasl(out, &mechanisms)),
            ),
            (
                Authentication::SASLContinue(data.to_vec().into()),
                ours(|out| encode::authentication_sasl_continue(out, data)),
            ),
            (
                Authentication::SASLFinal(data.to_vec().into()),
                ours(|out| encode::authentication_sasl_final(out, data)),
            ),
        ];
        for (message, bytes) in cases {
            prop_assert_eq!(&theirs(&message), &bytes);
            prop_assert!(decode::authentication(backend_body(&bytes)).is_ok());
            prop_assert!(is_same_request(&message, read_rust(&bytes)));
        }
    }

    #[test]
    fn negotiation(minor in any::<u16>(), names in vec(NAME, 0..4)) {
        let version = 3 << 16 | i32::from(minor);
        let bytes = theirs(&NegotiateProtocolVersion::new(version, names.clone()));
        let again = ours(|out| encode::negotiate_protocol_version(out, minor, &names));
        prop_assert_eq!(&again, &bytes);
        let read = decode::negotiate_protocol_version(backend_body(&bytes)).unwrap();
        prop_assert_eq!((read.major, read.minor), (3, minor));
        let unrecognised: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        prop_assert_eq!(read.unrecognised.collect::<Vec<_>>(), unrecognised);
    }

    #[test]
    fn session_messages(name in TEXT, value in TEXT, pid in any::<i32>()) {
        let bytes = theirs(&ParameterStatus::new(name.clone(), value.clone()));
        let read = decode::parameter_status(backend_body(&bytes)).unwrap();
        prop_assert_eq!((read.name, read.value), (name.as_bytes(), value.as_bytes()));
        let again =
            ours(|out| encode::parameter_status(out, name.as_bytes(), value.as_bytes()));
        prop_assert_eq!(again, bytes);

        let bytes = theirs(&CommandComplete::new(name.clone()));
        prop_assert_eq!(decode::command_complete(backend_body(&bytes)), Ok(name.as_bytes()));
        prop_assert_eq!(ours(|out| encode::command_complete(out, name.as_bytes())), bytes);

        let bytes = theirs(&NotificationResponse::new(pid, name.clone(), value.clone()));
        let read = decode::notification_response(backend_body(&bytes)).unwrap();
        prop_assert_eq!(
            (read.pid, read.channel, read.payload),
            (pid, name.as_bytes(), value.as_bytes())
        );
        let again = ours(|out| {
            encode::notification_response(out, pid, name.as_bytes(), value.as_bytes())
        });
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn errors(message in TEXT, detail in TEXT) {
        let error = ErrorMessage::fatal(SqlState::ADMIN_SHUTDOWN, message.clone())
            .with_detail(detail.clone());
        let bytes = sure(|out| encode::error_response(out, &error));
        let expected = [
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', "57P01"),
            (b'M', &message),
            (b'D', &detail),
        ]
        .map(|(code, value)| (code, value.to_owned()));
        let PgWireBackendMessage::ErrorResponse(read) = read_backend(&bytes) else {
            panic!("no ErrorResponse")
        };
        prop_assert_eq!(&read.fields[..], &expected[..]);
        let rust_backend::Message::ErrorResponse(read) = read_rust(&bytes) else {
            panic!("no ErrorResponse")
        };
        let fields = read.fields().map(|field| {
            Ok((field.type_(), String::from_utf8(field.value_bytes().to_vec()).unwrap()))
        });
        prop_assert_eq!(fields.collect::<Vec<_>>().unwrap(), expected.to_vec());

        let bytes = theirs(&ErrorResponse::new(expected.to_vec()));
        let fields = decode::error_fields(backend_body(&bytes)).unwrap();
        prop_assert_eq!(fields.sqlstate(), Some(SqlState::ADMIN_SHUTDOWN));
        prop_assert_eq!(fields.message, Some(message.as_bytes()));
        prop_assert_eq!(fields.detail, Some(detail.as_bytes()));
    }
}

#[test]
fn messages_without_content() {
    use super::TransactionStatus as Status;
    for (status, their_status) in [
        (Status::Idle, TransactionStatus::Idle),
        (Status::InTransaction, TransactionStatus::Transaction),
        (Status::Failed, TransactionStatus::Error),
    ] {
        let bytes = theirs(&ReadyForQuery::new(their_status));
        assert_eq!(decode::ready_for_query(backend_body(&bytes)), Ok(status));
        assert_eq!(sure(|out| encode::ready_for_query(out, status)), bytes);
    }
    type Pair = (fn(&mut Vec<u8>), fn(&mut BytesMut));
    let bare: [Pair; 3] = [
        (encode::sync, rust_frontend::sync),
        (encode::flush, rust_frontend::flush),
        (encode::terminate, rust_frontend::terminate),
    ];
    for (write, rust_write) in bare {
        assert_eq!(sure(write), rust(rust_write));
    }
    let rust_messages: [fn(&mut Vec<u8>); 5] = [
        encode::parse_complete,
        encode::bind_complete,
        encode::close_complete,
        encode::no_data,
        encode::empty_query_response,
    ];
    for (at, write) in rust_messages.into_iter().enumerate() {
        let read = read_rust(&sure(write));
        let right = match at {
            0 => matches!(read, rust_backend::Message::ParseComplete),
            1 => matches!(read, rust_backend::Message::BindComplete),
            2 => matches!(read, rust_backend::Message::CloseComplete),
            3 => matches!(read, rust_backend::Message::NoData),
            _ => matches!(read, rust_backend::Message::EmptyQueryResponse),
        };
        assert!(right, "message {at}");
    }
    let ssl = rust(rust_frontend::ssl_request);
    assert_eq!(sure(encode::ssl_request), ssl);
    assert_eq!(startup::initial(&ssl), Ok(Some((Initial::Ssl, ssl.len()))));
    let gssenc = sure(encode::gssenc_request);
    let read =
        PgWireFrontendMessage::decode(&mut BytesMut::from(&gssenc[..]), &DecodeContext::default());
    assert!(matches!(
        read,
        Ok(Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresGss(_))))
    ));
}
