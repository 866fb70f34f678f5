//! Real threads, real time: requests that fail, join, wait, give up and retry, against a monitor that
//! announces primaries, the timeout thread, and changes of the limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::buffer::*;
use crate::primitives::clock;
use crate::timeouts::TimeoutThread;

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

const WORKERS: u64 = 8;
const LANES: usize = 2;
const REQUESTS: usize = 4;
const BYTES: usize = 60;
const AT_ONCE: usize = 2;

fn limits() -> BufferLimits {
    BufferLimits {
        requests: REQUESTS,
        bytes: BYTES,
        window: Duration::from_millis(3),
        max_failover_duration: Duration::from_millis(4),
        min_time_between_failovers: Duration::ZERO,
        drain_concurrency: AT_ONCE,
    }
}

/// What the workers saw, by outcome.
#[derive(Default)]
struct Seen {
    released: AtomicU64,
    too_long: AtomicU64,
    evicted: AtomicU64,
    late: AtomicU64,
    closed: AtomicU64,
    /// Tickets dropped, at first or after they were woken.
    dropped: AtomicU64,
}

struct Yard {
    buffer: Buffer,
    lanes: [Lane; LANES],
    retrying: [AtomicUsize; LANES],
    seen: Seen,
    /// Nobody comes: who waits is not evicted by others before the window is over.
    calm: AtomicBool,
    stop: AtomicBool,
}

/// Waits for a ticket, or gives it up: at once, or when it has just been woken and looks no more.
fn wait(mut ticket: Ticket, dice: &mut Dice) -> Option<Outcome> {
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

impl Yard {
    fn work(&self, seed: u64) {
        let mut dice = Dice(seed * 0x9E37_79B9 + 1);
        while !self.stop.load(Ordering::Relaxed) {
            if self.calm.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(100));
                continue;
            }
            let at = dice.roll(LANES as u64) as usize;
            let lane = &self.lanes[at];
            let request = Request::new(dice.roll(40) as usize);
            let attempt = lane.attempt();
            let admission = if lane.is_buffering() && dice.roll(2) == 0 {
                lane.join(request, clock::now())
            } else {
                lane.hold(request, attempt, clock::now())
            };
            match admission {
                Admission::Wait(ticket) => self.wait(at, ticket, &mut dice),
                Admission::Refuse(Refusal::Closed) => return,
                // Not too often: others are to get on.
                _ => thread::yield_now(),
            }
        }
    }

    fn wait(&self, at: usize, ticket: Ticket, dice: &mut Dice) {
        let seen = &self.seen;
        let (counter, retry) = match wait(ticket, dice) {
            Some(Outcome::Released(retry)) => (&seen.released, Some(retry)),
            Some(Outcome::EpisodeTooLong(retry)) => (&seen.too_long, Some(retry)),
            Some(Outcome::Evicted { .. }) => (&seen.evicted, None),
            Some(Outcome::WindowExceeded { waited }) => {
                assert!(waited >= limits().window, "evicted after {waited:?}");
                (&seen.late, None)
            }
            Some(Outcome::Closed { .. }) => (&seen.closed, None),
            None => (&seen.dropped, None),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(retry) = retry {
            let others = self.retrying[at].fetch_add(1, Ordering::SeqCst);
            assert!(others < AT_ONCE, "{} retry at once", others + 1);
            if dice.roll(4) == 0 {
                thread::yield_now();
            }
            self.retrying[at].fetch_sub(1, Ordering::SeqCst);
            if dice.roll(2) == 0 { drop(retry) } else { retry.finish(clock::now()) }
        }
    }

    fn enough(&self) -> bool {
        let seen = &self.seen;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        count(&seen.released) >= 20_000
            && [&seen.too_long, &seen.evicted, &seen.late, &seen.dropped]
                .into_iter()
                .all(|counter| count(counter) >= 200)
    }
}

#[test]
fn tens_of_thousands_of_waits_on_real_threads_lose_nothing() {
    let (thread, timeouts) = TimeoutThread::start(clock::now).unwrap();
    let buffer = Buffer::new(limits(), timeouts);
    let lanes = [buffer.lane(), buffer.lane()];
    let (retrying, seen, calm, stop) = Default::default();
    let yard = Arc::new(Yard { buffer, lanes, retrying, seen, calm, stop });
    let workers: Vec<_> = (1..=WORKERS)
        .map(|seed| {
            let yard = Arc::clone(&yard);
            thread::spawn(move || yard.work(seed))
        })
        .collect();
    let mut dice = Dice(42);
    let begun = clock::now();
    while !yard.enough() {
        // Mostly quick failovers; now and then one that lasts too long.
        let lane = &yard.lanes[dice.roll(LANES as u64) as usize];
        match dice.roll(12) {
            0 => {
                // New episodes, which the waiters of this moment see from near their beginning.
                yard.lanes.iter().for_each(|lane| lane.serving(clock::now()));
                thread::sleep(Duration::from_micros(dice.roll(300)));
                yard.calm.store(true, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(dice.roll(12)));
                yard.calm.store(false, Ordering::Relaxed);
            }
            1 => drop(lane.start(clock::now())),
            2 => yard.buffer.set_limits(&limits(), clock::now()),
            _ => lane.serving(clock::now()),
        }
        let held = yard.buffer.snapshot().held;
        assert!(held.requests <= REQUESTS && held.bytes <= BYTES, "{held:?}");
        thread::sleep(Duration::from_micros(dice.roll(100)));
        let late = clock::now().since(begun);
        assert!(late < Duration::from_secs(120), "{:?} in {late:?}", yard.buffer.snapshot());
    }
    yard.buffer.close();
    for worker in workers {
        worker.join().unwrap();
    }
    let snapshot = yard.buffer.snapshot();
    assert_eq!((snapshot.waiting, snapshot.held, snapshot.buffering), (0, Load::default(), 0));
    let idle = yard.lanes.each_ref().map(|lane| lane.snapshot().state == LaneState::Idle);
    assert_eq!(idle, [true; LANES]);
    // Every wait ended once, and whoever looked saw what was counted.
    let (seen, waits) = (&yard.seen, &snapshot.counts.waits);
    let ended = [&waits.released, &waits.episode_too_long, &waits.evicted, &waits.window_exceeded];
    let ended = ended.into_iter().chain([&waits.cancelled, &waits.closed]);
    assert_eq!(ended.map(|waits| waits.count).sum::<u64>(), snapshot.counts.buffered);
    let looked = [&seen.released, &seen.too_long, &seen.evicted, &seen.late, &seen.closed];
    let looked = looked.map(|counter| counter.load(Ordering::Relaxed));
    let dropped = seen.dropped.load(Ordering::Relaxed);
    assert_eq!(looked.iter().sum::<u64>() + dropped, snapshot.counts.buffered);
    assert!(waits.cancelled.count <= dropped);
    let unseen = dropped - waits.cancelled.count;
    assert!(unseen > 0, "no ticket died with an outcome that it had not seen");
    assert!(snapshot.counts.sent_again > 0 && snapshot.counts.episodes > 1_000, "{snapshot:?}");
    thread.stop_and_join();
}
