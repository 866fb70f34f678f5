//! What a console asks of the composition root: the few things that concern the whole process.
//!
//! The root carries them out one by one, signals among them, so that two reloads or a reload and a
//! SET never mix. An order is carried out even if the console that gave it has left.

use tokio::sync::oneshot;

use crate::config::{ConfigError, SetError};

/// An order. Answers go to whoever still waits for them.
#[derive(Debug)]
pub enum Order {
    /// RELOAD.
    Reload(oneshot::Sender<Result<(), ConfigError>>),
    /// SET.
    Set {
        /// A key of `[general]`.
        key: String,
        /// Its new value, as the file would give it.
        value: String,
        /// Where the outcome goes.
        done: oneshot::Sender<Result<(), SetError>>,
    },
    /// SHUTDOWN.
    Shutdown(Shutdown),
}

/// How pgbaton is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Now: what runs is cancelled and rolled back.
    Now,
    /// When all servers have been given back: clients are held as by PAUSE.
    WhenServersAreFree,
    /// When all clients have left by themselves.
    WhenClientsLeave,
}
