//! The console: the databases `pgbaton` and `pgbouncer`, over the simple query protocol.
//!
//! It looks at the other rooms through snapshots and never holds one of their locks while it
//! sends. pgwire encodes what it answers; what it reads goes through our own framing first.

mod command;
mod reply;
mod show;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::client::Hub;
use crate::client::login::ConsoleClient;
use crate::protocol::TransactionStatus;
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::{Framed, Message, ReadError};
use command::Command;

/// Serves a console connection to its end.
#[must_use]
pub fn serve(hub: Arc<Hub>, client: ConsoleClient) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let user = client.user.clone();
        tracing::debug!(user, "console connected");
        // Cancel-safe: the connection is dropped with the future, and nothing else is held.
        let end = tokio::select! {
            end = converse(&hub, client.framed) => end,
            () = hub.stopping.cancelled() => Ok(()),
        };
        match end {
            Ok(()) | Err(ReadError::Closed) => tracing::debug!(user, "console disconnected"),
            Err(error) => tracing::info!(user, "console disconnected: {error}"),
        }
    })
}

async fn converse(hub: &Hub, mut framed: Framed) -> Result<(), ReadError> {
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
    encode::ready_for_query(&mut out, TransactionStatus::Idle);
    framed.send(&out).await?;
    let mut skipping = false;
    loop {
        let message = framed.message(frame::frontend_header).await?;
        out.clear();
        match message.tag {
            b'X' => return Ok(()),
            b'Q' => answer(hub, &message, &mut out),
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
            framed.send(&out).await?;
        }
    }
}

fn answer(hub: &Hub, message: &Message, out: &mut Vec<u8>) {
    let outcome = decode::query(&message.body)
        .map_err(|e| ErrorMessage::error(e.sqlstate(), e.to_string()))
        .map(String::from_utf8_lossy)
        .and_then(|text| Command::parse(&text));
    match outcome {
        Ok(Command::Empty) => encode::empty_query_response(out),
        Ok(Command::Show(what)) => reply::table(out, &show::table(hub, what)),
        Err(message) => encode::error_response(out, &message),
    }
    encode::ready_for_query(out, TransactionStatus::Idle);
}
