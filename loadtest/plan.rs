//! What is measured: the cells, and how much of them a profile takes.
//!
//! It must not know how a cell is measured, nor who is.

use crate::adapter::Capability;

/// How thorough a run is. In this order: what is in one, is in those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Profile {
    /// Whether the instrument works: a minute or two, and figures that mean nothing.
    Smoke,
    /// Ten to fifteen minutes.
    Short,
    /// For figures that are published: hours.
    Full,
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    pub rounds: u32,
    /// Of each measured window.
    pub seconds: u32,
    /// pgbench's scale factor.
    pub scale: u32,
    pub copy_mb: u32,
    /// From the end of the burst to the look at the memory.
    pub settle_seconds: u32,
}

impl Profile {
    pub const fn amounts(self) -> Amounts {
        match self {
            Self::Smoke => {
                Amounts { rounds: 1, seconds: 1, scale: 2, copy_mb: 32, settle_seconds: 2 }
            }
            Self::Short => {
                Amounts { rounds: 2, seconds: 3, scale: 10, copy_mb: 250, settle_seconds: 30 }
            }
            Self::Full => {
                Amounts { rounds: 5, seconds: 10, scale: 50, copy_mb: 1000, settle_seconds: 30 }
            }
        }
    }
}

/// pgbench's query mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// What pgbench is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// One of pgbench's built-in scripts.
    pub script: &'static str,
    pub protocol: Protocol,
    pub clients: u32,
    /// A new connection for each transaction.
    pub reconnects: bool,
    pub tls: bool,
}

/// The direction of a large transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// SELECT of rows of 1 MB.
    Rows,
    CopyOut,
    CopyIn,
}

/// The way in which a cell is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Pgbench(Load),
    Bulk(Bulk),
    /// Memory with so many clients that do nothing.
    Idle(u32),
    /// The same under TLS.
    IdleTls(u32),
    /// Memory after so many clients came at once, and went.
    Burst(u32),
}

impl Work {
    pub const fn clients(self) -> u32 {
        match self {
            Self::Pgbench(load) => load.clients,
            Self::Bulk(_) => 1,
            Self::Idle(clients) | Self::IdleTls(clients) | Self::Burst(clients) => clients,
        }
    }
}

/// One thing to measure, with every contestant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The table that it belongs to.
    pub group: &'static str,
    pub name: String,
    pub work: Work,
    pub pool: u32,
    pub needs: Option<Capability>,
    /// The least thorough profile that has it.
    pub profile: Profile,
    /// The least thorough profile that counts its system calls.
    pub strace: Option<Profile>,
}

pub const SELECT: &str = "select";
pub const TPCB: &str = "tpcb";
pub const RECONNECT: &str = "reconnect";
pub const TIGHT: &str = "tight";
pub const BULK: &str = "bulk";
pub const IDLE: &str = "idle";
pub const BURST: &str = "burst";

const POOL: u32 = 16;
const TIGHT_POOL: u32 = 4;
const CLIENT_COUNTS: [u32; 4] = [1, 8, 64, 512];

/// All cells there are, in the order of the report.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
        cells.extend(CLIENT_COUNTS.map(|clients| select(protocol, clients)));
    }
    let load = |script, clients| Load {
        script,
        protocol: Protocol::Simple,
        clients,
        reconnects: false,
        tls: false,
    };
    let select_load = |clients| load("select-only", clients);
    let reconnect = Load { reconnects: true, ..select_load(8) };
    let tls = Load { tls: true, ..reconnect };
    let pgbench = |group, name, load| cell(group, name, Work::Pgbench(load));
    cells.extend([
        Cell {
            strace: Some(Profile::Full),
            ..pgbench(TPCB, "tpcb/simple/32", load("tpcb-like", 32))
        },
        pgbench(RECONNECT, "reconnect/plain/8", reconnect),
        Cell { needs: Some(Capability::Tls), ..pgbench(RECONNECT, "reconnect/tls/8", tls) },
        Cell {
            pool: TIGHT_POOL,
            profile: Profile::Smoke,
            ..pgbench(TIGHT, "tight/200-on-4", select_load(200))
        },
        Cell { profile: Profile::Smoke, ..cell(BULK, "bulk/rows-1MB", Work::Bulk(Bulk::Rows)) },
        Cell { profile: Profile::Smoke, ..cell(BULK, "bulk/copy-out", Work::Bulk(Bulk::CopyOut)) },
        cell(BULK, "bulk/copy-in", Work::Bulk(Bulk::CopyIn)),
        cell(IDLE, "idle/0", Work::Idle(0)),
        Cell { profile: Profile::Smoke, ..cell(IDLE, "idle/1000", Work::Idle(1000)) },
        cell(IDLE, "idle/10000", Work::Idle(10_000)),
        Cell { needs: Some(Capability::Tls), ..cell(IDLE, "idle/tls/1000", Work::IdleTls(1000)) },
        cell(BURST, "burst/5000", Work::Burst(5000)),
    ]);
    cells
}

fn cell(group: &'static str, name: &str, work: Work) -> Cell {
    let name = name.to_owned();
    Cell { group, name, work, pool: POOL, needs: None, profile: Profile::Short, strace: None }
}

fn select(protocol: Protocol, clients: u32) -> Cell {
    let load = Load { script: "select-only", protocol, clients, reconnects: false, tls: false };
    let name = format!("select/{}/{clients}", protocol.name());
    let profile = match (protocol, clients) {
        (Protocol::Simple | Protocol::Prepared, 64) => Profile::Smoke,
        (Protocol::Simple, _) | (_, 64) => Profile::Short,
        _ => Profile::Full,
    };
    let strace = if clients == 64 { profile } else { Profile::Full };
    Cell {
        needs: (protocol == Protocol::Prepared).then_some(Capability::Prepared),
        profile,
        strace: Some(strace),
        ..cell(SELECT, &name, Work::Pgbench(load))
    }
}

/// The cells of `profile`; or, with filters, all whose name contains one of them.
pub fn chosen(profile: Profile, filters: &[String]) -> Vec<Cell> {
    let mut cells = all();
    if filters.is_empty() {
        cells.retain(|cell| cell.profile <= profile);
    } else {
        cells.retain(|cell| filters.iter().any(|filter| cell.name.contains(filter.as_str())));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(cells: &[Cell]) -> BTreeSet<String> {
        cells.iter().map(|cell| cell.name.clone()).collect()
    }

    #[test]
    fn profiles_hold_those_before_them() {
        let [smoke, short, full] =
            [Profile::Smoke, Profile::Short, Profile::Full].map(|p| names(&chosen(p, &[])));
        assert!(!smoke.is_empty() && smoke.is_subset(&short) && short.is_subset(&full));
        assert!(smoke.len() < short.len() && short.len() < full.len());
        assert_eq!(full, names(&all()));
        assert_eq!(all().len(), full.len(), "names are unique");
    }

    #[test]
    fn a_filter_finds_cells_of_any_profile() {
        let found = chosen(Profile::Smoke, &["extended/512".to_owned(), "burst".to_owned()]);
        let expected = ["burst/5000", "select/extended/512"].map(str::to_owned);
        assert_eq!(names(&found), BTreeSet::from(expected));
        assert!(chosen(Profile::Full, &["nothing-like-it".to_owned()]).is_empty());
    }

    #[test]
    fn only_what_needs_a_capability_says_so() {
        for cell in all() {
            let is_prepared = cell.name.contains("prepared");
            assert_eq!(cell.needs == Some(Capability::Prepared), is_prepared, "{}", cell.name);
            assert_eq!(cell.needs == Some(Capability::Tls), cell.name.contains("tls"));
        }
    }
}
