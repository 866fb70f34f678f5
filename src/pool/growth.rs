//! The pool's slots: how many connections it owns, how many are being dialled, and whether it may
//! dial now.
//!
//! Must not know connections, waiters or shards. Invariants, asserted always, never saturated:
//! - `slots` = idle + active + connecting; a claim is made only while `slots < size`;
//! - `stale` <= `slots`, of which they are those of a generation before the last RECONNECT;
//! - `connecting` <= `connecting_max` when a claim is made; every claim ends exactly once;
//! - every slot holds one slot of every budget.
//!
//! `room` and `excess` are hints published from under the lock. A budget's lock nests inside.

use crate::primitives::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::primitives::{Arc, Mutex, Tick};

use super::budget::{Budget, Todo};
use super::gate::Gate;
use super::limits::{PoolLimits, unlimited_if_zero};

/// The right to dial, as it travels inside the pool. Its owner ends it by `Growth::end`.
#[derive(Debug)]
pub(super) struct Grant {
    /// The generation when it was granted: what is dialled now may reach a server from before a
    /// later RECONNECT.
    pub(super) generation: u64,
    /// The one attempt after a back-off.
    probe: bool,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialled {
    Connected,
    /// Given up: says nothing about the node.
    Dropped,
    /// The node failed; no dial before this moment.
    Failed(Tick),
}

/// An answer to "may I dial?".
pub(super) enum Claim {
    Granted(Grant),
    Denied,
    /// There is room, but a back-off is in force until this moment.
    TooEarly(Tick),
    /// The pool itself would allow it; this budget does not.
    Blocked(Arc<Budget>),
}

struct State {
    closed: bool,
    gate: Gate,
    /// What is dialled now is of this generation.
    generation: u64,
    size: usize,
    connecting_max: usize,
    slots: usize,
    /// Slots of an earlier generation.
    stale: usize,
    connecting: usize,
    /// Set by a failed dial, cleared by a successful one.
    retry_at: Option<Tick>,
    /// The attempt after `retry_at` is out: no other until it ends.
    probing: bool,
}

impl State {
    fn room(&self) -> bool {
        let one_probe = self.retry_at.is_some() && self.probing;
        let dialling = self.connecting < self.connecting_max;
        !self.closed && !self.gate.paused && self.slots < self.size && dialling && !one_probe
    }
}

pub(super) struct Growth {
    state: Mutex<State>,
    /// A claim could be granted, the clock and the budgets allowing.
    room: AtomicBool,
    /// Slots above `size`, after it was lowered.
    excess: AtomicUsize,
    /// In rising id: the order in which they are taken.
    budgets: Vec<Arc<Budget>>,
    member: u64,
}

/// Figures for a snapshot.
pub(super) struct GrowthFigures {
    pub(super) slots: usize,
    pub(super) stale: usize,
    pub(super) paused: bool,
    pub(super) connecting: usize,
    pub(super) retry_at: Option<Tick>,
}

impl Growth {
    pub(super) fn new(limits: &PoolLimits, mut budgets: Vec<Arc<Budget>>, member: u64) -> Self {
        budgets.sort_by_key(|budget| budget.id());
        budgets.dedup_by_key(|budget| budget.id());
        let state = State {
            closed: false,
            gate: Gate::default(),
            generation: 0,
            size: unlimited_if_zero(limits.size),
            connecting_max: unlimited_if_zero(limits.connecting_max),
            slots: 0,
            stale: 0,
            connecting: 0,
            retry_at: None,
            probing: false,
        };
        let room = AtomicBool::new(state.room());
        Self { state: Mutex::new(state), room, excess: AtomicUsize::new(0), budgets, member }
    }

    pub(super) fn budgets(&self) -> &[Arc<Budget>] {
        &self.budgets
    }

    fn with<R>(&self, section: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = section(&mut state);
        self.room.store(state.room(), Ordering::Release);
        // A distance, not accounting: below the size it is none.
        let excess = state.slots.saturating_sub(state.size);
        self.excess.store(excess, Ordering::Release);
        result
    }

    /// A slot and the right to dial, if size, rate, back-off and every budget allow.
    pub(super) fn claim(&self, now: Tick, todo: &mut Todo) -> Claim {
        // Acquire: pairs with the release in `with`. A stale `false` cannot strand a waiter: who
        // makes room fences and looks for waiters afterwards.
        if !self.room.load(Ordering::Acquire) {
            return Claim::Denied;
        }
        self.with(|state| {
            if !state.room() {
                return Claim::Denied;
            }
            if let Some(retry_at) = state.retry_at.filter(|at| now < *at) {
                return Claim::TooEarly(retry_at);
            }
            if let Err(budget) = self.take_budgets(todo) {
                return Claim::Blocked(budget);
            }
            state.slots += 1;
            state.connecting += 1;
            let probe = state.retry_at.is_some();
            state.probing |= probe;
            Claim::Granted(Grant { generation: state.generation, probe })
        })
    }

    /// All or none, in rising id. What is given back after a refusal may be what another pool was
    /// refused meanwhile, so those budgets go onto the worklist.
    fn take_budgets(&self, todo: &mut Todo) -> Result<(), Arc<Budget>> {
        for (taken, budget) in self.budgets.iter().enumerate() {
            if !budget.try_take(self.member) {
                for budget in &self.budgets[..taken] {
                    budget.give_back();
                    Self::queue(budget, todo);
                }
                return Err(Arc::clone(budget));
            }
        }
        Ok(())
    }

    fn give_back_budgets(&self, todo: &mut Todo) {
        for budget in &self.budgets {
            budget.give_back();
            Self::queue(budget, todo);
        }
    }

    fn queue(budget: &Arc<Budget>, todo: &mut Todo) {
        if budget.has_blocked() {
            todo.push(Arc::clone(budget));
        }
    }

    /// Whether a claim would get as far as the budgets.
    pub(super) fn may_dial(&self, now: Tick) -> bool {
        let state = self.state.lock();
        state.room() && state.retry_at.is_none_or(|at| at <= now)
    }

    /// Ends a claim.
    pub(super) fn end(&self, grant: Grant, how: Dialled, todo: &mut Todo) {
        let freed = self.with(|state| {
            assert!(state.connecting > 0, "BUG: more dials ended than began");
            state.connecting -= 1;
            if grant.probe {
                state.probing = false;
            }
            match how {
                Dialled::Connected => state.retry_at = None,
                Dialled::Dropped => {}
                Dialled::Failed(at) => state.retry_at = state.retry_at.max(Some(at)),
            }
            let freed = !matches!(how, Dialled::Connected);
            if freed {
                free_slot(state, grant.generation);
            }
            freed
        });
        if freed {
            self.give_back_budgets(todo);
        }
    }

    /// Frees the slot of a connection, of this generation, that is no more.
    pub(super) fn release(&self, generation: u64, todo: &mut Todo) {
        self.with(|state| free_slot(state, generation));
        self.give_back_budgets(todo);
    }

    /// A hint: a connection should be closed rather than kept.
    #[inline]
    pub(super) fn over(&self) -> bool {
        self.excess.load(Ordering::Acquire) > 0 || self.budgets.iter().any(|budget| budget.over())
    }

    /// Frees the slot of the caller's connection, of this generation, if there are too many. The
    /// caller then closes it.
    pub(super) fn shed(&self, generation: u64, todo: &mut Todo) -> bool {
        let shed = self.with(|state| {
            let over = state.slots > state.size || self.budgets.iter().any(|b| b.over());
            if over {
                free_slot(state, generation);
            }
            over
        });
        if shed {
            self.give_back_budgets(todo);
        }
        shed
    }

    pub(super) fn resize(&self, limits: &PoolLimits) {
        self.with(|state| {
            state.size = unlimited_if_zero(limits.size);
            state.connecting_max = unlimited_if_zero(limits.connecting_max);
        });
    }

    /// Begins a new generation: every slot there is now belongs to an earlier one.
    pub(super) fn bump(&self) -> u64 {
        self.with(|state| {
            state.generation += 1;
            state.stale = state.slots;
            state.generation
        })
    }

    pub(super) fn follow(&self, gate: Gate) {
        self.with(|state| state.gate.follow(gate));
    }

    pub(super) fn close(&self) {
        self.with(|state| state.closed = true);
    }

    /// The end of the back-off, if it lies after `now`.
    pub(super) fn retry_after(&self, now: Tick) -> Option<Tick> {
        self.state.lock().retry_at.filter(|at| *at > now)
    }

    pub(super) fn figures(&self) -> GrowthFigures {
        let state = self.state.lock();
        GrowthFigures {
            slots: state.slots,
            stale: state.stale,
            paused: state.gate.paused,
            connecting: state.connecting,
            retry_at: state.retry_at,
        }
    }

    /// The pool is gone with `idle` connections in it: nothing else can be left.
    pub(super) fn leave(&self, idle: usize) {
        let figures = self.figures();
        assert!(figures.slots == idle, "BUG: a pool ended with a slot unaccounted for");
        for budget in &self.budgets {
            budget.leave(self.member, idle);
        }
    }
}

fn free_slot(state: &mut State, generation: u64) {
    assert!(state.slots > 0, "BUG: more slots freed than taken");
    state.slots -= 1;
    if generation < state.generation {
        assert!(state.stale > 0, "BUG: more slots of earlier generations freed than there were");
        state.stale -= 1;
    }
    assert!(state.slots >= state.connecting, "BUG: more dials than slots");
}
