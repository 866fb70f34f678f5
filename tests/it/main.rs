//! The integration tests: one binary, so that all share one real PostgreSQL.

mod bad_input;
mod demo;
mod gone;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod support_selftest;
