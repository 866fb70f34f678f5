//! The PostgreSQL wire protocol, version 3, as pure bytes.
//!
//! What it is for: to find frames ([`frame`]), to read the few messages that a pooler must
//! understand ([`startup`], [`decode`]), to write those it sends itself ([`encode`]), and to give
//! a message another statement name without touching the rest of it ([`rewrite`]).
//!
//! What it must not know: sockets, clocks, tasks, configuration, pools. Time and I/O belong to the
//! callers; every function maps a slice to a value.
//!
//! Invariants:
//!
//! * **One length, checked once.** A frame's length is read and bounded in [`frame`] alone; each
//!   body decoder takes a slice that is exactly one body and never looks beyond it, so nothing
//!   inside a message can be taken for the message that follows.
//! * **A peer's bytes never panic.** All reading goes through one checked cursor, and a decoder
//!   that does not consume its whole body fails.
//! * **Text stays bytes.** A client speaks its own encoding; nothing is converted on its way.
//! * **What cannot be written is refused.** An encoder fails on an embedded NUL or an over-long
//!   message and then leaves its output as it found it.

pub mod decode;
pub mod encode;
pub mod error;
pub mod frame;
pub mod ledger;
pub mod rewrite;
pub mod splice;
pub mod sql;
pub mod sqlstate;
pub mod startup;
pub mod tag;

mod cursor;
mod transaction_status;

pub use error::{ErrorMessage, Severity};
pub use sqlstate::SqlState;
pub use transaction_status::TransactionStatus;

#[cfg(test)]
mod differential_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod property_tests;
