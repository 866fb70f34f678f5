//! Configuration: one TOML file, PgBouncer's names, an immutable typed result.
//!
//! The road from text to settings has three stretches, each in its own file:
//!
//! 1. `raw`: TOML, connection strings and environment variables become tables of
//!    values that remember where they were written. Unknown keys are refused here.
//! 2. `schema`: the tables of keys. One macro makes the public struct, the reader,
//!    the printer and the documentation table of a section, so they cannot disagree.
//! 3. `load`, `auth_file`, `tls` and `check`: values become a [`Config`]; what contradicts itself is refused,
//!    what is merely unwise becomes a [`Warning`].
//!
//! Invariants: a [`Config`] is never changed after it was made, is passed by `Arc`, and is
//! nobody's global. All mistakes of a file are reported at once (a syntax error stops the
//! reading). A secret never reaches `Debug`, `Display`, an error, a warning or a diff.
//!
//! This module must not know how settings are used: no sockets, no DNS, no tasks, no clock.

mod auth_file;
mod check;
mod conninfo;
mod diff;
mod env;
mod error;
mod faults;
mod hba;
pub mod import;
mod json_schema;
mod keys;
mod kinds;
mod load;
pub mod pgbouncer;
mod raw;
mod resolved;
mod schema;
mod set;
mod suggest;
mod tls;
mod value;

#[cfg(test)]
mod tests;

pub use diff::{EntryChanges, FileUserChanges, ReloadDiff, SettingChange, diff};
pub use error::{ConfigError, Diagnostic, KeyHint, Place, Problem, Warning, WarningKind};
pub use hba::AuthRules;
pub use json_schema::json_schema;
pub use keys::{KeyDefault, KeyInfo, Section, SectionPath, keys};
pub use kinds::duration::DURATION_MAX;
pub use kinds::host::{ListenAddr, ServerHost};
pub use kinds::number::Limit;
pub use kinds::secret::{Password, PasswordKind};
pub use kinds::tls::Picked;
pub use kinds::word::{
    AuthType, ClientSslMode, LoadBalance, LogFormat, LogLevel, PoolMode, ServerSslMode,
};
pub use load::{FILE_BYTES_MAX, Loaded, load, parse};
pub use resolved::{
    CONSOLE_DATABASES, Config, DatabaseRoute, Databases, LookupRoute, PoolSettings, Users,
    is_console_database,
};
pub use schema::{Database, General, User};
pub use set::SetError;
pub use tls::{ALPN, ClientTls, ServerTls, Tls};
