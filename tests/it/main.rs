//! The integration tests: one binary, so that all share one real PostgreSQL.

mod bad_input;
mod cancel;
mod console;
mod demo;
mod direct;
mod gone;
mod lifecycle;
mod limits;
mod pgbench;
mod readme;
mod replication;
mod review;
mod servers;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod support_selftest;
mod time_limits;
mod transactions;
