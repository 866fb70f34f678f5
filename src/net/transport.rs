//! One connected socket, TCP, TCP under TLS, or Unix, with the few operations the relay needs.
//!
//! Reads go through `poll_read` and not `try_read`: on a short read tokio clears the readiness it
//! had cached, so the next poll parks without the extra EAGAIN that `try_read` would cost.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, ServerName};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::PeerAddr;
use super::tls::{self, HandshakeError, TlsKind, TlsSession};

/// A connected stream socket registered with the reactor of the worker that made it.
#[derive(Debug)]
pub enum Transport {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// TCP likewise, with TLS on it.
    Tls(TcpStream, Box<TlsSession>),
    /// A Unix-domain stream socket.
    Unix(UnixStream),
    /// No socket any more: moving it to another reactor failed.
    Closed,
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Room that [`Transport::read_some`] makes for plaintext.
const READ_BYTES: usize = 4096;

impl Transport {
    /// Has a TCP connection go on under TLS, as its server. `received` is what was read of the
    /// handshake already; with `needs_alpn` the client must say that it wants PostgreSQL.
    ///
    /// Dropping the future leaves the socket amid a handshake: it can only be closed.
    ///
    /// # Errors
    /// The handshake's; the connection is of no use any more.
    pub async fn accept_tls(
        &mut self,
        config: &Arc<rustls::ServerConfig>,
        received: Vec<u8>,
        needs_alpn: bool,
    ) -> Result<(), HandshakeError> {
        let Self::Tcp(socket) = self else { return Err(closed().into()) };
        let session = tls::accept(socket, config, received, needs_alpn).await?;
        self.put_on(session);
        Ok(())
    }

    /// Has a TCP connection go on under TLS, as its client. Dropping the future leaves the socket
    /// amid a handshake: it can only be closed.
    ///
    /// # Errors
    /// The handshake's; the connection is of no use any more.
    pub async fn connect_tls(
        &mut self,
        config: &Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(), HandshakeError> {
        let Self::Tcp(socket) = self else { return Err(closed().into()) };
        let session = tls::connect(socket, config, name).await?;
        self.put_on(session);
        Ok(())
    }

    fn put_on(&mut self, session: Box<TlsSession>) {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Tcp(socket) => Self::Tls(socket, session),
            other => other,
        };
    }

    /// What was agreed on, if the connection is under TLS.
    #[must_use]
    pub fn tls(&self) -> Option<TlsKind> {
        match self {
            Self::Tls(_, session) => Some(session.kind()),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => None,
        }
    }

    /// The certificate that the peer has shown, and those behind it; empty if it has shown none.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Tls(_, session) => session.peer_certificates(),
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => &[],
        }
    }

    /// Reads what is there into `buf`; `Ready(Ok(0))` is the end of the stream. Registers the
    /// waker, and makes no system call, when the socket is known not to be readable.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let buf = match self {
            Self::Tls(s, session) => return session.poll_read(s, cx, buf),
            _ => buf,
        };
        let mut buf = ReadBuf::new(buf);
        let polled = match self {
            Self::Tls(..) | Self::Closed => return Poll::Ready(Err(closed())),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, &mut buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, &mut buf),
        };
        polled.map(|result| result.map(|()| buf.filled().len()))
    }

    /// Writes some of `bytes`. Under TLS a part of what was taken may wait here; it is sent by
    /// whatever is polled next.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s, session) => session.poll_write(s, cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Ready when nothing that was taken waits here any more. No system call, unless something does.
    ///
    /// # Errors
    /// The socket's: what was taken is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(s, session) => session.poll_flush(s, cx),
            // The kernel has what was taken.
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Registers the waker for readability without reading. No system call, unless bytes wait to be
    /// sent under TLS.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Tls(s, session) => {
                // A failure shows at the next write, and to the reader as the end.
                let _ = session.poll_flush(s, cx);
                if session.is_readable() { Poll::Ready(Ok(())) } else { s.poll_read_ready(cx) }
            }
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    /// Appends what can be read to `buf`, waiting for at least one byte; 0 is the end of the
    /// stream. Cancel-safe: bytes are in `buf` or still in the socket.
    pub async fn read_some(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read_buf(buf).await,
            Self::Tls(s, session) => {
                poll_fn(|cx| {
                    let len = buf.len();
                    buf.resize(len + READ_BYTES, 0);
                    let read = session.poll_read(s, cx, &mut buf[len..]);
                    let count = if let Poll::Ready(Ok(count)) = &read { *count } else { 0 };
                    buf.truncate(len + count);
                    read
                })
                .await
            }
            Self::Unix(s) => s.read_buf(buf).await,
            Self::Closed => Err(closed()),
        }
    }

    /// Writes all of `bytes`. Not cancel-safe: a dropped call may have written a part, so the
    /// caller must not use the connection again.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.write_all(bytes).await,
            Self::Tls(s, session) => {
                let mut sent = 0;
                while sent < bytes.len() {
                    sent += poll_fn(|cx| session.poll_write(s, cx, &bytes[sent..])).await?;
                }
                poll_fn(|cx| session.poll_flush(s, cx)).await
            }
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
            Self::Tls(s, session) => {
                *self = Self::Tls(TcpStream::from_std(s.into_std()?)?, session);
            }
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
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match self {
            Self::Tls(s, session) => session.write_now(s, bytes),
            Self::Tcp(s) => SockRef::from(&*s).send(bytes),
            Self::Unix(s) => SockRef::from(&*s).send(bytes),
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
            Self::Tcp(s) | Self::Tls(s, _) => [PollFd::new(s, PollFlags::empty())],
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
    pub fn finish_writing(&mut self) -> io::Result<()> {
        self.say_closing();
        match self {
            Self::Tcp(s) | Self::Tls(s, _) => SockRef::from(&*s).shutdown(Shutdown::Write),
            Self::Unix(s) => SockRef::from(&*s).shutdown(Shutdown::Write),
            Self::Closed => Err(closed()),
        }
    }

    /// Under TLS, says that nothing more will be written, as far as the socket takes it at once: a
    /// peer that finds the connection closed without that may take it for cut off.
    pub fn say_closing(&mut self) {
        if let Self::Tls(s, session) = self {
            // The peer may be gone; it needs to be told nothing then.
            let _ = session.close_notify(s);
        }
    }

    /// Has the socket closed by a reset: what the peer has not read yet is lost to it.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(s) | Self::Tls(s, _) = self {
            // A socket that is gone already needs no reset.
            let _ = SockRef::from(s).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> PeerAddr {
        match self {
            Self::Tcp(s) | Self::Tls(s, _) => s.peer_addr().map_or(PeerAddr::Unix, PeerAddr::from),
            Self::Unix(_) | Self::Closed => PeerAddr::Unix,
        }
    }

    /// Our own address on this connection.
    #[must_use]
    pub fn local_addr(&self) -> PeerAddr {
        match self {
            Self::Tcp(s) | Self::Tls(s, _) => s.local_addr().map_or(PeerAddr::Unix, PeerAddr::from),
            Self::Unix(_) | Self::Closed => PeerAddr::Unix,
        }
    }
}
