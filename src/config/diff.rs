//! What a reload would change, for `pgbaton check` and the log.
//!
//! It compares two resolved configurations key by key and holds no rule of its own. Invariant:
//! secrets are compared but never printed, neither the old nor the new one.

use std::collections::BTreeMap;
use std::fmt;

use super::auth_file::FileUsers;
use super::keys::{EntryName, Section, SectionKeys};
use super::resolved::{Config, Databases, FALLBACK_DATABASE};
use super::schema::{Database, User};

/// The difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadDiff {
    /// Changed keys of `[general]` that a reload applies.
    pub reloadable: Vec<SettingChange>,
    /// Changed keys of `[general]` that only a restart applies.
    pub needs_restart: Vec<SettingChange>,
    /// Databases, `"*"` among them.
    pub databases: EntryChanges,
    /// Users.
    pub users: EntryChanges,
    /// Users of `auth_file`.
    pub file_users: FileUserChanges,
    /// Files with other certificates or keys in them than before, by their keys: "KEY holds".
    pub tls_files: Vec<&'static str>,
}

/// One changed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// Its name.
    pub key: &'static str,
    /// Whether a reload applies it.
    pub reloadable: bool,
    /// Whether its values are secret; they are then `***`.
    pub secret: bool,
    /// The old value as text, empty if there was none.
    pub old: String,
    /// The new value as text, empty if there is none.
    pub new: String,
}

/// Changes among the named entries of a section, each list in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryChanges {
    /// New names.
    pub added: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
    /// Names whose keys changed, and the changes.
    pub changed: Vec<(String, Vec<SettingChange>)>,
}

/// Changes among the users of `auth_file`, who may be many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileUserChanges {
    /// New users.
    pub added: usize,
    /// Users that are gone.
    pub removed: usize,
    /// Users whose secret changed.
    pub changed: usize,
}

impl FileUserChanges {
    fn between(old: &FileUsers, new: &FileUsers) -> Self {
        let both = new.iter().filter_map(|(name, new)| Some((old.get(name)?, new)));
        Self {
            added: new.keys().filter(|name| !old.contains_key(*name)).count(),
            removed: old.keys().filter(|name| !new.contains_key(*name)).count(),
            changed: both.filter(|(old, new)| old != new).count(),
        }
    }
}

/// Compares the running configuration with a new one.
pub fn diff(old: &Config, new: &Config) -> ReloadDiff {
    let general = old.general.changes(&new.general);
    let (reloadable, needs_restart) = general.into_iter().partition(|change| change.reloadable);
    ReloadDiff {
        reloadable,
        needs_restart,
        databases: EntryChanges::between(
            &database_entries(&old.databases),
            &database_entries(&new.databases),
            |old, new| Database::changes(old, new),
        ),
        users: EntryChanges::between(&old.users.named, &new.users.named, User::changes),
        file_users: FileUserChanges::between(&old.users.in_file, &new.users.in_file),
        tls_files: [
            (
                "client_tls_cert_file and client_tls_key_file hold",
                old.tls.clients != new.tls.clients,
            ),
            ("server_tls_ca_file holds", old.tls.servers.files_differ(&new.tls.servers)),
        ]
        .into_iter()
        .filter_map(|(keys, differ)| differ.then_some(keys))
        .collect(),
    }
}

fn database_entries(databases: &Databases) -> BTreeMap<String, &Database> {
    let named = databases.named.iter().map(|(name, entry)| (name.clone(), entry));
    let fallback = databases.fallback.iter().map(|entry| (FALLBACK_DATABASE.to_owned(), entry));
    named.chain(fallback).collect()
}

impl ReloadDiff {
    /// Whether the two configurations are equal.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl EntryChanges {
    fn between<T: PartialEq>(
        old: &BTreeMap<String, T>,
        new: &BTreeMap<String, T>,
        changes: impl Fn(&T, &T) -> Vec<SettingChange>,
    ) -> Self {
        let missing_in = |other: &BTreeMap<String, T>, names: &BTreeMap<String, T>| {
            names.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
        };
        let both = new.iter().filter_map(|(name, new)| Some((name, old.get(name)?, new)));
        let changed = both
            .map(|(name, old, new)| (name.clone(), changes(old, new)))
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        Self { added: missing_in(old, new), removed: missing_in(new, old), changed }
    }

    fn fmt(&self, section: Section, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = section.name();
        for name in &self.added {
            writeln!(f, "added: [{section}.{}]", EntryName(name))?;
        }
        for name in &self.removed {
            writeln!(f, "removed: [{section}.{}]", EntryName(name))?;
        }
        for (name, changes) in &self.changed {
            for change in changes {
                writeln!(f, "changed: [{section}.{}] {change}", EntryName(name))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.secret {
            return write!(f, "{}: changed", self.key);
        }
        write!(f, "{}: {} -> {}", self.key, ShownValue(&self.old), ShownValue(&self.new))
    }
}

/// A value in a diff: quoted if it would not read as one word, so that none can forge a line.
struct ShownValue<'a>(&'a str);

impl fmt::Display for ShownValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("(none)")
        } else if self.0.bytes().all(|b| b.is_ascii_graphic()) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

impl fmt::Display for ReloadDiff {
    /// One change a line, what a reload applies first; "no change" if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "no change");
        }
        for change in &self.reloadable {
            writeln!(f, "changed: [general] {change}")?;
        }
        self.databases.fmt(Section::Databases, f)?;
        self.users.fmt(Section::Users, f)?;
        let users = self.file_users;
        if users != FileUserChanges::default() {
            let FileUserChanges { added, removed, changed } = users;
            writeln!(f, "changed: auth_file: {added} added, {removed} removed, {changed} changed")?;
        }
        for keys in &self.tls_files {
            writeln!(f, "changed: what {keys}")?;
        }
        for change in &self.needs_restart {
            writeln!(f, "needs a restart: [general] {change}")?;
        }
        Ok(())
    }
}
