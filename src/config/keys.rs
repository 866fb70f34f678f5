//! What a key is: sections, the table of all keys, and the macro that makes sections.
//!
//! `settings!` is the single source of a section: from one list it makes the public struct, the
//! reader, the printer, the comparison and the rows of [`keys`]. It must not know any key.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use super::diff::SettingChange;
use super::faults::Faults;
use super::raw::RawTable;
use super::schema::{Database, General, User};

/// A section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `[general]`.
    General,
    /// `[databases.NAME]`, or a connection string under `[databases]`.
    Databases,
    /// `[users.NAME]`.
    Users,
}

impl Section {
    /// All sections, in the order of the file.
    pub const ALL: [Self; 3] = [Self::General, Self::Databases, Self::Users];

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Databases => "databases",
            Self::Users => "users",
        }
    }

    /// The header under which its keys stand.
    pub fn header(self) -> &'static str {
        match self {
            Self::General => "[general]",
            Self::Databases => "[databases.NAME]",
            Self::Users => "[users.NAME]",
        }
    }
}

/// The table that a key stands in, such as `general` or `databases.app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionPath {
    /// The section.
    pub section: Section,
    /// The entry's name; `None` in `[general]`.
    pub name: Option<String>,
}

impl fmt::Display for SectionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section.name())?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ".{}", EntryName(name)))
    }
}

/// Prints an entry's name as TOML needs it: bare if it can be, else quoted and escaped, so that
/// no name can forge a line of a log.
pub(super) struct EntryName<'a>(pub(super) &'a str);

impl fmt::Display for EntryName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !self.0.is_empty() && self.0.bytes().all(bare) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

/// What a key is when the file does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDefault {
    /// This value, as it would be written in a string.
    Value(&'static str),
    /// Not a value of its own; the text says what holds instead.
    Absent(&'static str),
}

/// One key that this version accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Where it stands.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What holds when it is left out.
    pub default: KeyDefault,
    /// The accepted values, for people.
    pub range: Cow<'static, str>,
    /// Whether a reload applies a change; if not, it takes a restart.
    pub reloadable: bool,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Its meaning in a sentence or two.
    pub doc: &'static str,
}

impl KeyInfo {
    /// The default as text; `None` where there is no value of its own.
    pub fn default_text(&self) -> Option<&'static str> {
        match self.default {
            KeyDefault::Value(text) => Some(text),
            KeyDefault::Absent(_) => None,
        }
    }
}

/// Every key that this version accepts, by section, in the order of the documentation.
pub fn keys() -> &'static [KeyInfo] {
    static KEYS: LazyLock<Vec<KeyInfo>> =
        LazyLock::new(|| [General::key_table(), Database::key_table(), User::key_table()].concat());
    &KEYS
}

/// The keys of one section.
pub(super) fn keys_of(section: Section) -> impl Iterator<Item = &'static KeyInfo> {
    keys().iter().filter(move |key| key.section == section)
}

/// What `settings!` makes of each section beside its public face.
pub(super) trait SectionKeys: Sized {
    /// The rows of [`keys`] for this section.
    fn key_table() -> Vec<KeyInfo>;

    /// Reads every key of `table`; what is wrong goes to `faults`, and the type's default stands
    /// in so that the reading can go on.
    fn read(table: &RawTable, faults: &mut Faults) -> Self;

    /// The keys whose values differ in `new`.
    fn changes(&self, new: &Self) -> Vec<SettingChange>;

    /// Takes over from `running` every value that only a restart may change.
    fn keep_restart_keys(&mut self, running: &Self);

    /// Takes over from `other` the value of one key.
    fn take_key(&mut self, key: &str, other: &Self);
}

/// A change of this key takes effect on reload.
pub(super) const RELOAD: bool = true;
/// A change of this key takes a restart.
pub(super) const RESTART: bool = false;

/// Makes a section: see the module comment. Each line reads
/// `/// doc` then `name: Type = default, RELOAD or RESTART, kind;`.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident in $section:expr;
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $ty:ty = $default:expr, $reload:expr, $kind:expr;
        )+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $ty, )+
        }

        impl $name {
            /// Every key and its value as text, in the order of [`keys`](super::keys()):
            /// canonical, without units, secrets as `***`, absent ones empty.
            pub fn settings(&self) -> Vec<(&'static str, String)> {
                vec![$( (stringify!($field), Kind::<$ty>::show(&$kind, &self.$field)) ),+]
            }
        }

        impl SectionKeys for $name {
            fn key_table() -> Vec<KeyInfo> {
                vec![$( KeyInfo {
                    section: $section,
                    name: stringify!($field),
                    default: $default,
                    range: Kind::<$ty>::range(&$kind),
                    reloadable: $reload,
                    secret: Kind::<$ty>::is_secret(&$kind),
                    doc: concat!($($doc),+).trim_ascii(),
                } ),+]
            }

            fn read(table: &RawTable, faults: &mut Faults) -> Self {
                Self { $( $field: table.read(stringify!($field), $default, &$kind, faults), )+ }
            }

            fn changes(&self, new: &Self) -> Vec<SettingChange> {
                let mut changes = Vec::new();
                $( if self.$field != new.$field {
                    changes.push(SettingChange {
                        key: stringify!($field),
                        reloadable: $reload,
                        secret: Kind::<$ty>::is_secret(&$kind),
                        old: Kind::<$ty>::show(&$kind, &self.$field),
                        new: Kind::<$ty>::show(&$kind, &new.$field),
                    });
                } )+
                changes
            }

            fn keep_restart_keys(&mut self, running: &Self) {
                $( if !$reload {
                    self.$field.clone_from(&running.$field);
                } )+
            }

            fn take_key(&mut self, key: &str, other: &Self) {
                $( if key == stringify!($field) {
                    self.$field.clone_from(&other.$field);
                } )+
            }
        }
    };
}

pub(super) use settings;
