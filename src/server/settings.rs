//! Session settings: what a client has asked for and what a server has been told.
//!
//! A client's settings are those of its StartupMessage and those whose change the server reported
//! while the client was linked to it. Linking compares the two sides and, only if they differ,
//! puts one query in front of the client's first message; no value is ever taken from SQL text.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Parameters that PostgreSQL reports and that no session can set: they describe the server, or
/// who is logged in to it. Whatever else it reports, now or in a later version, is a setting.
const DESCRIPTIVE: [&str; 6] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
];

/// The setting that changes no text's meaning, and that nearly every client has of its own.
const NO_READING: &str = "application_name";

/// A set of session settings, sorted by name. Immutable and shared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<Setting>,
    fingerprint: u64,
    reading: u64,
}

/// One setting: its name in lower case, and its value as bytes in the client's encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    name: Box<str>,
    value: Box<[u8]>,
}

/// Whether a change of this parameter, once reported, is the linked client's.
#[must_use]
pub fn is_tracked(name: &[u8]) -> bool {
    !DESCRIPTIVE.iter().any(|d| d.as_bytes().eq_ignore_ascii_case(name))
}

impl Settings {
    /// Settings from (name, value) pairs; of equal names the last one counts.
    #[must_use]
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Arc<Self> {
        let mut entries: Vec<Setting> = Vec::new();
        for (name, value) in pairs {
            let name = name.to_ascii_lowercase().into_boxed_str();
            entries.retain(|e| e.name != name);
            entries.push(Setting { name, value: value.into() });
        }
        Self::from_entries(entries)
    }

    fn from_entries(mut entries: Vec<Setting>) -> Arc<Self> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let fingerprint = fingerprint(&entries);
        let reading = match entries.iter().any(|e| &*e.name == NO_READING) {
            true => {
                let others = entries.iter().filter(|e| &*e.name != NO_READING);
                self::fingerprint(&others.cloned().collect::<Vec<_>>())
            }
            false => fingerprint,
        };
        Arc::new(Self { entries, fingerprint, reading })
    }

    /// A hash of the whole; 0 means that nothing is set. Equal settings have equal fingerprints;
    /// the pool groups idle servers by it.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// A hash of what may change the meaning of a text: a literal is read when it is parsed, under
    /// the time zone, date style and encoding of that moment.
    #[must_use]
    pub const fn reading(&self) -> u64 {
        self.reading
    }

    /// Whether nothing is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a setting, by its name in any case.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|e| e.name.eq_ignore_ascii_case(name))?;
        Some(&entry.value)
    }

    /// The settings as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().map(|e| (&*e.name, &*e.value))
    }

    /// The same settings with one of them changed; `None` takes it out.
    #[must_use]
    pub fn with(&self, name: &str, value: Option<&[u8]>) -> Arc<Self> {
        let name = name.to_ascii_lowercase();
        let mut entries: Vec<_> =
            self.entries.iter().filter(|e| *e.name != *name).cloned().collect();
        if let Some(value) = value {
            entries.push(Setting { name: name.into(), value: value.into() });
        }
        Self::from_entries(entries)
    }

    /// The query that turns a session with settings `from` into one with these, or `None` if they
    /// are equal. Its text is plain ASCII whatever the values hold, so no encoding can alter it.
    #[must_use]
    pub fn replay_sql(&self, from: &Self) -> Option<String> {
        if self.fingerprint == from.fingerprint && self.entries == from.entries {
            return None;
        }
        let mut sql = String::new();
        for old in &from.entries {
            if self.value(&old.name).is_none() {
                sql.push_str("RESET ");
                push_identifier(&mut sql, &old.name);
                sql.push(';');
            }
        }
        for (name, value) in self.changed_from(from) {
            sql.push_str("SELECT pg_catalog.set_config(");
            push_literal(&mut sql, name.as_bytes());
            sql.push(',');
            push_literal(&mut sql, value);
            sql.push_str(",false);");
        }
        Some(sql)
    }

    /// Those that [`Settings::replay_sql`] sets, in its order.
    pub fn changed_from<'a>(&'a self, from: &'a Self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.iter().filter(|(name, value)| from.value(name) != Some(value))
    }
}

fn fingerprint(entries: &[Setting]) -> u64 {
    if entries.is_empty() {
        return 0;
    }
    let mut hasher = FixedState::default().build_hasher();
    for entry in entries {
        hasher.write_usize(entry.name.len());
        hasher.write(entry.name.as_bytes());
        hasher.write_usize(entry.value.len());
        hasher.write(&entry.value);
    }
    hasher.finish().max(1)
}

/// A custom setting's name may hold a dot, each part quoted for itself.
fn push_identifier(sql: &mut String, name: &str) {
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            sql.push('.');
        }
        sql.push('"');
        sql.push_str(&part.replace('"', "\"\""));
        sql.push('"');
    }
}

/// An escape string literal in which everything but plain characters is written as `\xHH`: it
/// reads the same under every client_encoding and either standard_conforming_strings.
fn push_literal(sql: &mut String, value: &[u8]) {
    sql.push_str("E'");
    for &byte in value {
        match byte {
            b'\'' | b'\\' => {
                sql.push_str(if byte == b'\'' { "\\x27" } else { "\\x5C" });
            }
            0x20..=0x7e => sql.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                sql.push_str("\\x");
                sql.push(char::from(HEX[usize::from(byte >> 4)]));
                sql.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Arc<Settings> {
        Settings::new(pairs.iter().map(|(n, v)| (*n, v.as_bytes())))
    }

    #[test]
    fn equal_settings_need_nothing() {
        let a = settings(&[("TimeZone", "UTC"), ("application_name", "x")]);
        let b = settings(&[("application_name", "x"), ("timezone", "UTC")]);
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.replay_sql(&b), None);
        assert_eq!(settings(&[]).fingerprint(), 0);
    }

    #[test]
    fn the_difference_is_reset_and_set() {
        let from = settings(&[("timezone", "UTC"), ("application_name", "x")]);
        let to = settings(&[("application_name", "y")]);
        assert_eq!(
            to.replay_sql(&from).unwrap(),
            "RESET \"timezone\";SELECT pg_catalog.set_config(E'application_name',E'y',false);"
        );
    }

    #[test]
    fn values_cannot_leave_their_literal() {
        let to = settings(&[("application_name", "a'); DROP TABLE t; --\\ \u{e9}\n")]);
        assert_eq!(
            to.replay_sql(&settings(&[])).unwrap(),
            "SELECT pg_catalog.set_config(E'application_name',\
             E'a\\x27); DROP TABLE t; --\\x5C \\xC3\\xA9\\x0A',false);"
        );
        let odd = settings(&[("my\".x", "1")]);
        assert_eq!(settings(&[]).replay_sql(&odd).unwrap(), "RESET \"my\"\"\".\"x\";");
    }

    #[test]
    fn one_setting_is_changed_or_taken_out() {
        let base = settings(&[("timezone", "UTC")]);
        assert_eq!(base.with("TimeZone", None).fingerprint(), 0);
        assert_eq!(base.with("TimeZone", Some(b"CET")).value("timezone"), Some(&b"CET"[..]));
        assert_eq!(base.with("TimeZone", Some(b"UTC")), base);
    }

    #[test]
    fn tracked_parameters_are_known_in_any_case() {
        assert!(is_tracked(b"TimeZone") && is_tracked(b"search_path") && is_tracked(b"new.one"));
        assert!(!is_tracked(b"in_hot_standby") && !is_tracked(b"Server_Version"));
    }
}
