//! The composition root: builds everything, waits for signals, takes everything down in order.
//!
//! Phases: workers start, listeners open, clients are served; then accepting stops, clients are
//! drained to a deadline, pools close, tasks and threads are joined.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::client::hub::WORKERS_MAX;
use crate::client::{Hub, Signal as ClientSignal, Worker, listener, routes, time_limits};
use crate::config::{self, Config, ConfigError, ListenAddr};
use crate::net::{Listener, bind_tcp, bind_unix};
use crate::observe::logs;
use crate::primitives::clock;
use crate::server::idle;
use crate::server::pools::PoolSet;
use crate::tasks::{self, Tasks};
use crate::timeouts::TimeoutThread;

/// How long sessions get to say goodbye once they were told to end at once.
const KILL_GRACE: Duration = Duration::from_secs(2);
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
/// [`StartError`]; once it has started it ends by signal only.
pub fn run(config_path: &Path) -> Result<(), StartError> {
    let loaded = load(config_path)?;
    logs::init(loaded.config.general.log_format, loaded.config.general.log_level)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit(&loaded.config);
    let control = Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    control.block_on(async {
        let running = Running::start(config_path, loaded.config)?;
        running.serve().await;
        Ok(())
    })
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
    /// Watchers of idle servers.
    watching: Tasks,
    workers: Vec<JoinHandle<()>>,
    stop_workers: CancellationToken,
    signals: Signals,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

impl Running {
    fn start(config_path: &Path, config: Arc<Config>) -> Result<Self, StartError> {
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
        let hub = Hub::new(config.clone(), PoolSet::new(count, timeout_handle), handles);
        let watching = Tasks::default();
        for worker in &hub.workers {
            let watch = idle::watch(worker.index, worker.inbox.clone(), watching.stop().clone());
            watching.spawn(&worker.handle, watch);
            let stop = watching.stop().clone();
            let watch = time_limits::watch(hub.clone(), worker.clone(), stop);
            watching.spawn(&worker.handle, watch);
        }
        let accepting = Tasks::default();
        let first = hub.workers[0].clone();
        for listener in open_listeners(&config, &first.handle)? {
            let stop = accepting.stop().clone();
            let accept = listener::accept(hub.clone(), listener, admin::serve, stop);
            accepting.spawn(&first.handle, accept);
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = count,
            listen_port = config.general.listen_port,
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
        })
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT, then stops.
    async fn serve(mut self) {
        loop {
            // Each of these is cancel-safe: a signal stays pending until it is received.
            tokio::select! {
                _ = self.signals.hangup.recv() => self.reload(),
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
            }
        }
        self.stop().await;
    }

    fn reload(&self) {
        match load(&self.config_path) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                let running = self.hub.config.load_full();
                let changes = config::diff(&running, &loaded.config);
                let config = Arc::unwrap_or_clone(loaded.config).reloaded_over(&running);
                logs::set_level(config.general.log_level);
                routes::reload(&self.hub, Arc::new(config));
                tracing::info!("configuration reloaded\n{changes}");
            }
            Err(error) => tracing::error!("reload failed, nothing was changed:\n{error}"),
        }
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

/// Opens all listeners, registered with the first worker's reactor.
fn open_listeners(config: &Config, handle: &Handle) -> Result<Vec<Listener>, StartError> {
    let _context = handle.enter();
    let general = &config.general;
    let mut listeners = Vec::new();
    for addr in listen_addrs(config)? {
        let listener = bind_tcp(addr, general.listen_backlog)
            .map_err(|source| StartError::Listen { place: addr.to_string(), source })?;
        listeners.push(listener);
    }
    if let Some(dir) = &general.unix_socket_dir {
        let listener = bind_unix(dir, general.listen_port, general.unix_socket_mode)
            .map_err(|source| StartError::Listen { place: dir.display().to_string(), source })?;
        listeners.push(listener);
    }
    if listeners.is_empty() { Err(StartError::NoListener) } else { Ok(listeners) }
}

fn listen_addrs(config: &Config) -> Result<Vec<SocketAddr>, StartError> {
    let port = config.general.listen_port;
    let mut addrs = Vec::new();
    for addr in &config.general.listen_addr {
        match addr {
            ListenAddr::Any => {
                addrs.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
                if Path::new("/proc/net/if_inet6").exists() {
                    addrs.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
                }
            }
            ListenAddr::Ip(ip) => addrs.push(SocketAddr::new(*ip, port)),
            ListenAddr::Name(name) => {
                let resolved = (name.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|source| StartError::Listen { place: name.clone(), source })?;
                addrs.extend(resolved);
            }
        }
    }
    Ok(addrs)
}

/// Raises the soft limit of open files to the hard one, and warns if even that is too low for the
/// clients that the configuration lets in.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
    let general = &config.general;
    let pool_size = general.default_pool_size.get().unwrap_or(0);
    let needed = u64::try_from(general.max_client_conn + pool_size + 64).unwrap_or(u64::MAX);
    let have = getrlimit(Resource::Nofile).current;
    if have.is_some_and(|have| have < needed) {
        tracing::warn!(
            limit = have,
            needed,
            "the limit of open files is too low for max_client_conn clients and their servers"
        );
    }
}
