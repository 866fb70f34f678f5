//! The pools of PostgreSQL connections, one per (database, user), and how they dial.
//!
//! The generic pool of `crate::pool` decides who gets which connection; this file knows what a
//! connection is made of. A failed dial is remembered here: clients that log in meanwhile are told
//! at once, those that wait go on waiting while the pool tries again, ever less often.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use lru::LruCache;
use parking_lot::Mutex;

use super::ServerLease;
use super::connect::{self, Target};
use super::connection::{Greeting, Server, ServerShared, WatchInbox};
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::pauses::Pauses;
use super::settings::Settings;
use crate::auth::Secret;
use crate::auth::scram::ClientKeys;
use crate::config::PoolMode;
use crate::net::{SocketOptions, Transport};
use crate::observe::logs::one_line;
use crate::pool::{Budget, Permit, Pool, PoolLimits};
use crate::primitives::{Tick, clock};
use crate::protocol::error::ErrorMessage;
use crate::protocol::startup::Parameter;
use crate::timeouts::TimeoutHandle;

/// The first pause after a failed dial; each further failure doubles it.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause, unless `server_login_retry` is shorter: a node that is back is found soon.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
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
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// The database's name there.
    pub dbname: String,
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
        self.endpoint == other.endpoint
            && self.dbname == other.dbname
            && self.server_user == other.server_user
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
    keys: ServerKeys,
    known_settings: Mutex<LruCache<u64, Arc<Settings>>>,
    parsed: Mutex<LruCache<u64, ()>>,
    servers: ServerTable,
}

#[derive(Debug, Default)]
struct Failure {
    /// The last failure, cleared by the next success.
    error: Option<ErrorMessage>,
    is_transient: bool,
    attempts: u32,
    retry_at: Tick,
}

/// The SCRAM keys of a pool's role, so that PBKDF2 runs once per password and salt.
#[derive(Debug, Default)]
pub struct ServerKeys(Mutex<Option<Arc<ClientKeys>>>);

impl ServerKeys {
    /// The keys for this salt and iteration count, if they were derived before.
    #[must_use]
    pub fn find(&self, salt: &[u8], iterations: u32) -> Option<Arc<ClientKeys>> {
        self.0.lock().as_ref().filter(|keys| keys.fit(salt, iterations)).cloned()
    }

    /// Remembers keys just derived.
    pub fn remember(&self, keys: ClientKeys) -> Arc<ClientKeys> {
        let keys = Arc::new(keys);
        *self.0.lock() = Some(keys.clone());
        keys
    }

    fn forget(&self) {
        *self.0.lock() = None;
    }
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

    fn insert(&self, server: &Arc<ServerShared>) {
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
                lease.transport = Transport::Closed;
                Slot::Used(lease)
            }
            slot @ Slot::New(_) => slot,
        };
        let generation = match &slot {
            Slot::New(permit) => permit.generation(),
            Slot::Used(lease) => lease.generation(),
        };
        match (self.connect(&place, generation, parameters).await, slot) {
            (Ok((server, greeting)), Slot::New(permit)) => {
                self.note_success(None);
                Ok((permit.fulfil(server), greeting))
            }
            (Ok((server, greeting)), Slot::Used(mut lease)) => {
                self.note_success(None);
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

    /// Connects and logs in. A failure is noted; it comes with the time of the next attempt.
    async fn connect(
        self: &Arc<Self>,
        place: &DialPlace,
        generation: u64,
        parameters: &[Parameter],
    ) -> Result<(Box<Server>, Greeting), (ConnectError, Tick)> {
        let settings = self.settings.load_full();
        let target = Target {
            endpoint: &settings.endpoint,
            dbname: &settings.dbname,
            user: &settings.server_user,
            secret: settings.server_secret.as_ref(),
            keys: &self.keys,
            parameters,
            options: &settings.socket_options,
            timeout: settings.connect_timeout,
        };
        match connect::connect(&target).await {
            Ok(login) => {
                let shared = Arc::new(ServerShared::new(
                    NEXT_SERVER_ID.fetch_add(1, Ordering::Relaxed),
                    self,
                    generation,
                    settings.server_user.as_str().into(),
                    settings.endpoint.clone(),
                    &login.transport,
                    login.backend_pid,
                    login.secret,
                    clock::now(),
                ));
                self.servers.insert(&shared);
                let weak = Arc::downgrade(self);
                let inbox = place.inbox.clone();
                let server = Server::new(login.transport, place.worker, shared, weak, inbox);
                Ok((server, login.greeting))
            }
            Err(error) => {
                let retry_at = self.note_failure(&error, &settings);
                Err((error, retry_at))
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
        let snapshot = self.pool.snapshot();
        (snapshot.idle + snapshot.active == 0).then_some(error)
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
        self.settings.store(Arc::new(settings));
        self.keys.forget();
        self.failure.lock().error = None;
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

    fn note_failure(&self, error: &ConnectError, settings: &PoolSettings) -> Tick {
        let attempts = self.failure.lock().attempts.saturating_add(1);
        let pause = if error.is_transient() {
            let doubled = BACK_OFF_MIN.saturating_mul(1 << (attempts - 1).min(8));
            jittered(doubled.min(BACK_OFF_MAX).min(settings.login_retry))
        } else {
            self.keys.forget();
            settings.login_retry
        };
        tracing::warn!(
            database = &*self.database,
            user = &*self.user,
            server = %settings.endpoint,
            attempt = attempts,
            retry_in_ms = pause.as_millis(),
            "server login failed: {}",
            one_line(error)
        );
        let retry_at = clock::now().after(pause);
        *self.failure.lock() = Failure {
            error: Some(error.client_message()),
            is_transient: error.is_transient(),
            attempts,
            retry_at,
        };
        retry_at
    }
}

static NEXT_SERVER_ID: AtomicU64 = AtomicU64::new(1);

/// Between half of `pause` and all of it, so that pools do not knock in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
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

/// All pools, made when a client first asks for them.
pub struct PoolSet {
    shards: usize,
    timeouts: TimeoutHandle,
    /// Looked up at logins and by the console only.
    pub(super) state: Mutex<PoolSetState>,
    /// All live server connections.
    pub servers: ServerTable,
}

impl std::fmt::Debug for PoolSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolSet").field("shards", &self.shards).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct PoolSetState {
    pub(super) pools: HashMap<(Arc<str>, Arc<str>), Arc<ServerPool>>,
    database_budgets: HashMap<Arc<str>, Arc<Budget>>,
    user_budgets: HashMap<Arc<str>, Arc<Budget>>,
    pub(super) pauses: Pauses,
    /// Taken out, with servers of theirs still in use.
    pub(super) leaving: Vec<Arc<ServerPool>>,
}

/// The caps that a pool's servers count against, beside its own size. 0 is no cap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caps {
    /// `max_db_connections`.
    pub database: usize,
    /// `max_user_connections`.
    pub user: usize,
}

impl PoolSet {
    /// No pools yet; each will have `shards` shards, one per worker.
    #[must_use]
    pub fn new(shards: usize, timeouts: TimeoutHandle) -> Self {
        Self { shards, timeouts, state: Mutex::default(), servers: ServerTable::default() }
    }

    /// The pool of (database, user), made by `settings` if there is none.
    pub fn pool(
        &self,
        database: &str,
        user: &str,
        settings: impl FnOnce() -> (PoolSettings, Caps),
    ) -> Arc<ServerPool> {
        let mut state = self.state.lock();
        let key = (Arc::from(database), Arc::from(user));
        if let Some(pool) = state.pools.get(&key) {
            return pool.clone();
        }
        let (settings, caps) = settings();
        let budgets = state.budgets(database, user, caps);
        let limits = settings.limits.clone();
        let pool = Arc::new(ServerPool {
            database: key.0.clone(),
            user: key.1.clone(),
            pool: Pool::new(self.shards, limits, budgets, self.timeouts.clone()),
            settings: ArcSwap::from_pointee(settings),
            clients: AtomicU64::new(0),
            greeting: ArcSwapOption::empty(),
            failure: Mutex::default(),
            keys: ServerKeys::default(),
            known_settings: Mutex::new(LruCache::new(KNOWN_SETTINGS_MAX)),
            parsed: Mutex::new(LruCache::new(PARSED_MAX)),
            servers: self.servers.clone(),
        });
        // Nothing is there to be closed or served yet: the gate alone is set.
        pool.pool.set_gate(state.pauses.gate(database));
        state.pools.insert(key, pool.clone());
        drop(state);
        // Its budgets may be there from an earlier configuration.
        self.set_caps(database, user, caps);
        pool
    }

    /// All pools, sorted by database and user.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServerPool>> {
        let mut pools: Vec<_> = self.state.lock().pools.values().cloned().collect();
        pools.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
        pools
    }

    /// Sets the caps of a database and a user, as a reload does.
    pub fn set_caps(&self, database: &str, user: &str, caps: Caps) {
        let budgets = self.state.lock().budgets(database, user, caps);
        // After the unlock: a raised cap wakes waiters, a lowered one closes servers.
        for (budget, cap) in budgets.iter().zip([caps.database, caps.user]) {
            budget.set_limit(cap, clock::now());
        }
    }

    /// Takes a pool out, closing it: its database is configured no longer.
    pub fn remove(&self, pool: &ServerPool) {
        {
            let mut state = self.state.lock();
            state.leaving.retain(|pool| pool.owned() > 0);
            let key = (pool.database.clone(), pool.user.clone());
            // Another may have been made under its name since.
            if state.pools.get(&key).is_some_and(|found| std::ptr::eq(Arc::as_ptr(found), pool)) {
                let removed = state.pools.remove(&key);
                state.leaving.extend(removed);
            }
        }
        // Its servers are marked as to be closed, for the console.
        pool.pool.bump_generation();
        pool.pool.close();
    }
}

impl PoolSetState {
    fn budgets(&mut self, database: &str, user: &str, caps: Caps) -> Vec<Arc<Budget>> {
        let of_database = budget(&mut self.database_budgets, "database", database, caps.database);
        let of_user = budget(&mut self.user_budgets, "user", user, caps.user);
        vec![of_database, of_user]
    }
}

fn budget(
    budgets: &mut HashMap<Arc<str>, Arc<Budget>>,
    kind: &str,
    name: &str,
    limit: usize,
) -> Arc<Budget> {
    if let Some(budget) = budgets.get(name) {
        return budget.clone();
    }
    let budget = Budget::new(&format!("{kind} {name}"), limit);
    budgets.insert(name.into(), budget.clone());
    budget
}
