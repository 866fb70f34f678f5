//! When a lane is in which state: IDLE, BUFFERING, DRAINING, IDLE. The rest of what is under the
//! buffer's lock.
//!
//! Must not lock, wake or read a clock. Invariants: `episodes` has every lane that is buffering,
//! with the start of its episode; a lane that drains leaves that state when nobody waits in it and no
//! retry is out, and not before; while somebody waits in a lane that drains, `drain_concurrency`
//! retries are out, or somebody is on its way to release more ([`Core::release`] said so).

use crate::primitives::Tick;
use crate::primitives::wake::WakeBatch;

use super::core::{Core, Standing};
use super::entry::Phase;
use super::limits::Load;
use super::stats::{LaneSnapshot, LaneState};

impl Core {
    /// Begins an episode of a lane that is idle, unless its last one ended too recently.
    pub(super) fn begin(&mut self, number: u32, now: Tick) -> bool {
        let gap = self.limits.min_time_between_failovers;
        let lane = self.lane(number);
        if lane.ended.is_some_and(|ended| now.since(ended) < gap) {
            return false;
        }
        lane.standing = Standing::Buffering { since: now };
        lane.episode += 1;
        lane.counts.episodes += 1;
        lane.publish();
        self.episodes.insert((now, number));
        true
    }

    /// The monitor says that the primary is gone: the lane is buffering from here on, if it may.
    pub(super) fn start(&mut self, number: u32, now: Tick) -> bool {
        if self.closed || self.limits.requests == 0 {
            return false;
        }
        match self.lane(number).standing {
            Standing::Idle => self.begin(number, now),
            Standing::Buffering { .. } => true,
            Standing::Draining { .. } => false,
        }
    }

    /// A primary serves. Failures of requests tried before this are old news from here on.
    pub(super) fn serving(&mut self, number: u32, now: Tick) {
        let lane = self.lane(number);
        lane.epoch += 1;
        match &mut lane.standing {
            Standing::Idle => {}
            Standing::Buffering { .. } => self.drain(number, false, now),
            Standing::Draining { giving_up, .. } => *giving_up = false,
        }
        self.lane(number).publish();
    }

    /// One episode that has lasted too long begins to drain. Returns its lane, if there was one. It
    /// is that episode's own start that is looked at, under the lock: a timer that was armed for an
    /// earlier one finds nothing.
    pub(super) fn give_up_due(&mut self, now: Tick) -> Option<u32> {
        let (since, number) = *self.episodes.first()?;
        if since.after(self.limits.max_failover_duration) > now {
            return None;
        }
        self.drain(number, true, now);
        Some(number)
    }

    /// Ends buffering. Who calls this releases afterwards ([`Core::release`]).
    fn drain(&mut self, number: u32, giving_up: bool, now: Tick) {
        let lane = self.lanes.get_mut(&number).expect("BUG: a lane is gone");
        let Standing::Buffering { since } = lane.standing else {
            unreachable!("BUG: a lane drains that was not buffering");
        };
        self.episodes.remove(&(since, number));
        lane.standing = Standing::Draining { since, giving_up };
        lane.publish();
        // Who is about to be released is not evicted for a newcomer.
        self.evictable.sub(lane.waiting);
        if let Some(head) = self.entries.get(lane.line.head) {
            self.heads.buffering.remove(&(head.number, number));
            self.heads.draining.insert((head.number, number));
        }
        self.settle(number, now);
    }

    /// Ends the episode of a lane that has drained.
    pub(super) fn settle(&mut self, number: u32, now: Tick) {
        let lane = self.lane(number);
        let Standing::Draining { since, .. } = lane.standing else {
            return;
        };
        if lane.line.is_empty() && lane.retrying == 0 {
            lane.standing = Standing::Idle;
            lane.ended = Some(now);
            lane.counts.episode_durations.record(now.since(since));
        }
    }

    /// Releases requests of a lane that drains, the oldest first, as many as may retry at once, up to
    /// a full batch. Who is past its window is told that instead. True if there is more to do.
    pub(super) fn release(&mut self, number: u32, now: Tick, batch: &mut WakeBatch) -> bool {
        let limit = self.limits.drain_concurrency.max(1);
        loop {
            // After a close nobody is released; the closer answers all.
            let Some(lane) = self.lanes.get(&number).filter(|_| !self.closed) else {
                return false;
            };
            let Standing::Draining { giving_up, .. } = lane.standing else {
                return false;
            };
            let head = lane.line.head;
            if lane.line.is_empty() || lane.retrying >= limit {
                return false;
            }
            if batch.is_full() {
                return true;
            }
            if self.deadline(head) <= now {
                self.end(head, Phase::WindowExceeded, now, batch);
                continue;
            }
            let phase = if giving_up { Phase::EpisodeTooLong } else { Phase::Released };
            self.decide(head, phase, now, batch);
            self.lane(number).retrying += 1;
        }
    }

    /// A retry has finished. Who calls this releases afterwards.
    pub(super) fn end_retry(&mut self, number: u32, bytes: usize, episode: u64, now: Tick) {
        self.held.sub(Load::one(bytes));
        let lane = self.lane(number);
        assert!(lane.episode == episode, "BUG: a retry has outlived its episode");
        lane.retrying = lane.retrying.checked_sub(1).expect("BUG: more retries ended than began");
        self.settle(number, now);
    }

    /// Ends waits whose window has passed, up to a full batch. True if there are more.
    pub(super) fn expire(&mut self, now: Tick, batch: &mut WakeBatch) -> bool {
        while let Some(oldest) = self.oldest().filter(|node| self.deadline(*node) <= now) {
            if batch.is_full() {
                return true;
            }
            self.end(oldest, Phase::WindowExceeded, now, batch);
        }
        false
    }

    /// Evicts what a smaller limit leaves no room for, up to a full batch. True if there is more.
    pub(super) fn shrink(&mut self, now: Tick, batch: &mut WakeBatch) -> bool {
        while self.held.beyond(self.limit()) != Load::NONE && self.evictable != Load::NONE {
            if batch.is_full() {
                return true;
            }
            let held = self.evict_oldest(now, batch);
            self.held.sub(held);
        }
        false
    }

    /// After `closed` was set: answers all, then leaves no lane buffering; up to a full batch. True
    /// if there is more.
    pub(super) fn answer_all(&mut self, now: Tick, batch: &mut WakeBatch) -> bool {
        while let Some(oldest) = self.oldest() {
            if batch.is_full() {
                return true;
            }
            self.end(oldest, Phase::Closed, now, batch);
        }
        while let Some((_, number)) = self.episodes.first().copied() {
            self.drain(number, true, now);
        }
        false
    }

    /// The next moment at which there is something to do.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        let window = self.oldest().map(|node| self.deadline(node));
        let episode = self.episodes.first().map(|(since, _)| *since);
        let episode = episode.map(|since| since.after(self.limits.max_failover_duration));
        window.into_iter().chain(episode).min().filter(|at| *at != Tick::MAX)
    }

    pub(super) fn lane_snapshot(&self, number: u32) -> LaneSnapshot {
        let lane = self.lanes.get(&number).expect("BUG: a lane is gone while somebody holds it");
        let (state, since) = match lane.standing {
            Standing::Idle => (LaneState::Idle, None),
            Standing::Buffering { since } => (LaneState::Buffering, Some(since)),
            Standing::Draining { since, giving_up: false } => (LaneState::Draining, Some(since)),
            Standing::Draining { since, giving_up: true } => (LaneState::GivingUp, Some(since)),
        };
        LaneSnapshot {
            state,
            episode: lane.episode,
            since,
            ended: lane.ended,
            waiting: lane.waiting,
            retrying: lane.retrying,
            counts: lane.counts.clone(),
        }
    }
}
