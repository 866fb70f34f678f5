//! The heads: which source is due when, and the handle by which sources come and go.
//!
//! Must not know what a source is beyond [`Deadlines`]. Invariants: `queue` holds exactly one entry
//! per source whose `queued` is set, with that moment; `armed` is the same moment, or [`Tick::MAX`];
//! no source is called under the lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64 as PlainCounter;
use std::sync::atomic::Ordering::Relaxed;

use crate::primitives::atomic::{AtomicU64, Ordering, fence};
use crate::primitives::thread::Thread;
use crate::primitives::{Arc, Mutex, Tick, Weak};

/// A keeper of deadlines.
pub trait Deadlines: Send + Sync {
    /// Expires everything due at `now`, in bounded batches, each deadline checked again under the
    /// source's lock, and does what else is due (a back-off that has ended). Called by the timeout
    /// thread with no lock held.
    fn expire_due(&self, now: Tick);

    /// The earliest deadline there is that `expire_due` at `now` has not dealt with. Must see, as
    /// `expire_due` must, every entry linked before a sequentially consistent fence that comes
    /// before the thread's own.
    fn next_deadline(&self, now: Tick) -> Option<Tick>;
}

/// Access to the timeout thread; cheap to clone.
#[derive(Clone)]
pub struct TimeoutHandle {
    pub(super) hub: Arc<Hub>,
}

/// A source's seat with the timeout thread; dropping it gives the seat up.
pub struct Registration {
    hub: Arc<Hub>,
    id: u64,
    armed: Arc<AtomicU64>,
}

pub(super) struct Hub {
    clock: Clock,
    heads: Mutex<Heads>,
    wakes: PlainCounter,
    visits: PlainCounter,
}

enum Clock {
    Real(fn() -> Tick),
    /// Microseconds, moved by `run_due`.
    Manual(PlainCounter),
}

struct Heads {
    queue: BTreeSet<(Tick, u64)>,
    sources: HashMap<u64, Source>,
    next_id: u64,
    /// Until when the thread sleeps; [`Tick::ZERO`] while it is awake, because then it reads the
    /// queue again before it sleeps and needs no unpark.
    asleep_until: Tick,
    sleeper: Option<Thread>,
    stop: bool,
}

struct Source {
    deadlines: Weak<dyn Deadlines>,
    armed: Arc<AtomicU64>,
    queued: Option<Tick>,
}

/// What the thread does next.
pub(super) enum Nap {
    Until(Tick),
    /// Nothing is armed.
    Unarmed,
    Stop,
}

impl TimeoutHandle {
    pub(super) fn new(clock: fn() -> Tick) -> Self {
        Self { hub: Arc::new(Hub::new(Clock::Real(clock))) }
    }

    /// A handle without a thread, for tests: [`run_due`](Self::run_due) is the thread, its argument
    /// the clock. Time starts at [`Tick::ZERO`].
    pub fn manual() -> Self {
        Self { hub: Arc::new(Hub::new(Clock::Manual(PlainCounter::new(0)))) }
    }

    /// Moves virtual time to `now` and visits every source that is due by then.
    ///
    /// # Panics
    /// If the handle has a real clock.
    pub fn run_due(&self, now: Tick) {
        match &self.hub.clock {
            Clock::Manual(micros) => micros.fetch_max(now.as_micros(), Relaxed),
            Clock::Real(_) => panic!("BUG: virtual time asked of a real clock"),
        };
        self.hub.sweep(now);
    }

    /// The time, by the thread's clock.
    pub fn now(&self) -> Tick {
        self.hub.now()
    }

    /// Takes a seat for a source. It is visited when [`Registration::arm`] has asked for it.
    pub fn register(&self, deadlines: Weak<dyn Deadlines>) -> Registration {
        let armed = Arc::new(AtomicU64::new(Tick::MAX.as_micros()));
        let mut heads = self.hub.heads.lock();
        let id = heads.next_id;
        heads.next_id += 1;
        let source = Source { deadlines, armed: Arc::clone(&armed), queued: None };
        heads.sources.insert(id, source);
        drop(heads);
        Registration { hub: Arc::clone(&self.hub), id, armed }
    }

    /// How often the thread has woken.
    pub fn wakes(&self) -> u64 {
        self.hub.wakes.load(Relaxed)
    }

    /// How often a source has been visited.
    pub fn visits(&self) -> u64 {
        self.hub.visits.load(Relaxed)
    }

    /// How many sources there are.
    pub fn sources(&self) -> usize {
        self.hub.heads.lock().sources.len()
    }
}

impl Registration {
    /// Asks to be visited at `deadline`. Call it after the entry with that deadline has been linked;
    /// costs one fence and one load where the thread comes by earlier anyway.
    #[inline]
    pub fn arm(&self, deadline: Tick) {
        // Links before, the published word after: see the table in the module above.
        fence(Ordering::SeqCst);
        if deadline.as_micros() < self.armed.load(Ordering::Relaxed) {
            self.hub.arm(self.id, deadline);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut heads = self.hub.heads.lock();
        let source = heads.sources.remove(&self.id);
        if let Some(queued) = source.as_ref().and_then(|source| source.queued) {
            heads.queue.remove(&(queued, self.id));
        }
        // The source itself is dropped after the lock: it holds foreign code.
        drop(heads);
        drop(source);
    }
}

impl Hub {
    fn new(clock: Clock) -> Self {
        let heads = Heads {
            queue: BTreeSet::new(),
            sources: HashMap::new(),
            next_id: 0,
            asleep_until: Tick::ZERO,
            sleeper: None,
            stop: false,
        };
        let (wakes, visits) = (PlainCounter::new(0), PlainCounter::new(0));
        Self { clock, heads: Mutex::new(heads), wakes, visits }
    }

    pub(super) fn now(&self) -> Tick {
        match &self.clock {
            Clock::Real(clock) => clock(),
            Clock::Manual(micros) => Tick::from_micros(micros.load(Relaxed)),
        }
    }

    #[cold]
    fn arm(&self, id: u64, deadline: Tick) {
        let sleeper = {
            let mut heads = self.heads.lock();
            heads.enqueue(id, deadline);
            heads.sleeper_past(deadline)
        };
        if let Some(thread) = sleeper {
            thread.unpark();
        }
    }

    /// Visits every source that is due at `now`.
    pub(super) fn sweep(&self, now: Tick) {
        while let Some((id, deadlines)) = self.pop_due(now) {
            let Some(source) = deadlines.upgrade() else {
                continue;
            };
            self.visits.fetch_add(1, Relaxed);
            // The published word before, the visit after: see the table in the module above.
            fence(Ordering::SeqCst);
            source.expire_due(now);
            let next = source.next_deadline(now);
            // No lock is held: if the owner has let go meanwhile, the source ends here.
            drop(source);
            if let Some(next) = next {
                self.heads.lock().enqueue(id, next);
            }
        }
    }

    /// Takes a source that is due. From here on it is not armed: who links an entry now and wants
    /// a visit has to ask for one.
    fn pop_due(&self, now: Tick) -> Option<(u64, Weak<dyn Deadlines>)> {
        let mut heads = self.heads.lock();
        let (deadline, id) = heads.queue.first().copied().filter(|(at, _)| *at <= now)?;
        heads.queue.remove(&(deadline, id));
        let source = heads.sources.get_mut(&id).expect("BUG: a head without a source");
        source.queued = None;
        source.armed.store(Tick::MAX.as_micros(), Ordering::Relaxed);
        Some((id, source.deadlines.clone()))
    }

    /// Reads the earliest head and goes to sleep on paper: from here on, who arms something earlier
    /// unparks `sleeper`.
    pub(super) fn lie_down(&self, sleeper: &Thread) -> Nap {
        let mut heads = self.heads.lock();
        if heads.stop {
            return Nap::Stop;
        }
        let first = heads.queue.first().map(|(at, _)| *at);
        heads.asleep_until = first.unwrap_or(Tick::MAX);
        if heads.sleeper.is_none() {
            heads.sleeper = Some(sleeper.clone());
        }
        first.map_or(Nap::Unarmed, Nap::Until)
    }

    /// The thread is awake: nobody needs to unpark it.
    pub(super) fn get_up(&self) {
        self.heads.lock().asleep_until = Tick::ZERO;
        self.wakes.fetch_add(1, Relaxed);
    }

    pub(super) fn stop(&self) {
        let sleeper = {
            let mut heads = self.heads.lock();
            heads.stop = true;
            heads.sleeper.clone()
        };
        if let Some(thread) = sleeper {
            thread.unpark();
        }
    }
}

impl Heads {
    /// Puts a source in, or moves it forward.
    fn enqueue(&mut self, id: u64, deadline: Tick) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        if source.queued.is_some_and(|queued| queued <= deadline) {
            return;
        }
        if let Some(queued) = source.queued.replace(deadline) {
            self.queue.remove(&(queued, id));
        }
        source.armed.store(deadline.as_micros(), Ordering::Relaxed);
        self.queue.insert((deadline, id));
    }

    /// The thread, if it sleeps past `deadline`; it is then taken to be woken for it.
    fn sleeper_past(&mut self, deadline: Tick) -> Option<Thread> {
        if deadline >= self.asleep_until {
            return None;
        }
        self.asleep_until = deadline;
        self.sleeper.clone()
    }
}
