//! Addresses: where to listen, where a server is, where sockets live. Nothing is resolved here.
//!
//! Invariant: a socket directory is absolute and short enough that the socket's whole path
//! fits the kernel's `sun_path` (108 bytes on Linux, the last one NUL).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::super::value::{Kind, Refusal, Value};
use super::list::items;

/// Longest socket directory in bytes: 107, less "/.s.PGSQL." and five digits of a port.
const SOCKET_DIR_BYTES_MAX: usize = 92;

/// One address to accept TCP connections on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// `*`: every interface, IPv4 and IPv6.
    Any,
    /// A literal address.
    Ip(IpAddr),
    /// A host name, to be resolved when the listener is opened.
    Name(String),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Where a PostgreSQL server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerHost {
    /// A literal address.
    Ip(IpAddr),
    /// A host name, to be resolved when a connection is made.
    Name(String),
    /// The directory of a unix socket; the socket is `.s.PGSQL.<port>` in it.
    SocketDir(PathBuf),
    /// Several, none of them itself several, on the same port.
    Several(Vec<ServerHost>),
}

impl ServerHost {
    /// Each of the hosts; most are one.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(hosts) => hosts,
            one => std::slice::from_ref(one),
        }
    }
}

impl fmt::Display for ServerHost {
    /// As `host` would be written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::SocketDir(dir) => dir.display().fmt(f),
            Self::Several(hosts) => {
                let texts: Vec<_> = hosts.iter().map(Self::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// An address or a name, without a port.
enum Endpoint {
    Ip(IpAddr),
    Name(String),
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, Refusal> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let ip: Result<Ipv6Addr, _> = inner.parse();
            return ip.map(|ip| Self::Ip(ip.into())).map_err(|_| not_an_endpoint());
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if let Some((_, port)) = text.rsplit_once(':')
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(Refusal::Because("a port is given by its own key, not after a colon"));
        }
        // Underscores are no part of a DNS host name but common in container networks.
        let name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let digits_only = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if text.is_empty() || digits_only || text.len() > 253 || !text.bytes().all(name_byte) {
            return Err(not_an_endpoint());
        }
        Ok(Self::Name(text.to_owned()))
    }
}

fn not_an_endpoint() -> Refusal {
    Refusal::expected("a host name or an IP address")
}

/// A list of [`ListenAddr`]; empty for no TCP.
pub(in crate::config) struct ListenAddrs;

impl Kind<Vec<ListenAddr>> for ListenAddrs {
    fn read(&self, value: &Value) -> Result<Vec<ListenAddr>, Refusal> {
        let form = "host names or IP addresses, or \"*\", as an array or one string with commas";
        let items = items(value).ok_or_else(|| Refusal::expected(form))?;
        let parsed: Result<Vec<_>, _> = items.iter().map(|item| listen_addr(item)).collect();
        let addresses = parsed?;
        if addresses.len() > 1 && addresses.contains(&ListenAddr::Any) {
            return Err(Refusal::Because("\"*\" already covers every other address"));
        }
        Ok(addresses)
    }

    fn show(&self, value: &Vec<ListenAddr>) -> String {
        let texts: Vec<_> = value.iter().map(ListenAddr::to_string).collect();
        texts.join(", ")
    }

    fn range(&self) -> Cow<'static, str> {
        "a list of host names, IP addresses or *; empty for no TCP".into()
    }
}

fn listen_addr(text: &str) -> Result<ListenAddr, Refusal> {
    if text == "*" {
        return Ok(ListenAddr::Any);
    }
    Ok(match Endpoint::parse(text)? {
        Endpoint::Ip(ip) => ListenAddr::Ip(ip),
        Endpoint::Name(name) => ListenAddr::Name(name),
    })
}

/// A [`ServerHost`]; empty text is `None`, the pooler's own socket directory.
pub(in crate::config) struct Host;

impl Kind<Option<ServerHost>> for Host {
    fn read(&self, value: &Value) -> Result<Option<ServerHost>, Refusal> {
        let Value::Text(text) = value else {
            return Err(Refusal::expected("a host name, an IP address or a socket directory"));
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let hosts: Vec<_> =
            text.split(',').map(|host| server_host(host.trim())).collect::<Result<_, _>>()?;
        Ok(Some(match hosts.len() {
            1 => hosts.into_iter().next().expect("BUG: one was counted"),
            _ => ServerHost::Several(hosts),
        }))
    }

    fn show(&self, value: &Option<ServerHost>) -> String {
        value.as_ref().map_or_else(String::new, ServerHost::to_string)
    }

    fn range(&self) -> Cow<'static, str> {
        "host names, IP addresses or socket directories, with commas between".into()
    }
}

fn server_host(text: &str) -> Result<ServerHost, Refusal> {
    if text.starts_with(['/', '@']) {
        return socket_dir(text).map(ServerHost::SocketDir);
    }
    Ok(match Endpoint::parse(text)? {
        Endpoint::Ip(ip) => ServerHost::Ip(ip),
        Endpoint::Name(name) => ServerHost::Name(name),
    })
}

/// A directory for unix sockets; empty text is `None`, no socket.
pub(in crate::config) struct SocketDir;

impl Kind<Option<PathBuf>> for SocketDir {
    fn read(&self, value: &Value) -> Result<Option<PathBuf>, Refusal> {
        match value {
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) => socket_dir(text).map(Some),
            _ => Err(not_a_socket_dir()),
        }
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |dir| dir.display().to_string())
    }

    fn range(&self) -> Cow<'static, str> {
        format!("an absolute path of at most {SOCKET_DIR_BYTES_MAX} bytes; empty for none").into()
    }
}

fn socket_dir(text: &str) -> Result<PathBuf, Refusal> {
    if text.starts_with('@') {
        let abstract_socket = "abstract sockets are not supported by this version of pgbaton";
        return Err(Refusal::Because(abstract_socket));
    }
    if !text.starts_with('/') || text.len() > SOCKET_DIR_BYTES_MAX || text.contains('\0') {
        return Err(not_a_socket_dir());
    }
    Ok(PathBuf::from(text))
}

fn not_a_socket_dir() -> Refusal {
    Refusal::expected(format!(
        "the absolute path of a directory, at most {SOCKET_DIR_BYTES_MAX} bytes long"
    ))
}
