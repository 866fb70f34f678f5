//! The composition root: builds everything, waits for signals, takes everything down in order.
//!
//! Phases: workers start, listeners open, clients are served; then accepting stops, clients are
//! drained to a deadline, pools close, tasks and threads are joined.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::client::hub::WORKERS_MAX;
use crate::client::orders::{Order, Shutdown};
use crate::client::{Hub, Signal as ClientSignal, Worker, listener, routes, time_limits, upkeep};
use crate::config::{self, Config, ConfigError, SetError};
use crate::net::Bound;
use crate::observe::logs;
use crate::primitives::clock;
use crate::process::{IdentityError, PidFileError};
use crate::server::pool_set::PoolSet;
use crate::server::{Scope, idle};
use crate::tasks::{self, Tasks};
use crate::timeouts::TimeoutThread;

mod start;

/// How long sessions get to say goodbye once they were told to end at once.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// How often the files of certificates and keys are looked at.
const FILES_LOOK: Duration = Duration::from_secs(5);
/// How often clients are looked over for transaction boundaries while draining.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Why pgbaton did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is no good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The logs could not be set up.
    #[error("cannot set up logging: {0}")]
    Logs(#[from] logs::LogsError),
    /// Not as this user.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another pgbaton seems to run, or the file cannot be written.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// A listener could not be opened.
    #[error("cannot listen on {place}: {source}")]
    Listen {
        /// Where.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// Neither a TCP address nor a Unix socket is configured.
    #[error("nothing to listen on: listen_addr and unix_socket_dir are both empty")]
    NoListener,
    /// A thread or runtime could not be made.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

/// Runs pgbaton until it is told to stop.
///
/// # Errors
/// [`StartError`]; once it has started it ends by signal or by order only.
pub fn run(config_path: &Path) -> Result<(), StartError> {
    let loaded = load(config_path)?;
    let prepared = start::prepare(&loaded.config, folder_of(config_path))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let control = Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    control.block_on(async {
        let running = Running::start(config_path, loaded.config, prepared.sockets)?;
        running.serve().await;
        Ok::<_, StartError>(())
    })?;
    // Held to the end: while it is there, pgbaton is.
    drop(prepared.pid_file);
    Ok(())
}

fn folder_of(config_path: &Path) -> &Path {
    config_path.parent().unwrap_or(Path::new(""))
}

/// Reads the configuration as [`run`] does.
///
/// # Errors
/// All mistakes of the file and the environment.
pub fn load(config_path: &Path) -> Result<config::Loaded, ConfigError> {
    config::load(config_path, &|name| std::env::var(name).ok())
}

/// A started pgbaton.
struct Running {
    config_path: PathBuf,
    hub: Arc<Hub>,
    timeouts: TimeoutThread,
    /// Accept loops.
    accepting: Tasks,
    /// Watchers of idle servers, of pools and of clients.
    watching: Tasks,
    workers: Vec<JoinHandle<()>>,
    stop_workers: CancellationToken,
    signals: Signals,
    /// What consoles ask for.
    orders: UnboundedReceiver<Order>,
    /// What a shutdown that was ordered waits for.
    leaving: Option<Shutdown>,
    look_at_files: Interval,
    /// What was last said of files that have changed for the worse.
    bad_files: Option<String>,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Running {
    fn start(
        config_path: &Path,
        config: Arc<Config>,
        sockets: Vec<Bound>,
    ) -> Result<Self, StartError> {
        // First, so that a signal that comes during the start is not lost.
        let signals = Signals::new().map_err(StartError::Worker)?;
        let (timeouts, timeout_handle) =
            TimeoutThread::start(clock::now).map_err(StartError::Worker)?;
        let count = worker_count(&config);
        let stop_workers = CancellationToken::new();
        let mut handles = Vec::with_capacity(count);
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (handle, thread) = start_worker(index, stop_workers.clone())?;
            handles.push(Arc::new(Worker::new(index, handle)));
            workers.push(thread);
        }
        let (give_orders, orders) = unbounded_channel();
        let pools = PoolSet::new(count, timeout_handle);
        let hub = Hub::new(config.clone(), pools, handles, give_orders);
        let watching = Tasks::default();
        for worker in &hub.workers {
            let (inbox, handle) = (worker.inbox.clone(), worker.handle.clone());
            let watch = idle::watch(worker.index, inbox, watching.clone(), handle);
            watching.spawn(&worker.handle, watch);
            let watch = upkeep::watch(hub.clone(), worker.clone(), watching.clone());
            watching.spawn(&worker.handle, watch);
            let stop = watching.stop().clone();
            let watch = time_limits::watch(hub.clone(), worker.clone(), stop);
            watching.spawn(&worker.handle, watch);
        }
        let accepting = Tasks::default();
        let first = hub.workers[0].clone();
        for socket in sockets {
            let listener = {
                let _context = first.handle.enter();
                socket.register().map_err(StartError::Worker)?
            };
            let stop = accepting.stop().clone();
            let accept = listener::accept(hub.clone(), listener, admin::serve, stop);
            accepting.spawn(&first.handle, accept);
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = count,
            listen_port = config.general.listen_port,
            client_tls = %config.general.client_tls_sslmode,
            "pgbaton is ready"
        );
        Ok(Self {
            config_path: config_path.to_owned(),
            hub,
            timeouts,
            accepting,
            watching,
            workers,
            stop_workers,
            signals,
            orders,
            leaving: None,
            look_at_files: tokio::time::interval(FILES_LOOK),
            bad_files: None,
        })
    }

    /// Serves until a signal or an order says otherwise, then stops.
    async fn serve(mut self) {
        loop {
            // Each of these is cancel-safe: a signal or an order stays pending until received.
            tokio::select! {
                _ = self.signals.hangup.recv() => drop(self.reload()),
                _ = self.signals.terminate.recv() => {
                    tracing::info!("SIGTERM: draining clients");
                    self.drain().await;
                    break;
                }
                _ = self.signals.interrupt.recv() => {
                    tracing::info!("SIGINT: stopping now");
                    break;
                }
                _ = self.signals.quit.recv() => {
                    tracing::info!("SIGQUIT: stopping now");
                    break;
                }
                _ = self.signals.user_1.recv() => {
                    tracing::info!("SIGUSR1: pausing");
                    self.hub.pools.hold(&Scope::All);
                }
                _ = self.signals.user_2.recv() => self.resume(),
                Some(order) = self.orders.recv() => {
                    if self.carry_out(order).await {
                        break;
                    }
                }
                _ = self.look_at_files.tick() => self.follow_files().await,
                () = tokio::time::sleep(DRAIN_POLL), if self.leaving.is_some() => {
                    if self.is_left() {
                        tracing::info!("nobody is left: stopping");
                        break;
                    }
                }
            }
        }
        self.stop().await;
    }

    /// Carries an order out. True if it is to stop at once.
    async fn carry_out(&mut self, order: Order) -> bool {
        match order {
            // Whoever has given up waiting does not get the answer.
            Order::Reload(done) => drop(done.send(self.reload())),
            Order::Set { key, value, done } => drop(done.send(self.set(&key, &value))),
            Order::Shutdown(Shutdown::Now) => {
                tracing::info!("SHUTDOWN: stopping now");
                return true;
            }
            Order::Shutdown(how) => {
                tracing::info!("SHUTDOWN: stopping when it is time: {how:?}");
                self.accepting.stop_and_join().await;
                if how == Shutdown::WhenServersAreFree {
                    // In this order: a RESUME that comes between sees the first, or is undone by
                    // the second.
                    self.hub.is_held_for_shutdown.store(true, Ordering::SeqCst);
                    self.hub.pools.hold(&Scope::All);
                }
                self.leaving = Some(how);
            }
        }
        false
    }

    /// Whether what a shutdown waits for has come about.
    fn is_left(&self) -> bool {
        match self.leaving {
            Some(Shutdown::WhenServersAreFree) => self.hub.pools.owned(&Scope::All) == 0,
            Some(Shutdown::WhenClientsLeave) => self.hub.client_count() == 0,
            Some(Shutdown::Now) => true,
            None => false,
        }
    }

    fn resume(&self) {
        if self.leaving == Some(Shutdown::WhenServersAreFree) {
            return tracing::warn!("SIGUSR2: not while shutting down");
        }
        let was_paused = self.hub.pools.resume(&Scope::All);
        tracing::info!(was_paused, "SIGUSR2: resuming");
    }

    fn reload(&self) -> Result<(), ConfigError> {
        logs::reopen();
        let loaded = load(&self.config_path).inspect_err(|error| {
            tracing::error!("reload failed, nothing was changed:\n{error}");
        })?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let running = self.hub.config.load_full();
        let changes = config::diff(&running, &loaded.config);
        self.put_in_force(Arc::unwrap_or_clone(loaded.config).reloaded_over(&running));
        tracing::info!("configuration reloaded\n{changes}");
        Ok(())
    }

    /// Puts certificates and keys in force whose files have changed, as a renewal leaves them. Nobody is
    /// dropped. A bad file is told once, and what is in force stays.
    async fn follow_files(&mut self) {
        let running = self.hub.config.load_full();
        let (config, folder) = (running.clone(), folder_of(&self.config_path).to_owned());
        match tasks::blocking(move || config.with_files_of_now(&folder)).await {
            Ok(None) => self.bad_files = None,
            Ok(Some(changed)) => {
                self.bad_files = None;
                let changes = config::diff(&running, &changed);
                self.put_in_force(changed);
                tracing::info!("files have changed, and are in force\n{changes}");
            }
            Err(error) => {
                let text = error.to_string();
                if self.bad_files.as_ref() != Some(&text) {
                    tracing::error!("files have changed, and what was in force stays:\n{text}");
                }
                self.bad_files = Some(text);
            }
        }
    }

    fn set(&self, key: &str, value: &str) -> Result<(), SetError> {
        let running = self.hub.config.load_full();
        let changed = running.with_setting(key, value, folder_of(&self.config_path))?;
        let changes = config::diff(&running, &changed);
        self.put_in_force(changed);
        tracing::info!("SET on the console\n{changes}");
        Ok(())
    }

    fn put_in_force(&self, config: Config) {
        logs::set_level(config.general.log_level);
        routes::reload(&self.hub, Arc::new(config));
    }

    /// Stops accepting and waits for clients to reach the end of their transactions.
    async fn drain(&mut self) {
        self.accepting.stop_and_join().await;
        self.hub.stopping.cancel();
        let limit = self.hub.config.load().general.shutdown_timeout;
        let deadline = limit.map(|limit| clock::now().after(limit));
        while !self.hub.tasks.is_empty() {
            // Again and again: a client may have logged in since the last time.
            self.hub.signal_all(ClientSignal::Drain);
            if deadline.is_some_and(|deadline| clock::now() >= deadline) {
                tracing::warn!(clients = self.hub.tasks.len(), "shutdown_timeout: not waiting on");
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_POLL) => {}
                _ = self.signals.terminate.recv() => return,
                _ = self.signals.interrupt.recv() => return,
                _ = self.signals.quit.recv() => return,
            }
        }
    }

    /// Ends whatever is left and joins it all.
    async fn stop(self) {
        self.accepting.stop_and_join().await;
        self.hub.stopping.cancel();
        let kill = async {
            while !self.hub.tasks.is_empty() {
                self.hub.signal_all(ClientSignal::Kill);
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(KILL_GRACE, kill).await.is_err() {
            tracing::warn!(left = self.hub.tasks.len(), "sessions still cleaning up are cut off");
        }
        for pool in self.hub.pools.all() {
            pool.pool.close();
        }
        self.watching.stop_and_join().await;
        // A worker's runtime drops the tasks that are left, and with them their sockets.
        self.stop_workers.cancel();
        let (workers, timeouts) = (self.workers, self.timeouts);
        tasks::blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("a worker thread panicked");
                }
            }
            timeouts.stop_and_join();
        })
        .await;
        tracing::info!("stopped");
    }
}

fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.general.workers.unwrap_or_else(cores).clamp(1, WORKERS_MAX)
}

fn start_worker(
    index: usize,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StartError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    let handle = runtime.handle().clone();
    let body = move || runtime.block_on(stop.cancelled_owned());
    let thread = tasks::thread(&format!("worker-{index}"), body).map_err(StartError::Worker)?;
    Ok((handle, thread))
}
