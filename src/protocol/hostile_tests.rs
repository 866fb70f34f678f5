//! One test per row of the table of hostile inputs that is decided by bytes alone.
//!
//! The names begin with the row: S is start-up, A authentication, F framing. Rows of SCRAM stand in
//! `auth::tests`.

use super::decode::{self, DecodeError};
use super::frame::{self, FrameError};
use super::startup::{self, Initial, StartupError};
use super::{SqlState, tag};

fn startup_packet(code: u32, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn refused(packet: &[u8]) -> StartupError {
    startup::initial(packet).expect_err("a hostile packet was accepted or awaited")
}

#[test]
fn s01_startup_length_out_of_range_is_refused_by_its_four_bytes() {
    for length in [0, 1, 3, 4, 7, -1, -2, i32::MIN, 10_001, 65_536] {
        assert_eq!(refused(&i32::to_be_bytes(length)), StartupError::Length, "{length}");
    }
    for length in [8, 10_000] {
        assert_eq!(startup::initial(&i32::to_be_bytes(length)), Ok(None), "{length}");
    }
    // Nothing can be told to a peer that does not speak the protocol.
    assert_eq!(StartupError::Length.to_message(), None);
}

#[test]
fn s02_startup_claiming_gigabytes_is_refused_before_they_come() {
    for length in [1_i32 << 30, i32::MAX] {
        assert_eq!(refused(&length.to_be_bytes()), StartupError::Length);
    }
}

#[test]
fn s05_other_major_versions_are_refused_with_the_words_of_postgres() {
    for (code, version) in [(2 << 16, "2.0"), (4 << 16, "4.0"), (0, "0.0"), (1234 << 16, "1234.0")]
    {
        let error = refused(&startup_packet(code, b"user\0u\0\0"));
        let message = error.to_message().unwrap();
        assert_eq!(message.code, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(
            message.message,
            format!("unsupported frontend protocol {version}: server supports 3.0 to 3.2")
        );
        assert!(message.severity.ends_session());
    }
}

#[test]
fn s06_newer_minors_and_protocol_options_go_on_with_negotiation() {
    for (minor, body) in
        [(3, &b"user\0u\0\0"[..]), (9999, b"user\0u\0\0"), (0, b"user\0u\0_pq_.x\x001\0\0")]
    {
        let packet = startup_packet(3 << 16 | minor, body);
        let Ok(Some((Initial::Startup(startup), consumed))) = startup::initial(&packet) else {
            panic!("refused")
        };
        assert!(startup.needs_negotiation());
        assert_eq!(consumed, packet.len());
    }
}

#[test]
fn s07_users_and_layouts_that_are_wrong() {
    let of = |body: &[u8]| startup::initial(&startup_packet(3 << 16, body));
    for body in [&b"\0"[..], b"user\0\0\0", b"database\0d\0\0", b"user\0u\0user\0\0\0"] {
        let error = of(body).unwrap_err();
        assert_eq!(error, StartupError::NoUser);
        assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        assert_eq!(error.to_string(), "no PostgreSQL user name specified in startup packet");
    }
    for body in [
        &b""[..],
        b"user",
        b"user\0",
        b"user\0u",
        b"user\0u\0",
        b"user\0u\0database\0",
        b"user\0u\0\0x",
        b"user\0u\0\0\0",
        b"\0user\0u\0\0",
    ] {
        let error = of(body).unwrap_err();
        assert_eq!(error, StartupError::Layout, "{body:?}");
        assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
        assert_eq!(
            error.to_string(),
            "invalid startup packet layout: expected terminator as last byte"
        );
    }
    // Long names are no matter of bytes: they are kept whole for the layers that know users.
    let long = vec![b'x'; 9_000];
    for name in [&b"user\0"[..], b"user\0u\0database\0"] {
        assert!(of(&[name, &long, b"\0\0"].concat()).unwrap().is_some());
    }
}

#[test]
fn s08_values_with_quotes_and_backslashes_stay_intact() {
    let value = b"'; drop table x; -- \\' \" \xff";
    let body = [b"user\0u\0application_name\0", &value[..], b"\0\0"].concat();
    let Ok(Some((Initial::Startup(startup), _))) =
        startup::initial(&startup_packet(3 << 16, &body))
    else {
        panic!("refused")
    };
    assert_eq!(&*startup.parameters[0].1, value);
    // A NUL inside ends the value: what follows it is a name, and then the layout is wrong.
    let error = refused(&startup_packet(3 << 16, b"user\0u\0application_name\0a\0b\0\0"));
    assert_eq!(error, StartupError::Layout);
}

#[test]
fn s10_other_protocols_are_refused_by_their_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\r\n\r\n",
    ] {
        assert_eq!(refused(bytes), StartupError::Length);
        assert_eq!(refused(&bytes[..4]), StartupError::Length);
    }
}

#[test]
fn x06_cancel_requests_of_a_wrong_size_are_refused_before_their_body() {
    for length in [8_u32, 12, 15, 269, 300] {
        let head = [length.to_be_bytes(), (1234_u32 << 16 | 5678).to_be_bytes()].concat();
        assert_eq!(refused(&head), StartupError::Length, "{length}");
    }
}

#[test]
fn a04_anything_but_a_password_during_login_is_refused() {
    for tag in (0..=u8::MAX).filter(|tag| *tag != tag::frontend::PASSWORD) {
        let error = frame::login_header(&[tag, 0, 0, 0, 4]).unwrap_err();
        assert_eq!(error, FrameError::NotPassword(tag));
        assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
    }
    // A second startup packet begins with its length.
    assert!(frame::login_header(b"\0\0\0\x09\0\x03\0\0\0").is_err());
}

#[test]
fn a05_password_messages_of_impossible_lengths_are_refused_by_their_header() {
    for length in [0, 3, -1, i32::MIN, 65_536, 70_000, 1 << 30, i32::MAX] {
        let [a, b, c, d] = i32::to_be_bytes(length);
        let expected = FrameError::Length { tag: b'p', length };
        assert_eq!(frame::login_header(&[b'p', a, b, c, d]), Err(expected));
    }
}

#[test]
fn a06_sasl_initial_responses_with_lying_lengths_are_refused() {
    let of = |length: i32, data: &[u8]| {
        let body = [b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], data].concat();
        decode::sasl_initial_response(&body).map(|response| response.data.map(<[u8]>::to_vec))
    };
    assert_eq!(of(3, b"n,,"), Ok(Some(b"n,,".to_vec())));
    for length in [-2, i32::MIN, i32::MAX, 4] {
        assert_eq!(of(length, b"n,,"), Err(DecodeError::Truncated), "{length}");
    }
    for length in [-1, 0, 2] {
        assert_eq!(of(length, b"n,,"), Err(DecodeError::TrailingBytes), "{length}");
    }
    let cut = |body| decode::sasl_initial_response(body).unwrap_err();
    assert_eq!(cut(b"SCRAM-SHA-256"), DecodeError::Unterminated);
    assert_eq!(cut(b""), DecodeError::Unterminated);
    for absent in [&b"SCRAM-SHA-256\0"[..], b"SCRAM-SHA-256\0\0\0\0"] {
        assert_eq!(cut(absent), DecodeError::Truncated);
    }
}

#[test]
fn f01_unknown_and_server_only_types_are_refused() {
    let known = b"BCEDFHPQSXcdf";
    let mut refused = 0;
    for tag in (0..=u8::MAX).filter(|tag| !known.contains(tag)) {
        let error = frame::frontend_header(&[tag, 0, 0, 0, 4]).unwrap_err();
        assert_eq!(error, FrameError::UnknownTag(tag));
        refused += 1;
    }
    assert_eq!(refused, 256 - known.len());
}

#[test]
fn f02_impossible_lengths_are_refused_on_each_type() {
    for tag in *b"BCEDFHPQSXcdf" {
        for length in [0, 3, -1, i32::MIN, i32::MAX, 1 << 30, (1 << 30) - 1] {
            let [a, b, c, d] = length.to_be_bytes();
            let error = frame::frontend_header(&[tag, a, b, c, d]).unwrap_err();
            assert_eq!(error, FrameError::Length { tag, length });
            let message = error.to_message();
            assert_eq!(message.to_string(), "FATAL: invalid message length (08P01)");
        }
    }
}

#[test]
fn f02_small_messages_have_the_small_cap_of_postgres() {
    for tag in *b"CEDXcf" {
        let header = |length: u32| {
            let [a, b, c, d] = length.to_be_bytes();
            frame::frontend_header(&[tag, a, b, c, d])
        };
        assert!(header(10_000).is_ok());
        assert!(header(10_001).is_err());
    }
}

#[test]
fn f02_large_messages_have_the_large_cap_of_postgres() {
    for tag in *b"BFPQd" {
        let header = |length: u32| {
            let [a, b, c, d] = length.to_be_bytes();
            frame::frontend_header(&[tag, a, b, c, d])
        };
        assert!(header(0x3fff_fffe).is_ok());
        assert!(header(0x3fff_ffff).is_err());
    }
}

#[test]
fn f02_sync_and_flush_have_exactly_their_size() {
    for tag in *b"SH" {
        assert!(frame::frontend_header(&[tag, 0, 0, 0, 4]).is_ok());
        for length in [5, 8, 255] {
            let expected = FrameError::Length { tag, length };
            let [a, b, c, d] = length.to_be_bytes();
            assert_eq!(frame::frontend_header(&[tag, a, b, c, d]), Err(expected));
        }
    }
    // Postgres does not insist on it for these two.
    for tag in *b"Xc" {
        assert!(frame::frontend_header(&[tag, 0, 0, 0, 9]).is_ok());
    }
}

#[test]
fn f04_a_query_without_a_terminator_or_with_a_nul_inside_is_refused() {
    assert_eq!(decode::query(b"select 1"), Err(DecodeError::Unterminated));
    assert_eq!(decode::query(b"select 1\0; drop\0"), Err(DecodeError::TrailingBytes));
    assert_eq!(decode::query(b"select 1\0\0"), Err(DecodeError::TrailingBytes));
    let message = DecodeError::Unterminated.to_message();
    assert_eq!(message.to_string(), "ERROR: invalid string in message (08P01)");
}

#[test]
fn f05_cut_and_lying_extended_messages_are_refused() {
    let parse = b"s\0q\0\0\x01\0\0\0\x17";
    let describe = b"Sname\0";
    let execute = b"p\0\0\0\0\0";
    for cut in 0..parse.len() {
        assert!(decode::parse(&parse[..cut]).is_err(), "{cut}");
    }
    for cut in 0..describe.len() {
        assert!(decode::describe_or_close(&describe[..cut]).is_err(), "{cut}");
    }
    for cut in 0..execute.len() {
        assert!(decode::execute(&execute[..cut]).is_err(), "{cut}");
    }
    let longer = |body: &[u8]| [body, b"\0"].concat();
    let trailing = Err(DecodeError::TrailingBytes);
    assert_eq!(decode::parse(&longer(parse)).map(drop), trailing);
    assert_eq!(decode::describe_or_close(&longer(describe)).map(drop), trailing);
    assert_eq!(decode::execute(&longer(execute)).map(drop), trailing);
    assert_eq!(decode::parse(b"\0\0\xff\xff\0\0\0\x17"), Err(DecodeError::Truncated));
    // These errors are answered with ERROR, and the session goes on after Sync.
    assert!(!DecodeError::Truncated.to_message().severity.ends_session());
}

#[test]
fn f12_a_length_that_would_wrap_never_leaves_the_frame_module() {
    // A message of 4 GiB + 4 bytes has this length word; its tail would be read as messages.
    for length in [4_u32, 5] {
        let wrapped = u64::from(u32::MAX) + 1 + u64::from(length);
        assert_eq!(wrapped as u32, length, "the attack that a sender must be kept from");
    }
    let huge = super::frame::LARGE_LENGTH_MAX as usize;
    let header = frame::Header { tag: b'B', len: huge + 1 };
    let names = decode::Bind { portal: b"", statement: b"", rest_offset: 2 };
    let mut out = Vec::new();
    assert!(super::rewrite::bind(&mut out, header, &names, b"x").is_err());
}

#[test]
fn f18_hostile_server_frames_are_refused() {
    for tag in *b"pQPBXFf\0\xff" {
        let error = frame::backend_header(&[tag, 0, 0, 0, 4]).unwrap_err();
        assert_eq!(error, FrameError::UnknownBackendTag(tag));
    }
    let known = b"RK23CWdcGHDIEVvnNAtS1sZT";
    for tag in *known {
        for length in [0, 3, -1, i32::MIN, i32::MAX, (1 << 30) + 3] {
            let [a, b, c, d] = length.to_be_bytes();
            assert!(frame::backend_header(&[tag, a, b, c, d]).is_err());
        }
    }
    // ReadyForQuery, and all that has no body, has one size.
    for (tag, length) in [(b'Z', 4), (b'Z', 6), (b'1', 5), (b'2', 5), (b'3', 5), (b'n', 8)] {
        assert!(frame::backend_header(&[tag, 0, 0, 0, length]).is_err());
    }
}

#[test]
fn cve_2012_4575_long_database_names_are_an_error_or_kept_whole() {
    for len in [64, 1_000, 9_900, 60_000] {
        let body = [b"user\0u\0database\0", &vec![b'd'; len][..], b"\0\0"].concat();
        match startup::initial(&startup_packet(3 << 16, &body)) {
            Ok(Some((Initial::Startup(startup), _))) => assert_eq!(startup.database.len(), len),
            other => assert_eq!((other, len), (Err(StartupError::Length), 60_000)),
        }
    }
}

#[test]
fn cve_2015_4054_a_password_before_the_startup_packet_is_refused() {
    for tag in *b"pQPBCDEFHSXcdf" {
        assert_eq!(refused(&[tag, 0, 0, 0, 8, b'x', 0, 0, 0]), StartupError::Length);
    }
}

#[test]
fn cve_2026_6666_errors_of_a_server_may_lack_any_field() {
    let whole: [&[u8]; 4] = [b"SFATAL\0", b"VFATAL\0", b"C57P01\0", b"Mgone\0"];
    for missing in 0..1_usize << whole.len() {
        let mut body: Vec<u8> = Vec::new();
        for (at, field) in whole.iter().enumerate() {
            if missing >> at & 1 == 0 {
                body.extend_from_slice(field);
            }
        }
        body.push(0);
        let fields = decode::error_fields(&body).unwrap();
        assert_eq!(fields.code.is_none(), missing >> 2 & 1 == 1);
        assert_eq!(fields.sqlstate().is_none(), missing >> 2 & 1 == 1);
        assert_eq!(fields.message.is_none(), missing >> 3 & 1 == 1);
    }
    assert_eq!(decode::error_fields(b""), Err(DecodeError::Truncated));
    assert_eq!(decode::error_fields(b"C57P01"), Err(DecodeError::Unterminated));
    assert_eq!(decode::error_fields(b"C57P01\0"), Err(DecodeError::Truncated));
    assert_eq!(decode::error_fields(b"C57P01\0\0x"), Err(DecodeError::TrailingBytes));
    for odd in [&b"C\0\0"[..], b"C57p01\0\0", b"C57P0123\0\0"] {
        assert_eq!(decode::error_fields(odd).unwrap().sqlstate(), None);
    }
}
