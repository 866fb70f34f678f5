//! Looking after the pools now and then: one task per worker, and no timer per server.
//!
//! Each worker closes what is old among its own idle servers and dials what is missing; the first one
//! also sees to what belongs to no worker. It knows when and for which pools; what is done is in
//! `server`.

use std::sync::Arc;

use super::hub::{Hub, Worker};
use super::routes;
use super::shared::Signal;
use crate::config::PoolMode;
use crate::primitives::{Tick, clock};
use crate::server::LOOK_PERIOD;
use crate::server::pools::{DialPlace, ServerPool};
use crate::tasks::Tasks;

/// Pools looked after before others of the worker's tasks get their turn.
const POOLS_AT_ONCE: usize = 256;

/// Looks after the pools for one worker until `tasks`, which get the dials, are asked to stop.
pub async fn watch(hub: Arc<Hub>, worker: Arc<Worker>, tasks: Tasks) {
    let stop = tasks.stop().clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: nothing is kept between two looks.
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
        let now = clock::now();
        if worker.index == 0 {
            raise_standing(&hub);
            hub.pools.forget_unused(now);
            hub.client_counts.forget_unused();
            hub.directory.sweep(now);
            hub.pools.follow_names(routes::name_ttl(&hub.config.load()));
        }
        if hub.config.load().general.server_fast_close {
            close_fast(&worker);
        }
        for pools in hub.pools.list().chunks(POOLS_AT_ONCE) {
            for pool in pools {
                look_after(pool, &worker, &tasks, now);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Asks sessions in session mode whose server is to be closed to end after their transaction. Again at
/// each look: a session that is in the middle of one goes on, and nothing reminds it afterwards. In
/// the other modes a server is given back there anyway.
fn close_fast(worker: &Worker) {
    for client in worker.clients() {
        let is_in_question = client.pool_mode() == PoolMode::Session;
        if is_in_question && client.server().is_some_and(|server| server.close_needed()) {
            client.signal(Signal::Drain);
        }
    }
}

/// Pools that keep servers without a client are made without one, too.
fn raise_standing(hub: &Hub) {
    let config = hub.config.load_full();
    for (database, user) in config.standing_pools() {
        drop(routes::pool(hub, database, user));
    }
}

fn look_after(pool: &Arc<ServerPool>, worker: &Arc<Worker>, tasks: &Tasks, now: Tick) {
    pool.close_old(worker.index, now);
    while let Some(permit) = pool.missing(worker.index, now) {
        let place = DialPlace { worker: worker.index, inbox: worker.inbox.clone() };
        let (dial, stop) = (pool.clone().dial_spare(permit, place), tasks.stop().clone());
        tasks.spawn(&worker.handle, async move {
            // A dial that is cut off gives its slot back.
            let _ = stop.run_until_cancelled_owned(dial).await;
        });
    }
}
