//! Listening sockets and the options of accepted ones.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::{PeerAddr, Transport};

/// TCP options of every connection, both towards clients and towards servers.
#[derive(Debug, Clone, Default)]
pub struct SocketOptions {
    /// Whether keepalive probes are sent.
    pub keepalive: bool,
    /// Idle time before the first probe; the system's default when absent.
    pub keepalive_idle: Option<Duration>,
    /// Time between probes; the system's default when absent.
    pub keepalive_interval: Option<Duration>,
    /// Probes before the peer is given up; the system's default when absent.
    pub keepalive_count: Option<u32>,
    /// How long sent data may stay unacknowledged; the system's default when absent.
    pub user_timeout: Option<Duration>,
    /// Bytes that the kernel may buffer in each direction; the system's choice when absent.
    pub buffer_bytes: Option<u32>,
}

impl SocketOptions {
    /// Applies the options and `TCP_NODELAY` to a TCP socket. What a listening socket accepts
    /// afterwards has them from the start: on Linux it takes them over.
    ///
    /// # Errors
    /// Whatever `setsockopt` reports; the socket is usable all the same.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if let Some(idle) = self.keepalive_idle {
                keepalive = keepalive.with_time(idle);
            }
            if let Some(interval) = self.keepalive_interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = self.keepalive_count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(bytes) = self.buffer_bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
            socket.set_recv_buffer_size(bytes)?;
            socket.set_send_buffer_size(bytes)?;
        }
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

/// One listening socket, registered with a reactor.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener, and the address that it listens on.
    Tcp(AsyncFd<std::net::TcpListener>, SocketAddr),
    /// A Unix listener; its socket file is removed when the listener is dropped.
    Unix(AsyncFd<std::os::unix::net::UnixListener>, SocketFile),
}

/// A connection that has been accepted and that no reactor knows yet: it may be another thread's.
#[derive(Debug)]
pub struct Accepted {
    socket: Socket,
    /// Its two ends.
    pub ends: Ends,
}

/// The two ends of a client's connection, as the console shows them.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The client's.
    pub peer: PeerAddr,
    /// Ours.
    pub local: PeerAddr,
}

impl Accepted {
    /// Registers it with the reactor of the calling context.
    ///
    /// # Errors
    /// The system's; the connection is closed then.
    pub fn register(self) -> io::Result<Transport> {
        Ok(match self.ends.peer {
            PeerAddr::Tcp(..) => Transport::Tcp(TcpStream::from_std(self.socket.into())?),
            PeerAddr::Unix => Transport::Unix(UnixStream::from_std(self.socket.into())?),
        })
    }
}

/// A Unix socket's file, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing to be done about a file that somebody else has removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Gives the connections accepted from now on these options.
    ///
    /// # Errors
    /// Whatever `setsockopt` reports.
    pub fn configure(&self, options: &SocketOptions) -> io::Result<()> {
        match self {
            Self::Tcp(listener, _) => options.apply(listener.get_ref()),
            Self::Unix(..) => Ok(()),
        }
    }

    /// Accepts one connection. Cancel-safe.
    ///
    /// # Errors
    /// `accept(2)`'s; `EMFILE` and its like are the caller's to wait out.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, bound) => {
                let (socket, peer) = listener.async_io(Interest::READABLE, accept_now).await?;
                let Some(peer) = peer else {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                };
                // Bound to all addresses, only the connection knows which one was meant.
                let local = match bound.ip().is_unspecified() {
                    true => socket.local_addr()?.as_socket().unwrap_or(*bound),
                    false => *bound,
                };
                Ok(Accepted { socket, ends: Ends { peer: peer.into(), local: local.into() } })
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.async_io(Interest::READABLE, accept_now).await?;
                let ends = Ends { peer: PeerAddr::Unix, local: PeerAddr::Unix };
                Ok(Accepted { socket, ends })
            }
        }
    }
}

/// Takes one connection from the backlog, ready for a reactor.
fn accept_now(listener: &impl AsFd) -> io::Result<(Socket, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags)?;
    Ok((socket.into(), peer.and_then(|peer| peer.try_into().ok())))
}

/// A bound socket that no reactor knows yet: sockets are bound before there are threads.
#[derive(Debug)]
pub enum Bound {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

impl Bound {
    /// Registers it with the reactor of the calling context.
    ///
    /// # Errors
    /// The system's.
    pub fn register(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => {
                let addr = listener.local_addr()?;
                Listener::Tcp(watched(listener)?, addr)
            }
            Self::Unix(listener, file) => Listener::Unix(watched(listener)?, file),
        })
    }
}

/// A listening socket whose connections are accepted here, not by tokio: its own listeners register
/// each connection with the reactor that accepts it, and most belong to another one.
#[expect(deprecated, reason = "unsound for what changes its descriptor, which these never do")]
fn watched<T: AsRawFd>(listener: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// Binds a TCP listener with `SO_REUSEADDR`.
///
/// # Errors
/// The system's, with the address known to the caller.
pub fn bind_tcp(addr: SocketAddr, backlog: u32) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(Bound::Tcp(socket.into()))
}

/// Whose a socket file is to be, where it is not the process's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketOwner {
    /// The user's id.
    pub uid: Option<u32>,
    /// The group's id.
    pub gid: Option<u32>,
}

/// Binds `DIR/.s.PGSQL.PORT` with the given mode and owner. A socket file that nobody listens on any
/// more is replaced; one in use is an error. Call it while there is one thread: the file is made
/// with no more rights than `mode` by way of the process's umask.
///
/// # Errors
/// `AddrInUse` when another process answers there, else the system's.
pub fn bind_unix(dir: &Path, port: u16, mode: u32, owner: SocketOwner) -> io::Result<Bound> {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens on this socket",
            ));
        }
        std::fs::remove_file(&path)?;
    }
    let umask = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let bound = std::os::unix::net::UnixListener::bind(&path);
    rustix::process::umask(umask);
    let listener = bound?;
    let file = SocketFile(path);
    // The owner first: nobody gets a right before it is known whose it is.
    std::os::unix::fs::chown(&file.0, owner.uid, owner.gid)?;
    std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_have_the_options_and_know_both_ends() {
        let bound = bind_tcp("127.0.0.1:0".parse().unwrap(), 8).unwrap();
        let listener = bound.register().unwrap();
        let options = SocketOptions {
            keepalive: true,
            keepalive_idle: Some(Duration::from_secs(77)),
            user_timeout: Some(Duration::from_secs(33)),
            ..SocketOptions::default()
        };
        listener.configure(&options).unwrap();
        let Listener::Tcp(_, addr) = &listener else { panic!("it is bound to TCP") };
        let client = TcpStream::connect(addr).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        let socket = &accepted.socket;
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(33)));
        assert_eq!(accepted.ends.peer, client.local_addr().unwrap().into());
        assert_eq!(accepted.ends.local, client.peer_addr().unwrap().into());
        assert!(matches!(accepted.register().unwrap(), Transport::Tcp(_)));
    }

    #[tokio::test]
    async fn a_socket_bound_to_all_addresses_tells_which_one_was_meant() {
        let listener = bind_tcp("0.0.0.0:0".parse().unwrap(), 8).unwrap().register().unwrap();
        let Listener::Tcp(_, addr) = &listener else { panic!("it is bound to TCP") };
        let target = SocketAddr::from(([127, 0, 0, 1], addr.port()));
        let _client = TcpStream::connect(target).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().ends.local, target.into());
    }
}
