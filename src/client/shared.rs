//! The part of a client that others may look at: the console, cancel requests, shutdown.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::cancel_secret::CancelSecret;
use crate::config::PoolMode;
use crate::net::{PeerAddr, TlsKind};
use crate::primitives::{Tick, clock};
use crate::server::cancel::CancelInFlight;
use crate::server::pools::ServerPool;
use crate::server::{ServerShared, Settings, TimeLimits};

/// A client's state, in PgBouncer's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// Logged in, without a server.
    Idle = 0,
    /// Waiting for a server.
    Waiting = 1,
    /// Linked to a server that works for it.
    Active = 2,
    /// Linked to a server that waits for it: idle in its transaction or session.
    Linked = 3,
}

impl ClientState {
    /// PgBouncer's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active | Self::Linked => "active",
        }
    }
}

/// What a session is asked to do by somebody else. Later ones outrank earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Signal {
    /// Nothing.
    None = 0,
    /// See whether a time limit is exceeded.
    Look = 1,
    /// End at the next transaction boundary.
    Drain = 2,
    /// End now.
    Kill = 3,
}

/// A logged-in client.
#[derive(Debug)]
pub struct ClientShared {
    /// A number of its own, never used again.
    pub id: u64,
    /// The process id that it was told; names worker and slot.
    pub virtual_pid: i32,
    /// The client's address.
    pub peer: PeerAddr,
    /// The address it connected to.
    pub local: PeerAddr,
    /// What was agreed on, if it is under TLS.
    pub tls: Option<TlsKind>,
    /// When it connected.
    pub connected_at: Tick,
    /// When its present state began, microseconds of [`Tick`].
    pub state_since_us: AtomicU64,
    /// When its present transaction began, microseconds of [`Tick`].
    linked_since_us: AtomicU64,
    /// Its pool.
    pool: Arc<ServerPool>,
    /// Statement names it has taken, for the console.
    pub statement_count: AtomicU64,
    /// Its settings, for the console.
    pub settings: Mutex<Arc<Settings>>,
    secret: CancelSecret,
    state: AtomicU8,
    /// Whether it was told in its present wait that it waits.
    was_notified: AtomicBool,
    signal: AtomicU8,
    waker: OnceLock<Waker>,
    /// What a cancel request would hit. A [`CancelHold`] is taken under this lock and nothing else.
    ///
    /// [`CancelHold`]: crate::server::cancel::CancelHold
    cancel_target: Mutex<CancelTarget>,
}

/// What a cancel request for a client hits at the moment.
#[derive(Debug, Default)]
enum CancelTarget {
    /// Nothing: the client is idle.
    #[default]
    Nothing,
    /// A request of which the server has got nothing yet, and whether it was hit.
    Waiting { is_cancelled: bool },
    /// What this server runs.
    Server(Arc<ServerShared>),
}

/// What a cancel request has come to.
#[derive(Debug)]
pub enum Cancel {
    /// Wrong secret, or nothing to cancel.
    Nothing,
    /// The client's request has not reached a server: its session deals with it.
    OfWaiting,
    /// It has to be sent to a server, which is held until then.
    OfServer(CancelInFlight),
}

/// What a new client is made of.
#[derive(Debug)]
pub struct NewClient {
    /// See [`ClientShared::id`].
    pub id: u64,
    /// See [`ClientShared::virtual_pid`].
    pub virtual_pid: i32,
    /// The pool that serves it.
    pub pool: Arc<ServerPool>,
    /// See [`ClientShared::peer`].
    pub peer: PeerAddr,
    /// See [`ClientShared::local`].
    pub local: PeerAddr,
    /// What was agreed on, if it is under TLS.
    pub tls: Option<TlsKind>,
    /// Its settings at login.
    pub settings: Arc<Settings>,
    /// The secret of its cancel key.
    pub secret: CancelSecret,
}

impl ClientShared {
    /// An idle client.
    #[must_use]
    pub fn new(new: NewClient) -> Self {
        let now = clock::now();
        Self {
            id: new.id,
            virtual_pid: new.virtual_pid,
            peer: new.peer,
            local: new.local,
            tls: new.tls,
            connected_at: now,
            state_since_us: AtomicU64::new(now.as_micros()),
            linked_since_us: AtomicU64::new(now.as_micros()),
            pool: new.pool.clone(),
            statement_count: AtomicU64::new(0),
            settings: Mutex::new(new.settings),
            secret: new.secret,
            state: AtomicU8::new(ClientState::Idle as u8),
            was_notified: AtomicBool::new(false),
            signal: AtomicU8::new(Signal::None as u8),
            waker: OnceLock::new(),
            cancel_target: Mutex::default(),
        }
    }

    /// Its state; relaxed, for display only.
    #[must_use]
    pub fn state(&self) -> ClientState {
        match self.state.load(Ordering::Relaxed) {
            1 => ClientState::Waiting,
            2 => ClientState::Active,
            3 => ClientState::Linked,
            _ => ClientState::Idle,
        }
    }

    /// When the state began; relaxed.
    #[must_use]
    pub fn state_since(&self) -> Tick {
        Tick::from_micros(self.state_since_us.load(Ordering::Relaxed))
    }

    /// When its present transaction, or in session mode its present server, began; relaxed.
    #[must_use]
    pub fn linked_since(&self) -> Tick {
        Tick::from_micros(self.linked_since_us.load(Ordering::Relaxed))
    }

    /// Records that a transaction begins.
    pub fn set_linked_since(&self, now: Tick) {
        self.linked_since_us.store(now.as_micros(), Ordering::Relaxed);
    }

    /// The limits in force for it.
    #[must_use]
    pub fn time_limits(&self) -> TimeLimits {
        self.pool.settings.load().time_limits
    }

    /// Notes that it was told in its present wait that it waits.
    pub fn note_notified(&self) {
        self.was_notified.store(true, Ordering::Relaxed);
    }

    /// Whether it waits longer than that and was not told yet.
    #[must_use]
    pub fn is_to_be_notified(&self, after: Option<Duration>, now: Tick) -> bool {
        self.state() == ClientState::Waiting
            && after.is_some_and(|after| now.since(self.state_since()) >= after)
            && !self.was_notified.load(Ordering::Relaxed)
    }

    /// How long it may wait for a server.
    #[must_use]
    pub fn wait_timeout(&self) -> Option<Duration> {
        self.pool.settings.load().limits.wait_timeout
    }

    /// Records the state; relaxed, for display only.
    pub fn set_state(&self, state: ClientState, now: Tick) {
        if state == ClientState::Waiting {
            self.was_notified.store(false, Ordering::Relaxed);
        }
        self.state.store(state as u8, Ordering::Relaxed);
        self.state_since_us.store(now.as_micros(), Ordering::Relaxed);
    }

    /// The database that it asked for.
    #[must_use]
    pub fn database(&self) -> &Arc<str> {
        &self.pool.database
    }

    /// The user whose pool it uses: its own, or the one that its database forces.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        &self.pool.user
    }

    /// The cancel secret that the client is told.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// The mode of its pool, as it is configured now.
    #[must_use]
    pub fn pool_mode(&self) -> PoolMode {
        self.pool.settings.load().mode
    }

    /// Asks the session to end and wakes it. The strongest signal stays.
    pub fn signal(&self, signal: Signal) {
        self.signal.fetch_max(signal as u8, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// What the session was asked for.
    #[must_use]
    pub fn signalled(&self) -> Signal {
        match self.signal.load(Ordering::Acquire) {
            0 => Signal::None,
            1 => Signal::Look,
            2 => Signal::Drain,
            _ => Signal::Kill,
        }
    }

    /// The session has looked at its limits. Any other signal stays.
    pub fn has_looked(&self) {
        let (look, none) = (Signal::Look as u8, Signal::None as u8);
        let _ = self.signal.compare_exchange(look, none, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Makes the session's task known to [`ClientShared::signal`]. A task's waker is the same for
    /// its whole life. The signal must be looked at after this.
    pub fn set_waker(&self, waker: &Waker) {
        let _ = self.waker.set(waker.clone());
    }

    /// From now on cancel requests are for a request that no server has got yet.
    pub fn await_server(&self) {
        *self.cancel_target.lock() = CancelTarget::Waiting { is_cancelled: false };
    }

    /// Whether the request that waits for a server was cancelled.
    #[must_use]
    pub fn is_wait_cancelled(&self) -> bool {
        matches!(*self.cancel_target.lock(), CancelTarget::Waiting { is_cancelled: true })
    }

    /// From now on cancel requests go to `server`. True if one came while the request waited.
    #[must_use]
    pub fn link(&self, server: &Arc<ServerShared>) -> bool {
        server.client_id.store(self.id, Ordering::Relaxed);
        let before = self.retarget(CancelTarget::Server(server.clone()));
        matches!(before, CancelTarget::Waiting { is_cancelled: true })
    }

    /// From now on cancel requests go nowhere. Those on their way hold the server.
    pub fn unlink(&self) {
        if let CancelTarget::Server(server) = self.retarget(CancelTarget::Nothing) {
            server.client_id.store(0, Ordering::Relaxed);
        }
    }

    fn retarget(&self, target: CancelTarget) -> CancelTarget {
        std::mem::replace(&mut *self.cancel_target.lock(), target)
    }

    /// The server it is linked to.
    #[must_use]
    pub fn server(&self) -> Option<Arc<ServerShared>> {
        match &*self.cancel_target.lock() {
            CancelTarget::Server(server) => Some(server.clone()),
            CancelTarget::Nothing | CancelTarget::Waiting { .. } => None,
        }
    }

    /// Begins a cancel of what this client has asked for, if `secret` is right.
    #[must_use]
    pub fn begin_cancel(&self, secret: &[u8]) -> Cancel {
        if !self.secret.is(secret) {
            return Cancel::Nothing;
        }
        match &mut *self.cancel_target.lock() {
            CancelTarget::Nothing => return Cancel::Nothing,
            CancelTarget::Server(server) => {
                return Cancel::OfServer(CancelInFlight::new(server.clone()));
            }
            CancelTarget::Waiting { is_cancelled } => *is_cancelled = true,
        }
        // After unlock.
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        Cancel::OfWaiting
    }
}
