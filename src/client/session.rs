//! One logged-in client: its states, from one transaction to the next.
//!
//! ```text
//!   Unlinked --request, idle server--------------------> Linked
//!   Unlinked --request, free slot--> Dialing --login---> Linked
//!   Unlinked --request, pool short-> Waiting --handed--> Linked
//!   Linked --transaction over--> Unlinked    (Releasing while a cancel is on its way)
//! ```
//!
//! The session is polled by hand: one task, no channel, no timer, no buffer while the client is
//! idle. Every state may be dropped at any point: a ticket or permit gives back what it holds, a
//! lease closes its server.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use super::end::SessionEnd;
use super::hub::{ClientPlace, Registration, WorkerPlace};
use super::requests::{First, Naming};
use super::shared::{ClientShared, ClientState, Signal};
use super::statements::ClientStatements;
use crate::config::PoolMode;
use crate::net::{Transport, give_back, keep, with_scratch};
use crate::pool::{Checkout, Hint, Outcome, Ticket};
use crate::primitives::{Tick, clock};
use crate::protocol::encode;
use crate::server::check::NoServer;
use crate::server::pools::{DialPlace, ServerPool};
use crate::server::{Server, ServerFault, ServerLease, ServerState, Settings, idle};

pub(super) type Dial = Pin<Box<dyn Future<Output = Result<ServerLease, NoServer>> + Send>>;

/// What a session has of its pool at the moment.
pub(super) enum Link {
    /// Nothing: the client is idle.
    Unlinked,
    /// A place in the queue. The request is in `carry`.
    Waiting(Ticket<Box<Server>>),
    /// A right to dial, being used, or a server being asked whether it is there. The request is in
    /// `carry`.
    Dialing(Dial),
    /// A server.
    Linked(ServerLease),
    /// A server that is free but for a cancel on its way to it.
    Releasing(ServerLease),
}

/// A client's place in its pool's count; given back when dropped.
#[derive(Debug)]
pub(super) struct PoolClient(Arc<ServerPool>);

impl PoolClient {
    pub(super) fn new(pool: Arc<ServerPool>) -> Self {
        pool.clients.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for PoolClient {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for PoolClient {
    type Target = Arc<ServerPool>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A logged-in client.
pub struct Session {
    pub(super) transport: Transport,
    pub(super) place: ClientPlace,
    pub(super) registration: Registration,
    pub(super) worker: WorkerPlace,
    pub(super) pool: PoolClient,
    pub(super) mode: PoolMode,
    pub(super) link: Link,
    /// Bytes read from the client and not sent on: the head of a message, or a waiting request.
    pub(super) carry: Vec<u8>,
    /// Bytes for the client that its socket did not take yet.
    pub(super) unsent: Vec<u8>,
    /// Bytes to come of the client's message that is passing through in pieces.
    pub(super) streaming_left: usize,
    /// Bytes to come of a message that is ignored.
    pub(super) stray_left: usize,
    /// A request of the extended protocol was cancelled before a server got it: all is ignored up
    /// to its Sync.
    pub(super) skips_to_sync: bool,
    /// What the client has set.
    pub(super) settings: Arc<Settings>,
    /// What it asked for at login; DISCARD ALL goes back to it.
    pub(super) startup_settings: Arc<Settings>,
    pub(super) names: Option<Box<ClientStatements>>,
    /// `carry` may hold whole messages, which came with the login or had to wait.
    pub(super) carry_is_unread: bool,
    /// `carry` begins with a message that has to wait for answers to earlier ones.
    pub(super) stalled: bool,
    /// A query of the pooler's own runs in front of the client's request: a cancel that hit it would
    /// leave the request to run under another client's settings, so none is let through.
    pub(super) replaying: bool,
    /// `server_reset_query` runs on the linked server; the client's transaction is over.
    pub(super) resetting: bool,
    /// The client has got a part of a message that will never be whole: it cannot be told why.
    pub(super) cut_off: bool,
    /// The client has said Terminate; what it asked for before is still under way.
    pub(super) terminated: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("client", &self.registration.client.id).finish()
    }
}

/// What a state's poll leads to.
pub(super) enum Next {
    /// Another state, or the same again.
    State(Link),
    /// The end.
    End(SessionEnd),
}

impl Session {
    pub(super) fn client(&self) -> &ClientShared {
        &self.registration.client
    }

    /// Serves the client until it leaves or has to. Whatever server it still has is in `link`.
    pub(super) fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.client().set_waker(cx.waker());
        loop {
            match self.client().signalled() {
                Signal::None => {}
                Signal::Look => {
                    if let Some(end) = self.look_at_limits() {
                        return Poll::Ready(end);
                    }
                }
                Signal::Drain if !self.is_at_boundary() => {}
                Signal::Drain | Signal::Kill => {
                    return Poll::Ready(SessionEnd::Stopped("admin shutdown"));
                }
            }
            // The state is taken out while it is polled; `Pending` puts it back.
            let next = match std::mem::replace(&mut self.link, Link::Unlinked) {
                Link::Unlinked => self.poll_unlinked(cx),
                Link::Waiting(ticket) => self.poll_waiting(cx, ticket),
                Link::Dialing(dial) => self.poll_dialing(cx, dial),
                Link::Linked(lease) => self.poll_linked(cx, lease),
                Link::Releasing(lease) => self.poll_releasing(cx, lease),
            };
            match ready!(next) {
                Next::State(link) => self.link = link,
                Next::End(end) => return Poll::Ready(end),
            }
        }
    }

    /// Whether the client is between transactions, in either pool mode.
    fn is_at_boundary(&self) -> bool {
        match &self.link {
            Link::Unlinked => true,
            Link::Linked(lease) => {
                lease.is_free() && self.streaming_left == 0 && self.carry.is_empty()
            }
            _ => false,
        }
    }

    /// Waits for a request, without a buffer.
    fn poll_unlinked(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Err(e) = ready!(self.poll_flush(cx)) {
            return Poll::Ready(Next::End(SessionEnd::ClientIo(e)));
        }
        with_scratch(|scratch| {
            let unread = std::mem::take(&mut self.carry_is_unread);
            let filled = match unread {
                true => 0,
                false => match ready!(self.poll_fill(cx, &mut scratch.input)) {
                    Ok(filled) => filled,
                    Err(end) => return Poll::Ready(Next::End(end)),
                },
            };
            // A Parse longer than the scratch buffer is collected in `carry`.
            let long = std::mem::take(&mut self.carry);
            let input = if long.is_empty() { &scratch.input[..filled] } else { &long[..] };
            let input = self.skip_ignored(input);
            let naming = self.naming();
            match super::requests::first(input, naming) {
                First::Request => {}
                First::Incomplete | First::Stray(_) => {
                    // A long Parse is not copied again with each of its pieces.
                    let is_all = !long.is_empty() && input.len() == long.len();
                    self.carry = if is_all { long } else { input.to_vec() };
                    return Poll::Ready(Next::State(Link::Unlinked));
                }
                First::Terminate => return Poll::Ready(Next::End(SessionEnd::Terminated)),
                First::Fault(fault) => {
                    return Poll::Ready(Next::End(SessionEnd::Violation(fault)));
                }
            }
            let output = &mut scratch.output;
            let names = &mut self.names;
            if matches!(naming, Naming::Virtual { named_max: Some(_), .. })
                && super::local::answer(
                    (&self.place.hub().statements, self.settings.reading()),
                    &self.pool,
                    names,
                    input,
                    output,
                )
            {
                self.publish_names();
                return Poll::Ready(match self.deliver(cx, output) {
                    Ok(()) => Next::State(Link::Unlinked),
                    Err(e) => Next::End(SessionEnd::ClientIo(e)),
                });
            }
            Poll::Ready(self.request(cx, input, output, naming))
        })
    }

    /// Gets a server for a request that has come while the client had none.
    fn request(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        output: &mut Vec<u8>,
        naming: Naming,
    ) -> Next {
        // Before the pool knows of it, so that whoever sees it wait can cancel it.
        self.client().await_server();
        loop {
            let now = clock::now();
            match self.pool.pool.checkout(self.hint(), now) {
                Checkout::Ready(lease) if lease.needs_check(now) => {
                    self.carry = keep(input);
                    self.client().set_state(ClientState::Waiting, now);
                    return Next::State(Link::Dialing(self.check(lease)));
                }
                Checkout::Ready(lease) => match self.take_over(cx, lease, now) {
                    Ok(mut lease) => {
                        if self.client().link(&lease.shared) {
                            self.carry = keep(input);
                            return self.cancel_waiting(Some(lease));
                        }
                        return match self.forward(cx, &mut lease, input, output, naming) {
                            Ok(_) => Next::State(Link::Linked(lease)),
                            Err(end) => self.end_linked(lease, end),
                        };
                    }
                    // It died while idle. Nothing was sent, so another one will do.
                    Err(fault) => tracing::debug!("idle server was lost: {fault}"),
                },
                Checkout::Connect(permit) => {
                    self.carry = keep(input);
                    self.client().set_state(ClientState::Waiting, now);
                    return Next::State(Link::Dialing(self.dial(permit)));
                }
                Checkout::Wait(ticket) => {
                    self.carry = keep(input);
                    self.client().set_state(ClientState::Waiting, now);
                    return Next::State(Link::Waiting(ticket));
                }
                Checkout::Refused(refusal) => return Next::End(self.refused(refusal)),
            }
        }
    }

    fn poll_waiting(
        &mut self,
        cx: &mut Context<'_>,
        mut ticket: Ticket<Box<Server>>,
    ) -> Poll<Next> {
        if self.client().is_wait_cancelled() {
            // The ticket is dropped: its place, or what it was just handed, goes on.
            return Poll::Ready(self.cancel_waiting(None));
        }
        // Answers to earlier requests do not wait for the server of the next one.
        if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
            return Poll::Ready(Next::End(SessionEnd::ClientIo(e)));
        }
        let outcome = match ticket.poll_wait(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => {
                let gone = self.poll_gone_while_waiting(cx);
                if let Poll::Ready(end) = gone {
                    // The ticket is dropped: its place, or what it was just handed, goes on.
                    return Poll::Ready(Next::End(end));
                }
                self.link = Link::Waiting(ticket);
                return Poll::Pending;
            }
        };
        Poll::Ready(match outcome {
            Outcome::Handed(lease) => self.link_waiting(cx, lease),
            Outcome::Connect(permit) => Next::State(Link::Dialing(self.dial(permit))),
            Outcome::Expired { .. } => Next::End(SessionEnd::QueryWaitTimeout),
            Outcome::Refused(refusal) => Next::End(self.refused(refusal)),
        })
    }

    fn poll_dialing(&mut self, cx: &mut Context<'_>, mut dial: Dial) -> Poll<Next> {
        if self.client().is_wait_cancelled() {
            // The dial is dropped, and its slot goes to the next that waits.
            return Poll::Ready(self.cancel_waiting(None));
        }
        if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
            return Poll::Ready(Next::End(SessionEnd::ClientIo(e)));
        }
        let Poll::Ready(dialed) = dial.as_mut().poll(cx) else {
            self.link = Link::Dialing(dial);
            return Poll::Pending;
        };
        Poll::Ready(match dialed {
            Ok(lease) => self.link_waiting(cx, lease),
            Err(NoServer::Lost) => self.request_again(cx),
            // What refuses a new server does not take away those that are there: who asked waits for
            // them like all others.
            Err(NoServer::Dial(failure))
                if failure.error.is_transient() || self.pool.has_servers() =>
            {
                // It waits since it asked, not since the dial failed.
                let since = self.client().state_since();
                let ticket = failure.permit.requeue(failure.retry_at, self.hint(), since);
                Next::State(Link::Waiting(ticket))
            }
            Err(NoServer::Dial(failure)) => {
                failure.permit.fail(failure.retry_at);
                self.pool.refuse_waiters();
                Next::End(SessionEnd::NoServer(failure.error.client_message()))
            }
        })
    }

    /// Sends the request kept in `carry` to a server that has just become this client's.
    fn link_waiting(&mut self, cx: &mut Context<'_>, lease: ServerLease) -> Next {
        let now = clock::now();
        if lease.needs_check(now) {
            return Next::State(Link::Dialing(self.check(lease)));
        }
        let mut lease = match self.take_over(cx, lease, now) {
            Ok(lease) => lease,
            Err(fault) => {
                tracing::debug!("server was lost before use: {fault}");
                return self.request_again(cx);
            }
        };
        if self.client().link(&lease.shared) {
            return self.cancel_waiting(Some(lease));
        }
        let (input, naming) = (std::mem::take(&mut self.carry), self.naming());
        let sent = with_scratch(|s| self.forward(cx, &mut lease, &input, &mut s.output, naming));
        give_back(input);
        match sent {
            Ok(_) => Next::State(Link::Linked(lease)),
            Err(end) => self.end_linked(lease, end),
        }
    }

    /// The server that the request kept in `carry` was to get is gone, and nothing was sent to it.
    fn request_again(&mut self, cx: &mut Context<'_>) -> Next {
        let (input, naming) = (std::mem::take(&mut self.carry), self.naming());
        let next = with_scratch(|s| self.request(cx, &input, &mut s.output, naming));
        give_back(input);
        next
    }

    fn poll_releasing(&mut self, cx: &mut Context<'_>, lease: ServerLease) -> Poll<Next> {
        if lease.shared.cancels.poll_cleared(cx).is_pending() {
            self.link = Link::Releasing(lease);
            return Poll::Pending;
        }
        idle::park(lease, self.worker.index);
        Poll::Ready(Next::State(Link::Unlinked))
    }

    /// Makes a server this client's: on this worker's reactor, alive as far as is known. Cancel
    /// requests are not directed to it yet. A server that fails is dropped, which frees its slot.
    fn take_over(
        &self,
        cx: &mut Context<'_>,
        mut lease: ServerLease,
        now: Tick,
    ) -> Result<ServerLease, ServerFault> {
        idle::absorb(&mut lease, cx)?;
        if lease.home != self.worker.index {
            let inbox = self.worker.inbox.clone();
            lease.rehome(self.worker.index, inbox)?;
        }
        lease.saw_block = false;
        lease.shared.set_state(ServerState::Active);
        lease.shared.linked_at_us.store(now.as_micros(), Ordering::Relaxed);
        self.client().set_state(ClientState::Active, now);
        self.client().set_linked_since(now);
        Ok(lease)
    }

    /// Ends with a server in hand: clean-up is the task's last act.
    pub(super) fn end_linked(&mut self, lease: ServerLease, end: SessionEnd) -> Next {
        let end = match end {
            // The client has got the server's last words, however its socket ended then.
            SessionEnd::Server(ServerFault::Io(_) | ServerFault::Closed) if lease.doomed => {
                SessionEnd::Server(ServerFault::Fatal)
            }
            end => end,
        };
        match end {
            SessionEnd::Server(_) => {
                self.cut_off = lease.streaming.left_bytes > 0 && lease.streaming.visible;
                lease.discard();
            }
            _ => self.link = Link::Linked(lease),
        }
        Next::End(end)
    }

    fn dial(&self, permit: crate::pool::Permit<Box<Server>>) -> Dial {
        let (pool, place) = (self.pool.clone(), self.dial_place());
        Box::pin(async move { pool.dial(permit, place).await.map_err(NoServer::Dial) })
    }

    fn check(&self, lease: ServerLease) -> Dial {
        Box::pin(self.pool.clone().check(lease, self.dial_place()))
    }

    fn dial_place(&self) -> DialPlace {
        DialPlace { worker: self.worker.index, inbox: self.worker.inbox.clone() }
    }

    fn refused(&self, refusal: crate::pool::Refusal) -> SessionEnd {
        match (refusal, self.pool.last_failure()) {
            (crate::pool::Refusal::ConnectFailed, Some(message)) => SessionEnd::NoServer(message),
            _ => SessionEnd::Refused(refusal),
        }
    }

    pub(super) fn hint(&self) -> Hint {
        Hint { shard: self.worker.index, state: self.settings.fingerprint() }
    }

    /// Sends what the client's socket did not take before.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.transport.poll_write(cx, &self.unsent[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.unsent.drain(..sent);
                    return Poll::Pending;
                }
            }
        }
        if !self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        self.transport.poll_flush(cx)
    }

    /// Sends a last message as far as the socket takes it at once.
    pub(super) fn send_last(&mut self, message: &crate::protocol::error::ErrorMessage) {
        encode::error_response(&mut self.unsent, message);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = self.poll_flush(&mut cx);
    }
}
