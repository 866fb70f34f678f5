//! Users whom no configuration names, as `auth_query` knows them.
//!
//! The queries run on connections of their own, as `auth_user`, which no client's bytes or settings ever
//! reach: they are a control plane's work, few and small, on a pool of `deadpool`'s.
//!
//! Logins of one user that come together share a query, but none shares one that began before it came:
//! a password that has just been changed holds from the next login on, and a storm of logins makes no
//! storm of queries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::lookup::source::Source;
use crate::auth::Secret;
use crate::primitives::{Tick, clock};

mod source;

pub use source::{LookupError, LookupHost, LookupPlace, LookupTls};

/// A place that nobody has asked for so long is forgotten, a connection that rests so long closed.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Places at a time. With `"*"` and without `auth_dbname`, anybody can name one.
const PLACES_MAX: usize = 1_000;

/// How long a place that could not be asked is not asked again: whoever comes meanwhile is told the same,
/// so that strangers' logins are no storm of connections to a server that is away, or to databases that
/// do not exist.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Answers kept per place, if they are kept at all.
const KEPT_MAX: usize = 10_000;

/// What a look-up has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is no such user, or none who may log in.
    Nobody,
    /// There is, without a password that could be checked.
    WithoutSecret,
    /// There is.
    User(Secret),
}

/// How long answers hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// One that has found a user.
    pub found: Duration,
    /// One that has not.
    pub nobody: Duration,
}

/// All places that are asked, and what they have answered.
#[derive(Debug, Default)]
pub struct Directory {
    /// Held for a moment; nothing else is locked under it.
    places: Mutex<HashMap<LookupPlace, Arc<Asked>>>,
}

/// One place.
#[derive(Debug)]
struct Asked {
    source: Source,
    /// Counts logins and queries, so that it can be told which came first.
    order: AtomicU64,
    /// When it was last asked, in microseconds.
    last_us: AtomicU64,
    /// As many queries at a time as there are connections: who waits for one waits before it is looked
    /// at whether the last one has failed.
    turns: Semaphore,
    /// What the last query ended with, if badly, and until when that holds. Held for a moment.
    failure: Mutex<Option<(Tick, LookupError)>>,
    secrets: Answers<Found>,
    roles: Answers<Arc<[String]>>,
}

/// The answers to one kind of question, by user.
#[derive(Debug)]
struct Answers<T> {
    /// Held for a moment.
    by_user: Mutex<HashMap<String, Weak<Answer<T>>>>,
    /// Those that hold for a while. Held for a moment.
    kept: Mutex<HashMap<String, (Tick, T)>>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self { by_user: Mutex::default(), kept: Mutex::default() }
    }
}

/// The last answer about a user, and the order of the query that gave it. The lock is held while a query
/// is under way; whoever waits for it does so in order of arrival.
#[derive(Debug)]
struct Answer<T>(tokio::sync::Mutex<Option<(u64, Result<T, LookupError>)>>);

impl Directory {
    /// What `place` says of a user.
    ///
    /// Cancel-safe: a query that is dropped closes its connection, and the next in line asks anew.
    ///
    /// # Errors
    /// [`LookupError`]: nothing is known then.
    pub async fn find(
        &self,
        place: &LookupPlace,
        user: &str,
        keep: Keep,
    ) -> Result<Found, LookupError> {
        let asked = self.place(place)?;
        let query = || asked.with_back_off(asked.source.secret(user));
        let hold = |found: &Found| match found {
            Found::Nobody => keep.nobody,
            Found::WithoutSecret | Found::User(_) => keep.found,
        };
        asked.secrets.ask(&asked.order, user, query, hold).await
    }

    /// The roles that a user is a member of, by way of others too.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn roles(
        &self,
        place: &LookupPlace,
        user: &str,
        keep: Keep,
    ) -> Result<Arc<[String]>, LookupError> {
        let asked = self.place(place)?;
        let query = || asked.with_back_off(asked.source.roles(user));
        asked.roles.ask(&asked.order, user, query, |_| keep.found).await
    }

    /// Forgets what is kept of a user: a server or a proof has shown that it may be old.
    pub fn forget(&self, user: &str) {
        let places: Vec<_> = self.places.lock().values().cloned().collect();
        for place in places {
            place.secrets.kept.lock().remove(user);
            place.roles.kept.lock().remove(user);
        }
    }

    /// Closes connections that rest and forgets places that nobody asks.
    pub fn sweep(&self, now: Tick) {
        let mut forgotten = Vec::new();
        let places: Vec<_> = {
            let mut places = self.places.lock();
            forgotten.extend(places.extract_if(|_, asked| {
                let last = Tick::from_micros(asked.last_us.load(Ordering::Relaxed));
                now.since(last) > FORGET_AFTER && Arc::strong_count(asked) == 1
            }));
            places.values().cloned().collect()
        };
        for place in places {
            place.source.close_resting(FORGET_AFTER);
            place.secrets.sweep(now);
            place.roles.sweep(now);
        }
    }

    fn place(&self, place: &LookupPlace) -> Result<Arc<Asked>, LookupError> {
        let mut places = self.places.lock();
        let asked = match places.get(place) {
            Some(asked) => asked.clone(),
            None if places.len() >= PLACES_MAX => return Err(LookupError::TooMany),
            None => {
                let asked = Arc::new(Asked {
                    source: Source::new(place),
                    order: AtomicU64::new(0),
                    last_us: AtomicU64::new(0),
                    turns: Semaphore::new(source::CONNECTIONS_MAX),
                    failure: Mutex::default(),
                    secrets: Answers::default(),
                    roles: Answers::default(),
                });
                places.insert(place.clone(), asked.clone());
                asked
            }
        };
        asked.last_us.store(clock::now().as_micros(), Ordering::Relaxed);
        Ok(asked)
    }
}

impl Asked {
    /// Asks, unless that has just failed. Cancel-safe like the query.
    async fn with_back_off<T>(
        &self,
        query: impl Future<Output = Result<T, LookupError>>,
    ) -> Result<T, LookupError> {
        let _turn = self.turns.acquire().await.expect("BUG: turns are never closed");
        if let Some((until, error)) = &*self.failure.lock()
            && clock::now() < *until
        {
            return Err(error.clone());
        }
        let said = query.await;
        let failure = match &said {
            Err(error @ (LookupError::Failed(_) | LookupError::Timeout(_))) => {
                Some((clock::now().after(BACK_OFF), error.clone()))
            }
            Ok(_) | Err(LookupError::Answer(_) | LookupError::TooMany) => None,
        };
        *self.failure.lock() = failure;
        said
    }
}

impl<T: Clone> Answers<T> {
    async fn ask<F: Future<Output = Result<T, LookupError>>>(
        &self,
        order: &AtomicU64,
        user: &str,
        query: impl FnOnce() -> F,
        hold: impl Fn(&T) -> Duration,
    ) -> Result<T, LookupError> {
        if let Some((until, kept)) = self.kept.lock().get(user)
            && clock::now() < *until
        {
            return Ok(kept.clone());
        }
        let arrived = order.fetch_add(1, Ordering::Relaxed);
        let answer = self.of(user);
        // Dropped while it waits or asks: the lock falls to the next, who finds no answer of its own.
        let mut last = answer.0.lock().await;
        if let Some((began, answer)) = &*last
            && *began > arrived
        {
            return answer.clone();
        }
        *last = None;
        let began = order.fetch_add(1, Ordering::Relaxed);
        let said = query().await;
        if let Ok(said) = &said {
            self.keep(user, said, hold(said));
        }
        *last = Some((began, said.clone()));
        said
    }

    fn of(&self, user: &str) -> Arc<Answer<T>> {
        let mut by_user = self.by_user.lock();
        if let Some(answer) = by_user.get(user).and_then(Weak::upgrade) {
            return answer;
        }
        let answer = Arc::new(Answer(tokio::sync::Mutex::new(None)));
        // Swept as it grows, so that names made up by strangers take no memory for long.
        if by_user.len() >= 64 && by_user.len().is_power_of_two() {
            by_user.retain(|_, answer| answer.strong_count() > 0);
        }
        by_user.insert(user.to_owned(), Arc::downgrade(&answer));
        answer
    }

    fn keep(&self, user: &str, said: &T, time: Duration) {
        let mut kept = self.kept.lock();
        if time.is_zero() {
            kept.remove(user);
        } else if kept.len() < KEPT_MAX || kept.contains_key(user) {
            kept.insert(user.to_owned(), (clock::now().after(time), said.clone()));
        }
    }

    fn sweep(&self, now: Tick) {
        self.by_user.lock().retain(|_, answer| answer.strong_count() > 0);
        self.kept.lock().retain(|_, (until, _)| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// Answers with the number of the query, when it is let.
    async fn asked(count: &AtomicUsize, gate: &Semaphore) -> Result<usize, LookupError> {
        let number = count.fetch_add(1, Ordering::Relaxed);
        gate.acquire().await.unwrap().forget();
        Ok(number)
    }

    #[test]
    fn who_comes_while_a_query_runs_gets_the_answer_of_the_next_one() {
        runtime().block_on(async {
            let (answers, order) = (Answers::<usize>::default(), AtomicU64::new(0));
            let (count, gate) = (AtomicUsize::new(0), Semaphore::new(0));
            let ask = || answers.ask(&order, "ann", || asked(&count, &gate), |_| Duration::ZERO);
            let later = async {
                tokio::task::yield_now().await;
                assert_eq!(count.load(Ordering::Relaxed), 1, "the first asks");
                let all = async { tokio::join!(ask(), ask(), ask(), ask()) };
                let open = async {
                    tokio::task::yield_now().await;
                    gate.add_permits(10);
                };
                tokio::join!(all, open).0
            };
            let (first, later) = tokio::join!(ask(), later);
            assert_eq!(first.unwrap(), 0);
            let later = [later.0, later.1, later.2, later.3].map(Result::unwrap);
            assert_eq!(later, [1; 4], "they share the second, which began after they came");
            assert_eq!(count.load(Ordering::Relaxed), 2);
            assert_eq!(ask().await.unwrap(), 2);
        });
    }

    #[test]
    fn a_query_that_is_dropped_leaves_the_line_moving() {
        runtime().block_on(async {
            let (answers, order) = (Answers::<usize>::default(), AtomicU64::new(0));
            let (count, gate) = (AtomicUsize::new(0), Semaphore::new(0));
            let ask = || answers.ask(&order, "ann", || asked(&count, &gate), |_| Duration::ZERO);
            let mut hangs = Box::pin(ask());
            let mut waits = Box::pin(ask());
            let polled = std::future::poll_fn(|cx| {
                let pending =
                    hangs.as_mut().poll(cx).is_pending() && waits.as_mut().poll(cx).is_pending();
                std::task::Poll::Ready(pending)
            });
            assert!(polled.await);
            drop(hangs);
            gate.add_permits(1);
            assert_eq!(waits.await.unwrap(), 1);
        });
    }

    #[test]
    fn answers_are_kept_as_long_as_they_hold_and_can_be_forgotten() {
        runtime().block_on(async {
            let (answers, order) = (Answers::<usize>::default(), AtomicU64::new(0));
            let (count, gate) = (AtomicUsize::new(0), Semaphore::new(10));
            let hour = Duration::from_secs(3600);
            let ask = || answers.ask(&order, "ann", || asked(&count, &gate), |_| hour);
            assert_eq!((ask().await.unwrap(), ask().await.unwrap()), (0, 0));
            answers.kept.lock().remove("ann");
            assert_eq!(ask().await.unwrap(), 1);
            answers.sweep(clock::now().after(hour * 2));
            assert_eq!(ask().await.unwrap(), 2);
            assert!(answers.by_user.lock().len() <= 1);
        });
    }
}
