//! Prepared statements: one store of texts for all clients, and what each server knows of them.
//!
//! A statement is its text and its parameter types. Clients that prepare the same one share it,
//! whatever they call it; servers know it by a name made from its number. The store keeps nothing
//! alive: a statement lives as long as a client or a server holds it, and its bytes are counted.
//!
//! What a server knows is told apart by whether it has answered: requests are sent on before
//! earlier ones are answered, and what those come to is not known then (see [`Presence`]).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use crate::protocol::sql;

/// One statement's text and parameter types, as sent in a Parse message.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    query: Box<[u8]>,
    /// The parameter types' OIDs, as in the message.
    parameter_types: Box<[u8]>,
    may_forget: bool,
    /// False if the text was too long to be kept: only the server that has it can run it.
    is_kept: bool,
    /// Bytes of all statements alive; this one's are given back when it is dropped.
    bytes_alive: Arc<AtomicUsize>,
}

impl Statement {
    /// The number under which ledgers and servers know it.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The query's text.
    #[must_use]
    pub fn query(&self) -> &[u8] {
        &self.query
    }

    /// The parameter types' OIDs, four bytes each.
    #[must_use]
    pub fn parameter_types(&self) -> &[u8] {
        &self.parameter_types
    }

    /// Whether running it may take prepared statements away from the session.
    #[must_use]
    pub const fn may_forget(&self) -> bool {
        self.may_forget
    }

    /// Whether its text is here, so that another server can be told it.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.is_kept
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.query.len() + self.parameter_types.len()
    }

    fn is(&self, query: &[u8], parameter_types: &[u8]) -> bool {
        *self.query == *query && *self.parameter_types == *parameter_types
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.bytes_alive.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// What the names of all statements on servers begin with.
pub const SERVER_NAME_PREFIX: &str = "pgbaton_";

/// The name on servers of the statement with this number.
#[must_use]
pub fn server_name(id: u64) -> String {
    format!("{SERVER_NAME_PREFIX}{id}")
}

/// Entries below which the table is not swept for statements that nobody holds any more.
const SWEEP_ENTRIES_MIN: usize = 1024;

/// All statements in use, by text and parameter types.
#[derive(Debug)]
pub struct StatementStore {
    /// Held for one look-up; nothing else is locked under it.
    table: Mutex<Table>,
    next_id: AtomicU64,
    hasher: foldhash::quality::RandomState,
    /// Bytes of all statements alive, named and unnamed.
    bytes_alive: Arc<AtomicUsize>,
    /// The statement of no text, which every server can be given in any state of a transaction.
    empty: Arc<Statement>,
}

impl Default for StatementStore {
    fn default() -> Self {
        let bytes_alive = Arc::<AtomicUsize>::default();
        // From 1: a slot of 0 means no statement.
        let empty = new_statement(1, b"", b"", &bytes_alive);
        Self {
            table: Mutex::default(),
            next_id: AtomicU64::new(2),
            hasher: foldhash::quality::RandomState::default(),
            bytes_alive,
            empty: Arc::new(empty),
        }
    }
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
        let statement = Arc::new(self.make(query, parameter_types));
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

    /// A client's unnamed statement. Short texts that come again and again are shared by `recent`.
    pub fn unnamed(
        &self,
        recent: &RecentStatements,
        query: &[u8],
        parameter_types: &[u8],
    ) -> Arc<Statement> {
        if query.len() + parameter_types.len() > RECENT_BYTES_MAX {
            return Arc::new(self.make(query, parameter_types));
        }
        let hash = self.hash(query, parameter_types);
        let mut known = recent.0.lock();
        if let Some(statement) = known.get(&hash).filter(|s| s.is(query, parameter_types)) {
            return statement.clone();
        }
        let statement = Arc::new(self.make(query, parameter_types));
        known.put(hash, statement.clone());
        statement
    }

    /// A client's unnamed statement whose text is too long to be kept.
    pub fn unkept(&self) -> Arc<Statement> {
        let mut statement = self.make(b"", b"");
        (statement.may_forget, statement.is_kept) = (true, false);
        Arc::new(statement)
    }

    /// The statement of no text.
    pub fn empty(&self) -> &Arc<Statement> {
        &self.empty
    }

    /// A name that no server's statement has had yet.
    pub fn fresh_name(&self) -> String {
        server_name(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Bytes of all statements that clients or servers hold.
    #[must_use]
    pub fn bytes_alive(&self) -> usize {
        self.bytes_alive.load(Ordering::Relaxed)
    }

    fn make(&self, query: &[u8], parameter_types: &[u8]) -> Statement {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        new_statement(id, query, parameter_types, &self.bytes_alive)
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

fn new_statement(
    id: u64,
    query: &[u8],
    parameter_types: &[u8],
    bytes_alive: &Arc<AtomicUsize>,
) -> Statement {
    let statement = Statement {
        id,
        query: query.into(),
        parameter_types: parameter_types.into(),
        may_forget: sql::may_forget_statements(query),
        is_kept: true,
        bytes_alive: bytes_alive.clone(),
    };
    bytes_alive.fetch_add(statement.bytes(), Ordering::Relaxed);
    statement
}

fn find_in(
    bucket: &[Weak<Statement>],
    query: &[u8],
    parameter_types: &[u8],
) -> Option<Arc<Statement>> {
    bucket.iter().filter_map(Weak::upgrade).find(|s| s.is(query, parameter_types))
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

/// Texts longer than this are not shared between unnamed statements.
const RECENT_BYTES_MAX: usize = 2048;
/// Unnamed statements that one worker remembers, so that a text sent again is not copied again.
const RECENT_MAX: NonZeroUsize = NonZeroUsize::new(128).expect("BUG: not zero");

/// The unnamed statements that the clients of one worker have sent last. The lock is the worker's
/// own but for the console, and nothing is locked under it.
#[derive(Debug)]
pub struct RecentStatements(Mutex<LruCache<u64, Arc<Statement>>>);

impl Default for RecentStatements {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(RECENT_MAX)))
    }
}

/// Whether a server has a statement at the point where the next message will reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does not.
    Absent,
    /// It does, unless an error in the present group has everything else skipped too.
    There,
    /// That depends on an earlier group which has not been answered yet.
    Unclear,
}

#[derive(Debug)]
struct Known {
    /// Kept alive, so that its number stays that text's.
    _statement: Arc<Statement>,
    /// The group of its Parse, until that is answered.
    sent_in: Option<u64>,
}

/// The statements that one server knows, least recently used first, and its unnamed one.
#[derive(Debug)]
pub struct ServerStatements {
    known: LruCache<u64, Known>,
    /// Forgotten here but not there: their Close was skipped because an error came first.
    unclosed: Vec<u64>,
    /// The number of its unnamed statement, by the answers that have come; 0 if there is none.
    unnamed: u64,
    /// Messages on their way that change the unnamed statement.
    unnamed_owed: usize,
    /// The last of them: its group and number.
    unnamed_sent: (u64, u64),
}

impl Default for ServerStatements {
    fn default() -> Self {
        Self {
            known: LruCache::unbounded(),
            unclosed: Vec::new(),
            unnamed: 0,
            unnamed_owed: 0,
            unnamed_sent: (0, 0),
        }
    }
}

impl ServerStatements {
    /// Whether the server has the statement, for a message of this group; makes it the most
    /// recently used one.
    pub fn presence(&mut self, id: u64, group: u64) -> Presence {
        match self.known.get(&id) {
            None => Presence::Absent,
            Some(known) if known.sent_in.is_some_and(|sent_in| sent_in != group) => {
                Presence::Unclear
            }
            Some(_) => Presence::There,
        }
    }

    /// Records a statement about to be parsed there. Gives the numbers of those to be closed
    /// first, so that no more than `limit` remain. Those whose Parse is unanswered stay: whether
    /// there is something to be closed is not known yet.
    pub fn insert(
        &mut self,
        statement: Arc<Statement>,
        group: u64,
        limit: NonZeroUsize,
    ) -> Vec<u64> {
        self.known.put(statement.id, Known { _statement: statement, sent_in: Some(group) });
        let mut evicted = std::mem::take(&mut self.unclosed);
        while self.known.len() > limit.get()
            && matches!(self.known.peek_lru(), Some((_, known)) if known.sent_in.is_none())
        {
            evicted.extend(self.known.pop_lru().map(|(id, _)| id));
        }
        evicted
    }

    /// Gives up all that are there, so that texts which no client uses any more can go. They are
    /// closed at the next occasion.
    pub fn shed(&mut self) {
        let forgotten = self.forget_answered();
        self.unclosed.extend(forgotten);
    }

    /// Records that a statement the server has is about to be closed and parsed again.
    pub fn renew(&mut self, id: u64, group: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.sent_in = Some(group);
        }
    }

    /// Its Parse was answered.
    pub fn parsed(&mut self, id: u64) {
        if let Some(known) = self.known.peek_mut(&id) {
            known.sent_in = None;
        }
    }

    /// Its Parse failed or was skipped.
    pub fn not_parsed(&mut self, id: u64) {
        if self.known.peek(&id).is_some_and(|known| known.sent_in.is_some()) {
            self.known.pop(&id);
        }
    }

    /// The server has lost it in a way that was not seen here.
    pub fn lost(&mut self, id: u64) {
        self.known.pop(&id);
    }

    /// Records that the Close of an evicted statement was skipped; it will be sent again.
    pub fn not_closed(&mut self, id: u64) {
        self.unclosed.push(id);
    }

    /// Forgets all that were there: DEALLOCATE ALL or DISCARD ALL was carried out. What is on its
    /// way comes behind it.
    pub fn clear(&mut self) {
        self.unclosed.clear();
        self.forget_answered();
    }

    fn forget_answered(&mut self) -> Vec<u64> {
        let there: Vec<u64> =
            self.known.iter().filter(|(_, k)| k.sent_in.is_none()).map(|(id, _)| *id).collect();
        for id in &there {
            self.known.pop(id);
        }
        there
    }

    /// Whether a message of this group finds this statement as the unnamed one.
    #[must_use]
    pub const fn is_unnamed(&self, id: u64, group: u64) -> bool {
        if self.unnamed_owed == 0 {
            return self.unnamed == id;
        }
        self.unnamed_sent.0 == group && self.unnamed_sent.1 == id
    }

    /// Records a message about to be sent that makes this statement the unnamed one.
    pub const fn unnamed_asked(&mut self, id: u64, group: u64) {
        self.unnamed_owed += 1;
        self.unnamed_sent = (group, id);
    }

    /// The oldest such message was answered.
    pub const fn unnamed_set(&mut self, id: u64) {
        self.unnamed_owed = self.unnamed_owed.saturating_sub(1);
        self.unnamed = id;
    }

    /// The oldest such message was skipped.
    pub const fn unnamed_skipped(&mut self) {
        self.unnamed_owed = self.unnamed_owed.saturating_sub(1);
    }

    /// The server has dropped its unnamed statement, as it does for every Query.
    pub const fn unnamed_lost(&mut self) {
        self.unnamed = 0;
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
        let at_first = store.bytes_alive();
        let kept = store.intern(b"kept", &[0, 0]);
        for i in 0..10_000_u32 {
            store.intern(format!("select {i}").as_bytes(), &[0, 0]);
        }
        assert!(store.len() <= 2 * SWEEP_ENTRIES_MIN, "{}", store.len());
        assert!(Arc::ptr_eq(&kept, &store.intern(b"kept", &[0, 0])));
        assert_eq!(store.bytes_alive(), at_first + kept.bytes());
    }

    #[test]
    fn unnamed_texts_that_come_again_are_shared_and_long_ones_are_not_remembered() {
        let (store, recent) = (StatementStore::default(), RecentStatements::default());
        let one = store.unnamed(&recent, b"select 1", &[0, 0]);
        assert!(Arc::ptr_eq(&one, &store.unnamed(&recent, b"select 1", &[0, 0])));
        assert_ne!(one.id(), store.unnamed(&recent, b"select 1", &[0, 1]).id());
        let long = vec![b'x'; RECENT_BYTES_MAX + 1];
        let bytes = store.bytes_alive();
        assert_eq!(store.unnamed(&recent, &long, &[]).query(), long);
        assert_eq!(store.bytes_alive(), bytes);
        assert!(one.is_kept() && !store.unkept().is_kept());
    }

    #[test]
    fn a_server_forgets_the_least_recently_used() {
        let store = StatementStore::default();
        let limit = NonZeroUsize::new(2).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|q| store.intern(q, &[0, 0]));
        let mut known = ServerStatements::default();
        for statement in [&a, &b] {
            assert!(known.insert(statement.clone(), 0, limit).is_empty());
            known.parsed(statement.id());
        }
        assert_eq!(known.presence(a.id(), 1), Presence::There);
        assert_eq!(known.insert(c, 1, limit), vec![b.id()]);
        assert_eq!(known.presence(b.id(), 1), Presence::Absent);
    }

    #[test]
    fn an_unanswered_parse_counts_in_its_own_group_only() {
        let store = StatementStore::default();
        let one = NonZeroUsize::MIN;
        let [a, b] = [b"a", b"b"].map(|q| store.intern(q, &[0, 0]));
        let mut known = ServerStatements::default();
        known.insert(a.clone(), 7, one);
        assert_eq!(known.presence(a.id(), 7), Presence::There);
        assert_eq!(known.presence(a.id(), 8), Presence::Unclear);
        // Neither closed, since it may not be there, nor forgotten by what came before it.
        assert!(known.insert(b.clone(), 8, one).is_empty());
        known.clear();
        assert_eq!(known.len(), 2);
        known.not_parsed(a.id());
        known.parsed(b.id());
        assert_eq!(known.presence(a.id(), 9), Presence::Absent);
        known.shed();
        assert_eq!(known.presence(b.id(), 9), Presence::Absent);
        assert_eq!(known.insert(b.clone(), 9, one), vec![b.id()], "closed before it is parsed");
        known.parsed(b.id());
        known.renew(b.id(), 9);
        assert_eq!(known.presence(b.id(), 10), Presence::Unclear);
        known.parsed(b.id());
        known.clear();
        assert!(known.is_empty());
    }

    #[test]
    fn the_unnamed_statement_is_what_was_sent_last_or_answered() {
        let mut known = ServerStatements::default();
        known.unnamed_asked(5, 1);
        assert!(known.is_unnamed(5, 1) && !known.is_unnamed(5, 2));
        known.unnamed_asked(6, 2);
        assert!(known.is_unnamed(6, 2) && !known.is_unnamed(5, 1));
        known.unnamed_set(5);
        assert!(!known.is_unnamed(5, 3), "6 is still on its way");
        known.unnamed_skipped();
        assert!(known.is_unnamed(5, 3));
        known.unnamed_lost();
        assert!(!known.is_unnamed(5, 3) && known.is_unnamed(0, 3));
    }
}
