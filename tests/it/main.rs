//! The integration tests: one binary, so that all share one real PostgreSQL.

mod adversity;
mod bad_input;
mod cancel;
mod commands;
mod console;
mod demo;
mod direct;
mod drivers;
mod fault_proxy_selftest;
mod gone;
mod growing;
mod hosts;
mod import;
mod lifecycle;
mod limits;
mod lives;
mod logins;
mod lost;
mod networks;
mod pgbench;
mod process;
mod readme;
mod replication;
mod review;
mod servers;
mod soak;
mod stage;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod support_selftest;
mod time_limits;
mod tls;
mod transactions;
mod unasked;
mod volume;
