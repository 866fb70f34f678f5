//! The pool against its peers. Each group answers one question:
//!
//! - `uncontended`: what does a check-out and a check-in cost when nobody waits?
//! - `contended`: what does it cost with N tasks on two threads, still with a connection for each?
//! - `hand_off`: what does one turn cost with N tasks on 4 connections, on one thread and on two?
//! - `many_shards`: does a turn cost more the more workers there are?
//! - `hand_off_latency`: how long until a waiter on another thread has what was given back?
//! - `expiry`: how long do storms of up to 100,000 expiring waiters take, how long is a check-in held
//!   up that meets one, and for how long at most does anybody find the pool locked meanwhile?
//!
//! A turn of `hand_off` takes a connection, yields to the other tasks, and gives it back, so that
//! with more tasks than connections every turn waits. `uncontended` is given its moments, as the
//! pool's callers do, except where it says `with_clock`.

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use pgbaton::pool::{Checkout, Hint, Lease, Outcome, Pool, PoolLimits, Ticket};
use pgbaton::primitives::{Tick, clock};
use pgbaton::timeouts::TimeoutHandle;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

const CONNS: usize = 4;

/// Stands for a boxed server connection.
type Conn = Box<u64>;

/// One of the pools compared: take, hold over `during`, give back.
trait Yard: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    fn build(conns: usize) -> Self;
    fn turn(
        &self,
        task: usize,
        during: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Baton(Arc<Pool<Conn>>);

impl Baton {
    fn open(shards: usize, conns: usize) -> Self {
        let limits = PoolLimits { size: conns, connecting_max: 0, ..PoolLimits::default() };
        let pool = Pool::new(shards, limits, vec![], TimeoutHandle::manual());
        let leases: Vec<_> = (0..conns)
            .map(|_| match pool.checkout(Hint::default(), Tick::ZERO) {
                Checkout::Connect(permit) => permit.fulfil(Box::new(1)),
                other => panic!("{other:?}"),
            })
            .collect();
        for (index, lease) in leases.into_iter().enumerate() {
            lease.check_in(Hint { shard: index % shards, state: 0 }, Tick::ZERO);
        }
        Baton(pool)
    }

    fn take_now(&self) -> Lease<Conn> {
        match self.0.checkout(Hint::default(), Tick::ZERO) {
            Checkout::Ready(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    async fn take(&self, hint: Hint) -> Lease<Conn> {
        match self.0.checkout(hint, Tick::ZERO) {
            Checkout::Ready(lease) => lease,
            Checkout::Wait(ticket) => match ticket.await {
                Outcome::Handed(lease) => lease,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

impl Yard for Baton {
    const NAME: &'static str = "pgbaton";

    fn build(conns: usize) -> Self {
        Baton::open(1, conns)
    }

    async fn turn(&self, task: usize, during: impl Future<Output = ()> + Send) {
        let hint = Hint { shard: task % self.0.shards(), state: 0 };
        let lease = self.take(hint).await;
        during.await;
        lease.check_in(hint, Tick::ZERO);
    }
}

/// The same with a shard per thread.
#[derive(Clone)]
struct Sharded(Baton);

impl Yard for Sharded {
    const NAME: &'static str = "pgbaton_2_shards";

    fn build(conns: usize) -> Self {
        Sharded(Baton::open(2, conns))
    }

    async fn turn(&self, task: usize, during: impl Future<Output = ()> + Send) {
        self.0.turn(task, during).await;
    }
}

/// A tokio semaphore beside a mutexed stack: the usual home-made pool.
#[derive(Clone)]
struct Stack(Arc<(Semaphore, Mutex<Vec<Conn>>)>);

impl Yard for Stack {
    const NAME: &'static str = "semaphore";

    fn build(conns: usize) -> Self {
        let stack = (0..conns).map(|_| Box::new(1)).collect();
        Stack(Arc::new((Semaphore::new(conns), Mutex::new(stack))))
    }

    async fn turn(&self, _task: usize, during: impl Future<Output = ()> + Send) {
        let permit = self.0.0.acquire().await.unwrap();
        let conn = self.0.1.lock().pop().unwrap();
        during.await;
        self.0.1.lock().push(conn);
        drop(permit);
    }
}

struct Manager;

impl deadpool::managed::Manager for Manager {
    type Type = Conn;
    type Error = std::convert::Infallible;

    async fn create(&self) -> Result<Conn, Self::Error> {
        Ok(Box::new(1))
    }

    async fn recycle(
        &self,
        _: &mut Conn,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Self::Error> {
        Ok(())
    }
}

#[derive(Clone)]
struct Deadpool(deadpool::managed::Pool<Manager>);

impl Yard for Deadpool {
    const NAME: &'static str = "deadpool";

    fn build(conns: usize) -> Self {
        Deadpool(deadpool::managed::Pool::builder(Manager).max_size(conns).build().unwrap())
    }

    async fn turn(&self, _task: usize, during: impl Future<Output = ()> + Send) {
        let conn = self.0.get().await.unwrap();
        during.await;
        drop(conn);
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Conn;
    type Error = std::convert::Infallible;

    async fn connect(&self) -> Result<Conn, Self::Error> {
        Ok(Box::new(1))
    }

    async fn is_valid(&self, _: &mut Conn) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Conn) -> bool {
        false
    }
}

#[derive(Clone)]
struct Bb8(bb8::Pool<Manager>);

impl Yard for Bb8 {
    const NAME: &'static str = "bb8";

    fn build(conns: usize) -> Self {
        let builder = bb8::Pool::builder().max_size(conns as u32).test_on_check_out(false);
        Bb8(builder.connection_timeout(Duration::from_secs(600)).build_unchecked(Manager))
    }

    async fn turn(&self, _task: usize, during: impl Future<Output = ()> + Send) {
        let conn = self.0.get().await.unwrap();
        during.await;
        drop(conn);
    }
}

/// `total` turns, shared out among `tasks` tasks.
async fn turns<Y: Yard>(yard: Y, tasks: usize, total: u64) -> Duration {
    let each = total.div_ceil(tasks as u64);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let yard = yard.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    yard.turn(task, tokio::task::yield_now()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    begun.elapsed()
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn uncontended(c: &mut Criterion) {
    let mut group = c.benchmark_group("uncontended");
    let baton = Baton::open(1, CONNS);
    group.bench_function("pgbaton", |b| {
        let hint = Hint::default();
        b.iter(|| {
            let Checkout::Ready(lease) = baton.0.checkout(black_box(hint), Tick::ZERO) else {
                panic!("nobody else is here");
            };
            lease.check_in(hint, Tick::ZERO);
        });
    });
    group.bench_function("pgbaton_with_clock", |b| {
        let hint = Hint::default();
        b.iter(|| {
            let Checkout::Ready(lease) = baton.0.checkout(black_box(hint), clock::now()) else {
                panic!("nobody else is here");
            };
            lease.check_in(hint, clock::now());
        });
    });
    group.bench_function("mutex_push_pop", |b| {
        let stack: Mutex<Vec<Conn>> = Mutex::new(vec![Box::new(1)]);
        b.iter(|| {
            let conn = stack.lock().pop().unwrap();
            stack.lock().push(black_box(conn));
        });
    });
    fn peer<Y: Yard>(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
        let runtime = one_thread();
        let yard = runtime.block_on(async { Y::build(CONNS) });
        group.bench_function(Y::NAME, |b| {
            b.iter_custom(|iters| {
                runtime.block_on(async {
                    let begun = Instant::now();
                    for _ in 0..iters {
                        yard.turn(0, std::future::ready(())).await;
                    }
                    begun.elapsed()
                })
            });
        });
    }
    peer::<Stack>(&mut group);
    peer::<Deadpool>(&mut group);
    peer::<Bb8>(&mut group);
    group.finish();
}

fn hand_off(c: &mut Criterion) {
    fn runs<Y: Yard>(c: &mut Criterion, name: &str, runtime: &Runtime) {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for tasks in [1, 2, 4, 8, 16, 64] {
            let yard = runtime.block_on(async { Y::build(CONNS) });
            group.bench_function(BenchmarkId::new(Y::NAME, tasks), |b| {
                b.iter_custom(|iters| runtime.block_on(turns(yard.clone(), tasks, iters)));
            });
        }
        group.finish();
    }
    let (one, two) = (one_thread(), two_threads());
    for (name, runtime) in [("hand_off/1_thread", &one), ("hand_off/2_threads", &two)] {
        runs::<Baton>(c, name, runtime);
        runs::<Stack>(c, name, runtime);
        runs::<Deadpool>(c, name, runtime);
        runs::<Bb8>(c, name, runtime);
    }
    runs::<Sharded>(c, "hand_off/2_threads", &two);
}

/// Connections of the pool in which nobody has to wait.
const PLENTY: usize = 64;
/// Turns of a task before it lets others have its thread.
const TURNS_AT_ONCE: u64 = 64;

/// What one turn costs while others take theirs on the other thread, and nobody has to wait: the price
/// of sharing.
fn contended(c: &mut Criterion) {
    fn runs<Y: Yard>(c: &mut Criterion, runtime: &Runtime) {
        let mut group = c.benchmark_group("contended/2_threads");
        group.throughput(Throughput::Elements(1));
        for tasks in [1, 2, 4, 8, 64] {
            let yard = runtime.block_on(async { Y::build(PLENTY) });
            group.bench_function(BenchmarkId::new(Y::NAME, tasks), |b| {
                b.iter_custom(|iters| runtime.block_on(rapid_turns(yard.clone(), tasks, iters)));
            });
        }
        group.finish();
    }
    let runtime = two_threads();
    runs::<Baton>(c, &runtime);
    runs::<Sharded>(c, &runtime);
    runs::<Stack>(c, &runtime);
    runs::<Deadpool>(c, &runtime);
    runs::<Bb8>(c, &runtime);
}

async fn rapid_turns<Y: Yard>(yard: Y, tasks: usize, total: u64) -> Duration {
    let rounds = total.div_ceil(tasks as u64 * TURNS_AT_ONCE);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let yard = yard.clone();
            tokio::spawn(async move {
                for _ in 0..rounds {
                    for _ in 0..TURNS_AT_ONCE {
                        yard.turn(task, std::future::ready(())).await;
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    begun.elapsed()
}

/// What one turn costs with so many shards, each with a connection and ten tasks: what grows with the
/// number of workers is what a hand-off has to look at.
fn many_shards(c: &mut Criterion) {
    let mut group = c.benchmark_group("many_shards/2_threads");
    group.throughput(Throughput::Elements(1));
    let runtime = two_threads();
    for shards in [1, 2, 16, 64] {
        let yard = Baton::open(shards, shards);
        group.bench_function(BenchmarkId::new("pgbaton", shards), |b| {
            b.iter_custom(|iters| runtime.block_on(turns(yard.clone(), 10 * shards, iters)));
        });
    }
    group.finish();
}

/// Waiters that expire at one moment, in the storms compared.
const STORMS: [usize; 4] = [256, 2_048, 20_000, 100_000];

/// A pool of one connection, which is out, and as many waiters as a storm has.
struct Storm {
    timeouts: TimeoutHandle,
    pool: Arc<Pool<Conn>>,
    lease: Lease<Conn>,
    tickets: Vec<Ticket<Conn>>,
}

impl Storm {
    /// The moment at which all its waiters are late.
    fn late() -> Tick {
        Tick::ZERO.after(Duration::from_secs(1))
    }

    fn gather(waiters: usize) -> Self {
        let wait_timeout = Some(Duration::from_secs(1));
        let limits = PoolLimits { size: 1, wait_timeout, ..Default::default() };
        let timeouts = TimeoutHandle::manual();
        let pool = Pool::<Conn>::new(1, limits, vec![], timeouts.clone());
        let Checkout::Connect(permit) = pool.checkout(Hint::default(), Tick::ZERO) else {
            panic!("the pool is empty");
        };
        let lease = permit.fulfil(Box::new(1));
        let tickets: Vec<_> = (0..waiters)
            .map(|_| match pool.checkout(Hint::default(), Tick::ZERO) {
                Checkout::Wait(ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        Self { timeouts, pool, lease, tickets }
    }
}

fn expiry(c: &mut Criterion) {
    let mut group = c.benchmark_group("expiry");
    group.sample_size(20);
    for waiters in STORMS {
        group.throughput(Throughput::Elements(waiters as u64));
        group.bench_function(BenchmarkId::new("sweep", waiters), |b| {
            b.iter_batched(
                || Storm::gather(waiters),
                |storm| {
                    storm.timeouts.run_due(Storm::late());
                    storm
                },
                criterion::BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("check_in_through_expired", waiters), |b| {
            b.iter_batched(
                || Storm::gather(waiters),
                |Storm { timeouts, pool, lease, tickets }| {
                    lease.check_in(Hint::default(), Storm::late());
                    (timeouts, pool, tickets)
                },
                criterion::BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("longest_hold_up", waiters), |b| {
            b.iter_custom(|iters| (0..iters).map(|_| longest_hold_up(waiters)).sum());
        });
    }
    group.finish();
}

/// The longest time for which a thread that asks the pool for its counts, again and again, finds the
/// shard's lock taken while another sweeps the storm away.
fn longest_hold_up(waiters: usize) -> Duration {
    let storm = Storm::gather(waiters);
    let (ready, is_over) = (Barrier::new(2), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            ready.wait();
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                black_box(storm.pool.snapshot());
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        ready.wait();
        storm.timeouts.run_due(Storm::late());
        is_over.store(true, Ordering::Relaxed);
        observer.join().unwrap()
    })
}

/// From a check-in to the moment at which the waiter has the connection, on another thread, which is
/// asleep until then: the pool's part, and a wake-up by the kernel. `unpark` is that wake-up alone.
fn latency(c: &mut Criterion) {
    let mut group = c.benchmark_group("hand_off_latency");
    group.bench_function("pgbaton", |b| {
        let baton = Baton::open(1, CONNS);
        let all: Vec<_> = (0..CONNS).map(|_| baton.take_now()).collect();
        let mut spare: Vec<_> = all.into_iter().collect();
        let mut lease = spare.pop();
        b.iter_custom(|iters| {
            let (asked, has_asked) = mpsc::channel();
            let (took, taken) = mpsc::channel();
            let pool = baton.0.clone();
            let waiter = std::thread::spawn(move || {
                let runtime = one_thread();
                for _ in 0..iters {
                    let Checkout::Wait(ticket) = pool.checkout(Hint::default(), Tick::ZERO) else {
                        panic!("all are out");
                    };
                    asked.send(()).unwrap();
                    let outcome = runtime.block_on(ticket);
                    let now = Instant::now();
                    let Outcome::Handed(lease) = outcome else { panic!("nothing else happens") };
                    took.send((now, lease)).unwrap();
                }
            });
            let mut sum = Duration::ZERO;
            for _ in 0..iters {
                has_asked.recv().unwrap();
                fall_asleep();
                let begun = Instant::now();
                lease.take().unwrap().check_in(Hint::default(), Tick::ZERO);
                let (now, handed) = taken.recv().unwrap();
                sum += now - begun;
                lease = Some(handed);
            }
            waiter.join().unwrap();
            sum
        });
    });
    group.bench_function("unpark", |b| {
        b.iter_custom(|iters| {
            let (woke, woken) = mpsc::channel();
            let sleeper = std::thread::spawn(move || {
                for _ in 0..iters {
                    std::thread::park();
                    woke.send(Instant::now()).unwrap();
                }
            });
            let mut sum = Duration::ZERO;
            for _ in 0..iters {
                fall_asleep();
                let begun = Instant::now();
                sleeper.thread().unpark();
                sum += woken.recv().unwrap() - begun;
            }
            sleeper.join().unwrap();
            sum
        });
    });
    group.finish();
}

/// Gives the other thread the time to be asleep.
fn fall_asleep() {
    std::thread::sleep(Duration::from_micros(200));
}

criterion_group!(benches, uncontended, contended, hand_off, many_shards, latency, expiry);
criterion_main!(benches);
