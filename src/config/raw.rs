//! From text to tables of values that remember where they were written.
//!
//! This file knows the shape of a configuration (sections, entries, which names exist) but not
//! what any value means. Invariants: a key that is not in `config::keys` never gets past here;
//! values that may hold a secret are marked so that no error shows them.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::conninfo;
use super::error::{KeyHint, Problem};
use super::faults::{Faults, Origin};
use super::keys::{KeyDefault, Section, SectionPath, keys, keys_of};
use super::pgbouncer::refusal;
use super::suggest::nearest;
use super::value::{Kind, Refusal, Value};

/// Other names that PgBouncer has for a key: section, name, key.
const ALIASES: &[(Section, &str, &str)] =
    &[(Section::Databases, "reserve_pool", "reserve_pool_size")];

/// The whole file, and what the environment adds to it.
pub(super) struct RawConfig {
    /// `[general]`.
    pub(super) general: RawTable,
    /// `[databases]` by name, `"*"` among them.
    pub(super) databases: BTreeMap<String, RawTable>,
    /// `[users]` by name.
    pub(super) users: BTreeMap<String, RawTable>,
}

impl RawConfig {
    /// Sorts a TOML document into sections. Mistakes go to `faults`.
    pub(super) fn from_toml(root: &DeTable<'_>, faults: &mut Faults) -> Self {
        let mut raw = Self {
            general: RawTable::new(Section::General, None, Origin::File),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
        };
        for (name, value) in root {
            let at = Origin::Offset(name.span().start);
            let section =
                Section::ALL.into_iter().find(|section| section.name() == name.get_ref().as_ref());
            match section {
                Some(section) => raw.add_section(section, at, value, faults),
                None => faults.add(at, unknown_at_top(name.get_ref(), value.get_ref())),
            }
        }
        raw
    }

    fn add_section(
        &mut self,
        section: Section,
        at: Origin,
        value: &Spanned<DeValue<'_>>,
        faults: &mut Faults,
    ) {
        let DeValue::Table(table) = value.get_ref() else {
            let problem = not_a_table(section.name().to_owned(), "a table", value.get_ref());
            return faults.add(at, problem);
        };
        if section == Section::General {
            self.general = RawTable::new(section, None, at);
            return self.general.add_all(table, faults);
        }
        for (name, value) in table {
            let at = Origin::Offset(name.span().start);
            let entry = entry_table(section, name.get_ref(), at, value, faults);
            let entries = match section {
                Section::Users => &mut self.users,
                Section::General | Section::Databases => &mut self.databases,
            };
            entries.insert(name.get_ref().as_ref().to_owned(), entry);
        }
    }
}

/// Reads `[section.NAME]`, or the connection string of a database.
fn entry_table(
    section: Section,
    name: &str,
    at: Origin,
    value: &Spanned<DeValue<'_>>,
    faults: &mut Faults,
) -> RawTable {
    let mut entry = RawTable::new(section, Some(name.to_owned()), at);
    match value.get_ref() {
        DeValue::Table(table) => entry.add_all(table, faults),
        DeValue::String(text) if section == Section::Databases => {
            let value_at = Origin::Offset(value.span().start);
            conninfo::fill(&mut entry, text, value_at, faults);
        }
        other => {
            let expected = match section {
                Section::Databases => "a table or a connection string",
                Section::General | Section::Users => "a table",
            };
            let problem = not_a_table(entry.path.to_string(), expected, other);
            faults.add(Origin::Offset(value.span().start), problem);
        }
    }
    entry
}

fn not_a_table(path: String, expected: &'static str, found: &DeValue<'_>) -> Problem {
    Problem::NotATable { path, expected, found: type_name(found) }
}

fn unknown_at_top(name: &str, value: &DeValue<'_>) -> Problem {
    if !value.is_table() && !value.is_array() {
        let belongs: Vec<_> = sections_with(name).collect();
        let hint = match (belongs.is_empty(), nearest(name, all_names())) {
            (false, _) => KeyHint::BelongsIn(belongs),
            (true, Some(near)) => KeyHint::Nearest(near),
            (true, None) => KeyHint::None,
        };
        return Problem::OutsideSection { key: name.to_owned(), hint };
    }
    let hint = match name {
        "pgbouncer" | "pgbaton" => KeyHint::Section("general"),
        "peers" => KeyHint::Unsupported,
        _ => nearest(name, Section::ALL.map(Section::name)).map_or(KeyHint::None, KeyHint::Section),
    };
    Problem::UnknownSection { name: name.to_owned(), hint }
}

fn all_names() -> impl Iterator<Item = &'static str> {
    keys().iter().map(|key| key.name)
}

fn sections_with(key: &str) -> impl Iterator<Item = Section> {
    keys().iter().filter(move |known| known.name == key).map(|known| known.section)
}

/// The keys of one table.
pub(super) struct RawTable {
    /// Which table.
    pub(super) path: SectionPath,
    /// Where its name stands first.
    pub(super) at: Origin,
    entries: BTreeMap<&'static str, RawEntry>,
}

/// A value and where it stands.
struct RawEntry {
    at: Origin,
    value: Value,
    /// Whether errors must not show the value.
    hidden: bool,
}

impl RawTable {
    /// An empty table.
    pub(super) fn new(section: Section, name: Option<String>, at: Origin) -> Self {
        Self { path: SectionPath { section, name }, at, entries: BTreeMap::new() }
    }

    fn add_all(&mut self, table: &DeTable<'_>, faults: &mut Faults) {
        for (key, value) in table {
            match self.known(key.get_ref()) {
                Ok(known) => {
                    let at = Origin::Offset(value.span().start);
                    if !self.set(known, from_toml(value.get_ref()), at, false) {
                        // TOML sees to it that no name stands there twice: this is another one.
                        let path = self.path.clone();
                        let at = Origin::Offset(key.span().start);
                        faults.add(at, Problem::TwoNames { key: known, path });
                    }
                }
                Err(problem) => faults.add(Origin::Offset(key.span().start), problem),
            }
        }
    }

    /// The known key of this name in this table's section, or why there is none.
    pub(super) fn known(&self, key: &str) -> Result<&'static str, Problem> {
        let section = self.path.section;
        let alias = ALIASES.iter().find(|(of, alias, _)| *of == section && *alias == key);
        if let Some((_, _, known)) = alias {
            return Ok(known);
        }
        if let Some(known) = keys_of(section).find(|known| known.name == key) {
            return Ok(known.name);
        }
        let (key, path) = (key.to_owned(), self.path.clone());
        if let Some(why) = refusal(section, &key) {
            return Err(Problem::UnsupportedKey { key, path, why });
        }
        let elsewhere: Vec<_> = sections_with(&key).collect();
        let hint = if elsewhere.is_empty() {
            nearest(&key, keys_of(section).map(|known| known.name))
                .map_or(KeyHint::None, KeyHint::Nearest)
        } else {
            KeyHint::BelongsIn(elsewhere)
        };
        Err(Problem::UnknownKey { key, path, hint })
    }

    /// Sets a key, over what was there; returns whether it was new.
    pub(super) fn set(
        &mut self,
        key: &'static str,
        value: Value,
        at: Origin,
        hidden: bool,
    ) -> bool {
        self.entries.insert(key, RawEntry { at, value, hidden }).is_none()
    }

    /// Where a key's value stands; the table's own place if the key was left out.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        self.entries.get(key).map_or(self.at, |entry| entry.at)
    }

    /// Whether the file itself, not the environment, gives a secret.
    pub(super) fn has_secret_in_file(&self) -> bool {
        self.entries.get("password").is_some_and(|entry| matches!(entry.at, Origin::Offset(_)))
    }

    /// Whether a key was left out or is an empty string.
    pub(super) fn is_blank(&self, key: &str) -> bool {
        self.entries
            .get(key)
            .is_none_or(|entry| matches!(&entry.value, Value::Text(text) if text.trim().is_empty()))
    }

    /// Reads a key. A bad value goes to `faults` and the default stands in for it, so that one
    /// mistake does not look like two.
    pub(super) fn read<T: Default>(
        &self,
        key: &'static str,
        default: KeyDefault,
        kind: &impl Kind<T>,
        faults: &mut Faults,
    ) -> T {
        let entry = self.entries.get(key);
        let read = entry.map(|entry| (entry, kind.read(&entry.value)));
        match read {
            Some((_, Ok(value))) => return value,
            Some((entry, Err(refusal))) => {
                let secret = entry.hidden || kind.is_secret();
                faults.add(entry.at, self.refused(key, &entry.value, refusal, secret));
            }
            None => {}
        }
        match default {
            KeyDefault::Value(text) => {
                kind.read(&Value::text(text)).expect("BUG: a key's default does not fit it")
            }
            KeyDefault::Absent(_) => T::default(),
        }
    }

    fn refused(&self, key: &'static str, value: &Value, refusal: Refusal, secret: bool) -> Problem {
        let path = self.path.clone();
        match refusal {
            Refusal::Because(reason) => Problem::RefusedValue { key, path, reason },
            Refusal::Unsupported => Problem::UnsupportedValue { key, path, word: value.describe() },
            Refusal::Expected(expected) => {
                let found = if secret { value.describe_type().into() } else { value.describe() };
                Problem::BadValue { key, path, expected: expected.into_owned(), found }
            }
        }
    }
}

/// Takes a TOML value over. What no setting can be keeps only the name of its type.
fn from_toml(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::text(text.as_ref()),
        DeValue::Integer(integer) => {
            let radix = integer.radix();
            i64::from_str_radix(integer.as_str(), radix).map_or(
                Value::Other("a number that is too large"),
                |value| Value::Integer { value, decimal: radix == 10 },
            )
        }
        DeValue::Float(float) => {
            float.as_str().parse().map_or(Value::Other("a number"), Value::Float)
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| from_toml(item.get_ref())).collect())
        }
        DeValue::Datetime(_) | DeValue::Table(_) => Value::Other(type_name(value)),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
