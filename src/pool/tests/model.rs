//! Random sequences of operations on two pools that share budgets, against a naive model.
//!
//! The model keeps plain vectors and knows the rules, not the machinery: who may be served, what a
//! check-out must find, what must be true after every step. After every step all tickets are polled,
//! so that the model sees exactly who was served by it.

use std::collections::{HashMap, HashSet};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::support::*;
use crate::pool::*;
use crate::primitives::{Arc, Tick};
use crate::timeouts::TimeoutHandle;

const SHARDS: usize = 3;
const WAIT: Duration = Duration::from_millis(1_000);

#[derive(Clone, Debug)]
enum Op {
    Checkout { pool: usize, shard: usize, state: u64 },
    CheckIn { pool: usize, pick: usize, shard: usize, state: u64 },
    Discard { pool: usize, pick: usize },
    Cancel { pool: usize, pick: usize },
    Fulfil { pool: usize, pick: usize },
    Fail { pool: usize, pick: usize, back_off: u64 },
    Requeue { pool: usize, pick: usize, shard: usize, back_off: u64 },
    DropPermit { pool: usize, pick: usize },
    Advance { millis: u64, sweep: bool },
    Resize { pool: usize, size: usize, connecting_max: usize },
    Reserve { pool: usize, reserve: usize, after: Option<u64> },
    Retire { pool: usize, shard: usize, rested: u64, keep: usize },
    Grow { pool: usize, shard: usize, min: usize },
    Reconnect { pool: usize },
    RefuseWaiters { pool: usize },
    TakeIdle { pool: usize, shard: usize, state: u64 },
    SetBudget { budget: usize, limit: usize },
    Pause { pool: usize },
    Resume { pool: usize },
    Close { pool: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (pool, pick, shard, state) = (0..2usize, 0..64usize, 0..SHARDS, 0..3u64);
    let place = (pool.clone(), pick.clone(), shard.clone(), state.clone());
    let one = (pool.clone(), pick);
    prop_oneof![
        400 => (pool.clone(), shard.clone(), state.clone())
            .prop_map(|(pool, shard, state)| Op::Checkout { pool, shard, state }),
        320 => place.prop_map(|(pool, pick, shard, state)| Op::CheckIn { pool, pick, shard, state }),
        80 => one.clone().prop_map(|(pool, pick)| Op::Discard { pool, pick }),
        120 => one.clone().prop_map(|(pool, pick)| Op::Cancel { pool, pick }),
        240 => one.clone().prop_map(|(pool, pick)| Op::Fulfil { pool, pick }),
        40 => (one.clone(), 0..300u64)
            .prop_map(|((pool, pick), back_off)| Op::Fail { pool, pick, back_off }),
        40 => (one.clone(), shard.clone(), 0..300u64).prop_map(|((pool, pick), shard, back_off)| {
            Op::Requeue { pool, pick, shard, back_off }
        }),
        40 => one.prop_map(|(pool, pick)| Op::DropPermit { pool, pick }),
        120 => (0..400u64, any::<bool>()).prop_map(|(millis, sweep)| Op::Advance { millis, sweep }),
        40 => (pool.clone(), 0..6usize, 0..4usize)
            .prop_map(|(pool, size, connecting_max)| Op::Resize { pool, size, connecting_max }),
        60 => (pool.clone(), 0..3usize, proptest::option::weighted(0.9, 1..150u64))
            .prop_map(|(pool, reserve, after)| Op::Reserve { pool, reserve, after }),
        160 => (pool.clone(), shard.clone(), prop_oneof![Just(0), 0..200u64], 0..2usize)
            .prop_map(|(pool, shard, rested, keep)| Op::Retire { pool, shard, rested, keep }),
        60 => (pool.clone(), shard.clone(), 0..6usize)
            .prop_map(|(pool, shard, min)| Op::Grow { pool, shard, min }),
        40 => pool.clone().prop_map(|pool| Op::Reconnect { pool }),
        40 => pool.clone().prop_map(|pool| Op::RefuseWaiters { pool }),
        40 => (pool.clone(), shard, state)
            .prop_map(|(pool, shard, state)| Op::TakeIdle { pool, shard, state }),
        40 => (0..2usize, 0..6usize).prop_map(|(budget, limit)| Op::SetBudget { budget, limit }),
        30 => pool.clone().prop_map(|pool| Op::Pause { pool }),
        60 => pool.clone().prop_map(|pool| Op::Resume { pool }),
        1 => pool.prop_map(|pool| Op::Close { pool }),
    ]
}

/// A waiter as the model sees it.
struct Waiting {
    ticket: Ticket<Conn>,
    number: u64,
    shard: usize,
    state: u64,
    deadline: Deadline,
    /// Later waiters of its shard that were served first.
    overtaken: u32,
    /// The model no longer knows its age: it was put in line again, or somebody
    /// was served in a way the model does not predict.
    odd: bool,
}

struct Idle {
    id: usize,
    shard: usize,
    state: u64,
    since: Tick,
}

/// The deadline of a wait, as far as the model knows: a permit from a check-out that had to stand in
/// line for an instant keeps that place, another takes one when it is requeued.
#[derive(Clone, Copy)]
struct Deadline {
    earliest: Tick,
    latest: Option<Tick>,
}

/// One pool and its naive twin.
struct Twin {
    world: World,
    limits: PoolLimits,
    closed: bool,
    paused: bool,
    leases: Vec<Lease<Conn>>,
    /// With the deadline of the wait that got it, which it keeps if it is requeued; or, if it was
    /// got by a check-out, when a wait that the check-out may have begun would end.
    permits: Vec<(Permit<Conn>, Deadline)>,
    waiting: Vec<Waiting>,
}

struct Bench {
    twins: Vec<Twin>,
    budgets: Vec<Arc<Budget>>,
    budget_limits: Vec<usize>,
    timeouts: TimeoutHandle,
    now: Tick,
    swept: Tick,
    /// The number of the last pause or resume.
    order: u64,
}

/// How often the interesting things happened, so that the test can show that they did.
#[derive(Default)]
struct Tally {
    handed: usize,
    granted: usize,
    expired: usize,
    refused: usize,
    predicted: usize,
    resumed: usize,
    reserved: usize,
    retired: usize,
    grown: usize,
}

impl Twin {
    fn new(budgets: Vec<Arc<Budget>>, timeouts: TimeoutHandle, limits: PoolLimits) -> Self {
        let world = world_with(SHARDS, limits.clone(), budgets, timeouts);
        let (leases, permits, waiting) = (vec![], vec![], vec![]);
        Twin { world, limits, closed: false, paused: false, leases, permits, waiting }
    }

    /// What is idle, longest first within a shard, read through the public view.
    fn idle(&self) -> Vec<Idle> {
        let mut idle = Vec::new();
        self.world.pool.for_each_idle(|shard, conn, since| {
            idle.push(Idle { id: conn.id, shard, state: conn.state.get(), since });
        });
        idle
    }

    fn wait(&mut self, ticket: Ticket<Conn>, hint: Hint, deadline: Deadline) {
        let Hint { shard, state } = hint;
        let number = ticket.number();
        let (overtaken, odd) = (0, false);
        let waiting = Waiting { ticket, number, shard, state, deadline, overtaken, odd };
        self.waiting.push(waiting);
    }

    /// The naive rule for who gets a connection of `state` checked in on `shard`; `None` if the
    /// model cannot tell, because somebody came back with an unknown age or is past its deadline.
    fn receiver(&self, shard: usize, state: u64, now: Tick) -> Option<u64> {
        let unclear = |waiter: &Waiting| waiter.odd || waiter.deadline.earliest <= now;
        if self.paused || self.waiting.is_empty() || self.waiting.iter().any(unclear) {
            return None;
        }
        let of_shard = |shard| self.waiting.iter().filter(move |waiter| waiter.shard == shard);
        let oldest = self.waiting.iter().min_by_key(|waiter| waiter.number)?;
        let own = of_shard(shard).map(|waiter| waiter.number).min();
        let keep = own.is_some_and(|own| own - oldest.number <= self.limits.cross_shard_bound);
        let mut line: Vec<_> = of_shard(if keep { shard } else { oldest.shard }).collect();
        line.sort_by_key(|waiter| waiter.number);
        for waiter in line.iter().take(16) {
            if waiter.state == state {
                return Some(waiter.number);
            }
            if waiter.overtaken >= self.limits.overtake_max {
                break;
            }
        }
        Some(line[0].number)
    }

    fn slots(&self) -> usize {
        self.idle().len() + self.leases.len() + self.permits.len()
    }

    fn limit(&mut self, now: Tick, change: impl FnOnce(PoolLimits) -> PoolLimits) {
        self.limits = change(self.limits.clone());
        self.world.pool.set_limits(self.limits.clone(), now);
    }

    fn take_idle(&mut self, shard: usize, state: u64) {
        let wanted = |idle: &&Idle| idle.shard == shard && idle.state == state;
        let expected: Vec<_> = self.idle().iter().filter(wanted).map(|idle| idle.id).collect();
        let taken = self.world.pool.take_idle(shard, |conn, _| conn.state.get() == state);
        assert_eq!(taken.iter().map(|lease| lease.id).collect::<Vec<_>>(), expected);
        self.leases.extend(taken);
    }

    /// Puts the owner of a failed permit in line again.
    fn requeue(&mut self, at: usize, shard: usize, retry_at: Tick, now: Tick) {
        let Some((permit, deadline)) = pick(&mut self.permits, at) else {
            return;
        };
        let hint = hint(shard);
        let ticket = permit.requeue(retry_at, hint, now);
        let latest = deadline.latest.or(Some(now.after(WAIT)));
        self.wait(ticket, hint, Deadline { latest, ..deadline });
        self.waiting.last_mut().unwrap().odd = true;
    }

    /// How long somebody must have waited before the reserve opens, if there is one.
    fn reserve_after(&self) -> Option<Duration> {
        self.limits.reserve_after.filter(|_| self.limits.reserve > 0)
    }

    /// Slots with the reserve.
    fn slots_max(&self) -> usize {
        let reserve = self.reserve_after().map_or(0, |_| self.limits.reserve);
        zero_is_many(self.limits.size).saturating_add(reserve)
    }
}

fn zero_is_many(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

fn pick<T>(from: &mut Vec<T>, pick: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(pick % from.len()))
}

impl Bench {
    fn new(overtake_max: u32, cross_shard_bound: u64) -> Self {
        let timeouts = TimeoutHandle::manual();
        let budgets = vec![Budget::new("user", 5), Budget::new("node", 4)];
        let limits = PoolLimits { overtake_max, cross_shard_bound, ..limits(3) };
        let twin =
            || Twin::new(budgets.iter().rev().cloned().collect(), timeouts.clone(), limits.clone());
        let twins = vec![twin(), twin()];
        let (now, swept) = (Tick::ZERO, Tick::ZERO);
        Bench { twins, budgets, budget_limits: vec![5, 4], timeouts, now, swept, order: 0 }
    }

    fn run(&mut self, op: &Op, tally: &mut Tally) {
        let now = self.now;
        match *op {
            Op::Checkout { pool, shard, state } => {
                self.checkout(pool, Hint { shard, state }, tally)
            }
            Op::CheckIn { pool, pick, shard, state } => {
                self.check_in(pool, pick, Hint { shard, state }, tally);
            }
            Op::Discard { pool, pick: at } => drop(pick(&mut self.twins[pool].leases, at)),
            Op::Cancel { pool, pick: at } => drop(pick(&mut self.twins[pool].waiting, at)),
            Op::DropPermit { pool, pick: at } => drop(pick(&mut self.twins[pool].permits, at)),
            Op::Fulfil { pool, pick: at } => {
                let twin = &mut self.twins[pool];
                if let Some((permit, _)) = pick(&mut twin.permits, at) {
                    twin.leases.push(permit.fulfil(twin.world.tally.dial()));
                    assert_eq!(twin.world.pool.snapshot().retry_at, None);
                }
            }
            Op::Fail { pool, pick: at, back_off } => {
                if let Some((permit, _)) = pick(&mut self.twins[pool].permits, at) {
                    permit.fail(now.after(ms(back_off)));
                }
            }
            Op::Requeue { pool, pick: at, shard, back_off } => {
                self.twins[pool].requeue(at, shard, now.after(ms(back_off)), now);
            }
            Op::Advance { millis, sweep } => {
                self.now = now.after(ms(millis));
                if sweep {
                    self.swept = self.now;
                    self.timeouts.run_due(self.now);
                }
            }
            Op::Resize { pool, size, connecting_max } => {
                self.twins[pool].limit(now, |limits| PoolLimits { size, connecting_max, ..limits });
            }
            Op::Reserve { pool, reserve, after } => {
                let reserve_after = after.map(ms);
                self.twins[pool].limit(now, |limits| PoolLimits {
                    reserve,
                    reserve_after,
                    ..limits
                });
            }
            Op::Retire { pool, shard, rested, keep } => {
                let before = (now.as_micros() + 1).saturating_sub(rested * 1_000);
                let before = Tick::from_micros(before);
                tally.retired += self.retire(pool, shard, before, keep);
            }
            Op::Grow { pool, shard, min } => self.grow(pool, shard, min, tally),
            Op::Reconnect { pool } => self.twins[pool].world.pool.bump_generation(),
            Op::RefuseWaiters { pool } => self.twins[pool].world.pool.refuse_waiters(),
            Op::TakeIdle { pool, shard, state } => self.twins[pool].take_idle(shard, state),
            Op::SetBudget { budget, limit } => {
                self.budget_limits[budget] = limit;
                self.budgets[budget].set_limit(limit, now);
            }
            Op::Pause { pool } => self.set_gate(pool, true),
            Op::Resume { pool } => self.resume(pool, tally),
            Op::Close { pool } => {
                self.twins[pool].closed = true;
                self.twins[pool].world.pool.close();
            }
        }
    }

    fn resume(&mut self, pool: usize, tally: &mut Tally) {
        tally.resumed += usize::from(!self.twins[pool].waiting.is_empty());
        self.set_gate(pool, false);
    }

    fn set_gate(&mut self, pool: usize, paused: bool) {
        self.order += 1;
        let twin = &mut self.twins[pool];
        twin.paused = paused;
        twin.world.pool.set_gate(Gate { order: self.order, paused });
    }

    /// Closes those that have rested, oldest first, down to `keep` connected ones.
    fn retire(&self, pool: usize, shard: usize, before: Tick, keep: usize) -> usize {
        let twin = &self.twins[pool];
        let idle = twin.idle();
        let spare = (idle.len() + twin.leases.len()).saturating_sub(keep);
        let resting = idle.iter().filter(|idle| idle.shard == shard);
        let rested = resting.take_while(|idle| idle.since < before);
        let expected: Vec<_> = rested.take(spare).map(|idle| idle.id).collect();
        let mut gone = Vec::new();
        let seen = |conn: &Conn| gone.push(conn.id);
        let count = twin.world.pool.retire_idle(shard, before, keep, self.now, seen);
        assert_eq!((count, &gone), (expected.len(), &expected));
        count
    }

    /// Grows exactly when there is room for it and nobody waits.
    fn grow(&mut self, pool: usize, shard: usize, min: usize, tally: &mut Tally) {
        let now = self.now;
        let used: usize = self.twins.iter().map(Twin::slots).sum();
        let in_budgets = self.budget_limits.iter().all(|limit| used < zero_is_many(*limit));
        let twin = &mut self.twins[pool];
        let seen = twin.world.pool.snapshot();
        let dials = twin.permits.len();
        let allowed = !twin.closed
            && !twin.paused
            && in_budgets
            && seen.waiting == 0
            && twin.slots() < zero_is_many(twin.limits.size).min(min)
            && dials < zero_is_many(twin.limits.connecting_max)
            && seen.retry_at.is_none_or(|at| at <= now);
        // After a failure there is one attempt; which dials are older, the model does not know.
        let unclear = seen.retry_at.is_some() && dials > 0;
        let permit = twin.world.pool.grow(shard, min, now);
        assert!(permit.is_some() == allowed || (unclear && allowed), "{seen:?}");
        if let Some(permit) = permit {
            tally.grown += 1;
            twin.permits.push((permit, Deadline { earliest: now.after(WAIT), latest: None }));
        }
    }

    fn checkout(&mut self, pool: usize, hint: Hint, tally: &mut Tally) {
        let now = self.now;
        let twin = &mut self.twins[pool];
        let own: Vec<_> = twin.idle().into_iter().filter(|idle| idle.shard == hint.shard).collect();
        let same = own.iter().rev().find(|idle| idle.state == hint.state).or(own.last());
        let nobody_waits = twin.world.pool.snapshot().waiting == 0;
        let expected = same.filter(|_| nobody_waits).map(|idle| idle.id);
        let answer = twin.world.pool.checkout(hint, now);
        assert!(!twin.paused || matches!(answer, Checkout::Wait(_) | Checkout::Refused(_)));
        match answer {
            Checkout::Ready(lease) => {
                assert!(
                    nobody_waits
                        || twin.waiting.iter().all(|waiter| waiter.deadline.earliest <= now)
                );
                assert!(expected.is_none_or(|id| id == lease.id), "the warmest of its state");
                tally.predicted += usize::from(expected.is_some());
                twin.leases.push(lease);
            }
            Checkout::Connect(permit) => {
                assert_eq!(expected, None, "an idle connection of its own shard comes first");
                let earliest = now.after(WAIT);
                twin.permits.push((permit, Deadline { earliest, latest: None }));
                let size = zero_is_many(twin.limits.size);
                // Waiters past their deadline open the reserve until somebody has come by.
                let late = |waiter: &Waiting| waiter.deadline.earliest <= now;
                let odd = twin.waiting.iter().any(late);
                assert!(twin.slots() <= size || odd, "not of the reserve");
            }
            Checkout::Wait(ticket) => {
                assert_eq!(expected, None, "nobody waits beside an idle connection");
                let earliest = now.after(WAIT);
                twin.wait(ticket, hint, Deadline { earliest, latest: Some(earliest) });
            }
            Checkout::Refused(refusal) => {
                assert!(refusal == Refusal::Closed && twin.closed, "{refusal:?}");
            }
        }
    }

    fn check_in(&mut self, pool: usize, at: usize, hint: Hint, tally: &mut Tally) {
        let now = self.now;
        let over = |used: usize, limit: usize| limit != 0 && used > limit;
        let mut budgets = self.budgets.iter().zip(&self.budget_limits);
        let shed = budgets.any(|(budget, limit)| over(budget.used(), *limit));
        let twin = &mut self.twins[pool];
        let shed = shed || twin.slots() > twin.slots_max();
        let Some(lease) = pick(&mut twin.leases, at) else {
            return;
        };
        lease.state.set(hint.state);
        let expected = match lease.is_stale() || shed {
            true => None,
            false => twin.receiver(hint.shard, hint.state, now),
        };
        let before = twin.world.pool.snapshot().hand_offs;
        lease.check_in(hint, now);
        if let Some(number) = expected {
            assert_eq!(twin.world.pool.snapshot().hand_offs, before + 1);
            let waiter = twin.waiting.iter_mut().find(|waiter| waiter.number == number).unwrap();
            let got = handed(&mut waiter.ticket);
            twin.leases.push(got);
            let (number, shard) = (waiter.number, waiter.shard);
            twin.waiting.retain(|waiter| waiter.number != number);
            for waiter in &mut twin.waiting {
                waiter.overtaken += u32::from(waiter.shard == shard && waiter.number < number);
                assert!(waiter.odd || waiter.overtaken <= twin.limits.overtake_max);
            }
            tally.predicted += 1;
            tally.handed += 1;
        }
    }

    /// Polls every ticket and moves the served ones.
    fn collect(&mut self, op: &Op, tally: &mut Tally) {
        // Operations without a moment of their own use the timeout thread's clock.
        let clock = match op {
            Op::Discard { .. }
            | Op::Cancel { .. }
            | Op::DropPermit { .. }
            | Op::Fulfil { .. }
            | Op::Fail { .. }
            | Op::Pause { .. }
            | Op::Resume { .. }
            | Op::Reconnect { .. } => self.swept,
            _ => self.now,
        };
        for twin in &mut self.twins {
            let handed_before = (tally.handed, tally.granted);
            let (mut granted, expired_before) = (Vec::new(), tally.expired);
            for mut waiter in std::mem::take(&mut twin.waiting) {
                match poll(&mut waiter.ticket) {
                    Poll::Pending => twin.waiting.push(waiter),
                    Poll::Ready(Outcome::Handed(lease)) => {
                        assert!(waiter.deadline.latest > Some(clock), "served past its deadline");
                        tally.handed += 1;
                        twin.leases.push(lease);
                    }
                    Poll::Ready(Outcome::Connect(permit)) => {
                        assert!(
                            waiter.deadline.latest > Some(clock.min(self.swept)),
                            "served past its deadline"
                        );
                        tally.granted += 1;
                        twin.permits.push((permit, waiter.deadline));
                        granted.push(waiter.deadline.earliest);
                    }
                    Poll::Ready(Outcome::Expired { waited }) => {
                        assert!(waiter.deadline.earliest <= self.now);
                        assert!(waited >= WAIT);
                        tally.expired += 1;
                    }
                    Poll::Ready(Outcome::Refused(refusal)) => {
                        assert!(refusal == Refusal::ConnectFailed || twin.closed);
                        tally.refused += 1;
                    }
                }
            }
            assert!(!twin.paused || handed_before == (tally.handed, tally.granted), "paused");
            // The oldest got them. What was granted beyond the size is of the reserve.
            let beyond = twin.slots().saturating_sub(zero_is_many(twin.limits.size));
            for earliest in granted.iter().take(beyond) {
                let after = twin.reserve_after().expect("there is a reserve");
                let came = Tick::from_micros(earliest.as_micros() - WAIT.as_micros() as u64);
                // Waiters past their deadline opened the reserve before they were met.
                let odd = tally.expired > expired_before;
                assert!(came.after(after) <= self.now || odd, "of the reserve, too early");
                tally.reserved += 1;
            }
            if tally.handed > handed_before.0 {
                twin.waiting.iter_mut().for_each(|waiter| waiter.odd = true);
            }
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        let slots: Vec<usize> = self.twins.iter().map(Twin::slots).collect();
        for budget in &self.budgets {
            assert_eq!(budget.used(), slots.iter().sum::<usize>(), "{budget:?}");
        }
        let mut ids = HashSet::new();
        for twin in &self.twins {
            ids.clear();
            let idle = twin.idle();
            let seen = twin.world.pool.snapshot();
            assert_eq!(seen.rescued_waiters, 0);
            assert!(seen.paused == twin.paused && (!twin.paused || idle.is_empty()));
            let stale = twin.leases.iter().filter(|lease| lease.is_stale()).count();
            assert!((stale..=stale + twin.permits.len()).contains(&seen.stale), "{seen:?}");
            let figures = (seen.idle, seen.active, seen.connecting, seen.waiting);
            let (active, connecting) = (twin.leases.len(), twin.permits.len());
            assert_eq!(figures, (idle.len(), active, connecting, twin.waiting.len()));
            assert_eq!(twin.world.tally.open(), idle.len() + active);
            let leased = twin.leases.iter().map(|lease| lease.id);
            assert!(idle.iter().map(|idle| idle.id).chain(leased).all(|id| ids.insert(id)));
            assert!(!twin.closed || (idle.is_empty() && twin.waiting.is_empty()));
        }
        self.nobody_is_stranded(&slots);
    }

    /// If there is something to give, nobody waits for it.
    fn nobody_is_stranded(&self, slots: &[usize]) {
        let used: usize = slots.iter().sum();
        let room_in_budgets = self.budget_limits.iter().all(|limit| used < zero_is_many(*limit));
        // A budget exactly full can be relieved by closing one idle connection of another pool.
        let relievable = self.budget_limits.iter().all(|limit| used <= zero_is_many(*limit));
        for (at, twin) in self.twins.iter().enumerate() {
            let alive = |waiter: &&Waiting| waiter.deadline.earliest > self.now;
            let Some(waiter) = twin.waiting.iter().find(alive).filter(|_| !twin.paused) else {
                continue;
            };
            assert!(twin.idle().is_empty(), "ticket {} waits beside an idle one", waiter.number);
            let seen = twin.world.pool.snapshot();
            // Due when the timeout thread came by, if it is sure since when it waits.
            let came = |waiter: &Waiting| {
                let latest = waiter.deadline.latest.expect("a waiter has a deadline");
                Tick::from_micros(latest.as_micros() - WAIT.as_micros() as u64)
            };
            let mut alive_all = twin.waiting.iter().filter(alive);
            let reserve_is_open = twin
                .reserve_after()
                .is_some_and(|after| alive_all.any(|w| came(w).after(after) <= self.swept));
            let room =
                if reserve_is_open { twin.slots_max() } else { zero_is_many(twin.limits.size) };
            let may_dial = slots[at] < room
                && twin.permits.len() < zero_is_many(twin.limits.connecting_max)
                && seen.retry_at.is_none_or(|at| at <= self.swept && twin.permits.is_empty());
            let others = self.twins.iter().enumerate().filter(|(other, _)| *other != at);
            let evictable = others
                .filter(|(_, other)| other.waiting.is_empty() && !other.idle().is_empty())
                .count();
            let stranded = may_dial && (room_in_budgets || (relievable && evictable > 0));
            assert!(!stranded, "ticket {} waits beside a free slot", waiter.number);
        }
    }
}

fn play(ops: &[Op], overtake_max: u32, bound: u64) -> Tally {
    let mut bench = Bench::new(overtake_max, bound);
    let mut tally = Tally::default();
    for op in ops {
        bench.run(op, &mut tally);
        bench.collect(op, &mut tally);
        bench.check();
    }
    let budgets = std::mem::take(&mut bench.budgets);
    drop(bench);
    assert!(budgets.iter().all(|budget| budget.used() == 0), "everything was given back");
    tally
}

fn config() -> ProptestConfig {
    // Debug builds shrink and check slowly; PROPTEST_CASES asks for more.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(200),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn sequences_agree_with_the_naive_model(
        ops in proptest::collection::vec(op(), 1..200),
        overtake_max in 0..3u32,
        bound in 0..6u64,
    ) {
        play(&ops, overtake_max, bound);
    }
}

/// The model test above means nothing if its sequences never get anywhere.
#[test]
fn the_sequences_reach_every_kind_of_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sums: HashMap<&str, usize> = HashMap::new();
    for _ in 0..100 {
        let ops = proptest::collection::vec(op(), 200).new_tree(&mut runner).unwrap().current();
        let tally = play(&ops, 2, 4);
        for (kind, count) in [
            ("handed", tally.handed),
            ("granted", tally.granted),
            ("expired", tally.expired),
            ("refused", tally.refused),
            ("predicted", tally.predicted),
            ("resumed", tally.resumed),
            ("reserved", tally.reserved),
            ("retired", tally.retired),
            ("grown", tally.grown),
        ] {
            *sums.entry(kind).or_default() += count;
        }
    }
    let enough = |kind: &str| if matches!(kind, "reserved" | "retired") { 10 } else { 50 };
    assert!(sums.iter().all(|(kind, count)| *count >= enough(kind)), "{sums:?}");
}
