//! The process as the system sees it: whose it is, how many files it may open, its pid file.
//!
//! Must not know what pgbaton does. Everything here is done at the start, before any thread is
//! there, and by the composition root.

mod descriptors;
mod identity;
mod pidfile;

pub use descriptors::{Descriptors, raise_limit};
pub use identity::{Identity, IdentityError, group_id};
pub use pidfile::{PidFile, PidFileError};
