//! Who is behind a load balancer that says so in the PROXY protocol, versions 1 and 2.
//!
//! Believed of those networks only that the configuration names: from anybody else such a header is
//! nonsense, and from these it has to be there, so that no client behind one can be taken for it.

use ppp::{v1, v2};

use crate::client::end::LoginError;
use crate::config::Config;
use crate::net::{Ends, PeerAddr};
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::{Framed, ReadError};

/// The longest header of version 1, with its line end.
const V1_MAX: usize = 107;
/// What a header of version 2 begins with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Its fixed part; the length of the rest stands at the end of it.
const V2_FIXED: usize = 16;
/// The longest rest that is taken: addresses, and what else a balancer may tell.
const V2_REST_MAX: usize = 2048;

/// The ends of a client's connection: its own, or what a balancer has said of them.
///
/// # Errors
/// No header came from where one has to, or nonsense.
pub(super) async fn ends(
    config: &Config,
    ends: Ends,
    framed: &mut Framed,
) -> Result<Ends, LoginError> {
    let is_trusted = match ends.peer {
        PeerAddr::Tcp(address, _) => {
            let from = &config.general.proxy_protocol_from;
            from.iter().any(|net| net.contains(&address.to_canonical()))
        }
        PeerAddr::Unix => false,
    };
    if !is_trusted {
        return Ok(ends);
    }
    loop {
        match header_len(&framed.buffer) {
            Some(Some(len)) => {
                let told = read(&framed.buffer[..len], ends).ok_or_else(malformed)?;
                framed.buffer.drain(..len);
                return Ok(told);
            }
            Some(None) => return Err(malformed()),
            None => match framed.fill().await {
                Ok(()) => {}
                // A check whether somebody listens, which a balancer makes without a word.
                Err(ReadError::Closed) if framed.buffer.is_empty() => {
                    return Err(LoginError::NoSession);
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
}

fn malformed() -> LoginError {
    LoginError::refused(
        SqlState::PROTOCOL_VIOLATION,
        "a header of the PROXY protocol is expected from this address (proxy_protocol_from)",
    )
}

/// How long the header is that `bytes` begin with. `None`: more is needed to tell; `Some(None)`: it is
/// none.
fn header_len(bytes: &[u8]) -> Option<Option<usize>> {
    let common = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..common] == V2_SIGNATURE[..common] {
        let fixed = bytes.get(..V2_FIXED)?;
        let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if rest > V2_REST_MAX {
            return Some(None);
        }
        return (bytes.len() >= V2_FIXED + rest).then_some(Some(V2_FIXED + rest));
    }
    let common = bytes.len().min(b"PROXY ".len());
    if bytes[..common] != b"PROXY "[..common] {
        return Some(None);
    }
    let line = &bytes[..bytes.len().min(V1_MAX)];
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => Some(Some(end + 2)),
        None if line.len() == V1_MAX => Some(None),
        None => None,
    }
}

/// Reads a whole header. One that says nothing of a client leaves the connection's own ends.
fn read(header: &[u8], own: Ends) -> Option<Ends> {
    if header.starts_with(b"PROXY ") {
        return Some(match v1::Header::try_from(header).ok()?.addresses {
            v1::Addresses::Tcp4(ip) => told(
                (ip.source_address.into(), ip.source_port),
                (ip.destination_address.into(), ip.destination_port),
            ),
            v1::Addresses::Tcp6(ip) => told(
                (ip.source_address.into(), ip.source_port),
                (ip.destination_address.into(), ip.destination_port),
            ),
            v1::Addresses::Unknown => own,
        });
    }
    let header = v2::Header::try_from(header).ok()?;
    // The balancer on its own behalf.
    if header.command == v2::Command::Local {
        return Some(own);
    }
    Some(match header.addresses {
        v2::Addresses::IPv4(ip) => told(
            (ip.source_address.into(), ip.source_port),
            (ip.destination_address.into(), ip.destination_port),
        ),
        v2::Addresses::IPv6(ip) => told(
            (ip.source_address.into(), ip.source_port),
            (ip.destination_address.into(), ip.destination_port),
        ),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => own,
    })
}

fn told(peer: (std::net::IpAddr, u16), local: (std::net::IpAddr, u16)) -> Ends {
    Ends { peer: PeerAddr::Tcp(peer.0, peer.1), local: PeerAddr::Tcp(local.0, local.1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Ends = Ends { peer: PeerAddr::Unix, local: PeerAddr::Unix };

    fn peer(header: &[u8]) -> Option<String> {
        let len = header_len(header)??;
        Some(read(&header[..len], OWN)?.peer.to_string())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn both_versions_are_read_and_what_follows_is_left() {
        let four = [10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0x19, 0x20];
        for (header, said) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 6432\r\n".to_vec(), Some("10.0.0.1:12345")),
            (b"PROXY TCP6 2001:db8::1 ::1 12345 6432\r\n".to_vec(), Some("[2001:db8::1]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some("unix")),
            (v2(0x21, 0x11, &four), Some("10.0.0.1:12345")),
            (v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat()), Some("10.0.0.1:12345")),
            (v2(0x20, 0x00, &[]), Some("unix")),
            (v2(0x21, 0x11, &four[..4]), None),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 12345\r\n".to_vec(), None),
            (b"PROXY TCP4 300.0.0.1 10.0.0.2 12345 6432\r\n".to_vec(), None),
        ] {
            let behind = [&header[..], b"\0\0\0\x08\xff"].concat();
            assert_eq!(peer(&behind).as_deref(), said, "{}", header.escape_ascii());
            // Every beginning of it needs more, and is never taken for none.
            for cut in 0..header.len() {
                assert_eq!(header_len(&header[..cut]), None, "{}", header[..cut].escape_ascii());
            }
        }
        for nonsense in
            [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"GET / HTTP", b"PROXYTCP4 ", &[b'P'; 200]]
        {
            assert_eq!(header_len(nonsense), Some(None));
        }
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        assert_eq!(header_len(&endless), Some(None));
        assert_eq!(header_len(&v2(0x21, 0x11, &[0; 3000])), Some(None));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for header in [bytes.clone(), [V2_SIGNATURE, &bytes].concat(), [b"PROXY ", &bytes[..]].concat()] {
                let _ = peer(&header);
            }
        }
    }
}
