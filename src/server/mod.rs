//! Server connections: connecting and logging in, what they owe and know, cleaning up, cancelling.
//!
//! Sits above `protocol`, `auth` and `net`; knows nothing of client sockets or the console. The
//! pool of `crate::pool` is generic; here it gets its connection type and the way to dial.

pub mod cancel;
pub mod check;
pub mod cleanup;
mod closing;
mod connect;
mod connection;
pub mod credentials;
mod dial;
mod endpoint;
mod error;
pub mod framed;
mod greeting;
pub mod idle;
mod life;
pub mod lookup;
mod node;
mod pauses;
pub mod pool_set;
pub mod pools;
pub mod replies;
mod secure;
mod settings;
mod statements;
mod upkeep;

pub use connection::{INSPECT_BYTES_MAX, Refusal, Server, ServerShared, ServerState, WatchInbox};
pub use endpoint::Endpoint;
pub use error::{ConnectError, ServerFault, error_message};
pub use greeting::Greeting;
pub use life::LOOK_PERIOD;
pub use pauses::{Pause, Resumed, Scope};
pub use pools::{ServerRules, TimeLimits};
pub use settings::{Settings, is_tracked};
pub use statements::{
    NameCharge, Presence, RecentStatements, SERVER_NAME_PREFIX, ServerStatements, Statement,
    StatementStore, server_name,
};

/// A server on loan from its pool.
pub type ServerLease = crate::pool::Lease<Box<Server>>;
