//! Budgets: connection counts shared by pools (a database's, a user's, a node's).
//!
//! Must not know connections or shards: a pool is a [`Member`] here. Invariants:
//! - `used` is the number of slots that pools hold against this budget; a slot holds all of its
//!   pool's budgets or none, taken in rising id.
//! - A pool that was refused is marked blocked in the critical section that refused it, so that the
//!   release that comes next sees it. `blocked` outside the lock is a hint for check-ins, paired by
//!   fences: a check-in stores, fences and reads the hint; who was refused publishes the hint,
//!   fences and looks for idle connections to close.
//! - A budget's lock is innermost: nothing is called under it.

use crate::primitives::atomic::{AtomicUsize, Ordering, fence};
use crate::primitives::{Arc, Mutex, Tick, Weak};

use super::limits::unlimited_if_zero;

/// Identities of budgets and members. The standard atomic, not the modelled one: it only makes
/// numbers different, and it is a static.
static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

pub(super) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A pool, as its budgets see it.
pub(super) trait Member: Send + Sync {
    /// When the oldest waiter came, if anybody waits.
    fn oldest_waiter(&self) -> Option<Tick>;
    /// False if the pool could not use a slot now, for a reason of its own: its size, its dialling
    /// rate, a back-off. It settles by itself when that changes.
    fn may_dial(&self, now: Tick) -> bool;
    /// Since when the longest idle connection is idle, if one is idle and nobody waits for it.
    fn spare_idle_since(&self) -> Option<Tick>;
    /// Closes the longest idle connection and frees its slot. False if there was none.
    fn evict_idle(&self, now: Tick, todo: &mut Todo) -> bool;
    /// Serves waiters with what there is.
    fn settle(&self, now: Tick, todo: &mut Todo);
}

/// Budgets to look at after the pool at hand is settled: a worklist instead of recursion.
pub(super) type Todo = Vec<Arc<Budget>>;

struct Seat {
    member: u64,
    pool: Weak<dyn Member>,
    blocked: bool,
}

struct State {
    limit: usize,
    used: usize,
    seats: Vec<Seat>,
}

impl State {
    fn blocked(&self) -> usize {
        self.seats.iter().filter(|seat| seat.blocked).count()
    }
}

/// A limit on the connections of several pools together.
pub struct Budget {
    id: u64,
    name: Box<str>,
    state: Mutex<State>,
    /// How many pools were refused and wait; written under the lock.
    blocked: AtomicUsize,
    /// Slots above the limit, after it was lowered; written under the lock.
    excess: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` connections; 0 = unlimited. Budgets made earlier are taken earlier.
    pub fn new(name: &str, limit: usize) -> Arc<Budget> {
        let state = State { limit: unlimited_if_zero(limit), used: 0, seats: Vec::new() };
        Arc::new(Budget {
            id: next_id(),
            name: name.into(),
            state: Mutex::new(state),
            blocked: AtomicUsize::new(0),
            excess: AtomicUsize::new(0),
        })
    }

    /// The place of this budget in the global order.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Slots held against this budget now.
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    /// Replaces the limit; 0 = unlimited. Raised: pools that were blocked are served. Lowered: idle
    /// connections are closed, longest idle first; active ones are closed when checked in.
    pub fn set_limit(self: &Arc<Self>, limit: usize, now: Tick) {
        {
            let mut state = self.state.lock();
            state.limit = unlimited_if_zero(limit);
            self.publish(&state);
        }
        let mut todo = vec![Arc::clone(self)];
        while self.over() && self.evict(now, &mut todo) {}
        drain(now, &mut todo);
    }

    fn publish(&self, state: &State) {
        // A distance, not accounting: below the limit it is none.
        let excess = state.used.saturating_sub(state.limit);
        self.excess.store(excess, Ordering::Release);
        self.blocked.store(state.blocked(), Ordering::Release);
    }

    pub(super) fn join(&self, member: u64, pool: Weak<dyn Member>) {
        self.state.lock().seats.push(Seat { member, pool, blocked: false });
    }

    /// The pool is gone; so are the `slots` it still held.
    pub(super) fn leave(&self, member: u64, slots: usize) {
        let mut state = self.state.lock();
        assert!(state.used >= slots, "BUG: budget {} gave back more than it lent", self.name);
        state.used -= slots;
        state.seats.retain(|seat| seat.member != member);
        self.publish(&state);
    }

    /// Takes one slot, or marks `member` as blocked.
    pub(super) fn try_take(&self, member: u64) -> bool {
        let mut state = self.state.lock();
        if state.used < state.limit {
            state.used += 1;
            return true;
        }
        let seat = state.seats.iter_mut().find(|seat| seat.member == member);
        seat.expect("BUG: a pool asks a budget it is not a member of").blocked = true;
        self.publish(&state);
        false
    }

    /// Takes one slot, or nothing: nobody waits for it.
    pub(super) fn try_take_unmarked(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = state.used < state.limit;
        state.used += usize::from(has_room);
        has_room
    }

    /// Gives one slot back.
    pub(super) fn give_back(&self) {
        let mut state = self.state.lock();
        assert!(state.used > 0, "BUG: budget {} gave back more than it lent", self.name);
        state.used -= 1;
        self.publish(&state);
    }

    /// A hint: true if some pool was refused and still waits.
    pub(super) fn has_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) > 0
    }

    /// A hint: true if a connection should be closed rather than kept.
    pub(super) fn over(&self) -> bool {
        self.excess.load(Ordering::Acquire) > 0
    }

    /// Serves blocked pools, the one with the oldest waiter first, while there is room or an idle
    /// connection of another pool can be closed to make room.
    ///
    /// Ends, because each round either makes a waiter leave, or finds no room, or takes a pool off
    /// the list; a pool that comes back onto it found the room gone, which took somebody else.
    fn serve(self: &Arc<Self>, now: Tick, todo: &mut Todo) {
        // The other half of the check-in's fence: the mark was published before, the idle
        // connections are looked for after.
        fence(Ordering::SeqCst);
        while let Some((member, pool)) = self.oldest_blocked(now) {
            if !self.has_room() && !self.evict(now, todo) {
                return;
            }
            self.unblock(member);
            pool.settle(now, todo);
        }
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.used < state.limit
    }

    fn unblock(&self, member: u64) {
        let mut state = self.state.lock();
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.member == member) {
            seat.blocked = false;
        }
        self.publish(&state);
    }

    /// The blocked pool with the oldest waiter. Blocked pools without waiters are taken off; those
    /// that could not dial anyway stay on and are passed over, so that nothing is closed for them.
    fn oldest_blocked(&self, now: Tick) -> Option<(u64, Arc<dyn Member>)> {
        let mut oldest: Option<(Tick, u64, Arc<dyn Member>)> = None;
        for (member, pool) in self.pools(|seat| seat.blocked) {
            let Some(since) = pool.oldest_waiter().or_else(|| self.take_off(member, &*pool)) else {
                continue;
            };
            if !pool.may_dial(now) {
                continue;
            }
            if oldest.as_ref().is_none_or(|(best, ..)| since < *best) {
                oldest = Some((since, member, pool));
            }
        }
        oldest.map(|(_, member, pool)| (member, pool))
    }

    /// Takes a pool without waiters off, and looks again: a waiter may have been linked and refused
    /// between the look and this, and its mark wiped. Its link came before the refusal, which came
    /// before this in the order of the lock, so it is seen now.
    fn take_off(&self, member: u64, pool: &dyn Member) -> Option<Tick> {
        self.unblock(member);
        let since = pool.oldest_waiter()?;
        self.block(member);
        Some(since)
    }

    fn block(&self, member: u64) {
        let mut state = self.state.lock();
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.member == member) {
            seat.blocked = true;
        }
        self.publish(&state);
    }

    /// Closes the longest idle connection of any pool where nobody waits for it.
    fn evict(&self, now: Tick, todo: &mut Todo) -> bool {
        loop {
            let pools = self.pools(|_| true);
            let oldest = pools
                .iter()
                .filter_map(|(_, pool)| Some((pool.spare_idle_since()?, pool)))
                .min_by_key(|(since, _)| *since);
            let Some((_, pool)) = oldest else {
                return false;
            };
            // If a check-out was faster, look again: its connection is no longer idle.
            if pool.evict_idle(now, todo) {
                return true;
            }
        }
    }

    fn pools(&self, pick: impl Fn(&Seat) -> bool) -> Vec<(u64, Arc<dyn Member>)> {
        let state = self.state.lock();
        let picked = state.seats.iter().filter(|seat| pick(seat));
        picked.filter_map(|seat| Some((seat.member, seat.pool.upgrade()?))).collect()
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("id", &self.id).field("name", &self.name).finish()
    }
}

/// Works the list off. Call with no lock held.
pub(super) fn drain(now: Tick, todo: &mut Todo) {
    while let Some(budget) = todo.pop() {
        if budget.has_blocked() {
            budget.serve(now, todo);
        }
    }
}
