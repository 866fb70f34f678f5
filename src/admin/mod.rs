//! The console: the databases `pgbaton` and `pgbouncer`.
//!
//! It looks at the other rooms through snapshots and never holds one of their locks while it
//! sends. pgwire encodes what it answers; what it reads goes through our own framing first.

mod command;
mod execute;
mod extended;
mod reply;
mod show;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::client::login::ConsoleClient;
use crate::client::orders::Order;
use crate::client::{ConsoleSeat, Hub};
use crate::protocol::TransactionStatus;
use crate::protocol::decode::{self, Target};
use crate::protocol::encode;
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::{Framed, Message, ReadError};
use command::Command;
use execute::{Failure, Outcome, execute};
use extended::{Portal, Prepared};

/// One connection to the console.
struct Console {
    hub: Arc<Hub>,
    framed: Framed,
    seat: ConsoleSeat,
    user: String,
    is_admin: bool,
    /// To be given when the answer has been sent: afterwards there may be nobody to be told.
    order_to_give: Option<Order>,
}

/// Serves a console connection to its end.
#[must_use]
pub fn serve(hub: Arc<Hub>, client: ConsoleClient) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let ConsoleClient { framed, user, is_admin, seat } = client;
        tracing::debug!(user, "console connected");
        let (hub_of_console, name) = (hub.clone(), user.clone());
        let mut console = Console {
            hub: hub_of_console,
            framed,
            seat,
            user: name,
            is_admin,
            order_to_give: None,
        };
        // Cancel-safe: the connection is dropped with the future. A command that waits is given
        // up, and a pause that it waits for is taken back.
        let end = tokio::select! {
            end = converse(&mut console) => end,
            () = hub.stopping.cancelled() => Ok(()),
        };
        console.framed.transport.say_closing();
        match end {
            Ok(()) | Err(ReadError::Closed) => tracing::debug!(user, "console disconnected"),
            Err(error) => tracing::info!(user, "console disconnected: {error}"),
        }
    })
}

async fn converse(console: &mut Console) -> Result<(), ReadError> {
    let mut out = welcome(&console.seat);
    console.framed.send(&out).await?;
    let mut prepared = Prepared::default();
    let mut skipping = false;
    loop {
        let message = console.framed.message(frame::frontend_header).await?;
        out.clear();
        match message.tag {
            b'X' => return Ok(()),
            b'Q' => {
                prepared.drop_portals();
                query(console, &message, &mut out).await?;
            }
            b'S' => {
                skipping = false;
                prepared.drop_portals();
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            _ if skipping => {}
            _ => {
                let answered = extended(console, &mut prepared, &message, &mut out).await;
                match answered {
                    Ok(()) => {}
                    Err(Failure::Gone(error)) => return Err(error),
                    Err(Failure::Told(message)) => {
                        skipping = true;
                        encode::error_response(&mut out, &message);
                    }
                }
            }
        }
        if !out.is_empty() {
            console.framed.send(&out).await?;
        }
        if let Some(order) = console.order_to_give.take() {
            // Nobody takes orders any more only if pgbaton is stopping already.
            let _ = console.hub.orders.send(order);
        }
    }
}

/// Everything from AuthenticationOk to ReadyForQuery.
fn welcome(seat: &ConsoleSeat) -> Vec<u8> {
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
    encode::backend_key_data(&mut out, seat.pid(), seat.secret())
        .expect("BUG: our own short secret");
    encode::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// Answers one Query.
async fn query(
    console: &mut Console,
    message: &Message,
    out: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let command = decode::query(&message.body)
        .map_err(|e| ErrorMessage::error(e.sqlstate(), e.to_string()))
        .map(String::from_utf8_lossy)
        .and_then(|text| Command::parse(&text));
    let answered = match command {
        Ok(command) => {
            let portal = Portal { command, formats: Vec::new() };
            run(console, portal, true, out).await
        }
        Err(message) => Err(Failure::Told(message)),
    };
    match answered {
        Ok(()) => {}
        Err(Failure::Told(message)) => encode::error_response(out, &message),
        Err(Failure::Gone(error)) => return Err(error),
    }
    encode::ready_for_query(out, TransactionStatus::Idle);
    Ok(())
}

/// Answers one message of the extended protocol.
async fn extended(
    console: &mut Console,
    prepared: &mut Prepared,
    message: &Message,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let body = &message.body;
    match message.tag {
        b'P' => prepared.parse(body).map(|()| encode::parse_complete(out))?,
        b'B' => prepared.bind(body).map(|()| encode::bind_complete(out))?,
        b'C' => prepared.close(body).map(|()| encode::close_complete(out))?,
        b'D' => {
            let (target, portal) = prepared.describe(body)?;
            if target == Target::Statement {
                reply::no_parameters(out);
            }
            match execute::columns(console, &portal.command) {
                Some(columns) => reply::description(out, &columns, &portal.formats),
                None => encode::no_data(out),
            }
        }
        b'E' => run(console, prepared.execute(body)?, false, out).await?,
        // Flush: everything is sent at once anyway.
        b'H' => {}
        tag => {
            return Err(Failure::Told(ErrorMessage::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("the console has no use for message type {:?}", char::from(tag)),
            )));
        }
    }
    Ok(())
}

/// Carries a command out and appends what it brings.
async fn run(
    console: &mut Console,
    portal: Portal,
    describe: bool,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let Portal { command, formats } = portal;
    let tag = command.tag();
    if command == Command::Empty {
        encode::empty_query_response(out);
        return Ok(());
    }
    match execute(console, command).await? {
        Outcome::Table(table) => {
            if describe {
                reply::description(out, &table.columns, &formats);
            }
            reply::rows(out, &table, &formats);
            reply::complete(out, tag);
        }
        Outcome::Done => reply::complete(out, tag),
        Outcome::DoneThen(order) => {
            reply::complete(out, tag);
            console.order_to_give = Some(order);
        }
    }
    Ok(())
}
