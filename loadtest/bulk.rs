//! Large transfers through one connection: how fast, and at what cost.
//!
//! The client is [`wire`](crate::wire): it looks at message heads and drops the rest.

use std::time::{Duration, Instant};

use crate::Fallible;
use crate::contestant::Running;
use crate::plan::{Amounts, Bulk};
use crate::procfs;
use crate::record::Metrics;
use crate::stage::{DATABASE, Stage, USER};
use crate::wire::Client;

/// Of a row of pgbench_accounts as a CopyData message, roughly.
const ACCOUNT_BYTES: u64 = 100;
const ACCOUNTS_PER_SCALE: u64 = 100_000;
/// A line of COPY IN: 99 characters and the end of the line.
const LINE_CHARACTERS: usize = 99;
const MEGABYTE: u64 = 1_000_000;

/// Measures one round.
pub fn run(stage: &Stage, running: &Running, bulk: Bulk, amounts: &Amounts) -> Fallible<Metrics> {
    let mut client = Client::connect(running.port, USER, DATABASE, None)?.with_large_buffer();
    client.query("select body from large limit 4")?;
    let pooler = || running.pid.map(procfs::usage).transpose();
    let (first, first_server) = (pooler()?, stage.server_usage()?);
    let (first_own, first_machine) = (procfs::own_cpu_us()?, procfs::machine_cpu_us()?);
    let began = Instant::now();
    let bytes = transfer(stage, &mut client, bulk, amounts)?;
    let (elapsed, last) = (began.elapsed(), pooler()?);
    let own_us = procfs::own_cpu_us()? - first_own;
    let server_us = stage.server_usage()?.since(first_server).cpu_us;
    let machine_us = procfs::machine_cpu_us()? - first_machine;
    client.close()?;
    let pooler_us = last.zip(first).map(|(last, first)| last.since(first).cpu_us);
    Ok(metrics(bytes, elapsed, &Spent { own_us, server_us, machine_us, pooler_us }))
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

/// Processor time during a transfer.
struct Spent {
    own_us: u64,
    server_us: u64,
    /// Of all that runs on the machine.
    machine_us: u64,
    pooler_us: Option<u64>,
}

fn metrics(bytes: u64, elapsed: Duration, spent: &Spent) -> Metrics {
    let Spent { own_us, server_us, machine_us, pooler_us } = *spent;
    let others_us = machine_us.saturating_sub(own_us + server_us + pooler_us.unwrap_or(0));
    let seconds = elapsed.as_secs_f64();
    let cores = |cpu_us: u64| cpu_us as f64 / 1e6 / seconds;
    let per_gb = |cpu_us: u64| cpu_us as f64 / 1e6 / (bytes as f64 / 1e9);
    let all = [
        ("mb_per_s", Some(bytes as f64 / 1e6 / seconds)),
        ("transferred_mb", Some(bytes as f64 / 1e6)),
        ("cpu_s_per_gb", pooler_us.map(per_gb)),
        ("pooler_cores", pooler_us.map(cores)),
        ("client_cores", Some(cores(own_us))),
        ("server_cores", Some(cores(server_us))),
        ("others_cores", Some(cores(others_us))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_becomes_speed_and_cost() {
        let spent = Spent {
            own_us: 1_000_000,
            server_us: 0,
            machine_us: 3_500_000,
            pooler_us: Some(500_000),
        };
        let metrics = metrics(2_000_000_000, Duration::from_secs(2), &spent);
        let expected = [
            ("mb_per_s", 1000.0),
            ("cpu_s_per_gb", 0.25),
            ("client_cores", 0.5),
            ("others_cores", 1.0),
        ];
        for (name, value) in expected {
            assert!((metrics[name] - value).abs() < 1e-9, "{name}: {}", metrics[name]);
        }
    }
}
