//! How many clients each database and each user has: `max_db_client_connections` and
//! `max_user_client_connections`.
//!
//! All are counted, whether they are limited or not, so that a limit set by a reload counts those who
//! are there. Must not know configuration: limits are arguments. Invariant: a count is raised under
//! the table's lock and lowered by the drop of its [`Seat`], so that two logins cannot take one place.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

/// The clients of every database and user.
#[derive(Debug, Default)]
pub struct ClientCounts {
    /// Held for a moment; nothing is locked under it.
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    databases: HashMap<Box<str>, Arc<AtomicUsize>>,
    users: HashMap<Box<str>, Arc<AtomicUsize>>,
}

/// A client's place among those of its database and its user; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    database: Arc<AtomicUsize>,
    user: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.database.fetch_sub(1, Relaxed);
        self.user.fetch_sub(1, Relaxed);
    }
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The database has as many clients as it may.
    #[error("client connections exceeded (max_db_client_connections)")]
    Database,
    /// The user is there as often as it may.
    #[error("client connections exceeded (max_user_client_connections)")]
    User,
}

/// A name, and how many clients it may have; `None` is no limit.
#[derive(Debug, Clone, Copy)]
pub struct Capped<'a> {
    /// The database's or the user's.
    pub name: &'a str,
    /// The limit.
    pub max: Option<usize>,
}

impl Capped<'_> {
    /// The count of this name, if there is room in it.
    fn count(self, table: &mut HashMap<Box<str>, Arc<AtomicUsize>>) -> Option<Arc<AtomicUsize>> {
        let count = match table.get(self.name) {
            Some(count) => count.clone(),
            None => table.entry(self.name.into()).or_default().clone(),
        };
        self.max.is_none_or(|max| count.load(Relaxed) < max).then_some(count)
    }
}

impl ClientCounts {
    /// Takes a place, if there is one.
    ///
    /// # Errors
    /// [`Full`], and nothing is taken.
    pub fn sit(&self, database: Capped<'_>, user: Capped<'_>) -> Result<Seat, Full> {
        let mut tables = self.tables.lock();
        let database = database.count(&mut tables.databases).ok_or(Full::Database)?;
        let user = user.count(&mut tables.users).ok_or(Full::User)?;
        database.fetch_add(1, Relaxed);
        user.fetch_add(1, Relaxed);
        Ok(Seat { database, user })
    }

    /// Clients of a database.
    #[must_use]
    pub fn of_database(&self, name: &str) -> usize {
        self.tables.lock().databases.get(name).map_or(0, |count| count.load(Relaxed))
    }

    /// Clients of a user.
    #[must_use]
    pub fn of_user(&self, name: &str) -> usize {
        self.tables.lock().users.get(name).map_or(0, |count| count.load(Relaxed))
    }

    /// Forgets names that nobody uses.
    pub fn forget_unused(&self) {
        let mut tables = self.tables.lock();
        let Tables { databases, users } = &mut *tables;
        for table in [databases, users] {
            // Under the lock nobody is about to count: who has none now has no seat either.
            table.retain(|_, count| Arc::strong_count(count) > 1);
            if table.capacity() > 64 && table.len() < table.capacity() / 4 {
                table.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capped(name: &str, max: Option<usize>) -> Capped<'_> {
        Capped { name, max }
    }

    #[test]
    fn each_database_and_each_user_has_its_own_places() {
        let counts = ClientCounts::default();
        let sit = |database, user| counts.sit(capped(database, Some(2)), capped(user, Some(3)));
        let seats = [sit("a", "x").unwrap(), sit("a", "x").unwrap()];
        assert_eq!(sit("a", "y").unwrap_err(), Full::Database);
        let third = sit("b", "x").unwrap();
        assert_eq!(sit("b", "x").unwrap_err(), Full::User);
        assert_eq!((counts.of_database("a"), counts.of_user("x")), (2, 3));
        assert_eq!(counts.of_database("b"), 1, "nothing is taken by the refused");
        drop(third);
        assert!(sit("b", "x").is_ok());
        drop(seats);
        assert_eq!((counts.of_database("a"), counts.of_user("x")), (0, 0));
    }

    #[test]
    fn a_limit_that_comes_later_counts_those_who_are_there() {
        let counts = ClientCounts::default();
        let unlimited = || counts.sit(capped("a", None), capped("x", None));
        let _seats = [unlimited().unwrap(), unlimited().unwrap()];
        let full = counts.sit(capped("a", Some(2)), capped("y", None)).unwrap_err();
        assert_eq!(full, Full::Database);
        assert!(counts.sit(capped("a", Some(3)), capped("y", None)).is_ok());
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let counts = ClientCounts::default();
        let name = |n: usize| format!("user {n}");
        let seats: Vec<_> =
            (0..1_000).map(|n| counts.sit(capped("a", None), capped(&name(n), None))).collect();
        counts.forget_unused();
        assert_eq!(counts.tables.lock().users.len(), 1_000);
        drop(seats);
        let _kept = counts.sit(capped("a", None), capped("kept", None)).unwrap();
        counts.forget_unused();
        let tables = counts.tables.lock();
        assert_eq!((tables.users.len(), tables.databases.len()), (1, 1));
        assert!(tables.users.capacity() < 100);
    }
}
