//! Tests of the configuration as a whole, by topic.
//!
//! They go through `parse` and `load` like the rest of pgbaton, so that they hold for any way
//! the inside is built.

mod auth_file;
mod bless;
mod changes;
mod docs;
mod environment;
mod messages;
mod precedence;
mod robust;
mod set;
mod tls;
mod values;
mod warnings;

use super::{Config, ConfigError, Loaded, parse};

fn no_env(_: &str) -> Option<String> {
    None
}

fn loaded(text: &str) -> Loaded {
    parse(text, "config.toml", &no_env).unwrap_or_else(|error| panic!("{error}"))
}

fn config(text: &str) -> Config {
    loaded(text).config.as_ref().clone()
}

fn error(text: &str) -> ConfigError {
    parse(text, "config.toml", &no_env).expect_err(text)
}

/// The lines of the error of a bad text.
fn errors(text: &str) -> Vec<String> {
    error(text).to_string().lines().map(str::to_owned).collect()
}
