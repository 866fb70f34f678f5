//! The pool against its peers. Each group answers one question:
//!
//! - `uncontended`: what does a check-out and a check-in cost when nobody waits?
//! - `hand_off`: what does one turn cost with N tasks on 4 connections, on one thread and on two?
//! - `expiry`: how long does a storm of 20,000 expiring waiters take, and how long is a check-in held
//!   up that meets it?
//!
//! A turn of `hand_off` takes a connection, yields to the other tasks, and gives it back, so that
//! with more tasks than connections every turn waits. `uncontended` is given its moments, as the
//! pool's callers do, except where it says `with_clock`.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use pgbaton::pool::{Checkout, Hint, Lease, Outcome, Pool, PoolLimits};
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
    fn build() -> Self;
    fn turn(
        &self,
        task: usize,
        during: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Baton(Arc<Pool<Conn>>);

impl Baton {
    fn open(shards: usize) -> Self {
        let limits = PoolLimits { size: CONNS, connecting_max: 0, ..PoolLimits::default() };
        let pool = Pool::new(shards, limits, vec![], TimeoutHandle::manual());
        let leases: Vec<_> = (0..CONNS)
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

    fn build() -> Self {
        Baton::open(1)
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

    fn build() -> Self {
        Sharded(Baton::open(2))
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

    fn build() -> Self {
        let stack = (0..CONNS).map(|_| Box::new(1)).collect();
        Stack(Arc::new((Semaphore::new(CONNS), Mutex::new(stack))))
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

    fn build() -> Self {
        Deadpool(deadpool::managed::Pool::builder(Manager).max_size(CONNS).build().unwrap())
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

    fn build() -> Self {
        let builder = bb8::Pool::builder().max_size(CONNS as u32).test_on_check_out(false);
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
    let baton = Baton::open(1);
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
        let yard = runtime.block_on(async { Y::build() });
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
        for tasks in [1, 4, 8, 16, 64] {
            let yard = runtime.block_on(async { Y::build() });
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

const STORM: usize = 20_000;

fn expiry(c: &mut Criterion) {
    let mut group = c.benchmark_group("expiry");
    let limits =
        PoolLimits { size: 1, wait_timeout: Some(Duration::from_secs(1)), ..Default::default() };
    let late = Tick::ZERO.after(Duration::from_secs(1));
    let storm = || {
        let timeouts = TimeoutHandle::manual();
        let pool = Pool::<Conn>::new(1, limits.clone(), vec![], timeouts.clone());
        let Checkout::Connect(permit) = pool.checkout(Hint::default(), Tick::ZERO) else {
            panic!("the pool is empty");
        };
        let lease = permit.fulfil(Box::new(1));
        let tickets: Vec<_> = (0..STORM)
            .map(|_| match pool.checkout(Hint::default(), Tick::ZERO) {
                Checkout::Wait(ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        (timeouts, lease, tickets)
    };
    group.sample_size(20);
    group.throughput(Throughput::Elements(STORM as u64));
    group.bench_function("sweep_20000", |b| {
        b.iter_batched(
            storm,
            |(timeouts, lease, tickets)| {
                timeouts.run_due(late);
                (lease, tickets)
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.bench_function("check_in_through_20000_expired", |b| {
        b.iter_batched(
            storm,
            |(timeouts, lease, tickets)| {
                lease.check_in(Hint::default(), late);
                (timeouts, tickets)
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, uncontended, hand_off, expiry);
criterion_main!(benches);
