//! A moment, as a plain number. Reads no clock and must never read one: `clock` does that, and the
//! pool is given its moments as arguments.

use std::time::Duration;

/// A moment: microseconds since the process started. Arithmetic saturates: a deadline too far away
/// to be written down is [`Tick::MAX`], which never comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The start of the process.
    pub const ZERO: Tick = Tick(0);
    /// The moment that never comes.
    pub const MAX: Tick = Tick(u64::MAX);

    /// The moment `micros` microseconds after the start.
    #[inline]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    #[inline]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This moment plus `span`, rounded down to microseconds.
    #[inline]
    pub fn after(self, span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is the later one, because two
    /// threads may read the clock in one order and use the readings in the other.
    #[inline]
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(all(test, not(pgbaton_loom)))]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let tick = Tick::from_micros(5);
        assert_eq!(tick.after(Duration::from_millis(1)).as_micros(), 1_005);
        assert_eq!(tick.after(Duration::MAX), Tick::MAX);
        assert_eq!(Tick::ZERO.since(tick), Duration::ZERO);
        assert_eq!(tick.since(Tick::ZERO), Duration::from_micros(5));
    }
}
