//! The console: the databases `pgbaton` and `pgbouncer`, over the simple query protocol.
//!
//! It looks at the other rooms through snapshots and never holds one of their locks while it
//! sends. pgwire encodes what it answers; what it reads goes through our own framing first.

mod command;
mod execute;
mod reply;
mod show;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::client::login::ConsoleClient;
use crate::client::{ConsoleSeat, Hub};
use crate::protocol::TransactionStatus;
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::{Framed, Message, ReadError};
use command::Command;
use execute::{Failure, Outcome, execute};

/// One connection to the console.
struct Console {
    hub: Arc<Hub>,
    framed: Framed,
    seat: ConsoleSeat,
    user: String,
    is_admin: bool,
}

/// Serves a console connection to its end.
#[must_use]
pub fn serve(hub: Arc<Hub>, client: ConsoleClient) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let ConsoleClient { framed, user, is_admin, seat, minor } = client;
        tracing::debug!(user, "console connected");
        let mut console = Console { hub: hub.clone(), framed, seat, user: user.clone(), is_admin };
        // Cancel-safe: the connection is dropped with the future. A command that waits is given
        // up, and a pause that it waits for is taken back.
        let end = tokio::select! {
            end = converse(&mut console, minor) => end,
            () = hub.stopping.cancelled() => Ok(()),
        };
        match end {
            Ok(()) | Err(ReadError::Closed) => tracing::debug!(user, "console disconnected"),
            Err(error) => tracing::info!(user, "console disconnected: {error}"),
        }
    })
}

async fn converse(console: &mut Console, minor: u16) -> Result<(), ReadError> {
    let mut out = welcome(&console.seat, minor);
    console.framed.send(&out).await?;
    let mut skipping = false;
    loop {
        let message = console.framed.message(frame::frontend_header).await?;
        out.clear();
        match message.tag {
            b'X' => return Ok(()),
            b'Q' => answer(console, &message, &mut out).await?,
            b'S' => {
                skipping = false;
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            b'H' => {}
            _ if skipping => {}
            _ => {
                skipping = true;
                let message = ErrorMessage::error(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "extended query protocol is not supported on the console",
                );
                encode::error_response(&mut out, &message);
            }
        }
        if !out.is_empty() {
            console.framed.send(&out).await?;
        }
    }
}

/// Everything from AuthenticationOk to ReadyForQuery.
fn welcome(seat: &ConsoleSeat, minor: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let version = format!("{}/pgbaton", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("server_version", version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ] {
        encode::parameter_status(&mut out, name.as_bytes(), value.as_bytes())
            .expect("BUG: our own short strings");
    }
    encode::backend_key_data(&mut out, seat.pid(), seat.secret(minor))
        .expect("BUG: our own short secret");
    encode::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// Answers one Query. What is left in `out` is still to be sent.
async fn answer(
    console: &mut Console,
    message: &Message,
    out: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let command = decode::query(&message.body)
        .map_err(|e| ErrorMessage::error(e.sqlstate(), e.to_string()))
        .map(String::from_utf8_lossy)
        .and_then(|text| Command::parse(&text));
    let mut order = None;
    match command {
        Err(message) => encode::error_response(out, &message),
        Ok(Command::Empty) => encode::empty_query_response(out),
        Ok(command) => {
            let tag = command.tag();
            match execute(console, command).await {
                Ok(Outcome::Table(table)) => reply::table(out, &table, tag),
                Ok(Outcome::Done) => reply::complete(out, tag),
                Ok(Outcome::DoneThen(then)) => {
                    reply::complete(out, tag);
                    order = Some(then);
                }
                Err(Failure::Told(message)) => encode::error_response(out, &message),
                Err(Failure::Gone(error)) => return Err(error),
            }
        }
    }
    encode::ready_for_query(out, TransactionStatus::Idle);
    if let Some(order) = order {
        // Told before it is carried out: afterwards there may be nobody to tell.
        console.framed.send(out).await?;
        out.clear();
        // Nobody takes orders any more only if pgbaton is stopping already.
        let _ = console.hub.orders.send(order);
    }
    Ok(())
}
