//! Tests of renaming: what comes out is what a client would have sent under the new name.

use super::*;
use crate::protocol::decode;

const VALUES: &[u8] = b"\0\x01\0\x01\0\x01\0\0\0\x05he\0lo\0\0";

fn bind_frame(portal: &[u8], statement: &[u8]) -> Vec<u8> {
    let body = [portal, b"\0", statement, b"\0", VALUES].concat();
    [&b"B"[..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
}

#[test]
fn a_bind_is_rewritten_from_any_prefix_that_has_its_names() {
    let frame = bind_frame(b"portal", b"stmt");
    let expected = bind_frame(b"portal", b"a_longer_name");
    let header = frame::frontend_header(&frame).unwrap().unwrap();
    let mut rewritten = 0;
    for available in HEADER_LEN..=frame.len() {
        let body = &frame[HEADER_LEN..available];
        let Some(names) = decode::bind(body, header.body_len()).unwrap() else {
            continue;
        };
        let mut out = b"before".to_vec();
        let resume = bind(&mut out, header, &names, b"a_longer_name").unwrap();
        out.extend_from_slice(&frame[resume..header.len]);
        assert_eq!(&out[6..], expected);
        rewritten += 1;
    }
    assert_eq!(rewritten, VALUES.len() + 1);
}

#[test]
fn a_bind_may_shrink_and_keeps_an_empty_portal() {
    let frame = bind_frame(b"", b"some_name");
    let header = frame::frontend_header(&frame).unwrap().unwrap();
    let names = decode::bind(&frame[HEADER_LEN..], header.body_len()).unwrap().unwrap();
    let mut out = Vec::new();
    let resume = bind(&mut out, header, &names, b"").unwrap();
    out.extend_from_slice(&frame[resume..]);
    assert_eq!(out, bind_frame(b"", b""));
}

#[test]
fn a_bind_that_would_exceed_the_cap_is_refused_untouched() {
    let len = frame::LARGE_LENGTH_MAX as usize + 1;
    let header = Header { tag: b'B', len };
    let names = Bind { portal: b"", statement: b"ab", rest_offset: 4 };
    let mut out = Vec::new();
    assert_eq!(bind(&mut out, header, &names, b"xy"), Ok(9));
    assert_eq!(out, b"B\x3f\xff\xff\xfe\0xy\0");
    out.clear();
    assert_eq!(bind(&mut out, header, &names, b"xyz"), Err(EncodeError::TooLong));
    assert_eq!(out, b"");
}

#[test]
fn a_bind_of_another_frame_or_a_bad_name_is_refused_untouched() {
    let names = Bind { portal: b"p", statement: b"s", rest_offset: 4 };
    let mut out = b"before".to_vec();
    let short = Header { tag: b'B', len: 8 };
    assert_eq!(bind(&mut out, short, &names, b"s"), Err(EncodeError::TooLong));
    let header = Header { tag: b'B', len: 20 };
    assert_eq!(bind(&mut out, header, &names, b"a\0b"), Err(EncodeError::EmbeddedNul));
    assert_eq!(out, b"before");
}

#[test]
fn parse_describe_and_close_get_the_new_name() {
    let original = decode::parse(b"old\0select \xff\0\0\x01\0\0\0\x17").unwrap();
    let mut out = Vec::new();
    parse(&mut out, &original, b"new").unwrap();
    let renamed = decode::parse(&out[HEADER_LEN..]).unwrap();
    assert_eq!(renamed, Parse { name: b"new", ..original });

    for (rewrite, tag) in [(describe as fn(&mut _, &_, &_) -> _, b'D'), (close, b'C')] {
        for (body, name) in [(b"Sold\0", b"new"), (b"Pold\0", b"old")] {
            let original = decode::describe_or_close(body).unwrap();
            let mut out = Vec::new();
            assert_eq!(rewrite(&mut out, &original, b"new"), Ok(()));
            assert_eq!(out[0], tag);
            let renamed = decode::describe_or_close(&out[HEADER_LEN..]).unwrap();
            assert_eq!(renamed, DescribeOrClose { name, ..original });
        }
    }
}

#[test]
fn an_error_speaks_of_the_clients_name() {
    let body = b"SERROR\0C08P01\0Mprepared statement \"pgbaton_9\" requires 0\0D\"pgbaton_9\"\0\0";
    let frame = error_naming(body, b"pgbaton_9", b"mine \"x").unwrap();
    let expected: &[u8] =
        b"SERROR\0C08P01\0Mprepared statement \"mine \"x\" requires 0\0D\"pgbaton_9\"\0\0";
    assert_eq!(&frame[5..], expected);
    assert_eq!(frame[..5], [b'E', 0, 0, 0, u8::try_from(expected.len() + 4).unwrap()]);
    assert_eq!(error_naming(body, b"pgbaton_", b"x"), None);
    assert_eq!(error_naming(b"Mno end", b"x", b"y"), None);
}
