//! The parsers, on what pgbench 15 (and 13, where it differs) really prints.

use super::*;

const TPCB_WITH_PROGRESS: &str = "\
pgbench (15.18 (Debian 15.18-0+deb12u1))
progress: 1.0 s, 4260.0 tps, lat 0.806 ms stddev 1.159, 0 failed
progress: 2.0 s, 4788.3 tps, lat 0.831 ms stddev 0.324, 0 failed
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 1
query mode: simple
number of clients: 4
number of threads: 2
maximum number of tries: 1
duration: 2 s
number of transactions actually processed: 9065
number of failed transactions: 0 (0.000%)
latency average = 0.821 ms
latency stddev = 0.832 ms
initial connection time = 136.366 ms
tps = 4849.548963 (without initial connection time)
";

const PREPARED_WITHOUT_PROGRESS: &str = "\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
scaling factor: 1
query mode: prepared
number of clients: 4
number of threads: 2
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 109601
number of failed transactions: 0 (0.000%)
latency average = 0.037 ms
initial connection time = 11.938 ms
tps = 109156.079819 (without initial connection time)
";

const RATE_LIMITED: &str = "\
number of transactions actually processed: 86
number of failed transactions: 0 (0.000%)
number of transactions skipped: 0 (0.000%)
number of transactions above the 1.0 ms latency limit: 2/86 (2.326%)
latency average = 0.450 ms
latency stddev = 1.278 ms
rate limit schedule lag: avg 0.089 (max 0.173) ms
initial connection time = 4.894 ms
tps = 88.215624 (without initial connection time)
";

const SERIALIZATION_FAILURES: &str = "\
progress: 1.0 s, 5127.3 tps, lat 0.335 ms stddev 0.199, 11206 failed
progress: 2.0 s, 5373.8 tps, lat 0.323 ms stddev 0.269, 10927 failed
transaction type: f.sql
number of transactions actually processed: 10513
number of failed transactions: 22133 (67.797%)
latency average = 0.329 ms
latency stddev = 0.241 ms
initial connection time = 16.792 ms
tps = 5268.147875 (without initial connection time)
";

const ALL_ABORTED: &str = "\
pgbench: error: client 0 script 0 aborted in command 0 query 0: ERROR:  column \"nonsense\" does not exist
LINE 1: select nonsense;
               ^
transaction type: g.sql
scaling factor: 1
query mode: simple
number of clients: 2
number of threads: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 0
number of failed transactions: 0 (NaN%)
pgbench: error: Run was aborted; the above results are incomplete.
";

const VERSION_13: &str = "\
starting vacuum...end.
number of transactions actually processed: 12067
latency average = 0.331 ms
latency stddev = 0.100 ms
tps = 6020.412 (including connections establishing)
tps = 6031.987 (excluding connections establishing)
";

#[test]
fn the_report_of_a_run_with_progress() {
    let report = Report::parse(TPCB_WITH_PROGRESS).unwrap();
    let expected = Report {
        tps: 4_849.548_963,
        latency_ms: 0.821,
        latency_stddev_ms: Some(0.832),
        failed: Some(0),
    };
    assert_eq!(report, expected);
}

#[test]
fn without_progress_there_is_no_deviation() {
    let report = Report::parse(PREPARED_WITHOUT_PROGRESS).unwrap();
    assert_eq!((report.latency_ms, report.latency_stddev_ms), (0.037, None));
    assert_eq!(report.tps, 109_156.079_819);
}

#[test]
fn rate_limits_do_not_confuse() {
    let report = Report::parse(RATE_LIMITED).unwrap();
    assert_eq!((report.tps, report.latency_ms, report.failed), (88.215_624, 0.450, Some(0)));
}

#[test]
fn a_number_of_transactions_may_be_of_how_many() {
    let counted = PREPARED_WITHOUT_PROGRESS.replace(": 109601", ": 20/20");
    assert!(Report::parse(&counted).is_ok());
    let none = PREPARED_WITHOUT_PROGRESS.replace(": 109601", ": 0/20");
    assert_eq!(Report::parse(&none), Err(ReportProblem::NothingDone));
}

#[test]
fn failures_are_counted() {
    assert_eq!(Report::parse(SERIALIZATION_FAILURES).unwrap().failed, Some(22_133));
    let other = SERIALIZATION_FAILURES.replace("average =", "average (including failures) =");
    assert_eq!(Report::parse(&other).unwrap().latency_ms, 0.329);
}

#[test]
fn a_run_without_any_transaction_has_no_report() {
    assert_eq!(Report::parse(ALL_ABORTED), Err(ReportProblem::NothingDone));
    assert_eq!(Report::parse(""), Err(ReportProblem::NoLine("tps")));
    assert_eq!(Report::parse("tps = 1.0 (x)\n"), Err(ReportProblem::NoLine("latency average")));
    assert_eq!(
        Report::parse("tps = NaN (x)\nlatency average = 1.0 ms\n"),
        Err(ReportProblem::NoLine("tps"))
    );
}

#[test]
fn before_version_14_the_rate_without_connecting_counts() {
    let report = Report::parse(VERSION_13).unwrap();
    assert_eq!((report.tps, report.failed), (6_031.987, None));
}

#[test]
fn progress_lines_are_recognised() {
    let progress: Vec<Progress> =
        SERIALIZATION_FAILURES.lines().filter_map(Progress::parse).collect();
    let expected = [
        Progress { at_seconds: 1.0, tps: 5127.3, latency_ms: 0.335 },
        Progress { at_seconds: 2.0, tps: 5373.8, latency_ms: 0.323 },
    ];
    assert_eq!(progress, expected);
    // Version 14 says nothing of failures; a second without transactions has no latency.
    let line = "progress: 3.0 s, 88.2 tps, lat 0.450 ms stddev 1.278";
    assert_eq!(Progress::parse(line).map(|progress| progress.tps), Some(88.2));
    let none = "progress: 4.0 s, 0.0 tps, lat NaN ms stddev NaN, 0 failed";
    for line in [none, "progress: ", "tps = 1.0", "progress: 1.0 s, x tps, lat 1 ms", ""] {
        assert_eq!(Progress::parse(line), None, "{line}");
    }
}

#[test]
fn latencies_come_from_the_third_word() {
    let lines = ["0 3 33 0 1795515991 582899", "0 11 failed 0 1795515992 603398", "", "1 2"];
    assert_eq!(lines.map(latency_us), [Some(33), None, None, None]);
}

#[test]
fn the_percentile_is_the_nearest_rank_and_needs_enough_samples() {
    let mut thousand: Vec<u32> = (1..=1000).rev().collect();
    assert_eq!(percentile_us(&mut thousand, 99), Some(990));
    assert_eq!(percentile_us(&mut thousand, 100), Some(1000));
    assert_eq!(percentile_us(&mut thousand[..SAMPLES_MIN - 1], 99), None);
}
