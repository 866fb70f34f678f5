//! The pool's slots: how many connections it owns, how many are being dialled, and whether it may
//! dial now.
//!
//! Must not know connections, waiters or shards. Invariants, asserted always, never saturated:
//! - `slots` = idle + active + connecting; a claim is made only while `slots < size`, or, for a
//!   waiter that has waited `reserve_after`, while `slots < size + reserve`;
//! - `stale` <= `slots`, of which they are those of a generation before the last RECONNECT;
//! - `connecting` <= `connecting_max` when a claim is made; every claim ends exactly once;
//! - every slot holds one slot of every budget.
//!
//! `room`, `reserve_after` and `excess` are hints published from under the lock. A budget's lock
//! nests inside.

use std::time::Duration;

use crate::primitives::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
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
    /// There is room, but not before this moment: a back-off is in force, or only the reserve is
    /// left and nobody has waited long enough for it.
    TooEarly(Tick),
    /// The pool itself would allow it; this budget does not.
    Blocked(Arc<Budget>),
}

/// What a claim could get, the clock and the budgets allowing.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Room {
    /// Nothing.
    None = 0,
    /// A slot of the reserve, for who has waited long enough.
    Reserve = 1,
    /// A slot.
    Slot = 2,
}

/// In place of `reserve_after`: there is no reserve.
const NO_RESERVE: u64 = u64::MAX;

struct State {
    closed: bool,
    gate: Gate,
    /// What is dialled now is of this generation.
    generation: u64,
    size: usize,
    /// Slots beyond `size`; 0 if `reserve_after` is [`NO_RESERVE`].
    reserve: usize,
    reserve_after_us: u64,
    connecting_max: usize,
    slots: usize,
    /// Slots of an earlier generation.
    stale: usize,
    connecting: usize,
    /// Connections about to be closed because they are not needed, or too many. They still hold slots.
    retiring: usize,
    /// Set by a failed dial, cleared by a successful one.
    retry_at: Option<Tick>,
    /// The attempt after `retry_at` is out: no other until it ends.
    probing: bool,
}

impl State {
    fn room(&self) -> Room {
        let one_probe = self.retry_at.is_some() && self.probing;
        let dialling = self.connecting < self.connecting_max;
        if self.closed || self.gate.paused || !dialling || one_probe {
            Room::None
        } else if self.slots < self.size {
            Room::Slot
        } else if self.slots < self.slots_max() {
            Room::Reserve
        } else {
            Room::None
        }
    }

    /// Takes a slot. The caller has looked for room.
    fn grant(&mut self) -> Grant {
        self.slots += 1;
        self.connecting += 1;
        let probe = self.retry_at.is_some();
        self.probing |= probe;
        Grant { generation: self.generation, probe }
    }

    fn slots_max(&self) -> usize {
        self.size.saturating_add(self.reserve)
    }

    fn set_limits(&mut self, limits: &PoolLimits) {
        self.size = unlimited_if_zero(limits.size);
        self.connecting_max = unlimited_if_zero(limits.connecting_max);
        let after = limits.reserve_after.filter(|_| limits.reserve > 0);
        self.reserve = after.map_or(0, |_| limits.reserve);
        self.reserve_after_us =
            after.map_or(NO_RESERVE, |after| Tick::ZERO.after(after).as_micros());
    }
}

pub(super) struct Growth {
    state: Mutex<State>,
    /// A [`Room`].
    room: AtomicU8,
    /// How long a waiter waits before it may have a slot of the reserve, in microseconds.
    reserve_after_us: AtomicU64,
    /// Slots above the limit, after it was lowered.
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
        let mut state = State {
            closed: false,
            gate: Gate::default(),
            generation: 0,
            size: 0,
            reserve: 0,
            reserve_after_us: NO_RESERVE,
            connecting_max: 0,
            slots: 0,
            stale: 0,
            connecting: 0,
            retiring: 0,
            retry_at: None,
            probing: false,
        };
        state.set_limits(limits);
        Self {
            room: AtomicU8::new(state.room() as u8),
            reserve_after_us: AtomicU64::new(state.reserve_after_us),
            excess: AtomicUsize::new(0),
            state: Mutex::new(state),
            budgets,
            member,
        }
    }

    pub(super) fn budgets(&self) -> &[Arc<Budget>] {
        &self.budgets
    }

    fn with<R>(&self, section: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = section(&mut state);
        self.room.store(state.room() as u8, Ordering::Release);
        // A distance, not accounting: below the limit it is none.
        let excess = state.slots.saturating_sub(state.slots_max());
        self.excess.store(excess, Ordering::Release);
        result
    }

    fn room_hint(&self) -> u8 {
        // Acquire: pairs with the release in `with`. A stale `None` cannot strand a waiter: who
        // makes room fences and looks for waiters afterwards.
        self.room.load(Ordering::Acquire)
    }

    /// A slot and the right to dial, if size, rate, back-off and every budget allow. `oldest` says
    /// since when the oldest waiter waits, who may have a slot of the reserve; it is asked only if
    /// there is one.
    pub(super) fn claim(
        &self,
        now: Tick,
        oldest: impl FnOnce() -> Option<Tick>,
        todo: &mut Todo,
    ) -> Claim {
        if self.has_no_room() {
            return Claim::Denied;
        }
        let reserve_at = self.reserve_opens(oldest);
        self.with(|state| {
            match (state.room(), reserve_at) {
                (Room::None, _) | (Room::Reserve, None) => return Claim::Denied,
                (Room::Reserve, Some(at)) if now < at => return Claim::TooEarly(at),
                (Room::Reserve | Room::Slot, _) => {}
            }
            if let Some(retry_at) = state.retry_at.filter(|at| now < *at) {
                return Claim::TooEarly(retry_at);
            }
            if let Err(budget) = self.take_budgets(Budget::try_take, todo) {
                return Claim::Blocked(budget);
            }
            Claim::Granted(state.grant())
        })
    }

    /// Whether a claim would be denied, whoever asks; a hint.
    #[inline]
    pub(super) fn has_no_room(&self) -> bool {
        self.room_hint() == Room::None as u8
    }

    /// When the reserve opens for whoever waits since `oldest`.
    fn reserve_opens(&self, oldest: impl FnOnce() -> Option<Tick>) -> Option<Tick> {
        // Acquire: as `room`.
        match self.reserve_after_us.load(Ordering::Acquire) {
            NO_RESERVE => None,
            after => oldest().map(|since| since.after(Duration::from_micros(after))),
        }
    }

    /// When the reserve opens for whoever waits since `oldest`, if it is what there is to be had.
    pub(super) fn reserve_opens_at(&self, oldest: impl FnOnce() -> Option<Tick>) -> Option<Tick> {
        if self.room_hint() != Room::Reserve as u8 {
            return None;
        }
        self.reserve_opens(oldest)
    }

    /// A slot and the right to dial while there are fewer than `min` slots. Nobody waits for it, so
    /// a budget that refuses it keeps no mark and closes nothing for it.
    pub(super) fn claim_below(&self, min: usize, now: Tick, todo: &mut Todo) -> Option<Grant> {
        if self.room_hint() != Room::Slot as u8 {
            return None;
        }
        self.with(|state| {
            let early = state.retry_at.is_some_and(|at| now < at);
            if state.room() != Room::Slot || state.slots >= min || early {
                return None;
            }
            self.take_budgets(|budget, _| budget.try_take_unmarked(), todo).ok()?;
            Some(state.grant())
        })
    }

    /// All or none, in rising id. What is given back after a refusal may be what another pool was
    /// refused meanwhile, so those budgets go onto the worklist.
    fn take_budgets(
        &self,
        take: impl Fn(&Budget, u64) -> bool,
        todo: &mut Todo,
    ) -> Result<(), Arc<Budget>> {
        for (taken, budget) in self.budgets.iter().enumerate() {
            if !take(budget, self.member) {
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

    /// From when on a claim for whoever waits since `oldest` would get as far as the budgets; `None`
    /// if something else has to happen first.
    pub(super) fn opens_at(&self, oldest: impl FnOnce() -> Option<Tick>) -> Option<Tick> {
        let reserve_at = self.reserve_opens(oldest);
        let state = self.state.lock();
        let room_at = match state.room() {
            Room::None => return None,
            Room::Reserve => reserve_at?,
            Room::Slot => Tick::ZERO,
        };
        Some(room_at.max(state.retry_at.unwrap_or(Tick::ZERO)))
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

    /// Sets one idle connection down to be closed, if more than `keep` are connected besides those
    /// set down already. Ended by `end_retire`.
    pub(super) fn begin_retire(&self, keep: usize) -> bool {
        let mut state = self.state.lock();
        let spare = state.slots > state.connecting + state.retiring + keep;
        state.retiring += usize::from(spare);
        spare
    }

    /// The connection set down, of this generation, is closed; `None`: there was none.
    pub(super) fn end_retire(&self, closed: Option<u64>, todo: &mut Todo) {
        self.with(|state| {
            assert!(state.retiring > 0, "BUG: more connections retired than set down for it");
            state.retiring -= 1;
            if let Some(generation) = closed {
                free_slot(state, generation);
            }
        });
        if closed.is_some() {
            self.give_back_budgets(todo);
        }
    }

    /// A hint: a connection should be closed rather than kept.
    #[inline]
    pub(super) fn over(&self) -> bool {
        self.excess.load(Ordering::Acquire) > 0 || self.budgets.iter().any(|budget| budget.over())
    }

    /// Sets the caller's connection down to be closed, if there are too many besides those set down
    /// already. Ended by `end_retire`.
    pub(super) fn begin_shed(&self) -> bool {
        let mut state = self.state.lock();
        let kept = state.slots.saturating_sub(state.retiring);
        let over = kept > state.slots_max() || self.budgets.iter().any(|b| b.over());
        state.retiring += usize::from(over);
        over
    }

    pub(super) fn resize(&self, limits: &PoolLimits) {
        self.with(|state| {
            state.set_limits(limits);
            self.reserve_after_us.store(state.reserve_after_us, Ordering::Release);
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

    /// Forgets the back-off. A probe that is out still says how it went.
    pub(super) fn retry_now(&self) {
        self.with(|state| state.retry_at = None);
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
