//! The waiters of one shard: a list in ticket order, and beside it one queue per timeout value in
//! deadline order.
//!
//! Must not know connections, slots or other shards. Everything here is under the shard's lock.
//! Invariants: `order` rises in ticket number; a deadline queue rises in deadline, so that only its
//! head matters; an entry is linked exactly while it counts as a waiter. Unlink is O(1).

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use crate::primitives::links::{Ends, NIL, Slab, Way};
use crate::primitives::{Arc, Tick};

use super::waiter::{Phase, Tag, Waiter};

/// How many waiters a giver looks at for one with the connection's session state. It bounds the time
/// under the lock; who is farther back gains nothing by its state.
const SAME_STATE_SCAN: usize = 16;

/// Waiter slots kept for reuse.
const SPARES: usize = 1024;

pub(super) struct Entry<C> {
    pub(super) waiter: Arc<Waiter<C>>,
    pub(super) tag: Tag,
}

/// The waiters whose timeout is `span`: equal spans make deadlines rise with arrival.
struct DeadlineQueue {
    span: Option<Duration>,
    ends: Ends,
}

pub(super) struct Waitlist<C> {
    slab: Slab<Entry<C>>,
    order: Ends,
    /// As many as there are timeout values in use: one, and two for a while after a reload.
    queues: Vec<DeadlineQueue>,
    /// Slots whose entry was unlinked. One can be used again when its ticket is gone, that is when
    /// this list is its only owner.
    spares: VecDeque<Arc<Waiter<C>>>,
}

impl<C> Waitlist<C> {
    pub(super) const fn new() -> Self {
        Self { slab: Slab::new(), order: Ends::EMPTY, queues: Vec::new(), spares: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn head(&self) -> Option<&Entry<C>> {
        self.slab.get(self.order.head)
    }

    /// The ticket at the head; `u64::MAX` if nobody waits.
    pub(super) fn head_ticket(&self) -> u64 {
        self.head().map_or(u64::MAX, |entry| entry.tag.ticket)
    }

    /// The earliest deadline; [`Tick::MAX`] if there is none.
    pub(super) fn head_deadline(&self) -> Tick {
        self.queues.iter().map(|queue| self.queue_head(queue)).min().unwrap_or(Tick::MAX)
    }

    fn queue_head(&self, queue: &DeadlineQueue) -> Tick {
        self.slab.get(queue.ends.head).map_or(Tick::MAX, |entry| entry.tag.deadline)
    }

    /// Links a waiter, at the back or, if it waits again with an old ticket, where that belongs.
    /// Returns its slot, its node and its deadline.
    pub(super) fn enqueue(&mut self, mut tag: Tag) -> (Arc<Waiter<C>>, u32, Tick) {
        let timed = tag.deadline != Tick::MAX;
        let queue = timed.then(|| self.queue_of(tag.span));
        let newest = self.slab.get(self.order.tail).is_none_or(|tail| tail.tag.ticket < tag.ticket);
        if let Some(queue) = queue.filter(|_| newest) {
            // Two threads may read the clock in one order and arrive here in the other. A deadline
            // moved back by those microseconds keeps the queue sorted.
            let tail = self.slab.get(self.queues[queue].ends.tail);
            tag.deadline = tail.map_or(tag.deadline, |tail| tag.deadline.max(tail.tag.deadline));
        }
        let waiter = self.slot(tag);
        let index = self.slab.insert(Entry { waiter: Arc::clone(&waiter), tag });
        let at = if newest { NIL } else { self.first_ticket_after(tag.ticket) };
        self.slab.link_before(&mut self.order, Way::Order, at, index);
        if let Some(queue) = queue {
            let at = self.first_deadline_after(queue, tag.deadline);
            self.slab.link_before(&mut self.queues[queue].ends, Way::Side, at, index);
        }
        (waiter, index, tag.deadline)
    }

    fn slot(&mut self, tag: Tag) -> Arc<Waiter<C>> {
        if let Some(mut spare) = self.spares.pop_front() {
            if let Some(waiter) = Arc::get_mut(&mut spare) {
                waiter.reset(tag);
                return spare;
            }
            // Its ticket has not been polled yet; it goes to the back to be tried again later.
            self.spares.push_back(spare);
        }
        Arc::new(Waiter::new(tag))
    }

    /// From the front: a ticket that waits again is among the oldest.
    fn first_ticket_after(&self, ticket: u64) -> u32 {
        let mut index = self.order.head;
        while index != NIL && self.slab.at(index).tag.ticket < ticket {
            index = self.slab.next(Way::Order, index);
        }
        index
    }

    fn first_deadline_after(&self, queue: usize, deadline: Tick) -> u32 {
        let ends = self.queues[queue].ends;
        if self.slab.get(ends.tail).is_none_or(|tail| tail.tag.deadline <= deadline) {
            return NIL;
        }
        let mut index = ends.head;
        while index != NIL && self.slab.at(index).tag.deadline <= deadline {
            index = self.slab.next(Way::Side, index);
        }
        index
    }

    fn queue_of(&mut self, span: Option<Duration>) -> usize {
        if let Some(found) = self.queues.iter().position(|queue| queue.span == span) {
            return found;
        }
        if let Some(spare) = self.queues.iter().position(|queue| queue.ends.is_empty()) {
            self.queues[spare].span = span;
            return spare;
        }
        self.queues.push(DeadlineQueue { span, ends: Ends::EMPTY });
        self.queues.len() - 1
    }

    /// The node to serve with a connection of session state `wanted` (`None`: with anything): the
    /// head, unless a later one close by has the same state and nobody in front of it has been
    /// overtaken `overtake_max` times already.
    pub(super) fn choose(&self, wanted: Option<u64>, overtake_max: u32) -> Option<u32> {
        let head = self.order.head;
        let mut index = head;
        let Some(wanted) = wanted else {
            return (head != NIL).then_some(head);
        };
        for _ in 0..SAME_STATE_SCAN {
            if index == NIL {
                break;
            }
            let tag = self.slab.at(index).tag;
            if tag.state == wanted {
                return Some(index);
            }
            if tag.overtaken >= overtake_max {
                break;
            }
            index = self.slab.next(Way::Order, index);
        }
        (head != NIL).then_some(head)
    }

    /// Notes that everybody in front of `index` has been overtaken once more.
    pub(super) fn age_before(&mut self, index: u32) {
        let mut at = self.order.head;
        while at != index {
            self.slab.at_mut(at).tag.overtaken += 1;
            at = self.slab.next(Way::Order, at);
        }
    }

    pub(super) fn entry(&self, index: u32) -> &Entry<C> {
        self.slab.at(index)
    }

    /// Unlinks a node. Its slot becomes a spare.
    pub(super) fn unlink(&mut self, index: u32) -> Tag {
        let tag = self.slab.at(index).tag;
        self.slab.unlink(&mut self.order, Way::Order, index);
        if tag.deadline != Tick::MAX {
            let queue = self.queue_of(tag.span);
            self.slab.unlink(&mut self.queues[queue].ends, Way::Side, index);
        }
        let entry = self.slab.remove(index);
        if self.spares.len() < SPARES {
            self.spares.push_back(entry.waiter);
        }
        tag
    }

    /// Unlinks the node of exactly this waiter, if nobody has done so before. The slot's identity is
    /// proof: it is not used again while its ticket lives.
    pub(super) fn unlink_if(&mut self, index: u32, waiter: &Arc<Waiter<C>>) -> Option<Tag> {
        let entry = self.slab.get(index)?;
        Arc::ptr_eq(&entry.waiter, waiter).then(|| self.unlink(index))
    }

    /// One waiter whose deadline has come.
    pub(super) fn due(&self, now: Tick) -> Option<u32> {
        let due = self.queues.iter().find(|queue| self.queue_head(queue) <= now)?;
        Some(due.ends.head)
    }

    /// Ends the wait of a node with nothing and unlinks it. The waker is `None` too if its ticket
    /// had given up just before.
    pub(super) fn finish(&mut self, index: u32, phase: Phase, now: Tick) -> Finished {
        let entry = self.slab.at(index);
        let waker = entry.waiter.finish(phase, now.since(entry.tag.enqueued));
        let tag = self.unlink(index);
        Finished { won: waker.is_some(), waker: waker.flatten(), tag }
    }
}

/// The end of a wait that brought nothing.
pub(super) struct Finished {
    /// False if the ticket had given up just before.
    pub(super) won: bool,
    pub(super) waker: Option<Waker>,
    pub(super) tag: Tag,
}
