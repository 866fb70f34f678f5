//! What a run came to, kept as it was: each round is a record, and each record a line of JSON.
//!
//! It must not know how anything is measured. A failed round has no numbers, and a contestant with a
//! failed round has none for that cell.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::stats;

/// Numbers by name; the names are those of [`report`](crate::report)'s columns.
pub type Metrics = BTreeMap<String, f64>;

/// How a round went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Measured(Metrics),
    /// Errors, failed transactions, or no answer.
    Failed(String),
    /// Not tried, because the contestant or the machine lacks something.
    Skipped(String),
}

/// One round of one cell with one contestant.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub cell: String,
    pub group: &'static str,
    pub contestant: String,
    /// From 1; 0 is what was done beside the rounds: a start, or the counting of system calls.
    pub round: u32,
    pub outcome: Outcome,
}

impl Record {
    /// One line of JSON, without its end.
    pub fn to_json(&self) -> String {
        let (outcome, detail) = match &self.outcome {
            Outcome::Measured(metrics) => ("measured", json!(metrics)),
            Outcome::Failed(why) => ("failed", Value::from(why.as_str())),
            Outcome::Skipped(why) => ("skipped", Value::from(why.as_str())),
        };
        json!({
            "group": self.group, "cell": self.cell, "contestant": self.contestant,
            "round": self.round, "outcome": outcome, outcome: detail,
        })
        .to_string()
    }
}

/// All rounds of one cell with one contestant, as one.
#[derive(Debug, Clone, PartialEq)]
pub enum Summary {
    /// The median of each number.
    Medians(Metrics),
    /// How many of how many rounds failed, and why the first did.
    Failed {
        failed: usize,
        rounds: usize,
        why: String,
    },
    Skipped(String),
}

impl Summary {
    /// The median named `metric`, if all went well.
    pub fn median(&self, metric: &str) -> Option<f64> {
        match self {
            Self::Medians(metrics) => metrics.get(metric).copied(),
            _ => None,
        }
    }
}

/// Sums up what there is of one cell and one contestant; none if there is nothing.
pub fn summary(records: &[Record], cell: &str, contestant: &str) -> Option<Summary> {
    let own = || records.iter().filter(|r| r.cell == cell && r.contestant == contestant);
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut failures, mut skipped) = (Vec::new(), None);
    for record in own() {
        match &record.outcome {
            Outcome::Failed(why) => failures.push(why),
            Outcome::Skipped(why) => skipped = Some(why.clone()),
            Outcome::Measured(metrics) => {
                for (name, value) in metrics {
                    values.entry(name).or_default().push(*value);
                }
            }
        }
    }
    if let Some(why) = failures.first() {
        let failed = failures.len();
        let rounds = own().filter(|record| record.round > 0).count().max(failed);
        return Some(Summary::Failed { failed, rounds, why: (*why).clone() });
    }
    if values.is_empty() {
        return skipped.map(Summary::Skipped);
    }
    let medians = values
        .iter()
        .filter_map(|(name, all)| stats::median(all).map(|median| ((*name).to_owned(), median)));
    Some(Summary::Medians(medians.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(contestant: &str, round: u32, outcome: Outcome) -> Record {
        let (cell, contestant) = ("select/simple/8".to_owned(), contestant.to_owned());
        Record { cell, group: "select", contestant, round, outcome }
    }

    fn measured(tps: f64) -> Outcome {
        Outcome::Measured(Metrics::from([("tps".to_owned(), tps)]))
    }

    #[test]
    fn rounds_become_medians_of_their_own_cell_and_contestant() {
        let records = [
            record("a", 1, measured(1.0)),
            record("a", 2, measured(9.0)),
            record("b", 1, measured(1000.0)),
            record("a", 3, measured(2.0)),
        ];
        let summary = summary(&records, "select/simple/8", "a").unwrap();
        assert_eq!(summary.median("tps"), Some(2.0));
        assert_eq!(summary.median("other"), None);
        assert_eq!(super::summary(&records, "select/simple/8", "c"), None);
    }

    #[test]
    fn one_failed_round_leaves_no_numbers() {
        let records = [
            record("a", 1, measured(1.0)),
            record("a", 2, Outcome::Failed("it broke".to_owned())),
            record("a", 3, measured(1.0)),
            record("a", 0, measured(1.0)),
        ];
        let summary = summary(&records, "select/simple/8", "a").unwrap();
        let why = "it broke".to_owned();
        assert_eq!(summary, Summary::Failed { failed: 1, rounds: 3, why });
        assert_eq!(summary.median("tps"), None);
    }

    #[test]
    fn a_line_of_json_tells_what_happened() {
        let line = record("a", 2, measured(1.5)).to_json();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["measured"]["tps"], 1.5);
        assert_eq!((&value["round"], &value["cell"]), (&json!(2), &json!("select/simple/8")));
        let line = record("a", 1, Outcome::Skipped("no TLS".to_owned())).to_json();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["outcome"], &value["skipped"]), (&json!("skipped"), &json!("no TLS")));
        assert!(!line.contains('\n'));
    }
}
