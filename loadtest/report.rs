//! The report: Markdown tables and charts out of records. Pure.
//!
//! It knows the names of the numbers and how they are shown, and nothing of how they came about.
//! What failed or was skipped is a row with words in it.

use crate::host::Host;
use crate::plan;
use crate::record::{Record, Summary, summary};
use crate::stats::ratio;
use crate::svg::{Chart, Group};
use crate::{REFERENCE, RELAY};

/// One column of a table.
enum Column {
    /// Title, number, digits behind the point.
    Number(&'static str, &'static str, usize),
    /// Title, number, and the contestant that it is divided by.
    Ratio(&'static str, &'static str, &'static str),
}

use Column::{Number, Ratio};

/// A table: its group, its title, its columns.
struct Table(&'static str, &'static str, &'static [Column]);

const TRANSACTIONS: &[Column] = &[
    Number("tps", "tps", 0),
    Ratio("tps × pgbouncer", "tps", REFERENCE),
    Number("p50 ms", "p50_ms", 2),
    Number("p99 ms", "p99_ms", 2),
    Number("max ms", "max_ms", 1),
    Number("CPU µs/tx", "cpu_us_per_tx", 1),
    Ratio("CPU × pgbouncer", "cpu_us_per_tx", REFERENCE),
    Ratio("CPU × relay", "cpu_us_per_tx", RELAY),
    Number("vol. switches/tx", "voluntary_per_tx", 2),
    Number("invol. switches/tx", "involuntary_per_tx", 2),
    Number("syscalls/tx", "syscalls_per_tx", 2),
    Number("of them errors", "syscall_errors_per_tx", 2),
    Number("pooler cores", "pooler_cores", 2),
    Number("client cores", "client_cores", 2),
    Number("server cores", "server_cores", 2),
    Number("others' cores", "others_cores", 2),
];

const FAIRNESS: &[Column] = &[
    Number("tps", "tps", 0),
    Number("p50 ms", "p50_ms", 2),
    Number("p99 ms", "p99_ms", 2),
    Number("p99/p50", "p99_per_p50", 2),
    Number("max ms", "max_ms", 1),
    Number("slowest client's share of the mean", "slowest_share", 2),
    Number("CPU µs/tx", "cpu_us_per_tx", 1),
    Ratio("CPU × pgbouncer", "cpu_us_per_tx", REFERENCE),
    Ratio("CPU × relay", "cpu_us_per_tx", RELAY),
    Number("pooler cores", "pooler_cores", 2),
    Number("client cores", "client_cores", 2),
    Number("server cores", "server_cores", 2),
    Number("others' cores", "others_cores", 2),
];

const TRANSFER: &[Column] = &[
    Number("MB/s", "mb_per_s", 0),
    Number("MB moved", "transferred_mb", 0),
    Number("CPU s/GB", "cpu_s_per_gb", 3),
    Ratio("CPU × pgbouncer", "cpu_s_per_gb", REFERENCE),
    Ratio("CPU × relay", "cpu_s_per_gb", RELAY),
    Number("pooler cores", "pooler_cores", 2),
    Number("client cores", "client_cores", 2),
    Number("server cores", "server_cores", 2),
    Number("others' cores", "others_cores", 2),
];

const TABLES: &[Table] = &[
    Table(plan::SELECT, "One SELECT by key, pool of 16", TRANSACTIONS),
    Table(plan::TPCB, "TPC-B-like transactions, 32 clients, pool of 16", TRANSACTIONS),
    Table(plan::RECONNECT, "A new connection for each transaction, 8 clients", TRANSACTIONS),
    Table(plan::TIGHT, "A tight pool: 200 clients, 4 servers", FAIRNESS),
    Table(plan::BULK, "Large transfers, one client", TRANSFER),
    Table(
        plan::IDLE,
        "Idle clients: resident memory",
        &[
            Number("RSS MB", "rss_mb", 1),
            Number("bytes each", "bytes_each", 0),
            Ratio("× pgbouncer", "bytes_each", REFERENCE),
            Number("RSS MB, each has queried", "queried_rss_mb", 1),
            Number("bytes each, each has queried", "queried_bytes_each", 0),
            Ratio("× pgbouncer, each has queried", "queried_bytes_each", REFERENCE),
        ],
    ),
    Table(
        plan::BURST,
        "A crowd that came and went: resident memory",
        &[
            Number("before MB", "before_mb", 1),
            Number("peak MB", "peak_mb", 1),
            Number("after MB", "after_mb", 1),
            Number("kept MB", "kept_mb", 1),
        ],
    ),
];

/// All that a report is made of.
pub struct Report<'a> {
    pub host: &'a Host,
    /// As it could be typed again.
    pub command: &'a str,
    /// Rounds, seconds and so on, in words.
    pub amounts: &'a str,
    pub postgres: &'a str,
    /// Name, version, note.
    pub contestants: &'a [(String, String, String)],
    pub records: &'a [Record],
    /// What readers must know: what was skipped, what went wrong.
    pub warnings: &'a [String],
}

impl Report<'_> {
    /// The whole of it.
    pub fn markdown(&self) -> String {
        let mut text = self.head();
        for Table(group, title, columns) in TABLES {
            let cells = self.cells(group);
            if !cells.is_empty() {
                text.push_str(&format!("\n## {title}\n\n{}", self.table(&cells, columns)));
                text.push_str(&self.bottlenecks(&cells));
            }
        }
        text.push_str(&self.calls());
        text
    }

    fn head(&self) -> String {
        let Host { cores, cpu_model, kernel, memory_gb, load_average, date, commit } = self.host;
        let mut text = format!(
            "# Load test of {date}\n\n\
             | | |\n|---|---|\n\
             | machine | {cores} cores, {cpu_model}, {memory_gb} GB, Linux {kernel} |\n\
             | load average before | {load_average} |\n\
             | commit | {commit} |\n\
             | command | `{}` |\n\
             | amounts | {} |\n\
             | PostgreSQL | {} |\n",
            self.command, self.amounts, self.postgres
        );
        for (name, version, note) in self.contestants {
            text.push_str(&format!("| {name} | {version}: {note} |\n"));
        }
        text.push_str(
            "\nMedians of the rounds. Client, PostgreSQL and pooler share the machine: tps tell of all \
             of them together, CPU per transaction of the pooler alone.\n",
        );
        for warning in self.warnings {
            text.push_str(&format!("\n**{warning}**\n"));
        }
        text
    }

    /// The names of a group's cells, in the order in which they were measured.
    fn cells(&self, group: &str) -> Vec<&str> {
        let mut cells: Vec<&str> = Vec::new();
        for record in self.records.iter().filter(|record| record.group == group) {
            if !cells.contains(&record.cell.as_str()) {
                cells.push(&record.cell);
            }
        }
        cells
    }

    fn summary(&self, cell: &str, contestant: &str) -> Option<Summary> {
        summary(self.records, cell, contestant)
    }

    fn median(&self, cell: &str, contestant: &str, metric: &str) -> Option<f64> {
        self.summary(cell, contestant)?.median(metric)
    }

    fn table(&self, cells: &[&str], columns: &[Column]) -> String {
        let titles = columns.iter().map(|column| match column {
            Number(title, ..) | Ratio(title, ..) => *title,
        });
        let head: Vec<&str> = ["cell", "contestant"].into_iter().chain(titles).collect();
        let mut text = row(&head);
        text.push_str(&format!("|---|---|{}\n", "---:|".repeat(columns.len())));
        for cell in cells {
            for (contestant, ..) in self.contestants {
                let Some(summary) = self.summary(cell, contestant) else { continue };
                let mut words = vec![(*cell).to_owned(), contestant.clone()];
                words.extend(self.values(cell, &summary, columns));
                words.resize(columns.len() + 2, String::new());
                text.push_str(&row(&words.iter().map(String::as_str).collect::<Vec<_>>()));
            }
        }
        text
    }

    fn values(&self, cell: &str, summary: &Summary, columns: &[Column]) -> Vec<String> {
        let value = |column: &Column| match *column {
            Number(_, metric, digits) => shown(summary.median(metric), digits),
            Ratio(_, metric, base) => {
                shown(ratio(summary.median(metric), self.median(cell, base, metric)), 2)
            }
        };
        match summary {
            Summary::Medians(_) => columns.iter().map(value).collect(),
            Summary::Failed { failed, rounds, why } => {
                vec![format!("**failed** ({failed} of {rounds} rounds): {}", one_line(why))]
            }
            Summary::Skipped(why) => vec![format!("skipped: {}", one_line(why))],
        }
    }

    /// Where the machine or the client was at its end, so that tps are no property of the pooler.
    fn bottlenecks(&self, cells: &[&str]) -> String {
        const FULL: f64 = 0.9;
        let cores = self.host.cores as f64;
        let (mut full, mut rows) = (Vec::new(), 0);
        for cell in cells {
            for (contestant, ..) in self.contestants {
                let part = |metric| self.median(cell, contestant, metric);
                let Some((client, server)) = part("client_cores").zip(part("server_cores")) else {
                    continue;
                };
                rows += 1;
                let others = ["pooler_cores", "others_cores"].map(|m| part(m).unwrap_or(0.0));
                if client + server + others.iter().sum::<f64>() >= FULL * cores {
                    full.push(format!("{cell} with {contestant}"));
                }
            }
        }
        let full = match full.len() {
            0 => return String::new(),
            all if all == rows => "all of these".to_owned(),
            _ => full.join(", "),
        };
        format!(
            "\nThe machine was full ({:.0} % of it or more was taken by client, PostgreSQL, pooler and \
             whoever else), so tps and latencies are bounded by all of them together, in: {}.\n",
            FULL * 100.0,
            full
        )
    }

    /// The system calls by name.
    fn calls(&self) -> String {
        const PREFIX: &str = "syscalls_per_tx.";
        const SHOWN_MIN: f64 = 0.01;
        let mut lines = String::new();
        for group in [plan::SELECT, plan::TPCB] {
            for cell in self.cells(group) {
                for (contestant, ..) in self.contestants {
                    let Some(Summary::Medians(metrics)) = self.summary(cell, contestant) else {
                        continue;
                    };
                    let mut calls: Vec<(&str, f64)> = metrics
                        .iter()
                        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, *value)))
                        .filter(|(_, value)| *value >= SHOWN_MIN)
                        .collect();
                    calls.sort_by(|a, b| b.1.total_cmp(&a.1));
                    let words: Vec<String> =
                        calls.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
                    if !words.is_empty() {
                        lines.push_str(&row(&[cell, contestant, &words.join(", ")]));
                    }
                }
            }
        }
        if lines.is_empty() {
            return lines;
        }
        format!(
            "\n## System calls per transaction, by name\n\nFrom runs under strace, which are not in the \
             other figures.\n\n| cell | contestant | calls |\n|---|---|---|\n{lines}"
        )
    }

    /// File names and charts: processor time by cell, latencies of the tight pool.
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let groups = [plan::SELECT, plan::TPCB, plan::RECONNECT];
        let cells: Vec<&str> = groups.iter().flat_map(|group| self.cells(group)).collect();
        let cpu = cells.iter().map(|cell| self.bars(cell, cell, "cpu_us_per_tx")).collect();
        let tight = self.cells(plan::TIGHT);
        let latency = tight.iter().flat_map(|cell| {
            [("p50", "p50_ms"), ("p99", "p99_ms")]
                .map(|(name, metric)| self.bars(cell, &format!("{cell} {name}"), metric))
        });
        let charts = [
            ("cpu.svg", "Pooler CPU per transaction", "µs", cpu),
            ("tight.svg", "Latency on a tight pool", "ms", latency.collect::<Vec<_>>()),
        ];
        let series: Vec<String> = self.contestants.iter().map(|(name, ..)| name.clone()).collect();
        charts
            .into_iter()
            .filter(|(.., groups)| !groups.is_empty())
            .map(|(file, title, unit, groups)| {
                let title = format!("{title}, {}", self.host.date);
                (file, Chart { title, unit, series: series.clone(), groups })
            })
            .collect()
    }

    fn bars(&self, cell: &str, label: &str, metric: &str) -> Group {
        let values = self.contestants.iter().map(|(name, ..)| self.median(cell, name, metric));
        Group { label: label.to_owned(), values: values.collect() }
    }
}

fn row(words: &[&str]) -> String {
    format!("| {} |\n", words.join(" | "))
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Fit for a cell of a table.
fn one_line(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").chars().take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Metrics, Outcome};

    fn host() -> Host {
        Host {
            cores: 2,
            cpu_model: "A CPU".to_owned(),
            kernel: "6.1".to_owned(),
            memory_gb: 8,
            load_average: "0.10".to_owned(),
            date: "2031-02-03T04:05:06Z".to_owned(),
            commit: "abc".to_owned(),
        }
    }

    fn record(contestant: &str, outcome: Outcome) -> Record {
        let (cell, contestant) = ("select/simple/8".to_owned(), contestant.to_owned());
        Record { cell, group: plan::SELECT, contestant, round: 1, outcome }
    }

    fn measured(cpu: f64, cores: f64) -> Outcome {
        let metrics = [("tps", 1000.0), ("cpu_us_per_tx", cpu), ("pooler_cores", 0.4)];
        let more =
            [("client_cores", cores), ("server_cores", cores), ("syscalls_per_tx.recvfrom", 2.0)];
        let named = metrics.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value));
        Outcome::Measured(named.collect::<Metrics>())
    }

    fn report(records: &[Record]) -> (String, Vec<(&'static str, Chart)>) {
        let names = ["relay", "pgbouncer", "new", "broken", "lacking"];
        let contestants = names.map(|name| (name.to_owned(), "1".to_owned(), "a note".to_owned()));
        let report = Report {
            host: &host(),
            command: "./dev bench load",
            amounts: "1 round",
            postgres: "15",
            contestants: &contestants,
            records,
            warnings: &["no strace".to_owned()],
        };
        (report.markdown(), report.charts())
    }

    fn records() -> Vec<Record> {
        vec![
            record("relay", measured(10.0, 0.1)),
            record("pgbouncer", measured(20.0, 0.1)),
            record("new", measured(15.0, 0.8)),
            record("broken", Outcome::Failed("it | said\nno".to_owned())),
            record("lacking", Outcome::Skipped("lacks prepared".to_owned())),
        ]
    }

    #[test]
    fn rows_have_numbers_ratios_or_words() {
        let (text, _) = report(&records());
        let row = |name: &str| {
            let start = format!("| select/simple/8 | {name} | ");
            text.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
        };
        // CPU, x pgbouncer, x relay.
        assert!(row("new").contains("| 15.0 | 0.75 | 1.50 |"), "{}", row("new"));
        assert!(row("pgbouncer").contains("| 20.0 | 1.00 | 2.00 |"));
        assert!(row("broken").contains("**failed** (1 of 1 rounds): it \\| said no |"));
        assert!(row("lacking").contains("skipped: lacks prepared"));
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert_eq!(columns(&row("broken")), columns(&row("new")));
        assert!(text.contains("**no strace**") && text.contains("A CPU"));
        assert!(text.contains("| select/simple/8 | new | recvfrom 2.00 |"));
    }

    #[test]
    fn a_full_machine_is_told_for_the_rows_that_filled_it() {
        let (text, _) = report(&records());
        let note = text.lines().find(|line| line.starts_with("The machine was full")).unwrap();
        assert!(note.ends_with("in: select/simple/8 with new."), "{note}");
        let (text, _) = report(&records()[..2]);
        assert!(!text.contains("The machine was full"));
        let (text, _) = report(&records()[2..]);
        assert!(text.contains("all of them together, in: all of these."));
    }

    #[test]
    fn charts_leave_out_what_has_no_number() {
        let (_, charts) = report(&records());
        let [(file, chart)] = charts.as_slice() else { panic!("{charts:?}") };
        assert_eq!(*file, "cpu.svg");
        let values = [Some(10.0), Some(20.0), Some(15.0), None, None];
        assert_eq!(chart.groups[0].values, values);
    }
}
