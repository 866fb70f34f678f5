//! Cancel requests towards a server.
//!
//! PostgreSQL cancels whatever the backend runs when the signal arrives. So a server with a cancel
//! on its way is held: it goes to nobody else before the postmaster has closed the cancel
//! connection, which it does after the signal was sent. A late cancel can then only hit the client
//! that it was meant for.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::connection::ServerShared;
use super::framed::Framed;
use super::secure;
use crate::net::SocketOptions;
use crate::protocol::encode;

/// Counts the cancel requests on their way to one server.
#[derive(Debug)]
pub struct CancelHold {
    /// Never nested in another lock but a client's cancel cell; wakes happen after unlock.
    state: Mutex<HoldState>,
    /// Requests that were sent and of which it is not known that they were dealt with. Given up,
    /// one may still arrive, at any time.
    undecided: AtomicUsize,
    /// Each cancel takes a connection of its own: a flood of them must not take many.
    connections: Semaphore,
    /// One that has not been sent yet is as good as all that come while it waits.
    waiting: Semaphore,
}

/// Connections for cancels of one server at a time: while one is under way, another may be meant for
/// a later query.
const CONNECTIONS_MAX: usize = 2;

impl Default for CancelHold {
    fn default() -> Self {
        let connections = Semaphore::new(CONNECTIONS_MAX);
        Self {
            state: Mutex::default(),
            undecided: AtomicUsize::new(0),
            connections,
            waiting: Semaphore::new(1),
        }
    }
}

#[derive(Debug, Default)]
struct HoldState {
    in_flight: usize,
    waiting: Option<Waker>,
}

/// One cancel on its way; the server is held until it is dropped.
#[derive(Debug)]
pub struct CancelInFlight(Arc<ServerShared>);

impl CancelInFlight {
    /// Holds the server. Call under the lock that says who is linked to it.
    #[must_use]
    pub fn new(server: Arc<ServerShared>) -> Self {
        server.cancels.state.lock().in_flight += 1;
        Self(server)
    }

    /// Sends the request and waits until the postmaster has dealt with it, `deadline` at most.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in time.
    pub async fn send(self, options: &SocketOptions, deadline: Duration) -> io::Result<()> {
        let exchange = async {
            let hold = &self.0.cancels;
            let Ok(waiting) = hold.waiting.try_acquire() else { return Ok(()) };
            // Never closed. Dropped with the future, like the connection.
            let _place = hold.connections.acquire().await.map_err(io::Error::other)?;
            drop(waiting);
            let transport = self.0.endpoint.connect_to(self.0.peer, options).await?;
            let mut framed = Framed::new(transport);
            secure::secure(&mut framed, &self.0.endpoint, &self.0.tls_for_cancels)
                .await
                .map_err(io::Error::other)?;
            let mut transport = framed.transport;
            let mut request = Vec::new();
            encode::cancel_request(&mut request, self.0.backend_pid, &self.0.secret)
                .map_err(io::Error::other)?;
            hold.undecided.fetch_add(1, Relaxed);
            transport.write_all(&request).await?;
            // The end of the stream is the only answer there is.
            while transport.read_some(&mut request).await? > 0 {
                request.clear();
            }
            hold.undecided.fetch_sub(1, Relaxed);
            Ok(())
        };
        tokio::time::timeout(deadline, exchange).await?
    }
}

impl Drop for CancelInFlight {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.cancels.state.lock();
            state.in_flight -= 1;
            if state.in_flight == 0 { state.waiting.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl CancelHold {
    /// Whether no cancel is on its way.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.state.lock().in_flight == 0
    }

    /// Whether a cancel that was given up may still arrive: the server must go to nobody else. To be
    /// asked when no cancel is on its way and none can begin.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        // Relaxed, without the lock: each cancel counts before it is dropped, which takes the lock,
        // and whoever asks has seen under the same lock that all were.
        self.undecided.load(Relaxed) > 0
    }

    /// Ready when no cancel is on its way. One waiter at a time: the server's owner.
    pub fn poll_cleared(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.in_flight == 0 {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until no cancel is on its way. Cancel-safe.
    pub async fn cleared(&self) {
        poll_fn(|cx| self.poll_cleared(cx)).await;
    }
}
