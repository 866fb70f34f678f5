//! How a pool gets a new server: which of its hosts it tries, and what a failure comes to.
//!
//! A failure is noted for the host at once, and for the pool when no host is left: clients that log in
//! meanwhile are told at once then, those that wait go on waiting while the pool tries again, ever less
//! often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::closing::Exit;
use super::connect::{self, Target};
use super::connection::{Server, ServerShared};
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::greeting::Greeting;
use super::node::{self, Node};
use super::pools::{DialPlace, PoolSettings, ServerPool};
use crate::config::LoadBalance;
use crate::observe::logs::one_line;
use crate::primitives::{Tick, clock};
use crate::protocol::startup::Parameter;

static NEXT_SERVER_ID: AtomicU64 = AtomicU64::new(1);

/// One host that did not give a server.
struct Failed {
    error: ConnectError,
    retry_at: Tick,
    /// It was not even asked: it is known to be away.
    was_skipped: bool,
}

impl ServerPool {
    /// Connects and logs in to the first host that can be reached. A failure is noted; it comes with
    /// the time of the next attempt.
    pub(super) async fn connect(
        self: &Arc<Self>,
        place: &DialPlace,
        generation: u64,
        parameters: &[Parameter],
    ) -> Result<(Box<Server>, Greeting), (ConnectError, Tick)> {
        let settings = self.settings.load_full();
        let count = settings.endpoints.len();
        let first = match settings.load_balance {
            LoadBalance::RoundRobin => self.first_endpoint.fetch_add(1, Ordering::Relaxed),
            LoadBalance::Disable => self.first_endpoint.load(Ordering::Relaxed),
        };
        let mut last: Option<Failed> = None;
        for step in 0..count {
            let index = first.wrapping_add(step) % count;
            let endpoint = &settings.endpoints[index];
            let failed =
                match self.connect_to(endpoint, place, generation, parameters, &settings).await {
                    Ok(connected) => {
                        if settings.load_balance == LoadBalance::Disable {
                            self.first_endpoint.store(index, Ordering::Relaxed);
                        }
                        return Ok(connected);
                    }
                    Err(failed) => failed,
                };
            let is_final = !failed.error.is_of_the_host();
            // The soonest of them all; what a host said is worth more than that it was not asked.
            last = Some(match last {
                Some(before) if !is_final => {
                    let retry_at = before.retry_at.min(failed.retry_at);
                    let told = if failed.was_skipped { before } else { failed };
                    Failed { retry_at, ..told }
                }
                _ => failed,
            });
            if is_final {
                break;
            }
        }
        let failed = last.expect("BUG: a pool without a host");
        let attempts = self.failed_attempts();
        let attempts = if failed.was_skipped { attempts } else { attempts.saturating_add(1) };
        self.remember_failure(&failed.error, attempts, failed.retry_at);
        Err((failed.error, failed.retry_at))
    }

    async fn connect_to(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        place: &DialPlace,
        generation: u64,
        parameters: &[Parameter],
        settings: &PoolSettings,
    ) -> Result<(Box<Server>, Greeting), Failed> {
        let node = self.nodes.at(endpoint);
        // Not part of the time that the server has.
        let turn = node.login_turn(settings.connecting_max).await;
        node.admit(clock::now()).map_err(|turned_away| Failed {
            error: ConnectError::Down(turned_away.error),
            retry_at: turned_away.retry_at,
            was_skipped: true,
        })?;
        let exit = Exit { node: node.clone(), inbox: place.inbox.clone() };
        let hosts = u32::try_from(settings.endpoints.len()).unwrap_or(u32::MAX);
        let target = Target {
            endpoint,
            names: (&self.nodes.names, settings.name_ttl),
            dbname: &settings.dbname,
            user: &settings.server_user,
            secret: settings.server_secret.as_ref(),
            credentials: &self.credentials,
            settings: &settings.server_settings,
            parameters,
            // A connection for one client alone may speak a protocol in which it makes no sense.
            connect_query: settings
                .servers
                .connect_query
                .as_deref()
                .filter(|_| parameters.is_empty()),
            options: &settings.socket_options,
            tls: &settings.tls,
            // One that does not answer leaves some of the time for the others.
            timeout: settings.connect_timeout / hosts,
            exit: &exit,
        };
        let known = self.credentials.version();
        let connected = connect::connect(&target).await;
        drop(turn);
        match connected {
            Ok(login) => {
                node.is_up();
                let shared = Arc::new(ServerShared::new(
                    NEXT_SERVER_ID.fetch_add(1, Ordering::Relaxed),
                    self,
                    generation,
                    settings.server_user.as_str().into(),
                    (endpoint.clone(), settings.tls.clone()),
                    &login.transport,
                    login.backend_pid,
                    login.secret,
                    clock::now(),
                ));
                self.servers.insert(&shared);
                let life = self.life.clone();
                let weak = Arc::downgrade(self);
                let server = Server::new(login.transport, place.worker, shared, weak, exit, life);
                Ok((server, login.greeting))
            }
            Err(error) => {
                let retry_at = self.note_failure(&error, endpoint, settings, &node, known);
                Err(Failed { error, retry_at, was_skipped: false })
            }
        }
    }

    /// Gives the earliest time of the next attempt with this host. `known` is the version of what the
    /// failed one could log in with.
    fn note_failure(
        &self,
        error: &ConnectError,
        endpoint: &Endpoint,
        settings: &PoolSettings,
        node: &Node,
        known: u64,
    ) -> Tick {
        let attempts = self.failed_attempts().saturating_add(1);
        // Without a pause at all, who waits would dial as fast as PostgreSQL can refuse.
        let (now, longest) = (clock::now(), settings.login_retry.max(node::BACK_OFF_MIN));
        if error.is_answer() {
            node.is_up();
        }
        let retry_at = if error.is_unreachable() {
            node.is_down(error.client_message(), now, longest)
        } else if error.is_shortage() {
            node.is_full(now, node::pause(attempts, longest), longest)
        } else if error.is_transient() {
            now.after(node::pause(attempts, longest))
        } else if error.is_about_credentials() && !self.credentials.refused(known) {
            // Since it began a client has proved another secret.
            now
        } else {
            now.after(longest)
        };
        tracing::warn!(
            database = &*self.database,
            user = &*self.user,
            server = %endpoint,
            attempt = attempts,
            retry_in_ms = retry_at.since(now).as_millis(),
            "server login failed: {}",
            one_line(error)
        );
        retry_at
    }
}
