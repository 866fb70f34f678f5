//! A histogram of waits. Plain data, written under its owner's lock.
//!
//! Must not know who waits, nor a metrics library. Invariant: `count` is the sum of the buckets.

use std::time::Duration;

/// Buckets of a [`WaitHistogram`]: bucket i holds waits below 2^i microseconds and not below
/// 2^(i-1); the last one holds everything longer (more than half an hour).
pub const WAIT_BUCKETS: usize = 32;

/// A histogram of waits, in powers of two of a microsecond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitHistogram {
    /// Waits per bucket.
    pub buckets: [u64; WAIT_BUCKETS],
    /// All waits.
    pub count: u64,
    /// The sum of all waits, in microseconds.
    pub sum_micros: u64,
}

impl WaitHistogram {
    /// The upper bound of a bucket, exclusive.
    pub fn bound(bucket: usize) -> Duration {
        Duration::from_micros(1u64.checked_shl(bucket as u32).unwrap_or(u64::MAX))
    }

    pub(crate) fn record(&mut self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(WAIT_BUCKETS - 1)] += 1;
        self.count += 1;
        self.sum_micros = self.sum_micros.wrapping_add(micros);
    }

    pub(crate) fn add(&mut self, other: &WaitHistogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_micros = self.sum_micros.wrapping_add(other.sum_micros);
    }
}

#[cfg(all(test, not(pgbaton_loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_the_last_is_open() {
        let mut waits = WaitHistogram::default();
        for micros in [0, 1, 2, 3, 4, 1 << 40] {
            waits.record(Duration::from_micros(micros));
        }
        assert_eq!(waits.buckets[..4], [1, 1, 2, 1]);
        assert_eq!((waits.buckets[WAIT_BUCKETS - 1], waits.count), (1, 6));
        assert_eq!(WaitHistogram::bound(3), Duration::from_micros(8));
    }
}
