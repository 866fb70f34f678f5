//! Large transfers through one connection: how fast, and at what cost.
//!
//! The client is [`wire`](crate::wire): it looks at message heads and drops the rest.

use std::time::{Duration, Instant};

use crate::Fallible;
use crate::contestant::Running;
use crate::plan::{Amounts, Bulk};
use crate::procfs::{self, Usage};
use crate::record::Metrics;
use crate::stage::{DATABASE, Stage, USER};
use crate::wire::Client;

/// Of a row of pgbench_accounts in COPY's text, roughly.
const ACCOUNT_BYTES: u64 = 97;
const ACCOUNTS_PER_SCALE: u64 = 100_000;
/// A line of COPY IN: 99 characters and the end of the line.
const LINE_CHARACTERS: usize = 99;
const MEGABYTE: u64 = 1_000_000;

/// Measures one round.
pub fn run(stage: &Stage, running: &Running, bulk: Bulk, amounts: &Amounts) -> Fallible<Metrics> {
    let mut client = Client::connect(running.port, USER, DATABASE)?.with_large_buffer();
    client.query("select body from large limit 4")?;
    let pooler = || running.pid.map(procfs::usage).transpose();
    let (first, first_server) = (pooler()?, stage.server_usage()?);
    let (first_own, began) = (procfs::own_cpu_us()?, Instant::now());
    let bytes = transfer(stage, &mut client, bulk, amounts)?;
    let (elapsed, last) = (began.elapsed(), pooler()?);
    let own_us = procfs::own_cpu_us()? - first_own;
    let server = stage.server_usage()?.since(first_server);
    client.close()?;
    let pooler = last.zip(first).map(|(last, first)| last.since(first));
    Ok(metrics(bytes, elapsed, own_us, server, pooler))
}

fn transfer(stage: &Stage, client: &mut Client, bulk: Bulk, amounts: &Amounts) -> Fallible<u64> {
    let bytes = u64::from(amounts.copy_mb) * MEGABYTE;
    match bulk {
        Bulk::Rows => {
            let until = Instant::now() + Duration::from_secs(amounts.seconds.into());
            let mut received = 0;
            while Instant::now() < until && !stage.is_stopping() {
                received += client.query("select body from large")?;
            }
            Ok(received)
        }
        Bulk::CopyOut => {
            let rows = bytes.div_ceil(ACCOUNT_BYTES);
            let times = rows.div_ceil(ACCOUNTS_PER_SCALE * u64::from(amounts.scale));
            client.query(&format!(
                "copy (select a.* from pgbench_accounts a, generate_series(1, {times}) limit {rows}) to stdout"
            ))
        }
        // Rows are read and then dropped: the disk is not what is measured.
        Bulk::CopyIn => {
            let line = format!("{}\n", "x".repeat(LINE_CHARACTERS));
            client.copy_in("copy sink from stdin where false", &line, bytes)
        }
    }
}

fn metrics(
    bytes: u64,
    elapsed: Duration,
    own_us: u64,
    server: Usage,
    pooler: Option<Usage>,
) -> Metrics {
    let seconds = elapsed.as_secs_f64();
    let cores = |cpu_us: u64| cpu_us as f64 / 1e6 / seconds;
    let per_gb = |cpu_us: u64| cpu_us as f64 / 1e6 / (bytes as f64 / 1e9);
    let all = [
        ("mb_per_s", Some(bytes as f64 / 1e6 / seconds)),
        ("transferred_mb", Some(bytes as f64 / 1e6)),
        ("cpu_s_per_gb", pooler.map(|used| per_gb(used.cpu_us))),
        ("pooler_cores", pooler.map(|used| cores(used.cpu_us))),
        ("client_cores", Some(cores(own_us))),
        ("server_cores", Some(cores(server.cpu_us))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_becomes_speed_and_cost() {
        let pooler = Usage { cpu_us: 500_000, ..Usage::default() };
        let elapsed = Duration::from_secs(2);
        let metrics = metrics(2_000_000_000, elapsed, 1_000_000, Usage::default(), Some(pooler));
        let expected = [("mb_per_s", 1000.0), ("cpu_s_per_gb", 0.25), ("client_cores", 0.5)];
        for (name, value) in expected {
            assert!((metrics[name] - value).abs() < 1e-9, "{name}: {}", metrics[name]);
        }
    }
}
