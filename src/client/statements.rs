//! The prepared statements of one client: its own names for statements of the shared store.
//!
//! A name is taken and given up when PostgreSQL would do so: when the message is carried out, not
//! when it is read. Until its answer has come, a change is *pending*. Within a group of messages a
//! pending change may be counted on, since an error in front of it has the rest of the group
//! skipped as well; behind the group's end it is open what it comes to, and whoever asks has to
//! wait ([`Found::Unclear`]).
//!
//! It knows neither servers nor sockets. Invariant: the pending changes are in the order of the
//! ledger's entries that are marked as renaming, one for each.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::protocol::ledger::Fate;
use crate::server::{NameCharge, Statement};

/// PostgreSQL's names end after this many bytes (NAMEDATALEN).
const NAME_BYTES_MAX: usize = 63;

/// A client's names. Made with its first Parse.
#[derive(Debug, Default)]
pub struct ClientStatements {
    by_name: HashMap<Name, Named, foldhash::quality::RandomState>,
    unnamed: Option<Arc<Statement>>,
    /// Oldest first.
    pending: VecDeque<Pending>,
    /// A statement that may forget others has been bound in the present transaction: any Execute
    /// may run it.
    pub executes_may_forget: bool,
    /// Portals of the present transaction that free a name when they are run, and their statement.
    releasing_portals: Vec<(Name, Arc<Statement>)>,
}

/// The part of a name that counts; also a portal's.
pub type Name = Box<[u8]>;

/// What a name stands for.
#[derive(Debug)]
struct Named {
    statement: Arc<Statement>,
    /// Counted as long as the name is taken.
    _charge: NameCharge,
}

#[derive(Debug)]
struct Pending {
    group: u64,
    change: Change,
}

/// What a message does to a client's names once it is carried out.
#[derive(Debug)]
pub enum Change {
    /// A Parse: the name, empty for the unnamed statement, means this statement.
    Take(Name, Arc<Statement>),
    /// A Close or DEALLOCATE: the name is free.
    Release(Name),
    /// Something that may take any or all names away; the answer will tell.
    Open,
}

/// What a name means at some point among the client's messages.
#[derive(Debug)]
pub enum Found<'a> {
    /// This statement.
    Statement(&'a Arc<Statement>),
    /// Nothing.
    Nothing,
    /// That is open until earlier messages have been answered.
    Unclear,
}

impl Change {
    /// What becomes of this name: nothing, or it means a statement, or it is free.
    fn of(&self, name: &[u8]) -> Option<Option<&Arc<Statement>>> {
        match self {
            Self::Take(taken, statement) => (**taken == *name).then_some(Some(statement)),
            Self::Release(released) => (**released == *name).then_some(None),
            Self::Open => None,
        }
    }
}

/// The part of a name that counts.
fn significant(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

/// A name as it is kept in a [`Change`].
pub fn kept_name(name: &[u8]) -> Name {
    significant(name).into()
}

/// A hash of a name, by which it is found again among the names of one statement.
pub fn name_hash(name: &[u8]) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(significant(name));
    hasher.finish() as u32
}

impl ClientStatements {
    /// What a name, empty for the unnamed statement, means to a message of this group.
    pub fn find(&self, name: &[u8], group: u64) -> Found<'_> {
        let name = significant(name);
        for pending in self.pending.iter().rev() {
            let Some(becomes) = pending.change.of(name) else {
                if matches!(pending.change, Change::Open) && !name.is_empty() {
                    return Found::Unclear;
                }
                continue;
            };
            return match becomes {
                _ if pending.group != group => Found::Unclear,
                Some(statement) => Found::Statement(statement),
                None => Found::Nothing,
            };
        }
        let settled = match name {
            [] => self.unnamed.as_ref(),
            name => self.by_name.get(name).map(|named| &named.statement),
        };
        settled.map_or(Found::Nothing, Found::Statement)
    }

    /// Records a change that a message of this group will make when it is carried out.
    pub fn expect(&mut self, change: Change, group: u64) {
        self.pending.push_back(Pending { group, change });
    }

    /// The message of the oldest pending change was carried out.
    pub fn carried_out(&mut self) {
        match self.pending.pop_front().map(|pending| pending.change) {
            Some(Change::Take(name, statement)) => self.take(name, statement),
            Some(Change::Release(name)) => self.release(&name),
            Some(Change::Open) | None => {}
        }
    }

    /// The message of the oldest pending change was not carried out.
    pub fn not_carried_out(&mut self, fate: Fate) {
        let change = self.pending.pop_front().map(|pending| pending.change);
        // PostgreSQL drops the old unnamed statement before it looks at the new one's text.
        if fate == Fate::Failed
            && let Some(Change::Take(name, _)) = change
            && name.is_empty()
        {
            self.unnamed = None;
        }
    }

    /// DEALLOCATE ALL or DISCARD ALL was carried out. Neither concerns the unnamed statement.
    pub fn forget_names(&mut self) {
        self.by_name.clear();
    }

    /// A Query was carried out: it drops the unnamed statement.
    pub fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// A portal is bound, to a statement that frees a name when it is run or to another one.
    pub fn bound(&mut self, portal: &[u8], statement: &Arc<Statement>) {
        self.releasing_portals.retain(|(known, _)| **known != *portal);
        if statement.releases().is_some() {
            self.releasing_portals.push((portal.into(), statement.clone()));
        }
    }

    /// The statement of this portal, if running it frees a name.
    pub fn releasing(&self, portal: &[u8]) -> Option<&Arc<Statement>> {
        let found = self.releasing_portals.iter().find(|(known, _)| **known == *portal);
        found.map(|(_, statement)| statement)
    }

    /// The transaction is over, and with it all portals.
    pub fn end_transaction(&mut self) {
        self.executes_may_forget = false;
        self.releasing_portals.clear();
    }

    /// The name with this hash for the statement of this number.
    pub fn name_of(&self, id: u64, hash: u32) -> Option<&[u8]> {
        let mut names = self.by_name.iter().filter(|(name, _)| name_hash(name) == hash);
        let exact = names.clone().find(|(_, named)| named.statement.id() == id);
        // The server may have the text as it is read under the client's present settings.
        exact.or_else(|| names.next()).map(|(name, _)| &**name)
    }

    /// Names taken.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    fn take(&mut self, name: Name, statement: Arc<Statement>) {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            let _charge = statement.charge_name(name.len());
            self.by_name.insert(name, Named { statement, _charge });
        }
    }

    fn release(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.by_name.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::StatementStore;

    fn take(name: &[u8], statement: &Arc<Statement>) -> Change {
        Change::Take(kept_name(name), statement.clone())
    }

    fn is(names: &ClientStatements, name: &[u8], group: u64, statement: &Arc<Statement>) -> bool {
        matches!(names.find(name, group), Found::Statement(s) if Arc::ptr_eq(s, statement))
    }

    #[test]
    fn a_pending_name_counts_in_its_group_and_is_unclear_behind_it() {
        let store = StatementStore::default();
        let one = store.intern(b"select 1", &[0, 0], 0);
        let mut names = ClientStatements::default();
        names.expect(take(b"a", &one), 1);
        assert!(is(&names, b"a", 1, &one));
        assert!(matches!(names.find(b"a", 2), Found::Unclear));
        assert!(matches!(names.find(b"b", 2), Found::Nothing));
        names.carried_out();
        assert!(is(&names, b"a", 2, &one));
        names.expect(Change::Release(kept_name(b"a")), 2);
        assert!(matches!(names.find(b"a", 2), Found::Nothing));
        names.not_carried_out(Fate::Skipped);
        assert!(is(&names, b"a", 3, &one), "its Close was skipped");
    }

    #[test]
    fn a_failed_parse_leaves_its_name_free_and_takes_the_unnamed_statement_away() {
        let store = StatementStore::default();
        let one = store.intern(b"select 1", &[0, 0], 0);
        let mut names = ClientStatements::default();
        for name in [&b""[..], b"a"] {
            names.expect(take(name, &one), 1);
            names.carried_out();
        }
        for (fate, is_there) in [(Fate::Skipped, true), (Fate::Failed, false)] {
            names.expect(take(b"", &store.intern(b"select 2", &[0, 0], 0)), 2);
            names.not_carried_out(fate);
            assert_eq!(is(&names, b"", 3, &one), is_there);
        }
        names.expect(take(b"b", &one), 2);
        names.not_carried_out(Fate::Failed);
        assert!(matches!(names.find(b"b", 3), Found::Nothing));
    }

    #[test]
    fn what_may_forget_names_makes_all_of_them_unclear_but_those_taken_behind_it() {
        let store = StatementStore::default();
        let one = store.intern(b"select 1", &[0, 0], 0);
        let mut names = ClientStatements::default();
        names.expect(take(b"old", &one), 1);
        names.carried_out();
        names.expect(Change::Open, 2);
        assert!(matches!(names.find(b"old", 2), Found::Unclear));
        assert!(matches!(names.find(b"", 2), Found::Nothing), "names only");
        names.expect(take(b"new", &one), 2);
        assert!(is(&names, b"new", 2, &one));
        names.forget_names();
        names.carried_out();
        names.carried_out();
        assert!(matches!(names.find(b"old", 3), Found::Nothing));
        assert!(is(&names, b"new", 3, &one));
    }

    #[test]
    fn a_portal_that_deallocates_frees_the_name_when_it_is_run() {
        let store = StatementStore::default();
        let one = store.intern(b"select 1", &[0, 0], 0);
        let mut names = ClientStatements::default();
        names.expect(take(b"a", &one), 1);
        names.carried_out();
        let deallocating = store.deallocating(b"a", b"");
        names.bound(b"p", &deallocating);
        names.bound(b"q", &one);
        assert!(names.releasing(b"q").is_none());
        let released = names.releasing(b"p").and_then(|s| s.releases()).map(kept_name);
        names.expect(Change::Release(released.unwrap()), 2);
        assert!(matches!(names.find(b"a", 2), Found::Nothing));
        names.carried_out();
        names.bound(b"p", &one);
        assert!(names.releasing(b"p").is_none());
        assert_eq!(names.len(), 0);
        names.expect(take(b"x", &one), 3);
        names.carried_out();
        assert_eq!(names.name_of(one.id(), name_hash(b"x")), Some(&b"x"[..]));
        assert_eq!(names.name_of(one.id(), name_hash(b"y")), None);
    }

    #[test]
    fn only_the_first_63_bytes_of_a_name_count() {
        let store = StatementStore::default();
        let one = store.intern(b"select 1", &[0, 0], 0);
        let mut names = ClientStatements::default();
        names.expect(take(&[b'x'; 100], &one), 1);
        names.carried_out();
        assert!(is(&names, &[b'x'; 63], 2, &one));
        assert!(matches!(names.find(&[b'x'; 62], 2), Found::Nothing));
    }
}
