//! Memory: what clients that do nothing cost, and what is left of a crowd that has gone.
//!
//! It is the resident memory of the contestant's processes, so pages that they share count more
//! than once.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::Fallible;
use crate::contestant::Running;
use crate::procfs;
use crate::record::Metrics;
use crate::stage::{DATABASE, Stage, USER};
use crate::wire::Client;

/// For the contestant to note what has happened.
const PAUSE: Duration = Duration::from_millis(500);
const QUERY: &str = "select 1";
/// What each client of the crowd asks for: 100 kB.
const LARGE_QUERY: &str = "select repeat('x', 100000)";

fn rss_bytes(running: &Running) -> Fallible<f64> {
    let pid = running.pid.ok_or("nobody in the middle")?;
    thread::sleep(PAUSE);
    Ok(procfs::usage(pid)?.rss_bytes as f64)
}

fn connect(
    stage: &Stage,
    running: &Running,
    clients: u32,
    tls: Option<&Arc<ClientConfig>>,
) -> Fallible<Vec<Client>> {
    let connect = |number| {
        if stage.is_stopping() {
            return Err("interrupted".into());
        }
        let client = Client::connect(running.port, USER, DATABASE, tls);
        client.map_err(|error| format!("client {number} of {clients}: {error}").into())
    };
    (1..=clients).map(connect).collect()
}

/// The memory for each of `clients`, before and after each has made one query. The contestant must be
/// fresh: memory that it once had would hide what they need.
pub fn idle(stage: &Stage, running: &Running, clients: u32, tls: bool) -> Fallible<Metrics> {
    let trusting = tls.then(|| running.trusting()).transpose()?;
    let mut first = Client::connect(running.port, USER, DATABASE, trusting.as_ref())?;
    first.query(QUERY)?;
    let none = rss_bytes(running)?;
    let mut all = connect(stage, running, clients, trusting.as_ref())?;
    let logged_in = rss_bytes(running)?;
    for client in &mut all {
        client.query(QUERY)?;
    }
    let queried = rss_bytes(running)?;
    let mut metrics = Metrics::from([
        ("rss_mb".to_owned(), logged_in / 1e6),
        ("queried_rss_mb".to_owned(), queried / 1e6),
    ]);
    if clients > 0 {
        let each = |bytes: f64| (bytes - none) / f64::from(clients);
        metrics.insert("bytes_each".to_owned(), each(logged_in));
        metrics.insert("queried_bytes_each".to_owned(), each(queried));
    }
    all.push(first);
    all.into_iter().try_for_each(Client::close)?;
    Ok(metrics)
}

/// The memory before, during and after a crowd of `clients` that all ask for much at once.
pub fn burst(
    stage: &Stage,
    running: &Running,
    clients: u32,
    settle_seconds: u32,
) -> Fallible<Metrics> {
    let before = rss_bytes(running)?;
    let mut all = connect(stage, running, clients, None)?;
    for client in &mut all {
        client.send_query(LARGE_QUERY)?;
    }
    let during = rss_bytes(running)?;
    for client in &mut all {
        client.read_answer()?;
    }
    let peak = during.max(rss_bytes(running)?);
    all.into_iter().try_for_each(Client::close)?;
    let until = Instant::now() + Duration::from_secs(settle_seconds.into());
    while Instant::now() < until && !stage.is_stopping() {
        thread::sleep(PAUSE);
    }
    let after = rss_bytes(running)?;
    let metrics = [
        ("before_mb", before / 1e6),
        ("peak_mb", peak / 1e6),
        ("after_mb", after / 1e6),
        ("kept_mb", (after - before) / 1e6),
    ];
    Ok(metrics.map(|(name, value)| (name.to_owned(), value)).into())
}
