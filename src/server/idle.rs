//! The watcher of a worker's idle servers, and of those that are on their way out.
//!
//! An idle server's socket wakes no session. Its waker names the pool in the worker's inbox; the
//! watcher then takes every such server out of the idle set at once and looks at it: the end of
//! the stream or a FATAL error frees its slot, a notice or parameter change is read away.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::ServerLease;
use super::connection::{Server, ServerState, WatchInbox};
use super::error::ServerFault;
use super::pools::ServerPool;
use super::replies::{self, Aftermath};
use crate::pool::Hint;
use crate::primitives::clock;
use crate::tasks::Tasks;

/// Watches the idle servers of one worker, and closes those that are let go, until `tasks` are asked
/// to stop.
pub async fn watch(worker: usize, inbox: Arc<WatchInbox>, tasks: Tasks, handle: Handle) {
    let mut stopped = pin!(tasks.stop().cancelled());
    loop {
        tokio::select! {
            () = &mut stopped => return,
            // Cancel-safe: what happened is in the inbox, the signal only says to look.
            () = inbox.signal.notified() => {}
        }
        for closing in inbox.take_closing() {
            let stop = tasks.stop().clone();
            tasks.spawn(&handle, async move {
                // At the end of all, the socket is closed as it is.
                let _ = stop.run_until_cancelled_owned(closing.end()).await;
            });
        }
        for pool in inbox.take() {
            if let Some(pool) = pool.upgrade() {
                look(worker, &pool);
            }
        }
    }
}

fn look(worker: usize, pool: &ServerPool) {
    for mut lease in pool.pool.take_idle(worker, |server, _| server.is_flagged()) {
        match absorb_now(&mut lease) {
            Ok(()) => park(lease, worker),
            Err(fault) => {
                tracing::info!(
                    database = &*pool.database,
                    user = &*pool.user,
                    backend_pid = lease.shared.backend_pid,
                    "idle server connection closed: {fault}"
                );
                lease.discard();
            }
        }
    }
}

/// Gives a free server back to its pool, watched, unless its life is over.
pub fn park(mut lease: ServerLease, worker: usize) {
    if lease.shared.cancels.is_in_doubt() {
        lease.discard();
        return;
    }
    let now = clock::now();
    if lease.is_life_over(now) {
        lease.log_end("server lifetime over", now);
        lease.discard();
        return;
    }
    if !lease.arm_watch() {
        // Readable, or not known yet: a look costs one read, at most.
        if absorb_now(&mut lease).is_err() {
            lease.discard();
            return;
        }
        let _ = lease.arm_watch();
    }
    lease.shared.set_state(ServerState::Idle);
    lease.rests_since = Some(now);
    let state = lease.settings.fingerprint();
    lease.check_in(Hint { shard: worker, state }, now);
}

/// [`absorb`] without a wake-up for what comes next.
///
/// # Errors
/// As [`absorb`].
pub fn absorb_now(server: &mut Server) -> Result<(), ServerFault> {
    absorb(server, &mut Context::from_waker(Waker::noop()))
}

/// Reads away what a server with nothing owed has sent: notices and parameter changes. Registers
/// `cx` for what comes next.
///
/// # Errors
/// When the server is gone, is about to be, or has said what it must not.
pub fn absorb(server: &mut Server, cx: &mut Context<'_>) -> Result<(), ServerFault> {
    // Nothing, as a rule: then there is no need for a buffer either.
    match server.transport.poll_read_ready(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(_) => absorb_readable(server, cx),
    }
}

#[cold]
fn absorb_readable(server: &mut Server, cx: &mut Context<'_>) -> Result<(), ServerFault> {
    let mut buffer = [0_u8; 2048];
    let mut output = Vec::new();
    loop {
        let n = match server.transport.poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => return Err(ServerFault::Closed),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(e.into()),
        };
        let mut input = std::mem::take(&mut server.carry);
        input.extend_from_slice(&buffer[..n]);
        output.clear();
        let mut aftermath = Aftermath::default();
        let consumed = replies::walk(server, &mut aftermath, &input, &mut output)?.consumed;
        aftermath.apply(server);
        if server.doomed {
            return Err(ServerFault::Fatal);
        }
        server.carry = input.split_off(consumed);
    }
}
