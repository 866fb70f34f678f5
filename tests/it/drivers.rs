//! Real clients at work: each driver does its exercise (tests/drivers) straight at PostgreSQL and
//! through pgbaton, with the driver's own settings, and must see no difference.

mod exercise;
mod psql;
mod tokio_postgres;
mod tools;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use exercise::{Gap, Place, Said, Way, assert_crowded, assert_prepared, compare};
use tools::or_skip;

// What pgbaton does not do yet as PostgreSQL does: the step, and the ways that leave it out. An entry
// goes when pgbaton is mended.

/// Once a statement's result has changed, a server refuses its copy of the statement for ever: the
/// client's Close, or another name for the same text, brings no new Parse.
const STALE_PLAN: Gap = ("a_table_that_changes", SHARED);
/// RESET ALL goes back to the server's default, not to what the startup packet asked for.
const RESET: Gap = ("reset_all", POOLED);
/// Settings that the server does not report neither stay with their client nor away from others.
const UNREPORTED_SETTINGS: Gap = ("isolation_and_schema", SHARED);

const POOLED: &[Way] = &[Way::Transaction, Way::Session];
const SHARED: &[Way] = &[Way::Transaction];

const PSYCOPG: &str = "parameters types prepared_by_itself more_statements_than_kept \
    deallocate_all transactions error_inside_a_transaction error_of_a_prepared_statement violations \
    notices named_cursor copy copy_that_fails pipeline pipeline_with_an_error execute_many \
    several_statements_at_once large_values cancel statement_timeout settings autocommit \
    isolation_and_read_only a_table_that_changes bad_logins connections_in_a_row crowd";
const ASYNCPG: &str = "parameters client_encoding types types_of_the_database_itself \
    prepared_by_itself prepared_by_hand more_statements_than_kept transactions \
    error_of_a_prepared_statement violations notices cursors copy execute_many \
    several_statements_at_once large_values timeout_and_cancel statement_timeout settings \
    a_table_that_changes pool_of_its_own reset_all connections_in_a_row crowd";
const NODE: &str = "parameters parameters_at_the_start timeouts_at_the_start types \
    named_statements many_named_statements transactions error_of_a_prepared_statement violations \
    notices rows_in_parts cursors copying several_statements_at_once pipelined large_values cancel \
    settings a_table_that_changes connections_in_a_row crowd pool_of_its_own";
const JDBC: &str = "parameters date_style parameters_at_the_start types prepared_by_itself \
    more_statements_than_kept described_first transactions isolation_and_schema \
    error_of_a_prepared_statement violations notices fetch_size cursors_of_sql copy batches \
    several_statements_at_once functions_and_procedures updatable_result metadata large_values \
    cancel large_objects settings autosave a_table_that_changes deallocate_all connections_in_a_row \
    crowd";

/// Runs a script of tests/drivers.
fn run_script(place: &Place, program: &Path, script: &str, environment: &[(&str, &str)]) -> String {
    let script = OsString::from(tools::exercises().join(script));
    place.run(program, &[script], environment)
}

fn psycopg(python: &Path, environment: &[(&str, &str)], gaps: &[Gap]) {
    let said = compare(PSYCOPG, gaps, |place| {
        run_script(place, python, "psycopg_exercise.py", environment)
    });
    assert_crowded(&said);
    assert_prepared(&said, true);
}

#[test]
fn psycopg_sees_no_difference() {
    let Some(python) = or_skip("psycopg_sees_no_difference", tools::python("psycopg")) else {
        return;
    };
    psycopg(&python, &[("PSYCOPG_IMPL", "binary")], &[]);
}

#[test]
fn psycopg_under_tls_sees_no_difference() {
    let Some(python) = or_skip("psycopg_under_tls_sees_no_difference", tools::python("psycopg"))
    else {
        return;
    };
    let said = compare(PSYCOPG, &[], |place| {
        let mode = if place.way == Way::Direct { "disable" } else { "require" };
        let environment = [("PSYCOPG_IMPL", "binary"), ("PGSSLMODE", mode)];
        let said = run_script(place, &python, "psycopg_exercise.py", &environment);
        let logins = place.stage.pgbaton.log().matches("tls=\"TLSv1.").count();
        assert_eq!(logins > 0, place.way != Way::Direct, "{:?}", place.way);
        said
    });
    assert_crowded(&said);
    assert_prepared(&said, true);
}

#[test]
fn psycopg_with_the_systems_libpq_sees_no_difference() {
    let test = "psycopg_with_the_systems_libpq_sees_no_difference";
    let Some(python) = or_skip(test, tools::python("psycopg")) else {
        return;
    };
    psycopg(&python, &[("PSYCOPG_IMPL", "python")], &[]);
}

fn asyncpg(python: &Path, environment: &[(&str, &str)], gaps: &[Gap]) -> [Said; 3] {
    let said = compare(ASYNCPG, gaps, |place| {
        run_script(place, python, "asyncpg_exercise.py", environment)
    });
    assert_crowded(&said);
    said
}

#[test]
fn asyncpg_sees_no_difference() {
    let Some(python) = or_skip("asyncpg_sees_no_difference", tools::python("asyncpg")) else {
        return;
    };
    let said = asyncpg(&python, &[], &[RESET, STALE_PLAN]);
    assert_prepared(&said, true);
}

#[test]
fn asyncpg_without_a_statement_cache_sees_no_difference() {
    let test = "asyncpg_without_a_statement_cache_sees_no_difference";
    let Some(python) = or_skip(test, tools::python("asyncpg")) else {
        return;
    };
    let said = asyncpg(&python, &[("EXERCISE_CACHE", "0")], &[RESET]);
    assert_prepared(&said, false);
}

#[test]
fn node_postgres_sees_no_difference() {
    let Some((node, modules)) = or_skip("node_postgres_sees_no_difference", tools::node()) else {
        return;
    };
    let modules = modules.to_str().expect("a readable path");
    let environment = [("EXERCISE_MODULES", modules), ("NODE_NO_WARNINGS", "1")];
    let said = compare(NODE, &[STALE_PLAN], |place| {
        run_script(place, &node, "node_exercise.mjs", &environment)
    });
    assert_crowded(&said);
    assert_prepared(&said, true);
}

/// `steps` without those that the driver itself cannot do.
fn jdbc(jdbc: &(PathBuf, String), options: &str, cannot: &[&str], gaps: &[Gap]) -> [Said; 3] {
    let (java, class_path) = jdbc;
    let steps = JDBC.split_whitespace().filter(|step| !cannot.contains(step));
    let steps = steps.collect::<Vec<_>>().join(" ");
    // Small and short-lived: what the JVM's defaults are made for would only take time.
    let own = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", class_path, "Jdbc"];
    // The driver reports its time zone in the startup packet: not the server's.
    let cannot = cannot.join(",");
    let environment =
        [("TZ", "Asia/Kolkata"), ("EXERCISE_OPTIONS", options), ("EXERCISE_CANNOT", &cannot)];
    let said =
        compare(&steps, gaps, |place| place.run(java, &own.map(OsString::from), &environment));
    assert_crowded(&said);
    said
}

#[test]
fn jdbc_sees_no_difference() {
    let Some(tool) = or_skip("jdbc_sees_no_difference", tools::jdbc()) else {
        return;
    };
    let said = jdbc(&tool, "", &[], &[UNREPORTED_SETTINGS, STALE_PLAN]);
    assert_prepared(&said, true);
}

#[test]
fn jdbc_that_prepares_at_once_sees_no_difference() {
    let Some(tool) = or_skip("jdbc_that_prepares_at_once_sees_no_difference", tools::jdbc()) else {
        return;
    };
    let gaps = [UNREPORTED_SETTINGS, STALE_PLAN];
    let said = jdbc(&tool, "&prepareThreshold=1", &[], &gaps);
    assert_prepared(&said, true);
}

#[test]
fn jdbc_with_simple_queries_sees_no_difference() {
    let Some(tool) = or_skip("jdbc_with_simple_queries_sees_no_difference", tools::jdbc()) else {
        return;
    };
    let cannot = ["described_first", "functions_and_procedures"];
    let gaps = [UNREPORTED_SETTINGS];
    let said = jdbc(&tool, "&preferQueryMode=simple", &cannot, &gaps);
    assert_prepared(&said, false);
}

#[test]
fn tokio_postgres_sees_no_difference() {
    let said = compare(tokio_postgres::STEPS, &[STALE_PLAN], tokio_postgres::exercise);
    assert_crowded(&said);
    assert_prepared(&said, true);
}
