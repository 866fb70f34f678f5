//! Cancel requests from clients: found by the virtual process id, checked, and sent on to the
//! server that the client is linked to at that moment.

use std::time::Duration;

use super::hub::Hub;

/// A cancel that takes longer than an hour is lost.
const NO_LIMIT: Duration = Duration::from_secs(3600);

/// Forwards a cancel request. Whatever becomes of it, the requester is told nothing, as by
/// PostgreSQL. Dropping the future releases the server.
pub(super) async fn forward(hub: &Hub, virtual_pid: i32, secret: &[u8]) {
    let Some(client) = hub.find(virtual_pid) else {
        tracing::debug!(virtual_pid, "cancel request for no client");
        return;
    };
    let Some(cancel) = client.begin_cancel(secret) else {
        tracing::debug!(virtual_pid, "cancel request refused, or nothing to cancel");
        return;
    };
    let limit = hub.config.load().general.cancel_wait_timeout;
    let deadline = limit.unwrap_or(NO_LIMIT);
    if let Err(e) = cancel.send(&hub.socket_options(), deadline).await {
        tracing::warn!(virtual_pid, "cancel request did not reach the server: {e}");
    }
}
