//! Prepared statements: one store of texts for all clients, and what each server knows of them.
//!
//! A statement is its text and its parameter types. Clients that prepare the same one share it,
//! whatever they call it; servers know it by a name made from its number. The store keeps nothing
//! alive: a statement lives as long as a client or a server holds it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

/// One statement's text and parameter types, as sent in a Parse message.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    query: Box<[u8]>,
    /// The parameter type count and OIDs, as in the message.
    parameter_types: Box<[u8]>,
}

impl Statement {
    /// The number under which ledgers and servers know it.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Its name on every server.
    #[must_use]
    pub fn server_name(&self) -> String {
        server_name(self.id)
    }

    /// The query's text.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        &self.query
    }

    /// The raw tail of the Parse message: count and OIDs.
    #[must_use]
    pub fn parameter_types(&self) -> &[u8] {
        &self.parameter_types
    }
}

/// The name on servers of the statement with this number.
#[must_use]
pub fn server_name(id: u64) -> String {
    format!("pgbaton_{id}")
}

/// Entries below which the table is not swept for statements that nobody holds any more.
const SWEEP_ENTRIES_MIN: usize = 1024;

/// All statements in use, by text and parameter types.
#[derive(Debug, Default)]
pub struct StatementStore {
    /// Held for one look-up; nothing else is locked under it.
    table: Mutex<Table>,
    next_id: AtomicU64,
    hasher: foldhash::quality::RandomState,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    sweep_at: usize,
}

impl StatementStore {
    /// The statement of this text and these parameter types, shared with all who have it already.
    pub fn intern(&self, query: &[u8], parameter_types: &[u8]) -> Arc<Statement> {
        let hash = self.hash(query, parameter_types);
        let mut table = self.table.lock();
        let bucket = table.by_hash.entry(hash).or_default();
        if let Some(known) = find_in(bucket, query, parameter_types) {
            return known;
        }
        let statement = Arc::new(Statement {
            // From 1: a ledger's key of 0 means no statement.
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            query: query.into(),
            parameter_types: parameter_types.into(),
        });
        bucket.retain(|s| s.strong_count() > 0);
        bucket.push(Arc::downgrade(&statement));
        table.sweep_if_due();
        statement
    }

    /// The statement of this text and these parameter types, if anybody has it.
    pub fn find(&self, query: &[u8], parameter_types: &[u8]) -> Option<Arc<Statement>> {
        let hash = self.hash(query, parameter_types);
        let table = self.table.lock();
        find_in(table.by_hash.get(&hash)?, query, parameter_types)
    }

    fn hash(&self, query: &[u8], parameter_types: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_usize(query.len());
        hasher.write(query);
        hasher.write(parameter_types);
        hasher.finish()
    }

    /// Statements in the table, those not yet swept included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().by_hash.len()
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn find_in(
    bucket: &[Weak<Statement>],
    query: &[u8],
    parameter_types: &[u8],
) -> Option<Arc<Statement>> {
    bucket
        .iter()
        .filter_map(Weak::upgrade)
        .find(|s| *s.query == *query && *s.parameter_types == *parameter_types)
}

impl Table {
    /// Sweeps when the table has doubled since the last time, so the cost per entry is constant.
    fn sweep_if_due(&mut self) {
        if self.by_hash.len() < self.sweep_at.max(SWEEP_ENTRIES_MIN) {
            return;
        }
        self.by_hash.retain(|_, bucket| {
            bucket.retain(|s| s.strong_count() > 0);
            !bucket.is_empty()
        });
        self.sweep_at = self.by_hash.len() * 2;
    }
}

/// The statements that one server knows, least recently used first.
#[derive(Debug)]
pub struct ServerStatements {
    known: LruCache<u64, Arc<Statement>>,
    /// Forgotten here but not there: their Close was skipped because an error came first.
    unclosed: Vec<u64>,
}

impl Default for ServerStatements {
    fn default() -> Self {
        Self { known: LruCache::unbounded(), unclosed: Vec::new() }
    }
}

impl ServerStatements {
    /// Whether the server knows the statement; makes it the most recently used one.
    pub fn touch(&mut self, id: u64) -> bool {
        self.known.get(&id).is_some()
    }

    /// Records a statement about to be parsed there. Gives the numbers of those to be closed, so
    /// that no more than `limit` remain.
    pub fn insert(&mut self, statement: Arc<Statement>, limit: NonZeroUsize) -> Vec<u64> {
        self.known.put(statement.id, statement);
        let mut evicted = std::mem::take(&mut self.unclosed);
        while self.known.len() > limit.get() {
            if let Some((id, _)) = self.known.pop_lru() {
                evicted.push(id);
            }
        }
        evicted
    }

    /// Forgets one: its Parse failed.
    pub fn remove(&mut self, id: u64) {
        self.known.pop(&id);
    }

    /// Records that the Close of an evicted statement was skipped; it will be sent again.
    pub fn not_closed(&mut self, id: u64) {
        self.unclosed.push(id);
    }

    /// Forgets all: DEALLOCATE ALL or DISCARD ALL was carried out.
    pub fn clear(&mut self) {
        self.known.clear();
        self.unclosed.clear();
    }

    /// Statements known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statements_are_one() {
        let store = StatementStore::default();
        let a = store.intern(b"select 1", &[0, 0]);
        let b = store.intern(b"select 1", &[0, 0]);
        let other_types = store.intern(b"select 1", &[0, 1, 0, 0, 0, 23]);
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.id(), other_types.id());
    }

    #[test]
    fn the_store_keeps_nothing_alive_and_stays_small() {
        let store = StatementStore::default();
        let kept = store.intern(b"kept", &[0, 0]);
        for i in 0..10_000_u32 {
            store.intern(format!("select {i}").as_bytes(), &[0, 0]);
        }
        assert!(store.len() <= 2 * SWEEP_ENTRIES_MIN, "{}", store.len());
        assert!(Arc::ptr_eq(&kept, &store.intern(b"kept", &[0, 0])));
    }

    #[test]
    fn a_server_forgets_the_least_recently_used() {
        let store = StatementStore::default();
        let limit = NonZeroUsize::new(2).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|q| store.intern(q, &[0, 0]));
        let mut known = ServerStatements::default();
        assert!(known.insert(a.clone(), limit).is_empty());
        assert!(known.insert(b.clone(), limit).is_empty());
        assert!(known.touch(a.id()));
        assert_eq!(known.insert(c, limit), vec![b.id()]);
        assert!(known.touch(a.id()) && !known.touch(b.id()));
    }
}
