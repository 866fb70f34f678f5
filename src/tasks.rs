//! The only spawner: every task and thread has an owner, a stop signal, and is joined.

use std::future::Future;
use std::io;
use std::sync::LazyLock;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one owner. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `future` on the runtime behind `handle`, tracked.
    pub fn spawn(&self, handle: &Handle, future: impl Future<Output = ()> + Send + 'static) {
        // Not detached: the tracker holds its completion, which `join` awaits.
        drop(self.tracker.spawn_on(future, handle));
    }

    /// The signal that asks the owner's tasks to end.
    #[must_use]
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tasks still running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether none is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to end and waits until they have. Cancel-safe.
    pub async fn stop_and_join(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Starts a named thread; the caller joins it.
///
/// # Errors
/// When the system has no thread to give.
pub fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Starts a thread for a call into the system that can take as long as it likes and cannot be
/// interrupted: whoever waits for its outcome may give up, and the process's end does not wait for it.
///
/// # Errors
/// When the system has no thread to give.
pub fn uninterruptible(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Not joined: that could take for ever. It holds nothing that must be put in order.
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// How many calculations run at once: half of the cores, so that a storm of logins leaves the workers
/// what they need.
static CALCULATIONS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((cores / 2).max(1))
});

/// Runs a calculation that takes long beside the workers and waits for it, in order of arrival and few at
/// a time. Dropping the future leaves the line, or lets the calculation end unobserved.
///
/// # Panics
/// If `work` panics.
pub async fn calculate<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Never closed. Held by the work itself: it may outlive the future.
    let permit = CALCULATIONS.acquire().await.expect("BUG: the semaphore is never closed");
    blocking(move || {
        let _permit = permit;
        work()
    })
    .await
}

/// Runs blocking work beside the workers and waits for it. Dropping the future lets
/// the work end unobserved.
///
/// # Panics
/// If `work` panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => unreachable!("BUG: blocking work is never aborted"),
    }
}
