//! The only reader of the clock. Callers of the pool read it and pass the result; the timeout thread
//! is given [`now`] as an argument, so that tests can give another. `pool` itself must not use it.

use std::sync::OnceLock;
use std::time::Instant;

use super::Tick;

static START: OnceLock<Instant> = OnceLock::new();

/// Now, on the monotonic clock. The first call of the process fixes the zero.
pub fn now() -> Tick {
    let start = *START.get_or_init(Instant::now);
    Tick::ZERO.after(start.elapsed())
}

#[cfg(all(test, not(pgbaton_loom)))]
mod tests {
    #[test]
    fn never_goes_back() {
        let first = super::now();
        assert!(super::now() >= first);
    }
}
