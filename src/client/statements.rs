//! The prepared statements of one client: its own names for statements of the shared store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::server::Statement;

/// A client's names. Made with its first named Parse.
#[derive(Debug, Default)]
pub struct ClientStatements {
    by_name: HashMap<Box<[u8]>, Arc<Statement>, foldhash::quality::RandomState>,
    /// Names whose Parse has not been answered yet, oldest first. If an error comes before the
    /// answer, the name was never taken.
    unanswered: VecDeque<(u64, Box<[u8]>)>,
}

impl ClientStatements {
    /// The statement of this name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.by_name.get(name)
    }

    /// Takes a name, until its Parse turns out to have failed.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.unanswered.push_back((statement.id(), name.into()));
        self.by_name.insert(name.into(), statement);
    }

    /// Gives a name up.
    pub fn remove(&mut self, name: &[u8]) {
        self.by_name.remove(name);
    }

    /// Gives all names up.
    pub fn clear(&mut self) {
        self.by_name.clear();
        self.unanswered.clear();
    }

    /// Names taken.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The oldest unanswered Parse of this statement has succeeded.
    pub fn answered(&mut self, statement_id: u64) {
        self.take_unanswered(statement_id);
    }

    /// The oldest unanswered Parse of this statement will not succeed.
    pub fn dropped(&mut self, statement_id: u64) {
        if let Some(name) = self.take_unanswered(statement_id) {
            self.by_name.remove(&name);
        }
    }

    fn take_unanswered(&mut self, statement_id: u64) -> Option<Box<[u8]>> {
        let at = self.unanswered.iter().position(|(id, _)| *id == statement_id)?;
        self.unanswered.remove(at).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::StatementStore;

    #[test]
    fn a_failed_parse_leaves_its_name_free() {
        let store = StatementStore::default();
        let mut names = ClientStatements::default();
        let one = store.intern(b"select 1", &[0, 0]);
        names.insert(b"a", one.clone());
        names.answered(one.id());
        names.insert(b"b", one.clone());
        names.dropped(one.id());
        assert!(names.find(b"a").is_some());
        assert!(names.find(b"b").is_none());
    }
}
