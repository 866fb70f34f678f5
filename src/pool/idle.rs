//! The idle connections of one shard: a stack, warmest on top, grouped by session state.
//!
//! Must not know waiters, slots or clocks. Invariants: every entry is on the order list (oldest
//! idle at the head) and in exactly one group; a group's list is in the same order; all of it is
//! under the shard's lock. Nothing is dropped here: a connection leaves by value, because closing
//! one is work for after the unlock.

use crate::primitives::Tick;
use crate::primitives::links::{Ends, NIL, Slab, Way};

use super::lease::Conn;

/// Empty groups kept before they are swept: enough for the usual handful of states, so that the
/// common push and pop touch no allocator.
const KEEP_GROUPS: usize = 8;

struct Entry<C> {
    conn: Conn<C>,
    since: Tick,
}

struct Group {
    state: u64,
    ends: Ends,
}

pub(super) struct IdleSet<C> {
    slab: Slab<Entry<C>>,
    order: Ends,
    /// Searched linearly: there are as many as there are different states among the idle.
    groups: Vec<Group>,
}

impl<C> IdleSet<C> {
    pub(super) const fn new() -> Self {
        Self { slab: Slab::new(), order: Ends::EMPTY, groups: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// When the longest idle connection became idle; [`Tick::MAX`] if none is.
    pub(super) fn oldest_since(&self) -> Tick {
        if self.order.is_empty() { Tick::MAX } else { self.slab.at(self.order.head).since }
    }

    pub(super) fn push(&mut self, conn: Conn<C>, since: Tick) {
        let state = conn.state;
        let index = self.slab.insert(Entry { conn, since });
        self.slab.link_back(&mut self.order, Way::Order, index);
        let group = self.group_of(state);
        self.slab.link_back(&mut self.groups[group].ends, Way::Side, index);
    }

    /// One connection: of the wanted state if there is one, else any; the warmest, or with
    /// `round_robin` the longest idle.
    pub(super) fn pop(&mut self, state: u64, round_robin: bool) -> Option<Conn<C>> {
        let pick = |ends: Ends| if round_robin { ends.head } else { ends.tail };
        let same = self.groups.iter().find(|group| group.state == state && !group.ends.is_empty());
        let index = same.map_or(pick(self.order), |group| pick(group.ends));
        (index != NIL).then(|| self.take(index))
    }

    /// The longest idle connection.
    pub(super) fn pop_oldest(&mut self) -> Option<Conn<C>> {
        let index = self.order.head;
        (index != NIL).then(|| self.take(index))
    }

    /// The longest idle connection, if it became idle before `before`.
    pub(super) fn pop_idle_since_before(&mut self, before: Tick) -> Option<Conn<C>> {
        if self.oldest_since() < before { self.pop_oldest() } else { None }
    }

    /// Takes every connection that `pred` names, oldest first.
    pub(super) fn take_where(
        &mut self,
        mut pred: impl FnMut(&Conn<C>, Tick) -> bool,
        out: &mut Vec<Conn<C>>,
    ) {
        let mut index = self.order.head;
        while index != NIL {
            let next = self.slab.next(Way::Order, index);
            let entry = self.slab.at(index);
            if pred(&entry.conn, entry.since) {
                out.push(self.take(index));
            }
            index = next;
        }
    }

    /// Visits every connection, oldest first.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Conn<C>, Tick)) {
        let mut index = self.order.head;
        while index != NIL {
            let entry = self.slab.at(index);
            visit(&entry.conn, entry.since);
            index = self.slab.next(Way::Order, index);
        }
    }

    fn take(&mut self, index: u32) -> Conn<C> {
        let state = self.slab.at(index).conn.state;
        let group = self.group_of(state);
        self.slab.unlink(&mut self.groups[group].ends, Way::Side, index);
        self.slab.unlink(&mut self.order, Way::Order, index);
        if self.groups.len() > KEEP_GROUPS && self.groups[group].ends.is_empty() {
            self.groups.swap_remove(group);
        }
        self.slab.remove(index).conn
    }

    fn group_of(&mut self, state: u64) -> usize {
        if let Some(found) = self.groups.iter().position(|group| group.state == state) {
            return found;
        }
        if let Some(spare) = self.groups.iter().position(|group| group.ends.is_empty()) {
            self.groups[spare].state = state;
            return spare;
        }
        self.groups.push(Group { state, ends: Ends::EMPTY });
        self.groups.len() - 1
    }
}

#[cfg(all(test, not(pgbaton_loom)))]
mod tests {
    use super::*;

    fn conn(c: u32, state: u64) -> Conn<u32> {
        Conn { c, generation: 0, state, home: 0 }
    }

    fn set(entries: &[(u32, u64)]) -> IdleSet<u32> {
        let mut idle = IdleSet::new();
        for (at, &(c, state)) in entries.iter().enumerate() {
            idle.push(conn(c, state), Tick::from_micros(at as u64));
        }
        idle
    }

    fn pop(idle: &mut IdleSet<u32>, state: u64, round_robin: bool) -> Option<u32> {
        idle.pop(state, round_robin).map(|conn| conn.c)
    }

    #[test]
    fn same_state_first_else_the_warmest() {
        let mut idle = set(&[(1, 7), (2, 8), (3, 7), (4, 9)]);
        assert_eq!(pop(&mut idle, 7, false), Some(3));
        assert_eq!(pop(&mut idle, 7, false), Some(1));
        assert_eq!(pop(&mut idle, 7, false), Some(4));
        assert_eq!(pop(&mut idle, 7, false), Some(2));
        assert_eq!(pop(&mut idle, 7, false), None);
    }

    #[test]
    fn round_robin_takes_the_longest_idle_of_the_state() {
        let mut idle = set(&[(1, 8), (2, 7), (3, 7)]);
        assert_eq!(pop(&mut idle, 7, true), Some(2));
        assert_eq!(pop(&mut idle, 5, true), Some(1));
        assert_eq!(idle.oldest_since(), Tick::from_micros(2));
    }

    #[test]
    fn many_states_come_and_go_without_groups_piling_up() {
        let mut idle = IdleSet::new();
        for state in 0..1_000 {
            idle.push(conn(1, state), Tick::ZERO);
            assert!(idle.pop(state, false).is_some());
        }
        assert!(idle.groups.len() <= KEEP_GROUPS + 1);
        for state in 0..100 {
            idle.push(conn(1, state), Tick::ZERO);
        }
        for state in 0..100 {
            assert_eq!(idle.pop(state, false).map(|conn| conn.state), Some(state));
        }
        assert!(idle.len() == 0 && idle.groups.len() <= KEEP_GROUPS + 1);
    }

    #[test]
    fn take_where_takes_what_is_named_in_one_pass() {
        let mut idle = set(&[(1, 7), (2, 8), (3, 7), (4, 9)]);
        let mut out = Vec::new();
        idle.take_where(|conn, since| conn.c == 2 || since >= Tick::from_micros(3), &mut out);
        assert_eq!(out.iter().map(|conn| conn.c).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(idle.pop_oldest().map(|conn| conn.c), Some(1));
        assert_eq!(idle.len(), 1);
    }
}
