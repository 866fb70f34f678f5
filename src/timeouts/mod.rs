//! The timeout thread: one named, joined operating system thread that owns every wait deadline.
//!
//! A *source* (a pool, the request buffer) keeps its own deadline queues, one per timeout value, so
//! that within a queue deadlines rise with arrival and only the head matters. Here is only a sorted
//! set of heads: one entry per source that has a deadline. On waking the thread visits the sources
//! that are due and nobody else; each expires what is due in bounded batches, re-checking every
//! deadline under its own lock, and says when it wants to be visited next.
//!
//! **Arming.** Each source has one published word, `armed`: the moment at which the thread will
//! come by, or never. Two parties meet there:
//!
//! | enqueuer | thread, on its way to a source that is due |
//! |---|---|
//! | links its entry (publishing the queue's head) | publishes `armed` = never |
//! | `fence(SeqCst)` | `fence(SeqCst)` |
//! | reads `armed`; if its own deadline is earlier, arms | visits: expires what is due, arms what is next |
//!
//! The word is withdrawn before the visit and not replaced after it: an entry that is due by the
//! thread's clock and not yet by its enqueuer's, linked in the middle of a visit, would be left to a
//! visit that is past it.
//!
//! At least one of them sees the other, so no deadline is missed. Arming takes the heads' lock, puts
//! the source in, and unparks the thread only if the thread means to sleep longer; so the signal is
//! coalesced and carries no data. A waiter of a saturated pool has a later deadline than its
//! elders, reads one word and goes on; a queue that runs empty does not re-arm. The thread
//! wakes a few times per timeout period however many wait, and [`TimeoutHandle::wakes`] counts it.
//!
//! Must not know pools, connections or PostgreSQL. Imports only `primitives`.
//! Locks: the heads' lock is innermost and is held for no call into a source.

mod heads;
mod thread;

#[cfg(all(test, not(pgbaton_loom)))]
mod tests;

pub use heads::{Deadlines, Registration, TimeoutHandle};
pub use thread::TimeoutThread;
