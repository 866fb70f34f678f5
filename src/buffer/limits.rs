//! What the buffer is told: its limits, and a request's one chance to be held. Plain data; must not
//! know the machinery.

use std::time::Duration;

/// The limits of a buffer, replaceable while it runs (`Buffer::set_limits`). They count for all lanes
/// together, except where they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferLimits {
    /// Requests that may be held, waiting and retrying together. 0 = nothing is held.
    pub requests: usize,
    /// Bytes of these requests.
    pub bytes: usize,
    /// How long one request waits. A change counts for those that wait already.
    pub window: Duration,
    /// How long one lane's episode may last before its requests are released to try once.
    pub max_failover_duration: Duration,
    /// From the end of a lane's episode to the earliest start of its next.
    pub min_time_between_failovers: Duration,
    /// Released requests of one lane that may retry at once. 0 counts as 1.
    pub drain_concurrency: usize,
}

impl Default for BufferLimits {
    fn default() -> Self {
        Self {
            requests: 1_000,
            bytes: 16 * 1024 * 1024,
            window: Duration::from_secs(10),
            max_failover_duration: Duration::from_secs(20),
            min_time_between_failovers: Duration::from_secs(60),
            drain_concurrency: 1,
        }
    }
}

/// A request's one chance to be held. It can be neither copied nor had back from a wait, so that
/// nobody waits twice for the same request; an answer that did not hold it gives it back.
#[must_use = "a request is to be held or sent"]
#[derive(Debug)]
pub struct Request {
    pub(super) bytes: usize,
}

impl Request {
    /// A request of so many bytes, all of which are kept while it is held.
    pub fn new(bytes: usize) -> Self {
        Self { bytes }
    }
}

/// When a request was tried: between which two announcements that a primary serves. To be taken from
/// `Lane::attempt` before the request is sent, so that a failure which an announcement has overtaken
/// is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub(super) epoch: u64,
}

/// Why a failed request is not held though it could be: it fails with the error that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Skip {
    /// The buffer is off.
    #[error("request buffer is off")]
    Off,
    /// The last episode of the lane ended less than `min_time_between_failovers` ago.
    #[error("last failover was too recent")]
    TooSoon,
    /// The lane's episode lasted too long; those that waited are being released to try once, which
    /// this request has done.
    #[error("failover took too long")]
    EpisodeTooLong,
}

/// Why a request that should wait cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Full, and nobody can be evicted: what is held is being drained.
    #[error("request buffer is full")]
    Full,
    /// The request alone is larger than the byte budget.
    #[error("request is too large for the request buffer")]
    TooLarge,
    /// The buffer was closed.
    #[error("request buffer is closed")]
    Closed,
}

/// A number of requests and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests.
    pub requests: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Load {
    pub(super) const NONE: Load = Load { requests: 0, bytes: 0 };

    pub(super) fn one(bytes: usize) -> Self {
        Self { requests: 1, bytes }
    }

    pub(super) fn add(&mut self, other: Load) {
        self.requests += other.requests;
        self.bytes = self.bytes.checked_add(other.bytes).expect("BUG: more bytes than fit memory");
    }

    pub(super) fn sub(&mut self, other: Load) {
        let requests = self.requests.checked_sub(other.requests);
        self.requests = requests.expect("BUG: more requests left than came");
        self.bytes = self.bytes.checked_sub(other.bytes).expect("BUG: more bytes left than came");
    }

    /// What of this is beyond `limit`, part by part.
    pub(super) fn beyond(self, limit: Load) -> Load {
        Load {
            requests: self.requests.saturating_sub(limit.requests),
            bytes: self.bytes.saturating_sub(limit.bytes),
        }
    }

    pub(super) fn covers(self, other: Load) -> bool {
        self.requests >= other.requests && self.bytes >= other.bytes
    }
}
