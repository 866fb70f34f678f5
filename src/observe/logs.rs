//! Logs on standard error and in a file, as text or as one JSON object a line.
//!
//! The lines of a session are written by the session, once, at its end; the relay writes none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::text;
use crate::config::{LogFormat, LogLevel};

/// The process has one log, as it has one standard error; a reload changes its level here.
static LEVEL: OnceLock<Handle<LevelFilter, Registry>> = OnceLock::new();

/// The file beside standard error, if one is configured; a reload opens it anew here.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// They have been set up before.
    #[error(transparent)]
    Again(#[from] TryInitError),
    /// The file cannot be opened.
    #[error("cannot open logfile {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Starts logging.
///
/// # Errors
/// If the file cannot be opened, or logging has been started before.
pub fn init(format: LogFormat, level: LogLevel, file: Option<&Path>) -> Result<(), LogsError> {
    if let Some(path) = file {
        let opened = LogFile::open(path)
            .map_err(|source| LogsError::File { path: path.to_owned(), source })?;
        let _ = FILE.set(opened);
    }
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => Box::new(
            fmt::layer()
                .with_timer(text::Utc)
                .fmt_fields(text::Fields)
                .with_writer(|| Sink)
                .with_target(false)
                .with_ansi(false),
        ),
        LogFormat::Json => Box::new(
            fmt::layer()
                .json()
                .with_timer(text::Utc)
                .flatten_event(true)
                .with_target(false)
                .with_writer(|| Sink),
        ),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    let _ = LEVEL.set(handle);
    Ok(())
}

/// Opens the file anew, for those who move it away. Until that succeeds the old one goes on.
pub fn reopen() {
    let Some(log) = FILE.get() else {
        return;
    };
    match open(&log.path) {
        Ok(file) => log.file.store(Arc::new(file)),
        Err(e) => tracing::error!("cannot open logfile {} anew: {e}", log.path.display()),
    }
}

struct LogFile {
    path: PathBuf,
    file: ArcSwap<File>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: ArcSwap::from_pointee(open(path)?) })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Where lines go. A line that cannot be written in one place is still written in the other.
struct Sink;

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = io::stderr().write_all(line);
        match FILE.get() {
            Some(log) => (&**log.file.load()).write_all(line)?,
            None => shown?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
