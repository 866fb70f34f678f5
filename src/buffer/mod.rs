//! The request buffer: requests that cannot be sent because their primary is gone wait here, within
//! bounds, until one serves again.
//!
//! A [`Buffer`] has a [`Lane`] for each (cluster, role). It is generic: it knows no PostgreSQL, no
//! sockets, no tasks, no clocks. It does not keep the request, only how many bytes it has; it does
//! not know what a primary is, only that somebody says that one serves; moments come in as arguments.
//! What may be held at all (nothing of which a byte was carried out, nothing inside a transaction) is
//! the caller's to know.
//!
//! # States of a lane
//!
//! ```text
//!            hold: a request has failed          serving: a live node says that it is the primary
//!            start: the monitor knows first      or max_failover_duration is over: giving up
//!   IDLE ─────────────────────────► BUFFERING ─────────────────────────► DRAINING ──► IDLE
//!     unless the last episode ended              nobody waits and no retry is out ──┘
//!     less than min_time_between_failovers ago
//! ```
//!
//! | a request | IDLE | BUFFERING | DRAINING | giving up |
//! |---|---|---|---|---|
//! | has failed (`hold`) | begins an episode and waits, or is skipped | waits | is sent again | is skipped |
//! | has not been sent (`join`) | is sent | waits | is sent | is sent |
//!
//! A failed request brings the [`Attempt`] from before it was sent. If a primary was announced since,
//! its failure is old news: it is sent again whatever the state. Without that, a failure that is told
//! after the announcement would begin an episode that nobody comes to end, or, right after a
//! failover, would be called too soon and fail.
//!
//! A [`Request`] is used up by a wait, so that nobody waits twice for one request. How often a request
//! that is not held may be sent again is for its caller to bound.
//!
//! # A wait
//!
//! An entry is one atomic that goes from WAITING to exactly one of: released, released to try once,
//! evicted, past its window, cancelled, closed (`primitives::slot`, by compare-and-swap, as in the
//! pool). The swap and the unlinking are one critical section, so an entry is linked exactly while it
//! waits. What was released is a [`Retry`]; a ticket that is dropped after its release and before its
//! poll ends that retry itself. So what a request holds, one place and its bytes, comes back by
//! exactly one way: at the end of its wait, or at the end of its retry, or by moving to a newcomer.
//!
//! # Bounds
//!
//! Places (`requests`) and bytes are counted for all lanes together, for those that wait and those
//! that retry. Nobody waits for a place. If there is none, the oldest of all entries in lanes that are
//! buffering is evicted and what it held is the newcomer's, in the same critical section; a large
//! newcomer may need several, and keeps what the first batch gave up while the next is evicted. If all
//! that may be evicted would not be enough, nobody is, and the newcomer is refused. Who waits in a
//! lane that drains is about to be served and is not evicted.
//!
//! # Time
//!
//! Moments of arrival rise with the order of arrival, over all lanes: a clock that was read earlier
//! and comes later is moved forward. The window is one for all and is added when it is looked at, so
//! that deadlines rise in that order too, also after a reload has changed the window. Therefore only
//! heads matter: `heads` has the head of each line in a sorted set, which is the order of eviction and
//! of expiry at once, and its size is the number of lanes. Episodes are in a second such set, from
//! their start to the end of buffering. A timer is no message that may be stale: it is a visit of the
//! timeout thread, which looks under the lock at the start of the episode that is on. Each episode has
//! a number all the same; a retry that outlived its own would be noticed.
//!
//! A releaser compares the window with its own moment: nobody is released past it, even if the timeout
//! thread is late.
//!
//! # Draining
//!
//! `drain_concurrency` entries of a lane are released, the oldest first; each retry that ends releases
//! the next. The episode ends when nobody waits and no retry is out. The minimum to the next counts
//! from there.
//!
//! # Why nobody is stranded
//!
//! The look at the lane's state and the linking are one critical section (`Core::admit`), and so are
//! the change of the state and the end of buffering. So of a request and an announcement one is
//! first: the entry is there to be released, or the request sees that it is not to wait. Whatever
//! leaves a lane in DRAINING with somebody waiting has a retry out, whose end releases more, or is
//! itself about to (`Core::release` says when its batch was full). Two things bound every wait in any
//! case, by the timeout thread: the window and the episode.
//!
//! # Locks
//!
//! | lock | guards | may be taken inside |
//! |---|---|---|
//! | the buffer's (`Core`) | all lanes, lines, sums, counters | an entry's cell |
//! | an entry's cell | waker, what it is told | nothing |
//! | timeouts' heads | the sorted heads | nothing; not taken under the others |
//!
//! One lock, where the pool has one for each shard: the bounds and the order of eviction are global,
//! a lock for each lane would bring back the gap between two of them, and the lock is taken only by
//! requests that have failed already. Who is not buffering pays one atomic load ([`Lane::attempt`],
//! [`Lane::is_buffering`]). A critical section is a few hundred nanoseconds, never grows with the
//! number of entries, and resolves at most a batch of 32. Wakers are woken after the unlock and may
//! call the buffer.
//!
//! # Proof
//!
//! `loom_tests` runs the races under loom; `tests::model` random sequences against a naive model that
//! foresees every answer; `tests::stress` real threads; `tests/seeded` shows that these notice when a
//! check or an end is taken away; `benches/buffer.rs` measures.

mod core;
mod entry;
mod episode;
mod front;
mod inner;
mod limits;
#[cfg(all(test, pgbaton_loom))]
mod loom_tests;
mod stats;
mod ticket;

#[cfg(all(test, not(pgbaton_loom)))]
mod tests;

pub use front::{Admission, Buffer, Lane};
pub use limits::{Attempt, BufferLimits, Load, Refusal, Request, Skip};
pub use stats::{
    BufferCounts, BufferSnapshot, BufferWaits, LaneSnapshot, LaneState, Refused, Skipped,
};
pub use ticket::{Outcome, Retry, Ticket};
