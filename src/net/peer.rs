//! The address of the other end of a connection, as logs and the console show it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a peer connects from, as the console shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddr {
    /// A TCP peer, by address and port. Not a `SocketAddr`: each client keeps two of these.
    Tcp(IpAddr, u16),
    /// A Unix-socket peer; such sockets have no useful address.
    Unix,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(IpAddr::V4(ip), port) => {
                let mut text = V4Text::default();
                let [a, b, c, d] = ip.octets().map(u16::from);
                for (number, behind) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b':')] {
                    text.push_number(number);
                    text.push(behind);
                }
                text.push_number(*port);
                f.write_str(text.as_str())
            }
            Self::Tcp(ip, port) => SocketAddr::new(*ip, *port).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// An IPv4 address and port as text, written in one piece: it stands in two lines of the log for each
/// client, and the library's nine pieces cost more than all else in such a line.
#[derive(Default)]
struct V4Text {
    bytes: [u8; "255.255.255.255:65535".len()],
    len: usize,
}

impl V4Text {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_number(&mut self, number: u16) {
        let mut unit = 10_000;
        while unit > 1 && number < unit {
            unit /= 10;
        }
        while unit > 0 {
            self.push(b'0' + (number / unit % 10) as u8);
            unit /= 10;
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr.ip(), addr.port())
    }
}

impl PeerAddr {
    /// The address without the port; `unix` for Unix sockets, as PgBouncer shows it.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(ip, _) => ip.to_string(),
            Self::Unix => "unix".into(),
        }
    }

    /// The TCP port, or 0.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp(_, port) => *port,
            Self::Unix => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_the_library_shows_it() {
        let ports = [0, 1, 9, 10, 99, 100, 999, 1_000, 9_999, 10_000, 65_535];
        let ips = ["0.0.0.0", "127.0.0.1", "10.9.100.99", "255.255.255.255", "::1", "fe80::1:2"];
        for ip in ips.map(|ip| ip.parse::<IpAddr>().unwrap()) {
            for port in ports {
                let addr = SocketAddr::new(ip, port);
                assert_eq!(PeerAddr::from(addr).to_string(), addr.to_string());
            }
        }
        assert_eq!(PeerAddr::Unix.to_string(), "unix");
    }
}
