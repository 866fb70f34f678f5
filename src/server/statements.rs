//! Prepared statements: one store of texts for all clients, and what each server knows of them.
//!
//! A statement is its text, its parameter types and the settings under which they are read.
//! Clients that prepare the same one share it,
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
    /// The settings under which the text is read: see [`Settings::reading`].
    ///
    /// [`Settings::reading`]: super::settings::Settings::reading
    reading: u64,
    may_forget: bool,
    /// The client's name that running it frees: it is a DEALLOCATE of a statement which servers do
    /// not know by that name. Its text takes away [`Statement::stand_in`] instead.
    releases: Option<Box<[u8]>>,
    /// False if the text was too long to be kept: only the server that has it can run it.
    is_kept: bool,
    /// Bytes of all statements alive; this one's are given back when it is dropped.
    alive: Arc<Alive>,
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

    /// The client's name that running it frees, if it is a DEALLOCATE of one.
    #[must_use]
    pub fn releases(&self) -> Option<&[u8]> {
        self.releases.as_deref()
    }

    /// The server's statement that a DEALLOCATE of a client's name takes away in the place of one
    /// that the server does not have.
    #[must_use]
    pub fn stand_in(&self) -> String {
        format!("{SERVER_NAME_PREFIX}{}_gone", self.id)
    }

    /// Whether a server that parses it now, for a client with these settings, takes it as it is
    /// meant.
    #[must_use]
    pub fn is_read_under(&self, reading: u64) -> bool {
        self.reading == reading || self.query.is_empty() || self.releases.is_some()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.query.len() + self.parameter_types.len()
    }

    fn is(&self, query: &[u8], parameter_types: &[u8], reading: u64) -> bool {
        self.reading == reading
            && *self.query == *query
            && *self.parameter_types == *parameter_types
    }
}

/// Bytes in use.
#[derive(Debug, Default)]
struct Alive {
    texts: AtomicUsize,
    names: AtomicUsize,
}

/// What a client's name for a statement takes, counted as long as this lives.
#[derive(Debug)]
pub struct NameCharge {
    alive: Arc<Alive>,
    bytes: usize,
}

/// What a name takes beside its bytes: its place in a table.
const NAME_OVERHEAD_BYTES: usize = 64;

impl Statement {
    /// Counts a name of this length.
    #[must_use]
    pub fn charge_name(&self, len: usize) -> NameCharge {
        let bytes = len + NAME_OVERHEAD_BYTES;
        self.alive.names.fetch_add(bytes, Ordering::Relaxed);
        NameCharge { alive: self.alive.clone(), bytes }
    }
}

impl Drop for NameCharge {
    fn drop(&mut self) {
        self.alive.names.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.alive.texts.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// What the names of all statements on servers begin with.
pub const SERVER_NAME_PREFIX: &str = "pgbaton_";

/// A statement's name on servers.
#[derive(Debug, Clone, Copy)]
pub struct ServerName {
    /// The name, at the end.
    bytes: [u8; SERVER_NAME_PREFIX.len() + U64_DIGITS_MAX],
    start: usize,
}

/// Digits of the longest number.
const U64_DIGITS_MAX: usize = 20;

impl ServerName {
    /// The name, without its terminator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The name on servers of the statement with this number. Each execution has it written: it is no
/// `String`.
#[must_use]
pub const fn server_name(id: u64) -> ServerName {
    let mut name = ServerName {
        bytes: [0; SERVER_NAME_PREFIX.len() + U64_DIGITS_MAX],
        start: SERVER_NAME_PREFIX.len() + U64_DIGITS_MAX,
    };
    let mut rest = id;
    loop {
        name.start -= 1;
        name.bytes[name.start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let prefix = SERVER_NAME_PREFIX.as_bytes();
    name.start -= prefix.len();
    let (_, place) = name.bytes.split_at_mut(name.start);
    let (place, _) = place.split_at_mut(prefix.len());
    place.copy_from_slice(prefix);
    name
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
    alive: Arc<Alive>,
    /// The statement of no text, which every server can be given in any state of a transaction.
    empty: Arc<Statement>,
}

impl Default for StatementStore {
    fn default() -> Self {
        let alive = Arc::<Alive>::default();
        // From 1: a slot of 0 means no statement.
        let empty = new_statement(1, b"", b"", 0, &alive);
        Self {
            table: Mutex::default(),
            next_id: AtomicU64::new(2),
            hasher: foldhash::quality::RandomState::default(),
            alive,
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
    /// The statement of this text and these parameter types, shared with all who have it already under
    /// the same settings.
    pub fn intern(&self, query: &[u8], parameter_types: &[u8], reading: u64) -> Arc<Statement> {
        let hash = self.hash(query, parameter_types, reading);
        let mut table = self.table.lock();
        let bucket = table.by_hash.entry(hash).or_default();
        if let Some(known) = find_in(bucket, query, parameter_types, reading) {
            return known;
        }
        let statement = Arc::new(self.make(query, parameter_types, reading));
        bucket.retain(|s| s.strong_count() > 0);
        bucket.push(Arc::downgrade(&statement));
        table.sweep_if_due();
        statement
    }

    /// The statement of this text and these parameter types, if anybody has it.
    pub fn find(
        &self,
        query: &[u8],
        parameter_types: &[u8],
        reading: u64,
    ) -> Option<Arc<Statement>> {
        let hash = self.hash(query, parameter_types, reading);
        let table = self.table.lock();
        find_in(table.by_hash.get(&hash)?, query, parameter_types, reading)
    }

    /// A client's unnamed statement. Short texts that come again and again are shared by `recent`.
    pub fn unnamed(
        &self,
        recent: &RecentStatements,
        query: &[u8],
        parameter_types: &[u8],
        reading: u64,
    ) -> Arc<Statement> {
        if query.len() + parameter_types.len() > RECENT_BYTES_MAX {
            return Arc::new(self.make(query, parameter_types, reading));
        }
        let hash = self.hash(query, parameter_types, reading);
        let mut known = recent.0.lock();
        if let Some(statement) = known.get(&hash).filter(|s| s.is(query, parameter_types, reading))
        {
            return statement.clone();
        }
        let statement = Arc::new(self.make(query, parameter_types, reading));
        known.put(hash, statement.clone());
        statement
    }

    /// A client's unnamed statement whose text is too long to be kept.
    pub fn unkept(&self) -> Arc<Statement> {
        let mut statement = self.make(b"", b"", 0);
        (statement.may_forget, statement.is_kept) = (true, false);
        Arc::new(statement)
    }

    /// The statement of no text.
    pub fn empty(&self) -> &Arc<Statement> {
        &self.empty
    }

    /// A client's DEALLOCATE of the name `released`, which is one of its own.
    pub fn deallocating(&self, released: &[u8], parameter_types: &[u8]) -> Arc<Statement> {
        let mut statement = self.make(b"", parameter_types, 0);
        let text = format!("DEALLOCATE {}", statement.stand_in());
        self.alive.texts.fetch_add(text.len(), Ordering::Relaxed);
        statement.query = text.into_bytes().into();
        statement.may_forget = true;
        statement.releases = Some(released.into());
        Arc::new(statement)
    }

    /// Bytes of all clients' names for statements.
    #[must_use]
    pub fn name_bytes_alive(&self) -> usize {
        self.alive.names.load(Ordering::Relaxed)
    }

    /// Bytes of all statements that clients or servers hold.
    #[must_use]
    pub fn bytes_alive(&self) -> usize {
        self.alive.texts.load(Ordering::Relaxed)
    }

    fn make(&self, query: &[u8], parameter_types: &[u8], reading: u64) -> Statement {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        new_statement(id, query, parameter_types, reading, &self.alive)
    }

    fn hash(&self, query: &[u8], parameter_types: &[u8], reading: u64) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_usize(query.len());
        hasher.write(query);
        hasher.write(parameter_types);
        hasher.write_u64(reading);
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
    reading: u64,
    alive: &Arc<Alive>,
) -> Statement {
    let statement = Statement {
        id,
        query: query.into(),
        parameter_types: parameter_types.into(),
        reading,
        may_forget: sql::may_forget_statements(query),
        releases: None,
        is_kept: true,
        alive: alive.clone(),
    };
    alive.texts.fetch_add(statement.bytes(), Ordering::Relaxed);
    statement
}

fn find_in(
    bucket: &[Weak<Statement>],
    query: &[u8],
    parameter_types: &[u8],
    reading: u64,
) -> Option<Arc<Statement>> {
    bucket.iter().filter_map(Weak::upgrade).find(|s| s.is(query, parameter_types, reading))
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

/// The unnamed statements that the clients of one worker have sent last. The lock is that worker's
/// alone and never waited for; nothing is locked under it.
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

/// What is known of one statement on one server.
#[derive(Debug)]
struct Known {
    /// Kept alive, so that its number stay that text's; `None` if only servers still had it when
    /// memory was short.
    statement: Option<Arc<Statement>>,
    /// Whether the server has it, by the answers that have come.
    is_there: bool,
    /// Parse and Close messages about it on their way.
    owed: usize,
    /// The last of them: its group, and whether it leaves the statement there.
    sent: (u64, bool),
}

impl Known {
    /// Whether the server will have it if all goes well.
    const fn is_expected(&self) -> bool {
        if self.owed == 0 { self.is_there } else { self.sent.1 }
    }
}

/// The statements that one server knows, least recently used first, and its unnamed one.
#[derive(Debug)]
pub struct ServerStatements {
    known: LruCache<u64, Known>,
    /// Those of them that are expected.
    expected: usize,
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
            expected: 0,
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
            Some(known) if known.owed > 0 && known.sent.0 != group => Presence::Unclear,
            Some(known) if known.is_expected() => Presence::There,
            Some(_) => Presence::Absent,
        }
    }

    /// Records that a Parse of the statement is sent.
    pub fn parse_sent(&mut self, statement: &Arc<Statement>, group: u64) {
        let new = || Known { statement: None, is_there: false, owed: 0, sent: (0, false) };
        let known = self.known.get_or_insert_mut(statement.id, new);
        let before = known.is_expected();
        known.statement = Some(statement.clone());
        known.owed += 1;
        known.sent = (group, true);
        self.expected += usize::from(!before);
    }

    /// Records that a Close of the statement is sent.
    pub fn close_sent(&mut self, id: u64, group: u64) {
        self.change(id, |known| {
            known.owed += 1;
            known.sent = (group, false);
        });
    }

    /// The oldest message about the statement was answered: a Parse, or a Close.
    pub fn answered(&mut self, id: u64, is_parse: bool) {
        self.change(id, |known| {
            known.owed = known.owed.saturating_sub(1);
            known.is_there = is_parse;
        });
    }

    /// The oldest message about the statement failed or was skipped.
    pub fn not_done(&mut self, id: u64) {
        self.change(id, |known| known.owed = known.owed.saturating_sub(1));
    }

    /// The server has lost it in a way that was not seen here.
    pub fn lost(&mut self, id: u64) {
        self.change(id, |known| known.is_there = false);
    }

    /// Forgets all that were there: DEALLOCATE ALL or DISCARD ALL was carried out. What is on its
    /// way comes behind it.
    pub fn clear(&mut self) {
        let all: Vec<u64> = self.known.iter().map(|(id, _)| *id).collect();
        for id in all {
            self.lost(id);
        }
    }

    /// Lets go of the texts of all that are there, so that those which no client uses can go. The
    /// server still has them until they are closed.
    pub fn shed(&mut self) {
        for (_, known) in &mut self.known {
            if known.owed == 0 {
                known.statement = None;
            }
        }
    }

    /// The numbers of those to be closed so that with one more no more than `limit` remain: first
    /// those let go of, then the least recently used. What is on its way stays.
    pub fn surplus(&self, limit: NonZeroUsize) -> Vec<u64> {
        let is_idle = |known: &Known| known.owed == 0 && known.is_there;
        let mut surplus: Vec<u64> = Vec::new();
        let all = || self.known.iter().rev().filter(|(_, known)| is_idle(known));
        surplus.extend(all().filter(|(_, known)| known.statement.is_none()).map(|(id, _)| *id));
        let others = all().filter(|(_, known)| known.statement.is_some()).map(|(id, _)| *id);
        let room = limit.get() - 1;
        surplus.extend(others.take(self.expected.saturating_sub(surplus.len() + room)));
        surplus
    }

    /// Changes what is known of a statement, and forgets it if that comes to nothing.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut Known)) {
        let Some(known) = self.known.peek_mut(&id) else { return };
        let before = known.is_expected();
        change(known);
        let (after, is_over) = (known.is_expected(), known.owed == 0 && !known.is_there);
        self.expected -= usize::from(before && !after);
        self.expected += usize::from(after && !before);
        if is_over {
            self.known.pop(&id);
        }
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

    /// Statements that the server has, or will have if all goes well.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.expected
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.expected == 0
    }
}

#[cfg(test)]
mod tests;
