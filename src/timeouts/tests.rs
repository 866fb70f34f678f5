//! The timeout thread: with a scripted source in virtual time, and once with the real thread.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::primitives::{Arc, Tick, Weak, clock};

/// A source with a list of deadlines.
#[derive(Default)]
struct Script {
    deadlines: Mutex<Vec<Tick>>,
    expired: AtomicUsize,
    visits: AtomicUsize,
}

impl Deadlines for Script {
    fn expire_due(&self, now: Tick) {
        self.visits.fetch_add(1, Ordering::SeqCst);
        let mut deadlines = self.deadlines.lock();
        let before = deadlines.len();
        deadlines.retain(|at| *at > now);
        self.expired.fetch_add(before - deadlines.len(), Ordering::SeqCst);
    }

    fn next_deadline(&self, _now: Tick) -> Option<Tick> {
        self.deadlines.lock().iter().min().copied()
    }
}

impl Script {
    fn add(&self, at: Tick) {
        self.deadlines.lock().push(at);
    }

    fn expired(&self) -> usize {
        self.expired.load(Ordering::SeqCst)
    }
}

fn source(handle: &TimeoutHandle) -> (Arc<Script>, Registration) {
    let script = Arc::new(Script::default());
    let weak: Weak<dyn Deadlines> = Arc::downgrade(&script) as Weak<dyn Deadlines>;
    let registration = handle.register(weak);
    (script, registration)
}

fn tick(micros: u64) -> Tick {
    Tick::from_micros(micros)
}

#[test]
fn only_due_sources_are_visited() {
    let handle = TimeoutHandle::manual();
    let sources: Vec<_> = (0..10).map(|_| source(&handle)).collect();
    for (at, (script, registration)) in (1..).map(|n| tick(n * 100)).zip(&sources) {
        script.add(at);
        registration.arm(at);
    }
    handle.run_due(tick(300));
    assert_eq!(handle.visits(), 3);
    let expired = sources.iter().map(|(script, _)| script.expired()).collect::<Vec<_>>();
    assert_eq!(expired, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_earlier_deadline_moves_the_source_forward_and_a_later_one_costs_nothing() {
    let handle = TimeoutHandle::manual();
    let (script, registration) = source(&handle);
    for at in [500, 200, 900] {
        script.add(tick(at));
        registration.arm(tick(at));
    }
    handle.run_due(tick(199));
    assert_eq!(handle.visits(), 0);
    handle.run_due(tick(200));
    handle.run_due(tick(500));
    handle.run_due(tick(900));
    assert_eq!((handle.visits(), script.expired()), (3, 3));
    handle.run_due(tick(100_000));
    assert_eq!(handle.visits(), 3);
}

#[test]
fn a_source_that_goes_away_leaves_nothing_behind() {
    let handle = TimeoutHandle::manual();
    let (script, registration) = source(&handle);
    script.add(tick(5));
    registration.arm(tick(5));
    drop(script);
    handle.run_due(tick(4));
    drop(registration);
    handle.run_due(tick(10));
    assert_eq!((handle.sources(), handle.visits()), (0, 0));
}

fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "the timeout thread did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_thread_fires_in_time_and_is_joined() {
    let (thread, handle) = TimeoutThread::start(clock::now).unwrap();
    let (script, registration) = source(&handle);
    let begun = clock::now();
    for millis in [40, 20, 60] {
        let at = begun.after(Duration::from_millis(millis));
        script.add(at);
        registration.arm(at);
    }
    until(|| script.expired() == 3);
    assert!(clock::now().since(begun) >= Duration::from_millis(60), "and not before");
    thread.stop_and_join();
    let late = clock::now();
    script.add(late);
    registration.arm(late);
    assert_eq!(script.expired(), 3, "a stopped thread fires nothing");
}

/// The coalescing: a thousand enqueuers with rising deadlines cost a handful of wakes.
#[test]
fn wakes_are_few_however_many_wait() {
    let (thread, handle) = TimeoutThread::start(clock::now).unwrap();
    let (script, registration) = source(&handle);
    // A thread that comes late finds all due at once and need not sleep: not before it has slept once.
    let awaited = std::cell::Cell::new(0);
    until(|| {
        let now = clock::now();
        script.add(now);
        registration.arm(now);
        awaited.set(awaited.get() + 1);
        handle.wakes() > 0
    });
    until(|| script.expired() == awaited.get());
    let before = (handle.wakes(), handle.visits());
    let begun = clock::now();
    for micros in 0..1_000 {
        let at = begun.after(Duration::from_millis(50)).after(Duration::from_micros(micros));
        script.add(at);
        registration.arm(at);
    }
    until(|| script.expired() == awaited.get() + 1_000);
    let (wakes, visits) = (handle.wakes() - before.0, handle.visits() - before.1);
    assert!(wakes <= 20, "{wakes} wakes and {visits} visits for 1,000 deadlines in 1 ms");
    drop(thread);
}
