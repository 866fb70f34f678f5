//! What a pool's servers need now and then: those that are old or have rested long are closed, those
//! that are to be kept are dialled.
//!
//! Called from outside every [`LOOK_PERIOD`](super::LOOK_PERIOD), for one worker at a time; there is no
//! timer per server. Must not know clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ServerLease;
use super::connection::Server;
use super::idle;
use super::pools::{DialFailure, DialPlace, ServerPool};
use crate::pool::Permit;
use crate::primitives::Tick;

impl ServerPool {
    /// Closes the idle servers of one worker that are too old or have rested too long.
    pub fn close_old(&self, worker: usize, now: Tick) {
        let settings = self.settings.load();
        if settings.limits.size == 0 {
            self.life.spread_over(self.pool.slots());
        }
        for lease in self.pool.take_idle(worker, |server, _| server.is_life_over(now)) {
            lease.log_end("server lifetime over", now);
            lease.discard();
        }
        let rules = &settings.servers;
        let Some(limit) = rules.idle_timeout else {
            return;
        };
        let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        if let Some(before) = now.as_micros().checked_sub(limit_us) {
            self.pool.retire_idle(worker, Tick::from_micros(before), rules.min, now, |server| {
                server.log_end("server idle timeout", now);
            });
        }
    }

    /// The right to dial one of the servers that are kept ready, if one is missing.
    #[must_use]
    pub fn missing(&self, worker: usize, now: Tick) -> Option<Permit<Box<Server>>> {
        let settings = self.settings.load();
        let rules = &settings.servers;
        if rules.min == 0 || !(rules.stands || self.clients.load(Ordering::Relaxed) > 0) {
            return None;
        }
        self.pool.grow(worker, rules.min, now)
    }

    /// Dials one of the servers that are kept ready. Dropping the future gives the slot back.
    pub async fn dial_spare(self: Arc<Self>, permit: Permit<Box<Server>>, place: DialPlace) {
        let worker = place.worker;
        let dialled = self.clone().dial(permit, place).await;
        self.keep(dialled, worker);
    }

    /// Ends a dial that nobody waits for: the server is everybody's.
    pub fn keep(&self, dialled: Result<ServerLease, DialFailure>, worker: usize) {
        match dialled {
            Ok(lease) => idle::park(lease, worker),
            Err(failure) => {
                failure.permit.fail(failure.retry_at);
                if !failure.error.is_transient() {
                    self.refuse_waiters();
                }
            }
        }
    }

    /// Whether nobody has used the pool for as long as it is kept. To be asked now and then.
    pub(super) fn is_forgettable(&self, now: Tick) -> bool {
        if self.clients.load(Ordering::Relaxed) > 0 || self.pool.slots() > 0 {
            self.unused_since_us.store(0, Ordering::Relaxed);
            return false;
        }
        let since = match self.unused_since_us.load(Ordering::Relaxed) {
            0 => now.as_micros().max(1),
            since => since,
        };
        self.unused_since_us.store(since, Ordering::Relaxed);
        let limit = self.settings.load().servers.forget_after;
        limit.is_some_and(|limit| now.since(Tick::from_micros(since)) >= limit)
    }
}
