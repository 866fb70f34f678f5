//! A slab whose nodes can each be on two doubly linked lists at once: O(1) insert, O(1) unlink from
//! anywhere, no allocation in steady state, no unsafe.
//!
//! Must not know what it stores. Invariants: a node is on a list exactly between `link_*` and
//! `unlink` for that way; `remove` is called only when it is on neither. All methods are called under
//! the lock of whoever owns the slab.

/// The index of no node.
pub(crate) const NIL: u32 = u32::MAX;

/// Nodes kept when a slab runs empty; more than this is given back, so that memory follows the load
/// down after a burst.
const KEEP_NODES: usize = 1024;

/// Which of its two links a list uses.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// The list that holds every node of its owner.
    Order = 0,
    /// The list that holds some of them: in a pool, one deadline queue or one session state.
    Side = 1,
}

/// The two ends of a list. The list itself is in the nodes.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

impl Ends {
    pub(crate) const EMPTY: Ends = Ends { head: NIL, tail: NIL };

    pub(crate) fn is_empty(self) -> bool {
        self.head == NIL
    }
}

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NIL, next: NIL };

struct Node<T> {
    value: Option<T>,
    links: [Link; 2],
}

/// The nodes. A free node's `Order` link points to the next free one.
pub(crate) struct Slab<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new(), free: NIL, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Stores `value` and returns its index. The node is on no list yet.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free != NIL {
            let index = self.free;
            let node = self.node_mut(index);
            let next_free = node.links[Way::Order as usize].next;
            node.value = Some(value);
            node.links = [UNLINKED; 2];
            self.free = next_free;
            return index;
        }
        let index = u32::try_from(self.nodes.len()).expect("BUG: more than 2^32 nodes in a slab");
        assert!(index != NIL, "BUG: the slab is full");
        self.nodes.push(Node { value: Some(value), links: [UNLINKED; 2] });
        index
    }

    /// Takes the value out and recycles the node, which must be on no list.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let free = self.free;
        let node = self.node_mut(index);
        let value = node.value.take().expect("BUG: removed an empty slab node");
        node.links[Way::Order as usize] = Link { prev: NIL, next: free };
        self.free = index;
        self.len -= 1;
        if self.len == 0 && self.nodes.len() > KEEP_NODES {
            self.nodes = Vec::new();
            self.free = NIL;
        }
        value
    }

    /// The value at `index`, or `None` where nothing is stored (any more).
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.nodes.get(index as usize)?.value.as_ref()
    }

    /// The value of a node known to be on a list.
    pub(crate) fn at(&self, index: u32) -> &T {
        self.get(index).expect("BUG: a list points to an empty slab node")
    }

    /// The value of a node known to be on a list, to change.
    pub(crate) fn at_mut(&mut self, index: u32) -> &mut T {
        self.node_mut(index).value.as_mut().expect("BUG: a list points to an empty slab node")
    }

    pub(crate) fn next(&self, way: Way, index: u32) -> u32 {
        self.node(index).links[way as usize].next
    }

    pub(crate) fn link_back(&mut self, ends: &mut Ends, way: Way, index: u32) {
        self.link_before(ends, way, NIL, index);
    }

    /// Links `index` in front of `at`; `at == NIL` means the back of the list.
    pub(crate) fn link_before(&mut self, ends: &mut Ends, way: Way, at: u32, index: u32) {
        let prev = if at == NIL { ends.tail } else { self.node(at).links[way as usize].prev };
        self.node_mut(index).links[way as usize] = Link { prev, next: at };
        if prev == NIL {
            ends.head = index;
        } else {
            self.node_mut(prev).links[way as usize].next = index;
        }
        if at == NIL {
            ends.tail = index;
        } else {
            self.node_mut(at).links[way as usize].prev = index;
        }
    }

    pub(crate) fn unlink(&mut self, ends: &mut Ends, way: Way, index: u32) {
        let Link { prev, next } = self.node(index).links[way as usize];
        if prev == NIL {
            ends.head = next;
        } else {
            self.node_mut(prev).links[way as usize].next = next;
        }
        if next == NIL {
            ends.tail = prev;
        } else {
            self.node_mut(next).links[way as usize].prev = prev;
        }
        self.node_mut(index).links[way as usize] = UNLINKED;
    }

    fn node(&self, index: u32) -> &Node<T> {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.nodes[index as usize]
    }
}

#[cfg(all(test, not(pgbaton_loom)))]
mod tests {
    use super::*;

    fn order(slab: &Slab<u32>, ends: Ends, way: Way) -> Vec<u32> {
        let mut found = Vec::new();
        let mut at = ends.head;
        while at != NIL {
            found.push(*slab.at(at));
            at = slab.next(way, at);
        }
        found
    }

    #[test]
    fn unlinks_head_middle_and_tail_and_recycles_nodes() {
        let mut slab = Slab::new();
        let mut ends = Ends::EMPTY;
        let ids: Vec<u32> = (0..4).map(|value| slab.insert(value)).collect();
        for &id in &ids {
            slab.link_back(&mut ends, Way::Order, id);
        }
        for (gone, rest) in [(1, vec![0, 2, 3]), (0, vec![2, 3]), (3, vec![2]), (2, vec![])] {
            slab.unlink(&mut ends, Way::Order, ids[gone]);
            assert_eq!(slab.remove(ids[gone]), gone as u32);
            assert_eq!(order(&slab, ends, Way::Order), rest);
        }
        assert!(ends.is_empty());
        let again = slab.insert(9);
        assert!(ids.contains(&again), "a freed node is used again");
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn links_before_a_node_and_keeps_two_lists_apart() {
        let mut slab = Slab::new();
        let (mut all, mut some) = (Ends::EMPTY, Ends::EMPTY);
        let (a, c) = (slab.insert(1), slab.insert(3));
        slab.link_back(&mut all, Way::Order, a);
        slab.link_back(&mut all, Way::Order, c);
        slab.link_back(&mut some, Way::Side, c);
        let b = slab.insert(2);
        slab.link_before(&mut all, Way::Order, c, b);
        let first = slab.insert(0);
        slab.link_before(&mut all, Way::Order, a, first);
        assert_eq!(order(&slab, all, Way::Order), [0, 1, 2, 3]);
        assert_eq!(order(&slab, some, Way::Side), [3]);
    }

    #[test]
    fn a_burst_is_given_back_when_the_slab_runs_empty() {
        let mut slab = Slab::new();
        let ids: Vec<u32> = (0..5_000).map(|value| slab.insert(value)).collect();
        for id in ids {
            slab.remove(id);
        }
        assert!(slab.nodes.capacity() == 0 && slab.len() == 0);
    }
}
