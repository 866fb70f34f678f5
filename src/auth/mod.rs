//! Authentication exchanges as pure bytes: SCRAM-SHA-256 both ways, MD5, and stored secrets.
//!
//! What it is for: to prove who a client is, and to prove to a server who we are. What it must not
//! know: sockets, threads, configuration, where secrets are stored. It imports `protocol` at most.
//!
//! Invariants:
//!
//! * Both peers are hostile. A message has at most [`scram::MESSAGE_LEN_MAX`] bytes, and a server
//!   cannot ask for more than [`scram::ITERATIONS_MAX`] rounds.
//! * An exchange is a chain of types, each consumed by the next step, so that no step can be left
//!   out, repeated or taken with the values of another exchange.
//! * Secrets are compared in constant time, wiped when dropped, and never shown by `Debug`.
//! * The costly function is [`scram::ClientKeys::derive`] and what calls it (PBKDF2, about half a
//!   millisecond for 4,096 rounds): callers keep it off the workers. All else takes microseconds.

pub mod certificate;
pub mod credentials;
pub mod hba;
pub mod md5;
pub mod scram;
pub mod scram_binding;
pub mod scram_client;
pub mod scram_server;

mod scram_error;
mod scram_message;

pub use credentials::Secret;
pub use scram_error::{Malformed, ScramError};

#[cfg(test)]
mod tests;
