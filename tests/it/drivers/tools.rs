//! The drivers and what runs them, as `./dev setup` has put them in place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use pgbaton::cli::throwaway::Installation;

use crate::support::skips;

/// Where Debian's package, and others, put pgjdbc.
const JDBC_JARS: [&str; 3] = [
    "/usr/share/java/postgresql.jar",
    "/usr/share/java/postgresql-jdbc.jar",
    "/usr/share/java/postgresql-jdbc/postgresql.jar",
];

/// The tool, or `None` once the test `test` was reported as skipped.
pub fn or_skip<T>(test: &str, tool: Result<T, String>) -> Option<T> {
    skips::or_skip(&format!("drivers::{test}"), tool)
}

/// The folder that `./dev setup` fills.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder").join("drivers")
}

/// The folder with the exercises.
pub fn exercises() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers")
}

/// Runs a command; what it said if it fails.
fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.output();
    let output = output.map_err(|e| format!("{} cannot run: {e}", command_name(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ");
    Err(format!("{} says: {said}", command_name(command)))
}

fn command_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A Python that has `module`.
pub fn python(module: &str) -> Result<PathBuf, String> {
    let python = folder().join("venv/bin/python");
    succeeds(Command::new(&python).args(["-c", &format!("import {module}")]))?;
    Ok(python)
}

/// Node.js, and the folder whose node_modules has the drivers.
pub fn node() -> Result<(PathBuf, PathBuf), String> {
    let node = in_path("node").or_else(|_| in_path("nodejs"))?;
    let modules = folder().join("node");
    for module in ["pg", "pg-cursor", "pg-copy-streams"] {
        let package = modules.join("node_modules").join(module).join("package.json");
        if !package.is_file() {
            return Err(format!("there is no {}", package.display()));
        }
    }
    Ok((node, modules))
}

/// Java, and the class path of the compiled exercise.
pub fn jdbc() -> Result<(PathBuf, String), String> {
    static COMPILED: OnceLock<Result<String, String>> = OnceLock::new();
    let java = in_path("java")?;
    let class_path = COMPILED.get_or_init(compile).clone()?;
    Ok((java, class_path))
}

/// Once for all tests: to have each run compile it would take longer than the runs.
fn compile() -> Result<String, String> {
    let jar = JDBC_JARS.into_iter().find(|jar| Path::new(jar).is_file());
    let jar = jar.ok_or_else(|| format!("pgjdbc is in none of {JDBC_JARS:?}"))?;
    let javac = in_path("javac")?;
    let classes = folder().join("classes");
    std::fs::create_dir_all(&classes).map_err(|e| format!("{}: {e}", classes.display()))?;
    // What does not compile is a mistake in this project, not a missing tool.
    let source = exercises().join("Jdbc.java");
    let mut command = Command::new(javac);
    command.args(["-nowarn", "-encoding", "UTF-8", "-cp", jar, "-d"]).arg(&classes).arg(source);
    succeeds(&mut command).unwrap_or_else(|e| panic!("{e}"));
    Ok(format!("{}:{jar}", classes.display()))
}

/// PostgreSQL's own client, without which no test could run at all.
pub fn psql() -> PathBuf {
    let installation = Installation::find(None).unwrap_or_else(|e| panic!("{e}"));
    installation.program("psql").unwrap_or_else(|e| panic!("{e}"))
}

/// A program of the search path.
pub fn in_path(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    let found = candidates.find(|path| path.is_file());
    found.ok_or_else(|| format!("{program} is not in the search path"))
}
