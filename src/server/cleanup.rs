//! What becomes of a server whose client is gone: it is brought back to a state in which any
//! client may have it, within a bounded time, or closed.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use super::ServerLease;
use super::cancel::CancelInFlight;
use super::connection::{Server, ServerState};
use super::error::ServerFault;
use super::replies::{self, Aftermath};
use crate::net::{SocketOptions, with_scratch};
use crate::protocol::TransactionStatus;
use crate::protocol::encode;
use crate::protocol::ledger::{Expects, Owed};

/// How long after a cancel the next one is sent, if something still runs.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);

/// Limit for the cancel that follows a server which had to be closed.
const LAST_CANCEL: Duration = Duration::from_secs(1);

/// How the client went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It said Terminate: what it had asked for before is carried out.
    Terminated,
    /// It vanished: what runs is cancelled.
    Vanished,
}

/// What clean-up needs to know.
#[derive(Debug, Clone)]
pub struct CleanUp {
    /// How the client went.
    pub departure: Departure,
    /// Whether the client left a message half sent.
    pub mid_message: bool,
    /// `server_reset_query`, if it is to be run.
    pub reset_query: Option<Arc<str>>,
    /// Limit for each of: letting the running request end, and the rest.
    pub deadline: Duration,
    /// TCP options, for the cancel connection.
    pub socket_options: SocketOptions,
}

/// Why the server had to be closed.
#[derive(Debug, thiserror::Error)]
pub enum CleanUpError {
    /// A message was sent to it in part; nothing else can be said on that connection.
    #[error("client left in the middle of a message")]
    MidMessage,
    /// More was sent to it than what runs. A cancel would end that alone, and PostgreSQL would carry
    /// out the rest: of a transaction, half.
    #[error("client left with several requests under way")]
    Pipelined,
    /// It failed.
    #[error(transparent)]
    Fault(#[from] ServerFault),
    /// `server_reset_query` cannot be sent.
    #[error("server_reset_query: {0}")]
    Query(#[from] encode::EncodeError),
    /// It took too long.
    #[error("clean-up took longer than client_cleanup_timeout")]
    TimedOut,
    /// Its transaction could not be ended, or the reset query failed.
    #[error("server is in transaction state {0:?} after clean-up")]
    NotIdle(TransactionStatus),
}

impl From<io::Error> for CleanUpError {
    fn from(e: io::Error) -> Self {
        Self::Fault(ServerFault::Io(e))
    }
}

/// Cleans a server up. Dropping the future closes the server.
///
/// # Errors
/// [`CleanUpError`]: the server is closed and its slot free, and what it may still run is cancelled,
/// since PostgreSQL does not look whether its client is there before it has something to say.
pub async fn clean_up(lease: ServerLease, plan: &CleanUp) -> Result<ServerLease, CleanUpError> {
    let shared = lease.shared.clone();
    let cleaned = try_clean_up(lease, plan).await;
    if matches!(
        cleaned,
        Err(CleanUpError::TimedOut | CleanUpError::MidMessage | CleanUpError::Pipelined)
    ) {
        let last = CancelInFlight::new(shared);
        // The server is on its own then, until it speaks.
        let _ = last.send(&plan.socket_options, LAST_CANCEL).await;
    }
    cleaned
}

async fn try_clean_up(mut lease: ServerLease, plan: &CleanUp) -> Result<ServerLease, CleanUpError> {
    if plan.mid_message || !lease.unsent.is_empty() {
        return Err(CleanUpError::MidMessage);
    }
    lease.shared.set_state(ServerState::Tested);
    if plan.departure == Departure::Terminated && !lease.ledger.in_copy_in() {
        // It may end by itself; what does not is treated as a vanished client's.
        let ended = tokio::time::timeout(plan.deadline, end_requests(&mut lease, None)).await;
        if let Ok(result) = ended {
            result?;
        }
    }
    let cleaned = tokio::time::timeout(plan.deadline, make_free(&mut lease, plan)).await;
    if matches!(cleaned, Err(_) | Ok(Err(CleanUpError::Pipelined))) {
        // Queries that wait in the backend's buffer must not run.
        lease.transport.reset_on_close();
    }
    cleaned.unwrap_or(Err(CleanUpError::TimedOut))?;
    Ok(lease)
}

async fn make_free(server: &mut Server, plan: &CleanUp) -> Result<(), CleanUpError> {
    end_requests(server, Some(plan)).await?;
    server.shared.cancels.cleared().await;
    if server.tx != TransactionStatus::Idle {
        query(server, "ROLLBACK").await?;
    }
    if let Some(reset_query) = &plan.reset_query {
        query(server, reset_query).await?;
        forget_what_was_reset(server, reset_query);
    }
    if server.is_free() { Ok(()) } else { Err(CleanUpError::NotIdle(server.tx)) }
}

/// Forgets the settings that a reset query has taken from a server. Of its statements the server's
/// answers tell.
pub fn forget_what_was_reset(server: &mut Server, reset_query: &str) {
    let words: Vec<String> =
        reset_query.split([' ', '\t', '\r', '\n', ';']).map(str::to_ascii_lowercase).collect();
    let has = |command: &str| words.windows(2).any(|pair| pair == [command, "all"]);
    if has("reset") || has("discard") {
        server.settings = Arc::default();
    }
}

/// Runs a query of our own and waits for its end.
pub(super) async fn query(server: &mut Server, sql: &str) -> Result<(), CleanUpError> {
    let mut message = Vec::new();
    encode::query(&mut message, sql.as_bytes())?;
    server.ledger.push(Owed::pooler(Expects::Query));
    send(server, &message).await?;
    while !server.ledger.is_settled() {
        read_replies(server).await?;
    }
    Ok(())
}

/// Waits until nothing is owed. With a plan, the one request that still runs is cancelled, again and
/// again: a cancel that comes before the server has begun with it is lost, and one may be
/// caught by what runs. Of several requests none may be taken out: [`CleanUpError::Pipelined`].
async fn end_requests(server: &mut Server, cancel: Option<&CleanUp>) -> Result<(), CleanUpError> {
    loop {
        if server.ledger.in_copy_in() {
            let mut fail = Vec::new();
            encode::copy_fail(&mut fail, b"client connection lost")?;
            server.ledger.push(Owed::client(Expects::CopyEnd));
            send(server, &fail).await?;
        }
        if server.ledger.needs_sync() {
            give_up_group(server).await?;
        }
        if server.ledger.is_settled() {
            return Ok(());
        }
        if server.ledger.wants_question() {
            query(server, "").await?;
            continue;
        }
        match cancel {
            None => read_while_owed(server, 0).await?,
            Some(_) if server.ledger.groups_owed() > 1 => return Err(CleanUpError::Pipelined),
            Some(plan) => {
                // A cancel that does not get through is no reason to give up: the query may end.
                let cancel = CancelInFlight::new(server.shared.clone());
                let _ = cancel.send(&plan.socket_options, plan.deadline).await;
                // Reading may be dropped at any point: what was read is in the server.
                let one_less = server.ledger.len().saturating_sub(1);
                let read = read_while_owed(server, one_less);
                let read = tokio::time::timeout(CANCEL_AGAIN, read).await;
                if let Ok(result) = read {
                    result?;
                }
            }
        }
    }
}

/// Ends a group of extended-protocol messages whose Sync the client did not live to send. A Sync
/// alone would commit what it has done; PostgreSQL rolls it back when a client leaves it so. A
/// ROLLBACK ends the implicit transaction, or is skipped if that has failed already.
async fn give_up_group(server: &mut Server) -> Result<(), CleanUpError> {
    let mut messages = Vec::new();
    encode::query(&mut messages, b"ROLLBACK")?;
    encode::sync(&mut messages);
    server.ledger.push(Owed::pooler(Expects::Query));
    server.ledger.push(Owed::pooler(Expects::Sync));
    send(server, &messages).await?;
    Ok(())
}

/// Reads until no more than `owed_max` replies are owed, or there is something to be sent first.
async fn read_while_owed(server: &mut Server, owed_max: usize) -> Result<(), ServerFault> {
    while (server.ledger.len() > owed_max || owed_max == 0)
        && !server.ledger.is_settled()
        && !server.ledger.needs_sync()
        && !server.ledger.in_copy_in()
        && !server.ledger.wants_question()
    {
        read_replies(server).await?;
    }
    Ok(())
}

async fn send(server: &mut Server, bytes: &[u8]) -> Result<(), ServerFault> {
    server.transport.write_all(bytes).await?;
    Ok(())
}

/// Reads once and walks over what came; nobody gets it.
async fn read_replies(server: &mut Server) -> Result<(), ServerFault> {
    poll_fn(|cx| {
        with_scratch(|scratch| {
            let filled = ready!(server.poll_fill(cx, &mut scratch.input))?;
            let input = &scratch.input[..filled];
            let mut aftermath = Aftermath::default();
            let walked = replies::walk(server, &mut aftermath, input, &mut scratch.output)?;
            let consumed = walked.consumed;
            aftermath.apply(server);
            server.keep(&input[consumed..]);
            if server.doomed {
                return Poll::Ready(Err(ServerFault::Fatal));
            }
            Poll::Ready(Ok(()))
        })
    })
    .await
}
