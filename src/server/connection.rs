//! One server connection: its socket, what it owes, what it knows, and what is shown of it.
//!
//! A [`Server`] is owned by exactly one party at a time: the pool's idle set, the session that is
//! linked to it, or the clean-up that follows a vanished client. Whoever owns it may drop it,
//! which closes the socket; the pool learns of that through the lease.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cancel::CancelHold;
use super::closing::{Closing, Exit};
use super::endpoint::Endpoint;
use super::error::ServerFault;
use super::life::Life;
use super::pools::ServerPool;
use super::settings::Settings;
use super::statements::ServerStatements;
use crate::config::ServerTls;
use crate::net::{PeerAddr, TlsKind, Transport};
use crate::primitives::Tick;
use crate::protocol::TransactionStatus;
use crate::protocol::error::ErrorMessage;
use crate::protocol::ledger::Ledger;
use crate::protocol::sqlstate::SqlState;

/// Messages up to this length are held back until they are whole, if they have to be looked into;
/// longer ones stream through.
pub const INSPECT_BYTES_MAX: usize = 16 * 1024;

/// A logged-in connection to PostgreSQL.
#[derive(Debug)]
pub struct Server {
    /// The socket, registered with the reactor of worker [`Server::home`].
    pub transport: Transport,
    /// The worker whose reactor watches the socket.
    pub home: usize,
    /// The replies owed.
    pub ledger: Ledger,
    /// Errors that take the place of the server's for refused requests, oldest first.
    pub refusals: VecDeque<Refusal>,
    /// The status of the last ReadyForQuery.
    pub tx: TransactionStatus,
    /// Settings applied beyond the server's own defaults.
    pub settings: Arc<Settings>,
    /// Prepared statements it knows.
    pub statements: ServerStatements,
    /// A ReadyForQuery has told of a transaction block since this was last looked at.
    pub saw_block: bool,
    /// Bytes read that are not a whole message yet.
    pub carry: Vec<u8>,
    /// Bytes accepted for the server that its socket did not take yet.
    pub unsent: Vec<u8>,
    /// The message that is passing through in pieces.
    pub streaming: Streaming,
    /// The reactor has not looked at the socket yet: the first bytes are written past it.
    just_moved: bool,
    /// A FATAL error was received: the connection is about to end.
    pub doomed: bool,
    /// Bytes pass it unread, so that the ledger knows nothing of it.
    pub is_unread: bool,
    /// When it was last given back; `None` while it is vouched for: new, or just asked.
    pub rests_since: Option<Tick>,
    /// What the console and the cancel table know of it.
    pub shared: Arc<ServerShared>,
    watch: Arc<IdleWatch>,
    watch_waker: Waker,
    exit: Exit,
    life: Arc<Life>,
}

/// What a client is told in the place of an error that the server was made to report.
#[derive(Debug)]
pub struct Refusal {
    /// The code of the error that is expected; any other one is passed on.
    pub code: SqlState,
    /// What the client is told.
    pub message: ErrorMessage,
}

/// A backend message of which only the head has been seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Streaming {
    /// Bytes still to come.
    pub left_bytes: usize,
    /// Whether the client gets them.
    pub visible: bool,
}

/// The part of a server that outlives its owner's turn: for cancel requests and the console.
#[derive(Debug)]
pub struct ServerShared {
    /// A number of its own, never used again.
    pub id: u64,
    /// Database and user of its pool, as the console shows them.
    pub database: Arc<str>,
    /// The user's name in the pool's key.
    pub pool_user: Arc<str>,
    /// The user it is logged in as.
    pub user: Arc<str>,
    /// Where it is connected to; cancel requests go there too.
    pub endpoint: Endpoint,
    /// What was agreed on, if it is under TLS.
    pub tls: Option<TlsKind>,
    /// How cancel requests travel: as the connection does.
    pub tls_for_cancels: ServerTls,
    /// The address it is connected to.
    pub peer: PeerAddr,
    /// Our own address.
    pub local: PeerAddr,
    /// The backend's process id.
    pub backend_pid: i32,
    /// The backend's cancel secret.
    pub secret: Box<[u8]>,
    /// When it was connected.
    pub connected_at: Tick,
    /// When it was last taken by a client.
    pub linked_at_us: AtomicU64,
    /// The id of the client linked to it, 0 if none.
    pub client_id: AtomicU64,
    /// Prepared statements it knows, for display.
    pub statement_count: AtomicU64,
    /// Cancel requests on their way to it.
    pub cancels: CancelHold,
    /// Its pool, and that pool's generation when it was dialled.
    pool: Weak<ServerPool>,
    generation: u64,
    state: AtomicU8,
    /// Its host's name means other addresses by now.
    has_moved: AtomicBool,
}

/// A server's state, in PgBouncer's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerState {
    /// Ready for any client of its pool.
    Idle = 0,
    /// Linked to a client.
    Active = 1,
    /// Being cleaned up after a client.
    Tested = 2,
}

impl ServerState {
    /// PgBouncer's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Tested => "tested",
        }
    }
}

impl ServerShared {
    /// What a server starts as.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "plain data, built in one place")]
    pub fn new(
        id: u64,
        pool: &Arc<ServerPool>,
        generation: u64,
        user: Arc<str>,
        (endpoint, tls_wanted): (Endpoint, ServerTls),
        transport: &Transport,
        backend_pid: i32,
        secret: Box<[u8]>,
        now: Tick,
    ) -> Self {
        Self {
            id,
            database: pool.database.clone(),
            pool_user: pool.user.clone(),
            user,
            endpoint,
            tls: transport.tls(),
            tls_for_cancels: match transport.tls() {
                Some(_) => tls_wanted.insisting(),
                None => ServerTls::off(),
            },
            peer: transport.peer_addr(),
            local: transport.local_addr(),
            backend_pid,
            secret,
            connected_at: now,
            linked_at_us: AtomicU64::new(0),
            client_id: AtomicU64::new(0),
            statement_count: AtomicU64::new(0),
            cancels: CancelHold::default(),
            pool: Arc::downgrade(pool),
            generation,
            state: AtomicU8::new(ServerState::Idle as u8),
            has_moved: AtomicBool::new(false),
        }
    }

    /// Has it closed when it is free if it is connected to this host, and to none of its addresses of
    /// now. Says whether it is.
    pub fn follow_name(&self, name: &str, addresses: &[IpAddr]) -> bool {
        let is_at = matches!(&self.endpoint, Endpoint::Tcp { host, .. } if host == name);
        let has_moved =
            matches!(self.peer, PeerAddr::Tcp(address, _) if !addresses.contains(&address));
        if is_at && has_moved {
            self.has_moved.store(true, Ordering::Relaxed);
        }
        is_at && has_moved
    }

    /// Whether it belongs to the pool of these names.
    #[must_use]
    pub fn pool_is(&self, database: &str, user: &str) -> bool {
        *self.database == *database && *self.pool_user == *user
    }

    /// Whether it is closed as soon as it is free: a RECONNECT or a removal came after its dial, or its
    /// host is elsewhere.
    #[must_use]
    pub fn close_needed(&self) -> bool {
        self.has_moved.load(Ordering::Relaxed)
            || self.pool.upgrade().is_none_or(|pool| self.generation < pool.pool.generation())
    }

    /// Its state; relaxed, for display only.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match self.state.load(Ordering::Relaxed) {
            1 => ServerState::Active,
            2 => ServerState::Tested,
            _ => ServerState::Idle,
        }
    }

    /// Records the state; relaxed, for display only.
    pub fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

impl Server {
    /// A server fresh from its login on the calling worker.
    #[must_use]
    pub fn new(
        transport: Transport,
        home: usize,
        shared: Arc<ServerShared>,
        pool: Weak<ServerPool>,
        exit: Exit,
        life: Arc<Life>,
    ) -> Box<Self> {
        let (watch, watch_waker) = IdleWatch::new(pool, exit.inbox.clone());
        Box::new(Self {
            transport,
            home,
            ledger: Ledger::default(),
            refusals: VecDeque::new(),
            tx: TransactionStatus::Idle,
            settings: Arc::default(),
            statements: ServerStatements::default(),
            saw_block: false,
            carry: Vec::new(),
            unsent: Vec::new(),
            streaming: Streaming::default(),
            just_moved: false,
            doomed: false,
            is_unread: false,
            rests_since: None,
            shared,
            watch,
            watch_waker,
            exit,
            life,
        })
    }

    /// Whether it is too old to be given back, or has done all that it was for.
    #[must_use]
    pub fn is_life_over(&self, now: Tick) -> bool {
        let has_served = self.shared.state() != ServerState::Idle;
        self.shared.has_moved.load(Ordering::Relaxed)
            || self.life.is_over(self.shared.connected_at, has_served, now)
    }

    /// Whether it has rested so long that it has to be asked before it is used.
    #[must_use]
    pub fn needs_check(&self, now: Tick) -> bool {
        self.rests_since.is_some_and(|since| self.life.needs_check(since, now))
    }

    /// Logs why it is about to be closed, if ends are logged.
    pub fn log_end(&self, reason: &str, now: Tick) {
        if self.life.logs() {
            tracing::info!(
                database = &*self.shared.database,
                user = &*self.shared.user,
                backend_pid = self.shared.backend_pid,
                age_ms = now.since(self.shared.connected_at).as_millis(),
                "server connection closed: {reason}"
            );
        }
    }

    /// Has the connection closed in order. The server can only be dropped after that.
    pub fn leave(&mut self) {
        let is_free = self.is_free() && !self.is_unread;
        // One that is in the middle of a query takes no notice before it has something to say.
        let owes_only_us = self.ledger.len() == 1 && self.ledger.head_is_poolers();
        let reads = self.ledger.is_settled() || self.ledger.in_copy_in() || owes_only_us;
        let notices = reads || self.is_unread || self.doomed;
        let transport = std::mem::replace(&mut self.transport, Transport::Closed);
        if notices {
            self.exit.leave(transport, is_free);
        }
    }

    /// Whether the server may be given to another client: nothing owed, nothing half sent or half
    /// read, outside of a transaction.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.tx == TransactionStatus::Idle
            && self.ledger.is_settled()
            && self.streaming.left_bytes == 0
            && self.carry.is_empty()
            && self.unsent.is_empty()
            && !self.doomed
    }

    /// Has the worker's watcher told of anything that happens on the socket from now on. False: it
    /// is readable already, so it must be read before it is parked. Makes no system call.
    #[must_use]
    pub fn arm_watch(&mut self) -> bool {
        self.watch.flagged.store(false, Ordering::Relaxed);
        let mut cx = Context::from_waker(&self.watch_waker);
        self.transport.poll_read_ready(&mut cx).is_pending()
    }

    /// Whether something happened on the socket since it was parked.
    #[must_use]
    pub fn is_flagged(&self) -> bool {
        self.watch.flagged.load(Ordering::Relaxed)
    }

    /// Moves the server to the calling worker's reactor.
    ///
    /// # Errors
    /// When the registration fails; the connection is closed then and the server must be dropped.
    pub fn rehome(&mut self, home: usize, inbox: Arc<WatchInbox>) -> std::io::Result<()> {
        self.transport.rehome()?;
        let pool = self.watch.pool.clone();
        (self.watch, self.watch_waker) = IdleWatch::new(pool, inbox.clone());
        self.exit.inbox = inbox;
        self.home = home;
        self.just_moved = true;
        Ok(())
    }

    /// Reads once into `input`, behind what was kept of the last read. Gives the bytes filled.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut [u8],
    ) -> Poll<Result<usize, ServerFault>> {
        let kept = self.carry.len();
        match self.transport.poll_read(cx, &mut input[kept..]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(if self.doomed { ServerFault::Fatal } else { ServerFault::Closed }))
            }
            Poll::Ready(Ok(n)) => {
                input[..kept].copy_from_slice(&self.carry);
                self.carry.clear();
                Poll::Ready(Ok(kept + n))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e.into())),
        }
    }

    /// Keeps the head of a message for the next read.
    pub fn keep(&mut self, rest: &[u8]) {
        debug_assert!(self.carry.is_empty() && rest.len() < INSPECT_BYTES_MAX);
        self.carry.extend_from_slice(rest);
    }

    /// Sends what the socket did not take before. `Ready(Ok)` when nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
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
        self.unsent = Vec::new();
        self.transport.poll_flush(cx)
    }

    /// Sends `bytes`, keeping what the socket does not take. Nothing may be unsent before.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> std::io::Result<()> {
        debug_assert!(self.unsent.is_empty());
        let moved = std::mem::take(&mut self.just_moved);
        let mut sent = if moved { self.transport.write_now(bytes)? } else { 0 };
        while sent < bytes.len() {
            match self.transport.poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => {
                    self.unsent.extend_from_slice(&bytes[sent..]);
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Tells a worker's watcher that something happened on an idle server's socket.
#[derive(Debug)]
struct IdleWatch {
    flagged: AtomicBool,
    pool: Weak<ServerPool>,
    inbox: Arc<WatchInbox>,
}

impl IdleWatch {
    fn new(pool: Weak<ServerPool>, inbox: Arc<WatchInbox>) -> (Arc<Self>, Waker) {
        let watch = Arc::new(Self { flagged: AtomicBool::new(false), pool, inbox });
        (watch.clone(), Waker::from(watch))
    }
}

impl Wake for IdleWatch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.flagged.swap(true, Ordering::Relaxed) {
            self.inbox.push(&self.pool);
        }
    }
}

/// What one worker has to do for servers that are nobody's: pools with an idle server to be looked at,
/// and connections to be closed.
#[derive(Debug, Default)]
pub struct WatchInbox {
    pools: Mutex<Vec<Weak<ServerPool>>>,
    closing: Mutex<Vec<Closing>>,
    /// Carries no data: what happened is in the lists.
    pub signal: Notify,
}

impl WatchInbox {
    fn push(&self, pool: &Weak<ServerPool>) {
        {
            let mut pools = self.pools.lock();
            if !pools.iter().any(|p| p.ptr_eq(pool)) {
                pools.push(pool.clone());
            }
        }
        self.signal.notify_one();
    }

    /// Leaves a connection here to be closed.
    pub(super) fn push_closing(&self, closing: Closing) {
        self.closing.lock().push(closing);
        self.signal.notify_one();
    }

    /// Takes the connections that were left to be closed.
    pub(super) fn take_closing(&self) -> Vec<Closing> {
        std::mem::take(&mut *self.closing.lock())
    }

    /// Takes all that were named since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Weak<ServerPool>> {
        std::mem::take(&mut *self.pools.lock())
    }
}
