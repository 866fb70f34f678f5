//! The lock around the core, and the loops that take it: change one thing, unlock, wake, go on.
//!
//! Must not know the rules. Invariants: nothing is woken, armed or dropped that runs foreign code
//! while the lock is held; each section resolves at most one batch.

use crate::primitives::wake::WakeBatch;
use crate::primitives::{Arc, Mutex, Tick, Weak};
use crate::timeouts::{Deadlines, Registration, TimeoutHandle};

use super::core::{Answer, Ask, Core, Word};
use super::entry::Wait;
use super::limits::{BufferLimits, Load};
use super::stats::BufferSnapshot;

/// A lane's seat in the buffer: what its handles, tickets and retries hold.
pub(super) struct Home {
    pub(super) inner: Arc<Inner>,
    pub(super) number: u32,
    pub(super) word: Arc<Word>,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.inner.core.lock().remove_lane(self.number);
    }
}

pub(super) struct Inner {
    pub(super) core: Mutex<Core>,
    timeouts: TimeoutHandle,
    registration: Registration,
}

impl Inner {
    pub(super) fn new(limits: BufferLimits, timeouts: TimeoutHandle) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| Inner {
            core: Mutex::new(Core::new(limits)),
            registration: timeouts.register(weak.clone()),
            timeouts,
        })
    }

    /// The moment, for paths whose caller brings none.
    pub(super) fn now(&self) -> Tick {
        self.timeouts.now()
    }

    /// Runs sections until one says that there is no more to do; wakes after each unlock.
    fn in_batches(&self, mut section: impl FnMut(&mut Core, &mut WakeBatch) -> bool) {
        let mut batch = WakeBatch::new();
        loop {
            let more = section(&mut self.core.lock(), &mut batch);
            batch.flush();
            if !more {
                return;
            }
        }
    }

    fn arm(&self) {
        let next = self.core.lock().next_deadline();
        if let Some(next) = next {
            self.registration.arm(next);
        }
    }

    // ---- requests ----

    pub(super) fn admit(&self, lane: u32, ask: Ask) -> Answer {
        let mut batch = WakeBatch::new();
        let mut credit = Load::NONE;
        loop {
            let (answer, next) = {
                let mut core = self.core.lock();
                let answer = core.admit(lane, ask, &mut credit, &mut batch);
                (answer, core.next_deadline())
            };
            batch.flush();
            if let Answer::More = answer {
                continue;
            }
            // Also after a refusal: it may have begun an episode.
            if let Some(next) = next {
                self.registration.arm(next);
            }
            return answer;
        }
    }

    /// A ticket was dropped. If it had been released meanwhile, its retry ends here.
    pub(super) fn forget(&self, home: &Home, node: u32, wait: &Wait) {
        let now = self.now();
        let cancelled = self.core.lock().cancel(node, wait, now);
        if !cancelled && wait.phase().is_release() {
            let told = wait.told();
            self.end_retry(home, told.bytes, told.episode, now);
        }
    }

    pub(super) fn end_retry(&self, home: &Home, bytes: usize, episode: u64, now: Tick) {
        let lane = home.number;
        let mut ended = false;
        self.in_batches(|core, batch| {
            if !ended {
                core.end_retry(lane, bytes, episode, now);
                ended = true;
            }
            core.release(lane, now, batch)
        });
    }

    // ---- lanes ----

    pub(super) fn start(&self, lane: u32, now: Tick) -> bool {
        let buffering = self.core.lock().start(lane, now);
        self.arm();
        buffering
    }

    pub(super) fn serving(&self, lane: u32, now: Tick) {
        let mut told = false;
        self.in_batches(|core, batch| {
            if !told {
                core.serving(lane, now);
                told = true;
            }
            core.release(lane, now, batch)
        });
    }

    // ---- all lanes ----

    pub(super) fn set_limits(&self, limits: &BufferLimits, now: Tick) {
        self.core.lock().limits = limits.clone();
        self.in_batches(|core, batch| core.shrink(now, batch));
        // More may retry at once than before.
        let mut from = 0;
        self.in_batches(|core, batch| {
            let Some((&lane, _)) = core.lanes.range(from..).next() else {
                return false;
            };
            if !core.release(lane, now, batch) {
                from = lane + 1;
            }
            true
        });
        self.arm();
    }

    pub(super) fn close(&self) {
        let now = self.now();
        self.in_batches(|core, batch| {
            core.closed = true;
            core.answer_all(now, batch)
        });
    }

    pub(super) fn snapshot(&self) -> BufferSnapshot {
        let mut seen = self.gauges();
        let mut from = 0;
        loop {
            // A section for each lane: histograms are large.
            let core = self.core.lock();
            let Some((&lane, state)) = core.lanes.range(from..).next() else {
                seen.counts.add(&core.gone);
                return seen;
            };
            seen.counts.add(&state.counts);
            from = lane + 1;
        }
    }

    fn gauges(&self) -> BufferSnapshot {
        let core = self.core.lock();
        BufferSnapshot {
            closed: core.closed,
            held: core.held,
            waiting: core.entries.len(),
            oldest: core.oldest().map(|node| core.entries.at(node).enqueued),
            lanes: core.lanes.len(),
            buffering: core.episodes.len(),
            ..BufferSnapshot::default()
        }
    }
}

impl Deadlines for Inner {
    fn expire_due(&self, now: Tick) {
        // Windows first: who is past its window is not released, however long the episode.
        self.in_batches(|core, batch| core.expire(now, batch));
        loop {
            let given_up = self.core.lock().give_up_due(now);
            let Some(lane) = given_up else {
                return;
            };
            self.in_batches(|core, batch| core.release(lane, now, batch));
        }
    }

    fn next_deadline(&self, _now: Tick) -> Option<Tick> {
        self.core.lock().next_deadline()
    }
}
