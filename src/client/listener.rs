//! Accepting connections, placing them on workers, and the frame of a session's task.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::end::{LoginError, SessionEnd};
use super::hub::{Hub, Worker, WorkerPlace};
use super::login::{self, ConsoleClient, LoggedIn};
use super::session::{Link, Session};
use super::shared::ClientShared;
use crate::net::{Accepted, Listener};
use crate::observe::logs::one_line;
use crate::protocol::SqlState;
use crate::server::ServerLease;
use crate::server::check::NoServer;
use crate::server::cleanup::{self, CleanUp, Departure};
use crate::server::framed::Framed;
use crate::server::idle;
use crate::server::pools::ServerPool;

/// Serves one console connection; given by the layer above.
pub type Console =
    fn(Arc<Hub>, ConsoleClient) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, placing each connection on the worker with the fewest.
pub async fn accept(hub: Arc<Hub>, listener: Listener, console: Console, stop: CancellationToken) {
    if let Err(e) = listener.configure(&hub.socket_options()) {
        tracing::warn!("cannot set the options of clients' sockets: {e}");
    }
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: a connection is either returned or still in the backlog.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => place(&hub, accepted, console),
            Err(e) if is_peers_doing(&e) => {}
            Err(e) => {
                tracing::error!("accept failed, pausing: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_peers_doing(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn place(hub: &Arc<Hub>, accepted: Accepted, console: Console) {
    let worker = hub.least_loaded().clone();
    let place = hub.take_worker_place(&worker);
    let handle = worker.handle.clone();
    let placed = Placed { hub: hub.clone(), worker, place, accepted, console };
    hub.tasks.spawn(&handle, Serve::LoggingIn(boxed(log_in(placed))));
}

/// A connection on its way to its worker.
struct Placed {
    hub: Arc<Hub>,
    worker: Arc<Worker>,
    place: WorkerPlace,
    accepted: Accepted,
    console: Console,
}

/// A future behind one word: a box of a trait object takes two.
type Boxed<T> = Box<Pin<Box<dyn Future<Output = T> + Send>>>;

fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
    Box::new(Box::pin(future))
}

/// One connection, from its first byte to its last. What an idle client costs in its task is no more
/// than a box: with the runtime's own part that makes 128 bytes, and a word more would make them 256.
/// Dropping it drops whatever it holds, wherever it is.
enum Serve {
    LoggingIn(Boxed<Option<Serve>>),
    Session(Box<Session>),
    /// A console, a connection with a server of its own, or what is left to be done after a session.
    Other(Boxed<()>),
    Ended,
}

impl Future for Serve {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut *self {
                Self::LoggingIn(login) => match ready!(Pin::new(login).poll(cx)) {
                    None => return Poll::Ready(()),
                    Some(next) => next,
                },
                Self::Other(other) => return Pin::new(other).poll(cx),
                Self::Session(session) => {
                    let end = ready!(session.poll_serve(cx));
                    let Self::Session(session) = std::mem::replace(&mut *self, Self::Ended) else {
                        unreachable!("BUG: a session that is none");
                    };
                    Self::Other(boxed(finish(session, end)))
                }
                Self::Ended => return Poll::Ready(()),
            };
            *self = next;
        }
    }
}

impl Serve {
    /// `served`, with the connection's place on its worker held until its end.
    fn other(served: impl Future<Output = ()> + Send + 'static, place: WorkerPlace) -> Self {
        Self::Other(boxed(async move {
            served.await;
            drop(place);
        }))
    }
}

/// Sees a connection through its login. Gives what serves it afterwards, if anything does.
async fn log_in(placed: Placed) -> Option<Serve> {
    let Placed { hub, worker, place, accepted, console } = placed;
    let ends = accepted.ends;
    let peer = ends.peer;
    // Accepted on the first worker; from here on the socket is this one's.
    let mut framed = Framed::new(accepted.register().ok()?);
    let config = hub.config.load_full();
    let attempt = async {
        // Cancel-safe: a login that is dropped leaves nothing behind but its socket.
        tokio::select! {
            result = login::login(&hub, &worker, ends, &mut framed) => result,
            () = hub.stopping.cancelled() => Err(LoginError::refused(
                SqlState::CANNOT_CONNECT_NOW,
                "the pooler is shutting down",
            )),
        }
    };
    let result = match config.general.client_login_timeout {
        Some(limit) => {
            tokio::time::timeout(limit, attempt).await.unwrap_or(Err(LoginError::TimedOut))
        }
        None => attempt.await,
    };
    match result {
        Ok(ready) => Some(match ready.start(framed, place) {
            LoggedIn::Console(client, place) => Serve::other(console(hub, client), place),
            LoggedIn::Session(session) => Serve::Session(session),
            LoggedIn::Dedicated(dedicated, place) => Serve::other(dedicated.serve(), place),
        }),
        Err(error) => {
            if let Some(message) = error.client_message() {
                if config.general.log_pooler_errors {
                    tracing::warn!(client = %peer, "login failed: {}", one_line(&message));
                }
                let mut bytes = Vec::new();
                crate::protocol::encode::error_response(&mut bytes, &message);
                // The peer may be gone; that changes nothing.
                let last = framed.send(&bytes);
                let _ = tokio::time::timeout(Duration::from_secs(1), last).await;
            } else if matches!(error, LoginError::Tls(_)) && config.general.log_pooler_errors {
                tracing::warn!(client = %peer, "login failed: {}", one_line(&error));
            } else if !matches!(error, LoginError::NoSession) {
                tracing::debug!(client = %peer, "login failed: {}", one_line(&error));
            }
            // A cancel request is answered by nothing but this.
            framed.transport.say_closing();
            None
        }
    }
}

/// The end of a session, and the clean-up of the server it leaves behind.
async fn finish(mut session: Box<Session>, end: SessionEnd) {
    if let Link::Linked(lease) = &session.link {
        session.cut_off |= lease.streaming.left_bytes > 0 && lease.streaming.visible;
    }
    if let Some(message) = end.client_message()
        && !session.cut_off
    {
        session.send_last(&message);
    }
    let link = std::mem::replace(&mut session.link, Link::Unlinked);
    session.client().unlink();
    log_end(session.place.hub(), session.client(), &end);
    let plan = plan_clean_up(&session, &end);
    session.transport.say_closing();
    let (worker, pool) = (Arc::clone(&session.worker), Arc::clone(&session.pool));
    let (hub, waited_in_vain) =
        (session.place.hub().clone(), matches!(end, SessionEnd::QueryWaitTimeout));
    // The client is gone from the tables and its socket closed before the server is cleaned up.
    drop(session);
    match link {
        Link::Linked(lease) | Link::Releasing(lease) => {
            Box::pin(settle(lease, &plan, worker.index, &pool)).await;
        }
        // A server that takes longer to log in to than clients wait would never be had otherwise.
        Link::Dialing(dial) if waited_in_vain => {
            if let Some(dialled) = hub.stopping.run_until_cancelled(dial).await {
                conclude(dialled, worker.index, &pool);
            }
        }
        // A ticket, permit or dial gives back what it holds by being dropped.
        Link::Unlinked | Link::Waiting(_) | Link::Dialing(_) => {}
    }
}

/// What becomes of a dial, or a check, whose client waits no longer.
fn conclude(dialled: Result<ServerLease, NoServer>, worker: usize, pool: &ServerPool) {
    match dialled {
        Ok(lease) => pool.keep(Ok(lease), worker),
        Err(NoServer::Dial(failure)) => pool.keep(Err(failure), worker),
        Err(NoServer::Lost) => {}
    }
}

async fn settle(lease: ServerLease, plan: &CleanUp, worker: usize, pool: &ServerPool) {
    let backend_pid = lease.shared.backend_pid;
    lease.shared.client_id.store(0, Ordering::Relaxed);
    match cleanup::clean_up(lease, plan).await {
        Ok(lease) => idle::park(lease, worker),
        Err(error) => tracing::info!(
            database = &*pool.database,
            user = &*pool.user,
            backend_pid,
            "server closed after its client left: {error}"
        ),
    }
}

fn plan_clean_up(session: &Session, end: &SessionEnd) -> CleanUp {
    let config = session.place.hub().config.load();
    let general = &config.general;
    let resets =
        session.mode == crate::config::PoolMode::Session || general.server_reset_query_always;
    CleanUp {
        departure: match end {
            // Its socket may fail before its last answers are written: what it asked for stands.
            SessionEnd::ClientIo(_) if session.terminated => Departure::Terminated,
            SessionEnd::Terminated => Departure::Terminated,
            _ => Departure::Vanished,
        },
        mid_message: session.streaming_left > 0,
        reset_query: (resets && !general.server_reset_query.is_empty())
            .then(|| Arc::from(general.server_reset_query.as_str())),
        deadline: general.client_cleanup_timeout,
        socket_options: super::routes::socket_options(&config),
    }
}

/// The one log line about a session's end.
pub(super) fn log_end(hub: &Hub, client: &ClientShared, end: &SessionEnd) {
    let general = &hub.config.load().general;
    let told = end.client_message().is_some();
    let age_ms = crate::primitives::clock::now().since(client.connected_at).as_millis();
    if told && general.log_pooler_errors {
        tracing::warn!(
            client = %client.peer, database = &**client.database(), user = &**client.user(), age_ms,
            "closing: {}", one_line(end)
        );
    } else if general.log_disconnections {
        tracing::info!(
            client = %client.peer, database = &**client.database(), user = &**client.user(), age_ms,
            "closing: {}", one_line(end)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_of_a_session_is_small() {
        assert!(size_of::<Serve>() <= 16, "{}", size_of::<Serve>());
        assert!(size_of::<Session>() <= 256, "{}", size_of::<Session>());
    }
}
