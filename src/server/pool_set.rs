//! All pools, by (database, user), and the budgets that they share: made when they are asked for,
//! forgotten when nobody has used them for long.
//!
//! It knows pools as a whole, not how they dial. Invariants: a pool is handed out under the set's lock
//! and nowhere else, so that one of which the set has the only handle is used by nobody; nothing is
//! dropped, closed or woken under that lock.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::endpoint::Endpoint;
use super::node::Nodes;
use super::pauses::Pauses;
use super::pools::{PoolSettings, ServerPool, ServerTable};
use crate::net::NameTtl;
use crate::pool::{Budget, Pool};
use crate::primitives::{Tick, clock};
use crate::timeouts::TimeoutHandle;

/// All pools, made when a client first asks for them.
pub struct PoolSet {
    shards: usize,
    timeouts: TimeoutHandle,
    /// Looked up at logins and by the console only.
    pub(super) state: Mutex<PoolSetState>,
    /// All live server connections.
    pub servers: ServerTable,
    nodes: Nodes,
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
        let (servers, nodes) = (ServerTable::default(), Nodes::default());
        Self { shards, timeouts, state: Mutex::default(), servers, nodes }
    }

    /// The pool of (database, user), if there is one.
    #[must_use]
    pub fn find(&self, database: &str, user: &str) -> Option<Arc<ServerPool>> {
        let key = (Arc::from(database), Arc::from(user));
        self.state.lock().pools.get(&key).cloned()
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
        let pool = Pool::new(self.shards, limits, budgets, self.timeouts.clone());
        let (servers, nodes) = (self.servers.clone(), self.nodes.clone());
        let pool = ServerPool::new(key.clone(), pool, settings, servers, nodes);
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

    /// All pools, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ServerPool>> {
        self.state.lock().pools.values().cloned().collect()
    }

    /// Forgets pools that nobody has used for the time that they are kept, with the budgets and
    /// nodes that nobody shares any more.
    pub fn forget_unused(&self, now: Tick) {
        let mut forgotten = Vec::new();
        {
            let mut state = self.state.lock();
            state.pools.retain(|_, pool| {
                // Whoever else has a handle got it under this lock: nobody is on the way to it.
                let keeps = !pool.is_forgettable(now) || Arc::strong_count(pool) > 1;
                if !keeps {
                    forgotten.push(pool.clone());
                }
                keeps
            });
            forgotten.extend(state.leaving.extract_if(.., |pool| pool.owned() == 0));
            if !forgotten.is_empty() {
                state.pools.shrink_to_fit();
            }
        }
        // What a pool's end settles is not settled under the lock.
        drop(forgotten);
        let mut state = self.state.lock();
        state.database_budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        state.user_budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        drop(state);
        self.nodes.forget_unused();
    }

    /// Asks anew for host names in use whose meaning may be old. Servers at addresses that a name means no
    /// longer are closed when they are free.
    pub fn follow_names(&self, ttl: NameTtl) {
        let now = clock::now();
        for pool in self.list().iter().filter(|pool| pool.owned() > 0) {
            for host in pool.settings.load().endpoints.iter().filter_map(Endpoint::host) {
                self.nodes.names.touch(host, now);
            }
        }
        for (name, addresses) in self.nodes.names.look(ttl) {
            let servers = self.servers.all();
            let moved = servers.iter().filter(|server| server.follow_name(&name, &addresses));
            let moved = moved.count();
            tracing::info!(host = name, servers = moved, "the name means other addresses now");
        }
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
        let left: Vec<_>;
        {
            let mut state = self.state.lock();
            left = state.leaving.extract_if(.., |pool| pool.owned() == 0).collect();
            let key = (pool.database.clone(), pool.user.clone());
            // Another may have been made under its name since.
            if state.pools.get(&key).is_some_and(|found| std::ptr::eq(Arc::as_ptr(found), pool)) {
                let removed = state.pools.remove(&key);
                state.leaving.extend(removed);
            }
        }
        drop(left);
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
