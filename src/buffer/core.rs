//! What is under the buffer's lock: who waits, what is held, and the rules by which a newcomer gets
//! in. When a lane is in which state is `episode`'s.
//!
//! Must not lock, wake or read a clock. Invariants:
//! - `held` is the sum of what waits, what retries, and what an admission in progress has taken from
//!   those it evicted; `evictable` is what waits in lanes that are buffering.
//! - A lane's line is in order of arrival; numbers and moments of arrival rise over all lanes, so
//!   that the oldest of all, and the next whose window ends, are heads of lines.
//! - `heads` has the head of every line that is not empty, under the state of its lane.
//! - Nothing here takes time that grows with the number of requests, except up to a full batch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::links::{Ends, Slab, Way};
use crate::primitives::wake::WakeBatch;
use crate::primitives::{Arc, Tick};

use super::entry::{Entry, Phase, Wait};
use super::limits::{Attempt, BufferLimits, Load, Refusal, Skip};
use super::stats::BufferCounts;

/// Where a lane stands, and since when.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    Idle,
    Buffering {
        since: Tick,
    },
    Draining {
        since: Tick,
        /// Released because it took too long, not because a primary serves.
        giving_up: bool,
    },
}

/// What everybody may read of a lane without the lock: its epoch, and whether it is buffering.
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    // Acquire and release: who reads an epoch sees nothing older than it. Both halves are hints: the
    // lock decides, and a reading that is behind costs a look or one more attempt.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt { epoch: self.0.load(Ordering::Acquire) >> 1 }
    }

    pub(super) fn is_buffering(&self) -> bool {
        self.0.load(Ordering::Acquire) & 1 == 1
    }

    fn publish(&self, epoch: u64, buffering: bool) {
        self.0.store((epoch << 1) | u64::from(buffering), Ordering::Release);
    }
}

pub(super) struct Lane {
    pub(super) standing: Standing,
    pub(super) line: Ends,
    pub(super) waiting: Load,
    pub(super) retrying: usize,
    /// The number of the present or last episode.
    pub(super) episode: u64,
    /// How often a primary has been announced.
    pub(super) epoch: u64,
    /// When the last episode ended.
    pub(super) ended: Option<Tick>,
    pub(super) counts: BufferCounts,
    word: Arc<Word>,
}

impl Lane {
    pub(super) fn publish(&self) {
        let buffering = matches!(self.standing, Standing::Buffering { .. });
        self.word.publish(self.epoch, buffering);
    }
}

/// The heads of the lines, oldest first, by number of arrival and lane.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) buffering: BTreeSet<(u64, u32)>,
    pub(super) draining: BTreeSet<(u64, u32)>,
}

impl Heads {
    fn of(&mut self, standing: Standing) -> &mut BTreeSet<(u64, u32)> {
        match standing {
            Standing::Buffering { .. } => &mut self.buffering,
            Standing::Draining { .. } => &mut self.draining,
            Standing::Idle => unreachable!("BUG: somebody waits in an idle lane"),
        }
    }

    /// The lane with the oldest head of all.
    fn oldest(&self) -> Option<u32> {
        let firsts = [self.buffering.first(), self.draining.first()];
        firsts.into_iter().flatten().min().map(|(_, lane)| *lane)
    }
}

pub(super) struct Core {
    pub(super) closed: bool,
    pub(super) limits: BufferLimits,
    pub(super) held: Load,
    pub(super) evictable: Load,
    pub(super) entries: Slab<Entry>,
    pub(super) heads: Heads,
    pub(super) lanes: BTreeMap<u32, Lane>,
    /// Lanes that are buffering, by the start of their episode.
    pub(super) episodes: BTreeSet<(Tick, u32)>,
    /// What lanes that are gone have counted.
    pub(super) gone: BufferCounts,
    next_number: u64,
    next_lane: u32,
    newest: Tick,
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) bytes: usize,
    pub(super) now: Tick,
    /// Set if it has been tried: a failure may begin an episode. Unset: it joins one only.
    pub(super) failed: Option<Attempt>,
}

/// The answer to it.
pub(super) enum Answer {
    Wait {
        wait: Arc<Wait>,
        node: u32,
    },
    Send,
    Skip(Skip),
    Refuse(Refusal),
    /// The batch is full: unlock, wake, and ask again.
    More,
}

impl Core {
    pub(super) fn new(limits: BufferLimits) -> Self {
        Self {
            closed: false,
            limits,
            held: Load::NONE,
            evictable: Load::NONE,
            entries: Slab::new(),
            heads: Heads::default(),
            lanes: BTreeMap::new(),
            episodes: BTreeSet::new(),
            gone: BufferCounts::default(),
            next_number: 0,
            next_lane: 0,
            newest: Tick::ZERO,
        }
    }

    /// A new lane's number; numbers are not used again.
    pub(super) fn add_lane(&mut self, word: Arc<Word>) -> u32 {
        let number = self.next_lane;
        self.next_lane = number.checked_add(1).expect("BUG: more than 2^32 lanes");
        let lane = Lane {
            standing: Standing::Idle,
            line: Ends::EMPTY,
            waiting: Load::NONE,
            retrying: 0,
            episode: 0,
            epoch: 0,
            ended: None,
            counts: BufferCounts::default(),
            word,
        };
        self.lanes.insert(number, lane);
        number
    }

    /// The lane's handles, tickets and retries are all gone.
    pub(super) fn remove_lane(&mut self, number: u32) {
        let lane = self.lanes.remove(&number).expect("BUG: a lane was removed twice");
        assert!(lane.line.is_empty() && lane.retrying == 0, "BUG: a lane in use was removed");
        if let Standing::Buffering { since } = lane.standing {
            self.episodes.remove(&(since, number));
        }
        self.gone.add(&lane.counts);
    }

    pub(super) fn lane(&mut self, number: u32) -> &mut Lane {
        self.lanes.get_mut(&number).expect("BUG: a lane is gone while somebody holds it")
    }

    // ---- getting in ----

    /// Lets a request in, or says why not. The look at the lane's state and the linking are this one
    /// call, under one lock. `credit` is what those gave up who were evicted for this request in a
    /// section before; it is used or given back when the answer is not [`Answer::More`].
    pub(super) fn admit(
        &mut self,
        lane: u32,
        ask: Ask,
        credit: &mut Load,
        batch: &mut WakeBatch,
    ) -> Answer {
        let answer = match self.gate(lane, ask) {
            Answer::More => self.make_room(lane, ask, credit, batch),
            turned_away => turned_away,
        };
        if !matches!(answer, Answer::More) {
            self.held.sub(std::mem::take(credit));
        }
        match answer {
            Answer::Skip(why) => self.lane(lane).counts.skip(why),
            Answer::Refuse(why) => self.lane(lane).counts.refuse(why),
            Answer::Send if ask.failed.is_some() => self.lane(lane).counts.sent_again += 1,
            _ => {}
        }
        answer
    }

    /// Whether the lane holds requests; [`Answer::More`] if it does. A failure may begin an episode.
    fn gate(&mut self, number: u32, ask: Ask) -> Answer {
        if self.closed {
            return Answer::Refuse(Refusal::Closed);
        }
        let off = self.limits.requests == 0;
        let Lane { standing, epoch, .. } = *self.lane(number);
        let Some(attempt) = ask.failed else {
            let joins = matches!(standing, Standing::Buffering { .. }) && !off;
            return if joins { Answer::More } else { Answer::Send };
        };
        if off {
            return Answer::Skip(Skip::Off);
        }
        if attempt.epoch != epoch {
            // A primary was announced after this request was tried: its failure is old news.
            return Answer::Send;
        }
        match standing {
            Standing::Buffering { .. } => Answer::More,
            Standing::Draining { giving_up: false, .. } => Answer::Send,
            Standing::Draining { giving_up: true, .. } => Answer::Skip(Skip::EpisodeTooLong),
            Standing::Idle if self.begin(number, ask.now) => Answer::More,
            Standing::Idle => Answer::Skip(Skip::TooSoon),
        }
    }

    /// Evicts until there is room, and links. Nobody is evicted in vain: if all who may be evicted
    /// would not make room enough, none is.
    fn make_room(
        &mut self,
        lane: u32,
        ask: Ask,
        credit: &mut Load,
        batch: &mut WakeBatch,
    ) -> Answer {
        let limit = self.limit();
        if ask.bytes > limit.bytes {
            return Answer::Refuse(Refusal::TooLarge);
        }
        loop {
            let mut wanted = self.held;
            wanted.sub(*credit);
            wanted.add(Load::one(ask.bytes));
            let missing = wanted.beyond(limit);
            if missing == Load::NONE {
                break;
            }
            if !self.evictable.covers(missing) {
                return Answer::Refuse(Refusal::Full);
            }
            if batch.is_full() {
                return Answer::More;
            }
            // What it held is not free for an instant: it goes to this request.
            credit.add(self.evict_oldest(ask.now, batch));
        }
        // `held` counts the credit, and `admit` takes that off again.
        self.held.add(Load::one(ask.bytes));
        self.enqueue(lane, ask)
    }

    pub(super) fn limit(&self) -> Load {
        Load { requests: self.limits.requests, bytes: self.limits.bytes }
    }

    fn enqueue(&mut self, number: u32, ask: Ask) -> Answer {
        // Two threads may read the clock in one order and arrive here in the other. A moment moved
        // forward by those microseconds keeps all lines in order.
        self.newest = self.newest.max(ask.now);
        let arrival = self.next_number;
        self.next_number += 1;
        let lane = self.lanes.get_mut(&number).expect("BUG: a lane is gone");
        let (enqueued, bytes) = (self.newest, ask.bytes);
        let wait = Wait::new(bytes, lane.episode);
        let entry =
            Entry { wait: Arc::clone(&wait), lane: number, number: arrival, enqueued, bytes };
        let node = self.entries.insert(entry);
        if lane.line.is_empty() {
            self.heads.of(lane.standing).insert((arrival, number));
        }
        self.entries.link_back(&mut lane.line, Way::Order, node);
        lane.waiting.add(Load::one(bytes));
        lane.counts.buffered += 1;
        // Only a lane that is buffering lets anybody in.
        self.evictable.add(Load::one(bytes));
        Answer::Wait { wait, node }
    }

    // ---- getting out ----

    /// Unlinks a request that waits. What it holds stays held. Who calls this looks afterwards
    /// whether the lane's episode is over ([`Core::settle`]).
    pub(super) fn unlink(&mut self, node: u32) -> Entry {
        let number = self.entries.at(node).lane;
        let lane = self.lanes.get_mut(&number).expect("BUG: a lane is gone");
        let was_head = lane.line.head == node;
        self.entries.unlink(&mut lane.line, Way::Order, node);
        let entry = self.entries.remove(node);
        if was_head {
            let heads = self.heads.of(lane.standing);
            heads.remove(&(entry.number, number));
            if let Some(next) = self.entries.get(lane.line.head) {
                heads.insert((next.number, number));
            }
        }
        lane.waiting.sub(Load::one(entry.bytes));
        if let Standing::Buffering { .. } = lane.standing {
            self.evictable.sub(Load::one(entry.bytes));
        }
        entry
    }

    /// Decides a wait and unlinks it. Returns what it holds, which stays held, and how long it
    /// waited.
    pub(super) fn decide(
        &mut self,
        node: u32,
        phase: Phase,
        now: Tick,
        batch: &mut WakeBatch,
    ) -> Load {
        let entry = self.unlink(node);
        let waited = now.since(entry.enqueued);
        let waker = entry.wait.decide(phase, waited);
        batch.push(waker.expect("BUG: a linked request does not wait"));
        self.count(entry.lane, phase, waited);
        Load::one(entry.bytes)
    }

    /// Ends a wait with nothing and gives back what it held.
    pub(super) fn end(&mut self, node: u32, phase: Phase, now: Tick, batch: &mut WakeBatch) {
        let number = self.entries.at(node).lane;
        let held = self.decide(node, phase, now, batch);
        self.held.sub(held);
        self.settle(number, now);
    }

    /// Evicts the oldest of all that may be evicted. What it held stays held. If its window has
    /// passed and nobody has said so yet, that is what it is told.
    pub(super) fn evict_oldest(&mut self, now: Tick, batch: &mut WakeBatch) -> Load {
        let (_, lane) = *self.heads.buffering.first().expect("BUG: nobody to evict");
        let head = self.lane(lane).line.head;
        let late = self.deadline(head) <= now;
        self.decide(head, if late { Phase::WindowExceeded } else { Phase::Evicted }, now, batch)
    }

    /// The ticket gives up. True if it was in time; else it has been told something.
    pub(super) fn cancel(&mut self, node: u32, wait: &Wait, now: Tick) -> bool {
        if !wait.cancel() {
            return false;
        }
        let entry = self.unlink(node);
        self.held.sub(Load::one(entry.bytes));
        self.count(entry.lane, Phase::Cancelled, now.since(entry.enqueued));
        self.settle(entry.lane, now);
        true
    }

    /// The node of the request that has waited longest of all.
    pub(super) fn oldest(&self) -> Option<u32> {
        let lane = self.heads.oldest()?;
        self.lanes.get(&lane).map(|lane| lane.line.head)
    }

    pub(super) fn deadline(&self, node: u32) -> Tick {
        self.entries.at(node).enqueued.after(self.limits.window)
    }

    fn count(&mut self, lane: u32, phase: Phase, waited: Duration) {
        let waits = &mut self.lane(lane).counts.waits;
        let ended = match phase {
            Phase::Released => &mut waits.released,
            Phase::EpisodeTooLong => &mut waits.episode_too_long,
            Phase::Evicted => &mut waits.evicted,
            Phase::WindowExceeded => &mut waits.window_exceeded,
            Phase::Cancelled => &mut waits.cancelled,
            Phase::Closed => &mut waits.closed,
            Phase::Waiting => unreachable!("BUG: a wait ended in waiting"),
        };
        ended.record(waited);
    }
}
