//! TLS on one TCP socket: what becomes of plaintext and ciphertext between a socket and its user.
//!
//! It drives `rustls` itself, not through an adapter for tokio: a server connection moves between the
//! reactors of the workers, which an adapter that owns its socket cannot; and rustls' unbuffered
//! interface lets all connections of a worker share one pair of scratch buffers, so that an idle one
//! owns no buffer.
//!
//! Knows nothing of PostgreSQL. Invariants:
//! - Plaintext is taken only when no ciphertext waits for the socket, and one record of it at a time:
//!   what waits is bounded.
//! - Whoever polls next, for whatever, sends what waits: a user that thinks its bytes gone and only
//!   reads cannot wait for an answer to bytes that never left.
//! - `carry` holds no whole record: what was decrypted and not taken is in `plain`, and a connection
//!   with `plain` is ready without its socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::scratch::{CIPHER_BYTES, with_cipher_scratch};

mod describe;
mod handshake;
#[cfg(test)]
mod tests;

pub use describe::TlsKind;
pub use handshake::HandshakeError;
pub(super) use handshake::{accept, connect};

/// The longest record on the wire: TLS 1.2 lets a ciphertext be 2048 bytes longer than its text.
const RECORD_MAX: usize = 5 + 16 * 1024 + 2048;
/// Plaintext taken by one write: one record.
const WRITE_MAX: usize = 16 * 1024;
/// What one record adds to its plaintext, and what rustls may put in front of it: a key update.
const WRITE_OVERHEAD: usize = 256;
/// Ciphertext kept for messages that are not whole. After the handshake these are short; a peer that
/// sends longer ones is up to no good.
const CARRY_MAX: usize = 2 * RECORD_MAX;

/// Either end of a TLS connection.
enum End {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// The state of TLS on a socket that is kept beside it.
pub struct TlsSession {
    end: End,
    /// Ciphertext that is no whole record yet.
    carry: Vec<u8>,
    /// Plaintext that nobody has taken yet, from `plain_taken` on.
    plain: Vec<u8>,
    plain_taken: usize,
    /// Ciphertext that the socket did not take yet.
    unsent: Vec<u8>,
    /// The socket takes nothing any more; what it still has to be read is not lost by that.
    write_failure: Option<io::ErrorKind>,
    /// No more will be read: the stream is at its end, or broken.
    is_ended: bool,
    /// What rustls has found wrong. It must not be asked again then: it takes that for a mistake of its
    /// user's, and panics.
    fault: Option<Box<rustls::Error>>,
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

/// Where decrypted bytes go: to the reader as far as there is room, the rest is kept.
struct Taker<'a> {
    buf: &'a mut [u8],
    filled: usize,
    rest: &'a mut Vec<u8>,
}

impl Taker<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let room = &mut self.buf[self.filled..];
        let direct = room.len().min(bytes.len());
        room[..direct].copy_from_slice(&bytes[..direct]);
        self.filled += direct;
        self.rest.extend_from_slice(&bytes[direct..]);
    }
}

/// What is left to be done when all records have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The handshake needs more from the peer.
    Handshaking,
    /// Data may flow.
    Open,
    /// The peer has said that it will send no more.
    PeerClosed,
}

/// What one step has led to.
enum Step {
    /// Look again.
    Again,
    Done(Outcome),
}

impl End {
    /// Looks at all records of `incoming`. Gives how many of its bytes are done with; what is to be
    /// sent is appended to `out`, an alert for a failure too.
    fn process(
        &mut self,
        incoming: &mut [u8],
        taker: &mut Taker<'_>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Outcome, rustls::Error>) {
        let (mut consumed, mut peer_closed) = (0, false);
        loop {
            let rest = &mut incoming[consumed..];
            let step = match self {
                Self::Client(end) => step(end.process_tls_records(rest), taker, out),
                Self::Server(end) => step(end.process_tls_records(rest), taker, out),
            };
            let (discard, step) = step;
            consumed += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done(Outcome::PeerClosed)) => peer_closed = true,
                Ok(Step::Done(_)) if peer_closed => return (consumed, Ok(Outcome::PeerClosed)),
                Ok(Step::Done(outcome)) => return (consumed, Ok(outcome)),
                Err(error) => {
                    self.take_alert(&mut incoming[consumed..], out);
                    return (consumed, Err(error));
                }
            }
        }
    }

    /// The alert that rustls may have ready behind a failure: only then may it be asked, since only then
    /// it looks at no more.
    fn take_alert(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        let alert = match self {
            Self::Client(end) if end.wants_write() => encode_only(end.process_tls_records(rest)),
            Self::Server(end) if end.wants_write() => encode_only(end.process_tls_records(rest)),
            Self::Client(_) | Self::Server(_) => return,
        };
        out.extend_from_slice(&alert);
    }

    /// Encrypts `bytes`, or the word that no more will come, behind what is to be sent first.
    /// `false`: not before the handshake is over.
    fn seal(
        &mut self,
        bytes: Option<&[u8]>,
        carry: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        match self {
            Self::Client(end) => seal(end.process_tls_records(carry), bytes, out),
            Self::Server(end) => seal(end.process_tls_records(carry), bytes, out),
        }
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    taker: &mut Taker<'_>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut read = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        taker.take(record.payload);
                    }
                    Err(error) => {
                        read = Err(error);
                        break;
                    }
                }
            }
            read
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, out);
            Ok(Step::Again)
        }
        // It is in `out`, which is sent in order.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::Done(Outcome::PeerClosed)),
        // Both have closed: that the peer has was told before, or is told again.
        Ok(ConnectionState::Closed) => return (discard, Ok(Step::Done(Outcome::Open))),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Done(Outcome::Handshaking)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done(Outcome::Open)),
        // Early data is never accepted, and what a later rustls may add is not asked for.
        Ok(_) => Err(unexpected()),
    };
    (discard, step)
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut size = 1024;
    loop {
        out.resize(start + size, 0);
        match data.encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(needs)) => size = needs.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(start),
        }
    }
}

fn encode_only<D>(status: UnbufferedStatus<'_, '_, D>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state {
        encode(&mut data, &mut out);
    }
    out
}

fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    bytes: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<bool, rustls::Error> {
    let mut traffic = match status.state {
        Err(error) => return Err(error),
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, out);
            return Ok(false);
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            return Ok(false);
        }
        // What the peer has closed may still be written to.
        Ok(ConnectionState::PeerClosed) => return Ok(false),
        Ok(_) => return Err(unexpected()),
    };
    let start = out.len();
    out.resize(start + bytes.map_or(0, <[u8]>::len) + WRITE_OVERHEAD, 0);
    let sealed = match bytes {
        Some(bytes) => traffic.encrypt(bytes, &mut out[start..]),
        None => traffic.queue_close_notify(&mut out[start..]),
    };
    out.truncate(start + *sealed.as_ref().unwrap_or(&0));
    // Too many bytes under one key, or a buffer that is too short after all.
    sealed.map(|_| true).map_err(|error| rustls::Error::General(error.to_string()))
}

fn unexpected() -> rustls::Error {
    rustls::Error::General("unexpected state of the connection".into())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsSession {
    /// What was agreed on, for the console.
    #[must_use]
    pub fn kind(&self) -> TlsKind {
        match &self.end {
            End::Client(end) => TlsKind::of(end),
            End::Server(end) => TlsKind::of(end),
        }
    }

    /// The certificate that the peer has shown, and those behind it; empty if it has shown none.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        let shown = match &self.end {
            End::Client(end) => end.peer_certificates(),
            End::Server(end) => end.peer_certificates(),
        };
        shown.unwrap_or_default()
    }

    /// Reads plaintext; `Ready(Ok(0))` is the end of the stream, announced or not, as PostgreSQL takes
    /// it. Cancel-safe: nothing is lost between two polls.
    pub(super) fn poll_read(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            // It waits for the socket by itself, and a failure is the next write's to tell.
            let _ = self.poll_flush(socket, cx);
            let taken = self.take_plain(buf);
            if taken > 0 || buf.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            if let Some(fault) = &self.fault {
                return Poll::Ready(Err(invalid((**fault).clone())));
            }
            if self.is_ended {
                return Poll::Ready(Ok(0));
            }
            let filled = ready!(self.poll_records(socket, cx, buf))?;
            if filled > 0 {
                let _ = self.poll_flush(socket, cx);
                return Poll::Ready(Ok(filled));
            }
        }
    }

    fn take_plain(&mut self, buf: &mut [u8]) -> usize {
        let waiting = &self.plain[self.plain_taken..];
        let taken = waiting.len().min(buf.len());
        buf[..taken].copy_from_slice(&waiting[..taken]);
        self.plain_taken += taken;
        if self.plain_taken == self.plain.len() && self.plain_taken > 0 {
            self.plain = Vec::new();
            self.plain_taken = 0;
        }
        taken
    }

    /// Reads the socket once. 0: there was no plaintext in it, or the stream is at its end.
    fn poll_records(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        with_cipher_scratch(|scratch| {
            let kept = self.carry.len();
            // No more than there is room for once it is decrypted, or a record.
            let end = (kept + buf.len().max(RECORD_MAX)).min(CIPHER_BYTES);
            let mut input = ReadBuf::new(&mut scratch.input[kept..end]);
            let read = ready!(Pin::new(&mut *socket).poll_read(cx, &mut input));
            let count = input.filled().len();
            if let Err(e) = read {
                self.is_ended = true;
                return Poll::Ready(Err(e));
            }
            if count == 0 {
                self.is_ended = true;
                return Poll::Ready(Ok(0));
            }
            scratch.input[..kept].copy_from_slice(&self.carry);
            let input = &mut scratch.input[..kept + count];
            let mut taker = Taker { buf, filled: 0, rest: &mut self.plain };
            let (consumed, outcome) = self.end.process(input, &mut taker, &mut self.unsent);
            let filled = taker.filled;
            let rest = &input[consumed..];
            self.carry = if rest.is_empty() { Vec::new() } else { rest.to_vec() };
            let fault = match outcome {
                Ok(Outcome::PeerClosed) => {
                    self.is_ended = true;
                    self.carry = Vec::new();
                    return Poll::Ready(Ok(filled));
                }
                Ok(_) if self.carry.len() < CARRY_MAX => return Poll::Ready(Ok(filled)),
                Ok(_) => rustls::Error::General("a message is too long".into()),
                Err(error) => error,
            };
            self.is_ended = true;
            self.fault = Some(Box::new(fault));
            // What came before the fault is the peer's word.
            Poll::Ready(Ok(filled))
        })
    }

    /// Takes one record's worth of `bytes` once nothing waits, and sends what the socket takes.
    pub(super) fn poll_write(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(socket, cx))?;
        let mut send = |bytes: &[u8]| match Pin::new(&mut *socket).poll_write(cx, bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        };
        Poll::Ready(self.write_with(&mut send, bytes))
    }

    /// Encrypts and sends; what is not sent waits in `unsent`, which must be empty.
    fn write_with(
        &mut self,
        send: &mut dyn FnMut(&[u8]) -> io::Result<usize>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(WRITE_MAX)];
        if taken.is_empty() {
            return Ok(0);
        }
        with_cipher_scratch(|scratch| {
            self.seal(Some(taken), &mut scratch.output)?;
            let out = &scratch.output[..];
            let sent = send_all(send, out).inspect_err(|e| self.write_failure = Some(e.kind()))?;
            if sent < out.len() {
                self.unsent = out[sent..].to_vec();
            }
            Ok(taken.len())
        })
    }

    /// Encrypts `bytes`, or the word that no more will come.
    fn seal(&mut self, bytes: Option<&[u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            if self.fault.is_some() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            match self.end.seal(bytes, &mut self.carry, out) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(fault) => {
                    self.fault = Some(Box::new(fault.clone()));
                    return Err(invalid(fault));
                }
            }
        }
    }

    /// Sends what waits, past the reactor, and then takes `bytes` if nothing waits any more.
    pub(super) fn write_now(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut send = |bytes: &[u8]| SockRef::from(socket).send(bytes);
        if !self.flush_with(&mut send)? {
            return Ok(0);
        }
        self.write_with(&mut send, bytes)
    }

    /// Ready when no ciphertext waits any more; otherwise the write waker is registered.
    pub(super) fn poll_flush(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() && self.write_failure.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut send = |bytes: &[u8]| match Pin::new(&mut *socket).poll_write(cx, bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        };
        match self.flush_with(&mut send) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Whether nothing waits any more.
    fn flush_with(&mut self, send: &mut dyn FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        if let Some(kind) = self.write_failure {
            return Err(kind.into());
        }
        match send_all(send, &self.unsent) {
            Ok(sent) if sent == self.unsent.len() => {
                self.unsent = Vec::new();
                Ok(true)
            }
            Ok(sent) => {
                self.unsent.drain(..sent);
                Ok(false)
            }
            Err(e) => {
                self.write_failure = Some(e.kind());
                self.unsent = Vec::new();
                Err(e)
            }
        }
    }

    /// Whether there is something to be read without the socket.
    pub(super) fn is_readable(&self) -> bool {
        self.is_ended || !self.plain.is_empty()
    }

    /// Tells the peer that no more will come, as far as the socket takes it at once.
    pub(super) fn close_notify(&mut self, socket: &TcpStream) -> io::Result<()> {
        let mut send = |bytes: &[u8]| SockRef::from(socket).send(bytes);
        if self.flush_with(&mut send)? {
            let mut out = Vec::new();
            self.seal(None, &mut out)?;
            send_all(&mut send, &out)?;
        }
        Ok(())
    }
}

/// Sends until the socket takes no more. Gives how much it took.
fn send_all(send: &mut dyn FnMut(&[u8]) -> io::Result<usize>, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sent)
}
