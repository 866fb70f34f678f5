//! Cancel requests from clients: found by the virtual process id, checked, and sent on to the
//! server that the client is linked to at that moment. A request that still waits for a server is
//! answered without one, as PostgreSQL would answer.

use std::time::Duration;

use super::hub::Hub;
use super::requests::{First, Naming, first};
use super::session::{Link, Next, Session};
use super::shared::{Cancel, ClientState};
use crate::primitives::clock;
use crate::protocol::TransactionStatus;
use crate::protocol::encode;
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::cancel::CancelInFlight;
use crate::server::{ServerLease, idle};

/// A cancel that takes longer than an hour is lost.
const NO_LIMIT: Duration = Duration::from_secs(3600);

/// Forwards a cancel request. Whatever becomes of it, the requester is told nothing, as by
/// PostgreSQL. Dropping the future releases the server.
pub(super) async fn forward(hub: &Hub, virtual_pid: i32, secret: &[u8]) {
    if hub.consoles.cancel(virtual_pid, secret) {
        return;
    }
    let Some(client) = hub.find(virtual_pid) else {
        tracing::debug!(virtual_pid, "cancel request for no client");
        return;
    };
    match client.begin_cancel(secret) {
        Cancel::OfServer(cancel) => deliver(hub, virtual_pid, cancel).await,
        Cancel::OfWaiting => {}
        Cancel::Nothing => {
            tracing::debug!(virtual_pid, "cancel request refused, or nothing to cancel");
        }
    }
}

/// Sends a cancel to its server. Dropping the future releases the server.
async fn deliver(hub: &Hub, virtual_pid: i32, cancel: CancelInFlight) {
    let limit = hub.config.load().general.cancel_wait_timeout;
    let deadline = limit.unwrap_or(NO_LIMIT);
    if let Err(e) = cancel.send(&hub.socket_options(), deadline).await {
        tracing::warn!(virtual_pid, "cancel request did not reach the server: {e}");
    }
}

impl Session {
    /// Sends on a cancel that came while the pooler's own query ran in front of the request.
    pub(super) fn send_late_cancel(&self, lease: &ServerLease) {
        let cancel = CancelInFlight::new(lease.shared.clone());
        let (hub, virtual_pid) = (self.place.hub().clone(), self.client().virtual_pid);
        self.place.hub().tasks.spawn(&self.worker.handle, async move {
            deliver(&hub, virtual_pid, cancel).await;
        });
    }

    /// Answers the request at the head of `carry`, which no server has got, as cancelled. An
    /// unused server goes back.
    pub(super) fn cancel_waiting(&mut self, unused: Option<ServerLease>) -> Next {
        self.client().unlink();
        self.client().set_state(ClientState::Idle, clock::now());
        self.carry_is_unread = true;
        self.answer_as_cancelled();
        Next::State(match unused {
            // It was linked for a moment, in which one more cancel may have begun.
            Some(lease) if !lease.shared.cancels.is_clear() => Link::Releasing(lease),
            Some(lease) => {
                idle::park(lease, self.worker.index);
                Link::Unlinked
            }
            None => Link::Unlinked,
        })
    }

    fn answer_as_cancelled(&mut self) {
        let Ok(Some(header)) = frame::frontend_header(&self.carry) else { return };
        let text = "canceling statement due to user request";
        let error = ErrorMessage::error(SqlState::QUERY_CANCELED, text);
        match header.tag {
            // A Sync alone is nothing that could be cancelled.
            b'S' => {}
            b'Q' | b'F' => {
                encode::error_response(&mut self.unsent, &error);
                encode::ready_for_query(&mut self.unsent, TransactionStatus::Idle);
                let taken = header.len.min(self.carry.len());
                self.carry.drain(..taken);
                self.stray_left = header.len - taken;
            }
            _ => {
                encode::error_response(&mut self.unsent, &error);
                self.skips_to_sync = true;
            }
        }
    }

    /// Leaves out what an idle client's server would ignore, so that no server is taken for it:
    /// what is stray, and after a cancelled request of the extended protocol everything up to its
    /// Sync, which is answered.
    pub(super) fn skip_ignored<'a>(&mut self, mut input: &'a [u8]) -> &'a [u8] {
        let may_be_ignored = matches!(input.first(), Some(b'd' | b'c' | b'f' | b'H'));
        if self.stray_left == 0 && !self.skips_to_sync && !may_be_ignored {
            return input;
        }
        loop {
            let skipped = self.stray_left.min(input.len());
            self.stray_left -= skipped;
            input = &input[skipped..];
            match first(input, Naming::Untouched) {
                First::Stray(header) => self.stray_left = header.len,
                First::Request | First::Incomplete if self.skips_to_sync => {
                    let Ok(Some(header)) = frame::frontend_header(input) else { return input };
                    self.stray_left = header.len;
                    if header.tag == b'S' {
                        self.skips_to_sync = false;
                        encode::ready_for_query(&mut self.unsent, TransactionStatus::Idle);
                    }
                }
                _ => return input,
            }
            if input.is_empty() {
                return input;
            }
        }
    }
}
