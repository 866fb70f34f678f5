//! The thread itself: sweep, publish, sleep. Must not know sources.
//!
//! Invariant: owned by one [`TimeoutThread`], which stops and joins it.

use std::io;
use std::time::Duration;

use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::{Arc, Tick};

use super::heads::{Hub, Nap, TimeoutHandle};

const NAME: &str = "pgbaton-timeouts";

/// How late the thread may come: deadlines that follow each other by microseconds are one wake-up,
/// and a storm of them costs at most a thousand a second. Nobody is served in between: givers check
/// deadlines themselves.
const SLACK: Duration = Duration::from_millis(1);

/// The owner of the timeout thread. Deadlines fire while it lives.
pub struct TimeoutThread {
    hub: Arc<Hub>,
    /// `None` once joined.
    thread: Option<JoinHandle<()>>,
}

impl TimeoutThread {
    /// Starts the thread. `clock` reads the same clock as the pools' callers.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(clock: fn() -> Tick) -> io::Result<(TimeoutThread, TimeoutHandle)> {
        let handle = TimeoutHandle::new(clock);
        let hub = Arc::clone(&handle.hub);
        let body = Arc::clone(&hub);
        let thread = thread::spawn_named(NAME, move || run(&body))?;
        Ok((TimeoutThread { hub, thread: Some(thread) }, handle))
    }

    /// Stops the thread and waits for its end. Deadlines no longer fire.
    ///
    /// # Panics
    /// If the thread has panicked.
    pub fn stop_and_join(mut self) {
        self.join();
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.hub.stop();
        let ended = thread.join();
        assert!(ended.is_ok() || std::thread::panicking(), "BUG: the timeout thread panicked");
    }
}

impl Drop for TimeoutThread {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(hub: &Hub) {
    let me = thread::current();
    loop {
        hub.sweep(hub.now());
        // An unpark that comes between lying down and parking is kept by the park itself.
        match hub.lie_down(&me) {
            Nap::Stop => return,
            Nap::Unarmed => thread::park(),
            Nap::Until(deadline) => {
                let left = deadline.after(SLACK).since(hub.now());
                if !left.is_zero() {
                    thread::park_timeout(left);
                }
            }
        }
        hub.get_up();
    }
}
