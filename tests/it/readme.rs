//! What the README shows must work: its configuration is one that pgbaton accepts.

use std::fs;

use crate::support::pgbaton::run_to_end;

const README: &str = include_str!("../../README.md");

/// The contents of the README's fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let starts = README.split(fence.as_str()).skip(1);
    starts.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_configurations_shown_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let shown = blocks("toml");
    assert!(!shown.is_empty(), "the README shows no configuration");
    for text in shown {
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let output = run_to_end(&["check", "--config", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{said}");
        assert!(!said.contains("WARN"), "{text}\n{said}");
    }
}

#[test]
fn the_two_commands_are_shown() {
    let shown = blocks("sh").concat();
    for command in ["./dev demo", "./dev test"] {
        assert!(shown.contains(command), "{command}");
    }
}
