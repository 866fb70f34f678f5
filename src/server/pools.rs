//! The pool of the PostgreSQL connections of one (database, user).
//!
//! The generic pool of `crate::pool` decides who gets which connection; this file knows what a
//! connection is made of, and `dial` how one is made. What failed last is remembered here.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ServerLease;
use super::connection::{Server, ServerShared, WatchInbox};
use super::credentials::{Credentials, Learnt};
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::greeting::Greeting;
use super::life::Life;
use super::node::{Node, Nodes};
use super::settings::Settings;
use crate::auth::Secret;
use crate::config::{LoadBalance, PoolMode, ServerTls};
use crate::net::{NameTtl, SocketOptions};
use crate::pool::{Permit, Pool, PoolLimits};
use crate::primitives::{Tick, clock};
use crate::protocol::error::ErrorMessage;
use crate::protocol::startup::Parameter;

/// Settings of clients that were tried out on a server, kept per pool.
const KNOWN_SETTINGS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("BUG: not zero");
/// Statements known to be good, kept per pool.
const PARSED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("BUG: not zero");

/// What a pool was configured with. Replaced as a whole by a reload.
#[derive(Debug)]
pub struct PoolSettings {
    /// How long a server stays with a client.
    pub mode: PoolMode,
    /// Limits of the generic pool.
    pub limits: PoolLimits,
    /// `server_reset_query`, if it runs after every transaction.
    pub reset_query: Option<Arc<str>>,
    /// Prepared statements kept per server; `None` leaves statement names alone.
    pub statements_max: Option<NonZeroUsize>,
    /// Bytes that the texts of all prepared statements, of all pools, may take.
    pub statement_bytes_max: usize,
    /// How long clients may take.
    pub time_limits: TimeLimits,
    /// How many servers there are, and how long.
    pub servers: ServerRules,
    /// Where the server listens; never empty. Several are as good as each other.
    pub endpoints: Box<[Endpoint]>,
    /// Logins to one of them that may be under way at once, of all pools together.
    pub connecting_max: usize,
    /// Which of them is tried first.
    pub load_balance: LoadBalance,
    /// How long the meaning of host names is remembered.
    pub name_ttl: NameTtl,
    /// The database's name there.
    pub dbname: String,
    /// Settings that each connection begins with.
    pub server_settings: Vec<Parameter>,
    /// The role to log in as.
    pub server_user: String,
    /// Its password, if one is configured.
    pub server_secret: Option<Secret>,
    /// Limit for connecting and logging in together.
    pub connect_timeout: Duration,
    /// Pause after PostgreSQL refused the login.
    pub login_retry: Duration,
    /// TCP options.
    pub socket_options: SocketOptions,
    /// Whether and how TLS is used.
    pub tls: ServerTls,
}

/// How many servers a pool keeps, how long they live, and how they begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerRules {
    /// `min_pool_size`.
    pub min: usize,
    /// They are kept without a client, too: the database forces its user.
    pub stands: bool,
    /// `server_lifetime`.
    pub lifetime: Duration,
    /// `server_idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// `server_check_query`, and `server_check_delay`.
    pub check: Option<(Arc<str>, Duration)>,
    /// `connect_query`.
    pub connect_query: Option<Arc<str>>,
    /// How long the pool is remembered without clients and servers.
    pub forget_after: Option<Duration>,
    /// `log_disconnections`.
    pub logs_ends: bool,
}

/// How long a client may take; absent ones are no limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// `client_idle_timeout`: without a server.
    pub idle: Option<Duration>,
    /// `idle_transaction_timeout`: between two requests of a transaction.
    pub idle_transaction: Option<Duration>,
    /// `transaction_timeout`: for a transaction.
    pub transaction: Option<Duration>,
    /// `query_timeout`: until a request is answered.
    pub query: Option<Duration>,
}

impl PoolSettings {
    /// Whether connections made with `self` would serve as well as those made with `other`.
    #[must_use]
    pub fn same_target(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints
            && self.dbname == other.dbname
            && self.server_settings == other.server_settings
            && self.server_user == other.server_user
            && self.servers.connect_query == other.servers.connect_query
            && (self.tls == other.tls || self.endpoints.iter().all(Endpoint::is_unix))
    }
}

/// The pool of one (database, user).
#[derive(Debug)]
pub struct ServerPool {
    /// The database's name for clients.
    pub database: Arc<str>,
    /// The user's name for clients.
    pub user: Arc<str>,
    /// Who gets which connection.
    pub pool: Arc<Pool<Box<Server>>>,
    /// Settings in force.
    pub settings: ArcSwap<PoolSettings>,
    /// Clients logged in to it.
    pub clients: AtomicU64,
    greeting: ArcSwapOption<Greeting>,
    /// Held for a moment; nothing is locked under it.
    failure: Mutex<Failure>,
    /// Carries no data: the failure is in `failure`.
    has_failed: Notify,
    pub(super) credentials: Credentials,
    known_settings: Mutex<LruCache<u64, Arc<Settings>>>,
    parsed: Mutex<LruCache<u64, ()>>,
    pub(super) servers: ServerTable,
    pub(super) nodes: Nodes,
    /// Those it leads to, held so that what is known of them is not forgotten.
    nodes_held: ArcSwap<Vec<Arc<Node>>>,
    /// The place of the endpoint that is tried first.
    pub(super) first_endpoint: AtomicUsize,
    pub(super) life: Arc<Life>,
    /// Since when it has neither clients nor servers, in microseconds; 0 if it has.
    pub(super) unused_since_us: AtomicU64,
}

/// An LRU that takes its memory as it fills: most pools keep little.
fn lru<V>(max: NonZeroUsize) -> Mutex<LruCache<u64, V>> {
    let mut cache = LruCache::unbounded();
    cache.resize(max);
    Mutex::new(cache)
}

#[derive(Debug, Default)]
struct Failure {
    /// The last failure, cleared by the next success.
    error: Option<ErrorMessage>,
    is_transient: bool,
    attempts: u32,
    retry_at: Tick,
}

/// All live server connections, for the console.
#[derive(Debug, Default, Clone)]
pub struct ServerTable(Arc<Mutex<HashMap<u64, Weak<ServerShared>>>>);

impl ServerTable {
    /// Those connected now, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServerShared>> {
        let mut all: Vec<_> = {
            let mut table = self.0.lock();
            table.retain(|_, server| server.strong_count() > 0);
            table.values().filter_map(Weak::upgrade).collect()
        };
        all.sort_by_key(|s| s.id);
        all
    }

    pub(super) fn insert(&self, server: &Arc<ServerShared>) {
        let mut table = self.0.lock();
        // Swept here as well, so that a table nobody looks at stays in proportion.
        if table.len() >= 64 && table.len().is_power_of_two() {
            table.retain(|_, server| server.strong_count() > 0);
        }
        table.insert(server.id, Arc::downgrade(server));
    }
}

/// Where a dial happens: the worker whose reactor gets the socket.
#[derive(Debug, Clone)]
pub struct DialPlace {
    /// The worker.
    pub worker: usize,
    /// Its watcher's inbox.
    pub inbox: Arc<WatchInbox>,
}

impl ServerPool {
    /// A pool without servers.
    pub(super) fn new(
        (database, user): (Arc<str>, Arc<str>),
        pool: Arc<Pool<Box<Server>>>,
        settings: PoolSettings,
        servers: ServerTable,
        nodes: Nodes,
    ) -> Arc<Self> {
        let life = Arc::<Life>::default();
        life.follow(&settings);
        let nodes_held = ArcSwap::from_pointee(held(&nodes, &settings));
        Arc::new(Self {
            database,
            user,
            pool,
            settings: ArcSwap::from_pointee(settings),
            clients: AtomicU64::new(0),
            greeting: ArcSwapOption::empty(),
            failure: Mutex::default(),
            has_failed: Notify::new(),
            credentials: Credentials::default(),
            known_settings: lru(KNOWN_SETTINGS_MAX),
            parsed: lru(PARSED_MAX),
            servers,
            nodes,
            nodes_held,
            first_endpoint: AtomicUsize::new(0),
            life,
            unused_since_us: AtomicU64::new(0),
        })
    }

    /// Dials with `permit`. Dropping the future gives the slot to the next waiter.
    ///
    /// # Errors
    /// The permit back, with the failure noted and the earliest time of the next attempt.
    pub async fn dial(
        self: Arc<Self>,
        permit: Permit<Box<Server>>,
        place: DialPlace,
    ) -> Result<ServerLease, DialFailure> {
        match self.connect(&place, permit.generation(), &[]).await {
            Ok((server, greeting)) => {
                self.note_success(Some(greeting));
                Ok(permit.fulfil(server))
            }
            Err((error, retry_at)) => Err(DialFailure { permit, error, retry_at }),
        }
    }

    /// Connects a server for one client alone, with parameters of that client's own, on a slot of
    /// this pool: whatever server has the slot is closed first. Gives the server and its own
    /// greeting; it must be discarded after its client. Dropping the future frees the slot.
    ///
    /// # Errors
    /// The failure, noted; the slot is free.
    pub async fn dedicate(
        self: Arc<Self>,
        slot: Slot,
        place: DialPlace,
        parameters: &[Parameter],
    ) -> Result<(ServerLease, Greeting), ConnectError> {
        let slot = match slot {
            Slot::Used(mut lease) => {
                // Closed before the next one is connected: the server never sees one too many.
                lease.leave();
                Slot::Used(lease)
            }
            slot @ Slot::New(_) => slot,
        };
        let generation = match &slot {
            Slot::New(permit) => permit.generation(),
            Slot::Used(lease) => lease.generation(),
        };
        match (self.connect(&place, generation, parameters).await, slot) {
            (Ok((mut server, greeting)), Slot::New(permit)) => {
                self.note_success(None);
                server.is_unread = true;
                Ok((permit.fulfil(server), greeting))
            }
            (Ok((mut server, greeting)), Slot::Used(mut lease)) => {
                self.note_success(None);
                server.is_unread = true;
                *lease = server;
                Ok((lease, greeting))
            }
            (Err((error, retry_at)), Slot::New(permit)) => {
                permit.fail(retry_at);
                Err(error)
            }
            (Err((error, _)), Slot::Used(lease)) => {
                lease.discard();
                Err(error)
            }
        }
    }

    /// What clients are greeted with, once a server has logged in.
    #[must_use]
    pub fn greeting(&self) -> Option<Arc<Greeting>> {
        self.greeting.load_full()
    }

    /// The error that a client which logs in now is told at once: PostgreSQL refuses the login,
    /// or it cannot be reached and has not told yet what to greet clients with.
    #[must_use]
    pub fn standing_failure(&self, now: Tick) -> Option<ErrorMessage> {
        let error = {
            let failure = self.failure.lock();
            let waits = failure.is_transient && self.greeting.load().is_some();
            if waits || now >= failure.retry_at {
                return None;
            }
            failure.error.clone()?
        };
        (!self.has_servers()).then_some(error)
    }

    /// Waits for a failure that a client which is logging in is told at once, as
    /// [`standing_failure`](Self::standing_failure) says: it is not to wait for its turn to fail.
    /// Cancel-safe: it keeps nothing.
    pub async fn next_failure(&self) -> ErrorMessage {
        let mut since = clock::now();
        loop {
            // Registered before the look: a failure between the two is not missed.
            let mut failed = std::pin::pin!(self.has_failed.notified());
            failed.as_mut().enable();
            if let Some(message) = self.standing_failure(since) {
                return message;
            }
            failed.await;
            // It is news, however late it is heard.
            since = Tick::ZERO;
        }
    }

    /// PostgreSQL refuses the login. Who waits is told, unless servers are there that they wait for
    /// as well.
    pub fn refuse_waiters(&self) {
        if !self.has_servers() {
            self.pool.refuse_waiters();
        }
    }

    /// Whether it has servers that are logged in, for whomever.
    #[must_use]
    pub fn has_servers(&self) -> bool {
        let seen = self.pool.snapshot();
        seen.idle + seen.active > 0
    }

    /// Takes in what a client's login has told of this pool's user; what failed for want of it is tried
    /// again at once. Must not be told of anybody but that user.
    pub fn learn(&self, learnt: Learnt) {
        let settings = self.settings.load();
        let is_told = matches!(settings.server_secret, Some(Secret::Plain(_)));
        if is_told || settings.servers.stands || !self.credentials.learn(learnt) {
            return;
        }
        let was_refused = {
            let mut failure = self.failure.lock();
            let was_refused = failure.error.is_some() && !failure.is_transient;
            if was_refused {
                *failure = Failure::default();
            }
            was_refused
        };
        if was_refused {
            self.pool.retry_now(clock::now());
        }
    }

    /// The last dial's error, if it failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<ErrorMessage> {
        self.failure.lock().error.clone()
    }

    /// The canonical form of settings that a server of this pool has accepted before.
    #[must_use]
    pub fn known_settings(&self, settings: &Settings) -> Option<Arc<Settings>> {
        self.known_settings.lock().get(&settings.fingerprint()).cloned()
    }

    /// Remembers that a server accepted settings asked for as `fingerprint`.
    pub fn remember_settings(&self, fingerprint: u64, accepted: Arc<Settings>) {
        self.known_settings.lock().put(fingerprint, accepted);
    }

    /// Whether a server of this pool has parsed the statement.
    #[must_use]
    pub fn has_parsed(&self, statement_id: u64) -> bool {
        self.parsed.lock().get(&statement_id).is_some()
    }

    /// Remembers that a server of this pool has parsed the statement.
    pub fn remember_parsed(&self, statement_id: u64) {
        self.parsed.lock().put(statement_id, ());
    }

    /// Puts new settings in force. Servers connected elsewhere go when they are next free.
    pub fn reconfigure(&self, settings: PoolSettings) {
        let old = self.settings.load();
        let keep = old.same_target(&settings);
        self.pool.set_limits(settings.limits.clone(), clock::now());
        self.life.follow(&settings);
        self.nodes_held.store(Arc::new(held(&self.nodes, &settings)));
        self.settings.store(Arc::new(settings));
        self.credentials.reconfigured();
        self.failure.lock().error = None;
        // What was wrong may be right now.
        self.pool.retry_now(clock::now());
        if !keep {
            self.parsed.lock().clear();
            self.greeting.store(None);
            self.pool.bump_generation();
        }
    }

    /// Server connections there are, being dialled or open.
    #[must_use]
    pub fn owned(&self) -> usize {
        let seen = self.pool.snapshot();
        seen.idle + seen.active + seen.connecting
    }

    /// RECONNECT. What servers knew is asked anew: the next ones may be others.
    pub(super) fn reconnect(&self) {
        self.parsed.lock().clear();
        self.pool.bump_generation();
    }

    fn note_success(&self, greeting: Option<Greeting>) {
        *self.failure.lock() = Failure::default();
        let Some(greeting) = greeting else { return };
        let known = self.greeting.load();
        if known.as_deref() != Some(&greeting) {
            self.greeting.store(Some(Arc::new(greeting)));
        }
    }

    pub(super) fn failed_attempts(&self) -> u32 {
        self.failure.lock().attempts
    }

    pub(super) fn remember_failure(&self, error: &ConnectError, attempts: u32, retry_at: Tick) {
        *self.failure.lock() = Failure {
            error: Some(error.client_message()),
            is_transient: error.is_transient(),
            attempts,
            retry_at,
        };
        self.has_failed.notify_waiters();
    }
}

fn held(nodes: &Nodes, settings: &PoolSettings) -> Vec<Arc<Node>> {
    settings.endpoints.iter().map(|endpoint| nodes.at(endpoint)).collect()
}

/// A slot of a pool, in the hands of somebody who needs a server of his own.
#[derive(Debug)]
pub enum Slot {
    /// The right to dial.
    New(Permit<Box<Server>>),
    /// With a server that was logged in for everybody.
    Used(ServerLease),
}

/// A dial that failed.
#[derive(Debug)]
pub struct DialFailure {
    /// The right to dial, to be given back.
    pub permit: Permit<Box<Server>>,
    /// What went wrong.
    pub error: ConnectError,
    /// When the next attempt may be made.
    pub retry_at: Tick,
}
