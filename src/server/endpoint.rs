//! Where a server listens.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::net::{TcpStream, UnixStream};

use crate::net::{SocketOptions, Transport};

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

    /// Connects, on the calling worker's reactor. Dropping the future closes what was opened.
    ///
    /// # Errors
    /// The system's, for the last of the addresses that a name resolves to.
    pub async fn connect(&self, options: &SocketOptions) -> io::Result<Transport> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                options.apply(&stream)?;
                Ok(Transport::Tcp(stream))
            }
            Self::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
        }
    }
}
