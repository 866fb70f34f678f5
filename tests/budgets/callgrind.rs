//! What callgrind has written: the instructions in all, and who has called the allocator how often.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The functions that get memory: jemalloc's and the C library's.
const ALLOCATING: [&str; 8] = [
    "_rjem_malloc",
    "_rjem_mallocx",
    "_rjem_calloc",
    "_rjem_realloc",
    "_rjem_rallocx",
    "malloc",
    "calloc",
    "realloc",
];
/// What of Rust's library stands between them and who wants memory.
const BETWEEN: [&str; 3] = ["__rustc::__rust_alloc", "__rustc::__rust_realloc", "raw_vec"];
/// Allocating functions named in a report.
const NAMED_MAX: usize = 8;

/// The counts of one run.
pub struct Profile {
    instructions: u64,
    /// Calls of the allocator, by the function that calls.
    allocations: HashMap<String, u64>,
}

/// The cost of one turn.
pub struct Cost {
    pub instructions: u64,
    pub allocations: f64,
    /// Who allocates, most first, with the calls of one turn.
    pub allocating: Vec<String>,
}

impl Profile {
    /// Reads a profile. The names of functions are given once, and a number for each.
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let (mut names, mut allocations) = (HashMap::new(), HashMap::new());
        let (mut instructions, mut caller, mut callee) = (None, String::new(), String::new());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                caller = resolve(&mut names, name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = resolve(&mut names, name);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let count: u64 = calls.split(' ').next().unwrap().parse().unwrap();
                if allocates(&callee) && !allocates(&caller) {
                    *allocations.entry(caller.clone()).or_default() += count;
                }
            } else if let Some(total) = line.strip_prefix("totals: ") {
                instructions = Some(total.trim().parse().unwrap());
            }
        }
        assert!(!allocations.is_empty(), "nobody allocates: the allocator's names have changed");
        Self { instructions: instructions.expect("a line with totals"), allocations }
    }

    /// What each of `turns` further turns has cost.
    pub fn since(&self, before: &Self, turns: usize) -> Cost {
        let per_turn = |more: u64, less: u64| (more as f64 - less as f64) / turns as f64;
        let mut allocating: Vec<_> = self
            .allocations
            .iter()
            .map(|(caller, count)| {
                let before = before.allocations.get(caller).copied().unwrap_or_default();
                (per_turn(*count, before), caller)
            })
            .collect();
        allocating.sort_by(|a, b| b.0.total_cmp(&a.0));
        Cost {
            instructions: per_turn(self.instructions, before.instructions).max(0.0) as u64,
            allocations: allocating.iter().map(|(count, _)| count).sum(),
            allocating: allocating
                .iter()
                .filter(|(count, _)| *count > 0.01)
                .take(NAMED_MAX)
                .map(|(count, caller)| format!("{count:8.2} {caller}"))
                .collect(),
        }
    }
}

fn allocates(function: &str) -> bool {
    let gives_back = function.contains("dealloc") || function.contains("drop");
    let between = !gives_back && BETWEEN.iter().any(|part| function.contains(part));
    between || ALLOCATING.contains(&function)
}

fn resolve(names: &mut HashMap<String, String>, text: &str) -> String {
    match text.split_once(' ') {
        Some((number, name)) => {
            names.insert(number.to_owned(), name.to_owned());
            name.to_owned()
        }
        None => names.get(text).cloned().unwrap_or_default(),
    }
}
