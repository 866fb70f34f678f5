//! Client sessions: accepting, logging in, relaying, and what is remembered of each client.
//!
//! Sits above `server`; knows nothing of the console but the function that it is given for it.
//! A session is one task on one worker for the client's whole life.

mod cancel;
mod cancel_secret;
mod caps;
mod consoles;
mod dedicated;
pub mod end;
pub mod hub;
pub mod listener;
mod local;
pub mod login;
mod naming;
pub mod orders;
mod relay;
mod requests;
pub mod routes;
mod session;
mod shared;
mod statements;
pub mod time_limits;
pub mod upkeep;

pub use consoles::{ConsoleSeat, Consoles};
pub use hub::{Hub, Worker};
pub use shared::{ClientShared, ClientState, Signal};
