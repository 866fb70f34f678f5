//! How long servers live: their age, their rest, and when they are asked whether they still do.
//!
//! The rules of a pool, in a form that a server can be measured by at each check-in without a lock.
//! Invariant: no more than one server of a pool dies of age in each part of `server_lifetime` that
//! falls to one; but for a look's length, since looks come now and then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::pools::PoolSettings;
use crate::primitives::Tick;

/// How often idle servers are looked over.
pub const LOOK_PERIOD: Duration = Duration::from_millis(333);
/// In place of a time: never.
const NEVER: u64 = u64::MAX;

/// The rules of one pool, shared with its servers. Relaxed throughout: each value stands alone, and
/// a reload may be seen a moment late.
#[derive(Debug)]
pub struct Life {
    /// 0: a server serves once.
    lifetime_us: AtomicU64,
    /// Between two deaths of age.
    gap_us: AtomicU64,
    /// The last death of age. Not the next: a gap that a reload makes shorter counts at once.
    last_us: AtomicU64,
    /// Rest after which a server is asked before it is used.
    check_after_us: AtomicU64,
    /// Whether ends are logged.
    logs: AtomicBool,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(NEVER)
}

impl Default for Life {
    fn default() -> Self {
        Self {
            lifetime_us: AtomicU64::new(NEVER),
            gap_us: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            check_after_us: AtomicU64::new(NEVER),
            logs: AtomicBool::new(false),
        }
    }
}

impl Life {
    /// Takes over what a pool is configured with. A pool without a size spreads deaths over as many
    /// servers as it has: see [`spread_over`](Self::spread_over).
    pub fn follow(&self, settings: &PoolSettings) {
        let rules = &settings.servers;
        self.set_lifetime(rules.lifetime, settings.limits.size);
        self.set_check_delay(rules.check.as_ref().map(|(_, delay)| *delay));
        self.set_logs(rules.logs_ends);
    }

    /// Spreads deaths of age over so many servers.
    pub fn spread_over(&self, servers: usize) {
        let servers = u64::try_from(servers.max(1)).unwrap_or(NEVER);
        self.gap_us.store(self.lifetime_us.load(Relaxed) / servers, Relaxed);
    }

    /// Sets `server_lifetime`, to be spread over so many servers.
    fn set_lifetime(&self, lifetime: Duration, servers: usize) {
        self.lifetime_us.store(micros(lifetime), Relaxed);
        self.spread_over(servers);
    }

    /// Sets `server_check_delay`; `None` is no check.
    fn set_check_delay(&self, delay: Option<Duration>) {
        self.check_after_us.store(delay.map_or(NEVER, micros), Relaxed);
    }

    /// Sets whether the ends of servers are logged.
    fn set_logs(&self, logs: bool) {
        self.logs.store(logs, Relaxed);
    }

    /// Whether the ends of servers are logged.
    pub fn logs(&self) -> bool {
        self.logs.load(Relaxed)
    }

    /// Whether a server that was connected at `since` has to go now. If so, its turn is taken: the
    /// caller closes it.
    pub fn is_over(&self, since: Tick, has_served: bool, now: Tick) -> bool {
        match self.lifetime_us.load(Relaxed) {
            0 => has_served,
            lifetime => micros(now.since(since)) >= lifetime && self.take_turn(now),
        }
    }

    /// One turn for each gap; those of the last look's length may be taken late.
    #[cold]
    fn take_turn(&self, now: Tick) -> bool {
        let now_us = now.as_micros();
        let late = now_us.saturating_sub(micros(LOOK_PERIOD));
        let gap = self.gap_us.load(Relaxed);
        let turn = |last: u64| {
            let next = last.saturating_add(gap);
            (next <= now_us).then(|| next.max(late))
        };
        self.last_us.fetch_update(Relaxed, Relaxed, turn).is_ok()
    }

    /// Whether a server that has rested since `since` has to be asked before it is used.
    pub fn needs_check(&self, since: Tick, now: Tick) -> bool {
        micros(now.since(since)) >= self.check_after_us.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_micros(millis * 1_000)
    }

    #[test]
    fn servers_die_one_after_the_other_once_they_are_old() {
        let life = Life::default();
        life.set_lifetime(Duration::from_secs(100), 20);
        let born = at(1_000);
        assert!(!life.is_over(born, true, at(100_999)));
        assert!(life.is_over(born, true, at(101_000)));
        let deaths: Vec<u64> =
            (101_001..300_000).filter(|now| life.is_over(born, false, at(*now))).collect();
        let gaps: Vec<u64> = deaths.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (5_000..=5_001).contains(gap)), "{gaps:?}");
        assert!(deaths.len() >= 19, "all of a pool within twice its lifetime: {}", deaths.len());
    }

    #[test]
    fn a_look_that_comes_late_catches_up_with_the_turns_of_one_period() {
        let life = Life::default();
        life.set_lifetime(Duration::from_millis(1_000), 100);
        let count = |now| (0..100).filter(|_| life.is_over(at(0), false, at(now))).count();
        assert_eq!(count(5_000), 34);
        assert_eq!(count(5_100), 10);
        assert_eq!(count(5_433), 33);
        assert_eq!(count(9_000), 34, "no more than one period's");
    }

    #[test]
    fn a_lifetime_that_is_made_shorter_does_not_wait_for_a_turn_of_the_longer() {
        let life = Life::default();
        life.set_lifetime(Duration::from_secs(86_400), 1);
        let day = 86_400_000;
        assert!(life.is_over(at(0), true, at(day)));
        life.set_lifetime(Duration::from_secs(60), 1);
        assert!(life.is_over(at(day), true, at(day + 60_000)));
        // Nor does a pool that spreads over more servers than it had.
        life.set_lifetime(Duration::from_secs(3_600), 1);
        assert!(life.is_over(at(0), true, at(2 * day)));
        life.spread_over(100);
        assert!(life.is_over(at(0), true, at(2 * day + 36_000)));
    }

    #[test]
    fn without_a_lifetime_a_server_serves_once() {
        let life = Life::default();
        life.set_lifetime(Duration::ZERO, 5);
        assert!(!life.is_over(at(0), false, at(1_000_000)), "nobody had it yet");
        assert!(life.is_over(at(0), true, at(0)) && life.is_over(at(0), true, at(0)));
    }

    #[test]
    fn rest_is_checked_when_there_is_a_check() {
        let life = Life::default();
        assert!(!life.needs_check(at(0), at(u64::MAX / 1_000)));
        life.set_check_delay(Some(Duration::from_secs(30)));
        assert!(!life.needs_check(at(5), at(30_004)));
        assert!(life.needs_check(at(5), at(30_005)));
        life.set_check_delay(Some(Duration::ZERO));
        assert!(life.needs_check(at(5), at(5)));
    }
}
