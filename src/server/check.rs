//! `server_check_query`: a server that has rested long is asked whether it is still there before a
//! client gets it.
//!
//! A server whose host vanished, or whose connection a firewall forgot, says nothing of it. The client
//! that waits is held up for no longer than [`CHECK_LIMIT`], however many such servers there are: one
//! that does not answer takes with it the others that have rested as long.

use std::sync::Arc;
use std::time::Duration;

use super::ServerLease;
use super::cleanup::{self, CleanUpError};
use super::connection::ServerState;
use super::idle;
use super::pools::{DialFailure, DialPlace, ServerPool};
use crate::primitives::clock;

/// How long an answer may take, unless `server_connect_timeout` is shorter.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// A client that waited has no server yet.
#[derive(Debug)]
pub enum NoServer {
    /// The dial failed.
    Dial(DialFailure),
    /// The server that it was to get is gone: it may have another.
    Lost,
}

impl ServerPool {
    /// Asks a server whether it is there. Dropping the future closes it.
    ///
    /// # Errors
    /// [`NoServer::Lost`]; it is closed.
    pub async fn check(
        self: Arc<Self>,
        mut lease: ServerLease,
        place: DialPlace,
    ) -> Result<ServerLease, NoServer> {
        let settings = self.settings.load_full();
        let Some((query, _)) = &settings.servers.check else {
            // A reload has taken the check away.
            lease.rests_since = None;
            return Ok(lease);
        };
        lease.shared.set_state(ServerState::Tested);
        let limit = CHECK_LIMIT.min(settings.connect_timeout);
        let asked = tokio::time::timeout(limit, ask(&mut lease, &place, query)).await;
        let is_silent = asked.is_err();
        let reason = match asked {
            Ok(Ok(())) => {
                lease.rests_since = None;
                return Ok(lease);
            }
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            database = &*self.database,
            user = &*self.user,
            backend_pid = lease.shared.backend_pid,
            "server check failed: {reason}"
        );
        lease.discard();
        if is_silent {
            self.give_up_resting();
        }
        Err(NoServer::Lost)
    }

    /// Closes the idle servers that would have to be asked, on all workers.
    fn give_up_resting(&self) {
        let now = clock::now();
        for shard in 0..self.pool.shards() {
            for lease in self.pool.take_idle(shard, |server, _| server.needs_check(now)) {
                lease.log_end("another server did not answer the check", now);
                lease.discard();
            }
        }
    }
}

async fn ask(lease: &mut ServerLease, place: &DialPlace, query: &str) -> Result<(), CleanUpError> {
    idle::absorb_now(lease)?;
    if lease.home != place.worker {
        lease.rehome(place.worker, place.inbox.clone())?;
    }
    cleanup::query(lease, query).await?;
    if lease.is_free() { Ok(()) } else { Err(CleanUpError::NotIdle(lease.tx)) }
}
