//! Real threads: 100,000 hand-offs with random deaths of the waiters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::support::{Conn, Tally};
use crate::pool::*;
use crate::primitives::clock;
use crate::timeouts::{TimeoutHandle, TimeoutThread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A small generator: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Waits for a ticket, or gives it up: at once, or when it has just been woken and looks no more.
fn wait(ticket: Ticket<Conn>, dice: &mut Dice) -> Option<Outcome<Conn>> {
    let mut ticket = ticket;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    if dice.roll(16) == 0 {
        return None;
    }
    loop {
        match ticket.poll_wait(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return Some(outcome),
            Poll::Pending => thread::park(),
        }
        if dice.roll(16) == 0 {
            return None;
        }
    }
}

struct Yard {
    pool: Arc<Pool<Conn>>,
    tally: Arc<Tally>,
    served: AtomicUsize,
    stop: AtomicBool,
}

const THREADS: usize = 8;
const SHARDS: usize = 3;
const SIZE: usize = 2;

impl Yard {
    fn new(limits: PoolLimits, budgets: Vec<Arc<Budget>>, timeouts: TimeoutHandle) -> Arc<Self> {
        Arc::new(Yard {
            pool: Pool::new(SHARDS, limits, budgets, timeouts),
            tally: Arc::default(),
            served: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// One worker: gets a connection, holds it for a moment, gives it back or kills it.
    fn work(&self, seed: u64) {
        let mut dice = Dice(seed * 0x9E37_79B9 + 1);
        let shard = seed as usize % SHARDS;
        while !self.stop.load(Ordering::Relaxed) {
            let hint = Hint { shard, state: dice.roll(2) };
            let outcome = match self.pool.checkout(hint, clock::now()) {
                Checkout::Ready(lease) => Some(Outcome::Handed(lease)),
                Checkout::Connect(permit) => Some(Outcome::Connect(permit)),
                Checkout::Refused(refusal) => Some(Outcome::Refused(refusal)),
                Checkout::Wait(ticket) => wait(ticket, &mut dice),
            };
            match outcome {
                Some(Outcome::Handed(lease)) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                    self.finish(lease, shard, &mut dice);
                }
                Some(Outcome::Connect(permit)) => match dice.roll(16) {
                    0 => drop(permit),
                    1 => permit.fail(clock::now().after(Duration::from_micros(50))),
                    _ => self.finish(permit.fulfil(self.tally.dial()), shard, &mut dice),
                },
                Some(Outcome::Refused(Refusal::Closed)) => return,
                Some(Outcome::Refused(_) | Outcome::Expired { .. }) | None => {}
            }
        }
    }

    fn finish(&self, lease: Lease<Conn>, shard: usize, dice: &mut Dice) {
        if dice.roll(4) == 0 {
            thread::yield_now();
        }
        match dice.roll(256) {
            0 => drop(lease),
            state => lease.check_in(Hint { shard, state: state % 2 }, clock::now()),
        }
    }
}

fn limits() -> PoolLimits {
    PoolLimits {
        size: SIZE,
        connecting_max: 1,
        wait_timeout: Some(Duration::from_millis(200)),
        cross_shard_bound: 4,
        overtake_max: 2,
        ..PoolLimits::default()
    }
}

#[test]
fn a_hundred_thousand_hand_offs_with_dying_waiters_lose_no_slot() {
    let (thread, timeouts) = TimeoutThread::start(clock::now).unwrap();
    let yard = Yard::new(limits(), vec![], timeouts);
    let workers: Vec<_> = (0..THREADS as u64)
        .map(|seed| {
            let yard = Arc::clone(&yard);
            thread::spawn(move || yard.work(seed + 1))
        })
        .collect();
    let begun = clock::now();
    while yard.pool.snapshot().hand_offs < 100_000 {
        let before = yard.served.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
        let late = clock::now().since(begun);
        assert!(late < Duration::from_secs(120), "{before} served in {late:?}");
    }
    yard.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    let seen = yard.pool.snapshot();
    assert_eq!((seen.active, seen.connecting, seen.waiting), (0, 0, 0), "{seen:?}");
    assert_eq!(yard.tally.open(), seen.idle);
    assert!(seen.idle <= SIZE);
    assert_eq!(seen.rescued_waiters, 0);
    assert!(seen.returned_by_ticket > 0, "no ticket died while it was handed something");
    assert!(seen.waits.cancelled.count > 0 && seen.permits_handed > 0, "{seen:?}");
    let handed = seen.hand_offs + seen.permits_handed;
    assert_eq!(seen.waits.served.count, handed);
    thread.stop_and_join();
}

/// Two pools on one budget smaller than both, then a close in the middle of it all.
#[test]
fn shared_budgets_and_a_close_under_load_lose_nothing() {
    let (thread, timeouts) = TimeoutThread::start(clock::now).unwrap();
    let node = Budget::new("node", 2);
    let yards = [(), ()].map(|()| {
        let budgets = vec![Arc::clone(&node)];
        let limits = PoolLimits { size: 0, ..limits() };
        Yard::new(limits, budgets, timeouts.clone())
    });
    let start = Arc::new(Barrier::new(THREADS));
    let workers: Vec<_> = (0..THREADS as u64)
        .map(|seed| {
            let yard = Arc::clone(&yards[seed as usize % 2]);
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                yard.work(seed + 1);
            })
        })
        .collect();
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(5));
        assert!(node.used() <= 2);
        yards[0].pool.bump_generation();
        yards[1].pool.set_limits(PoolLimits { size: 1, ..limits() }, clock::now());
        yards[1].pool.set_limits(PoolLimits { size: 0, ..limits() }, clock::now());
    }
    let served = yards.each_ref().map(|yard| yard.served.load(Ordering::Relaxed));
    for yard in &yards {
        yard.pool.close();
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(served.iter().all(|count| *count > 0), "both pools got on: {served:?}");
    for yard in &yards {
        let seen = yard.pool.snapshot();
        assert_eq!((seen.idle, seen.active, seen.connecting, seen.waiting), (0, 0, 0, 0));
        assert_eq!((yard.tally.open(), seen.rescued_waiters), (0, 0));
    }
    assert_eq!(node.used(), 0);
    thread.stop_and_join();
}
