//! The instrument on a real PostgreSQL: each kind of round gives its numbers, and a round that goes
//! wrong gives none. The relay runs in a thread here, so this process counts as the pooler.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use pgbaton::cli::throwaway::free_port;

use crate::contestant::{Contestant, Running, Size};
use crate::plan::{Amounts, Bulk, Load, Profile, Protocol};
use crate::record::Metrics;
use crate::stage::{DATABASE, Stage, USER};
use crate::wire::Client;
use crate::{bench, bulk, memory, relay};

const SCALE: u32 = 1;
const LOAD: Load = Load {
    script: "select-only",
    protocol: Protocol::Prepared,
    clients: 3,
    reconnects: false,
    tls: false,
};

fn stage() -> Stage {
    Stage::build(SCALE, Arc::new(AtomicBool::new(false))).unwrap()
}

/// The relay, which ends with the test.
fn relayed(stage: &Stage) -> Running {
    let (listen_port, server_port) = (free_port().unwrap(), stage.cluster.port());
    thread::spawn(move || relay::run(listen_port, server_port).unwrap());
    let mut running = Running::elsewhere(listen_port, std::process::id());
    running.wait_for_answer("relay").unwrap();
    running
}

fn assert_positive(metrics: &Metrics, names: &[&str]) {
    for name in names {
        assert!(metrics[*name] > 0.0, "{name}: {metrics:?}");
    }
}

#[test]
fn every_kind_of_round_has_its_numbers() {
    let stage = stage();
    let direct = Contestant::direct();
    let direct = direct.start(&stage, &Size { pool: 1, clients_max: 10 }).unwrap();
    let metrics = bench::run(&stage, &direct, &LOAD, 1).unwrap();
    assert_positive(&metrics, &["transactions", "tps", "p50_ms", "p99_ms", "slowest_share"]);
    assert!(metrics["p50_ms"] <= metrics["p99_ms"] && metrics["p99_ms"] <= metrics["max_ms"]);
    assert!(!metrics.contains_key("cpu_us_per_tx"));

    let relayed = relayed(&stage);
    let reconnect = Load { reconnects: true, protocol: Protocol::Simple, ..LOAD };
    for load in [LOAD, reconnect] {
        let metrics = bench::run(&stage, &relayed, &load, 1).unwrap();
        assert_positive(&metrics, &["tps", "cpu_us_per_tx", "voluntary_per_tx", "pooler_cores"]);
    }
    let amounts = Amounts { scale: SCALE, ..Profile::Smoke.amounts() };
    for work in [Bulk::Rows, Bulk::CopyOut, Bulk::CopyIn] {
        let metrics = bulk::run(&stage, &relayed, work, &amounts).unwrap();
        assert_positive(&metrics, &["mb_per_s", "cpu_s_per_gb"]);
        let least = if work == Bulk::Rows { 1.0 } else { f64::from(amounts.copy_mb) };
        assert!(metrics["transferred_mb"] >= least * 0.95, "{work:?}: {metrics:?}");
    }
    assert!(memory::idle(&stage, &relayed, 5, false).unwrap().contains_key("queried_bytes_each"));
    let metrics = memory::burst(&stage, &relayed, 5, 0).unwrap();
    assert!(metrics["peak_mb"] > 0.0 && metrics.contains_key("kept_mb"));
}

#[test]
fn a_round_that_goes_wrong_has_no_numbers() {
    let stage = stage();
    let nobody = Running::elsewhere(free_port().unwrap(), std::process::id());
    let error = bench::run(&stage, &nobody, &LOAD, 1).unwrap_err().to_string();
    assert!(error.contains("error:"), "{error}");
    assert!(bulk::run(&stage, &nobody, Bulk::Rows, &Profile::Smoke.amounts()).is_err());
    // Every transaction of this script's ends in an error.
    let table = "alter table pgbench_accounts rename to hidden";
    stage.cluster.sql(DATABASE, table).unwrap();
    let direct = Running::elsewhere(stage.cluster.port(), std::process::id());
    let error = bench::run(&stage, &direct, &LOAD, 1).unwrap_err().to_string();
    assert!(error.contains("pgbench_accounts"), "{error}");
    // And the client of the bulk rounds tells what the server says, and goes on.
    let mut client = Client::connect(direct.port, USER, DATABASE, None).unwrap();
    let error = client.query("select nonsense").unwrap_err().to_string();
    assert!(error.contains("the server says") && error.contains("nonsense"), "{error}");
    let error = client.copy_in("copy nowhere from stdin", "x\n", 10).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    assert!(client.query("select 1").unwrap() > 10);
}
