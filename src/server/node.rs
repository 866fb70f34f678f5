//! What all pools share that lead to the same PostgreSQL: the connections that are on their way out,
//! and whether it can be reached at all.
//!
//! It knows no pools. Invariants:
//! - A slot that falls free belongs to a connection whose [`Leaving`] began before; so a dial that
//!   waits for those which began before itself never gives the server more backends than there are
//!   slots.
//! - While the server cannot be reached, one attempt is made at a time for all pools together, ever
//!   less often. Attempts are spaced by time and never wait for each other: one that hangs holds up
//!   nobody.
//! - No more logins are under way to a server than may be, however many pools want one.
//! - While the server is full, pools that it has refused ask one after the other: however many they
//!   are, no more than ten a second, but each within its own `server_login_retry`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::endpoint::Endpoint;
use crate::net::Names;
use crate::primitives::Tick;
use crate::protocol::error::ErrorMessage;

/// The first pause after a failed attempt; each further failure doubles it.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause, unless `server_login_retry` is shorter: a server that is back is found soon.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Between two pools that ask a server which is full.
const FULL_GAP: Duration = Duration::from_millis(100);

/// One PostgreSQL.
#[derive(Debug, Default)]
pub struct Node {
    /// Held for a moment; nothing is locked under it.
    leaving: Mutex<Departures>,
    /// Carries no data: who has left is in `leaving`.
    has_left: Notify,
    /// `None`: it can be reached, as far as is known. Held for a moment.
    down: Mutex<Option<Down>>,
    /// Logins under way. Held for a moment.
    logins: Mutex<usize>,
    /// Carries no data: how many there are is in `logins`.
    has_turn: Notify,
    /// From when on one more pool may ask, of those that it was too full for. Held for a moment.
    next_when_full: Mutex<Tick>,
}

#[derive(Debug, Default)]
struct Departures {
    next: u64,
    open: BTreeSet<u64>,
}

#[derive(Debug)]
struct Down {
    attempts: u32,
    error: ErrorMessage,
    retry_at: Tick,
}

/// A connection on its way out; it is gone when this is dropped.
#[derive(Debug)]
pub struct Leaving {
    node: Arc<Node>,
    number: u64,
}

/// A login under way; it is over when this is dropped.
#[derive(Debug)]
pub struct LoginTurn(Arc<Node>);

impl Drop for LoginTurn {
    fn drop(&mut self) {
        *self.0.logins.lock() -= 1;
        self.0.has_turn.notify_waiters();
    }
}

/// No attempt may be made now.
#[derive(Debug)]
pub struct TurnedAway {
    /// What the last attempt ended with.
    pub error: ErrorMessage,
    /// When the next may be made.
    pub retry_at: Tick,
}

impl Node {
    /// Notes that a connection is about to be closed. To be called before its slot falls free.
    #[must_use]
    pub fn leave(self: &Arc<Self>) -> Leaving {
        let mut leaving = self.leaving.lock();
        let number = leaving.next;
        leaving.next += 1;
        leaving.open.insert(number);
        Leaving { node: self.clone(), number }
    }

    /// Waits until fewer than `most` logins are under way, and counts as one. A server that is being
    /// asked by hundreds of pools at once answers none of them soon. Cancel-safe: it keeps nothing.
    pub async fn login_turn(self: &Arc<Self>, most: usize) -> LoginTurn {
        loop {
            // Registered before the look: an end between the two is not missed.
            let mut ended = std::pin::pin!(self.has_turn.notified());
            ended.as_mut().enable();
            {
                let mut logins = self.logins.lock();
                if *logins < most {
                    *logins += 1;
                    return LoginTurn(self.clone());
                }
            }
            ended.await;
        }
    }

    /// Waits until all connections are gone that were on their way out when this was called.
    /// Cancel-safe: it keeps nothing.
    pub async fn earlier_have_left(&self) {
        let mine = self.leaving.lock().next;
        loop {
            // Registered before the look: who leaves between the two is not missed.
            let mut left = std::pin::pin!(self.has_left.notified());
            left.as_mut().enable();
            if self.leaving.lock().open.first().is_none_or(|first| *first >= mine) {
                return;
            }
            left.await;
        }
    }

    /// Whether an attempt may be made to connect. While the server cannot be reached, one may, and
    /// the next not before a pause.
    ///
    /// # Errors
    /// [`TurnedAway`]: the last failure still stands.
    pub fn admit(&self, now: Tick) -> Result<(), TurnedAway> {
        let mut down = self.down.lock();
        let Some(down) = &mut *down else {
            return Ok(());
        };
        if now < down.retry_at {
            return Err(TurnedAway { error: down.error.clone(), retry_at: down.retry_at });
        }
        down.retry_at = now.after(pause(down.attempts, BACK_OFF_MAX));
        Ok(())
    }

    /// It answered.
    pub fn is_up(&self) {
        *self.down.lock() = None;
    }

    /// It could not be reached. Gives the time of the next attempt, no farther away than `longest`.
    pub fn is_down(&self, error: ErrorMessage, now: Tick, longest: Duration) -> Tick {
        let mut down = self.down.lock();
        let attempts = down.as_ref().map_or(1, |down| down.attempts.saturating_add(1));
        let retry_at = now.after(pause(attempts, longest));
        *down = Some(Down { attempts, error, retry_at });
        retry_at
    }

    /// It has no room for a pool, which pauses for `pause` at least. Gives the time of that pool's
    /// next attempt: a turn of its own, unless that is farther away than `longest`.
    pub fn is_full(&self, now: Tick, pause: Duration, longest: Duration) -> Tick {
        let latest = now.after(longest);
        let mut next = self.next_when_full.lock();
        let turn = now.after(pause).max(*next).min(latest);
        *next = turn.after(FULL_GAP).min(latest);
        turn
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.node.leaving.lock().open.remove(&self.number);
        self.node.has_left.notify_waiters();
    }
}

/// The pause after so many failed attempts: between half of it and all, so that not all knock in
/// step.
#[must_use]
pub fn pause(attempts: u32, longest: Duration) -> Duration {
    let doubled = BACK_OFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(8));
    let pause = doubled.min(BACK_OFF_MAX).min(longest);
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

/// All nodes that pools lead to, and what their names mean.
#[derive(Debug, Default, Clone)]
pub struct Nodes {
    known: Arc<Mutex<HashMap<Endpoint, Arc<Node>>>>,
    /// Host names.
    pub names: Arc<Names>,
}

impl Nodes {
    /// The node that listens there.
    #[must_use]
    pub fn at(&self, endpoint: &Endpoint) -> Arc<Node> {
        let mut nodes = self.known.lock();
        if let Some(node) = nodes.get(endpoint) {
            return node.clone();
        }
        let node = Arc::<Node>::default();
        nodes.insert(endpoint.clone(), node.clone());
        node
    }

    /// Forgets those that no pool leads to and nobody is connected to.
    pub fn forget_unused(&self) {
        // Handles are made under this lock: who has the last one cannot become two.
        self.known.lock().retain(|_, node| Arc::strong_count(node) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::protocol::sqlstate::SqlState;

    fn at(millis: u64) -> Tick {
        Tick::from_micros(millis * 1_000)
    }

    fn refused() -> ErrorMessage {
        ErrorMessage::fatal(SqlState::CONNECTION_FAILURE, "connect failed")
    }

    fn poll(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_dial_waits_for_those_that_left_before_it_and_for_no_others() {
        let node = Arc::<Node>::default();
        let (first, second) = (node.leave(), node.leave());
        let mut waits = std::pin::pin!(node.earlier_have_left());
        assert!(poll(waits.as_mut()).is_pending());
        let later = node.leave();
        drop(second);
        assert!(poll(waits.as_mut()).is_pending());
        drop(first);
        assert!(poll(waits.as_mut()).is_ready());
        let mut next = std::pin::pin!(node.earlier_have_left());
        assert!(poll(next.as_mut()).is_pending());
        drop(later);
        assert!(poll(next.as_mut()).is_ready());
    }

    #[test]
    fn no_more_logins_are_under_way_than_may_be() {
        let node = Arc::<Node>::default();
        let mut turns: Vec<_> = (0..5).map(|_| Box::pin(node.login_turn(2))).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |index: usize| turns[index].as_mut().poll(&mut context);
        let (Poll::Ready(first), Poll::Ready(_second)) = (poll(0), poll(1)) else {
            panic!("two may");
        };
        assert!(poll(2).is_pending() && poll(3).is_pending());
        drop(first);
        let Poll::Ready(third) = poll(2) else { panic!("one has ended") };
        assert!(poll(3).is_pending());
        drop(third);
        assert!(poll(4).is_ready(), "whoever asks first");
    }

    #[test]
    fn one_attempt_at_a_time_is_made_while_it_cannot_be_reached() {
        let node = Node::default();
        assert!(node.admit(at(0)).is_ok() && node.admit(at(0)).is_ok());
        let retry_at = node.is_down(refused(), at(0), Duration::from_secs(15));
        assert!(retry_at >= at(50) && retry_at <= at(100), "{retry_at:?}");
        let turned_away = node.admit(at(49)).unwrap_err();
        assert_eq!((turned_away.retry_at, turned_away.error), (retry_at, refused()));
        assert!(node.admit(retry_at).is_ok());
        assert!(node.admit(retry_at).is_err(), "one is out");
        // It hangs: the next is made without it.
        assert!(node.admit(retry_at.after(Duration::from_secs(1))).is_ok());
        node.is_up();
        assert!(node.admit(at(0)).is_ok() && node.admit(at(0)).is_ok());
    }

    #[test]
    fn pools_ask_a_full_server_one_after_the_other() {
        let node = Node::default();
        let (pause, longest) = (Duration::from_millis(300), Duration::from_secs(2));
        let turns: Vec<u64> =
            (0..30).map(|_| node.is_full(at(0), pause, longest).as_micros() / 1_000).collect();
        let spaced: Vec<u64> = (0..17).map(|n| 300 + 100 * n).collect();
        assert_eq!(turns[..17], spaced);
        assert!(turns[18..].iter().all(|turn| *turn == 2_000), "no later than it would alone");
        assert_eq!(node.is_full(at(60_000), pause, longest), at(60_300), "what was is forgotten");
    }

    #[test]
    fn pauses_double_to_a_second_and_no_farther_than_they_may() {
        let longest = Duration::from_secs(15);
        for (attempts, millis) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (99, 1_000)]
        {
            let pause = pause(attempts, longest);
            let full = Duration::from_millis(millis);
            assert!(pause >= full / 2 && pause <= full, "{attempts}: {pause:?}");
        }
        assert!(pause(9, Duration::from_millis(3)) <= Duration::from_millis(3));
    }

    #[test]
    fn a_node_is_forgotten_when_nobody_leads_there() {
        let nodes = Nodes::default();
        let endpoint = |port| Endpoint::Tcp { host: "h".to_owned(), port };
        let held = nodes.at(&endpoint(1));
        assert!(Arc::ptr_eq(&held, &nodes.at(&endpoint(1))));
        drop(nodes.at(&endpoint(2)));
        nodes.at(&endpoint(3)).is_down(refused(), at(0), Duration::MAX);
        nodes.forget_unused();
        let known: Vec<_> = nodes.known.lock().keys().cloned().collect();
        assert_eq!(known, [endpoint(1)]);
    }
}
