//! What a login needs a server for: the pool's first greeting, and settings nobody has tried yet.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use crate::client::end::{LoginError, SessionEnd};
use crate::client::hub::Worker;
use crate::net::with_scratch;
use crate::pool::{Checkout, Hint, Outcome, Permit, Ticket};
use crate::primitives::clock;
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame::{self, HEADER_LEN};
use crate::protocol::ledger::{Expects, Fate, Owed};
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::Parameter;
use crate::server::pools::{DialPlace, ServerPool, Slot};
use crate::server::replies::{self, ReplyObserver};
use crate::server::{Greeting, Server, ServerFault, ServerLease, Settings, error_message, idle};

/// The pool's greeting; its first client waits for a server to log in.
pub(super) async fn greeting(
    pool: &Arc<ServerPool>,
    worker: &Arc<Worker>,
) -> Result<Arc<Greeting>, LoginError> {
    loop {
        if let Some(message) = pool.standing_failure(clock::now()) {
            return Err(LoginError::Refused(message));
        }
        if let Some(greeting) = pool.greeting() {
            return Ok(greeting);
        }
        let lease = Box::pin(borrow(pool, worker)).await?;
        idle::park(lease, worker.index);
    }
}

/// The settings in the form in which the server reports them, once a server has accepted them.
/// `application_name` alone is not worth a server: any value will do.
pub(super) async fn settings(
    pool: &Arc<ServerPool>,
    worker: &Arc<Worker>,
    wanted: Arc<Settings>,
) -> Result<Arc<Settings>, LoginError> {
    if let Some(accepted) = pool.known_settings(&wanted) {
        return Ok(accepted);
    }
    let accepted = Box::pin(accepted(pool, worker, &wanted)).await?;
    pool.remember_settings(wanted.fingerprint(), accepted.clone());
    Ok(accepted)
}

async fn accepted(
    pool: &Arc<ServerPool>,
    worker: &Arc<Worker>,
    wanted: &Arc<Settings>,
) -> Result<Arc<Settings>, LoginError> {
    if wanted.iter().all(|(name, _)| name == "application_name") {
        return Ok(wanted.clone());
    }
    let others = wanted.with("application_name", None);
    let accepted = match pool.known_settings(&others) {
        Some(accepted) => accepted,
        None => {
            let lease = borrow(pool, worker).await?;
            let accepted = try_out(lease, worker, &others).await?;
            pool.remember_settings(others.fingerprint(), accepted.clone());
            accepted
        }
    };
    match wanted.value("application_name") {
        Some(name) => Ok(accepted.with("application_name", Some(name))),
        None => Ok(accepted),
    }
}

/// A server for the length of a login.
async fn borrow(pool: &Arc<ServerPool>, worker: &Arc<Worker>) -> Result<ServerLease, LoginError> {
    let mut next = slot(pool, worker).await?;
    loop {
        let lease = match next {
            Slot::Used(lease) if lease.needs_check(clock::now()) => {
                pool.clone().check(lease, dial_place(worker)).await.ok()
            }
            Slot::Used(lease) => Some(lease),
            Slot::New(permit) => match dial(pool, worker, permit).await? {
                Dialled::Server(lease) => Some(lease),
                Dialled::NotYet(ticket) => {
                    next = wait(pool, ticket).await?;
                    continue;
                }
            },
        };
        if let Some(lease) = lease {
            match take_over(lease, worker).await {
                Ok(lease) => return Ok(lease),
                Err(fault) => tracing::debug!("idle server was lost: {fault}"),
            }
        }
        next = slot(pool, worker).await?;
    }
}

/// A slot of the pool, waited for in line. Dropping the future gives it back.
async fn slot(pool: &Arc<ServerPool>, worker: &Arc<Worker>) -> Result<Slot, LoginError> {
    match pool.pool.checkout(hint(worker), clock::now()) {
        Checkout::Ready(lease) => Ok(Slot::Used(lease)),
        Checkout::Connect(permit) => Ok(Slot::New(permit)),
        Checkout::Wait(ticket) => wait(pool, ticket).await,
        Checkout::Refused(refusal) => Err(no_server(&SessionEnd::Refused(refusal))),
    }
}

async fn wait(pool: &ServerPool, mut ticket: Ticket<Box<Server>>) -> Result<Slot, LoginError> {
    let outcome = tokio::select! {
        biased;
        // Cancel-safe: what a ticket was handed goes on when it is dropped.
        outcome = poll_fn(|cx| ticket.poll_wait(cx)) => outcome,
        message = pool.next_failure() => return Err(LoginError::Refused(message)),
    };
    match outcome {
        Outcome::Handed(lease) => Ok(Slot::Used(lease)),
        Outcome::Connect(permit) => Ok(Slot::New(permit)),
        Outcome::Expired { .. } => Err(no_server(&SessionEnd::QueryWaitTimeout)),
        Outcome::Refused(refusal) => Err(match pool.last_failure() {
            Some(message) => LoginError::Refused(message),
            None => no_server(&SessionEnd::Refused(refusal)),
        }),
    }
}

fn hint(worker: &Worker) -> Hint {
    Hint { shard: worker.index, state: 0 }
}

/// A server of the client's own, logged in with its own parameters, and that server's greeting.
pub(super) async fn dedicated(
    pool: &Arc<ServerPool>,
    worker: &Arc<Worker>,
    parameters: &[Parameter],
) -> Result<(ServerLease, Greeting), LoginError> {
    if let Some(message) = pool.standing_failure(clock::now()) {
        return Err(LoginError::Refused(message));
    }
    let slot = slot(pool, worker).await?;
    let dedicated = pool.clone().dedicate(slot, dial_place(worker), parameters).await;
    dedicated.map_err(|error| LoginError::Refused(error.client_message()))
}

fn dial_place(worker: &Worker) -> DialPlace {
    DialPlace { worker: worker.index, inbox: worker.inbox.clone() }
}

fn no_server(end: &SessionEnd) -> LoginError {
    match end.client_message() {
        Some(message) => LoginError::Refused(message),
        None => LoginError::NoSession,
    }
}

/// What a dial for a login came to.
enum Dialled {
    Server(ServerLease),
    /// The failure may pass: the login waits on, in its old place.
    NotYet(Ticket<Box<Server>>),
}

/// Dials for a login. A pool that has never had a server does not wait out a failure: its clients are
/// told at once. Afterwards a login is one of those who wait.
async fn dial(
    pool: &Arc<ServerPool>,
    worker: &Arc<Worker>,
    permit: Permit<Box<Server>>,
) -> Result<Dialled, LoginError> {
    let failure = match pool.clone().dial(permit, dial_place(worker)).await {
        Ok(lease) => return Ok(Dialled::Server(lease)),
        Err(failure) => failure,
    };
    let may_wait = failure.error.is_transient() || pool.has_servers();
    if may_wait && pool.greeting().is_some() {
        let ticket = failure.permit.requeue(failure.retry_at, hint(worker), clock::now());
        return Ok(Dialled::NotYet(ticket));
    }
    failure.permit.fail(failure.retry_at);
    if !failure.error.is_transient() {
        pool.refuse_waiters();
    }
    Err(LoginError::Refused(failure.error.client_message()))
}

async fn take_over(
    mut lease: ServerLease,
    worker: &Arc<Worker>,
) -> Result<ServerLease, ServerFault> {
    poll_fn(|cx| Poll::Ready(idle::absorb(&mut lease, cx))).await?;
    if lease.home != worker.index {
        lease.rehome(worker.index, worker.inbox.clone())?;
    }
    Ok(lease)
}

/// Applies `wanted` to a server and gives them back as it reported them. The server keeps them:
/// the client about to be greeted is likely to be the next to use it.
async fn try_out(
    mut lease: ServerLease,
    worker: &Arc<Worker>,
    wanted: &Arc<Settings>,
) -> Result<Arc<Settings>, LoginError> {
    let mut trial = Trial { values: Vec::new(), refusal: None };
    let set: Vec<String> =
        wanted.changed_from(&lease.settings).map(|(name, _)| name.to_owned()).collect();
    if let Some(sql) = wanted.replay_sql(&lease.settings) {
        let mut query = Vec::new();
        encode::query(&mut query, sql.as_bytes())
            .map_err(|e| LoginError::refused(SqlState::INVALID_PARAMETER_VALUE, e.to_string()))?;
        lease.ledger.push(Owed::client(Expects::Query));
        lease.transport.write_all(&query).await?;
        while !lease.ledger.is_settled() {
            read(&mut lease, &mut trial).await.map_err(|fault| match fault.client_message() {
                Some(message) => LoginError::Refused(message),
                None => LoginError::NoSession,
            })?;
        }
    }
    if let Some(message) = trial.refusal {
        // The whole query was one transaction: the server is as it was.
        idle::park(lease, worker.index);
        return Err(LoginError::Refused(message));
    }
    // set_config() gives each value back as the server reports it.
    let mut accepted = wanted.clone();
    for (name, value) in set.iter().zip(&trial.values) {
        if accepted.value(name) != Some(value) {
            accepted = accepted.with(name, Some(value));
        }
    }
    lease.settings = accepted.clone();
    idle::park(lease, worker.index);
    Ok(accepted)
}

async fn read(server: &mut Server, trial: &mut Trial) -> Result<(), ServerFault> {
    poll_fn(|cx| {
        with_scratch(|scratch| {
            let filled = ready!(server.poll_fill(cx, &mut scratch.input))?;
            let input = &scratch.input[..filled];
            let walked = replies::walk(server, trial, input, &mut scratch.output)?;
            trial.read(walked.bytes);
            server.keep(&input[walked.consumed..]);
            Poll::Ready(Ok(()))
        })
    })
    .await
}

/// What a server makes of settings.
struct Trial {
    /// One for each that was set, in their order.
    values: Vec<Vec<u8>>,
    refusal: Option<ErrorMessage>,
}

impl Trial {
    /// Looks for rows and an ErrorResponse. These replies are short and whole.
    fn read(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(header)) = frame::backend_header(bytes) {
            let Some(frame) = bytes.get(..header.len) else {
                return;
            };
            if header.tag == b'E'
                && self.refusal.is_none()
                && let Ok(fields) = decode::error_fields(&frame[HEADER_LEN..])
            {
                let error = error_message(&fields);
                self.refusal = Some(ErrorMessage::fatal(error.code, error.message));
            }
            // One column: its count and length stand in front.
            if header.tag == b'D' {
                let value = frame.get(HEADER_LEN + 6..).unwrap_or_default();
                self.values.push(value.to_vec());
            }
            bytes = &bytes[header.len..];
        }
    }
}

impl ReplyObserver for Trial {
    fn parsed(&mut self, _: u64) {}
    fn renamed(&mut self, _: Result<(), Fate>) {}
    fn query_completed(&mut self) {}

    fn name_of(&self, _: u64, _: u32) -> Option<&[u8]> {
        None
    }

    fn parameter_reported(&mut self, _: &[u8], _: &[u8], _: bool) {}

    fn all_discarded(&mut self, _: bool) {}
}
