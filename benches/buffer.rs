//! What the request buffer costs. Each group answers one question:
//!
//! - `look`: what does a request pay for it when nothing is wrong?
//! - `hold`: what does it cost to get in and to give up again, or to be released and to retry, with
//!   nobody else there and with many?
//! - `full`: what does a newcomer pay for the eviction of the oldest, however many there are?
//! - `storm`: how long does it take to end 100,000 waits with one deadline, or to answer them all at
//!   a close, or to drain them?
//!
//! All of it on one thread, and with wakers that do nothing, so that it is the buffer that is
//! measured.

use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgbaton::buffer::{Admission, Buffer, BufferLimits, Lane, Outcome, Request, Ticket};
use pgbaton::primitives::Tick;
use pgbaton::timeouts::TimeoutHandle;

const MANY: [usize; 2] = [1_000, 100_000];
const START: Tick = Tick::ZERO;
const WINDOW: Duration = Duration::from_secs(10);

struct World {
    buffer: Buffer,
    lane: Lane,
    timeouts: TimeoutHandle,
}

fn world(requests: usize, drain_concurrency: usize) -> World {
    let limits = BufferLimits {
        requests,
        bytes: usize::MAX,
        window: WINDOW,
        min_time_between_failovers: Duration::ZERO,
        drain_concurrency,
        ..BufferLimits::default()
    };
    let timeouts = TimeoutHandle::manual();
    let buffer = Buffer::new(limits, timeouts.clone());
    World { lane: buffer.lane(), buffer, timeouts }
}

fn hold(lane: &Lane) -> Ticket {
    match lane.hold(Request::new(black_box(200)), lane.attempt(), START) {
        Admission::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Some that wait and have parked.
fn parked(lane: &Lane, count: usize) -> Vec<Ticket> {
    let tickets = (0..count).map(|_| {
        let mut ticket = hold(lane);
        assert!(poll(&mut ticket).is_pending());
        ticket
    });
    tickets.collect()
}

fn poll(ticket: &mut Ticket) -> Poll<Outcome> {
    ticket.poll_wait(&mut Context::from_waker(Waker::noop()))
}

fn look(c: &mut Criterion) {
    let w = world(1_000, 1);
    c.bench_function("look/attempt_and_is_buffering", |b| {
        b.iter(|| (black_box(&w.lane).attempt(), black_box(&w.lane).is_buffering()));
    });
}

fn hold_one(c: &mut Criterion) {
    let mut group = c.benchmark_group("hold");
    for others in [0, 1_000, 100_000] {
        let w = world(usize::MAX, 1);
        let _others = parked(&w.lane, others);
        group.bench_function(BenchmarkId::new("enqueue_cancel", others), |b| {
            b.iter(|| drop(hold(&w.lane)));
        });
    }
    let w = world(1_000, 1);
    group.bench_function("enqueue_release_retry", |b| {
        b.iter(|| {
            let mut ticket = hold(&w.lane);
            w.lane.serving(START);
            match poll(&mut ticket) {
                Poll::Ready(Outcome::Released(retry)) => retry.finish(START),
                other => panic!("{other:?}"),
            }
        });
    });
    group.finish();
}

fn full(c: &mut Criterion) {
    let mut group = c.benchmark_group("full");
    for size in MANY {
        for lanes in [1, 8] {
            let w = world(size, 1);
            let lanes: Vec<_> = (0..lanes).map(|_| w.buffer.lane()).collect();
            // A ring of tickets: each newcomer evicts the oldest and takes its place.
            let mut ring: Vec<_> = (0..size).map(|at| hold(&lanes[at % lanes.len()])).collect();
            let mut at = 0;
            let name = BenchmarkId::new(format!("evict_oldest_{}_lanes", lanes.len()), size);
            group.bench_function(name, |b| {
                b.iter(|| {
                    ring[at % size] = hold(&lanes[at % lanes.len()]);
                    at += 1;
                });
            });
        }
    }
    group.finish();
}

fn storm(c: &mut Criterion) {
    const STORM: usize = 100_000;
    let mut group = c.benchmark_group("storm");
    group.sample_size(20);
    group.throughput(Throughput::Elements(STORM as u64));
    let storm = || {
        let w = world(STORM, 16);
        let tickets = parked(&w.lane, STORM);
        (w, tickets)
    };
    group.bench_function("sweep_100000", |b| {
        b.iter_batched(
            storm,
            |(w, tickets)| {
                w.timeouts.run_due(START.after(WINDOW));
                (w, tickets)
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("close_100000", |b| {
        b.iter_batched(
            storm,
            |(w, tickets)| {
                w.buffer.close();
                (w, tickets)
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("drain_100000", |b| {
        b.iter_batched(
            storm,
            |(w, mut tickets)| {
                w.lane.serving(START);
                for ticket in &mut tickets {
                    match poll(ticket) {
                        Poll::Ready(Outcome::Released(retry)) => retry.finish(START),
                        other => panic!("{other:?}"),
                    }
                }
                (w, tickets)
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, look, hold_one, full, storm);
criterion_main!(benches);
