//! The heart: a lock-sharded waitlist with hand-off.
//!
//! A [`Pool`] shares out the connections to one (database, user) on one node. It is generic over
//! the connection and knows no PostgreSQL, no sockets, no tasks; moments come in as arguments. It
//! never dials and never closes on its own account: it hands out connections ([`Lease`]), the right
//! to dial ([`Permit`]) and places in line ([`Ticket`]), and drops what is to be closed.
//!
//! # Structure
//!
//! ```text
//!   Pool ── homes[i] ──► Inner ─┬─ shards[i]   Mutex { idle stack, waitlist, counters }
//!   Lease, Permit, Ticket ──┘   │              + published: idle, and the head's ticket, moment, deadline
//!     (each holds one home)     ├─ growth      Mutex { slots, connecting, back-off } ── budgets
//!                               └─ waiters, tickets, generation    (atomics)
//! ```
//!
//! - There is one **shard** per worker. `idle` is a stack grouped by session state; `waitlist` a
//!   list in ticket order with one deadline queue per timeout value beside it. Both live in slabs
//!   of doubly linked nodes, so that every unlink is O(1) and nothing allocates in steady state.
//! - A **slot** is the right to own one connection: idle, active or connecting. `growth` counts
//!   them. A slot also holds one slot of each of the pool's [`Budget`]s.
//! - A **home** is the core seen from one shard. What callers hold counts references on a home, and
//!   a worker uses its own: no reference count is shared between workers on the way of a
//!   transaction. The core points to no home, so nothing leaks in a circle, closed or not.
//! - A **waiter** is a recycled cell with an atomic phase, see `waiter`. Handing over is one
//!   compare-and-swap from WAITING; expiry, cancel and close make the same swap, so exactly one
//!   wins. The gift stays in the cell until the ticket takes it, in its poll or in its drop, and a
//!   ticket dropped with a gift sends it down the return path.
//!
//! # The two procedures
//!
//! `place` (a connection comes back): to a waiter if anybody waits, else onto the idle stack of the
//! shard where its socket is registered. What went to a waiter has changed nothing for anybody else;
//! after all else there is to be settled. `settle` (something became available, or somebody has got
//! in line): while somebody waits, take an idle connection and place it, else claim a slot and hand
//! the permit to the oldest waiter, else stop. Whatever `settle` takes and cannot hand over it puts
//! back and looks again. All rare procedures (close, resize, pause, RECONNECT, a dead connection, a
//! failed dial) change one thing and settle.
//!
//! # How many
//!
//! A pool dials for who asks, up to `size`; beyond that, up to `reserve` more, for a waiter that has
//! waited `reserve_after`, and never for a newcomer. Both are the one count of slots: what has been
//! dialled from the reserve is a connection like any other, and who frees a slot settles either way.
//! The timeout thread opens the reserve, as it ends a back-off. From outside come `grow` (a permit
//! while there are fewer than a minimum, which nobody waits for: it marks no budget and closes no
//! other pool's connection) and `retire_idle` (closes what has rested too long, down to a minimum that
//! shards keep between them, because the right to close one is counted before it is taken).
//!
//! # Why no wake-up is lost
//!
//! | a newcomer | a giver |
//! |---|---|
//! | links its waiter, raises `waiters` | pushes the idle connection, or frees the slot |
//! | `fence(SeqCst)` | `fence(SeqCst)` |
//! | looks at every shard's `idle` and at `room` | looks at `waiters` and at every shard's head |
//! | nothing: parks | nobody: done |
//!
//! Of two threads that each store, fence and load the other's word, at least one sees the other's
//! store (C++20 [atomics.fences]). So not both find nothing, and who finds something settles. The
//! fence is in one place, at the top of `settle`. It is explicit because a sequentially consistent
//! access would not order the plain stores around it, and because the model checker treats such an
//! access as acquire-release and would look at a weaker program. There is no rescue worker; the
//! timeout thread asserts in passing that no waiter and idle connection have been side by side for
//! a second (`rescued_waiters`, which must read 0).
//!
//! A paused shard publishes no head, so that givers pass it by, and paused growth publishes no room.
//! A resume is a giver: it publishes the heads, then the room, fences in its `settle`, and looks.
//!
//! Other orderings: published words are stored with release under their lock and loaded with
//! acquire; they are hints, whose truth is looked up again under the lock. `waiters` is raised
//! after the new head is published and lowered before the old one is withdrawn, so that a positive
//! count with no head in sight lasts no longer than another's critical section.
//!
//! # Fairness
//!
//! Tickets are numbered pool-wide. A newcomer never takes anything while somebody waits. A permit
//! goes to the oldest ticket of all. A connection goes to the head of its own shard, because there
//! it needs no move to another reactor, unless another shard's head is older by more than
//! `cross_shard_bound` tickets. The bound is a number of tickets and not a time because it must not
//! depend on how long a transaction is, and needs no clock. The default, 32, is measured against
//! the noise: with W workers serving their own heads at equal rates, heads drift apart by a few
//! tickets, and each crossing costs a move of the socket; 32 keeps crossings rare while a waiter
//! loses at most the time of 32 services, which at 4 servers is 8 transactions. A worker that has
//! no server lets its head age to the bound and then gets one, and the server stays where it is
//! checked in: servers go where the waiters are.
//!
//! What a hand-off has to look at does not grow with the number of shards: other shards' heads are
//! read once in `cross_shard_bound` tickets, because the oldest ticket only rises; and who gets in
//! line where there is neither room nor an idle connection looks at words that do not change while
//! that is so. The numbers are in docs/SCALING.md.
//!
//! Within a shard the head is served, unless one of the next 15 wants the connection's session
//! state and nobody in front of it has been overtaken `overtake_max` times already.
//!
//! # Deadlines
//!
//! A giver compares the deadline with its own moment before it swaps: nobody is served past it,
//! even if the timeout thread is late. That thread (`crate::timeouts`) expires heads only, 32 to a
//! lock section. It also ends back-offs and opens the reserve: whoever finds a waiter and one of
//! these together arms it. (Arming once, when the dial fails, is not enough: a waiter with an earlier
//! reading of the clock can be linked after the thread has come and gone. For the same reason who
//! passes over a blocked pool because of the time arms it for that pool.)
//!
//! # Locks
//!
//! | lock | guards | may be taken inside |
//! |---|---|---|
//! | shard | idle, waitlist, counters, `closed`, `gate`, `generation` | nothing; never another shard's |
//! | waiter's cell | waker, gift | a shard's |
//! | growth | slots, connecting, back-off, `gate`, `generation` | nothing |
//! | budget | used, members, marks | growth |
//! | timeouts' heads | the sorted heads | nothing |
//!
//! Under none of them is a waker woken, a connection dropped, or foreign code called, except the
//! predicates of `take_idle` and `for_each_idle`. Wakers are collected and woken after the unlock.
//! What must follow a release in other pools goes onto a worklist of budgets that the outermost
//! caller drains: no recursion, no nesting.
//!
//! # Accounting
//!
//! `slots` = idle + active + connecting, and each slot holds one of every budget. Both are asserted
//! in release builds too, with checked arithmetic: drift is a bug to be seen, not saturated away.
//!
//! # Proof
//!
//! `loom_tests` runs the races under loom; `tests::model` random sequences against a naive model;
//! `tests::stress` real threads; `tests/seeded` shows that these notice when a fence, a swap or a
//! wake is taken away.

mod budget;
mod control;
mod front;
mod gate;
mod growth;
mod idle;
mod inner;
mod lease;
mod limits;
#[cfg(all(test, pgbaton_loom))]
mod loom_tests;
mod permit;
mod shard;
mod stats;
mod ticket;
mod waiter;
mod waitlist;

#[cfg(all(test, not(pgbaton_loom)))]
mod tests;

pub use crate::primitives::{WAIT_BUCKETS, WaitHistogram};
pub use budget::Budget;
pub use front::{Checkout, Pool};
pub use gate::Gate;
pub use lease::Lease;
pub use limits::{Hint, PoolLimits, Refusal};
pub use permit::Permit;
pub use stats::{PoolSnapshot, Waits};
pub use ticket::{Outcome, Ticket};
