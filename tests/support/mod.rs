//! What the integration tests stand on: a real PostgreSQL, the real pgbaton, a raw client that
//! hides nothing of the protocol, a fake PostgreSQL and a proxy that misbehave on demand.
//!
//! Everything here is blocking and uses no code of the pooler's own protocol layer, so that a
//! mistake there cannot hide itself. Every process and folder is gone when the test binary ends,
//! however it ends (see `pgbaton::cli::throwaway`).

// One test binary uses one part, another one another.
#![allow(dead_code, unused_imports, reason = "a shared kit; not every test binary uses every tool")]

pub mod certificates;
pub mod console;
pub mod fake_postgres;
pub mod fault_proxy;
pub mod messages;
pub mod pgbaton;
pub mod postgres;
pub mod skips;
pub mod wire;
