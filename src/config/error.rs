//! What can be wrong with a configuration, where, and how it is told.
//!
//! Every mistake of a file is one [`Diagnostic`]; a [`ConfigError`] holds them all in the order
//! of the file and prints one a line. Invariant: no payload here may hold a secret. Values of
//! secret keys, and all values of connection strings that hold a password, are described by
//! type only (`RawTable` sees to it).

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::keys::{EntryName, Section, SectionPath};
use super::load::FILE_BYTES_MAX;

/// Why a configuration was refused: at least one diagnostic, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// The mistakes. Never empty.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigError {
    /// One diagnostic a line, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{diagnostic}")?;
        }
        Ok(())
    }
}

/// One mistake and its place. Prints as `config.toml:12:1: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub problem: Problem,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File(Arc<str>),
    /// A place in the file.
    At {
        /// The file's name as it was given to pgbaton.
        file: Arc<str>,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// An environment variable.
    Env(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.write_str(file),
            Self::At { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Env(variable) => f.write_str(variable),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file could not be read.
    #[error("cannot read the file: {}", io::Error::from(*.0))]
    Read(io::ErrorKind),
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("the file is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// The file is not UTF-8 text from here on.
    #[error("not UTF-8 text")]
    NotUtf8,
    /// The text is not TOML. The reason is the parser's and quotes nothing of the file.
    #[error("syntax error: {0}")]
    Syntax(String),
    /// A table or key at the top of the file that is no section.
    #[error("unknown section [{}]{hint}", EntryName(.name))]
    UnknownSection {
        /// What was written.
        name: String,
        /// What may have been meant.
        hint: KeyHint,
    },
    /// A key that stands before any section header.
    #[error("key {key:?} stands outside any section{hint}")]
    OutsideSection {
        /// What was written.
        key: String,
        /// Where it belongs.
        hint: KeyHint,
    },
    /// Something that should be a table is none.
    #[error("{path}: expected {expected}, found {found}")]
    NotATable {
        /// The section or entry.
        path: String,
        /// What it should be.
        expected: &'static str,
        /// The type that was found instead.
        found: &'static str,
    },
    /// A key that is given under two of its names.
    #[error("{key} of [{path}] is given twice, under two names")]
    TwoNames {
        /// The name that is shown everywhere.
        key: &'static str,
        /// Where.
        path: SectionPath,
    },
    /// A key that nobody knows.
    #[error("unknown key {key:?} in [{path}]{hint}")]
    UnknownKey {
        /// What was written.
        key: String,
        /// Where.
        path: SectionPath,
        /// What may have been meant.
        hint: KeyHint,
    },
    /// A key of PgBouncer's that would have no effect here.
    #[error("{}: a setting of PgBouncer's that pgbaton does not have. {why}", key_path(.path, .key))]
    UnsupportedKey {
        /// Why, and what to do instead.
        why: &'static str,
        /// The key.
        key: String,
        /// Where.
        path: SectionPath,
    },
    /// A value that does not fit its key.
    #[error("{}: expected {expected}, found {found}", key_path(.path, .key))]
    BadValue {
        /// The key.
        key: &'static str,
        /// Where.
        path: SectionPath,
        /// What the key takes.
        expected: String,
        /// What was written; only the type of it where it may be a secret.
        found: String,
    },
    /// A word of PgBouncer's that asks for what this version cannot do.
    #[error(
        "{}: {word} is known to PgBouncer but not supported by this version of pgbaton",
        key_path(.path, .key)
    )]
    UnsupportedValue {
        /// The key.
        key: &'static str,
        /// Where.
        path: SectionPath,
        /// What was written.
        word: String,
    },
    /// A well-formed value that cannot be taken.
    #[error("{}: {reason}", key_path(.path, .key))]
    RefusedValue {
        /// The key.
        key: &'static str,
        /// Where.
        path: SectionPath,
        /// Why not.
        reason: &'static str,
    },
    /// A database without a user of its own, though clients' names mean nothing.
    #[error("{0}: auth_type = \"any\" needs a `user` in every database")]
    AnyNeedsUser(SectionPath),
    /// A connection string that cannot be read. The reason quotes nothing of it.
    #[error("{path}: {reason}")]
    ConnectionString {
        /// The entry.
        path: SectionPath,
        /// Why.
        reason: &'static str,
    },
    /// A line of `auth_file` that cannot be read. The reason quotes nothing of it.
    #[error("{0}")]
    AuthFile(&'static str),
    /// A line of `auth_hba_file` or `auth_ident_file` that cannot be taken.
    #[error("{0}")]
    AuthRule(String),
    /// A file with certificates or a key that cannot be used. The reason quotes nothing of it.
    #[error("{0}")]
    TlsFile(String),
    /// An environment variable that is no database URL. The reason quotes nothing of it.
    #[error("{0}")]
    DatabaseUrl(&'static str),
    /// A name that is kept for the console.
    #[error("the database name {0:?} is reserved for the console")]
    ReservedDatabase(String),
    /// A name that cannot be a database's or a user's.
    #[error("{0}: a name must not be empty and must not hold NUL")]
    BadName(SectionPath),
    /// `[users."*"]`: there is no fallback user.
    #[error("[users.\"*\"] has no meaning: a user must be named")]
    FallbackUser,
    /// Neither TCP nor a unix socket to listen on.
    #[error("listen_addr and unix_socket_dir are both empty: there is nothing to listen on")]
    NothingToListenOn,
    /// A database without `host` while there is no socket directory to take instead.
    #[error("{0}: host is needed, because unix_socket_dir is empty")]
    NoHost(SectionPath),
}

/// `pool_mode` in `[general]`, `databases.app.pool_mode` elsewhere.
fn key_path(path: &SectionPath, key: &str) -> String {
    match path.section {
        Section::General => EntryName(key).to_string(),
        Section::Databases | Section::Users => format!("{path}.{}", EntryName(key)),
    }
}

/// What may have been meant by an unknown name. Prints as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyHint {
    /// Nothing comes near.
    None,
    /// A mistyped name.
    Nearest(&'static str),
    /// A section of PgBouncer's that has this name here.
    Section(&'static str),
    /// A key of these other sections.
    BelongsIn(Vec<Section>),
    /// A section of PgBouncer's that this version lacks.
    Unsupported,
}

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Nearest(name) => write!(f, "; did you mean {name:?}?"),
            Self::Section(name) => write!(f, "; did you mean [{name}]?"),
            Self::BelongsIn(sections) => {
                let headers: Vec<_> = sections.iter().map(|section| section.header()).collect();
                write!(f, "; it belongs in {}", headers.join(" or "))
            }
            Self::Unsupported => f.write_str(
                "; it is known to PgBouncer but not supported by this version of pgbaton",
            ),
        }
    }
}

/// Something unwise that does not stop pgbaton. Prints as `config.toml:12:1: warning`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub kind: WarningKind,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.kind)
    }
}

/// What is unwise.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WarningKind {
    /// A user whom nobody can log in as.
    #[error("user {user:?} has no password and cannot log in with auth_type {auth_type}")]
    UserWithoutPassword {
        /// The user.
        user: String,
        /// The method in force.
        auth_type: super::AuthType,
    },
    /// A user whose MD5 hash is of no use for SCRAM.
    #[error("user {0:?} has an md5 password and cannot log in with auth_type scram-sha-256")]
    Md5UserUnderScram(String),
    /// A console user who is in neither `[users]` nor `auth_file`.
    #[error("{key} names {user:?}, who is in no [users.NAME] or auth_file and cannot log in")]
    UnknownConsoleUser {
        /// `admin_users` or `stats_users`.
        key: &'static str,
        /// The user.
        user: String,
    },
    /// `password` of a database without `user`.
    #[error("databases.{}: password has no effect without user", EntryName(.0))]
    PasswordWithoutUser(String),
    /// A forced user without any password.
    #[error(
        "databases.{}: user {user:?} has no password and can log in only to a server that \
         asks for none",
        EntryName(.database)
    )]
    ForcedUserWithoutPassword {
        /// The database.
        database: String,
        /// The forced user.
        user: String,
    },
    /// A forced user whose secret is a SCRAM verifier, with which nobody can log in.
    #[error(
        "databases.{}: the password of user {user:?} is a SCRAM verifier, which cannot log in to \
         a server",
        EntryName(.database)
    )]
    ForcedUserWithVerifier {
        /// The database.
        database: String,
        /// The forced user.
        user: String,
    },
    /// Users cannot be looked up by a role that cannot log in.
    #[error(
        "auth_user {0:?} has a hash or verifier for a password, which does not log in to a server"
    )]
    AuthUserWithHash(String),
    /// Users are looked up in whatever database a client names.
    #[error(
        "auth_user without auth_dbname: for \"*\", whoever connects says in which database to look users up"
    )]
    LookupAnywhere,
    /// A pool that can never reach its size.
    #[error(
        "databases.{}: pool_size {pool_size} is above max_db_connections {max_db_connections}",
        EntryName(.database)
    )]
    PoolAboveDatabase {
        /// The database.
        database: String,
        /// Its pool size.
        pool_size: usize,
        /// Its cap.
        max_db_connections: usize,
    },
    /// A database whose server is pgbaton's own listener.
    #[error("databases.{}: host and port are those pgbaton itself listens on", EntryName(.0))]
    PointsAtItself(String),
    /// Trust on an address that others can reach.
    #[error("auth_type trust lets anyone in who can reach {0}")]
    TrustOnNetwork(super::ListenAddr),
    /// No database at all.
    #[error("no database is configured: clients can reach only the console")]
    NoDatabases,
    /// A file with passwords that every user of the machine can read.
    #[error("the file holds passwords and every local user can read it (mode {0:04o})")]
    ReadableSecrets(u32),
    /// A private key that every user of the machine can read.
    #[error("the file holds a private key and every local user can read it (mode {0:04o})")]
    ReadableKey(u32),
}
