//! Logs on standard error, as text or as one JSON object a line.
//!
//! The lines of a session are written by the session, once, at its end; the relay writes none.

use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{LogFormat, LogLevel};

/// The process has one log, as it has one standard error; a reload changes its level here.
static LEVEL: OnceLock<Handle<LevelFilter, Registry>> = OnceLock::new();

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LogsError(#[from] TryInitError);

/// Starts logging.
///
/// # Errors
/// If it has been started before.
pub fn init(format: LogFormat, level: LogLevel) -> Result<(), LogsError> {
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => {
            Box::new(fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false))
        }
        LogFormat::Json => Box::new(
            fmt::layer().json().flatten_event(true).with_target(false).with_writer(std::io::stderr),
        ),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    let _ = LEVEL.set(handle);
    Ok(())
}

/// Text for a line of the log: what a peer has sent cannot begin a line of its own.
#[must_use]
pub fn one_line(text: &impl std::fmt::Display) -> String {
    let text = text.to_string();
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escaped).collect()
}

/// Changes the level.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // It fails only if the subscriber is gone, and with it the logs.
        let _ = handle.modify(|filter| *filter = level_filter(level));
    }
}

const fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}
