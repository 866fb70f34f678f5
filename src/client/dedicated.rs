//! Replication connections: a client with a server of its own, logged in with the client's own
//! parameters, from its login to its end. Bytes pass unread in both directions.
//!
//! The server takes a slot of its pool and is closed with its client. Invariant: nothing of ours is
//! put into the stream unless the client is at a message boundary.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::end::SessionEnd;
use super::hub::{ClientPlace, Hub, Registration};
use super::session::PoolClient;
use super::shared::{ClientState, Signal};
use crate::net::Transport;
use crate::primitives::clock;
use crate::protocol::encode;
use crate::protocol::frame::HEADER_LEN;
use crate::server::{ServerFault, ServerLease, ServerState};

/// Bytes moved at once; base backups and WAL come in bulk.
const BUFFER_BYTES: usize = 32 * 1024;

/// A logged-in client and its server.
#[derive(Debug)]
pub struct Dedicated {
    pub(super) transport: Transport,
    pub(super) _place: ClientPlace,
    pub(super) registration: Registration,
    pub(super) hub: Arc<Hub>,
    pub(super) _pool: PoolClient,
    pub(super) lease: ServerLease,
    pub(super) to_server: Flow,
    pub(super) to_client: Flow,
}

/// One direction: bytes read and not written yet, and where the stream stands.
#[derive(Debug)]
pub(super) struct Flow {
    buffer: Vec<u8>,
    written: usize,
    framing: Framing,
}

impl Flow {
    /// A stream at a message boundary that begins with these bytes.
    pub(super) fn beginning_with(bytes: Vec<u8>) -> Self {
        let mut framing = Framing::default();
        framing.pass(&bytes);
        Self { buffer: bytes, written: 0, framing }
    }

    /// Moves bytes until the source has ended; everything read is written then.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while self.written < self.buffer.len() {
                let sent = ready!(to.poll_write(cx, &self.buffer[self.written..]));
                self.written += sent.map_err(Broken::Sink)?;
            }
            self.written = 0;
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = from.poll_read(cx, &mut self.buffer);
            let count = match &read {
                Poll::Ready(Ok(count)) => *count,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            };
            self.buffer.truncate(count);
            if read.is_pending() {
                // A failure shows at the next write, or when the sink is read.
                let _ = to.poll_flush(cx);
            }
            if ready!(read).map_err(Broken::Source)? == 0 {
                return Poll::Ready(Ok(()));
            }
            self.framing.pass(&self.buffer);
        }
    }
}

/// Which end of a flow has failed.
#[derive(Debug)]
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// Where a stream of messages stands.
#[derive(Debug, Default)]
struct Framing {
    /// The tag of the message that was begun last; 0 before the first.
    tag: u8,
    /// The head that is being read.
    head: [u8; HEADER_LEN],
    head_len: usize,
    /// Bytes of the body still to come.
    body_left: usize,
}

impl Framing {
    fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.body_left.min(bytes.len());
            self.body_left -= skipped;
            bytes = &bytes[skipped..];
            let [first, rest @ ..] = bytes else { return };
            self.head[self.head_len] = *first;
            self.head_len += 1;
            bytes = rest;
            if self.head_len == HEADER_LEN {
                let [tag, a, b, c, d] = self.head;
                let length = u32::from_be_bytes([a, b, c, d]);
                self.tag = tag;
                self.head_len = 0;
                // A length below 4 is nonsense; the peer that gets it will say so.
                self.body_left = (length as usize).saturating_sub(4);
            }
        }
    }

    const fn is_at_boundary(&self) -> bool {
        self.head_len == 0 && self.body_left == 0
    }
}

impl Dedicated {
    /// Relays until either side leaves, then closes the server. Dropping the future does so too.
    pub async fn serve(mut self) {
        let client = self.registration.client.clone();
        client.set_state(ClientState::Active, clock::now());
        self.lease.shared.set_state(ServerState::Active);
        let _ = client.link(&self.lease.shared);
        let end = poll_fn(|cx| self.poll_serve(cx)).await;
        client.unlink();
        self.lease.discard();
        super::listener::log_end(&self.hub, &client, &end);
        if let Some(message) = end.client_message()
            && self.to_client.framing.is_at_boundary()
        {
            let mut bytes = Vec::new();
            encode::error_response(&mut bytes, &message);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            // As far as the socket takes it at once; the client may be gone.
            let _ = self.transport.poll_write(&mut cx, &bytes);
        }
        self.transport.say_closing();
    }

    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.registration.client.set_waker(cx.waker());
        match self.registration.client.signalled() {
            Signal::None => {}
            // It has no transactions or queries that could be told apart.
            Signal::Look => self.registration.client.has_looked(),
            // There is no transaction boundary to wait for.
            Signal::Drain | Signal::Kill => {
                return Poll::Ready(SessionEnd::Stopped("admin shutdown"));
            }
        }
        let server = &mut self.lease.transport;
        match self.to_server.poll(cx, &mut self.transport, server) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if self.to_server.framing.tag == b'X' => {
                return Poll::Ready(SessionEnd::Terminated);
            }
            Poll::Ready(Ok(())) => return Poll::Ready(SessionEnd::ClientClosed),
            Poll::Ready(Err(Broken::Source(e))) => return Poll::Ready(SessionEnd::ClientIo(e)),
            // Its last words may still be to be read.
            Poll::Ready(Err(Broken::Sink(e))) => tracing::debug!("server does not read: {e}"),
        }
        let end = match ready!(self.to_client.poll(cx, server, &mut self.transport)) {
            Ok(()) if self.to_server.framing.tag == b'X' => SessionEnd::Terminated,
            Ok(()) if self.to_client.framing.tag == b'E' => SessionEnd::Server(ServerFault::Fatal),
            Ok(()) => SessionEnd::Server(ServerFault::Closed),
            Err(Broken::Source(e)) => SessionEnd::Server(ServerFault::Io(e)),
            Err(Broken::Sink(e)) => SessionEnd::ClientIo(e),
        };
        Poll::Ready(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_is_found_however_the_bytes_come() {
        let stream = [&b"Z\0\0\0\x05I"[..], b"d\0\0\0\x07abc", b"c\0\0\0\x04"].concat();
        for size in 1..stream.len() {
            let mut framing = Framing::default();
            let mut boundaries = Vec::new();
            for (at, piece) in stream.chunks(size).enumerate() {
                framing.pass(piece);
                if framing.is_at_boundary() {
                    boundaries.push(((at + 1) * size).min(stream.len()));
                }
            }
            let expected: Vec<usize> = (1..=stream.len().div_ceil(size))
                .map(|n| (n * size).min(stream.len()))
                .filter(|at| [6, 14, 19].contains(at))
                .collect();
            assert_eq!(boundaries, expected, "pieces of {size}");
            assert_eq!(framing.tag, b'c');
        }
    }
}
