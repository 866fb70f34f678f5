//! One connected socket, TCP or Unix, with the few operations the relay needs.
//!
//! Reads go through `poll_read` and not `try_read`: on a short read tokio clears the readiness it
//! had cached, so the next poll parks without the extra EAGAIN that `try_read` would cost.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket registered with the reactor of the worker that made it.
#[derive(Debug)]
pub enum Transport {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A Unix-domain stream socket.
    Unix(UnixStream),
    /// No socket any more: moving it to another reactor failed.
    Closed,
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Where a peer connects from, as the console shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddr {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A Unix-socket peer; such sockets have no useful address.
    Unix,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl PeerAddr {
    /// The address without the port; `unix` for Unix sockets, as PgBouncer shows it.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(addr) => addr.ip().to_string(),
            Self::Unix => "unix".into(),
        }
    }

    /// The TCP port, or 0.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp(addr) => addr.port(),
            Self::Unix => 0,
        }
    }
}

impl Transport {
    /// Reads what is there into `buf`; `Ready(Ok(0))` is the end of the stream. Registers the
    /// waker, and makes no system call, when the socket is known not to be readable.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let polled = match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, &mut buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, &mut buf),
            Self::Closed => return Poll::Ready(Err(closed())),
        };
        polled.map(|result| result.map(|()| buf.filled().len()))
    }

    /// Writes some of `bytes`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Registers the waker for readability without reading. Never a system call.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Appends what can be read to `buf`, waiting for at least one byte; 0 is the end of the
    /// stream. Cancel-safe: bytes are in `buf` or still in the socket.
    pub async fn read_some(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read_buf(buf).await,
            Self::Unix(s) => s.read_buf(buf).await,
            Self::Closed => Err(closed()),
        }
    }

    /// Writes all of `bytes`. Not cancel-safe: a dropped call may have written a part, so the
    /// caller must not use the connection again.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.write_all(bytes).await,
            Self::Unix(s) => s.write_all(bytes).await,
            Self::Closed => Err(closed()),
        }
    }

    /// Moves the registration to the reactor of the calling thread (two `epoll_ctl` calls).
    /// Nothing is known of the readiness afterwards until the reactor has looked once.
    ///
    /// # Errors
    /// When the kernel refuses the registration; the socket is closed then.
    pub fn rehome(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::Closed) {
            Self::Tcp(s) => *self = Self::Tcp(TcpStream::from_std(s.into_std()?)?),
            Self::Unix(s) => *self = Self::Unix(UnixStream::from_std(s.into_std()?)?),
            Self::Closed => return Err(closed()),
        }
        Ok(())
    }

    /// Writes what the kernel takes at once, past the reactor: for a socket that has just moved,
    /// of whose readiness nothing is known yet. 0 if it takes nothing.
    ///
    /// # Errors
    /// The socket's.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match self {
            Self::Tcp(s) => SockRef::from(s).send(bytes),
            Self::Unix(s) => SockRef::from(s).send(bytes),
            Self::Closed => Err(closed()),
        };
        match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Whether the connection is broken: reset, or given up by the kernel. Unlike a read it tells so
    /// past bytes that nobody has read yet; the end of a stream behind such bytes is not its matter.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = match self {
            Self::Tcp(s) => [PollFd::new(s, PollFlags::empty())],
            Self::Unix(s) => [PollFd::new(s, PollFlags::empty())],
            Self::Closed => return true,
        };
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let asked = poll(&mut fds, Some(&now));
        asked.is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Tells the peer that nothing more will be written.
    ///
    /// # Errors
    /// The socket's.
    pub fn finish_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => SockRef::from(s).shutdown(Shutdown::Write),
            Self::Unix(s) => SockRef::from(s).shutdown(Shutdown::Write),
            Self::Closed => Err(closed()),
        }
    }

    /// Has the socket closed by a reset: what the peer has not read yet is lost to it.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(s) = self {
            // A socket that is gone already needs no reset.
            let _ = SockRef::from(s).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> PeerAddr {
        match self {
            Self::Tcp(s) => s.peer_addr().map_or(PeerAddr::Unix, PeerAddr::Tcp),
            Self::Unix(_) | Self::Closed => PeerAddr::Unix,
        }
    }

    /// Our own address on this connection.
    #[must_use]
    pub fn local_addr(&self) -> PeerAddr {
        match self {
            Self::Tcp(s) => s.local_addr().map_or(PeerAddr::Unix, PeerAddr::Tcp),
            Self::Unix(_) | Self::Closed => PeerAddr::Unix,
        }
    }
}
