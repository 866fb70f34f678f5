//! How long a client may be idle, in a transaction, or in a query, and whether it is still there.
//!
//! One task per worker looks over that worker's clients now and then; there is no timer per client.
//! It goes by what a client shows of itself and only asks the session to look: the session, which
//! knows exactly, decides. So a client is ended a little late, never wrongly.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::end::SessionEnd;
use super::hub::{Hub, Worker};
use super::session::{Link, Session};
use super::shared::{ClientShared, ClientState, Signal};
use crate::config::PoolMode;
use crate::primitives::{Tick, clock};
use crate::protocol::error::ErrorMessage;
use crate::protocol::{TransactionStatus, encode};
use crate::server::TimeLimits;

/// How often clients are looked over at least, so that a reload is noticed.
const PERIOD_MAX: Duration = Duration::from_secs(1);
/// How often they are looked over at most.
const PERIOD_MIN: Duration = Duration::from_millis(20);

/// A limit that a client has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLimit {
    /// `client_idle_timeout`.
    Idle,
    /// `idle_transaction_timeout`.
    IdleTransaction,
    /// `transaction_timeout`.
    Transaction,
    /// `query_timeout`.
    Query,
}

/// Looks over the clients of one worker until `stop`.
pub async fn watch(hub: Arc<Hub>, worker: Arc<Worker>, stop: CancellationToken) {
    loop {
        let (shortest, notify) = {
            let config = hub.config.load();
            let notify = config.general.query_wait_notify;
            (config.shortest_time_limit().into_iter().chain(notify).min(), notify)
        };
        let period = shortest.map_or(PERIOD_MAX, |limit| (limit / 4).clamp(PERIOD_MIN, PERIOD_MAX));
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: nothing is kept between two looks.
            () = tokio::time::sleep(period) => {}
        }
        let now = clock::now();
        let clients = worker.clients();
        let overdue = clients.iter().filter(|c| {
            is_long_under_way(c, now) || may_exceed(c, now) || c.is_to_be_notified(notify, now)
        });
        overdue.for_each(|client| client.signal(Signal::Look));
    }
}

/// Whether a request takes so long that it is worth a look whether its client is still there: while
/// nothing more is read from a client, no event tells of a reset.
fn is_long_under_way(client: &ClientShared, now: Tick) -> bool {
    client.state() == ClientState::Active && now.since(client.state_since()) >= PERIOD_MAX
}

/// Whether a client's session should look at its limits.
fn may_exceed(client: &ClientShared, now: Tick) -> bool {
    let limits = client.time_limits();
    let since = client.state_since();
    let exceeds = |limit: Option<Duration>, since| limit.is_some_and(|l| now.since(since) >= l);
    match client.state() {
        ClientState::Idle => exceeds(limits.idle, since),
        ClientState::Waiting => exceeds(client.wait_timeout(), since),
        ClientState::Linked => {
            exceeds(limits.idle_transaction, since)
                || exceeds(limits.transaction, client.linked_since())
        }
        ClientState::Active => {
            exceeds(limits.query, since) || exceeds(limits.transaction, client.linked_since())
        }
    }
}

impl Session {
    /// The limit that the client exceeds now.
    pub(super) fn exceeded_limit(&self) -> Option<TimeLimit> {
        let (now, client) = (clock::now(), self.client());
        let limits: TimeLimits = client.time_limits();
        let exceeds =
            |limit: Option<Duration>, since: Tick| limit.is_some_and(|l| now.since(since) >= l);
        match &self.link {
            Link::Unlinked => exceeds(limits.idle, client.state_since()).then_some(TimeLimit::Idle),
            // A wait has query_wait_timeout.
            Link::Waiting(_) | Link::Dialing(_) | Link::Releasing(_) => None,
            Link::Linked(lease) => {
                // What it has sent is answered: the server waits for it, if only for a Sync.
                let is_quiet = lease.ledger.is_empty();
                let in_transaction = lease.tx != TransactionStatus::Idle
                    || lease.ledger.needs_sync()
                    || (self.mode != PoolMode::Session && !is_quiet);
                if in_transaction && exceeds(limits.transaction, client.linked_since()) {
                    Some(TimeLimit::Transaction)
                } else if is_quiet && in_transaction {
                    exceeds(limits.idle_transaction, client.state_since())
                        .then_some(TimeLimit::IdleTransaction)
                } else if !is_quiet && exceeds(limits.query, client.state_since()) {
                    Some(TimeLimit::Query)
                } else {
                    None
                }
            }
        }
    }

    /// Asked to look at the limits: the end, if one is exceeded.
    pub(super) fn look_at_limits(&mut self) -> Option<SessionEnd> {
        self.client().has_looked();
        self.notify_of_wait();
        if let Some(limit) = self.exceeded_limit() {
            return Some(SessionEnd::TimeLimit(limit));
        }
        // In line, the timeout thread sees to it; a dial or a check may take longer than a client waits.
        let waited = clock::now().since(self.client().state_since());
        if matches!(self.link, Link::Dialing(_))
            && self.client().wait_timeout().is_some_and(|limit| waited >= limit)
        {
            return Some(SessionEnd::QueryWaitTimeout);
        }
        let is_served = matches!(self.link, Link::Linked(_)) && !self.terminated;
        (is_served && self.transport.is_broken()).then_some(SessionEnd::ClientClosed)
    }

    /// Tells a client that has waited for long that it waits, once per wait. Whoever polls next, which is
    /// at once, sends it.
    fn notify_of_wait(&mut self) {
        let notify = self.place.hub().config.load().general.query_wait_notify;
        let waits = matches!(self.link, Link::Waiting(_) | Link::Dialing(_));
        if waits && self.client().is_to_be_notified(notify, clock::now()) {
            self.client().note_notified();
            let text = "No server connection available in postgres backend, client being queued";
            encode::notice_response(&mut self.unsent, &ErrorMessage::notice(text));
        }
    }
}
