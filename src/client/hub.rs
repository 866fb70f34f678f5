//! What all sessions share: configuration, pools, statements, workers and their clients.
//!
//! There are no globals; whoever needs one of these gets the hub.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::cancel_secret::CancelSecret;
use super::caps::{Capped, ClientCounts, Full, Seat};
use super::consoles::Consoles;
use super::orders::Order;
use super::shared::{ClientShared, NewClient, Signal};
use crate::auth::scram::Verifier;
use crate::config::Config;
use crate::net::{Ends, SocketOptions, TlsKind};
use crate::server::lookup::Directory;
use crate::server::pool_set::PoolSet;
use crate::server::pools::ServerPool;
use crate::server::{RecentStatements, Settings, StatementStore, WatchInbox};
use crate::tasks::Tasks;

/// Clients that one worker can have: the slot's share of a virtual process id.
const SLOTS_MAX: usize = 1 << 22;
/// Workers that there can be: the worker's share of a virtual process id.
pub const WORKERS_MAX: usize = 1 << 8;

/// Shared by all sessions of the process.
#[derive(Debug)]
pub struct Hub {
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// The server pools.
    pub pools: PoolSet,
    /// Prepared statements.
    pub statements: StatementStore,
    /// The workers, by index.
    pub workers: Vec<Arc<Worker>>,
    /// Sessions, and the cancels that they forward.
    pub tasks: Tasks,
    /// pgbaton is stopping: consoles end at once.
    pub stopping: CancellationToken,
    /// All is paused for a shutdown that waits for servers: RESUME would make it wait for ever.
    pub is_held_for_shutdown: AtomicBool,
    /// What consoles ask of the composition root. There are as many as there are consoles, at most.
    pub orders: UnboundedSender<Order>,
    /// The consoles that are open.
    pub consoles: Consoles,
    /// Databases that take no new clients. Looked at by each login; nothing is locked under it.
    disabled: Mutex<HashSet<String>>,
    /// Clients that count against `max_client_conn`: all but consoles and those who have not
    /// said yet who they are.
    client_count: AtomicUsize,
    /// Clients by database and by user.
    pub client_counts: ClientCounts,
    next_client_id: AtomicU64,
    /// SCRAM verifiers made from plain passwords.
    pub verifiers: Verifiers,
    /// Users whom `auth_query` knows.
    pub directory: Directory,
    /// Seed of the salts that unknown users are shown.
    pub mock_seed: [u8; 32],
}

/// One worker thread and its clients.
#[derive(Debug)]
pub struct Worker {
    /// Its index, which is also its shard in every pool.
    pub index: usize,
    /// Its runtime.
    pub handle: Handle,
    /// Its idle servers' inbox.
    pub inbox: Arc<WatchInbox>,
    /// Unnamed statements that its clients have sent lately.
    pub recent_statements: RecentStatements,
    /// Connections placed on it.
    pub load: AtomicUsize,
    /// Its logged-in clients. Held for a moment; nothing is locked under it.
    clients: Mutex<Slab<Arc<ClientShared>>>,
}

impl Worker {
    /// A worker without clients.
    #[must_use]
    pub fn new(index: usize, handle: Handle) -> Self {
        Self {
            index,
            handle,
            inbox: Arc::default(),
            recent_statements: RecentStatements::default(),
            load: AtomicUsize::new(0),
            clients: Mutex::default(),
        }
    }

    /// Its clients now.
    #[must_use]
    pub fn clients(&self) -> Vec<Arc<ClientShared>> {
        self.clients.lock().iter().map(|(_, client)| client.clone()).collect()
    }
}

/// A client's place in the tables; leaving them when dropped.
#[derive(Debug)]
pub struct Registration {
    worker: Arc<Worker>,
    slot: usize,
    /// The client.
    pub client: Arc<ClientShared>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.clients.lock().remove(self.slot);
    }
}

/// A connection's place on its worker; given back when dropped.
#[derive(Debug)]
pub struct WorkerPlace(Arc<Worker>);

impl std::ops::Deref for WorkerPlace {
    type Target = Arc<Worker>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's place among `max_client_conn`, and among those of its database and user once these are
/// known; given back when dropped.
#[derive(Debug)]
pub struct ClientPlace {
    hub: Arc<Hub>,
    seat: Option<Seat>,
}

impl ClientPlace {
    /// Where the place is.
    #[must_use]
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Takes a place among the clients of a database and a user.
    ///
    /// # Errors
    /// [`Full`], if one of them has as many as it may.
    pub fn sit(&mut self, config: &Config, database: &str, user: &str) -> Result<(), Full> {
        let of_database =
            Capped { name: database, max: config.max_db_client_connections(database).get() };
        let of_user = Capped { name: user, max: config.max_user_client_connections(user).get() };
        self.seat = Some(self.hub.client_counts.sit(of_database, of_user)?);
        Ok(())
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.hub.client_count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// A hub for these workers.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        pools: PoolSet,
        workers: Vec<Arc<Worker>>,
        orders: UnboundedSender<Order>,
    ) -> Arc<Self> {
        let mut mock_seed = [0_u8; 32];
        // Without the system's randomness no login by password comes about anyway.
        if getrandom::fill(&mut mock_seed).is_err() {
            mock_seed.fill_with(|| fastrand::u8(..));
        }
        Arc::new(Self {
            config: ArcSwap::new(config),
            pools,
            statements: StatementStore::default(),
            workers,
            tasks: Tasks::default(),
            stopping: CancellationToken::new(),
            is_held_for_shutdown: AtomicBool::new(false),
            orders,
            consoles: Consoles::default(),
            disabled: Mutex::default(),
            client_count: AtomicUsize::new(0),
            client_counts: ClientCounts::default(),
            next_client_id: AtomicU64::new(1),
            verifiers: Verifiers::default(),
            directory: Directory::default(),
            mock_seed,
        })
    }

    /// Takes a place for a new connection on a worker.
    #[must_use]
    pub fn take_worker_place(&self, worker: &Arc<Worker>) -> WorkerPlace {
        worker.load.fetch_add(1, Ordering::Relaxed);
        WorkerPlace(worker.clone())
    }

    /// Takes one of `max` places for clients, if one is free.
    #[must_use]
    pub fn take_client_place(self: &Arc<Self>, max: usize) -> Option<ClientPlace> {
        let before = self.client_count.fetch_add(1, Ordering::Relaxed);
        // Made before the comparison, so that a refused one is given back as well.
        let place = ClientPlace { hub: self.clone(), seat: None };
        (before < max).then_some(place)
    }

    /// Clients that have been let in, those at their login included.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.client_count.load(Ordering::Relaxed)
    }

    /// Whether a database takes new clients.
    #[must_use]
    pub fn is_disabled(&self, database: &str) -> bool {
        self.disabled.lock().contains(database)
    }

    /// DISABLE and ENABLE.
    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let mut table = self.disabled.lock();
        if disabled {
            table.insert(database.to_owned());
        } else {
            table.remove(database);
        }
    }

    /// The worker with the fewest connections.
    #[must_use]
    pub fn least_loaded(&self) -> &Arc<Worker> {
        self.workers
            .iter()
            .min_by_key(|w| w.load.load(Ordering::Relaxed))
            .expect("BUG: there is at least one worker")
    }

    /// Enters a client that has logged in by this protocol minor version. `None` without random bytes
    /// for its secret, or if the worker's table is full.
    #[must_use]
    pub fn register(
        &self,
        worker: &Arc<Worker>,
        pool: &Arc<ServerPool>,
        (ends, tls): (Ends, Option<TlsKind>),
        settings: Arc<Settings>,
        minor: u16,
    ) -> Option<Registration> {
        let secret = CancelSecret::random(minor)?;
        let mut clients = worker.clients.lock();
        let entry = clients.vacant_entry();
        let slot = entry.key();
        if slot >= SLOTS_MAX {
            return None;
        }
        let client = Arc::new(ClientShared::new(NewClient {
            id: self.next_client_id.fetch_add(1, Ordering::Relaxed),
            virtual_pid: virtual_pid(worker.index, slot),
            pool: pool.clone(),
            peer: ends.peer,
            local: ends.local,
            tls,
            settings,
            secret,
        }));
        entry.insert(client.clone());
        Some(Registration { worker: worker.clone(), slot, client })
    }

    /// The client that was told this process id.
    #[must_use]
    pub fn find(&self, virtual_pid: i32) -> Option<Arc<ClientShared>> {
        let (worker, slot) = place_of(virtual_pid)?;
        let client = self.workers.get(worker)?.clients.lock().get(slot)?.clone();
        Some(client)
    }

    /// Every client that has logged in.
    #[must_use]
    pub fn clients(&self) -> Vec<Arc<ClientShared>> {
        self.workers.iter().flat_map(|worker| worker.clients()).collect()
    }

    /// Asks every client to end.
    pub fn signal_all(&self, signal: Signal) {
        for client in self.clients() {
            client.signal(signal);
        }
    }

    /// TCP options by the configuration in force.
    #[must_use]
    pub fn socket_options(&self) -> SocketOptions {
        super::routes::socket_options(&self.config.load())
    }
}

/// SCRAM verifiers made from plain passwords, so that PBKDF2 runs once per user and password.
#[derive(Default)]
pub struct Verifiers(Mutex<HashMap<String, Made>>);

/// The verifier made from one password.
struct Made {
    password: Zeroizing<Vec<u8>>,
    verifier: Arc<Verifier>,
}

impl std::fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifiers")
    }
}

impl Verifiers {
    /// The verifier of this user's password with this count, if it was made before.
    #[must_use]
    pub fn find(&self, user: &str, password: &[u8], iterations: u32) -> Option<Arc<Verifier>> {
        let table = self.0.lock();
        let made = table.get(user)?;
        let is_it = **made.password == *password && made.verifier.iterations() == iterations;
        is_it.then(|| made.verifier.clone())
    }

    /// Remembers a verifier just made, in the place of one for an older password.
    pub fn remember(&self, user: &str, password: &[u8], verifier: Verifier) -> Arc<Verifier> {
        let verifier = Arc::new(verifier);
        let password = Zeroizing::new(password.to_vec());
        let made = Made { password, verifier: verifier.clone() };
        self.0.lock().insert(user.to_owned(), made);
        verifier
    }
}

/// Worker and slot in one positive number; 0 is never used.
fn virtual_pid(worker: usize, slot: usize) -> i32 {
    i32::try_from((worker << 22 | slot) + 1).expect("BUG: 30 bits fit")
}

fn place_of(virtual_pid: i32) -> Option<(usize, usize)> {
    let place = usize::try_from(virtual_pid).ok()?.checked_sub(1)?;
    Some((place >> 22, place & (SLOTS_MAX - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_pid_names_worker_and_slot() {
        for place in [(0, 0), (0, 7), (3, 0), (WORKERS_MAX - 1, SLOTS_MAX - 2)] {
            let pid = virtual_pid(place.0, place.1);
            assert!(pid > 0);
            assert_eq!(place_of(pid), Some(place));
        }
        assert_eq!(place_of(0), None);
        assert_eq!(place_of(-5), None);
    }
}
