//! The pool's core: the shards, the slots and the rules by which the two meet.
//!
//! Must not know what a connection is, nor read a clock on a hot path. Two procedures carry
//! everything: [`Inner::place`] brings one connection to a waiter or to an idle stack, and
//! [`Inner::settle`] matches waiters with whatever is there until one of the two runs out. Who makes
//! something available, and who has just enqueued, calls `settle` afterwards; it starts with the
//! fence that makes a lost wake-up impossible (see the essay in the module above).

use std::sync::atomic::AtomicU64 as PlainCounter;

use crate::primitives::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use crate::primitives::wake::WakeBatch;
use crate::primitives::{Arc, Tick, Weak};
use crate::timeouts::{Deadlines, Registration, TimeoutHandle};

use super::budget::{self, Budget, Member, Todo};
use super::front::Checkout;
use super::growth::{Claim, Dialled, Grant, Growth};
use super::lease::{Conn, Lease};
use super::limits::{Hint, PoolLimits, Refusal, unlimited_if_zero};
use super::permit::Permit;
use super::shard::{Enqueued, Shard, ShardState};
use super::ticket::{Handed, Ticket};
use super::waiter::{Gift, Phase, Tag, Waiter};

/// What leases, permits and tickets hold: the core, seen from one shard. One per shard, so that a
/// worker's reference counting stays on its own cache lines; the core never points back.
pub(super) struct Home<C: Send + 'static> {
    pub(super) inner: Arc<Inner<C>>,
    pub(super) shard: usize,
}

impl<C: Send + 'static> Home<C> {
    /// The same pool seen from another shard. Allocates if it is another: only a permit that waits
    /// again on another worker needs it.
    pub(super) fn sibling(self: &Arc<Self>, shard: usize) -> Arc<Self> {
        if shard == self.shard {
            return Arc::clone(self);
        }
        Arc::new(Home { inner: Arc::clone(&self.inner), shard })
    }
}

/// A counter on cache lines of its own: it is written by every wait, and its neighbours are read by
/// every check-out.
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

pub(super) struct Inner<C: Send + 'static> {
    pub(super) shards: Box<[Shard<C>]>,
    /// Linked waiters of all shards; see `Shard::with` for its order with the published heads.
    pub(super) waiters: Padded<AtomicUsize>,
    pub(super) tickets: Padded<AtomicU64>,
    /// For each shard, what its givers last saw as the oldest ticket of all, or less.
    oldest_seen: Box<[Padded<AtomicU64>]>,
    pub(super) generation: AtomicU64,
    pub(super) cross_shard_bound: AtomicU64,
    pub(super) waiters_max: AtomicUsize,
    pub(super) growth: Growth,
    timeouts: TimeoutHandle,
    registration: Registration,
    // Counters that only a snapshot reads; not worth a model checker's time.
    pub(super) rescued: PlainCounter,
    pub(super) returned: PlainCounter,
}

impl<C: Send + 'static> Inner<C> {
    pub(super) fn new(
        shards: usize,
        limits: &PoolLimits,
        budgets: Vec<Arc<Budget>>,
        timeouts: TimeoutHandle,
    ) -> Arc<Self> {
        assert!(shards > 0, "BUG: a pool needs a shard");
        let member = budget::next_id();
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let growth = Growth::new(limits, budgets, member);
            for budget in growth.budgets() {
                budget.join(member, weak.clone());
            }
            Inner {
                shards: (0..shards).map(|_| Shard::new(limits)).collect(),
                waiters: Padded(AtomicUsize::new(0)),
                tickets: Padded(AtomicU64::new(0)),
                oldest_seen: (0..shards).map(|_| Padded(AtomicU64::new(0))).collect(),
                generation: AtomicU64::new(0),
                cross_shard_bound: AtomicU64::new(limits.cross_shard_bound),
                waiters_max: AtomicUsize::new(unlimited_if_zero(limits.waiters_max)),
                growth,
                registration: timeouts.register(weak.clone()),
                timeouts,
                rescued: PlainCounter::new(0),
                returned: PlainCounter::new(0),
            }
        })
    }

    /// The moment, for paths whose caller brings none. All of them are slow ones.
    pub(super) fn now(&self) -> Tick {
        self.timeouts.now()
    }

    #[inline]
    pub(super) fn with_shard<R>(
        &self,
        shard: usize,
        section: impl FnOnce(&mut ShardState<C>) -> R,
    ) -> R {
        self.shards[shard].with(&self.waiters.0, section)
    }

    #[inline]
    pub(super) fn waiting(&self) -> usize {
        // Acquire: pairs with the changes in `Shard::with`.
        self.waiters.0.load(Ordering::Acquire)
    }

    /// The generation in force.
    pub(super) fn current_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_stale(&self, conn: &Conn<C>) -> bool {
        conn.generation < self.current_generation()
    }

    // ---- taking ----

    pub(super) fn checkout(&self, home: &Arc<Home<C>>, hint: Hint, now: Tick) -> Checkout<C> {
        // Who comes while others wait gets in line: nobody is overtaken.
        if self.waiting() == 0 {
            match self.take_now(home, hint, now) {
                Ok(Some(got)) => return got,
                Ok(None) => {}
                Err(refusal) => return Checkout::Refused(refusal),
            }
        }
        match self.enqueue(home, hint, now) {
            Err(refusal) => Checkout::Refused(refusal),
            Ok(mut ticket) => match ticket.take_handed() {
                Some(Handed::Lease(lease)) => Checkout::Ready(lease),
                Some(Handed::Permit(permit)) => Checkout::Connect(permit),
                None => Checkout::Wait(ticket),
            },
        }
    }

    #[inline]
    fn take_now(
        &self,
        home: &Arc<Home<C>>,
        hint: Hint,
        now: Tick,
    ) -> Result<Option<Checkout<C>>, Refusal> {
        let own = self.with_shard(home.shard, |shard| match shard.closed {
            true => Err(Refusal::Closed),
            false => Ok(shard.pop_idle(hint.state)),
        })?;
        if let Some(conn) = own {
            return Ok(Some(Checkout::Ready(Lease::new(Arc::clone(home), conn))));
        }
        let mut todo = Todo::new();
        // Nobody waits: the reserve is not for newcomers.
        let claim = self.growth.claim(now, || None, &mut todo);
        budget::drain(now, &mut todo);
        if let Claim::Granted(grant) = claim {
            let permit = Permit::new(Arc::clone(home), grant, None);
            return Ok(Some(Checkout::Connect(permit)));
        }
        let stolen = self.steal(home.shard, hint.state);
        Ok(stolen.map(|conn| Checkout::Ready(Lease::new(Arc::clone(home), conn))))
    }

    /// An idle connection of any shard but `from`, the nearest following one first.
    fn steal(&self, from: usize, state: u64) -> Option<Conn<C>> {
        let count = self.shards.len();
        (1..count).map(|step| (from + step) % count).find_map(|shard| {
            if self.shards[shard].idle_hint() == 0 {
                return None;
            }
            self.with_shard(shard, |shard| shard.pop_idle(state))
        })
    }

    // ---- waiting ----

    fn enqueue(&self, home: &Arc<Home<C>>, hint: Hint, now: Tick) -> Result<Ticket<C>, Refusal> {
        // Relaxed: a limit that changes meanwhile may be seen either way.
        let max = self.waiters_max.load(Ordering::Relaxed);
        let enqueued = self.with_shard(home.shard, |shard| {
            if !shard.closed && self.waiting() >= max {
                return Err(Refusal::WaitersFull);
            }
            Ok(shard.enqueue(&self.tickets.0, hint.state, now))
        })?;
        match enqueued {
            Enqueued::Closed => Err(Refusal::Closed),
            Enqueued::Waiting { waiter, node, deadline } => {
                let ticket = Ticket::new(Arc::clone(home), waiter, node);
                self.look_again(&ticket, deadline, now);
                Ok(ticket)
            }
        }
    }

    /// Waits with a place in the queue that was taken before, or takes one now.
    pub(super) fn wait_again(
        &self,
        home: Arc<Home<C>>,
        place: Option<Tag>,
        state: u64,
        now: Tick,
    ) -> Ticket<C> {
        let mut tag = Tag::default();
        let enqueued = self.with_shard(home.shard, |shard| {
            tag = place.unwrap_or_else(|| shard.tag(&self.tickets.0, state, now));
            tag.state = state;
            if tag.deadline <= now {
                return None;
            }
            Some(shard.enqueue_again(tag))
        });
        if place.is_some() {
            self.forget_oldest();
        }
        let resolved = |phase| Arc::new(Waiter::resolved(phase, tag, now.since(tag.enqueued)));
        match enqueued {
            None => Ticket::new(home, resolved(Phase::Expired), 0),
            Some(Enqueued::Closed) => Ticket::new(home, resolved(Phase::Closed), 0),
            Some(Enqueued::Waiting { waiter, node, deadline }) => {
                let ticket = Ticket::new(home, waiter, node);
                self.look_again(&ticket, deadline, now);
                ticket
            }
        }
    }

    /// The other half of enqueueing: serve whoever can be served, perhaps this ticket itself, and
    /// arm the timeout thread if it still waits.
    fn look_again(&self, ticket: &Ticket<C>, deadline: Tick, now: Tick) {
        self.settle_all(now);
        if ticket.waiter().phase() == Phase::Waiting && deadline != Tick::MAX {
            self.registration.arm(deadline);
        }
    }

    /// A ticket was dropped while it waited.
    pub(super) fn forget(&self, shard: usize, node: u32, waiter: &Arc<Waiter<C>>) {
        let now = self.now();
        self.with_shard(shard, |shard| shard.cancelled(node, waiter, now));
    }

    /// A ticket was dropped after something had been handed to it.
    pub(super) fn take_back(&self, gift: Gift<C>) {
        self.returned.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match gift {
            Gift::Conn(conn) => self.give_back(conn, self.now()),
            Gift::Grant(grant) => self.end_dial(grant, Dialled::Dropped),
        }
    }

    // ---- giving ----

    /// The return path of a connection that can be used again.
    #[inline]
    pub(super) fn give_back(&self, conn: Conn<C>, now: Tick) {
        let mut todo = Todo::new();
        if self.growth.over() && self.growth.begin_shed() {
            self.close_set_down(conn, &mut todo);
        } else if self.place(conn, now, &mut todo) {
            // It went from hand to hand: there is no more to be had than there was before.
            return;
        }
        self.settle(now, &mut todo);
        self.offer_to_budgets(&mut todo);
        budget::drain(now, &mut todo);
    }

    /// The return path of a connection that cannot: it is closed and its slot freed.
    pub(super) fn retire(&self, conn: Conn<C>) {
        let mut todo = Todo::new();
        self.close_conn(conn, &mut todo);
        let now = self.now();
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    /// Closed before its slot is free, so that the node never sees more than the pool's size.
    pub(super) fn close_conn(&self, conn: Conn<C>, todo: &mut Todo) {
        let generation = conn.generation;
        drop(conn);
        self.growth.release(generation, todo);
    }

    /// The same, of a connection that was set down to be closed.
    pub(super) fn close_set_down(&self, conn: Conn<C>, todo: &mut Todo) {
        let generation = conn.generation;
        drop(conn);
        self.growth.end_retire(Some(generation), todo);
    }

    pub(super) fn end_dial(&self, grant: Grant, how: Dialled) {
        let mut todo = Todo::new();
        self.growth.end(grant, how, &mut todo);
        let now = self.now();
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    /// Ends a failed dial and puts its owner in line again. The back-off is in force before it is
    /// in line, so that it does not get its own slot back; nobody is served between the two, so that
    /// a slot which may be used at once goes by the order of tickets.
    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a part of its permit")]
    pub(super) fn redial_later(
        &self,
        grant: Grant,
        retry_at: Tick,
        home: Arc<Home<C>>,
        place: Option<Tag>,
        hint_state: u64,
        now: Tick,
    ) -> Ticket<C> {
        let mut todo = Todo::new();
        self.growth.end(grant, Dialled::Failed(retry_at), &mut todo);
        let ticket = self.wait_again(home, place, hint_state, now);
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
        ticket
    }

    /// Brings a connection to a waiter, else to the idle stack of its home, else to its end. False if
    /// it did not go to a waiter: then who may have overlooked it, or now waits for its slot, is to be
    /// looked for.
    #[inline]
    pub(super) fn place(&self, mut conn: Conn<C>, now: Tick, todo: &mut Todo) -> bool {
        while self.waiting() > 0 {
            if self.is_stale(&conn) {
                self.close_conn(conn, todo);
                return false;
            }
            let Some(target) = self.choose_shard(conn.home) else {
                break;
            };
            let cross_shard = target != conn.home;
            match self.hand(Gift::Conn(conn), target, cross_shard, now) {
                Ok(()) => return true,
                Err(Gift::Conn(back)) => conn = back,
                Err(Gift::Grant(_)) => unreachable!("BUG: a connection came back as a grant"),
            }
        }
        let home = conn.home;
        if let Err(conn) = self.with_shard(home, |shard| shard.push_idle(conn, now)) {
            self.close_conn(conn, todo);
        }
        false
    }

    /// The shard to serve: its own, unless another's head is older by more than the bound.
    ///
    /// The others' heads, which change with each hand-off there, are read once in so many: the oldest
    /// ticket only rises, so that what was seen before is a lower bound. A place in the queue that is
    /// taken again lowers it (see [`forget_oldest`](Self::forget_oldest)); one whose owner was stopped
    /// between the draw and the publishing is seen that much later.
    fn choose_shard(&self, own: usize) -> Option<usize> {
        let own_head = self.shards[own].head_ticket_hint();
        // Relaxed, both: a bound that changes meanwhile may be seen either way, and what was seen is a
        // number, not a message.
        let bound = self.cross_shard_bound.load(Ordering::Relaxed);
        let seen = &self.oldest_seen[own].0;
        if own_head != u64::MAX && own_head.saturating_sub(seen.load(Ordering::Relaxed)) <= bound {
            return Some(own);
        }
        let (oldest, ticket) = self.oldest_head()?;
        seen.store(ticket, Ordering::Relaxed);
        let keep = own_head != u64::MAX && own_head.saturating_sub(ticket) <= bound;
        Some(if keep { own } else { oldest })
    }

    /// An older ticket than any may have got in line: all look again.
    fn forget_oldest(&self) {
        for seen in &self.oldest_seen {
            seen.0.store(0, Ordering::Relaxed);
        }
    }

    /// The shard with the oldest ticket at its head, if anybody waits anywhere.
    fn oldest_head(&self) -> Option<(usize, u64)> {
        let heads = self.shards.iter().map(Shard::head_ticket_hint).enumerate();
        heads.filter(|(_, ticket)| *ticket != u64::MAX).min_by_key(|(_, ticket)| *ticket)
    }

    /// Hands over to a waiter of one shard, and wakes it and whoever was expired on the way, after
    /// the unlock.
    fn hand(
        &self,
        gift: Gift<C>,
        target: usize,
        cross_shard: bool,
        now: Tick,
    ) -> Result<(), Gift<C>> {
        let mut batch = WakeBatch::new();
        let handed =
            self.with_shard(target, |shard| shard.hand(gift, now, cross_shard, &mut batch));
        let waker = handed?;
        if let Some(waker) = waker {
            waker.wake();
        }
        batch.flush();
        Ok(())
    }

    // ---- matching ----

    /// Settles this pool, then the pools that wait for what its budgets have to give.
    pub(super) fn settle_all(&self, now: Tick) {
        let mut todo = Todo::new();
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    /// Matches waiters with idle connections and free slots until one of the two runs out.
    ///
    /// Whatever it takes and cannot hand over it puts back and looks again, so that another
    /// thread which saw nothing meanwhile can rely on it.
    #[inline]
    pub(super) fn settle(&self, now: Tick, todo: &mut Todo) {
        // The fence of the park protocol: what the caller made available, or the waiter that it
        // linked, comes before; the look for the other side comes after.
        fence(Ordering::SeqCst);
        while self.waiting() > 0 && self.serve_one(now, todo) {
            fence(Ordering::SeqCst);
        }
    }

    /// False if there is nothing to give.
    fn serve_one(&self, now: Tick, todo: &mut Todo) -> bool {
        // As a rule, where many wait: and then nobody's head has to be read.
        if self.growth.has_no_room() && self.shards.iter().all(|shard| shard.idle_hint() == 0) {
            return false;
        }
        // Nobody in sight: nobody waits, or all who do are paused. Who links a waiter looks by itself.
        let Some((oldest, _)) = self.oldest_head() else {
            return false;
        };
        if let Some(conn) = self.grab_idle(oldest) {
            self.place(conn, now, todo);
            return true;
        }
        let since = || self.oldest_enqueued_hint();
        match self.growth.claim(now, since, todo) {
            Claim::Denied => false,
            Claim::TooEarly(at) => {
                // The timeout thread settles then. Armed here, by whoever finds a waiter and a
                // back-off (or the reserve) together, and not once by the dial that failed: the
                // thread's clock may have passed the moment, and the thread have come and gone,
                // before a waiter with an earlier reading is linked.
                self.registration.arm(at);
                false
            }
            Claim::Blocked(budget) => {
                todo.push(budget);
                false
            }
            Claim::Granted(grant) => {
                self.hand_grant(grant, now, todo);
                true
            }
        }
    }

    /// An idle connection of any shard, of `first` if it has one.
    fn grab_idle(&self, first: usize) -> Option<Conn<C>> {
        let count = self.shards.len();
        (0..count).map(|step| (first + step) % count).find_map(|shard| {
            if self.shards[shard].idle_hint() == 0 {
                return None;
            }
            self.with_shard(shard, |shard| {
                let wanted = shard.waitlist.head().map_or(0, |entry| entry.tag.state);
                shard.pop_idle(wanted)
            })
        })
    }

    /// A permit goes to the oldest waiter of all, whatever its shard.
    fn hand_grant(&self, grant: Grant, now: Tick, todo: &mut Todo) {
        let mut grant = grant;
        while let Some((target, _)) = self.oldest_head() {
            match self.hand(Gift::Grant(grant), target, false, now) {
                Ok(()) => return,
                Err(Gift::Grant(back)) => grant = back,
                Err(Gift::Conn(_)) => unreachable!("BUG: a grant came back as a connection"),
            }
        }
        self.growth.end(grant, Dialled::Dropped, todo);
    }

    /// A connection that became idle may be what another pool needs closed. The fence between is
    /// the one in `settle`.
    fn offer_to_budgets(&self, todo: &mut Todo) {
        let blocked = self.growth.budgets().iter().filter(|budget| budget.has_blocked());
        todo.extend(blocked.cloned());
    }
}

impl<C: Send + 'static> Deadlines for Inner<C> {
    fn expire_due(&self, now: Tick) {
        for shard in 0..self.shards.len() {
            let mut batch = WakeBatch::new();
            while self.with_shard(shard, |shard| shard.expire(now, &mut batch)) {
                batch.flush();
            }
        }
        self.count_rescues(now);
        self.settle_all(now);
    }

    fn next_deadline(&self, now: Tick) -> Option<Tick> {
        let heads = self.shards.iter().map(Shard::head_deadline_hint).min();
        let retry = self.growth.retry_after(now);
        // A reserve that is open and not used is held up by a budget or a dial, whose end settles.
        let reserve = self.growth.reserve_opens_at(|| self.oldest_enqueued_hint());
        let reserve = reserve.filter(|at| *at > now);
        let next = heads.unwrap_or(Tick::MAX).min(retry.unwrap_or(Tick::MAX));
        let next = next.min(reserve.unwrap_or(Tick::MAX));
        (next != Tick::MAX).then_some(next)
    }
}

impl<C: Send + 'static> Member for Inner<C> {
    fn oldest_waiter(&self) -> Option<Tick> {
        self.oldest_enqueued()
    }

    fn may_dial(&self, now: Tick) -> bool {
        match self.growth.opens_at(|| self.oldest_enqueued_hint()) {
            None => false,
            Some(at) if at <= now => true,
            Some(at) => {
                // Whoever asks may have read the clock before the waiter did, and the waiter have
                // found a budget in its way and nothing to wait for: somebody has to come by.
                self.registration.arm(at);
                false
            }
        }
    }

    fn spare_idle_since(&self) -> Option<Tick> {
        if self.waiting() > 0 {
            return None;
        }
        self.longest_idle().map(|(_, since)| since)
    }

    fn evict_idle(&self, _now: Tick, todo: &mut Todo) -> bool {
        let Some((shard, _)) = self.longest_idle() else {
            return false;
        };
        let Some(conn) = self.with_shard(shard, |shard| shard.idle.pop_oldest()) else {
            return false;
        };
        self.close_conn(conn, todo);
        true
    }

    fn settle(&self, now: Tick, todo: &mut Todo) {
        Inner::settle(self, now, todo);
    }
}

impl<C: Send + 'static> Drop for Inner<C> {
    fn drop(&mut self) {
        let idle = self.shards.iter().map(Shard::idle_hint).sum();
        self.growth.leave(idle);
        let mut todo: Todo = self.growth.budgets().to_vec();
        budget::drain(self.now(), &mut todo);
    }
}
