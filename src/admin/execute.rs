//! What the console's commands do.
//!
//! Must not know messages. What concerns the whole process goes to the composition root as an
//! order. Commands that wait look again every few milliseconds: what they wait for has many causes,
//! and an operator does not mind; nothing depends on their being woken. While they wait, a cancel
//! request or the client's leaving ends them.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::command::{Command, Target};
use super::show;
use super::{
    Console,
    reply::{Column, Table},
};
use crate::client::orders::Order;
use crate::client::{Hub, Signal};
use crate::config::{ConfigError, is_console_database};
use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::ReadError;
use crate::server::{Resumed, Scope};

/// Between two looks at what a command waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Bytes that are read ahead while a command waits, to learn that the client has left.
const READ_AHEAD_MAX: usize = 64 * 1024;

/// What a command brings.
pub(super) enum Outcome {
    /// Rows, then the command's tag.
    Table(Table),
    /// The command's tag.
    Done,
    /// The command's tag; the order is given when it has been sent.
    DoneThen(Order),
}

/// Why a command brings nothing.
pub(super) enum Failure {
    /// The client is told.
    Told(ErrorMessage),
    /// The client is gone.
    Gone(ReadError),
}

impl From<ErrorMessage> for Failure {
    fn from(message: ErrorMessage) -> Self {
        Self::Told(message)
    }
}

/// Why a wait ended before its time.
enum Interrupted {
    Cancelled,
    Gone(ReadError),
}

impl From<Interrupted> for Failure {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Cancelled => Self::Told(ErrorMessage::error(
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request",
            )),
            Interrupted::Gone(error) => Self::Gone(error),
        }
    }
}

/// The columns of the table that a command brings, if it brings one.
pub(super) fn columns(console: &Console, command: &Command) -> Option<Vec<Column>> {
    match command {
        Command::Show(what) => Some(show::table(&console.hub, *what).columns),
        Command::ShowOfDriver(name, value) => Some(show::one_value(name, value).columns),
        _ => None,
    }
}

/// Carries a command out.
pub(super) async fn execute(console: &mut Console, command: Command) -> Result<Outcome, Failure> {
    if !console.is_admin && !command.is_harmless() {
        return Err(failure(SqlState::INSUFFICIENT_PRIVILEGE, "admin access needed"));
    }
    if !command.is_harmless() {
        tracing::info!(user = console.user, "console: {command:?}");
    }
    let hub = console.hub.clone();
    match command {
        Command::Empty | Command::SetOfDriver => {}
        Command::Show(what) => return Ok(Outcome::Table(show::table(&hub, what))),
        Command::ShowOfDriver(name, value) => {
            return Ok(Outcome::Table(show::one_value(name, value)));
        }
        Command::Set { key, value } => {
            let done = console.order(|done| Order::Set { key, value, done }).await?;
            done.map_err(|error| failure(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))?;
        }
        Command::Reload => {
            console.order(Order::Reload).await?.map_err(|error| reload_failed(&error))?;
        }
        Command::Pause(target) => {
            let scope = console.scope(target, "pause")?;
            pause(console, scope).await?;
        }
        Command::Resume(target) => resume(console, target)?,
        Command::Disable(name) => {
            console.scope(Some(name.clone()), "disable")?;
            hub.set_disabled(&name, true);
        }
        Command::Enable(name) => {
            if !hub.is_disabled(&name) {
                console.scope(Some(name.clone()), "enable")?;
            }
            hub.set_disabled(&name, false);
        }
        Command::Reconnect(target) => {
            hub.pools.reconnect(&console.scope(target, "reconnect")?);
        }
        Command::WaitClose(target) => {
            let scope = console.scope(target, "wait for")?;
            console.wait(|| (hub.pools.stale(&scope) == 0).then_some(())).await?;
        }
        Command::Kill(target) => kill(&hub, &console.scope(target, "kill")?),
        Command::KillClient(id) => {
            let client = hub.clients().into_iter().find(|client| client.id == id);
            let none = || failure(SqlState::UNDEFINED_OBJECT, format!("no such client: {id}"));
            client.ok_or_else(none)?.signal(Signal::Kill);
        }
        Command::Shutdown(how) => return Ok(Outcome::DoneThen(Order::Shutdown(how))),
    }
    Ok(Outcome::Done)
}

/// Returns when no server is left. Given up, the pause is taken back.
async fn pause(console: &mut Console, scope: Scope) -> Result<(), Failure> {
    let hub = console.hub.clone();
    let pause = hub.pools.pause(scope);
    let look = || match pause.left() {
        Ok(0) => Some(Ok(())),
        Ok(_) => None,
        Err(resumed) => Some(Err(resumed)),
    };
    let come_about = console.wait(look).await?;
    come_about.and_then(|()| pause.confirm()).map_err(|Resumed| {
        failure(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "RESUME came before all servers were closed",
        )
    })
}

/// Drops the clients; what they run is cancelled and rolled back, and their servers are closed.
fn kill(hub: &Hub, scope: &Scope) {
    // Paused first: nobody who is killed is followed by another.
    hub.pools.hold(scope);
    for client in hub.clients().iter().filter(|client| scope.covers(client.database())) {
        client.signal(Signal::Kill);
    }
}

fn resume(console: &Console, target: Target) -> Result<(), Failure> {
    let hub = &console.hub;
    let not_now = |text: String| failure(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
    // What was paused may have been taken from the configuration since.
    let named = target.as_deref().map(|name| Scope::Database(name.into()));
    let scope = match named.filter(|named| hub.pools.holds(named)) {
        Some(named) => named,
        None => console.scope(target.clone(), "resume")?,
    };
    if scope == Scope::All && hub.is_held_for_shutdown.load(Ordering::SeqCst) {
        return Err(not_now("pgbaton is shutting down".to_owned()));
    }
    let was_paused = hub.pools.resume(&scope);
    if scope == Scope::All && hub.is_held_for_shutdown.load(Ordering::SeqCst) {
        // Ordered between the two looks: it may have paused before this resumed.
        hub.pools.hold(&scope);
        return Err(not_now("pgbaton is shutting down".to_owned()));
    }
    match (was_paused, target) {
        (true, _) => Ok(()),
        (false, None) => Err(not_now("pgbaton is not paused".to_owned())),
        (false, Some(name)) => Err(not_now(format!("database {name} is not paused"))),
    }
}

fn failure(code: SqlState, text: impl Into<String>) -> Failure {
    Failure::Told(ErrorMessage::error(code, text))
}

/// The first mistake and its line; all of them behind it if there are more.
fn reload_failed(error: &ConfigError) -> Failure {
    let first = error.diagnostics.first().map(ToString::to_string).unwrap_or_default();
    let text = format!("RELOAD failed, nothing was changed: {first}");
    let message = ErrorMessage::error(SqlState::CONFIG_FILE_ERROR, text);
    Failure::Told(match error.diagnostics.len() {
        0 | 1 => message,
        _ => message.with_detail(error.to_string()),
    })
}

impl Console {
    /// What a command is about; a database must be one that clients can ask for.
    fn scope(&self, target: Target, what: &str) -> Result<Scope, Failure> {
        let Some(name) = target else {
            return Ok(Scope::All);
        };
        if is_console_database(&name) {
            let text = format!("cannot {what} admin db: {name}");
            return Err(failure(SqlState::INVALID_PARAMETER_VALUE, text));
        }
        if self.hub.config.load().database(&name).is_none() {
            let text = format!("no such database: {name}");
            return Err(failure(SqlState::INVALID_CATALOG_NAME, text));
        }
        Ok(Scope::Database(name.into()))
    }

    /// Has the composition root do something, and waits for its answer. Dropped meanwhile, the
    /// order is carried out all the same.
    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, Failure> {
        let (done, answer) = oneshot::channel();
        let stopping = |()| failure(SqlState::CANNOT_CONNECT_NOW, "pgbaton is shutting down");
        self.hub.orders.send(order(done)).map_err(|_| stopping(()))?;
        answer.await.map_err(|_| stopping(()))
    }

    /// Waits until `look` brings something. Cancel-safe, as the looks are.
    async fn wait<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        let mut cancelled = pin!(self.seat.cancelled());
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let framed = &mut self.framed;
            let gone = async {
                // What is read stays in the buffer, for when the command is over.
                while framed.buffer.first() != Some(&b'X') && framed.buffer.len() < READ_AHEAD_MAX {
                    if let Err(error) = framed.fill().await {
                        return error;
                    }
                }
                if framed.buffer.first() == Some(&b'X') {
                    return ReadError::Closed;
                }
                std::future::pending().await
            };
            tokio::select! {
                () = &mut cancelled => return Err(Interrupted::Cancelled),
                error = gone => return Err(Interrupted::Gone(error)),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}
