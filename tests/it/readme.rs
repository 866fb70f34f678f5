//! What the README shows must work: its configuration is one that pgbaton accepts.

use std::fs;

use crate::support::pgbaton::{Config, Pgbaton, run_to_end};

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

/// As root, as on a fresh container, and as anybody else.
#[test]
fn the_configuration_shown_starts_whoever_we_are() {
    let config = Config::new();
    let port = config.port().to_string();
    let environment =
        [("PGBATON_LISTEN_ADDR", "127.0.0.1"), ("PGBATON_LISTEN_PORT", port.as_str())];
    let shown = blocks("toml");
    let text = shown.iter().find(|text| text.contains("[general]")).expect("one of them is whole");
    let mut pgbaton = Pgbaton::start_text(text, &config, &environment);
    // The socket is open a moment before the line is written.
    pgbaton.wait_for_log("pgbaton is ready");
    // In order, so that it takes its socket file in /tmp away with it.
    assert_eq!(pgbaton.stop().code(), Some(0));
}

#[test]
fn the_two_commands_are_shown() {
    let shown = blocks("sh").concat();
    for command in ["./dev demo", "./dev test"] {
        assert!(shown.contains(command), "{command}");
    }
}
