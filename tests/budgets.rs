//! What a transaction and a login cost pgbaton, in instructions and in allocations, against budgets.
//!
//! The binary runs under callgrind before a real PostgreSQL. Each path is walked twice, the second
//! time with more turns: the difference is that of the turns alone. Unlike times, such counts do not
//! depend on the machine's mood, so that they can be compared in CI; they tell nothing of the kernel,
//! which takes the larger part. A profile of its own (`budget`) compiles the binary optimised.
//!
//! Not gungraun: its runner is a second program that has to be installed in exactly the library's
//! version, and it counts functions in a bench, not a program at work.

mod budgets {
    pub mod callgrind;
    pub mod paths;
}
mod support;

use std::process::Command;

use budgets::callgrind::Profile;
use budgets::paths::{self, Path};
use support::pgbaton::{Config, Pgbaton};
use support::postgres::{PASSWORD, Postgres, SUPERUSER};
use support::skips;

/// What more than the budget fails the test, and what less asks for a lower budget, in per cent.
/// Compilers, C libraries and the grouping of wake-ups differ by that much.
const TOLERANCE_PERCENT: u64 = 5;

/// Of one turn.
struct Budget {
    path: Path,
    /// On x86_64, by rustc 1.95. `None` where they depend on the machine's mood after all: a large
    /// answer is read in as many pieces as there is time between them.
    instructions: Option<u64>,
    allocations: u64,
}

const BUDGETS: [Budget; 6] = [
    Budget { path: paths::SIMPLE, instructions: Some(10_600), allocations: 0 },
    Budget { path: paths::EXTENDED, instructions: Some(13_000), allocations: 0 },
    Budget { path: paths::PREPARED, instructions: Some(12_200), allocations: 0 },
    Budget { path: paths::WAITING, instructions: Some(22_700), allocations: 0 },
    Budget { path: paths::ROWS, instructions: None, allocations: 0 },
    Budget { path: paths::LOGIN, instructions: Some(42_100), allocations: 22 },
];

/// Runs pgbaton under callgrind while `path` is walked so many times.
fn profile(path: &Path, turns: usize, database: &str) -> Profile {
    let postgres = Postgres::shared();
    let config = Config::new()
        .set("workers", "1")
        .set("default_pool_size", &path.pool_size.to_string())
        .database(database, postgres, "")
        .user(SUPERUSER, &format!("password = \"{PASSWORD}\""));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let file = format!("--callgrind-out-file={}", out.display());
    let mut pgbaton = Pgbaton::start_under(&["valgrind", "--tool=callgrind", &file], &config);
    (path.walk)(&pgbaton, database, turns);
    assert!(pgbaton.stop().success(), "{}", pgbaton.log());
    Profile::read(&out)
}

#[test]
fn no_path_costs_more_than_its_budget() {
    let valgrind = Command::new("valgrind").arg("--version").output();
    let valgrind = valgrind.map_err(|e| format!("valgrind cannot run: {e}"));
    if skips::or_skip("budgets::no_path_costs_more_than_its_budget", valgrind).is_none() {
        return;
    }
    let database = Postgres::shared().create_database();
    let mut faults = Vec::new();
    println!(
        "{:10} {:>14} {:>10} {:>12} {:>8}",
        "path", "instructions", "budget", "allocations", "budget"
    );
    for budget in &BUDGETS {
        let path = &budget.path;
        let few = profile(path, path.turns, &database);
        let many = profile(path, path.turns * 4, &database);
        let cost = many.since(&few, path.turns * 3);
        println!(
            "{:10} {:>14} {:>10} {:>12.2} {:>8}",
            path.name,
            cost.instructions,
            budget.instructions.map_or("-".to_owned(), |most| most.to_string()),
            cost.allocations,
            budget.allocations
        );
        let planned = budget.instructions.unwrap_or(cost.instructions);
        let most = planned * (100 + TOLERANCE_PERCENT) / 100;
        let least = planned * (100 - TOLERANCE_PERCENT) / 100;
        if cost.instructions > most {
            faults.push(format!(
                "{}: {} instructions, over the budget",
                path.name, cost.instructions
            ));
        }
        if cost.instructions < least {
            println!("{}: lower the budget to {}", path.name, cost.instructions);
        }
        // A tick of the clock may come in between, once in many turns.
        if cost.allocations > budget.allocations as f64 + 0.1 {
            faults.push(format!("{}: allocates in\n{}", path.name, cost.allocating.join("\n")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
