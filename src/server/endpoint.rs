//! Where a server listens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::net::{NameTtl, Names, PeerAddr, SocketOptions, Transport};

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host name or IP address, resolved at each connect, and a port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Endpoint {
    /// The endpoint that a database entry's host and port mean: a host that begins with a slash
    /// is a directory of Unix sockets.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') {
            Self::Unix(PathBuf::from(format!("{host}/.s.PGSQL.{port}")))
        } else {
            Self::Tcp { host: host.to_owned(), port }
        }
    }

    /// Whether it is on this machine for sure.
    #[must_use]
    pub const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Its host name or address; none has a Unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix(_) => None,
        }
    }

    /// Connects, on the calling worker's reactor, within `limit`: each of several addresses gets its
    /// part of the time, so that one that does not answer leaves some for the others. Dropping the
    /// future closes what was opened.
    ///
    /// # Errors
    /// The system's, for the last of the addresses that a name resolves to.
    pub async fn connect(
        &self,
        names: &Arc<Names>,
        ttl: NameTtl,
        options: &SocketOptions,
        limit: Duration,
    ) -> io::Result<Transport> {
        let (host, port) = match self {
            Self::Tcp { host, port } => (host, *port),
            Self::Unix(path) => return Ok(Transport::Unix(UnixStream::connect(path).await?)),
        };
        let addresses = names.resolve(host, ttl).await?;
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let attempt = tokio::time::timeout(limit / count, TcpStream::connect((address, port)));
            match attempt.await {
                Ok(Ok(stream)) => {
                    options.apply(&stream)?;
                    return Ok(Transport::Tcp(stream));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// Connects once more to where a connection leads, whatever its name means by now.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect_to(
        &self,
        peer: PeerAddr,
        options: &SocketOptions,
    ) -> io::Result<Transport> {
        match (self, peer) {
            (Self::Tcp { .. }, PeerAddr::Tcp(address, port)) => {
                let stream = TcpStream::connect((address, port)).await?;
                options.apply(&stream)?;
                Ok(Transport::Tcp(stream))
            }
            (Self::Unix(path), _) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
            (Self::Tcp { .. }, PeerAddr::Unix) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
