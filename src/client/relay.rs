//! The relay: bytes between a client and the server it is linked to, both ways, with back-pressure.
//!
//! Bytes are read into the worker's scratch buffer and written from it; only what a socket does
//! not take is copied to its connection. While that is so, nothing more is read for it: a slow
//! reader stops its own server and nothing else.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use super::end::SessionEnd;
use super::requests::{self, First, Naming, Requests, Stop};
use super::session::{Link, Next, Session};
use super::shared::ClientState;
use super::statements::ClientStatements;
use crate::config::PoolMode;
use crate::net::{SCRATCH_BYTES, with_scratch};
use crate::primitives::clock;
use crate::protocol::TransactionStatus;
use crate::protocol::encode;
use crate::protocol::ledger::{Expects, Fate, Owed};
use crate::protocol::splice::Splice;
use crate::server::cleanup;
use crate::server::replies::{self, ReplyObserver};
use crate::server::{Server, ServerFault, ServerLease, Settings, idle, is_tracked};

/// Rounds of reading in one poll before other sessions get their turn.
const ROUNDS_MAX: usize = 16;
/// Replies owed beyond which no more requests are read: the ledger's bound.
const OWED_MAX: usize = 8 * 1024;
/// Bytes of further requests taken in while a client waits for a server.
const WAITING_BYTES_MAX: usize = SCRATCH_BYTES;
/// Bytes kept for a client that has said Terminate and does not read.
const LAST_UNSENT_MAX: usize = 4 * SCRATCH_BYTES;

impl Session {
    /// Moves bytes until neither side has any, or the transaction is over.
    pub(super) fn poll_linked(
        &mut self,
        cx: &mut Context<'_>,
        mut lease: ServerLease,
    ) -> Poll<Next> {
        for _ in 0..ROUNDS_MAX {
            if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
                return Poll::Ready(self.end_linked(lease, SessionEnd::ClientIo(e)));
            }
            if let Poll::Ready(Err(e)) = lease.poll_flush(cx) {
                return Poll::Ready(self.end_linked(lease, SessionEnd::Server(e.into())));
            }
            let requested = match self.poll_requests(cx, &mut lease) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(self.end_linked(lease, end)),
            };
            let replied = match self.poll_replies(cx, lease) {
                Replied::Kept(kept, progress) => {
                    lease = kept;
                    progress
                }
                Replied::Released(next) => return Poll::Ready(next),
            };
            if requested && !replied && lease.is_free() {
                // What was sent has no answer: it was the rest of a message that the server ignores.
                match self.keep_or_release(cx, lease) {
                    Ok(kept) => lease = kept,
                    Err(link) => return Poll::Ready(Next::State(link)),
                }
            } else if requested && !replied {
                self.ask_if_in_doubt(cx, &mut lease);
            }
            let ledger = &lease.ledger;
            let is_stuck = ledger.in_copy_in() || ledger.needs_sync();
            // Without a Sync that will never come, the server has no reason to say more.
            if self.terminated && (ledger.is_empty() || is_stuck) {
                return Poll::Ready(self.end_linked(lease, SessionEnd::Terminated));
            }
            if !requested && !replied {
                self.link = Link::Linked(lease);
                return Poll::Pending;
            }
        }
        self.link = Link::Linked(lease);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads from the client, once, and sends it on. True if something was read.
    fn poll_requests(
        &mut self,
        cx: &mut Context<'_>,
        lease: &mut ServerLease,
    ) -> Result<bool, SessionEnd> {
        let blocked = !self.unsent.is_empty()
            || !lease.unsent.is_empty()
            || lease.ledger.len() >= OWED_MAX
            || self.terminated
            || self.resetting;
        if blocked {
            return self.look_while_blocked(cx);
        }
        if self.stalled {
            return self.poll_stalled(cx, lease);
        }
        with_scratch(|scratch| {
            let filled = match self.poll_fill(cx, &mut scratch.input) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return Ok(false),
            };
            let long = std::mem::take(&mut self.carry);
            let naming = self.naming();
            if self.streaming_left == 0
                && matches!(requests::first(&long, naming), First::Incomplete)
                && !long.is_empty()
            {
                // A long Parse is not copied again with each of its pieces.
                self.carry = long;
                return Ok(true);
            }
            let input = if long.is_empty() { &scratch.input[..filled] } else { &long[..] };
            self.forward(cx, lease, input, &mut scratch.output, naming)?;
            Ok(true)
        })
    }

    /// Notices a client that leaves while nothing more is taken from it. True if it is to go on.
    fn look_while_blocked(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionEnd> {
        if self.terminated || self.resetting {
            return Ok(false);
        }
        let before = self.carry.len();
        let gone = self.poll_gone_while_waiting(cx);
        // What was read on the way is looked at before more is read.
        self.stalled |= self.carry.len() > before;
        match gone {
            Poll::Ready(end) => Err(end),
            Poll::Pending => Ok(false),
        }
    }

    /// Tries again to send what had to wait for answers. True if some of it was sent.
    fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        lease: &mut ServerLease,
    ) -> Result<bool, SessionEnd> {
        let waiting = std::mem::take(&mut self.carry);
        self.stalled = false;
        let naming = self.naming();
        let consumed = with_scratch(|s| self.forward(cx, lease, &waiting, &mut s.output, naming))?;
        if consumed > 0 {
            return Ok(true);
        }
        self.carry = waiting;
        // Whatever it waits for may take long: a client that leaves meanwhile is noticed.
        match self.poll_gone_while_waiting(cx) {
            Poll::Ready(end) => Err(end),
            Poll::Pending => Ok(false),
        }
    }

    /// Sends the whole messages of `input` to the server, and keeps the rest. Gives the number of
    /// bytes dealt with.
    pub(super) fn forward(
        &mut self,
        cx: &mut Context<'_>,
        lease: &mut ServerLease,
        input: &[u8],
        output: &mut Vec<u8>,
        naming: Naming,
    ) -> Result<usize, SessionEnd> {
        let server: &mut Server = lease;
        let mut splice = Splice::new(input, output);
        let is_first = server.tx == TransactionStatus::Idle
            && server.ledger.is_settled()
            && self.streaming_left == 0;
        if is_first && replay_settings(server, &self.settings, &mut splice)? {
            // A cancel that hit that query would leave the request to run under other settings.
            self.registration.client.await_server();
            self.replaying = true;
        }
        let mut requests = Requests {
            store: &self.place.hub().statements,
            recent: &self.worker.recent_statements,
            reading: self.settings.reading(),
            naming,
            names: &mut self.names,
            streaming_left: &mut self.streaming_left,
        };
        let walked = requests::walk(&mut requests, server, splice, input);
        if !walked.bytes.is_empty() {
            server.send(cx, walked.bytes).map_err(|e| SessionEnd::Server(e.into()))?;
        }
        // Half a message is no activity.
        if !server.ledger.is_empty() && self.registration.client.state() == ClientState::Linked {
            let now = clock::now();
            self.registration.client.set_state(ClientState::Active, now);
            if is_first {
                self.registration.client.set_linked_since(now);
            }
        }
        let consumed = walked.consumed;
        let rest = &input[consumed..];
        if !rest.is_empty() && matches!(walked.stop, None | Some(Stop::Stall)) {
            self.carry = rest.to_vec();
        }
        // A made-up reply goes out with the server's next one, unless there will be none.
        if !server.ledger.awaits_server() {
            let mut observer = Observer::of(&mut self.names, &mut self.settings, None);
            replies::take_local_replies(server, &mut observer, &mut self.unsent);
        }
        match walked.stop {
            None => {}
            Some(Stop::Stall) => self.stalled = true,
            Some(Stop::Fault(fault)) => return Err(SessionEnd::Violation(fault)),
            Some(Stop::Terminate) => self.terminated = true,
        }
        Ok(consumed)
    }

    /// Has the console know how many names the client has taken.
    pub(super) fn publish_names(&self) {
        if let Some(names) = &self.names {
            self.client().statement_count.store(names.len() as u64, Relaxed);
        }
    }

    pub(super) fn naming(&self) -> Naming {
        if self.mode == PoolMode::Session {
            return Naming::Untouched;
        }
        let settings = self.pool.settings.load();
        Naming::Virtual {
            named_max: settings.statements_max,
            bytes_max: settings.statement_bytes_max,
        }
    }

    /// Reads from the server, once, and sends it on. A server that is free is given to the next
    /// client before this one is written to: the server is the scarce resource.
    fn poll_replies(&mut self, cx: &mut Context<'_>, mut lease: ServerLease) -> Replied {
        let unsent_max = if self.terminated { LAST_UNSENT_MAX } else { 0 };
        if self.unsent.len() > unsent_max {
            // Local replies may be all that there is to send before anything else can happen.
            return Replied::Kept(lease, false);
        }
        with_scratch(|scratch| {
            let filled = match lease.poll_fill(cx, &mut scratch.input) {
                Poll::Ready(Ok(filled)) => filled,
                Poll::Ready(Err(_)) if self.resetting => {
                    return Replied::Released(self.give_up_reset(lease));
                }
                Poll::Ready(Err(fault)) => {
                    return Replied::Released(self.end_linked(lease, SessionEnd::Server(fault)));
                }
                Poll::Pending => return Replied::Kept(lease, false),
            };
            let input = &scratch.input[..filled];
            let before = self.settings.clone();
            let owed_before = lease.ledger.len();
            let startup = self.startup_settings.clone();
            let mut observer =
                Observer::of(&mut self.names, &mut self.settings, Some((&startup, &self.pool)));
            let walked = match replies::walk(&mut lease, &mut observer, input, &mut scratch.output)
            {
                Ok(walked) => walked,
                Err(_) if self.resetting => return Replied::Released(self.give_up_reset(lease)),
                Err(fault) => {
                    let end = SessionEnd::Server(ServerFault::Reply(fault));
                    return Replied::Released(self.end_linked(lease, end));
                }
            };
            let reported = std::mem::take(&mut observer.reported);
            lease.keep(&input[walked.consumed..]);
            if self.replaying && !lease.ledger.head_is_poolers() {
                self.replaying = false;
                if self.client().link(&lease.shared) {
                    self.send_late_cancel(&lease);
                }
            }
            note_reported(&mut lease, reported, &self.settings);
            if !std::sync::Arc::ptr_eq(&before, &self.settings) {
                *self.client().settings.lock() = self.settings.clone();
            }
            if self.mode == PoolMode::Statement && lease.saw_block {
                return Replied::Released(self.refuse_block(cx, lease, walked.bytes));
            }
            if lease.ledger.len() < owed_before && !lease.ledger.is_empty() {
                // The next request runs from now on.
                self.client().set_state(ClientState::Active, clock::now());
            }
            let kept = self.keep_or_release(cx, lease);
            self.publish_names();
            if let Err(e) = self.deliver(cx, walked.bytes) {
                return Replied::Released(match kept {
                    Ok(lease) => self.end_linked(lease, SessionEnd::ClientIo(e)),
                    Err(Link::Releasing(lease)) => self.end_linked(lease, SessionEnd::ClientIo(e)),
                    Err(_) => Next::End(SessionEnd::ClientIo(e)),
                });
            }
            match kept {
                Ok(lease) => Replied::Kept(lease, true),
                Err(link) => Replied::Released(Next::State(link)),
            }
        })
    }

    /// Gives the server back if the transaction is over and nothing is left to be done on it.
    fn keep_or_release(
        &mut self,
        cx: &mut Context<'_>,
        mut lease: ServerLease,
    ) -> Result<ServerLease, Link> {
        let returns = self.mode != PoolMode::Session;
        self.ask_if_in_doubt(cx, &mut lease);
        // With a message half sent, the next client's would be taken for its rest.
        let is_over = returns && lease.is_free() && self.streaming_left == 0 && !self.terminated;
        if is_over && !self.starts_reset(cx, &mut lease) {
            return self.release(lease);
        }
        if !is_over && lease.ledger.is_empty() {
            self.client().set_state(ClientState::Linked, clock::now());
        }
        Ok(lease)
    }

    /// Asks what becomes of a Sync that the server may have ignored; not in the middle of a message.
    fn ask_if_in_doubt(&self, cx: &mut Context<'_>, server: &mut Server) {
        let can_ask = self.streaming_left == 0 && server.unsent.is_empty();
        if self.mode != PoolMode::Session && can_ask && server.ledger.wants_question() {
            ask_nothing(cx, server);
        }
    }

    /// Gives up a server that could not be reset: its client has had its answers.
    fn give_up_reset(&mut self, lease: ServerLease) -> Next {
        self.resetting = false;
        self.leave_server();
        lease.discard();
        Next::State(Link::Unlinked)
    }

    /// Ends a client that began a transaction block in statement mode: it gets what came in front of
    /// the ReadyForQuery that tells so, and its transaction is rolled back.
    fn refuse_block(&mut self, cx: &mut Context<'_>, lease: ServerLease, bytes: &[u8]) -> Next {
        const READY_BYTES: usize = 6;
        let told = match bytes.split_last_chunk::<READY_BYTES>() {
            Some((before, [b'Z', 0, 0, 0, 5, _])) if lease.streaming.left_bytes == 0 => before,
            _ => bytes,
        };
        let end = match self.deliver(cx, told) {
            Ok(()) => SessionEnd::TransactionBlock,
            Err(e) => SessionEnd::ClientIo(e),
        };
        self.end_linked(lease, end)
    }

    /// With `server_reset_query_always`, has the server run that query before it is given back.
    /// False if there is none to be run, or it has been.
    fn starts_reset(&mut self, cx: &mut Context<'_>, server: &mut Server) -> bool {
        let settings = self.pool.settings.load();
        let Some(query) = settings.reset_query.as_deref() else { return false };
        if std::mem::take(&mut self.resetting) {
            cleanup::forget_what_was_reset(server, query);
            return false;
        }
        let mut message = Vec::new();
        if encode::query(&mut message, query.as_bytes()).is_err() {
            return false;
        }
        server.ledger.push(Owed::pooler(Expects::Query));
        self.resetting = true;
        // A failure shows at the next read, which ends the link.
        let _ = server.send(cx, &message);
        true
    }

    /// Gives a free server back. `Err` is the state that follows.
    fn release(&mut self, lease: ServerLease) -> Result<ServerLease, Link> {
        self.leave_server();
        // No new cancel can begin now that the client is unlinked; one on its way holds the server.
        if !lease.shared.cancels.is_clear() {
            return Err(Link::Releasing(lease));
        }
        idle::park(lease, self.worker.index);
        Err(Link::Unlinked)
    }

    /// The client has no server any more.
    fn leave_server(&mut self) {
        self.client().unlink();
        // What had to wait is the beginning of the next transaction.
        self.carry_is_unread |= std::mem::take(&mut self.stalled);
        if let Some(names) = &mut self.names {
            names.end_transaction();
        }
        self.client().set_state(ClientState::Idle, clock::now());
    }

    /// Writes to the client, keeping what its socket does not take.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() && self.unsent.is_empty() {
            match self.transport.poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => break,
            }
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Reads once from the client. Short heads kept from before are put in front, in `input`; a
    /// long Parse being collected grows in `carry` instead, which is then the input.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut [u8],
    ) -> Poll<Result<usize, SessionEnd>> {
        let kept = self.carry.len();
        let is_long = kept >= input.len() / 2;
        let start = if is_long { 0 } else { kept };
        let n = match self.transport.poll_read(cx, &mut input[start..]) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(SessionEnd::ClientClosed)),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(SessionEnd::ClientIo(e))),
        };
        if is_long {
            self.carry.extend_from_slice(&input[..n]);
        } else {
            input[..kept].copy_from_slice(&self.carry);
            self.carry = Vec::new();
        }
        Poll::Ready(Ok(start + n))
    }

    /// Notices a client that leaves while it waits, and takes in a bounded amount of what it
    /// sends meanwhile.
    pub(super) fn poll_gone_while_waiting(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        match self.transport.poll_read_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => self.take_in_while_waiting(cx),
        }
    }

    fn take_in_while_waiting(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let mut buffer = [0_u8; 4096];
        while self.carry.len() < WAITING_BYTES_MAX {
            match self.transport.poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                // What it asked for before it said Terminate is carried out all the same.
                Poll::Ready(Ok(0)) if self.has_said_terminate() => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(SessionEnd::ClientClosed),
                Poll::Ready(Ok(n)) => self.carry.extend_from_slice(&buffer[..n]),
                Poll::Ready(Err(e)) => return Poll::Ready(SessionEnd::ClientIo(e)),
            }
        }
        Poll::Pending
    }

    /// Whether what has been taken in ahead ends with a whole Terminate. It may begin with the rest
    /// of the message that is streaming, which is no message of its own.
    fn has_said_terminate(&self) -> bool {
        let behind = self.carry.get(self.streaming_left..);
        behind.is_some_and(requests::ends_with_terminate)
    }
}

/// Asks something of which the answer cannot be taken for another one's: an empty Query.
fn ask_nothing(cx: &mut Context<'_>, server: &mut Server) {
    let mut message = Vec::new();
    if encode::query(&mut message, b"").is_ok() {
        server.ledger.push(Owed::pooler(Expects::Query));
        // A failure shows at the next read, which ends the link.
        let _ = server.send(cx, &message);
    }
}

/// What reading from the server led to.
enum Replied {
    /// The link goes on; whether something was read.
    Kept(ServerLease, bool),
    /// The link is over.
    Released(Next),
}

/// Puts the query in front that makes the server's settings the client's. False if none is needed.
fn replay_settings(
    server: &mut Server,
    wanted: &std::sync::Arc<Settings>,
    splice: &mut Splice<'_>,
) -> Result<bool, SessionEnd> {
    if std::sync::Arc::ptr_eq(&server.settings, wanted) {
        return Ok(false);
    }
    let sql = wanted.replay_sql(&server.settings);
    if let Some(sql) = &sql {
        encode::query(splice.insert(0), sql.as_bytes())
            .map_err(|e| SessionEnd::Violation(e.into()))?;
        server.ledger.push(Owed::pooler(Expects::Query));
    }
    if sql.is_some() {
        // Every Query drops it.
        server.statements.unnamed_lost();
    }
    server.settings = wanted.clone();
    Ok(sql.is_some())
}

/// Enters what a server has reported into what is known of its settings. The client's own may
/// differ: behind DISCARD ALL they are those that it logged in with.
fn note_reported(
    server: &mut Server,
    reported: Vec<(String, Option<Vec<u8>>)>,
    clients: &std::sync::Arc<Settings>,
) {
    for (name, value) in reported {
        server.settings = server.settings.with(&name, value.as_deref());
    }
    if server.settings == *clients {
        // Found equal at once from now on.
        server.settings = clients.clone();
    }
}

/// Learns from replies what changes for the client.
struct Observer<'a> {
    names: &'a mut Option<Box<ClientStatements>>,
    settings: &'a mut std::sync::Arc<Settings>,
    /// Settings at login, and the pool whose greeting holds the server's defaults.
    context: Option<(&'a std::sync::Arc<Settings>, &'a crate::server::pools::ServerPool)>,
    /// What the server has reported to the client of its settings; absent values are its defaults.
    reported: Vec<(String, Option<Vec<u8>>)>,
}

impl<'a> Observer<'a> {
    const fn of(
        names: &'a mut Option<Box<ClientStatements>>,
        settings: &'a mut std::sync::Arc<Settings>,
        context: Option<(&'a std::sync::Arc<Settings>, &'a crate::server::pools::ServerPool)>,
    ) -> Self {
        Self { names, settings, context, reported: Vec::new() }
    }
}

impl ReplyObserver for Observer<'_> {
    fn parsed(&mut self, statement_id: u64) {
        if let Some((_, pool)) = self.context {
            pool.remember_parsed(statement_id);
        }
    }

    fn renamed(&mut self, outcome: Result<(), Fate>) {
        match (self.names.as_mut(), outcome) {
            (Some(names), Ok(())) => names.carried_out(),
            (Some(names), Err(fate)) => names.not_carried_out(fate),
            (None, _) => {}
        }
    }

    fn name_of(&self, statement_id: u64, name_hash: u32) -> Option<&[u8]> {
        self.names.as_ref()?.name_of(statement_id, name_hash)
    }

    fn query_completed(&mut self) {
        if let Some(names) = self.names {
            names.forget_unnamed();
        }
    }

    fn parameter_reported(&mut self, name: &[u8], value: &[u8], shown: bool) {
        let Some((_, pool)) = self.context.filter(|_| shown) else {
            return;
        };
        let Ok(text) = std::str::from_utf8(name) else {
            return;
        };
        if !is_tracked(name) {
            return;
        }
        let is_default = pool.greeting().is_some_and(|g| g.value(name) == Some(value));
        self.reported.push((text.to_owned(), (!is_default).then(|| value.to_vec())));
        if self.settings.value(text) == Some(value) {
            return;
        }
        *self.settings = self.settings.with(text, (!is_default).then_some(value));
    }

    fn all_discarded(&mut self, settings_too: bool) {
        if let Some(names) = self.names {
            names.forget_names();
        }
        if settings_too && let Some((startup, _)) = self.context {
            *self.settings = startup.clone();
        }
    }
}
