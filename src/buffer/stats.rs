//! What the buffer counts. Plain data, written under its lock, summed by a snapshot.
//!
//! Must not know a metrics library. Invariant, checked by the model test: every request that was
//! held still waits or is in exactly one of the histograms of [`BufferWaits`].

use crate::primitives::{Tick, WaitHistogram};

use super::limits::{Load, Refusal, Skip};

/// Waits by how they ended; each histogram's `count` is the number of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferWaits {
    /// Released because a primary serves.
    pub released: WaitHistogram,
    /// Released to try once, because the episode lasted too long.
    pub episode_too_long: WaitHistogram,
    /// Evicted, the oldest of all: the buffer was full, or was made smaller.
    pub evicted: WaitHistogram,
    /// Reached the end of their window.
    pub window_exceeded: WaitHistogram,
    /// Were given up by the caller.
    pub cancelled: WaitHistogram,
    /// Were ended by `close`.
    pub closed: WaitHistogram,
}

/// Failed requests that were not held and failed, by reason ([`Skip`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// [`Skip::Off`].
    pub off: u64,
    /// [`Skip::TooSoon`].
    pub too_soon: u64,
    /// [`Skip::EpisodeTooLong`].
    pub episode_too_long: u64,
}

/// Requests that should have waited and could not, by reason ([`Refusal`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// [`Refusal::Full`].
    pub full: u64,
    /// [`Refusal::TooLarge`].
    pub too_large: u64,
    /// [`Refusal::Closed`].
    pub closed: u64,
}

/// Counters of one lane, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferCounts {
    /// Requests that were held.
    pub buffered: u64,
    /// Failed requests that were sent again at once, because a primary serves.
    pub sent_again: u64,
    /// Failed requests that were not held and failed.
    pub skipped: Skipped,
    /// Requests that should have waited and could not.
    pub refused: Refused,
    /// Episodes begun.
    pub episodes: u64,
    /// How long they lasted, from their start to the end of their draining.
    pub episode_durations: WaitHistogram,
    /// Waits, by how they ended.
    pub waits: BufferWaits,
}

impl BufferCounts {
    pub(super) fn skip(&mut self, why: Skip) {
        match why {
            Skip::Off => self.skipped.off += 1,
            Skip::TooSoon => self.skipped.too_soon += 1,
            Skip::EpisodeTooLong => self.skipped.episode_too_long += 1,
        }
    }

    pub(super) fn refuse(&mut self, why: Refusal) {
        match why {
            Refusal::Full => self.refused.full += 1,
            Refusal::TooLarge => self.refused.too_large += 1,
            Refusal::Closed => self.refused.closed += 1,
        }
    }

    pub(super) fn add(&mut self, other: &BufferCounts) {
        self.buffered += other.buffered;
        self.sent_again += other.sent_again;
        self.skipped.off += other.skipped.off;
        self.skipped.too_soon += other.skipped.too_soon;
        self.skipped.episode_too_long += other.skipped.episode_too_long;
        self.refused.full += other.refused.full;
        self.refused.too_large += other.refused.too_large;
        self.refused.closed += other.refused.closed;
        self.episodes += other.episodes;
        self.episode_durations.add(&other.episode_durations);
        self.waits.released.add(&other.waits.released);
        self.waits.episode_too_long.add(&other.waits.episode_too_long);
        self.waits.evicted.add(&other.waits.evicted);
        self.waits.window_exceeded.add(&other.waits.window_exceeded);
        self.waits.cancelled.add(&other.waits.cancelled);
        self.waits.closed.add(&other.waits.closed);
    }
}

/// Where a lane stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// Nothing is held.
    #[default]
    Idle,
    /// Requests are held until a primary serves.
    Buffering,
    /// A primary serves: what was held is being retried.
    Draining,
    /// The episode lasted too long: what was held is being released to try once.
    GivingUp,
}

/// A lane at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneSnapshot {
    /// Where it stands.
    pub state: LaneState,
    /// The number of its present or last episode.
    pub episode: u64,
    /// When the present episode began.
    pub since: Option<Tick>,
    /// When the last one ended.
    pub ended: Option<Tick>,
    /// Requests that wait.
    pub waiting: Load,
    /// Released requests whose retry has not finished.
    pub retrying: usize,
    /// Counters.
    pub counts: BufferCounts,
}

/// A buffer at a moment. The gauges are of one moment; the counters are read lane by lane, so that a
/// busy buffer's may be apart by what moved meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferSnapshot {
    /// Whether it was closed.
    pub closed: bool,
    /// What is held against the limits: waiting and retrying.
    pub held: Load,
    /// Requests that wait: the depth.
    pub waiting: usize,
    /// When the oldest of them came.
    pub oldest: Option<Tick>,
    /// Lanes.
    pub lanes: usize,
    /// Those of them that are buffering.
    pub buffering: usize,
    /// Counters of all lanes, those that are gone included.
    pub counts: BufferCounts,
}
