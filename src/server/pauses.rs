//! PAUSE, RESUME, KILL and RECONNECT over the pools of one database or of all.
//!
//! Must not know consoles, nor wait for anything: whoever waits asks again how much is left.
//! Invariants: what is paused is decided under the set's lock, by numbered orders, and applied to
//! the pools after it; a later order wins in each pool, so that a pause and a resume given at once
//! end alike everywhere. A pool made later is born with the gate that its database has by then.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool_set::{PoolSet, PoolSetState};
use super::pools::ServerPool;
use crate::pool::Gate;

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every database.
    All,
    /// One, by the name that clients ask for.
    Database(Arc<str>),
}

impl Scope {
    /// Whether a database is meant.
    #[must_use]
    pub fn covers(&self, database: &str) -> bool {
        match self {
            Self::All => true,
            Self::Database(name) => **name == *database,
        }
    }
}

/// What is paused. All and a database may be paused at once; each has a RESUME of its own.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The number of the last order given.
    last: u64,
    held: HashMap<Scope, Held>,
}

#[derive(Debug)]
struct Held {
    /// The order that paused it.
    since: u64,
    /// Commands that wait for its servers to go.
    waiting: usize,
    /// It stays in force when they give up: one of them has come to its end, or none had to wait.
    stays: bool,
}

impl Pauses {
    /// The gate of a database's pools as of now.
    pub(super) fn gate(&self, database: &str) -> Gate {
        Gate { order: self.last, paused: self.held.keys().any(|scope| scope.covers(database)) }
    }

    fn begin(&mut self, scope: &Scope) -> &mut Held {
        self.last += 1;
        let new = Held { since: self.last, waiting: 0, stays: false };
        self.held.entry(scope.clone()).or_insert(new)
    }

    /// The pause of this order, if it is still in force.
    fn find(&mut self, scope: &Scope, since: u64) -> Option<&mut Held> {
        self.held.get_mut(scope).filter(|held| held.since == since)
    }

    /// Ends one command's wait. Whether the pause ends with it.
    fn stop_waiting(&mut self, scope: &Scope, since: u64, came_true: bool) -> bool {
        let Some(held) = self.find(scope, since) else {
            return false;
        };
        held.waiting -= 1;
        held.stays |= came_true;
        !held.stays && held.waiting == 0 && self.end(scope)
    }

    fn end(&mut self, scope: &Scope) -> bool {
        self.last += 1;
        self.held.remove(scope).is_some()
    }
}

/// A pause that somebody waits for. Dropped before it is [`confirm`](Pause::confirm)ed, it is taken
/// back, unless another command holds it too.
#[derive(Debug)]
#[must_use = "a pause that is dropped is taken back"]
pub struct Pause<'a> {
    pools: &'a PoolSet,
    scope: Scope,
    since: u64,
    confirmed: bool,
}

/// A RESUME came before a pause was complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Resumed;

impl Pause<'_> {
    /// Server connections that are still there.
    ///
    /// # Errors
    /// [`Resumed`]: there is nothing to wait for any more.
    pub fn left(&self) -> Result<usize, Resumed> {
        self.pools.state.lock().pauses.find(&self.scope, self.since).ok_or(Resumed)?;
        Ok(self.pools.owned(&self.scope))
    }

    /// The caller is told that it is complete: it stays until RESUME.
    ///
    /// # Errors
    /// [`Resumed`], if that came first.
    pub fn confirm(mut self) -> Result<(), Resumed> {
        self.confirmed = true;
        let mut state = self.pools.state.lock();
        let in_force = state.pauses.find(&self.scope, self.since).is_some();
        state.pauses.stop_waiting(&self.scope, self.since, true);
        if in_force { Ok(()) } else { Err(Resumed) }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            let (scope, since) = (&self.scope, self.since);
            self.pools.change(scope, |pauses| pauses.stop_waiting(scope, since, false));
        }
    }
}

impl PoolSet {
    /// Pauses, for somebody who waits until no server is left.
    pub fn pause(&self, scope: Scope) -> Pause<'_> {
        let since = self.change(&scope, |pauses| {
            let held = pauses.begin(&scope);
            held.waiting += 1;
            held.since
        });
        Pause { pools: self, scope, since, confirmed: false }
    }

    /// Pauses until RESUME, at once.
    pub fn hold(&self, scope: &Scope) {
        self.change(scope, |pauses| pauses.begin(scope).stays = true);
    }

    /// Ends a pause. Whether there was one.
    #[must_use]
    pub fn resume(&self, scope: &Scope) -> bool {
        self.change(scope, |pauses| pauses.end(scope))
    }

    /// Whether the clients of a database are held: it is paused, or all are.
    #[must_use]
    pub fn is_paused(&self, database: &str) -> bool {
        self.state.lock().pauses.gate(database).paused
    }

    /// Whether exactly this was paused.
    #[must_use]
    pub fn holds(&self, scope: &Scope) -> bool {
        self.state.lock().pauses.held.contains_key(scope)
    }

    /// Changes what is paused and tells the pools.
    fn change<T>(&self, scope: &Scope, change: impl FnOnce(&mut Pauses) -> T) -> T {
        let (answer, gates) = {
            let mut state = self.state.lock();
            let answer = change(&mut state.pauses);
            let gates: Vec<_> = state
                .covered(scope)
                .map(|pool| (pool.clone(), state.pauses.gate(&pool.database)))
                .collect();
            (answer, gates)
        };
        for (pool, gate) in gates {
            pool.pool.set_gate(gate);
        }
        answer
    }

    /// RECONNECT: idle servers are closed now, the others when they are next free.
    pub fn reconnect(&self, scope: &Scope) {
        for pool in self.covered(scope) {
            pool.reconnect();
        }
    }

    /// Server connections there are, being dialled or open.
    #[must_use]
    pub fn owned(&self, scope: &Scope) -> usize {
        self.covered(scope).iter().map(|pool| pool.owned()).sum()
    }

    /// Of these, those from before the last RECONNECT.
    #[must_use]
    pub fn stale(&self, scope: &Scope) -> usize {
        self.covered(scope).iter().map(|pool| pool.pool.snapshot().stale).sum()
    }

    fn covered(&self, scope: &Scope) -> Vec<Arc<ServerPool>> {
        self.state.lock().covered(scope).cloned().collect()
    }
}

impl PoolSetState {
    /// The pools of a scope, those whose database was taken away included while servers of theirs
    /// are left.
    fn covered<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Arc<ServerPool>> {
        let all = self.pools.values().chain(&self.leaving);
        all.filter(|pool| scope.covers(&pool.database))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> Scope {
        Scope::Database("app".into())
    }

    fn pause(pauses: &mut Pauses, scope: &Scope) -> u64 {
        let held = pauses.begin(scope);
        held.waiting += 1;
        held.since
    }

    #[test]
    fn a_database_is_paused_by_its_own_pause_or_by_that_of_all() {
        let mut pauses = Pauses::default();
        assert!(!pauses.gate("app").paused);
        pauses.begin(&app());
        assert!(pauses.gate("app").paused && !pauses.gate("other").paused);
        pauses.begin(&Scope::All);
        assert!(pauses.gate("other").paused);
        assert!(pauses.end(&app()));
        assert!(pauses.gate("app").paused, "all are");
        assert!(!pauses.end(&app()));
        assert!(pauses.end(&Scope::All));
        assert!(!pauses.gate("app").paused);
    }

    #[test]
    fn each_order_has_a_higher_number() {
        let mut pauses = Pauses::default();
        let mut last = pauses.gate("app").order;
        for turn in 0..6 {
            match turn % 2 {
                0 => drop(pause(&mut pauses, &app())),
                _ => assert!(pauses.end(&app())),
            }
            let order = pauses.gate("app").order;
            assert!(order > last);
            last = order;
        }
    }

    #[test]
    fn a_pause_that_everybody_gives_up_is_taken_back() {
        let mut pauses = Pauses::default();
        let (one, two) = (pause(&mut pauses, &app()), pause(&mut pauses, &app()));
        assert_eq!(one, two, "both wait for the same");
        assert!(!pauses.stop_waiting(&app(), one, false));
        assert!(pauses.gate("app").paused);
        assert!(pauses.stop_waiting(&app(), two, false));
        assert!(!pauses.gate("app").paused);
    }

    #[test]
    fn a_pause_that_came_about_once_stays() {
        let mut pauses = Pauses::default();
        let (one, two) = (pause(&mut pauses, &app()), pause(&mut pauses, &app()));
        assert!(!pauses.stop_waiting(&app(), one, true));
        assert!(!pauses.stop_waiting(&app(), two, false));
        assert!(pauses.gate("app").paused);
        let third = pause(&mut pauses, &app());
        assert!(!pauses.stop_waiting(&app(), third, false));
        assert!(pauses.gate("app").paused);
    }

    #[test]
    fn who_waits_for_a_pause_that_was_ended_does_not_touch_the_next() {
        let mut pauses = Pauses::default();
        let first = pause(&mut pauses, &app());
        assert!(pauses.end(&app()));
        assert!(pauses.find(&app(), first).is_none());
        let second = pause(&mut pauses, &app());
        assert!(!pauses.stop_waiting(&app(), first, false));
        assert!(!pauses.stop_waiting(&app(), first, true));
        assert!(pauses.find(&app(), second).is_some_and(|held| held.waiting == 1 && !held.stays));
    }
}
